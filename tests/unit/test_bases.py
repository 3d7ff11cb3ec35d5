"Which model own rows start from: the one named, a real one at hand, or tiny, with one line that says so."

import json

import pytest
from typer.testing import CliRunner

from ftguide.cli import app
from ftguide.engine import bases
from ftguide.engine.bases import REAL, base_for, is_familiar
from ftguide.market import load_tasks
from ftguide.models import load
from ftguide.report.run_folder import run

LETTERS = [
    dict(prompt="My parcel has not arrived, what can I do?", completion="Please send me its number."),
    dict(prompt="May I pay by invoice?", completion="Yes, companies may, within thirty days."),
]


@pytest.fixture(params=[False, True], ids=["only tiny", "real model at hand"])
def there(request, monkeypatch):
    monkeypatch.setattr(bases, "at_hand", lambda name: "/somewhere" if request.param else None)
    return request.param


def said_for(sources, asked=None):
    said = []
    return base_for(sources, asked, said.append), said


@pytest.mark.parametrize("lang", ["en", "pt"])
@pytest.mark.parametrize("task", ["ad", "extraction", "sentiment", "summary"])
def test_the_marketplace_is_familiar(lang, task):
    for seed in range(5):
        assert is_familiar(load_tasks("test", 5, lang, (task,), seed=seed))


def test_other_text_is_not(tmp_path):
    assert not is_familiar(LETTERS)
    messages = [dict(messages=[dict(role="user", content=r["prompt"])]) for r in LETTERS]
    assert not is_familiar(messages)
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, LETTERS)))
    assert not is_familiar(file) and not is_familiar(str(file))
    file.write_text(json.dumps(load_tasks("train", 1)[0]))
    assert is_familiar(file)


@pytest.mark.parametrize("source", [None, [], "none.jsonl", "owner/rows", [1, "x"], iter(LETTERS)])
def test_what_cannot_be_read_is_left_to_the_reading(source):
    assert is_familiar(source)


def test_a_stream_is_not_used_up():
    rows = iter(LETTERS)
    assert is_familiar(rows) and list(rows) == LETTERS


def test_own_rows_start_from_a_real_model_at_hand(there):
    base, said = said_for([LETTERS])
    assert base == (REAL if there else "tiny") and len(said) == 1 and base in said[0]
    assert ("nothing else" in said[0]) != there and ("ftguide get" in said[0]) != there


def test_rows_of_the_marketplace_are_tiny_s(there):
    base, said = said_for([load_tasks("train", 4), None])
    assert base == (REAL if there else "tiny") and len(said) == 1 and "nothing else" not in said[0]


def test_a_named_model_is_taken(there):
    small = load("tiny-small")
    assert said_for([LETTERS], "models/mine") == ("models/mine", [])
    assert said_for([load_tasks("train", 4)], "tiny") == ("tiny", [])
    for named in ("tiny", "tiny-small", small):
        base, said = said_for([None, LETTERS], named)
        assert base is named and len(said) == 1 and "nothing else" in said[0]


def test_one_of_several_processes_says_it(there, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert said_for([LETTERS])[1] == []


@pytest.mark.parametrize("command", ["sft", "dpo"])
def test_the_commands_say_it_before_they_load(command, there, tmp_path, monkeypatch):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, [dict(r, chosen="a", rejected="b") for r in LETTERS])))
    if there:
        monkeypatch.setattr("ftguide.engine.loading.fetch", lambda name: tmp_path)  # no model in it
    done = CliRunner().invoke(
        app, [command, "--data", str(file), "--epochs", "0", "--out", str(tmp_path / "o")]
    )
    assert done.exit_code == 2 and done.output.startswith(f"base: {REAL if there else 'tiny'}")


def test_own_files_of_a_whole_run(there, tmp_path, monkeypatch):
    asked = {}
    stop = lambda example, knobs: asked.update(knobs) or 1 / 0
    monkeypatch.setattr("ftguide.report.run_folder.settings", stop)
    for files, wanted in (({}, None), (dict(sft=LETTERS), REAL if there else "tiny")):
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / "out", say=lambda line: None, **files)
        assert asked["base"] == wanted
