"The notebooks as the other tools read them: cells, outputs, headings and their anchors."

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"


def cells(path) -> list[dict]:
    "Cells with their source as one text."
    return [
        {**c, "source": "".join(c["source"])}
        for c in json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    ]


def chapters() -> list[Path]:
    return sorted(NBS.glob("[0-9]*.ipynb"))


def title(path) -> str:
    return re.match(r"# (.+)", cells(path)[0]["source"])[1]


def texts(cell):
    "What a code cell shows as text: Markdown where there is some, else plain."
    for o in cell.get("outputs", []):
        data = o.get("data", {})
        yield "".join(data.get("text/markdown") or data.get("text/plain") or o.get("text", ""))


def anchor(heading: str) -> str:
    "The identifier Quarto gives to a heading."
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    text = re.sub(r"[^\w\s.-]", "", text).strip().lower()
    return re.sub(r"^[\W\d_]+", "", re.sub(r"\s+", "-", text)) or "section"


def headings(path) -> list[tuple]:  # (cell id, level, text)
    "Headings of the text cells, without what looks like one in a code fence."
    found = []
    for c in cells(path):
        if c["cell_type"] == "markdown":
            found += [
                (c["id"], len(m[1]), m[2].strip())
                for m in re.finditer(
                    r"^(#+) (.+)$", re.sub(r"^```.*?^```", "", c["source"], flags=re.M | re.S), re.M
                )
            ]
    return found


def tables(text: str):
    "Markdown tables of a text, each as a list of rows of cells."
    for block in re.findall(r"(?:^\|.*\|[ ]*\n?)+", text, re.M):
        rows = [[x.strip() for x in line.strip()[1:-1].split("|")] for line in block.strip().splitlines()]
        if len(rows) > 1 and set("".join(rows[1])) <= set("-: "):
            yield [rows[0], *rows[2:]]


def markdown_cell(id: str, source: str) -> dict:
    return dict(cell_type="markdown", id=id, metadata={}, source=source.strip().splitlines(keepends=True))


def as_notebook(items: list[dict]) -> str:
    "The file nbdev-clean would leave."
    return (
        json.dumps(
            dict(
                cells=items,
                metadata=dict(kernelspec=dict(display_name="python3", language="python", name="python3")),
                nbformat=4,
                nbformat_minor=5,
            ),
            sort_keys=True,
            indent=1,
            ensure_ascii=False,
        )
        + "\n"
    )


def replaced(path, new: dict[str, str]) -> str:
    "A notebook with other text in some of its cells."
    nb = json.loads(Path(path).read_text(encoding="utf-8"))
    missing = set(new) - {c["id"] for c in nb["cells"]}
    if missing:
        raise SystemExit(f"{path} has no cell {sorted(missing)}")
    for c in nb["cells"]:
        if c["id"] in new:
            c["source"] = new[c["id"]].strip().splitlines(keepends=True)
    return json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def write(made: dict[Path, str]):
    "Write what was made; with --check only compare, and fail when something is stale."
    stale = [
        path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if "--check" in sys.argv:
        if stale:
            sys.exit(f"stale: {', '.join(str(p.relative_to(ROOT)) for p in stale)}; run make readme")
        return
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made[path], encoding="utf-8")
        print(path.relative_to(ROOT))
