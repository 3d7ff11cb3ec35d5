"Small models of many architectures with random weights, and the shipped models' tokenizer."

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ftguide.models import LM, complete_tokenizer, load

IDS = dict(vocab_size=1024, pad_token_id=0, bos_token_id=1, eos_token_id=1)
LLAMA = dict(
    **IDS,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=256,
)
BERT = dict(
    vocab_size=1024,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    pad_token_id=0,
    max_position_embeddings=96,
    eos_token_id=1,
)
GPT2 = dict(**IDS, n_embd=32, n_layer=2, n_head=4, n_positions=96)
EXPERTS = dict(num_local_experts=4, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
LINEAR = dict(
    linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8
)
BART = dict(
    **IDS,
    d_model=32,
    decoder_layers=2,
    decoder_ffn_dim=64,
    decoder_attention_heads=4,
    is_decoder=True,
    is_encoder_decoder=False,
)

CONFIGS = {
    "llama": ("llama", LLAMA),
    "gpt2": ("gpt2", GPT2),
    "gpt_neo": (
        "gpt_neo",
        dict(
            **IDS,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            window_size=8,
            max_position_embeddings=96,
        ),
    ),
    "gptj": ("gptj", dict(GPT2, rotary_dim=4)),
    "opt": (
        "opt",
        dict(
            **IDS,
            hidden_size=32,
            ffn_dim=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=96,
            word_embed_proj_dim=16,
        ),
    ),
    "gpt_neox": ("gpt_neox", LLAMA),
    "gpt_bigcode": ("gpt_bigcode", GPT2),
    "bloom": ("bloom", dict(**IDS, hidden_size=32, n_layer=2, n_head=4)),
    "falcon": (
        "falcon",
        dict(
            **IDS,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            alibi=True,
            max_position_embeddings=256,
        ),
    ),
    "mpt": (
        "mpt",
        dict(
            **IDS,
            d_model=32,
            n_heads=4,
            n_layers=2,
            max_seq_len=96,
            expansion_ratio=2,
            tie_word_embeddings=True,
        ),
    ),
    "mistral": ("mistral", dict(LLAMA, sliding_window=8)),
    "gemma2": ("gemma2", dict(LLAMA, final_logit_softcapping=3.0, sliding_window=8)),
    "gemma3": ("gemma3_text", dict(LLAMA, sliding_window=8)),
    "qwen2": ("qwen2", LLAMA),
    "qwen3": ("qwen3", LLAMA),
    "qwen3_5": ("qwen3_5_text", dict(LLAMA, num_hidden_layers=4, **LINEAR)),
    "phi": ("phi", {k: v for k, v in LLAMA.items() if k not in ("num_key_value_heads", "head_dim")}),
    "phi3": ("phi3", LLAMA),
    "cohere": ("cohere", dict(LLAMA, logit_scale=0.25)),
    "granite": ("granite", dict(LLAMA, logits_scaling=4.0)),
    "mixtral": ("mixtral", dict(LLAMA, **EXPERTS)),
    "qwen2_moe": ("qwen2_moe", dict(LLAMA, **EXPERTS, shared_expert_intermediate_size=32)),
    "mamba": ("mamba", dict(**IDS, hidden_size=32, state_size=4, num_hidden_layers=2)),
    "rwkv": (
        "rwkv",
        dict(
            **IDS,
            context_length=256,
            hidden_size=32,
            attention_hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
        ),
    ),
    "recurrent_gemma": (
        "recurrent_gemma",
        dict(
            **IDS,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            lru_width=32,
            attention_window_size=16,
            logits_soft_cap=3.0,
        ),
    ),
    "lfm2": (
        "lfm2",
        dict(
            LLAMA,
            num_hidden_layers=4,
            block_multiple_of=8,
            layer_types=["conv", "conv", "full_attention", "conv"],
        ),
    ),
    "granite_hybrid": (
        "granitemoehybrid",
        dict(
            LLAMA,
            layer_types=["mamba", "attention"],
            mamba_n_heads=8,
            mamba_d_head=8,
            mamba_d_state=8,
            shared_intermediate_size=32,
            num_local_experts=0,
            logits_scaling=4.0,
        ),
    ),
    "bert": ("bert", dict(BERT, is_decoder=True)),
    "roberta": ("roberta", dict(BERT, is_decoder=True)),
    "bart": ("bart", dict(BART, max_position_embeddings=96)),
    "xglm": (
        "xglm",
        dict(**IDS, d_model=32, ffn_dim=64, num_layers=2, attention_heads=4, max_position_embeddings=96),
    ),
    "ctrl": ("ctrl", dict(**IDS, n_embd=32, n_layer=2, n_head=4, dff=64, n_positions=96)),
}


def random_model(kind: str, **more):
    "A model whose weights are large enough to tell its scores apart, without dropout."
    model_type, settings = CONFIGS[kind]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**settings, **more})).float()
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.15)
    model.tie_weights()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.eval()


def random_lm(kind: str, **more) -> LM:
    "The same with a tokenizer; one token in six ends an answer, so that answers end at different times."
    lm = LM(random_model(kind, **more), load("tiny-small").copy().tokenizer, kind)
    lm.model.generation_config.eos_token_id = list(range(4, 1024, 6))
    return complete_tokenizer(lm)
