"Answers of a teacher that only writes: held to a format, asked for again, kept in a file, at a pace"

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ftguide.engine.rows import as_messages
from ftguide.engine.texts import is_blank

# ---- the format of an answer


def validated(
    text: str,  # an answer
    output_format: str | dict | None = None,  # None: any text; a dict: JSON schema;
    # a string: regular expression that the whole answer must match
) -> str:  # the answer, without a code fence around JSON
    "An answer that keeps the format; ValueError says what is wrong with it."
    text = text.strip()
    if is_blank(text):
        raise ValueError("it is empty")
    if isinstance(output_format, str) and not re.fullmatch(output_format, text, re.S):
        raise ValueError(f"it does not match {output_format}")
    if not isinstance(output_format, dict):
        return text
    from jsonschema import ValidationError, validate  # an extra: only JSON schemas need it

    text = re.sub(r"^```\w*\n(.*)\n```$", r"\1", text, flags=re.S)
    try:
        validate(json.loads(text), output_format)
    except json.JSONDecodeError as e:
        raise ValueError(f"it is no JSON: {e}") from e
    except ValidationError as e:
        raise ValueError(f"{e.json_path}: {e.message}") from e
    return text


def check_format(output_format: str | dict | None):
    "TypeError or ValueError when `validated` could not use this format."
    if isinstance(output_format, str):
        try:
            re.compile(output_format)
        except re.error as e:
            raise ValueError(f"output_format is no regular expression: {e}") from e
    elif isinstance(output_format, dict):
        from jsonschema.validators import validator_for  # an extra: only JSON schemas need it

        validator_for(output_format).check_schema(output_format)
    elif output_format is not None:
        raise TypeError(
            "output_format must be None, a regular expression or a JSON schema, "
            f"not {type(output_format).__name__}"
        )


# ---- one question, until its answer keeps the format


def new_entry(
    key: str,  # of the journal
    row: dict,  # with prompt
) -> dict:  # completion (None: there is none yet), refused (answers), requests, input_tokens, output_tokens
    "A question that was not asked yet, as a journal keeps it."
    return dict(
        key=key,
        prompt=row["prompt"],
        completion=None,
        refused=[],
        requests=0,
        input_tokens=0,
        output_tokens=0,
    )


def with_answer(
    entry: dict,  # as `new_entry` makes it
    text: str,  # what was answered
    tokens_read: int,
    tokens_written: int,
    cut: bool,  # by a limit
    output_format: str | dict | None,
) -> dict:  # the entry after it; `cut` where that was why its last answer was refused
    "A journal entry after one more answer, which is kept as its completion or among the refused ones."
    entry = dict(
        entry,
        requests=entry["requests"] + 1,
        input_tokens=entry["input_tokens"] + tokens_read,
        output_tokens=entry["output_tokens"] + tokens_written,
    )
    refused = dict(entry, refused=[*entry["refused"], text], cut=cut)
    if cut:
        return refused
    try:
        return dict(entry, completion=validated(text, output_format))
    except ValueError:
        return refused


def asked_until_valid(
    say: Callable,  # messages -> (answer, tokens read, tokens written, was it cut?)
    entry: dict,  # where an earlier call gave up, this one goes on
    output_format: str | dict | None,
    tries: int,  # answers to one question, at most
) -> dict:  # the entry after it
    "Ask, and ask again with what was wrong, until an answer keeps the format."
    while entry["completion"] is None and entry["requests"] < tries:
        complaints = [m for text in entry["refused"] for m in _complaint(text, output_format)]
        answer = say(as_messages(entry["prompt"]) + complaints)
        entry = with_answer(entry, *answer, output_format)
    return entry


def _complaint(text: str, output_format) -> list[dict]:  # messages
    "A refused answer, and what was wrong with it."
    try:
        validated(text, output_format)
        why = "it is too long, and was cut"
    except ValueError as e:
        why = str(e)
    again = f"This answer cannot be used: {why}. Give the answer again, and nothing else."
    return [
        dict(role="assistant", content=text or "(nothing)"),
        dict(role="user", content=again),
    ]


# ---- many questions


class Journal:
    "Answers by question, one JSON line each, written the moment they arrive; a torn last line is dropped."

    def __init__(self, file: str | Path | None = None):  # None keeps them in memory only
        self.file, self.lock, self.found = file and Path(file), threading.Lock(), {}
        if self.file and self.file.exists():
            self._read()

    def _read(self):
        size_of_whole_lines = 0
        for n, line in enumerate(self.file.read_bytes().splitlines(keepends=True), 1):
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                self.found[entry["key"]] = entry
            except (ValueError, KeyError, TypeError) as e:
                raise ValueError(
                    f"{self.file}, line {n}: no answer of a teacher; choose another file, or delete this one"
                ) from e
            size_of_whole_lines += len(line)
        if size_of_whole_lines < self.file.stat().st_size:
            with self.file.open("rb+") as f:
                f.truncate(size_of_whole_lines)

    def add(self, entry: dict):  # with key
        "Keep an answer."
        with self.lock:
            self.found[entry["key"]] = entry
            if self.file:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                with self.file.open("a", encoding="utf-8") as f:
                    f.write(json.dumps(entry, ensure_ascii=False) + "\n")


class Throttle:
    "Lets a thread through every 60 / `per_minute` seconds."

    def __init__(self, per_minute: float | None):  # None lets all of them through at once
        self.gap = 60 / per_minute if per_minute else 0
        self.next, self.lock = 0.0, threading.Lock()

    def wait(self):
        "Sleep until it is this thread's turn."
        with self.lock:
            now = time.monotonic()
            turn = max(self.next, now)
            self.next = turn + self.gap
        time.sleep(turn - now)
