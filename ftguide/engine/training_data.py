"""Rows as TRL's trainers take them: all at once, or one by one while training goes on"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from datasets import Dataset, IterableDataset

from ftguide.engine.conversations import answered
from ftguide.engine.environment import processes
from ftguide.engine.formats import DataError, Source
from ftguide.engine.rows import Row, read, stream
from ftguide.engine.tokens import TokenisedRow, row_limit, tokenised, too_long
from ftguide.models import LM

ANSWERS = {"pairs": ("chosen", "rejected"), "thumbs": ("completion",)}


def prepare(
    lm: LM,
    data: Source | None,  # as in `stream`
    kind: str = "sft",  # "sft" or "pairs"
    config: dict | None = None,  # what goes to TRL's config
    prompts_too: bool = False,  # score every token?
) -> Dataset | None:
    "Read, tokenise, and turn into what the trainers take; DataError before any training."
    if data is None:
        return None
    rows = fitting(lm, read(data, kind), kind, config)
    return dataset([row.with_prompts() for row in rows] if prompts_too else rows, kind)


def fitting(
    lm: LM,
    rows: list[dict],
    kind: str = "sft",
    config: dict | None = None,  # what goes to TRL's config
) -> list[TokenisedRow]:
    "Rows in tokens; DataError when one cannot be trained as it says, or does not fit."
    found = tokenised(lm.tokenizer, rows, kind)
    for n, row in enumerate(found, 1):
        row.check(f"row {n}")
    for problem in too_long(lm, found, row_limit(lm, config)):
        raise DataError(problem)
    return found


def score_prompts(
    config: dict,  # what goes to TRL's config; these settings are taken out
) -> bool:
    "Is every token to be scored, prompts too? So TRL's `completion_only_loss` and `assistant_only_loss` say."
    of_prompts, of_others = (config.pop(f"{name}_only_loss", None) for name in ("completion", "assistant"))
    return (of_others if of_prompts is None else of_prompts) is False


def dataset(
    rows: list[TokenisedRow],
    kind: str = "sft",  # "sft", "pairs" or "thumbs"
) -> Dataset:
    "Tokenised rows in the columns that the trainers read."
    columns = [in_columns(row, kind) for row in rows]
    return Dataset.from_dict({name: [row[name] for row in columns] for name in columns[0]})


def in_columns(
    row: TokenisedRow,
    kind: str = "sft",  # "sft", "pairs" or "thumbs"
) -> dict[str, np.ndarray]:
    "Ids and labels; of pairs and thumbs, ids of prompt and answers, and which of the answers' are scored."
    ids = [np.frombuffer(part.ids, np.intc) for part in row.parts]
    masks = [np.frombuffer(part.mask, np.byte) for part in row.parts]
    if kind == "sft":
        return {"input_ids": ids[0], "labels": np.where(masks[0], ids[0], -100)}
    start = _prompt_length(row, ids)
    columns = {"prompt_ids": ids[0][:start]}
    for name, tokens, mask in zip(ANSWERS[kind], ids, masks):
        columns |= {f"{name}_ids": tokens[start:], f"{name}_mask": mask[start:]}
    return columns


def _prompt_length(row: TokenisedRow, ids: list[np.ndarray]) -> int:
    "What stands before the answers; a pair's two answers have it in common."
    start = row.start
    if len(ids) == 1:
        return start
    differs = ids[0][:start] != ids[1][:start]
    return int(differs.argmax()) if differs.any() else start


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
):
    "DataError when two rows have different columns."
    if tuple(first) != tuple(row):
        raise DataError(
            f"row 1 has {', '.join(first)} and row {n} has {', '.join(row)}; write all rows in one shape"
        )


def one_answer_each(
    row: dict,  # prompt, completion
) -> list[dict]:  # messages
    "For a trainer that scores the last answer of a conversation alone: a row that ends with each answer."
    messages, answers, _ = answered(row["prompt"], row["completion"])
    plain = [{"role": m["role"], "content": m["content"]} for m in messages]
    return [{"messages": plain[: k + 1]} for k in answers]


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
    _require_steps(config)
    return read(list(islice(data, most)), kind)


def _require_steps(config: dict):
    if not (config.get("max_steps") or 0) > 0:
        raise ValueError("a stream has no length, so max_steps must say how many steps to take")


def first_rows(
    data: Iterable[dict],
    batch_size: int,
    config: dict,  # of the training
) -> list[dict]:
    "The rows of a stream that `max_steps` steps read; ValueError without max_steps."
    _require_steps(config)
    batch = config.get("per_device_train_batch_size", batch_size) * processes()[1]
    return list(islice(data, config["max_steps"] * batch * config.get("gradient_accumulation_steps", 1)))


def stream_rows(
    lm: LM,
    data: Iterable[dict],
    kind: str = "sft",
    config: dict | None = None,  # what goes to TRL's config
) -> Iterator[dict]:
    "Rows of a stream that fit the model; DataError names the first that does not, when its turn comes."
    for row, _ in _tokenised_stream(lm, data, kind, config):
        yield row


def _tokenised_stream(
    lm: LM,
    data: Iterable[dict],
    kind: str,
    config: dict | None,
    chunk: int = 64,  # rows tokenised at a time
) -> Iterator[tuple[dict, TokenisedRow]]:
    waiting: list[tuple[int, dict]] = []
    try:
        for n, row in enumerate(data, 1):
            waiting.append((n, Row.read(row, kind, f"row {n} of the stream").columns))
            if len(waiting) == chunk:
                batch, waiting = waiting, []
                yield from _fitting(lm, batch, kind, config)
    except DataError:
        yield from _fitting(lm, waiting, kind, config)  # the rows before it come first
        raise
    yield from _fitting(lm, waiting, kind, config)


def _fitting(
    lm: LM, numbered: list[tuple[int, dict]], kind: str, config: dict | None
) -> Iterator[tuple[dict, TokenisedRow]]:
    limit = row_limit(lm, config)
    found = tokenised(lm.tokenizer, [row for _, row in numbered], kind)
    for (n, row), tokens in zip(numbered, found):
        where = f"row {n} of the stream"
        tokens.check(where)
        if tokens.length > limit:
            raise DataError(
                f"{where} has {tokens.length} tokens and does not fit into {lm.name}'s context "
                f"of {limit}. Shorten it, or filter the stream"
            )
        yield row, tokens


def train_dataset(
    lm: LM,
    data: Source,  # as given to the training
    rows: list[TokenisedRow],  # read from it; of a stream, the first ones
    kind: str = "sft",
    config: dict | None = None,  # what goes to TRL's config
    prompts_too: bool = False,  # score every token?
) -> Dataset | IterableDataset:
    "What the trainers read: all rows at once, or a stream's one by one."
    if not is_streamed(data):
        return dataset(rows, kind)

    def shaped() -> Iterator[dict]:
        for _, tokens in _tokenised_stream(lm, data, kind, config):
            columns = in_columns(tokens.with_prompts() if prompts_too else tokens, kind)
            yield {name: values.tolist() for name, values in columns.items()}

    return IterableDataset.from_generator(shaped)
