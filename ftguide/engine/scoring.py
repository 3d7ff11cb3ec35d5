"A model reads given text: its answer labelled, its mode kept, scores that are no numbers refused."

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from ftguide.engine.model_folders import ModelError
from ftguide.engine.rows import Row, as_messages
from ftguide.engine.tokens import context_length
from ftguide.models import LM, encode, prompt_text


class LabelledRow(NamedTuple):
    "A row as a model reads it, as far as the context reaches."

    ids: list[int]
    labels: list[int]  # -100 where nothing is scored
    size: int  # bytes of the labelled text

    @property
    def scored(self) -> list[int]:
        "The tokens that get a score: no model predicts the first one."
        return [token for token in self.labels[1:] if token != -100]


def is_text(row: dict) -> bool:
    "Is the row a document, without question and answer?"
    return "text" in row and "prompt" not in row and "messages" not in row


def labelled_row(lm: LM, row: dict) -> LabelledRow:
    "A row's tokens, its answer (or chosen answer) labelled and ended, whatever the chat template does."
    tokenizer, limit = lm.tokenizer, context_length(lm)
    if is_text(row):
        ids = labels = tokenizer(row["text"]).input_ids
        text = row["text"]
    else:
        answer = row["chosen"] if "chosen" in row else Row(row).reference
        ids, labels = encode(tokenizer, Row(row).request, answer)
        text = "".join(message["content"] for message in as_messages(answer))
        end = [] if tokenizer.eos_token_id in labels else [tokenizer.eos_token_id]
        ids, labels = ids + end, labels + end
    if len(ids) > limit:
        kept = [token for token in labels[:limit] if token != -100]
        text = tokenizer.decode(kept, skip_special_tokens=True)
    return LabelledRow(ids[:limit], labels[:limit], len(text.encode("utf-8")))


def can_be_scored(lm: LM, row: dict) -> bool:
    "Is there a token to score, and room in the context for an answer?"
    if not labelled_row(lm, row).scored:
        return False
    if is_text(row):
        return True
    prompt = prompt_text(lm.tokenizer, Row(row).request)
    return len(lm.tokenizer(prompt, add_special_tokens=False).input_ids) < context_length(lm)


@contextmanager
def evaluation_mode(lm: LM) -> Iterator[None]:
    "Evaluation mode without gradients; the mode from before comes back."
    training = lm.model.training
    lm.model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        lm.model.train(training)


def require_finite(lm: LM, scores: torch.Tensor) -> None:
    "ModelError when a model's scores are not finite numbers."
    if not torch.isfinite(scores).all():
        raise ModelError(
            f"{lm.name}: the logits are not finite; the weights are broken (look for NaN in training)"
        )


def check_scores_after(lm: LM, prompt: str | list[dict]) -> None:
    "ModelError when a model's scores after one prompt are not finite numbers."
    text = prompt_text(lm.tokenizer, prompt)
    ids = lm.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    with evaluation_mode(lm):
        logits = lm.model(input_ids=ids[:, : context_length(lm)].to(lm.model.device)).logits
    require_finite(lm, logits)


def weights_fingerprint(lm: LM) -> str:  # 16 hexadecimal digits
    "Digits that no other fine-tune of the model has; the same for what was saved and loaded again."
    digest = hashlib.sha256()
    for name, weights in sorted(lm.model.named_parameters(), key=lambda named: named[0]):
        digest.update(f"{name} {tuple(weights.shape)}".encode())
        digest.update(weights.detach().float().cpu().contiguous().numpy())
    return digest.hexdigest()[:16]
