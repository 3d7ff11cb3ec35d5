"""Rows as TRL's trainers take them: all at once, or one by one while training goes on"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from datasets import Dataset, IterableDataset

from ftguide.engine.formats import DataError, Source
from ftguide.engine.rows import Row, read, stream
from ftguide.engine.spans import check_lengths, context_length, spans, template_refuses
from ftguide.models import LM


def prepare(
    lm: LM,
    data: Source | None,  # as in `stream`
    kind: str = "sft",  # "sft" or "pairs"
) -> Dataset | None:
    "Read, check the length, and turn into what TRL takes; DataError before any training."
    if data is None:
        return None
    rows = read(data, kind)
    check_lengths(lm, rows, kind)
    return to_trl(rows, kind)


def to_trl(
    rows: list[dict],
    kind: str = "sft",  # "sft" or "pairs"
) -> Dataset:
    "Rows as the conversational dataset that TRL's trainers take; other columns are left out."
    shaped = [Row(row, kind).for_trl for row in rows]
    for n, row in enumerate(shaped, 1):
        _check_shape(shaped[0], n, row)
    try:
        return Dataset.from_list(shaped)
    except Exception as e:
        why = f"{str(e)[:200]}. Give every message role and content, as text"
        raise DataError(f"the rows do not make one table: {why}") from e


def _check_shape(
    first: dict,  # row 1 as TRL takes it
    n: int,
    row: dict,  # row n
    of: str = "",
):
    "DataError when two rows have different columns."
    if tuple(first) != tuple(row):
        raise DataError(
            f"row 1{of} has {', '.join(first)} and row {n} has {', '.join(row)}; write all rows in one shape"
        )


def is_streamed(data: Source) -> bool:
    "Is this a data set that is read while training goes on?"
    return isinstance(data, IterableDataset)


def streamed(
    source: str | Path,  # a file (.jsonl, .csv, .parquet), or a data set of the hub
    kind: str = "sft",  # "sft", "pairs" or "corpus"
) -> IterableDataset:
    "Rows for training in constant memory, which needs `max_steps`. DataError when a bad row's turn comes."
    for _ in stream(source, kind):
        break  # a wrong path or column is said now
    return IterableDataset.from_generator(lambda: stream(source, kind))


def peek(
    data: Iterable[dict],
    kind: str,
    config: dict,  # of the training
    most: int = 1000,
) -> list[dict]:
    "The first rows of a stream, for the checks before training; ValueError without max_steps."
    if not (config.get("max_steps") or 0) > 0:
        raise ValueError("a stream has no length, so max_steps must say how many steps to take")
    return read(list(islice(data, most)), kind)


def stream_rows(
    lm: LM,
    data: Iterable[dict],
    kind: str = "sft",
    chunk: int = 64,  # rows tokenised at a time
) -> Iterator[dict]:
    "Rows of a stream that fit the model; DataError names the first that does not, when its turn comes."
    waiting: list[tuple[int, dict]] = []
    try:
        for n, row in enumerate(data, 1):
            waiting.append((n, Row.read(row, kind, f"row {n} of the stream").columns))
            if len(waiting) == chunk:
                batch, waiting = waiting, []
                yield from _fitting(lm, batch, kind)
    except DataError:
        yield from _fitting(lm, waiting, kind)  # the rows before it come first
        raise
    yield from _fitting(lm, waiting, kind)


def _fitting(lm: LM, numbered: list[tuple[int, dict]], kind: str) -> Iterator[dict]:
    limit = context_length(lm)
    found = spans(lm.tokenizer, [row for _, row in numbered], kind)
    for (n, row), span in zip(numbered, found):
        if span is None:
            raise DataError(template_refuses(f"row {n} of the stream"))
        if span.length > limit:
            raise DataError(
                f"row {n} of the stream has {span.length} tokens and does not fit into {lm.name}'s context "
                f"of {limit}. Shorten it, or filter the stream"
            )
        yield row


def train_dataset(
    lm: LM,
    data: Source,  # as given to the training
    rows: list[dict],  # as read from it; of a stream, the first ones
    kind: str = "sft",
) -> Dataset | IterableDataset:
    "What TRL's trainers read: all rows at once, or a stream's one by one."
    if not is_streamed(data):
        return to_trl(rows, kind)
    first = Row(rows[0], kind).for_trl

    def shaped() -> Iterator[dict]:
        for n, row in enumerate(stream_rows(lm, data, kind), 1):
            one = Row(row, kind).for_trl
            _check_shape(first, n, one, of=" of the stream")
            yield one

    return IterableDataset.from_generator(shaped)
