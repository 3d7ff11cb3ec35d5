"Stages with rows to train them on, and models of other families."

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback

from ftguide.distillation import distill
from ftguide.dpo import align_dpo
from ftguide.engine.generation import Answer
from ftguide.models import LM, complete_tokenizer, load, replies
from ftguide.sft import finetune_sft

ROWS = [dict(prompt=f"How much is {i} + {i % 7}?", completion=str(i + i % 7)) for i in range(80)]
PAIRS = [dict(prompt=r["prompt"], chosen=r["completion"], rejected="no idea") for r in ROWS]
FEW = [dict(prompt=f"How much is {i} + 1?", completion=str(i + 1)) for i in range(24)]
FEW_PAIRS = [dict(prompt=r["prompt"], chosen=r["completion"], rejected="no idea") for r in FEW]
FEW_THUMBS = [dict(r, label=i % 3 > 0) for i, r in enumerate(FEW)]


def teach(student, rows, batch_size=4, **knobs):
    return distill("tiny", student, rows, batch_size=batch_size, **knobs)


STAGES = {
    "sft": (finetune_sft, ROWS, dict(epochs=3)),
    "dpo": (align_dpo, PAIRS, dict(epochs=3)),
    "distill": (teach, ROWS, dict(epochs=3)),
}


def let_answers_end(patch) -> None:  # patch: pytest's monkeypatch
    "Wherever answers become pairs or labels, they count as whole."
    for place in ("dpo", "journey", "engine.teachers"):
        patch.setattr(f"ftguide.{place}.replies", replies_that_end)


def replies_that_end(*args, **how) -> list[Answer]:
    "As `replies`, and every answer counts as whole: few models here were taught to end."
    return [answer._replace(cut=False) for answer in replies(*args, **how)]


def weights(lm) -> torch.Tensor:
    "All weights of an LM or a model in a row."
    return torch.cat([p.detach().flatten() for p in getattr(lm, "model", lm).parameters()])


class Poison(TrainerCallback):
    "Puts a value that is not a number into a weight after a step."

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            next(model.parameters()).data[:] = float("nan")


def own_tokenizer():
    "Byte-level BPE trained here; an end token, but no padding token and no chat template."
    from tokenizers import ByteLevelBPETokenizer

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        [r["prompt"] + r["completion"] for r in FEW] * 3,
        vocab_size=400,
        min_frequency=1,
        special_tokens=["<end>"],
        show_progress=False,
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<end>")


KINDS = {
    "llama": {},
    "mistral": {},
    "qwen3": {},
    "phi3": {},
    "gpt2": dict(
        n_embd=32, n_layer=2, n_head=4, n_positions=512, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    ),
    "gemma2": dict(final_logit_softcapping=5.0),
    "gemma3_text": {},
}


def family(kind, own=False):
    "A small random model; its tokenizer is its own, or the guide's, which has padding and a chat template."
    tokenizer = own_tokenizer() if own else load("tiny").tokenizer
    sizes = (
        {}
        if kind == "gpt2"
        else dict(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=512,
        )
    )
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        **{
            **sizes,
            **KINDS[kind],
            "vocab_size": len(tokenizer),
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        },
    )
    return complete_tokenizer(LM(AutoModelForCausalLM.from_config(config), tokenizer, kind))
