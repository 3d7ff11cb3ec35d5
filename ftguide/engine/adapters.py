"""LoRA adapters (Hu et al. 2021): their settings, and what an adapter and its base make together.

Stands on model_folders. Also adapters in folders, as PEFT saves them."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from ftguide.engine.model_folders import ADAPTER, ModelError

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel


def adapter(lora: bool | LoraConfig | None) -> LoraConfig | None:
    "The adapter's settings: True takes rank 8 on every linear layer. A copy: peft writes into what it gets."
    from peft import LoraConfig  # takes a second, and few who load a model need it

    if lora is True:
        return LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
    return copy.deepcopy(lora) or None


def merged(model: PeftModel):  # -> the model with its adapter inside
    """Base and adapter added up, in float32.

    Weights of fewer bits become float32 first: rounded again, most of what was learnt would be lost."""
    if not getattr(model, "is_quantized", False):
        return model.float().merge_and_unload()
    learnt = {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").float()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    base = model.unload().dequantize(torch.float32).float()
    for name, delta in learnt.items():
        base.get_submodule(name).weight.data += delta
    return base


def base_of(folder: Path) -> str:
    "The base that an adapter's folder names; ModelError when it names none, or is of another task."
    try:
        about = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        base, task = about.get("base_model_name_or_path"), about.get("task_type")
    except (OSError, ValueError, RecursionError, AttributeError) as e:
        raise ModelError(f"{folder}: {ADAPTER} cannot be read, so nobody knows what it is of") from e
    if task not in (None, "CAUSAL_LM"):
        raise ModelError(
            f"{folder} holds an adapter for the task {task!r}; only those of causal language models "
            "(CAUSAL_LM) are read"
        )
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"{folder} holds an adapter and does not say of which base; "
            f"write its folder or hub name into {ADAPTER} (base_model_name_or_path)"
        )
    if (Path(base) / ADAPTER).exists():
        raise ModelError(
            f"{folder} holds an adapter of {base!r}, which is an adapter itself; "
            "merge that one first: load it, save it, and name the saved folder"
        )
    return base


def with_adapter(model, folder: Path):  # -> the base with the adapter inside
    "The model of a base and of an adapter's folder; ModelError when they do not fit."
    from peft import PeftModel  # takes a second, and few folders need it

    rows = model.get_input_embeddings().num_embeddings
    if (needed := _embeddings_in(folder, rows)) > rows:
        model.resize_token_embeddings(needed, mean_resizing=False)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        wrapped = PeftModel.from_pretrained(model, folder, use_safetensors=True)
    if any("missing adapter keys" in str(warning.message) for warning in said):
        raise ModelError(f"{folder} does not fit its base: a part of the adapter's weights is missing")
    if not hasattr(wrapped.base_model, "merge_and_unload"):
        raise ModelError(
            f"{folder} holds an adapter that cannot be merged into a model "
            f"({wrapped.active_peft_config.peft_type})"
        )
    return wrapped.merge_and_unload(safe_merge=True)


def _embeddings_in(folder: Path, rows: int) -> int:
    "How many tokens the embeddings have that an adapter may bring: more than its base where some were added."
    with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        shapes = {key: weights.get_slice(key).get_shape() for key in weights.keys()}  # noqa: SIM118
    whole = [s for key, s in shapes.items() if "lora_" not in key and len(s) == 2 and "embed" in key]
    return max([rows, *(s[0] for s in whole)])
