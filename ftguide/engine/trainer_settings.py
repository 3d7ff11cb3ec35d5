"""Settings of a trainer's config: which decide the result, which act too late to be meant, how many steps."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from ftguide.engine.environment import processes
from ftguide.engine.files import fingerprint
from ftguide.engine.scoring import weights_fingerprint
from ftguide.models import LM

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import TrainingArguments

# ---- the identity of a run

# What is not named here decides the result, so that a setting of a newer library is not forgotten.
_WRITTEN = """
output_dir run_name project report_to trackio_space_id trackio_bucket_id trackio_static_space_id push_to_hub
hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision logging_strategy
logging_steps logging_first_step log_on_each_node logging_nan_inf_filter log_level log_level_replica
disable_tqdm include_num_input_tokens_seen debug skip_memory_metrics log_completions log_completions_steps
num_completions_to_print log_unique_prompts wandb_log_unique_prompts callbacks save_total_limit
save_only_model save_on_each_node enable_jit_checkpoint restore_callback_states_from_checkpoint
resume_from_checkpoint do_train do_eval do_predict
"""
_WHERE_AND_HOW_FAST = """
dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
dataloader_multiprocessing_context dataset_num_proc gradient_checkpointing gradient_checkpointing_kwargs
activation_checkpointing activation_checkpointing_kwargs activation_offloading torch_empty_cache_steps
torch_compile torch_compile_backend torch_compile_mode use_cpu use_cache local_rank ddp_backend ddp_timeout
ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_find_unused_parameters ds3_gather_for_generation
precompute_ref_log_probs precompute_ref_batch_size
"""
_LOADED_BY_THE_GUIDE = """
model_init_kwargs trust_remote_code teacher_model_name_or_path teacher_model_revision
teacher_model_init_kwargs teacher_tokenizer_name_or_path
"""
_VALIDATION = """
eval_strategy eval_steps eval_delay eval_on_start eval_packing eval_accumulation_steps eval_do_concat_batches
eval_use_gather_object per_device_eval_batch_size load_best_model_at_end metric_for_best_model
greater_is_better save_strategy save_steps bf16_full_eval fp16_full_eval prediction_loss_only
include_for_metrics batch_eval_metrics
"""
SAME_RESULT = frozenset([*_WRITTEN.split(), *_WHERE_AND_HOW_FAST.split(), *_LOADED_BY_THE_GUIDE.split()])
OF_VALIDATION = frozenset(_VALIDATION.split())  # they decide nothing where no best model is looked for


def deciding(
    arguments: TrainingArguments,
    validate: bool,  # is there validation data?
    rows_meet: bool = False,  # do rows of one batch enter each other's loss, or are answers drawn for it?
) -> dict[str, Any]:
    """The settings that decide a result.

    Of batch size, gradient accumulation and processes it is their product, the rows of a step: halving the
    one and doubling the other sums the same losses in another order. Not so where rows meet in a batch."""
    found = {name: value for name, value in arguments.to_dict().items() if name not in SAME_RESULT}
    if not validate:
        found = {name: value for name, value in found.items() if name not in OF_VALIDATION}
    found["epochs"] = found.pop("num_train_epochs")
    batch, accumulated = found.pop("per_device_train_batch_size"), found.pop("gradient_accumulation_steps")
    found["batch_size"] = batch * accumulated * processes()[1]
    if rows_meet:
        found["per_device_train_batch_size"] = batch
    return found


def model_fingerprint(lm: LM) -> str:
    "Digits of a model's weights and config; the same whatever it is called and wherever it lies."
    config = {
        name: value
        for name, value in lm.model.config.to_dict().items()
        if name not in ("_name_or_path", "transformers_version", "dtype")
    }
    return fingerprint([weights_fingerprint(lm), config])


def adapter_settings(lora: LoraConfig | None) -> dict[str, Any] | None:
    "What decides how an adapter is trained."
    return lora and {k: v for k, v in lora.to_dict().items() if k != "base_model_name_or_path"}


def as_json(record: dict) -> dict:
    "As a JSON file gives it back, so that what was kept and what is asked for can be compared."
    in_order = lambda value: sorted(map(str, value)) if isinstance(value, set) else str(value)
    return json.loads(json.dumps(record, default=in_order))


# ---- settings that are refused

_TOO_LATE = "acts after the rows were turned into tokens, so what was checked would not be trained"
_GIVEN = "would be ignored, because the model is loaded already"
REFUSED = {  # name -> why, and what to do instead
    "chat_template_path": f"{_TOO_LATE}; set model.tokenizer.chat_template before",
    "chat_template_kwargs": f"{_TOO_LATE}; put them into the chat template",
    "eos_token": f"{_TOO_LATE}; set model.tokenizer.eos_token before",
    "pad_token": f"{_TOO_LATE}; set model.tokenizer.pad_token before",
    "dataset_text_field": "would be ignored; name the column text, or prompt and completion",
    "dataset_kwargs": "would be ignored: the rows come in tokens; prepare them before",
    "model_init_kwargs": f"{_GIVEN}; give them to load()",
    "trust_remote_code": f"{_GIVEN}, and code that comes with a model is never run",
    "teacher_model_name_or_path": f"{_GIVEN}; it is the argument teacher",
    "teacher_model_revision": f"{_GIVEN}; load the teacher from a folder of that revision",
    "teacher_model_init_kwargs": f"{_GIVEN}; give them to load()",
    "teacher_tokenizer_name_or_path": f"{_GIVEN}; its tokenizer is teacher.tokenizer",
    "resume_from_checkpoint": "would be ignored; say resume=True, with the output_dir of that run",
}
OF_DISTILLATION = {  # there, the guide has other names for them, or no row in which they could act
    "max_completion_length": "is called max_new_tokens here",
    "beta": "is called divergence here",
    "completion_only_loss": "would be ignored: prompts are never scored here",
    "assistant_only_loss": "would be ignored: prompts are never scored here",
}


def check_config(config: dict, *others: dict):  # others: like REFUSED
    "ValueError when a setting is given that would not act, or not on what was checked."
    for name, why in {**REFUSED, **{k: v for more in others for k, v in more.items()}}.items():
        if config.get(name) not in (None, False):
            raise ValueError(f"{name} {why}")
    if config.get("completion_only_loss") is False and config.get("assistant_only_loss"):
        raise ValueError(
            "completion_only_loss=False scores the prompts and assistant_only_loss=True does not; give one"
        )


# ---- steps


def planned_steps(
    n: int,  # rows
    epochs: float,
    batch_size: int,  # rows a process reads at once
    config: dict,  # what goes to the trainer's config, and wins
) -> tuple[int, int]:  # (steps, of which warm-up)
    "How many steps transformers' Trainer will make: one for all batches of a gradient, in all processes."
    batch = config.get("per_device_train_batch_size", batch_size) * processes()[1]
    batches = n // batch if config.get("dataloader_drop_last") else math.ceil(n / batch)
    an_epoch = math.ceil(batches / config.get("gradient_accumulation_steps", 1))
    steps = math.ceil(an_epoch * config.get("num_train_epochs", epochs))
    if config.get("max_steps", -1) >= 0:
        steps = config["max_steps"] if batches else 0
    warmup = config.get("warmup_steps", 0.1)
    return steps, math.ceil(steps * warmup) if warmup < 1 else int(warmup)
