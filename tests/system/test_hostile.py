"Model folders made to harm: garbage, absurd sizes, links, code, pickles, templates; and names with anything in them."

import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from stages import ROWS, weights
from typer.testing import CliRunner

from ftguide.cli import app
from ftguide.engine.checkpoints import checkpoints
from ftguide.evaluate import Report, evaluate
from ftguide.models import ModelError, completion_logps, load, prompt_text, reply, save
from ftguide.sft import finetune_sft


def cli(*args):
    done = CliRunner().invoke(app, [str(a) for a in args])
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    return done.exit_code, done.output.strip()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save(load("tiny-small"), tmp_path_factory.mktemp("models") / "whole")


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "model"))


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
    assert (
        "\n" not in str(e.value)
        and len(str(e.value)) < 600
        and "root:" not in str(e.value)
        and "ignore_mismatched" not in str(e.value)
    )


CODE = 'open({mark!r}, "w").write("ran")\nfrom transformers import LlamaConfig, LlamaForCausalLM\nclass C(LlamaConfig): model_type = "harm"\nclass M(LlamaForCausalLM): config_class = C\n'


@pytest.mark.parametrize("model_type", ["harm", "llama"])
def test_code_in_a_model_folder_never_runs(folder, tmp_path, model_type, monkeypatch):
    "An architecture of its own is refused without asking; one that transformers has is loaded by transformers' code."
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asks whether to run the code"))
    mark = tmp_path / "ran"
    (folder / "code.py").write_text(CODE.format(mark=str(mark)))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate/generate.py").write_text(CODE.format(mark=str(mark)))
    config(
        folder,
        model_type=model_type,
        architectures=["M"],
        auto_map={
            "AutoConfig": "code.C",
            "AutoModelForCausalLM": "code.M",
            "AutoTokenizer": ["code.T", None],
        },
    )
    tokenizer = folder / "tokenizer_config.json"
    tokenizer.write_text(
        json.dumps({**json.loads(tokenizer.read_text()), "auto_map": {"AutoTokenizer": ["code.T", None]}})
    )
    if model_type == "llama":
        assert isinstance(reply(load(folder), "Hi", 4), str)
    else:
        with pytest.raises(ModelError, match="needs Python files of its own"):
            load(folder)
        code, said = cli("reply", "--model", folder, "Hi")
        assert code == 2 and "needs Python files" in said and "\n" not in said
        from ftguide.scale import estimate, parameter_count

        for ask in (estimate, parameter_count):
            with pytest.raises(ValueError):
                ask(str(folder))
    assert not mark.exists()


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (self.mark, "w")


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "adapter_model.bin", "training_args.bin", "optimizer.pt"]
)
def test_pickles_in_a_model_folder_never_run(folder, tmp_path, name):
    mark = str(tmp_path / "ran")
    (folder / name).write_bytes(pickle.dumps(Bomb(mark)))
    if name == "adapter_model.bin":
        (folder / "adapter_config.json").write_text(
            json.dumps(
                dict(
                    peft_type="LORA",
                    base_model_name_or_path=str(folder),
                    r=4,
                    target_modules=["q_proj"],
                    task_type="CAUSAL_LM",
                )
            )
        )
    try:
        load(folder)
    except ModelError as e:
        assert name == "adapter_model.bin" and "\n" not in str(e)
    assert not os.path.exists(mark)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_pickles_in_a_checkpoint_never_run(tmp_path, name):
    finetune_sft("tiny-small", ROWS[:16], epochs=1, output_dir=tmp_path / "run")
    mark = str(tmp_path / "ran")
    (checkpoints(tmp_path / "run")[1] / name).write_bytes(pickle.dumps(Bomb(mark)))
    shutil.rmtree(checkpoints(tmp_path / "run")[0])
    try:
        finetune_sft("tiny-small", ROWS[:16], epochs=1, output_dir=tmp_path / "run", resume=True)
    except Exception as e:
        assert "eights" in str(e) or "pickle" in str(e).lower(), repr(e)
    assert not os.path.exists(mark)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{% set x = messages.append({}) %}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% include '/etc/passwd' %}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ raise_exception('no') }}",
        "{% if",
        "{{ 1 / 0 }}",
    ],
)
def test_a_chat_template_that_tries_to_break_out(folder, template):
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    lm = load(folder)
    assert lm.tokenizer.chat_template == template
    for act in (
        lambda: prompt_text(lm.tokenizer, "Hi"),
        lambda: reply(lm, "Hi", 4),
        lambda: completion_logps(lm, ["Hi"], ["Yes"]),
    ):
        with pytest.raises(ModelError, match="chat template cannot write") as e:
            act()
        assert "\n" not in str(e.value) and "root:" not in str(e.value)
    with pytest.raises(ValueError, match="chat template"):
        finetune_sft(lm, ROWS[:8], epochs=1)
    code, said = cli("reply", "--model", folder, "Hi")
    assert code == 2 and "\n" not in said and "chat template" in said


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
    assert (tmp_path / "file").read_text() == "mine" and sorted(p.name for p in tmp_path.iterdir()) == [
        "disk",
        "file",
        "link",
    ]
