"From a name to a model: names, whole and broken folders."

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from ftguide.engine import pretrained
from ftguide.engine.loading import SHIPPED, resolve, shipped_folder
from ftguide.engine.model_folders import ModelError
from ftguide.models import load, save


@pytest.fixture(scope="module")
def small():
    return load("tiny-small")


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    return save(small, tmp_path_factory.mktemp("models") / "whole")


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "model"))


# ---- names


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_come_with_the_package(name):
    assert resolve(name) == (str(shipped_folder(name)), "it is shipped")
    assert (shipped_folder(name) / "config.json").is_file()


@pytest.mark.parametrize(
    "name",
    [
        "HuggingFaceTB/SmolLM2-1.7B",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "Qwen/Qwen2.5-0.5B",
        "gpt2",
        "owner/name",
    ],
)
def test_names_of_the_hub_are_looked_for_there(name):
    with pytest.raises(ModelError, match=r"cannot load '.*': it is not in the local cache"):
        load(name)


@pytest.mark.parametrize(
    "name", ["model.jsonl", "./nothing", "none/at/all", "~/nothing", "/nothing", r"runs\sft", "tiny "]
)
def test_names_of_folders_that_are_not_there(name):
    with pytest.raises(ModelError, match="no folder"):
        load(name)


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}")
    with pytest.raises(ModelError, match="rows.jsonl is a file; a model is a folder"):
        load(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("answers, why", [(True, ""), (False, "the hub cannot be reached")])
def test_the_hub_is_asked_when_it_answers(monkeypatch, answers, why):
    def head(address, timeout):
        if not answers:
            raise OSError("no network")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(pretrained, "get_session", lambda: SimpleNamespace(head=head))
    source = resolve("owner/name")
    assert source.path == "owner/name" and source.why_local.startswith(why) and bool(why) != answers


def test_names_nearly_right(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/student").mkdir(parents=True)
    for wrong, right in (
        ("tinny", "tiny"),
        ("tiny_small", "tiny-small"),
        ("models/studnet", "models/student"),
        ("./models/studen", "models/student"),
    ):
        with pytest.raises(ModelError, match=f"did you mean '{right}'"):
            load(wrong)
    with pytest.raises(ModelError) as e:
        load("somebody/else")
    assert "did you mean" not in str(e.value)


def test_home_is_found(small, tmp_path, monkeypatch):
    save(small, tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert load("~/mine").parameters == small.parameters


# ---- folders


def test_a_folder_says_what_it_lacks(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no .safetensors file"):
        resolve(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config.json"):
        resolve(folder)


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load(folder)


def config(folder, **change):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))


def without(folder):
    weights = load_file(folder / "model.safetensors")
    first = sorted(k for k in weights if "layers.1" in k)[0]
    save_file(
        {k: v for k, v in weights.items() if k != first},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


def cut(folder, name, share=0.5):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(len(data) * share)])


def link(folder, name, to):
    (folder / name).unlink()
    (folder / name).symlink_to(to)


HARM = {
    "garbage as tokenizer": (
        lambda f: (f / "tokenizer.json").write_bytes(os.urandom(300)),
        "cannot read the model",
    ),
    "a list as tokenizer": (lambda f: (f / "tokenizer.json").write_text("[1, 2]"), "cannot read the model"),
    "half a tokenizer": (lambda f: cut(f, "tokenizer.json"), "cannot read the model"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "cannot read the model"),
    "half the weights": (lambda f: cut(f, "model.safetensors"), "model.safetensors cannot be read .*cut off"),
    "garbage as weights": (
        lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 1000),
        "model.safetensors cannot be read",
    ),
    "empty weights": (
        lambda f: (f / "model.safetensors").write_bytes(b""),
        "model.safetensors cannot be read",
    ),
    "a weight is missing": (without, "not complete: 1 weights are missing, the first is model.layers.1"),
    "garbage as config": (
        lambda f: (f / "config.json").write_bytes(os.urandom(300)),
        "cannot read the model",
    ),
    "a list as config": (lambda f: (f / "config.json").write_text("[]"), "cannot read the model"),
    "no model type": (lambda f: (f / "config.json").write_text("{}"), "cannot read the model"),
    "a million layers": (
        lambda f: config(f, num_hidden_layers=10**6),
        "speaks of 1,000,000 layers, and the files hold",
    ),
    "100 GB of vocabulary": (
        lambda f: config(f, vocab_size=10**9),
        "describes a model of .* numbers, and the files hold",
    ),
    "absurd width": (
        lambda f: config(f, hidden_size=10**12),
        "cannot read the model|numbers, and the files hold",
    ),
    "negative width": (lambda f: config(f, hidden_size=-8), "cannot read the model"),
    "text as width": (lambda f: config(f, hidden_size="wide"), "cannot read the model"),
    "another width": (
        lambda f: config(f, intermediate_size=100),
        "does not fit the weights: model.layers.0.mlp.* has the shape",
    ),
    "a link to another file": (
        lambda f: link(f, "model.safetensors", "/etc/passwd"),
        "model.safetensors cannot be read",
    ),
    "a link as tokenizer": (lambda f: link(f, "tokenizer.json", "/etc/passwd"), "cannot read the model"),
    "a link to nowhere": (lambda f: link(f, "model.safetensors", "nowhere"), "cannot be read"),
    "a link to itself": (lambda f: link(f, "config.json", "config.json"), "no config.json"),
    "a folder as weights": (
        lambda f: ((f / "model.safetensors").unlink(), (f / "model.safetensors").mkdir()),
        "cannot be read",
    ),
}


@pytest.mark.skipif(sys.platform == "win32", reason="links")
@pytest.mark.parametrize("what", HARM)
def test_harmful_folders_are_one_line(folder, what):
    harm, says = HARM[what]
    harm(folder)
    with pytest.raises(ModelError, match=says) as e:
        load(folder)
    said = str(e.value)
    assert "\n" not in said and len(said) < 600 and "root:" not in said and "ignore_mismatched" not in said


def test_without_a_gpu_four_bits_are_refused_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ModelError,
        match=r"^load_in_4bit needs a CUDA GPU and bitsandbytes \(pip install bitsandbytes\), "
        r"not found here\. Leave it out: lora=True",
    ):
        load("no/such-model", load_in_4bit=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ModelError, match=r"needs bitsandbytes \(pip install bitsandbytes\), not found"):
        load("no/such-model", load_in_4bit=True)


def test_an_unknown_type_of_weights_is_named():
    with pytest.raises(ModelError, match="dtype 'float' is not a torch type|dtype 'half8'"):
        load("tiny-small", dtype="half8")
