"""Scores beside pairs, as data sets of preferences keep them: do they prefer what the pair prefers?"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

SCORE = re.compile(r"score|rating|reward|grade|quality|stars", re.I)  # in the name of a column


class PairScores(NamedTuple):
    "What a row says about its two answers beside the choice."

    chosen_column: str
    rejected_column: str
    chosen: float
    rejected: float

    @property
    def agree(self) -> bool:
        return self.chosen > self.rejected

    @property
    def says(self) -> str:  # how it contradicts the choice
        relation = "equals" if self.chosen == self.rejected else "is below"
        return f"{self.chosen_column} {relation} {self.rejected_column}"


def pair_scores(
    row: dict,  # of a pair
) -> list[PairScores]:  # those of each pair of columns such as score_chosen and score_rejected
    "Scores that a row gives to its two answers; a cell of a table counts when it is a number."
    found = []
    for name, value in row.items():
        other = _of_rejected(name)
        if other is None or other not in row:
            continue
        chosen, rejected = _number(value), _number(row[other])
        if chosen is not None and rejected is not None:
            found.append(PairScores(name, other, chosen, rejected))
    return found


def contradicting(
    rows: list[dict],  # pairs
) -> tuple[list[int], str]:  # numbers of the rows, from 0; in words how many, and which columns
    "Pairs whose own scores do not prefer the chosen answer."
    wrong, counted, scored = [], {}, 0
    for i, row in enumerate(rows):
        scores = pair_scores(row)
        scored += bool(scores)
        against = [score.says for score in scores if not score.agree]
        if against:
            wrong.append(i)
            counted[against[0]] = counted.get(against[0], 0) + 1
    return wrong, ", ".join(f"in {n:,} of {scored:,} rows {says}" for says, n in counted.items())


def scores_against(rows: list[dict]) -> list[str]:
    "What to say before a training on pairs whose scores prefer another answer, or none."
    wrong, says = contradicting(rows)
    if not wrong:
        return []
    return [
        f"{says} (the first is row {wrong[0] + 1}), and training prefers the chosen answer all the same; "
        "turn these pairs round, or leave them out"
    ]


def _of_rejected(name) -> str | None:
    "The column of the rejected answer's score, by that of the chosen one's."
    if not isinstance(name, str) or "chosen" not in name.lower() or not SCORE.search(name):
        return None
    return re.sub("chosen", lambda word: "REJECTED" if word[0].isupper() else "rejected", name, flags=re.I)


def _number(value) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
