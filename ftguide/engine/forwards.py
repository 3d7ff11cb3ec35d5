"""Where a model's forward differs for a while: it is put back when the block ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

import torch
from trl.trainer.utils import FusedCausalLMOutput

from ftguide.engine.heads import OWN, head_kind
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

    A model whose head does more than multiply is left as it is where TRL knows what, and else gives its own
    scores. A step that asks for the routers' loss is left to TRL."""
    if plain_head(model):
        with original_forward(model):
            model.forward = _scoring(model, model.forward)
            yield
        return
    with own_scores(model):
        yield


@contextmanager
def own_scores(model) -> Iterator[None]:
    "`give_own_scores` while the block runs."
    base = _base(model)
    if head_kind(base) != OWN:
        yield
        return
    with original_forward(base):
        give_own_scores(base)
        yield


def give_own_scores(model) -> None:
    """TRL's `fused_lm_head` forward takes the model's own scores, where its head does what TRL does not know.

    TRL would multiply by the output layer's weights and leave out the rest."""
    base = _base(model)
    if head_kind(base) == OWN:
        base.forward = _with_own_scores(base.forward)


def _base(model):
    "The model that TRL gives its forward to."
    return model.get_base_model() if hasattr(model, "get_base_model") else model


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
        targets = labels[:, 1:]
        mask = targets != -100
        return _scores(model.lm_head(states[:, :-1][mask]), targets, mask)

    return forward


def _with_own_scores(theirs: Callable) -> Callable:
    @wraps(theirs)  # `generate` looks at the parameters
    def forward(*args, fused_lm_head=False, labels=None, shift_labels=None, **inputs):
        if not fused_lm_head:
            given = dict(labels=labels, shift_labels=shift_labels)
            return theirs(*args, **inputs, **{k: v for k, v in given.items() if v is not None})
        inputs.pop("num_items_in_batch", None)
        made = theirs(*args, **inputs)
        scores, targets = made.logits, shift_labels
        if shift_labels is None:
            scores, targets = scores[:, :-1], labels[:, 1:]
        mask = targets != -100
        return _scores(scores[mask], targets, mask, getattr(made, "aux_loss", None))

    return forward


def _scores(
    logits: torch.Tensor,  # (scored tokens, V)
    targets: torch.Tensor,  # (B, T) token ids; -100 = not scored
    mask: torch.Tensor,  # (B, T) where they are scored
    aux_loss: torch.Tensor | None = None,  # of the routers
) -> FusedCausalLMOutput:  # each field (B, T), 0 where not scored
    logits = logits.float()
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
            aux_loss=aux_loss,
        )
