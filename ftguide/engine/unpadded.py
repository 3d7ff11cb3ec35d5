"""Hidden states of a batch without its padding: rows stand in one line, and attend to themselves.

What two answers to a prompt begin with is computed once. On a CPU, for large models with plain attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from ftguide.engine.precision import is_large

ROWS_APART = "ftguide_rows_apart"  # name of `rows_apart` in transformers' table of attention functions
SHARED = 16  # tokens that two rows begin with, from which on they are computed once


class Part(NamedTuple):
    "Where a row's own tokens stand in the line, and those of another row that it begins with."

    start: int
    length: int
    before: int = 0  # start of the other row
    shared: int = 0  # how many of its tokens


def rows_apart(
    module, query, key, value, attention_mask, rows: list[Part], dropout=0.0, scaling=None, **kwargs
) -> tuple:  # (1, T, heads, D), None
    "Causal attention inside each row; in float32, where the CPU's kernel is faster and exact."
    kind = query.dtype
    how = dict(dropout_p=dropout, scale=scaling, enable_gqa=query.shape[1] != key.shape[1])
    with torch.autocast(query.device.type, enabled=False):
        query, key, value = query.float(), key.float(), value.float()
        attended = [_attended(query, key, value, part, how).transpose(1, 2) for part in rows]
    return torch.cat(attended, 1).to(kind), None


def _attended(query, key, value, part: Part, how: dict) -> torch.Tensor:  # (1, heads, T, D)
    query, key_own, value_own = (x.narrow(2, part.start, part.length) for x in (query, key, value))
    if not part.shared:
        return F.scaled_dot_product_attention(query, key_own, value_own, is_causal=True, **how)
    key, value = (
        torch.cat((x.narrow(2, part.before, part.shared), own), 2)
        for x, own in ((key, key_own), (value, value_own))
    )
    seen = torch.ones(part.length, part.shared + part.length, dtype=torch.bool).tril(part.shared)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, **how)


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
    in_pairs: bool = False,  # do the first half of the rows and the second begin alike, one by one?
) -> torch.Tensor:  # (B, T, H), 0 at padding where the batch could be computed without
    "What the base model thinks at every token, before the output layer."
    mask = inputs.get("attention_mask")
    alone = set(inputs) <= {"input_ids", "attention_mask"} and mask is not None and mask.ndim == 2
    if not alone or not can_be_unpadded(model) or not mask.any(1).all():
        return model.base_model(**inputs, use_cache=False).last_hidden_state
    seen = mask.bool()
    rows = [ids[there] for ids, there in zip(inputs["input_ids"], seen)]
    parts = _in_line(rows, in_pairs and len(rows) % 2 == 0)
    with _attending(model):
        states = model.base_model(
            input_ids=torch.cat([row[part.shared :] for row, part in zip(rows, parts)])[None],
            position_ids=torch.cat([_own(part) for part in parts])[None],
            rows=parts,
            use_cache=False,
        ).last_hidden_state[0]
    if any(part.shared for part in parts):
        states = states.index_select(0, torch.cat([place for part in parts for place in _places(part)]))
    return states.new_zeros(*seen.shape, states.shape[-1]).masked_scatter(seen[..., None], states)


def _in_line(rows: list[torch.Tensor], in_pairs: bool) -> list[Part]:
    "One row behind the other, without what the second of a pair has in common with the first."
    parts, start = [], 0
    half = len(rows) // 2 if in_pairs else len(rows)
    for number, row in enumerate(rows):
        before = shared = 0
        if number >= half:
            before, shared = parts[number - half].start, _beginning_alike(rows[number - half], row)
        parts.append(Part(start, len(row) - shared, before, shared))
        start += len(row) - shared
    return parts


def _beginning_alike(a: torch.Tensor, b: torch.Tensor) -> int:  # tokens; each row keeps one of its own
    most = min(len(a), len(b)) - 1
    differs = (a[:most] != b[:most]).nonzero()
    shared = int(differs[0]) if len(differs) else most
    return shared if shared >= SHARED else 0


def _own(part: Part) -> torch.Tensor:  # positions of a row's own tokens
    return torch.arange(part.shared, part.shared + part.length)


def _places(part: Part) -> tuple[torch.Tensor, torch.Tensor]:  # in the line, of all tokens of a row
    return (
        torch.arange(part.before, part.before + part.shared),
        torch.arange(part.start, part.start + part.length),
    )
