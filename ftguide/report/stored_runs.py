"""Measurements on the real model that the repository stores, read back for lessons and home pages.

tools/real.py, tools/forgetting.py and tools/cpu.py write the files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from ftguide.engine.statistics import Score, mean_over_seeds

METRICS = ("section", "ROUGE-L", "no fault", "chrF")  # of the packages, as tables show them: 0..1
SMALL = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def _folder() -> Path:
    "Beside the lesson that runs, else in the clone that this package is part of."
    places = (Path("real"), Path(__file__).parents[2] / "nbs/real")
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise FileNotFoundError("no folder of stored runs: clone the guide, and start its lessons in nbs/")
    return found


def stored_file(
    name: str,  # such as cpu.csv
) -> Path:
    "The file of a stored measurement; FileNotFoundError says where it is looked for."
    path = _folder() / name
    if not path.is_file():
        raise FileNotFoundError(f"no stored measurement {path}")
    return path


def read_stored(
    name: str,  # such as students.json
) -> dict:
    "A stored measurement in JSON; FileNotFoundError says where it is looked for."
    return json.loads(stored_file(name).read_text(encoding="utf-8"))


def read_score(
    values: dict,  # value, low, high and n, as JSON keeps them: null for nan
) -> Score:
    "A score as it was stored."
    return Score(**{name: math.nan if value is None else value for name, value in values.items()})


@dataclass(frozen=True)
class StoredRuns:
    """Runs of the real journey, one for each seed.

    A number of one run has its 95 % interval over test rows. Of several it is their mean, with the interval
    over runs (Student's t)."""

    runs: Sequence[dict]  # content of the files, in the order of their seeds

    @property
    def stages(self) -> list[str]:
        "Names of the stages that every run has, in their order."
        named = [[stage["name"] for stage in run["stages"]] for run in self.runs]
        return [name for name in named[0] if all(name in names for names in named)]

    @property
    def count(self) -> str:  # such as "one run, seed 0"
        "How many runs, and with which seeds."
        seeds = [str(run["about"]["seed"]) for run in self.runs]
        n = len(seeds)
        return f"{SMALL[n] if n < len(SMALL) else n} run{'s'[: n > 1]}, seed{'s'[: n > 1]} {', '.join(seeds)}"

    @property
    def rests_on(self) -> str:
        "What the numbers and their intervals rest on, in one sentence."
        if len(self.runs) == 1:
            n = next(iter(self.runs[0]["stages"][0]["scores"].values()))["n"]
            return (
                f"{self.count}; 95 % intervals over its {n} test rows of each task, "
                "which know nothing of other seeds"
            )
        return f"{self.count}, with other rows and other chance; means, and 95 % intervals over the runs"

    def rows(self, part: str) -> int:  # train, valid, test, sheets or corpus
        "How many rows each run had."
        return self.runs[0]["about"]["rows"][part]

    def stage(self, name: str) -> list[dict]:  # one for each run
        "A stage of every run; KeyError names those there are."
        if name not in self.stages:
            raise KeyError(f"no stage {name!r}; there are {', '.join(self.stages)}")
        return [next(s for s in run["stages"] if s["name"] == name) for run in self.runs]

    def minutes(self, name: str) -> float:
        "How long a stage took, training and judging together; mean over the runs."
        return mean(stage["seconds"] for stage in self.stage(name)) / 60

    def pairs(self, name: str) -> float:
        "How many pairs a stage learnt from; mean over the runs."
        return mean(stage["pairs"] for stage in self.stage(name))

    def millions(self, name: str) -> float:
        "Parameters of a stage's model, in millions."
        return self.stage(name)[0]["parameters"] / 1e6

    def speed(
        self,
        name: str,
        measure: str = "tokens_per_second",  # or another of `Report.speed`
    ) -> float:
        "A speed of a stage's model; mean over the runs."
        return mean(stage["speed"][measure] for stage in self.stage(name))

    def score(self, name: str, metric: str) -> Score | None:  # None: the stage was not asked
        "What a stage scored."
        found = [stage["scores"].get(metric) for stage in self.stage(name)]
        if None in found:
            return None
        score = _over_runs([read_score(values) for values in found])
        if metric in METRICS:  # a share
            score.low, score.high = max(score.low, 0.0), min(score.high, 1.0)
        return score

    def change(
        self,
        after: str,
        before: str,
        metric: str,
        how: str = "difference",  # or "ratio", which is nan where the earlier score is near 0
    ) -> Score:
        "Paired change from one stage to a later one, on the same rows."
        pairs = [{(c["after"], c["before"]): c for c in run["compared"]} for run in self.runs]
        return _over_runs([read_score(found[after, before][how][metric]) for found in pairs])


def read_runs() -> StoredRuns:
    "The stored runs of the real journey; FileNotFoundError where there is none."
    files = sorted(_folder().glob("seed-*.json"), key=lambda path: int(path.stem.split("-")[1]))
    if not files:
        raise FileNotFoundError("no stored run: make real, then python tools/real.py runs/real-0")
    return StoredRuns([json.loads(path.read_text(encoding="utf-8")) for path in files])


def _over_runs(scores: list[Score]) -> Score:
    values = [score.value for score in scores]
    if len(scores) == 1:
        return scores[0]
    return Score(*[math.nan] * 3, len(scores)) if any(map(math.isnan, values)) else mean_over_seeds(values)


# ---- in words


def with_interval(
    score: Score | None,
    digits: int = 2,
    sign: str = "",  # "+" writes it before what is not negative
) -> str:
    "A score with its interval; a dash where there is none."
    if score is None or math.isnan(score.value):
        return "–"
    number = lambda value: f"{value:{sign}.{digits}f}"
    if math.isnan(score.low):
        return number(score.value)
    return f"{number(score.value)} [{number(score.low)}, {number(score.high)}]"


def change_in_words(
    change: Score,  # a difference
    digits: int = 3,
) -> str:
    "Whether a score rose or fell, where the whole interval agrees, and by how much."
    if change.low > 0:
        return f"rose by {with_interval(change, digits)}"
    if change.high < 0:
        less = Score(-change.value, -change.high, -change.low, change.n)
        return f"fell by {with_interval(less, digits)}"
    return f"did not clearly change ({with_interval(change, digits, '+')})"


def judged(
    score: Score,
    bound: float,
) -> str:  # reached, missed or open; or that there is no ratio
    "Whether a bound is reached, where the whole interval agrees."
    if math.isnan(score.value):
        return "no ratio to a score near 0"
    if score.low >= bound:
        return "reached"
    return "missed" if score.high < bound else "open"
