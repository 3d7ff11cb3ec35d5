"What the README and its Portuguese sister say works: the six lines, every command, flag and make target."

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from book import NBS, cells

import ftguide

ROOT = Path(__file__).resolve().parents[2]

ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
PORTUGUESE = "\n\n".join(c["source"] for c in cells(NBS / "pt/index.ipynb"))
TEXTS = {"README": ENGLISH, "pt": PORTUGUESE}
fences = lambda text, kind: [
    code for of, code in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S) if of == kind
]


def smaller(code: str, sizes: dict) -> str:
    "The same lines on fewer rows; each size must be there to be replaced."
    for large, small in sizes.items():
        assert re.search(rf"\b{large}\b", code), f"no {large} in the six lines"
        code = re.sub(rf"\b{large}\b", str(small), code)
    return code


@pytest.mark.parametrize("language", TEXTS)
def test_six_lines(language, tmp_path):
    (code,) = fences(TEXTS[language], "python")
    assert len([n for n in ast.parse(code).body if not isinstance(n, ast.ImportFrom)]) == 6
    assert max(map(len, code.splitlines())) <= 110
    quick = smaller(code, {1000: 48, 240: 8, 400: 8, 80: 4}).rstrip()
    head, last = quick.rsplit("\n", 1)
    script = f"{head}\nreport = {last}\nprint(type(report).__name__, sorted(report.against))\n"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("Report [") and "conversion" in done.stdout
    assert not list(tmp_path.iterdir()), "the six lines leave nothing behind"


@pytest.fixture(scope="module")
def helps():
    "`--help` of the command and of each of its subcommands."
    script = """
import json, re
from typer.testing import CliRunner
from ftguide.cli import app
ask = lambda *words: CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"}).output
names = [c.name or c.callback.__name__ for c in app.registered_commands]
print(json.dumps({"": ask(), **{n: ask(n) for n in names}}))
"""
    import json

    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("language", TEXTS)
def test_commands_and_flags_exist(language, helps):
    shown = [
        line.split("#")[0] for block in fences(TEXTS[language], "bash") for line in block.splitlines()
    ] + re.findall(r"`([^`\n]+)`", TEXTS[language])
    asked = 0
    for line in shown:
        m = re.match(r"(?:\.venv/bin/)?ftguide(?: ([a-z][\w-]*))?((?: .*)?)$", line.strip())
        if not m or " ftguide && cd" in line:
            continue
        asked += 1
        assert (m[1] or "") in helps, f"no command {m[1]!r}"
        for flag in re.findall(r"(--[\w-]+)", m[2]):
            assert flag in helps[m[1] or ""], f"ftguide {m[1]} has no {flag}"
    assert asked >= 3


@pytest.mark.parametrize("language", TEXTS)
def test_make_targets_exist(language):
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = set(
        re.findall(
            r"\bmake ([a-z]+)\b(?= |`|$)",
            "\n".join(fences(TEXTS[language], "bash") + re.findall(r"`[^`\n]+`", TEXTS[language])),
            re.M,
        )
    )
    assert {"guide", "test", "lab"} <= named <= targets, named - targets


def test_tree_names_what_is_there():
    (tree,) = [b for b in fences(ENGLISH, "text") if b.startswith("nbs/")]
    paths = [line.split()[0] for line in tree.splitlines()]
    assert not [p for p in paths if not (ROOT / p).exists()] and {
        "nbs/",
        "ftguide/",
        "tests/",
        "tools/",
    } <= set(paths)
    last = tree.splitlines()[-1].split(maxsplit=1)[1].replace(",", "").split()
    assert set(last) <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


def test_links_of_the_readme():
    for target in re.findall(r"\]\(([^)#\s]+)", ENGLISH):
        assert re.match(r"\w+:", target) or (ROOT / target).exists(), target


def test_release_checks_what_it_promises():
    done = (
        subprocess.run([sys.executable, ROOT / "tools/release.py"], capture_output=True, text=True)
        if not all(__import__("importlib.util").util.find_spec(m) for m in ("build", "twine"))
        else None
    )
    assert done is None or (done.returncode and "[release]" in done.stderr), "says what to install"
    assert re.search(r"^release =", (ROOT / "settings.ini").read_text(encoding="utf-8"), re.M), (
        "settings.ini has the extra that make release asks for"
    )


def test_versions_agree():
    assert f"\nversion: {ftguide.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {ftguide.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
