"""LoRA adapters (Hu et al. 2021): their settings, and what an adapter and its base make together."""

from __future__ import annotations

import torch
from peft import LoraConfig, PeftModel


def adapter(lora: bool | LoraConfig | None) -> LoraConfig | None:
    "The adapter's settings: True takes rank 8 on every linear layer."
    return LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear") if lora is True else lora or None


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
