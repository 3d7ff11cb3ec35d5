"Comments beside parameters, read from the source."

import sys

import pytest

from ftguide.engine.docments import ModuleSource, docments, fields, parameters, returns_comment

SOURCE = """
from os import path
A, B = 1, 2  # two values
def one(x, y=3): return x  # -> the first
def several(
    rows: list,  # prompt and completion
    *more,  # others
    size: int = 4,  # rows a step
    plain=None,
    **config,  # of the trainer
) -> list:  # as many
    "What it does."
    return rows
class Sizes:
    "Limits."
    few: int = 1  # at least
    many: int | None = None
"""


@pytest.fixture
def source():
    return ModuleSource(SOURCE)


def test_parameters_with_their_comments(source):
    found = parameters(source, source.of("several"))
    assert [p.name for p in found] == ["rows", "*more", "size", "plain", "**config"]
    assert [p.comment for p in found] == [
        "prompt and completion",
        "others",
        "rows a step",
        "",
        "of the trainer",
    ]
    assert next(p.name for p in parameters(source, source.of("several"), skip=1)) == "*more"
    assert [p.comment for p in parameters(source, source.of("one"))] == ["", ""]


def test_what_comes_back(source):
    assert returns_comment(source, source.of("several")) == "as many"
    assert returns_comment(source, source.of("one")) == "the first"


def test_fields_and_names(source):
    assert [(p.name, p.comment) for p in fields(source, source.of("Sizes"))] == [
        ("few", "at least"),
        ("many", ""),
    ]
    assert source.of("B") is source.of("A") is not None and source.of("C") is None


def test_a_module_is_read_and_not_imported(tmp_path, monkeypatch):
    (tmp_path / "defines_it.py").write_text(SOURCE + "raise RuntimeError('imported')\n")
    (tmp_path / "imports_it.py").write_text("from defines_it import several as it\n")
    (tmp_path / "house").mkdir()
    (tmp_path / "house/__init__.py").touch()
    (tmp_path / "house/room.py").write_text(SOURCE)
    (tmp_path / "house/door.py").write_text("from .room import several\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert docments("defines_it", "several")["size"] == "rows a step"
    assert docments("defines_it", "Sizes") == {"few": "at least", "many": ""}
    assert docments("imports_it", "it") == docments("defines_it", "several")
    assert docments("house.door", "several") == docments("house.room", "several")
    with pytest.raises(LookupError, match="imports_it has no nothing"):
        docments("imports_it", "nothing")
    assert not {"defines_it", "imports_it"} & set(sys.modules)
