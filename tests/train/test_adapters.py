"Adapters: merged is unmerged, DPO's reference is the model without its adapter, and weights of 4 bits."

import gc
import json
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM, TrainerCallback

from ftguide.distillation import distill
from ftguide.dpo import align_dpo
from ftguide.engine.adapters import merged
from ftguide.engine.model_folders import ModelError
from ftguide.engine.training_data import streamed
from ftguide.market import load_tasks
from ftguide.models import LM, completion_logps, load, reply, save
from ftguide.sft import finetune_sft

ROWS = [
    dict(prompt=r["prompt"], completion=r["completion"])
    for r in load_tasks("train", 16, tasks=("summary", "sentiment"), seed=3)
]
PAIRS = [dict(prompt=r["prompt"], chosen=r["completion"], rejected="I do not know") for r in ROWS]
ADAPTER = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=4)
STAGES = {
    "sft": lambda base, **kw: finetune_sft(base, ROWS, **kw),
    "dpo": lambda base, **kw: align_dpo(base, PAIRS, **kw),
    "distill": lambda base, **kw: distill("tiny", base, ROWS, epochs=1, **kw),
}


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def scores(model, tokenizer):
    return completion_logps(
        LM(model, tokenizer), [r["prompt"] for r in ROWS], [r["completion"] for r in ROWS]
    )[0]


def nudged(model):
    "An adapter that has learnt something."
    model = get_peft_model(model, ADAPTER)
    torch.manual_seed(0)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.02)
    return model.eval()


def test_merged_is_unmerged():
    lm = load("tiny-small")
    plain, learnt = scores(lm.model, lm.tokenizer), nudged(lm.copy().model)
    beside = scores(learnt, lm.tokenizer)
    inside = merged(learnt)
    assert (beside - plain).abs().max() > 0.1 and (scores(inside, lm.tokenizer) - beside).abs().max() < 1e-3
    assert type(inside) is type(lm.model) and not hasattr(inside, "peft_config")


# ---- DPO with the adapter off as the reference


def alive():
    "Numbers in all parameters that are in memory."
    gc.collect()
    return sum({p.data_ptr(): p.numel() for p in gc.get_objects() if type(p) is torch.nn.Parameter}.values())


class Look(TrainerCallback):
    "What is in memory while a step is made, in copies of the model."

    def __init__(self, lm):
        self.one, self.before = lm.parameters, alive()

    def on_step_end(self, args, state, control, **kw):
        self.copies = (alive() - self.before) / self.one


@pytest.mark.parametrize("flowing", [False, True], ids=["rows", "stream"])
def test_the_reference_is_the_model_without_its_adapter(flowing, tmp_path):
    lm, file = load("tiny-small"), tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(p) + "\n" for p in PAIRS), encoding="utf-8")
    run, look = (
        lambda *calls, **kw: align_dpo(
            lm,
            streamed(file, "pairs") if flowing else PAIRS,
            max_steps=2,
            batch_size=4,
            train_sampling_strategy="sequential",
            callbacks=calls,
            **kw,
        ),
        Look(lm),
    )
    after = run(look, lora=ADAPTER, cache=str(tmp_path / "reference"))
    assert after.history[0]["loss"] == pytest.approx(0.693147181, abs=1e-6), (
        "ln 2: policy and reference are one model"
    )
    assert 1 < look.copies < 1.3, "the weights once, and the adapter"
    if flowing:
        full = Look(lm)
        run(full)
        assert full.copies > 1.9, "without an adapter a stream needs the reference's weights as well"
    else:
        kept = json.loads(next((tmp_path / "reference").glob("*.json")).read_text(encoding="utf-8"))
        for side in ("chosen", "rejected"):
            plain = completion_logps(lm, [p["prompt"] for p in PAIRS], [p[side] for p in PAIRS])[0]
            assert (torch.tensor(kept[f"ref_{side}_logps"]) - plain).abs().max() < 1e-3


def test_the_reference_stays_when_the_adapter_learns():
    lm = load("tiny-small")
    learnt = nudged(lm.copy().model)
    with learnt.disable_adapter():
        off = scores(learnt, lm.tokenizer)
    assert torch.equal(off, scores(lm.model, lm.tokenizer)) and not torch.allclose(
        off, scores(learnt, lm.tokenizer)
    )


