"What must hold for the repository itself: clean notebooks, a fresh export, a fresh README, lint and layout."

import ast
import configparser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = [path for folder in ("", "pt/", "api/") for path in sorted(ROOT.glob(f"nbs/{folder}*.ipynb"))]
CHAPTERS = sorted(ROOT.glob("nbs/[0-9]*.ipynb"))  # the others are pages: home, functions, symptoms, words
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "The notebooks, the package and the settings in a folder of their own."
    there = tmp_path_factory.mktemp("copy")
    for name in ("nbs", "ftguide"):
        shutil.copytree(
            ROOT / name,
            there / name,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "checkpoints"),
        )
    for name in ("pyproject.toml", "settings.ini"):
        shutil.copy(ROOT / name, there / name)
    subprocess.run(["git", "init", "-q"], cwd=there, check=True)
    return there


def test_notebooks_are_clean(copy):
    subprocess.run([BIN / "nbdev-clean"], cwd=copy, check=True, capture_output=True)
    dirty = [
        str(p.relative_to(ROOT))
        for p in NOTEBOOKS
        if p.read_text(encoding="utf-8") != (copy / p.relative_to(ROOT)).read_text(encoding="utf-8")
    ]
    assert not dirty, f"not clean: {dirty}; run nbdev-clean"


def test_export_is_fresh(copy):
    subprocess.run([BIN / "nbdev-export"], cwd=copy, check=True, capture_output=True)
    stale = [
        p.name
        for p in (ROOT / "ftguide").glob("*.py")
        if p.read_text(encoding="utf-8") != (copy / "ftguide" / p.name).read_text(encoding="utf-8")
    ]
    assert {p.name for p in (copy / "ftguide").glob("*.py")} == {
        p.name for p in (ROOT / "ftguide").glob("*.py")
    }
    assert not stale, f"edited by hand or not exported: {stale}; run nbdev-export"


