"Nothing that a model folder holds is run: no code, no pickle, no template that wants more than the messages."

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
from commands import cli
from stages import ROWS

from ftguide.engine.checkpoints import checkpoints
from ftguide.engine.model_folders import ModelError
from ftguide.models import completion_logps, load, prompt_text, reply, save
from ftguide.sft import finetune_sft


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save(load("tiny-small"), tmp_path_factory.mktemp("models") / "whole")


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "model"))


def config(folder, **change):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))


CODE = (
    'open({mark!r}, "w").write("ran")\n'
    "from transformers import LlamaConfig, LlamaForCausalLM\n"
    'class C(LlamaConfig): model_type = "harm"\n'
    "class M(LlamaForCausalLM): config_class = C\n"
)


@pytest.mark.parametrize("model_type", ["harm", "llama"])
def test_code_in_a_model_folder_never_runs(folder, tmp_path, model_type, monkeypatch):
    "An architecture of its own is refused without asking; one that transformers has runs transformers' code."
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
