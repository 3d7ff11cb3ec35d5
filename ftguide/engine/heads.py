"""What a model does between its last hidden states and its scores: found by trying it, not by names.

Some only multiply, some scale and cap as TRL knows, and some do what nobody outside knows."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch

MULTIPLIES, SCALES, OWN = "multiplies", "scales", "own"
SIZES = (1.0, 30.0, 1000.0)  # of the largest score that is tried: caps bend the large, scales move all
_found: WeakKeyDictionary = WeakKeyDictionary()


def head_kind(model: torch.nn.Module) -> str:
    """`MULTIPLIES`: the output layer is all there is; `SCALES`: TRL's scale and cap after it; `OWN`: neither.

    A model is tried once."""
    if model not in _found:
        _found[model] = _tried(model)
    return _found[model]


def _tried(model: torch.nn.Module) -> str:
    layer = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    layer = getattr(model, "lm_head", None) if layer is None else layer
    if layer is None or not hasattr(model, "base_model"):
        return OWN
    training = {module: module.training for module in model.modules()}
    device = next(layer.parameters()).device
    try:
        model.eval()
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return _kind(model, layer, torch.arange(1, 1 + len(SIZES), device=device)[None])
    except Exception:  # it wants what it was not given: it is left to itself
        return OWN
    finally:
        for module, was in training.items():
            module.training = was


def _kind(model: torch.nn.Module, layer: torch.nn.Module, ids: torch.Tensor) -> str:
    "Put states of known size before the output layer, and see what the model makes of them."
    given, shown = [], []

    def replace(_, inputs):
        given.append(inputs[0])
        drawn = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(0)).to(inputs[0])
        largest = layer(drawn).abs().amax(-1, keepdim=True).clamp(min=1e-9)
        shown.append(drawn * torch.tensor(SIZES).to(drawn)[None, :, None] / largest)
        return (shown[0], *inputs[1:])

    states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    hook = _once_before(layer, replace)
    try:
        scores = type(model).forward(model, input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    if not given or not _alike(given[0], states):
        return OWN
    plain = layer(shown[0])
    if _alike(scores, plain):
        return MULTIPLIES
    return SCALES if _alike(scores, _as_trl_knows(model, plain)) else OWN


def _once_before(layer: torch.nn.Module, replace):
    "The hook tries the layer itself: it acts on the first call only."
    state = dict(done=False)

    def before(module, inputs):
        if state["done"]:
            return None
        state["done"] = True
        return replace(module, inputs)

    return layer.register_forward_pre_hook(before)


def _alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    "The same at each position, but for rounding?"
    if a.shape != b.shape:
        return False
    a, b = a.float(), b.float()
    return bool(((a - b).norm(dim=-1) <= 0.03 * b.norm(dim=-1) + 1e-9).all())


def _as_trl_knows(model: torch.nn.Module, scores: torch.Tensor) -> torch.Tensor:
    "The scale and the cap that TRL reads from a config (`trl.trainer.utils.add_fused_lm_head`)."
    config = model.config.get_text_config()
    names = ("logit_scale", "output_multiplier", "lm_head_multiplier")
    scale = next((s for s in (getattr(config, name, None) for name in names) if s is not None), None)
    if scale is None and getattr(config, "logits_scaling", None) is not None:
        scaling = config.logits_scaling
        scale = scaling if config.model_type == "hyperclovax" else 1 / scaling
    scores = scores if scale is None else scores * scale
    cap = getattr(config, "final_logit_softcapping", None)
    return scores if cap is None else cap * torch.tanh(scores / cap)
