"Some layers of a decoder: the copy generates, is saved and loaded, and is what it says it is."

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    Qwen2Config,
    T5Config,
    T5ForConditionalGeneration,
)

from ftguide.engine.layers import layer_influence, layer_list, with_layers
from ftguide.engine.model_folders import ModelError

SMALL = dict(vocab_size=64, num_hidden_layers=6, hidden_size=32, num_attention_heads=4, pad_token_id=0)
SMALL |= dict(intermediate_size=48, bos_token_id=1, eos_token_id=2)
GROUPED = dict(SMALL, num_key_value_heads=2, head_dim=8)
GPT2 = dict(vocab_size=64, n_layer=6, n_embd=32, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)
FAMILIES = dict(
    llama=LlamaConfig(**GROUPED, tie_word_embeddings=True),
    qwen=Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=8, max_window_layers=3),
    gemma2=Gemma2Config(**GROUPED, sliding_window=8),
    gemma3=Gemma3TextConfig(**GROUPED, sliding_window=8),
    gpt2=GPT2Config(**GPT2),
    neox=GPTNeoXConfig(**SMALL, max_position_embeddings=64),
    opt=OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=64),
    experts=MixtralConfig(**GROUPED, num_local_experts=6, num_experts_per_tok=2),
)


def made(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kept", [(0, 2, 5), (1, 2)])
def test_the_copy_generates_and_is_saved_and_loaded(family, kept, tmp_path):
    model = made(FAMILIES[family])
    before, config = {k: v.clone() for k, v in model.state_dict().items()}, model.config.to_dict()
    student = with_layers(model, kept)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert model.config.to_dict() == config and len(layer_list(student)) == len(kept)
    torch.manual_seed(1)
    ids = torch.randint(3, 64, (1, 20))
    longer = dict(max_new_tokens=12, min_new_tokens=12, do_sample=False)
    assert torch.equal(student.generate(ids, **longer), student.generate(ids, **longer, use_cache=False))
    student.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.allclose(again(ids).logits, student(ids).logits, atol=1e-5)


def test_each_layer_is_the_one_that_was_named():
    model = made(FAMILIES["gemma2"])
    student = with_layers(model, (1, 4, 5))
    for place, number in enumerate((1, 4, 5)):
        ours, theirs = layer_list(student)[place], layer_list(model)[number]
        for one, other in zip(ours.parameters(), theirs.parameters()):
            assert torch.equal(one, other) and one is not other
        assert ours.self_attn.layer_idx == place
        assert ours.self_attn.sliding_window == theirs.self_attn.sliding_window
    kinds = model.config.layer_types
    assert student.config.layer_types == [kinds[1], kinds[4], kinds[5]]


def test_all_layers_are_the_model_itself():
    model = made(FAMILIES["qwen"])
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        assert torch.equal(with_layers(model, range(6))(ids).logits, model(ids).logits)


def test_shared_embeddings_stay_shared():
    student = with_layers(made(FAMILIES["llama"]), (0, 5))
    assert student.lm_head.weight is student.model.embed_tokens.weight


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(**GPT2, scale_attn_by_inverse_layer_idx=True),
        DeepseekV3Config(
            **dict(SMALL, num_key_value_heads=4),
            moe_intermediate_size=16,
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_group=1,
            topk_group=1,
            first_k_dense_replace=2,
            kv_lora_rank=8,
            q_lora_rank=8,
            qk_rope_head_dim=4,
            qk_nope_head_dim=8,
            v_head_dim=8,
        ),
    ],
    ids=["scaled by place", "first layers of another kind"],
)
def test_a_layer_that_depends_on_its_place_is_refused(config):
    with pytest.raises(ModelError, match="by a layer's place") as refused:
        with_layers(made(config), (0, 2, 5))
    assert "\n" not in str(refused.value)


def test_two_lists_of_layers_are_refused():
    config = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4)
    with pytest.raises(ModelError, match="has 2 lists of 3 layers"):
        layer_list(T5ForConditionalGeneration(config))


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
def test_a_layer_that_adds_nothing_has_no_influence(family):
    model = made(FAMILIES[family])
    with torch.no_grad():
        for name, weight in layer_list(model)[3].named_parameters():
            if any(part in name for part in ("o_proj", "down_proj", "c_proj", "dense.", "dense_4h_to_h")):
                weight.zero_()
    found = layer_influence(model, [torch.arange(3, 23)[None], torch.arange(5, 12)[None]])
    assert len(found) == 6 and abs(found[3]) < 1e-6 and all(x > 1e-5 for i, x in enumerate(found) if i != 3)
    assert not layer_list(model)[0]._forward_hooks
