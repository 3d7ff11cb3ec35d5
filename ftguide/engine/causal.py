"""Is it a causal language model: by its config before its weights are read, and by what it does afterwards.

Stands on model_folders. What is none is refused in one line: which model, why, and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from ftguide.engine.model_folders import ModelError

TAKE = "Take a causal language model, one that continues a text (its config.json names ...ForCausalLM)"
OTHER_HEADS = (
    r"For(SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice|NextSentencePrediction)"
)
NOTICEABLE = {torch.float32: 1e-3, torch.float64: 1e-3}  # of the scores' spread; for coarser types, COARSE
COARSE = 0.05


def check_config(name: str | Path, config: PretrainedConfig) -> None:
    "ModelError when a config describes another kind of model."
    made_for = ", ".join(getattr(config, "architectures", None) or [])
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{name} is an encoder-decoder ({config.model_type}): one half reads a text, the other writes "
            f"another, and neither continues one. {TAKE}"
        )
    if re.search(OTHER_HEADS, made_for):
        raise ModelError(
            f"{name} is a {made_for}: it sorts texts, writes none, and its head would not be read. {TAKE}"
        )
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ModelError(
            f"{name} is a {made_for or config.model_type}, of which transformers has no causal language model"
            f". {TAKE}"
        )
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", True):
        raise ModelError(
            f"{name} reads in both directions (is_decoder is false in its config.json): it fills gaps, and "
            f"each of its tokens sees those that follow. {TAKE}"
        )


def check_causal(name: str | Path, model: PreTrainedModel) -> None:
    "ModelError when what comes later changes what a model says before it."
    width = model.get_input_embeddings().num_embeddings
    ids = torch.linspace(width // 4, width - 1, 8).long()
    other = torch.cat([ids[:6], ids[:2]])
    batch = torch.stack([ids, other]).to(model.device)
    try:
        with torch.no_grad():
            said = model(input_ids=batch, use_cache=False).logits[:, :6].float()
    except Exception:  # one that cannot read eight tokens says why where it is used
        return
    sees = (said[0] - said[1]).abs().max() / said.std()
    if sees > NOTICEABLE.get(model.dtype, COARSE):
        raise ModelError(
            f"{name} reads in both directions: another token at the end changes what it says before it, so "
            f"it is no causal language model. {TAKE}"
        )


def check_tokens(name: str | Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    "ModelError when the tokenizer writes ids that the model has no embedding for."
    known = model.get_input_embeddings().num_embeddings
    written = max([len(tokenizer), *(i + 1 for i in getattr(tokenizer, "added_tokens_decoder", {}))])
    if written > known:
        raise ModelError(
            f"{name}: the tokenizer writes ids up to {written - 1:,}, and the model has embeddings for "
            f"{known:,} tokens. They are not of one model, or tokens were added: "
            f"model.resize_token_embeddings({written}), and save both"
        )
