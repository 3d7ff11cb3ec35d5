"What a plain `pip install ftguide` brings is enough for everything but the page and the rater."

import configparser
import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
NEED_THE_EXTRA_SERVE = {
    "serving.page",
    "serving.connections",
    "serving.guard",
    "serving.rater",
    "serving.load_test",
}


def requirements() -> set[str]:
    "The distributions that the package asks for, and those that they ask for."
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    waiting = [Requirement(line) for line in settings["package"]["requirements"].split("\n") if line]
    found: dict[str, set[str]] = {}  # distribution -> its extras
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if name in found and one.extras <= found[name]:
            continue
        found[name] = found.get(name, set()) | one.extras
        try:
            theirs = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:  # not for this system
            continue
        for other in theirs:
            if not other.marker or any(other.marker.evaluate({"extra": e}) for e in ("", *one.extras)):
                waiting.append(other)
    return set(found)


IMPORT_ALL = """
import importlib, json, pkgutil, sys
from importlib.machinery import PathFinder

class Installed(PathFinder):
    "Finds what is not refused."

    @classmethod
    def find_spec(cls, name, *where):
        return None if name.partition(".")[0] in refused else super().find_spec(name, *where)

refused = set(json.loads(sys.argv[1]))
sys.meta_path = [Installed if finder is PathFinder else finder for finder in sys.meta_path]
import ftguide

failed = {}
for module in pkgutil.walk_packages(ftguide.__path__, "ftguide."):
    if module.name != "ftguide.__main__":
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            failed[module.name.removeprefix("ftguide.")] = error.name
print(json.dumps(failed))
"""


def test_all_but_the_page_imports_without_extras():
    "In a fresh interpreter that finds nothing but what the package requires."
    asked = requirements()
    refused = [
        name
        for name, made_by in packages_distributions().items()
        if name != "ftguide" and asked.isdisjoint(map(canonicalize_name, made_by))
    ]
    assert {"gradio", "sklearn", "datasketch", "IPython"} <= set(refused)
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, json.dumps(refused)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    failed = json.loads(done.stdout.splitlines()[-1])
    assert failed.keys() <= NEED_THE_EXTRA_SERVE, failed