@pytest.mark.parametrize("how", [["check"], ["format", "--check"]], ids=["lint", "layout"])
def test_ruff_is_silent(how):
    done = subprocess.run([BIN / "ruff", *how, "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_readme_is_fresh():
    done = subprocess.run(
        [sys.executable, ROOT / "tools/readme.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "path", NOTEBOOKS, ids=lambda p: p.stem if p.parent.name == "nbs" else f"{p.parent.name}-{p.stem}"
)
def test_chapter_is_complete(path):
    nb = nbformat.read(path, 4)
    nbformat.validate(nb)
    assert re.match(r"# .+\n\n> .+", nb.cells[0].source), "begins with a title and one line"
    ids = [c.id for c in nb.cells]
    assert len(ids) == len(set(ids)) and all(re.fullmatch(r"[a-z0-9-]+", i) for i in ids), (
        "readable, unique cell ids"
    )
    code = [c for c in nb.cells if c.cell_type == "code"]
    assert not [
        c.id
        for c in code
        if re.search(r"^#\|\s*(export|hide|default_exp \S+)\s*$", c.source, re.M)
        and not c.source.startswith("#| default_exp")
    ], "bare directive"
    assert not [
        c.id for c in code for o in c.outputs if o.output_type == "error" or o.get("name") == "stderr"
    ], "stored errors or warnings"
    if path not in CHAPTERS:
        return
    assert any("parameters" in c.metadata.get("tags", []) for c in code), "no cell tagged parameters"
    assert any(c.outputs for c in code), "no stored outputs"
    end = "\n".join(c.source for c in nb.cells[-2:])
    assert "## Exercises" in end or "Check yourself" in end, "ends with questions"
    figures = [c for c in code if any("image/png" in o.get("data", {}) for o in c.outputs)]
    assert not [c.id for c in figures if "#| fig-alt:" not in c.source], "figure without alt text"


def test_links_between_chapters():
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type != "markdown":
                continue
            for target in re.findall(r"\]\(([\w./-]+\.ipynb)(?:#[\w-]+)?\)", cell.source):
                assert (path.parent / target).exists(), f"{path.name}, {cell.id}: no {target}"


def test_every_block_of_code_in_the_text_names_its_language():
    "A site colours it and gives it a button for copying."
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, 4).cells:
            fences = re.findall(r"^```.*$", cell.source if cell.cell_type == "markdown" else "", re.M)
            assert all(re.fullmatch(r"```\w+", fence) for fence in fences[::2]), f"{path.name}, {cell.id}"


def test_the_text_names_no_cell_ids():
    "A page does not show them."
    for path in NOTEBOOKS:
        cells = nbformat.read(path, 4).cells
        ids = {cell.id for cell in cells}
        for cell in cells:
            if cell.cell_type == "markdown":
                named = ids & set(re.findall(r"`([^`\n]+)`", cell.source))
                assert not named, f"{path.name}, {cell.id}"


def test_settings_and_constraints_agree():
    ini = configparser.ConfigParser()
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    assert {"package", "extras", "tiny", "full"} <= set(ini.sections()) and {"serve", "docs", "dev"} <= set(
        ini["extras"]
    )
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    needed = {
        re.split(r"[><=]", need)[0]
        for need in (ini["package"]["requirements"] + ini["extras"]["dev"]).split()
    }
    assert needed <= pinned, f"not in constraints.txt: {sorted(needed - pinned)}"
    stems = {p.stem for p in CHAPTERS}
    for profile in ("tiny", "full"):
        for stem, values in ini[profile].items():
            assert stem in stems
            cell = next(
                c.source
                for c in nbformat.read(ROOT / f"nbs/{stem}.ipynb", 4).cells
                if "parameters" in c.metadata.get("tags", [])
            )
            assert all(re.search(rf"^{key}:", cell, re.M) for key in json.loads(values)), (
                f"{profile}: {stem} has no such parameter"
            )


KINDS = dict(
    int=int, float=(int, float), str=str, bool=bool, list=list, tuple=(list, tuple), dict=dict
)  # JSON has no tuples, and 3 is a number too


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_profiles_give_parameters_of_the_right_type(path):
    "Every parameter says its type; the chapter's own value and those of the profiles have it, in lists too."
    ini = configparser.ConfigParser()
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    cell = next(c.source for c in nbformat.read(path, 4).cells if "parameters" in c.metadata.get("tags", []))
    lines = [n for n in ast.parse(cell).body]
    assert all(isinstance(n, ast.AnnAssign) and n.annotation.id in KINDS for n in lines), (
        "a line of the cell is no typed parameter"
    )
    own = {n.target.id: (n.annotation.id, ast.literal_eval(n.value)) for n in lines}

    def fits(value, kind, like):
        return (
            isinstance(value, KINDS[kind])
            and (kind == "bool") == isinstance(value, bool)
            and (
                kind not in ("list", "tuple")
                or {type(x) for x in value}
                <= {type(x) for x in like} | ({int} if float in map(type, like) else set())
            )
        )

    for source in (
        {k: v for k, (_, v) in own.items()},
        *(json.loads(ini[p].get(path.stem, "{}")) for p in ("tiny", "full")),
    ):
        for key, value in source.items():
            assert fits(value, *own[key]), f"{key} = {value!r} is no {own[key][0]} like {own[key][1]!r}"


SECRETS = {  # none of these may be in a file
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a token": r"\b(?:hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|gh[opsu]_[A-Za-z0-9]{30,}|github_pat_\w{20,}"
    r"|AKIA[0-9A-Z]{16}|xox[baprs]-[\w-]{10,}|eyJ[\w-]{15,}\.eyJ[\w-]{15,})",
    "a password in an address": r"https?://[^\s/@:\"']+:[^\s/@\"']+@",
    "somebody's folder": r"(?:/home/|/Users/|[A-Z]:\\+Users\\+)(?!runner\b|ana\b)[A-Za-z][\w.-]*",
    "a package index": r"(?:extra-)?index[-_]url|https?://[\w.-]*(?:artifactory|nexus|jfrog|devpi)|/simple/",
    "a host of a private network": r"\b(?:192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d+\.\d+\b"
    r"|\b[\w-]+\.(?:internal|corp|lan|intranet)\b",
    "an e-mail address": r"[\w.+-]+@(?!example\.|users\.noreply\.)[\w-]+\.[\w.-]*[a-z]",
}


def test_no_secret_path_or_host_in_any_file():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    here = [re.escape(str(p)) for p in (ROOT, Path(sys.prefix), Path.home()) if len(p.parts) > 2]
    found = []
    for path in filter(Path.is_file, (ROOT / name for name in done.stdout.decode().split("\0") if name)):
        text = path.read_bytes()
        if b"\0" in text[:8000] or path.suffix == ".safetensors" or path == Path(__file__):
            continue
        text = re.sub(r'"image/(?:png|svg\+xml)": *(?:"[^"]*"|\[[^\]]*\])', "", text.decode("utf-8"))
        for what, pattern in {**SECRETS, "this checkout's path": "|".join(here) or r"(?!)"}.items():
            found += [f"{path.relative_to(ROOT)}: {what}: {m[0][:60]}" for m in re.finditer(pattern, text)]
    assert not found, "\n".join(found[:20])


def test_checkpoints_are_small_and_safe():
    files = [p for p in (ROOT / "ftguide/checkpoints").rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 12e6
    assert not [p for p in files if p.suffix not in {".safetensors", ".json", ".jinja", ".md"}]
