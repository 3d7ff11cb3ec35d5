"From a name to a model: names, whole and broken folders."

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from typer.testing import CliRunner

from ftguide.cli import app
from ftguide.engine import pretrained
from ftguide.engine.loading import SHIPPED, resolve, shipped_folder
from ftguide.engine.model_folders import ModelError
from ftguide.models import load, reply, save


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


def reweigh(folder, add):
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, add: torch.zeros(1, 8)}, folder / "model.safetensors", metadata={"format": "pt"})


def more_tokens(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<tool>", "</tool>"])
    tokenizer.save_pretrained(folder)


def as_adapter(folder, about):
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(about))


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
    "an encoder-decoder": (
        lambda f: (f / "config.json").write_text('{"model_type": "t5", "is_encoder_decoder": true}'),
        "encoder-decoder",
    ),
    "a model that fills gaps": (
        lambda f: config(f, model_type="roberta", architectures=["RobertaForMaskedLM"]),
        "reads in both directions",
    ),
    "a classifier": (
        lambda f: config(f, architectures=["LlamaForSequenceClassification"]),
        "LlamaForSequenceClassification",
    ),
    "a picture model": (
        lambda f: config(f, model_type="vit", architectures=None),
        "no causal language model",
    ),
    "a classifier under another name": (lambda f: reweigh(f, add="score.weight"), "is a classifier"),
    "tokens beyond the embeddings": (more_tokens, "tokenizer writes ids up to 1,025"),
    "an adapter beside whole weights": (
        lambda f: (f / "adapter_config.json").write_text("{}"),
        "an adapter beside them",
    ),
    "an adapter of nothing": (lambda f: as_adapter(f, {}), "does not say of which base"),
    "an adapter of another task": (
        lambda f: as_adapter(f, dict(task_type="SEQ_CLS", base_model_name_or_path="tiny")),
        "task 'SEQ_CLS'",
    ),
    "an adapter whose base is gone": (
        lambda f: as_adapter(f, dict(base_model_name_or_path="./gone")),
        "an adapter of './gone', which cannot be loaded: no folder",
    ),
    "an adapter of itself": (
        lambda f: as_adapter(f, dict(base_model_name_or_path=str(f))),
        "which is an adapter itself",
    ),
    "an adapter that does not fit": (
        lambda f: as_adapter(f, dict(base_model_name_or_path="tiny", peft_type="LORA", r=2, lora_alpha=2)),
        "cannot read the model|does not fit",
    ),
    "a list as adapter": (lambda f: as_adapter(f, [1]), "adapter_config.json cannot be read"),
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


# ---- adapters


@pytest.fixture(scope="module")
def adapter(whole, small, tmp_path_factory):
    "A folder that PEFT saved, and what base and adapter say together."
    wrapped = get_peft_model(
        load(whole).model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=4)
    )
    torch.manual_seed(0)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    wrapped.peft_config["default"].base_model_name_or_path = str(whole)
    folder = tmp_path_factory.mktemp("adapters") / "mine"
    wrapped.save_pretrained(folder)
    with torch.no_grad():
        return folder, wrapped(torch.arange(9)[None]).logits


def test_an_adapters_folder_is_its_base_and_the_adapter(adapter, small):
    folder, together = adapter
    lm = load(folder)
    with torch.no_grad():
        torch.testing.assert_close(lm.model(torch.arange(9)[None]).logits, together, atol=1e-4, rtol=1e-4)
    assert (lm.name, lm.parameters) == ("mine", small.parameters) and not hasattr(lm.model, "peft_config")
    said = CliRunner().invoke(app, ["reply", "Hi", "--model", str(folder), "--max-new-tokens", "4"])
    assert said.exit_code == 0 and reply(lm, "Hi", 4) in said.output


def test_a_config_beside_an_adapter_changes_nothing(adapter, whole, tmp_path):
    folder, together = adapter
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    shutil.copy(whole / "config.json", other)
    with torch.no_grad():
        logits = load(other).model(torch.arange(9)[None]).logits
    torch.testing.assert_close(logits, together, atol=1e-4, rtol=1e-4)
    with pytest.raises(ModelError, match="merged into its base"), pytest.MonkeyPatch.context() as m:
        m.setattr("ftguide.engine.loading._arguments_for_4bit", dict)
        load(other, load_in_4bit=True)


def test_an_adapter_that_brings_tokens(whole, tmp_path):
    lm = load(whole)
    lm.tokenizer.add_tokens(["<tool>", "</tool>"])
    lm.model.resize_token_embeddings(1026, mean_resizing=False)
    how = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    wrapped = get_peft_model(lm.model, how)
    wrapped.peft_config["default"].base_model_name_or_path = str(whole)
    wrapped.save_pretrained(tmp_path / "mine")
    lm.tokenizer.save_pretrained(tmp_path / "mine")
    found = load(tmp_path / "mine")
    assert len(found.tokenizer) == found.model.get_input_embeddings().num_embeddings == 1026


def test_prompts_that_were_learnt_cannot_be_merged(whole, tmp_path):
    from peft import PromptTuningConfig

    wrapped = get_peft_model(
        load(whole).model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    wrapped.peft_config["default"].base_model_name_or_path = str(whole)
    wrapped.save_pretrained(tmp_path / "mine")
    with pytest.raises(ModelError, match="cannot be merged"):
        load(tmp_path / "mine")
