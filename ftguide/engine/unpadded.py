"""Hidden states of a batch without computing its padding: rows stand in one line, and attend to themselves.

On a CPU, for large models in which only plain causal attention mixes tokens; others compute the padding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from ftguide.engine.precision import is_large

ROWS_APART = "ftguide_rows_apart"  # name of `rows_apart` in transformers' table of attention functions


def rows_apart(
    module, query, key, value, attention_mask, rows: list[int], dropout=0.0, scaling=None, **kwargs
) -> tuple:  # (1, T, heads, D), None
    "Causal attention inside each row; in float32, where the CPU's kernel is faster and exact."
    kind, grouped = query.dtype, query.shape[1] != key.shape[1]
    with torch.autocast(query.device.type, enabled=False):
        parts = zip(*(x.float().split(rows, 2) for x in (query, key, value)))
        attended = [
            F.scaled_dot_product_attention(
                *part, dropout_p=dropout, scale=scaling, is_causal=True, enable_gqa=grouped
            )
            for part in parts
        ]
    return torch.cat(attended, 2).to(kind).transpose(1, 2), None


AttentionInterface.register(ROWS_APART, rows_apart)


@contextmanager
def _attending(model: torch.nn.Module) -> Iterator[None]:
    "The attention function is looked up in the config at every call: ours, while the block runs."
    before, model.config._attn_implementation = model.config._attn_implementation, ROWS_APART
    try:
        yield
    finally:
        model.config._attn_implementation = before


def can_be_unpadded(model: torch.nn.Module) -> bool:
    "Is it large, on a CPU, and does each layer mix tokens by plain causal attention alone?"
    config = getattr(model, "config", None)
    if not hasattr(config, "get_text_config") or config.get_text_config() is not config:
        return False
    windows = ("sliding_window", "attention_chunk_size", "attn_logit_softcapping")
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        next(model.parameters()).device.type == "cpu"
        and is_large(sum(p.numel() for p in model.parameters()))
        and config._attn_implementation in ("sdpa", ROWS_APART)
        and getattr(model, "_supports_attention_backend", False)
        and not getattr(model, "_is_stateful", False)
        and not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        and layers == {"full_attention"}
        and not any(getattr(config, setting, None) for setting in windows)
    )


def last_states(
    model: torch.nn.Module,  # a causal language model
    inputs: dict[str, torch.Tensor],  # input_ids and attention_mask, (B, T), and what else its base takes
) -> torch.Tensor:  # (B, T, H), 0 at padding where the batch could be computed without
    "What the base model thinks at every token, before the output layer."
    mask = inputs.get("attention_mask")
    alone = set(inputs) <= {"input_ids", "attention_mask"} and mask is not None and mask.ndim == 2
    if not alone or not can_be_unpadded(model) or not mask.any(1).all():
        return model.base_model(**inputs, use_cache=False).last_hidden_state
    seen = mask.bool()
    rows = seen.sum(1).tolist()
    positions = torch.cat([torch.arange(length) for length in rows])
    with _attending(model):
        states = model.base_model(
            input_ids=inputs["input_ids"][seen][None],
            position_ids=positions[None],
            rows=rows,
            use_cache=False,
        ).last_hidden_state
    return states.new_zeros(*seen.shape, states.shape[-1]).masked_scatter(seen[..., None], states)
