"A decoder with some of its layers: which list they are in, what each of them does, and what counts them."

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch.nn import ModuleList
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedConfig, PreTrainedModel

from ftguide.engine.model_folders import ModelError, first_line

POSITION = ("layer_idx", "layer_id")  # where a layer keeps its own number, by which the cache finds its place
PASSING = ("training", "gradient_checkpointing")  # states of a module that no config describes
ANOTHER = "take a smaller pretrained model with the same tokenizer as the student"


def layer_list(model: PreTrainedModel) -> ModuleList:
    "The list of a decoder's layers; ModelError when there is none, or more than one."
    count = model.config.get_text_config().num_hidden_layers
    lists = [(n, m) for n, m in model.named_modules() if isinstance(m, ModuleList) and len(m) == count]
    outermost = [m for n, m in lists if not any(n.startswith(f"{other}.") for other, _ in lists)]
    if len(outermost) != 1:
        raise ModelError(
            f"{type(model).__name__} has {len(outermost)} lists of {count} layers, "
            f"so it is not known which to shorten; {ANOTHER}"
        )
    return outermost[0]


def with_layers(
    model: PreTrainedModel,  # never changed
    kept: Sequence[int],  # numbers of layers, ascending
) -> PreTrainedModel:
    """A copy with these layers, and everything else; the others are never copied.

    ModelError where a layer would do something else in its new place once the copy is saved and loaded."""
    layers, memo = layer_list(model), {}
    memo[id(layers)] = ModuleList(copy.deepcopy(layers[i], memo) for i in kept)
    student = copy.deepcopy(model, memo)
    _shorten(student.config.get_text_config(), len(layers), kept)
    if place := _follow(student, _as_read_back(student), layer_list(student)):
        raise ModelError(
            f"{type(model).__name__} decides by a layer's place what is in it ({place}), "
            f"so layers cannot be taken out of it; {ANOTHER}"
        )
    return student


@torch.no_grad()
def layer_influence(
    model: PreTrainedModel,
    texts: Iterable[torch.Tensor],  # (1, T) token ids of each
) -> list[float]:  # of each layer, 0..2; 0 leaves what it reads as it is
    "How far each layer turns the stream: 1 - cosine of what it reads and writes (Men et al. 2024, eq. 1)."
    layers = layer_list(model)
    turned, tokens = torch.zeros(len(layers)), 0

    def measure(number, module, inputs, named, output):
        before = inputs[0] if inputs else named["hidden_states"]
        after = output[0] if isinstance(output, tuple) else output
        turned[number] += (1 - cosine_similarity(before.float(), after.float(), dim=-1)).sum().cpu()

    hooks = [
        layer.register_forward_hook(partial(measure, number), with_kwargs=True)
        for number, layer in enumerate(layers)
    ]
    try:
        for ids in texts:
            tokens += ids.numel()
            model(input_ids=ids.to(model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return (turned / max(tokens, 1)).tolist()


def _shorten(config: PreTrainedConfig, count: int, kept: Sequence[int]) -> None:
    "Write the new number of layers, and leave the others out of lists with an entry for each layer."
    for name, value in list(vars(config).items()):
        if "layer" in name and isinstance(value, (list, tuple)) and len(value) == count:
            setattr(config, name, [value[i] for i in kept])
    config.num_hidden_layers = len(kept)


def _as_read_back(model: PreTrainedModel) -> PreTrainedModel:
    "The model that the saved config describes, without weights."
    try:
        config = type(model.config).from_dict(model.config.to_dict())
        config._attn_implementation = model.config._attn_implementation
        with torch.device("meta"):
            return type(model)._from_config(config)
    except Exception as e:  # each architecture checks its config in its own way
        raise ModelError(
            f"no config describes a {type(model).__name__} without these layers ({first_line(e)}); {ANOTHER}"
        ) from e


def _follow(student: PreTrainedModel, described: PreTrainedModel, layers: ModuleList) -> str:
    """Number the layers anew, and set outside of them what the config decides.

    Names the first module, setting or shape of a layer that differs from what the config describes."""
    ours, theirs = dict(student.named_modules()), dict(described.named_modules())
    inside = set(layers.modules())
    if missing := sorted(ours.keys() ^ theirs.keys()):
        return missing[0]
    for name, module in ours.items():
        if type(module) is not type(theirs[name]):
            return name
        for setting, value in vars(theirs[name]).items():
            if not isinstance(value, (bool, int, float, str)) or setting in PASSING:
                continue
            if setting in POSITION or module not in inside:
                setattr(module, setting, value)
            elif vars(module).get(setting) != value:
                return f"{name}.{setting}"
        for weight, parameter in theirs[name].named_parameters(recurse=False):
            if getattr(module, weight).shape != parameter.shape:
                return f"{name}.{weight}"
    return ""
