"What is no causal language model is refused in one line."

import pytest
import torch
from architectures import BERT, CONFIGS, IDS, LLAMA, random_model
from transformers import AutoConfig, AutoModelForCausalLM

from ftguide.engine.causal import check_causal, check_config, check_tokens
from ftguide.engine.model_folders import ModelError
from ftguide.models import load

REFUSED = {
    "t5": (dict(d_model=32), "encoder-decoder"),
    "bart": (dict(d_model=32), "encoder-decoder"),
    "bert": (BERT, "both directions"),
    "roberta": (BERT, "both directions"),
    "electra": (BERT, "both directions"),
    "llama": (dict(LLAMA, architectures=["LlamaForSequenceClassification"]), "SequenceClassification"),
    "qwen2": (dict(LLAMA, architectures=["Qwen2ForTokenClassification"]), "TokenClassification"),
    "modernbert": ({}, "no causal language model"),
    "vit": ({}, "no causal language model"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_kinds_are_refused_by_their_config(kind):
    settings, says = REFUSED[kind]
    with pytest.raises(ModelError, match=says) as e:
        check_config("x/y", AutoConfig.for_model(kind, **settings))
    said = str(e.value)
    assert said.startswith("x/y ") and "\n" not in said and "Take a causal language model" in said


@pytest.mark.parametrize("kind", CONFIGS)
def test_causal_ones_pass(kind):
    model = random_model(kind)
    check_config(kind, model.config)
    check_causal(kind, model)
    model.bfloat16()
    check_causal(kind, model)


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "xlnet"])
def test_what_sees_what_comes_later_is_found_by_what_it_does(kind):
    sizes = dict(**IDS, d_model=32, n_layer=2, n_head=4, d_inner=64) if kind == "xlnet" else BERT
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).eval()
    with pytest.raises(ModelError, match="reads in both directions") as e:
        check_causal("x/y", model)
    assert "\n" not in str(e.value)


def test_tokens_beyond_the_embeddings():
    lm = load("tiny-small").copy()
    check_tokens("x", lm.model, lm.tokenizer)
    lm.model.resize_token_embeddings(1088)
    check_tokens("x", lm.model, lm.tokenizer)
    lm.model.resize_token_embeddings(1024)
    lm.tokenizer.add_tokens(["<tool>", "</tool>"])
    with pytest.raises(
        ModelError, match=r"ids up to 1,025, .* 1,024 tokens.*resize_token_embeddings\(1026\)"
    ):
        check_tokens("x", lm.model, lm.tokenizer)
