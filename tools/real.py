"""Condenses the report of a real run into a small file that lessons and home pages read.

    make real SEED=0
    python tools/real.py runs/real-0            # writes nbs/real/seed-0.json

Numbers of a text come from these files: scores with intervals, paired ratios, seconds, settings, samples.
"""

import argparse
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path

from book import NBS, ROOT

sys.path.insert(0, str(ROOT))  # the script's own copy of the package
from ftguide.engine.statistics import Score, interval
from ftguide.evaluation import Report, text_scores
from ftguide.packages import TASK_PROMPTS

SAMPLES = 9  # test rows that are kept with every model's answer
PAIRS = 4
POINTS = 40  # of a learning curve, at most


def condensed(
    data: dict,  # content of report.json
) -> dict:
    "What a text needs of a run."
    stages = data["stages"]
    reports = [Report.of(stage["report"]) for stage in stages]
    for report in reports:
        _count_words(report)
    return dict(
        about=data["about"],
        stages=[_stage(stage, report) for stage, report in zip(stages, reports)],
        compared=[
            _compared(after, before)
            for k, after in enumerate(reports)
            for before in reports[:k]
            if after.test == before.test
        ],
        reference_words=_reference_words(reports),
        samples=_samples(reports),
        pairs=_evenly(next((s["pairs"] for s in stages if s.get("pairs")), []), PAIRS),
    )


def _stage(stage: dict, report: Report) -> dict:
    scores = {metric: numbers(score) for metric, score in report.scores.items()}
    if "chrF" in report.rows:
        translated = [a for a in report.answers if _is_translation(a)]
        scores["BLEU"] = numbers(text_scores(translated)["BLEU"])
    return dict(
        name=stage["name"],
        seconds=round(stage["seconds"], 1),
        parameters=report.parameters,
        scores=scores,
        perplexity_per_byte=report.nll and numbers(report.perplexity_per_byte),
        degeneration=report.degeneration,
        speed=report.speed,
        pairs=len(stage.get("pairs", [])),
        history=_evenly([_rounded(h) for h in stage["history"] if "loss" in h or "eval_loss" in h], POINTS),
    )


def _is_translation(answer: dict) -> bool:
    return str(answer["prompt"]).startswith("Translate into")


def _is_synopsis(answer: dict) -> bool:
    return str(answer["prompt"]).endswith(TASK_PROMPTS["synopsis"].removeprefix("{description}"))


def _count_words(report: Report) -> None:
    "How long a model's synopses are, as one more measure of each."
    counts = [len(a["answer"].split()) for a in report.answers if _is_synopsis(a)]
    if counts:
        report.rows["synopsis words"] = [(float(count), 1) for count in counts]


def _reference_words(reports: list[Report]) -> float | None:  # mean of the maintainers' synopses
    answers = next((r.answers for r in reports if r.answers), [])
    counts = [len(a["reference"].split()) for a in answers if _is_synopsis(a)]
    return round(sum(counts) / len(counts), 2) if counts else None


def _compared(after: Report, before: Report) -> dict:
    "Paired ratio and difference of every score that both have."
    shared = [m for m in after.rows if m in before.rows and len(after.rows[m]) == len(before.rows[m])]
    how = lambda kind: {m: numbers(interval(after.rows[m], before.rows[m], how=kind)) for m in shared}
    return dict(after=after.name, before=before.name, ratio=how("ratio"), difference=how("difference"))


def numbers(score: Score) -> dict:
    "As JSON takes it: nan is None."
    return {k: None if math.isnan(v) else round(v, 5) for k, v in asdict(score).items()}


def _samples(reports: list[Report]) -> list[dict]:  # prompt, reference, and an answer for each model
    answered = [r for r in reports if r.answers]
    rows = [
        dict(
            prompt=rows[0]["prompt"],
            reference=rows[0]["reference"],
            answers={report.name: row["answer"] for report, row in zip(answered, rows)},
        )
        for rows in zip(*(r.answers for r in answered))
    ]
    return _evenly(rows, SAMPLES)


def _evenly(items: list, most: int) -> list:
    most = min(len(items), most)
    return [items[round(i * (len(items) - 1) / max(most - 1, 1))] for i in range(most)]


def _rounded(entry: dict) -> dict:
    return {k: round(entry[k], 4) for k in ("step", "loss", "eval_loss") if k in entry}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of a run, with its report.json")
    parser.add_argument("--out", type=Path, help="by default nbs/real/seed-N.json")
    asked = parser.parse_args()
    found = condensed(json.loads((asked.folder / "report.json").read_text(encoding="utf-8")))
    out = asked.out or NBS / f"real/seed-{found['about']['seed']}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{out}, {out.stat().st_size:,} bytes")
