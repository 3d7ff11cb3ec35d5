"A model's folder: whole or not, its training log, where it began; and written all or nothing."

import json
import os
import sys
from pathlib import Path

import jinja2
import pytest
import torch
from commands import cli
from stages import ROWS, weights

from ftguide.engine.conversations import answered, in_tokens
from ftguide.engine.model_folders import (
    ModelError,
    check_complete,
    check_files,
    check_sizes,
    first_line,
    read_origin,
    without_marks,
)
from ftguide.evaluation import Report, evaluate
from ftguide.models import PLAIN_TEMPLATE, load, save


@pytest.fixture(scope="module")
def small():
    return load("tiny-small")


@pytest.fixture
def folder(small, tmp_path):
    return save(small, tmp_path / "model")


def config(folder, **change):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))


def test_a_folder_holds_a_model_or_an_adapter(folder):
    check_files(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="whole weights .*model.safetensors.* and an adapter beside them"):
        check_files(folder)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    check_files(folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match="no adapter_model.safetensors; pickled"):
        check_files(folder)


def test_more_layers_than_weights(folder):
    config(folder, num_hidden_layers=10**6)
    with pytest.raises(ModelError, match="speaks of 1,000,000 layers"):
        check_sizes(folder)


def test_quantised_weights_hold_several_numbers_in_one(folder):
    config(folder, vocab_size=8192)
    with pytest.raises(ModelError, match="describes a model of"):
        check_sizes(folder)
    config(folder, quantization_config=dict(quant_method="bitsandbytes", load_in_4bit=True))
    check_sizes(folder)


def test_the_training_log_comes_back(small, tmp_path):
    lm = small.copy("taught")
    lm.history = [dict(step=1, loss=2.5), dict(step=2, eval_loss=2.25)]
    folder = save(lm, tmp_path / "taught")
    assert load(folder).history == lm.history
    assert load(save(load(folder), tmp_path / "again")).history == lm.history
    for spoilt in ('{"loss": 1}', "[1, 2]", "not JSON", "[" * 100_000):
        (folder / "history.json").write_text(spoilt)
        with pytest.warns(UserWarning, match="history.json is no training log and is left out"):
            assert load(folder).history == []
    (folder / "history.json").unlink()
    assert load(folder).history == []


def test_the_first_line_of_an_error():
    assert first_line(ValueError("\n one\ntwo")) == "one"
    assert first_line(ValueError("x" * 300)) == "x" * 200 and first_line(KeyError()) == "KeyError"


def test_where_the_weights_began_goes_with_them(small, tmp_path):
    lm = small.copy("taught")
    assert not (save(lm, tmp_path / "unknown") / "source.json").exists()
    lm.origin = "somebody's, in 4 bits"
    folder = save(lm, tmp_path / "taught", card="# Taught\n")
    assert load(folder).origin == read_origin(folder) == lm.origin
    assert (folder / "README.md").read_text().count(lm.origin) == 1
    for spoilt in ("", "[1]", "{}", '{"origin": 3}', "[" * 100_000):
        (folder / "source.json").write_text(spoilt)
        assert load(folder).origin == ""


def test_weights_that_nobody_reads(small):
    found = dict(mismatched_keys=[], missing_keys=[], unexpected_keys=["score.weight"])
    with pytest.raises(ModelError, match=r"is a classifier: its head \(score.weight\)"):
        check_complete("mine", found)
    with pytest.warns(UserWarning, match="1 weights of the files are no part of the model.* v_head.weight"):
        check_complete("mine", {**found, "unexpected_keys": ["v_head.weight"]})


# ---- saving


MARKED = [
    PLAIN_TEMPLATE,
    "{% for m in messages %}{%- generation -%}\n {{ m.content }}\n{%- endgeneration -%}\n{% endfor %}.",
    "{% for m in messages %}\n  {% generation %}\n{{ m.content }}\n  {% endgeneration %}\n{% endfor %}\n.",
    "{% for m in messages %}{%-generation%}x{{ m.content }} {%endgeneration-%}\n{% endfor %}.",
    "{{ messages[0].content }} {%+ generation %}y{% endgeneration +%}\n.",
    "{{ messages[0].content }} no marks, and the word generation",
]


