"""How long a row is in tokens, where its answer begins, and whether it ends"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ftguide.engine.formats import DataError
from ftguide.engine.rows import Row, as_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ftguide.models import LM


class Span(NamedTuple):
    "What training sees of a row; of a pair, the longer answer and the worse of both."

    length: int  # tokens, template included
    prompt: int  # tokens of the prompt, written alone
    start: int  # the first scored token; less than `prompt` when the answer changes the prompt's tokens
    ends: bool  # is an end token among the scored ones?


def spans(
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict],
    kind: str = "sft",  # "sft", "pairs" or "corpus"
    ends: set[int] | None = None,  # ids that end an answer; by default the tokenizer's end token
    progress: Callable[[int], None] | None = None,  # called with the number of rows after each batch
) -> list[Span | None]:  # None where the chat template refuses the row
    "Length, start of the answer, and two properties every row should have."
    ends, found = ends or {tokenizer.eos_token_id}, []
    for n in range(0, len(rows), 1000):
        batch = [Row(row, kind) for row in rows[n : n + 1000]]
        found += _corpus_spans(tokenizer, batch) if kind == "corpus" else _spans(tokenizer, batch, ends)
        if progress:
            progress(len(batch))
    return found


def _corpus_spans(tokenizer: PreTrainedTokenizerBase, batch: list[Row]) -> list[Span | None]:
    "A prompt as the model is asked, or a text and the end token that is put behind it."
    found = []
    texts = [_asked(tokenizer, row) for row in batch]
    for row, text, ids in zip(batch, texts, _tokens(tokenizer, texts)):
        length = len(ids) + ("prompt" not in row.columns)
        found.append(None if text is None else Span(length, 0, 0, True))
    return found


def _asked(tokenizer: PreTrainedTokenizerBase, row: Row) -> str | None:
    if "prompt" not in row.columns:
        return row.columns["text"]
    return _written(tokenizer, [as_messages(row.columns["prompt"])], add_generation_prompt=True)[0]


def _spans(tokenizer: PreTrainedTokenizerBase, batch: list[Row], ends: set[int]) -> list[Span | None]:
    "Every text of the batch is tokenised in one call; of a pair, the two answers' spans become one."
    conversations = [(i, *both) for i, row in enumerate(batch) for both in row.conversations]
    owners, before, full = zip(*conversations)
    asked = _written(tokenizer, list(before), add_generation_prompt=True)
    whole = _written(tokenizer, list(full))
    found: list[Span | None] = [None] * len(batch)
    for i, a, b, head, ids in zip(owners, asked, whole, _tokens(tokenizer, asked), _tokens(tokenizer, whole)):
        if a is None or b is None:
            continue
        start = _first_difference(head, ids)
        span = Span(len(ids), len(head), start, not ends.isdisjoint(ids[start:]))
        found[i] = span if found[i] is None else _joined(found[i], span)
    return found


def _first_difference(head: list[int], ids: list[int]) -> int:
    if ids[: len(head)] == head:
        return len(head)
    return next((n for n, (a, b) in enumerate(zip(head, ids)) if a != b), min(len(head), len(ids)))


def _joined(one: Span, other: Span) -> Span:
    return Span(
        max(one.length, other.length), other.prompt, min(one.start, other.start), one.ends and other.ends
    )


def _written(tokenizer: PreTrainedTokenizerBase, conversations: list, **how) -> list[str | None]:
    "Each conversation as text; None where the template refuses one."
    if not conversations:
        return []
    try:
        return tokenizer.apply_chat_template(conversations, tokenize=False, **how)
    except Exception:
        if len(conversations) == 1:
            return [None]
        return [_written(tokenizer, [one], **how)[0] for one in conversations]


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str | None]) -> list[list[int]]:
    "Token ids of each text, without special tokens added."
    if not texts:
        return []
    filled = [text or "" for text in texts]
    return tokenizer(filled, add_special_tokens=False, return_attention_mask=False).input_ids


def lengths(
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict],
    kind: str = "sft",
) -> list[int]:  # tokens of each row, template included
    "How long each row is as the model sees it; DataError when the chat template cannot write one."
    found = spans(tokenizer, rows, kind)
    if None in found:
        raise DataError(template_refuses(f"row {found.index(None) + 1}"))
    return [span.length for span in found]


def template_refuses(where: str) -> str:
    return f"{where}: the chat template cannot write it; look at the order of its roles"


def too_long(
    tokenizer: PreTrainedTokenizerBase,
    name: str,  # of the model
    limit: int,  # tokens
    rows: list[dict],
    kind: str,
) -> list[str]:
    "What to say about rows longer than a limit; empty when all fit."
    long = [(n, k) for n, k in enumerate(lengths(tokenizer, rows, kind), 1) if k > limit]
    if not long:
        return []
    some = ", ".join(f"row {n} ({k} tokens)" for n, k in long[:3]) + (" ..." if len(long) > 3 else "")
    return [
        f"{len(long)} of {len(rows)} rows do not fit into {name}'s context of {limit} tokens: {some}. "
        "Shorten or remove them"
    ]


def context_length(lm: LM) -> int:
    "How many tokens the model can attend to."
    positions = getattr(lm.model.config.get_text_config(), "max_position_embeddings", None)
    return min(positions or 10**9, lm.tokenizer.model_max_length or 10**9)


def check_lengths(
    lm: LM,
    rows: list[dict],
    kind: str = "sft",
    room: int = 0,  # tokens kept free for an answer
):
    "DataError when rows are longer than the model's context, less `room`."
    for problem in too_long(lm.tokenizer, lm.name, context_length(lm) - room, rows, kind):
        raise DataError(problem)
