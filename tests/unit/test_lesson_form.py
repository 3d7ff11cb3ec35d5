"How lessons of the taught parts are laid out: what comes first, how much is code, how they end."

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("Start", "Ground", "Techniques", "Trust")
SCREEN = 30  # lines
LINE = 100  # characters of prose


def lessons():
    sidebar = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))["website"]["sidebar"]
    for part in sidebar["contents"]:
        if part["section"] in PARTS:
            yield from (ROOT / path for path in part["contents"] if not path.endswith("index.ipynb"))


@pytest.fixture(params=lessons(), ids=lambda path: path.stem)
def cells(request):
    cells = json.loads(request.param.read_text(encoding="utf-8"))["cells"]
    return [dict(cell, source="".join(cell["source"])) for cell in cells]


def directives(source):
    return dict(re.findall(r"^#\|\s*([\w-]+):\s*(.*)$", source, re.M))


def folded(cell):
    return directives(cell["source"]).get("code-fold") == "true" or "default_exp" in cell["source"][:20]


def code(cell):
    return [line for line in cell["source"].splitlines() if line.strip() and not line.startswith("#|")]


def headings(cells):
    return [
        line
        for cell in cells
        if cell["cell_type"] == "markdown"
        for line in cell["source"].splitlines()
        if re.match(r"#{1,2} ", line)
    ]


def figures_of(cell):
    return [
        out for out in cell.get("outputs", []) if any(k.startswith("image/") for k in out.get("data", {}))
    ]


def test_opens_with_a_sentence_and_what_to_do_with_own_data(cells):
    assert re.match(r"# [^\n]+\n\n> [^\n]+\n\n", cells[0]["source"] + "\n\n")
    assert headings(cells)[1] == "## On your own data"


def test_ends_with_three_exercises_papers_and_the_next_lesson(cells):
    text = "\n\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
    assert "## Exercises" in text and "## Read next" in text
    exercises = text.split("## Exercises")[1].split("## Read next")[0]
    assert len(re.findall(r"^\d\. ", exercises, re.M)) == 3
    assert re.search(r"^Next: \[[^]]+\]\([\w/]+\.ipynb", text.split("## Read next")[1], re.M)


def test_is_one_idea_long(cells):
    assert len(cells) <= 72
    long = [
        cell["id"]
        for cell in cells
        if cell["cell_type"] == "code"
        and len(code(cell)) > SCREEN
        and not folded(cell)
        and "export" not in directives(cell["source"])
    ]
    assert not long


def test_figures_are_few_crisp_and_described(cells):
    drawn = [cell for cell in cells if figures_of(cell)]
    assert sum(len(figures_of(cell)) for cell in drawn) <= 4
    for cell in drawn:
        assert {"fig-alt", "fig-cap", "code-fold"} <= set(directives(cell["source"])), cell["id"]
        for out in figures_of(cell):
            crisp = "image/svg+xml" in out["data"] or "width" in out["metadata"].get("image/png", {})
            assert crisp, cell["id"]


def test_half_of_the_page_is_not_code(cells):
    shown, rest = 0, 0
    for cell in cells:
        if cell["cell_type"] == "markdown":
            rest += sum(-(-len(line) // LINE) for line in cell["source"].splitlines() if line.strip())
            continue
        if not folded(cell):
            shown += len(code(cell))
        for out in cell.get("outputs", []):
            text = (
                out.get("text")
                or out.get("data", {}).get("text/markdown")
                or out.get("data", {}).get("text/plain")
            )
            rest += 20 if figures_of(dict(outputs=[out])) else min(20, len("".join(text or "").splitlines()))
    assert shown <= rest, (shown, rest)


def test_imports_and_checks_are_folded(cells):
    def only(cell, starts):
        return all(re.match(starts, line) for line in code(cell) if not line.startswith((" ", ")", "#")))

    for cell in cells:
        parameters = "parameters" in cell["metadata"].get("tags", [])
        if cell["cell_type"] == "code" and code(cell) and not parameters:
            assert folded(cell) or not only(cell, r"import |from |test_|assert |plt = "), cell["id"]
