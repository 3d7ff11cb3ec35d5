"Comments beside parameters, read from the source; and what the four stages say of the same parameters."

import ast
import sys
from pathlib import Path

import pytest

from ftguide.engine.docments import ModuleSource, docments, fields, parameters, returns_comment

PACKAGE = Path(__file__).resolve().parents[2] / "ftguide"
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


# ---- what the four stages of training share

STAGES = {
    "finetune_sft": "sft",
    "align_dpo": "dpo",
    "align_kto": "dpo",
    "distill": "distillation",
}
SAME_IN_ALL = ["learning_rate", "patience", "lora", "output_dir", "resume", "seed", "callbacks", "force"]
THEIR_OWN = {"model", "data", "eval_data"}  # rows, pairs or thumbs; a corpus is no labelled row


def head(function: str) -> dict:
    "Annotation, default and comment of each parameter of a stage."
    source = ModuleSource((PACKAGE / f"{STAGES[function]}.py").read_text(encoding="utf-8"))
    shown = lambda node: node and ast.unparse(node)
    found = parameters(source, source.of(function))
    return {p.name: (shown(p.annotation), shown(p.default), p.comment) for p in found}


def test_parameters_that_the_stages_share_are_the_same():
    "Each stage writes its head out, so that it can be read; this keeps the four from drifting apart."
    heads = [head(function) for function in STAGES]
    for name in SAME_IN_ALL:
        assert len({found[name] for found in heads}) == 1, name
    order = [[name for name in found if name in SAME_IN_ALL] for found in heads]
    assert order == [SAME_IN_ALL] * len(heads)


def test_a_parameter_of_several_stages_has_one_type():
    "Its default and its comment may differ: a pair is no row."
    types = {}
    for function in STAGES:
        for name, (annotation, _, _) in head(function).items():
            types.setdefault(name, set()).add(annotation)
    assert not {name for name, found in types.items() if len(found) > 1} - THEIR_OWN
