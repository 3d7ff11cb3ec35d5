"What the file of a report must hold, so that no gate compares with what is not a number."

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from typing import Any


class ReportError(ValueError):
    "A report that cannot be used; one line says which of its parts is wrong."


def check_report(
    values: Any,  # as JSON gives them, or `dataclasses.asdict`
    known: Collection[str],  # names of the parts of a report
) -> None:
    "ReportError unless every part has its kind, and every number is finite."
    _require(isinstance(values, dict), "the report", "an object with name, parameters and rows")
    for name in ("name", "parameters"):
        _require(name in values, f"its {name}", "there")
    for name, value in values.items():
        _require(name in known, f"{str(name)[:40]!r}", f"one of its parts, which are {', '.join(known)}")
        what, fits = PARTS.get(name, ("text", _is_text))
        if name in MAPS:
            _require(isinstance(value, dict), name, "an object")
            for key, each in value.items():
                _require(isinstance(key, str) and fits(each), f"{name}, {str(key)[:40]!r}", what)
        elif name in LISTS:
            _require(isinstance(value, (list, tuple)), name, "a list")
            for number, each in enumerate(value, 1):
                _require(fits(each), f"{name}, number {number}", what)
        else:
            _require(fits(value), name, what)


def _require(fits: bool, where: str, what: str) -> None:
    if not fits:
        raise ReportError(f"{where} is not {what}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any, most: float = 1e150) -> bool:
    "A finite number, small enough to be added to others; true and false count as 1 and 0."
    try:
        return isinstance(value, (int, float)) and abs(float(value)) <= most
    except OverflowError:
        return False


def _is_perplexity(value: Any) -> bool:
    return value is None or _is_number(value, sys.float_info.max)


def _are_numbers(count: int) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, (list, tuple)) and len(value) == count and all(map(_is_number, value))
    )


def _are_counts(value: Any) -> bool:
    pair = _are_numbers(2)
    return isinstance(value, (list, tuple)) and all(pair(counts) and counts[1] >= 0 for counts in value)


def _are_nats(value: Any) -> bool:
    return _are_numbers(3)(value) and value[1] >= 0 and value[2] >= 0


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**18


def _is_score(value: Any) -> bool:
    ends = ("value", "low", "high")
    return (
        isinstance(value, dict)
        and set(value) == {*ends, "n"}
        and all(_is_number(value[end]) for end in ends)
        and _is_whole(value["n"])
    )


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _is_answer(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("answer"), str):
        return False
    prompt = value.get("prompt", "")
    talk = isinstance(prompt, (list, tuple)) and all(map(_is_message, prompt))
    return (isinstance(prompt, str) or talk) and isinstance(value.get("reference", ""), (str, type(None)))


PARTS: dict[str, tuple[str, Callable[[Any], bool]]] = {  # those that are not text
    "parameters": ("a whole number", _is_whole),
    "max_new_tokens": ("a whole number", _is_whole),
    "rows": ("a list of a numerator and a denominator for each row", _are_counts),
    "degeneration": ("a finite number", _is_number),
    "speed": ("a finite number", _is_number),
    "perplexity": ("a finite number", _is_perplexity),
    "answers": ("a prompt with its answer", _is_answer),
    "against": ("a value with its low and high end and n", _is_score),
    "nll": ("nats, tokens and bytes", _are_nats),
    "api": ("text or a number", lambda value: isinstance(value, str) or _is_number(value)),
}
MAPS = ("rows", "degeneration", "speed", "against", "api")
LISTS = ("answers", "nll", "no_ratio")