# ---- what a GPU's settings change, on a CPU


@pytest.mark.parametrize("stage", STAGES)
def test_checkpointing_changes_no_weight_of_an_adapter(stage):
    "Frozen embeddings have no gradient: a checkpoint that needs one would teach the adapter nothing."
    plain, saving = (
        STAGES[stage]("tiny-small", lora=True, max_steps=3, gradient_checkpointing=on).model
        for on in (False, True)
    )
    before = weights(load("tiny-small").model)
    assert max((p - before[name]).abs().max() for name, p in weights(plain).items()) > 1e-5
    assert max((p - weights(plain)[name]).abs().max() for name, p in weights(saving).items()) < 1e-6


@pytest.mark.parametrize("stage", STAGES)
def test_bfloat16_arithmetic_keeps_float32_weights(stage):
    exact, rough = (STAGES[stage]("tiny-small", max_steps=3, bf16=on) for on in (False, True))
    first = [next(h["loss"] for h in lm.history if "loss" in h) for lm in (exact, rough)]
    assert (
        first[1] == pytest.approx(first[0], rel=0.03)
        and next(rough.model.parameters()).dtype == torch.float32
    )
    before = weights(load("tiny-small").model)
    name = "model.layers.0.mlp.up_proj.weight"
    moved = [(lm.model.get_parameter(name) - before[name]).flatten() for lm in (exact, rough)]
    assert torch.cosine_similarity(*moved, dim=0) > 0.7


# ---- 4 bits


def command(*args):
    from typer.testing import CliRunner

    from ftguide.cli import app

    return CliRunner().invoke(app, list(map(str, args)))


@pytest.mark.parametrize(
    "stage",
    [
        ("sft", "--base", "tiny-small"),
        ("dpo", "--base", "tiny-small"),
        ("distill", "--teacher", "tiny", "--student", "tiny-small"),
    ],
    ids=lambda s: s[0],
)
def test_the_command_says_it_in_one_line(stage, tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({**r, **p}) + "\n" for r, p in zip(ROWS, PAIRS)), encoding="utf-8"
    )
    common = (*stage, "--data", tmp_path / "rows.jsonl", "--out", tmp_path / "out")
    for flag in ("--load-in-4bit", "--load-in-bf16"):
        done = command(*common, flag)
        assert done.exit_code == 2 and f"error: {flag} needs --lora" in done.output
    common = (*common, "--load-in-4bit")
    done = command(*common, "--load-in-bf16", "--lora")
    assert done.exit_code == 2 and "not both" in done.output
    if torch.cuda.is_available():
        return
    done = command(*common, "--lora")
    assert (
        done.exit_code == 2
        and "error: load_in_4bit needs a CUDA GPU" in done.output
        and done.output.count("\n") == 1
    ), done.output


