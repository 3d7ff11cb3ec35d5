"Precision: bfloat16 is honoured wherever a stage computes, and float32 is untouched."

import math

import pytest
import torch
from stages import FEW, FEW_PAIRS, FEW_THUMBS, weights

from ftguide.distillation import distill
from ftguide.dpo import align_dpo, align_kto
from ftguide.engine.teachers import LogitTeacher
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
