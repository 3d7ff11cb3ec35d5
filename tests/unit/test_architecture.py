"The house: imports point one way, each module stands where CONTRIBUTING draws it, and code keeps the style."

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ftguide"
MODULES = sorted(
    p for p in PACKAGE.rglob("*.py") if p.name not in ("__init__.py", "__main__.py", "_modidx.py")
)
LAZY = {"cli"}  # a command imports its module when it runs


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


class RunTime(ast.NodeTransformer):
    "Leaves out what only type checkers read."

    def visit_If(self, node: ast.If) -> ast.If | None:
        return None if getattr(node.test, "id", "") == "TYPE_CHECKING" else self.generic_visit(node)


def imports(path: Path) -> set[str]:
    "Modules of this package that a file imports when it runs, at the top or anywhere else."
    known, found = {dotted(p) for p in MODULES}, set()
    package = dotted(path).split(".")[:-1]
    for node in ast.walk(RunTime().visit(ast.parse(path.read_text(encoding="utf-8")))):
        if isinstance(node, ast.ImportFrom):
            base = (node.module or "").split(".") if node.module else []
            if node.level:
                base = [*package[: len(package) - node.level + 1], *base]
            elif base[:1] == ["ftguide"]:
                base = base[1:]
            else:
                continue
            names = [".".join([*base, alias.name]) for alias in node.names]
            found |= {n for n in [".".join(base), *names] if n in known}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("ftguide.") for a in node.names} & known
    return found


GRAPH = {dotted(p): imports(p) for p in MODULES}


def test_imports_make_no_circle():
    TopologicalSorter(GRAPH).prepare()


def test_engine_knows_no_technique():
    "What every stage runs on may use the lesson on models, and no other."
    for name, found in GRAPH.items():
        if name.startswith("engine."):
            assert not {f for f in found if not f.startswith("engine.") and f != "models"}, name


def test_nothing_imports_the_command_line_or_the_report():
    for name, found in GRAPH.items():
        assert not {f for f in found if f == "cli"}, name
        if not name.startswith(("report.", "cli")):
            assert not {f for f in found if f.startswith("report.")}, name


def functions(tree):
    return [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_modules_keep_the_style(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "a module says in one line what it is for"
    for function in functions(tree):
        inner = [n for n in ast.walk(function) if n is not function]
        assert not [n.name for n in inner if isinstance(n, ast.ClassDef)], f"class inside {function.name}"
        if dotted(path) in LAZY:
            continue
        own = [
            n
            for n in inner
            if isinstance(n, ast.ImportFrom) and (n.level or (n.module or "").split(".")[0] == "ftguide")
        ]
        assert not own, f"{function.name} imports from the package"


def test_contributing_draws_the_house():
    "Each module stands in the tree of CONTRIBUTING.md, and each file of the tree exists."
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = re.search(r"```text\nftguide/\n(.*?)```", text, re.S)[1]
    folder, drawn = "", set()
    for inside, name in re.findall(r"^([│ ]   )?[├└]── (\S+)", tree, re.M):
        if name.endswith("/"):
            folder = name
        else:
            drawn.add((folder if inside else "") + name)
    there = {str(path.relative_to(PACKAGE)) for path in MODULES}
    assert drawn == there, f"not drawn: {sorted(there - drawn)}; not there: {sorted(drawn - there)}"


TESTS = ROOT / "tests"
TESTED_IN = {  # modules without a test file of their own
    "engine.callbacks": "train/test_run.py",
    "engine.scoring": "unit/test_models.py",
    "engine.trainers": "train/test_run.py",
    "serving.errors": "unit/test_votes.py",
    "serving.load_test": "system/test_page.py",
    "serving.months": "train/test_improvement.py",
    "tiny": "lessons/test_notebooks.py",
}


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_each_module_has_a_test_file_of_its_name(path):
    "test_x.py, or test_folder_x.py where two modules are called x, in one of the folders of tests."
    name = dotted(path)
    mirrored = {f"test_{path.stem}.py", f"test_{name.replace('.', '_')}.py"}
    found = [p for p in TESTS.glob("*/test_*.py") if p.name in mirrored]
    assert found or (TESTS / TESTED_IN[name]).is_file(), name


def test_no_two_test_files_have_one_name():
    "pytest imports them by name."
    names = [path.stem for path in TESTS.glob("*/*.py")]
    assert len(names) == len(set(names))


def test_module_docstrings_are_short():
    "nbdev lists modules with longer ones in ftguide/__init__.py, and replaces what stands there."
    for path in MODULES:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert len(docstring.strip().splitlines()) <= 3, f"{path}: put the rest in a comment below"