class Types(TrainerCallback):
    "The types of frozen and of trained weights while a step is made."

    def on_step_end(self, args, state, control, model=None, **kw):
        self.frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
        self.trained = {p.dtype for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("stage", STAGES)
def test_frozen_weights_stay_in_bfloat16_and_the_adapter_learns_in_float32(stage):
    seen, losses = Types(), []
    how = dict(lora=ADAPTER, learning_rate=1e-3, batch_size=4, logging_steps=1, bf16=False)
    for dtype in ("float32", "bfloat16"):
        lm = load("tiny-small", dtype=dtype)
        after = STAGES[stage](lm, callbacks=(seen,), **how)
        losses.append([entry["loss"] for entry in after.history if "loss" in entry])
        assert seen.frozen == {getattr(torch, dtype)} and seen.trained == {torch.float32}
        assert after.model.dtype == torch.float32 and not torch.equal(
            weights(after.model)["model.layers.0.mlp.up_proj.weight"],
            weights(lm.model)["model.layers.0.mlp.up_proj.weight"].float(),
        ), "an ordinary model, with what was learnt inside"
    exact, rounded = map(sum, losses)
    assert losses[0] != losses[1] and rounded == pytest.approx(exact, rel=0.03)


def test_without_an_adapter_weights_are_trained_in_float32():
    seen = Types()
    after = finetune_sft(load("tiny-small", dtype="bfloat16"), ROWS, epochs=1, callbacks=(seen,))
    assert seen.trained == {torch.float32} and after.model.dtype == torch.float32


class FewBits(LlamaForCausalLM):
    "A stand-in for bitsandbytes: linear weights of 16 values, fixed, of no other type until dequantised."

    def num_parameters(self, **kw):
        return sum(p.numel() for p in self.parameters())

    def float(self):
        raise AssertionError("weights of 4 bits have no other type")

    def dequantize(self, dtype=None):
        for name in ("is_quantized", "is_loaded_in_4bit", "quantization_method", "hf_quantizer"):
            delattr(self, name)
        self.__class__ = LlamaForCausalLM
        return self


def in_few_bits(name):
    lm = load(name)
    lm.model.__class__ = FewBits
    for layer in lm.model.model.layers:
        for m in layer.modules():
            if isinstance(m, torch.nn.Linear):
                scale = m.weight.data.abs().max() / 7.5
                m.weight.data = (m.weight.data / scale).round().clamp(-8, 7) * scale
    lm.model.is_quantized = lm.model.is_loaded_in_4bit = True
    lm.model.quantization_method, lm.model.hf_quantizer = (
        "fake",
        SimpleNamespace(is_trainable=True, quantization_config=SimpleNamespace(to_dict=dict)),
    )
    return lm


def in_four_bits(name):
    "The real thing, where bitsandbytes is installed: its code for CPUs is only fast enough for a look."
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    with pytest.MonkeyPatch.context() as m:
        m.setattr(
            "ftguide.engine.loading._arguments_for_4bit",
            lambda: dict(quantization_config=config, device_map={"": "cpu"}),
        )
        return load(name, load_in_4bit=True)


@pytest.mark.parametrize(
    "few, close", [(in_few_bits, 1e-2), (in_four_bits, 0.3)], ids=["stand-in", "bitsandbytes"]
)
@pytest.mark.parametrize("stage", STAGES)
def test_an_adapter_on_few_bits_ends_in_an_ordinary_model(stage, few, close, tmp_path):
    lm, seen = few("tiny-small"), {}
    assert lm.parameters == load("tiny-small").parameters
    before, plain = weights(lm.model), scores(lm.model, lm.tokenizer)

    class Types(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kw):
            seen.update({str(p.dtype): True for p in model.parameters() if p.requires_grad})

        def on_train_end(self, args, state, control, model=None, **kw):
            seen["scores"] = scores(model.eval(), lm.tokenizer)

    after = STAGES[stage](lm, lora=True, max_steps=3, learning_rate=1e-2, callbacks=(Types(),))
    assert set(seen) == {"torch.float32", "scores"}, "an adapter learns in float32"
    assert (
        type(after.model) is LlamaForCausalLM
        and not getattr(after.model, "is_quantized", False)
        and after.model.dtype == torch.float32
    )
    inside = scores(after.model, lm.tokenizer)
    assert (inside - seen["scores"]).abs().max() < close < (inside - plain).abs().max() / 3, (
        "nothing that was learnt is lost in merging"
    )
    assert lm.model.is_quantized and all(torch.equal(p, before[n]) for n, p in weights(lm.model).items())
    again = load(save(after, tmp_path / "model"))
    assert isinstance(reply(again, "Hi", 4), str) and {p.dtype for p in again.model.parameters()} == {
        torch.float32
    }


def test_weights_of_four_bits_are_not_trained_themselves():
    lm = load("tiny-small")
    lm.model.is_quantized = True
    for make in (finetune_sft, align_dpo):
        with pytest.raises(
            ModelError,
            match=r"tiny-small has weights of 4 bits, which no step could change; lora=True \(--lora\)",
        ):
            make(lm, PAIRS if make is align_dpo else ROWS)
    with pytest.raises(ModelError, match="which no step could change"):
        distill("tiny", lm, ROWS)


def test_a_teacher_goes_to_the_gpu_of_its_process(monkeypatch):
    "A trainer moves what it trains. The teacher is not trained, and would stay behind."
    from ftguide.engine.teachers import LogitTeacher

    went = []
    lm = load("tiny-small")
    monkeypatch.setattr(type(lm.model), "to", lambda self, where: went.append(where) or self)
    LogitTeacher(lm)
    assert not went
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    LogitTeacher(lm)
    assert went == ["cuda:3"]
