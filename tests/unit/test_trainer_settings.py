"Which settings of a trainer's config decide a result, which are refused, and how many steps they make."

from dataclasses import fields

import pytest
import torch
from peft import LoraConfig
from transformers import TrainingArguments
from trl import DistillationConfig, DPOConfig, KTOConfig, SFTConfig

from ftguide.engine.trainer_settings import (
    OF_DISTILLATION,
    OF_VALIDATION,
    REFUSED,
    SAME_RESULT,
    adapter_settings,
    as_json,
    check_config,
    deciding,
    model_fingerprint,
    planned_steps,
)
from ftguide.engine.trainers import GOLDConfig
from ftguide.models import load

CONFIGS = [TrainingArguments, SFTConfig, DPOConfig, KTOConfig, DistillationConfig, GOLDConfig]
SHARED_OUT = {"per_device_train_batch_size", "gradient_accumulation_steps"}  # their product decides


def settings(config=SFTConfig, **given):
    return config(output_dir="unused", use_cpu=True, bf16=False, **given)


def test_no_name_is_misspelt():
    known = {field.name for config in CONFIGS for field in fields(config)}
    assert known >= SAME_RESULT | OF_VALIDATION | OF_DISTILLATION.keys()
    assert known | {"chat_template_path"} >= REFUSED.keys()
    assert not SAME_RESULT & OF_VALIDATION


@pytest.mark.parametrize("config", CONFIGS)
def test_every_other_setting_decides(config):
    "Whatever field a config has: a change of it is seen, unless it is known to change nothing."
    made = settings(config)
    for validate in (True, False):
        before = as_json(deciding(made, validate))
        for field in fields(config):
            if not field.init or field.name == "parallelism_config":  # an object of accelerate
                continue
            was = getattr(made, field.name)
            setattr(made, field.name, 3 if field.name in SHARED_OUT else "another value")
            after = as_json(deciding(made, validate))
            setattr(made, field.name, was)
            nothing = field.name in SAME_RESULT or (not validate and field.name in OF_VALIDATION)
            assert (after == before) is (nothing or field.name.endswith("_token")), field.name


def test_rows_of_a_step_may_be_shared_out_anew_unless_they_meet(monkeypatch):
    whole = settings(per_device_train_batch_size=8)
    halves = settings(per_device_train_batch_size=4, gradient_accumulation_steps=2)
    assert deciding(whole, False) == deciding(halves, False) and deciding(whole, False)["batch_size"] == 8
    assert deciding(whole, False, rows_meet=True) != deciding(halves, False, rows_meet=True)
    four = settings(per_device_train_batch_size=4)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert deciding(four, False)["batch_size"] == 8


def test_a_model_is_its_weights_and_its_config():
    lm, other = load("tiny-small"), load("tiny-small").copy()
    assert model_fingerprint(lm) == model_fingerprint(other)
    other.model.config.rms_norm_eps = 0.1
    assert model_fingerprint(lm) != model_fingerprint(other)
    changed = lm.copy()
    next(changed.model.parameters()).data[0, 0] += 1
    assert model_fingerprint(lm) != model_fingerprint(changed)
    assert model_fingerprint(load("tiny-small", dtype="bfloat16").copy()) != ""
    assert lm.model.dtype == torch.float32


def test_an_adapter_has_the_same_record_in_every_process():
    "A set has no order that two processes share."
    names = {"q_proj", "v_proj", "o_proj"}
    record = as_json(adapter_settings(LoraConfig(target_modules=names)))
    assert record["target_modules"] == sorted(names) and adapter_settings(None) is None
    assert record != as_json(adapter_settings(LoraConfig(target_modules=names, r=4)))


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_act_too_late_or_not_at_all_is_refused(name):
    with pytest.raises(ValueError, match=f"^{name} "):
        check_config({name: "something"})
    check_config({name: None})


def test_a_distillation_refuses_more():
    check_config(dict(beta=0.1, completion_only_loss=False))
    with pytest.raises(ValueError, match="beta is called divergence"):
        check_config(dict(beta=0.1), OF_DISTILLATION)
    with pytest.raises(ValueError, match="give one"):
        check_config(dict(completion_only_loss=False, assistant_only_loss=True))


def test_several_processes_make_fewer_steps(monkeypatch):
    assert planned_steps(64, 1, 4, {}) == (16, 2)
    assert planned_steps(64, 1, 4, dict(gradient_accumulation_steps=4)) == (4, 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert planned_steps(64, 1, 4, dict(gradient_accumulation_steps=4)) == (2, 1)
