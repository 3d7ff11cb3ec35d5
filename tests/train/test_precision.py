"Precision: bfloat16 is honoured wherever a stage computes, and float32 is untouched."

import math

import pytest
import torch
from stages import FEW, FEW_PAIRS, FEW_THUMBS, weights

from ftguide.distillation import distill
from ftguide.dpo import align_dpo, align_kto
from ftguide.engine import precision
from ftguide.engine.precision import bfloat16_by_default, fast_bfloat16, is_large, say_precision
from ftguide.engine.run import training_arguments
from ftguide.engine.teachers import LogitTeacher
from ftguide.models import load
from ftguide.sft import finetune_sft


def train(stage, rows, **knobs):
    start = ("tiny", "tiny-small") if stage is distill else ("tiny-small",)
    return stage(*start, rows, epochs=6, batch_size=4, eval_data=rows[:8], patience=None, **knobs)


def log(lm, name):
    return [entry[name] for entry in lm.history if name in entry]


STAGES = [(finetune_sft, FEW), (align_dpo, FEW_PAIRS), (align_kto, FEW_THUMBS), (distill, FEW)]


@pytest.mark.parametrize("stage, rows", STAGES, ids=lambda x: getattr(x, "__name__", None))
def test_bfloat16_is_honoured(stage, rows):
    plain, half = train(stage, rows, bf16=False), train(stage, rows, bf16=True)
    for name in ("loss", "eval_loss"):
        a, b = log(plain, name), log(half, name)
        assert a != b and sum(b) == pytest.approx(sum(a), rel=0.1), "another rounding, the same training"
        assert b[-1] < b[0]
    assert log(half, "loss")[0] == pytest.approx(log(plain, "loss")[0], rel=0.01)
    assert half.model.dtype == torch.float32, "weights stay what they were"


@pytest.mark.parametrize("stage, rows", STAGES, ids=lambda x: getattr(x, "__name__", None))
def test_a_small_model_trains_in_float32(stage, rows):
    default, plain = train(stage, rows), train(stage, rows, bf16=False)
    assert log(default, "loss") == log(plain, "loss") and torch.equal(weights(default), weights(plain))


@pytest.mark.parametrize("bf16", [False, True])
def test_dpo_starts_at_ln_2(bf16):
    after = align_dpo("tiny-small", FEW_PAIRS, epochs=1, batch_size=4, bf16=bf16)
    assert log(after, "loss")[0] == pytest.approx(math.log(2), abs=2e-3 if bf16 else 1e-6)


def test_the_teacher_computes_in_bfloat16_too():
    "The types that products come in are those of the student and of its teacher."
    seen = []
    teacher = LogitTeacher("tiny")
    teacher.lm.model.model.layers[0].mlp.up_proj.register_forward_hook(lambda *a: seen.append(a[-1].dtype))
    distill(teacher, "tiny-small", [dict(r) for r in FEW], epochs=1, batch_size=8, alpha=1.0, bf16=True)
    assert torch.bfloat16 in seen


@pytest.mark.parametrize("stage, rows", STAGES, ids=lambda x: getattr(x, "__name__", None))
def test_rows_without_their_padding_train_the_same(stage, rows, monkeypatch):
    padded = train(stage, rows, bf16=False)
    monkeypatch.setattr(precision, "LARGE", 1)
    unpadded = train(stage, rows, bf16=False)
    for name in ("loss", "eval_loss"):
        a, b = log(padded, name), log(unpadded, name)
        assert b[0] == pytest.approx(a[0], rel=1e-4) and sum(b) == pytest.approx(sum(a), rel=0.02)


@pytest.mark.parametrize("bf16", [False, True])
def test_without_padding_dpo_starts_at_ln_2_to_the_last_digit(bf16, monkeypatch):
    monkeypatch.setattr(precision, "LARGE", 1)
    pairs = [dict(p, prompt=p["prompt"] * (1 + i % 4)) for i, p in enumerate(FEW_PAIRS)]
    after = align_dpo("tiny-small", pairs, epochs=1, batch_size=4, bf16=bf16)
    assert log(after, "loss")[0] == pytest.approx(math.log(2), abs=1e-7), "a row is the same in any batch"


HOW = dict(epochs=1, batch_size=4, learning_rate=1e-3, seed=0, validate=False, keep=False)


@pytest.fixture(params=["avx512_bf16", "amx_bf16", None])
def processor(request, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {request.param: True}, raising=False)
    return request.param


def test_bfloat16_needs_the_instruction_and_a_large_model(processor):
    assert fast_bfloat16() == bool(processor)
    assert bfloat16_by_default(precision.LARGE) == bool(processor)
    assert not bfloat16_by_default(precision.LARGE - 1) and not is_large(load("tiny").parameters)


def test_a_torch_that_does_not_say_means_float32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not fast_bfloat16() and not bfloat16_by_default(10**9)


def test_what_the_caller_asks_for_wins(processor, monkeypatch):
    monkeypatch.setattr(precision, "LARGE", 1)
    lm = load("tiny-small")
    chosen = lambda **config: training_arguments(lm, "runs/x", 100, **HOW, config=config)["bf16"]
    assert chosen() == bool(processor)
    assert chosen(bf16=True) and not chosen(bf16=False) and not chosen(fp16=True)


def test_one_line_for_a_large_model_and_none_for_a_small_one(processor, capsys):
    for asked in (True, False):
        say_precision("SFT", precision.LARGE, bool(processor), asked)
        assert capsys.readouterr().err.count("\n") == 1
    say_precision("SFT", precision.LARGE, False, False, frozen=True)
    assert capsys.readouterr().err.startswith("SFT computes in bfloat16")
    say_precision("SFT", precision.LARGE - 1, False, False)
    assert not capsys.readouterr().err