@pytest.mark.parametrize("template", MARKED)
def test_a_saved_template_is_read_by_any_jinja_and_writes_the_same(small, tmp_path, template):
    lm = small.copy("marked")
    lm.tokenizer.chat_template = template
    talk = [[dict(role="user", content=" Hi "), dict(role="assistant", content="Yes.")]]
    write = lambda tokenizer: tokenizer.apply_chat_template(talk, tokenize=False)
    folder = save(lm, tmp_path / "saved")
    saved = (folder / "chat_template.jinja").read_text()
    how = dict(trim_blocks=True, lstrip_blocks=True)
    plain = jinja2.Environment(**how).from_string(saved)
    told = dict(bos_token=lm.tokenizer.bos_token, eos_token=lm.tokenizer.eos_token)
    assert plain.render(messages=talk[0], **told) == write(lm.tokenizer)[0]
    again = load(folder)
    assert write(again.tokenizer) == write(lm.tokenizer)
    assert lm.tokenizer.chat_template == template and without_marks(saved) == saved


def test_a_saved_model_trains_on_the_same_tokens(small, tmp_path):
    lm = small.copy("marked")
    lm.tokenizer.chat_template = PLAIN_TEMPLATE
    again = load(save(lm, tmp_path / "saved"))
    rows = [answered("Hi", "Yes."), answered([dict(role="user", content="How much?")], "4")]
    assert in_tokens(again.tokenizer, rows) == in_tokens(lm.tokenizer, rows)
    assert "{% generation %}" not in again.tokenizer.chat_template


@pytest.mark.skipif(sys.platform == "win32", reason="links")
def test_saving_follows_a_link_and_leaves_it(tmp_path):
    lm = load("tiny-small")
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    save(lm, tmp_path / "link")
    save(lm, tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink() and torch.equal(weights(load(tmp_path / "disk")), weights(lm))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="exists"):
        save(lm, tmp_path / "file", overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["disk", "file", "link"]


def test_a_model_that_cannot_be_written_leaves_what_was_there(small, tmp_path, monkeypatch):
    "Errors of other libraries come as OSError."
    save(small, tmp_path / "mine", card="before")

    def fails(folder):
        raise ValueError("No space left on device\nand more")

    monkeypatch.setattr(small.tokenizer, "save_pretrained", fails)
    with pytest.raises(OSError, match=r"could not be written \(No space left on device\); nothing of it"):
        save(small, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine/README.md").read_text() == "before" and os.listdir(tmp_path) == ["mine"]


@pytest.mark.parametrize("error", [OSError("gone"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
def test_a_folder_comes_back_when_its_successor_does_not_arrive(small, tmp_path, monkeypatch, error):
    save(small, tmp_path / "mine", card="before")
    rename, seen = Path.rename, []

    def second_fails(self, target):
        seen.append(target)
        if len(seen) == 2:
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(type(error)):
        save(small, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine/README.md").read_text() == "before" and os.listdir(tmp_path) == ["mine"]


@pytest.mark.parametrize(
    "name", ["with spaces and (signs) & 'quotes'", "função-漢字-🙂", "-dash", "a.b.c", "100%", "ünï\u0301"]
)
def test_names_of_folders(tmp_path, name):
    lm = load("tiny-small")
    save(lm, tmp_path / name / "deep")
    assert torch.equal(weights(load(tmp_path / name / "deep")), weights(lm)) and [
        p.name for p in (tmp_path / name).iterdir()
    ] == ["deep"]
    rows = tmp_path / f"{name}.jsonl"
    rows.write_text("".join(json.dumps(r) + "\n" for r in ROWS[:4]), encoding="utf-8")
    report = evaluate(tmp_path / name / "deep", rows, metrics=("quality",), max_new_tokens=4)
    report.save(tmp_path / f"{name}.json")
    assert Report.read(tmp_path / f"{name}.json").scores == report.scores and cli("check", rows)[0] == 0
