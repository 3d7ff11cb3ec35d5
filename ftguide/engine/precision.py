"What a training computes in: float32, or bfloat16 where the processor multiplies it faster and it pays."

from __future__ import annotations

import sys

import torch

from ftguide.engine.environment import processes

LARGE = (
    20_000_000  # parameters; at 22 million a step in bfloat16 was 1.7 times as fast, at 3 million 1.3 times
)


def fast_bfloat16() -> bool:
    "Has the processor instructions that multiply bfloat16 numbers? False where torch does not say."
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.8 has it not
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def is_large(parameters: int) -> bool:
    "Is a model so large that its products take most of a step?"
    return parameters >= LARGE


def bfloat16_by_default(parameters: int) -> bool:  # of the model that is trained
    "Should a training of this model compute in bfloat16 when nobody says?"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return fast_bfloat16() and is_large(parameters)


def say_precision(
    name: str,
    parameters: int,
    bf16: bool,  # is it what products are computed in?
    asked: bool,  # by the caller
    frozen: bool = False,  # weights in bfloat16, under an adapter
) -> None:
    "One line, for a large model on a CPU: which precision, and why."
    if torch.cuda.is_available() or not is_large(parameters) or processes()[0] > 0:
        return
    if asked:
        why = "as asked"
    elif bf16:
        why = "this processor multiplies it about twice as fast; bf16=False for float32"
    else:
        why = "this processor has no bfloat16 products"
    kind = "bfloat16, weights and loss in float32" if bf16 else "float32"
    if frozen:
        kind, why = "bfloat16, adapter and loss in float32", "as the weights were loaded"
        why += "" if fast_bfloat16() else ", though this processor has no bfloat16 products"
    print(f"{name} computes in {kind}: {why}", file=sys.stderr, flush=True)
