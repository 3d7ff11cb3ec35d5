"""Where a model's forward differs for a while: it is put back when the block ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from trl.trainer.utils import FusedCausalLMOutput

from ftguide.engine.unpadded import last_states
from ftguide.models import plain_head

REPLACED = ("forward", "_original_forward")  # what TRL and accelerate set on a model they train


@contextmanager
def original_forward(model) -> Iterator[None]:
    "Put back, at the end of the block, the forward that the model had at its beginning."
    before = {name: model.__dict__[name] for name in REPLACED if name in model.__dict__}
    try:
        yield
    finally:
        for name in REPLACED:
            model.__dict__.pop(name, None)
        model.__dict__.update(before)


@contextmanager
def scored_only(model) -> Iterator[None]:
    """TRL's `fused_lm_head` forward projects only the scored positions while the block runs.

    A model whose head does more than multiply is left as it is, and so is a step that asks for the routers'
    loss."""
    if not plain_head(model):
        yield
        return
    with original_forward(model):
        model.forward = _scoring(model, model.forward)
        yield


def _scoring(model, theirs: Callable) -> Callable:
    def forward(*args, fused_lm_head=False, labels=None, **inputs):
        if not fused_lm_head:
            return theirs(*args, labels=labels, **inputs) if labels is not None else theirs(*args, **inputs)
        if inputs.get("shift_labels") is not None or inputs.get("output_router_logits"):
            return theirs(*args, fused_lm_head=True, labels=labels, **inputs)
        if args:
            states = model.base_model(*args, **{**inputs, "use_cache": False}).last_hidden_state
        else:
            states = last_states(model, {k: v for k, v in inputs.items() if k != "use_cache"}, in_pairs=True)
        return _scores(states[:, :-1], labels[:, 1:], model.lm_head)

    return forward


def _scores(
    states: torch.Tensor,  # (B, T - 1, H) hidden states
    targets: torch.Tensor,  # (B, T - 1) token ids; -100 = not scored
    head: torch.nn.Module,  # the output layer, H -> V
) -> FusedCausalLMOutput:  # each field (B, T - 1), 0 where not scored
    mask = targets != -100
    logits = head(states[mask]).float()  # (scored tokens, V)
    all_logps = logits.log_softmax(-1)

    def placed(values):
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    logps = placed(all_logps.gather(-1, targets[mask].unsqueeze(-1)).squeeze(-1))
    with torch.no_grad():
        return FusedCausalLMOutput(
            loss=-logps.sum() / mask.sum().clamp(min=1),
            log_probs=logps,
            entropy=placed(-(all_logps.exp() * all_logps).sum(-1)),
            log_sum_sq_probs=placed((2 * all_logps).logsumexp(-1)),
            mean_logits=placed(logits.mean(-1)),
            is_top1=placed(logits.argmax(-1) == targets[mask]),
            label_mask=mask,
        )
