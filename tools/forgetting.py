"""Asks tuned models what the base could do: without and with replay, answers of the base mixed into the rows.

    make real SEED=0
    python tools/forgetting.py runs/real-0            # writes nbs/real/forgetting.json

Four models answer the same questions: the run's base, its SFT model (all its rows), and two that are trained
here on the first third of those rows: alone, and with answers that the base itself gave to other questions
mixed in (replay). The two are also asked the run's test rows, so that the lesson on SFT has a learning curve.
One seed, the run's. About ten minutes on two cores; a model that is done is kept in the file, and the script
goes on behind it. `--only NAME` asks one model.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from book import NBS, ROOT
from real import numbers

sys.path.insert(0, str(ROOT))  # the script's own copy of the package
from ftguide.engine.files import write_atomic
from ftguide.engine.statistics import interval
from ftguide.evaluation import Report, evaluate
from ftguide.journey import packages_material
from ftguide.models import LM, load, reply
from ftguide.packages import score_package
from ftguide.sft import finetune_sft

# ---- the questions: what is asked, and what a right answer holds

QUESTIONS: dict[str, list[tuple[str, str]]] = {
    "fact": [
        ("What is the capital of France?", "Paris"),
        ("What is the capital of Italy?", "Rome"),
        ("What is the capital of Japan?", "Tokyo"),
        ("What is the largest ocean on Earth?", "Pacific"),
        ("Which planet is known as the Red Planet?", "Mars"),
        ("How many days does a week have?", "seven|7"),
        ("What gas do plants take in from the air?", "carbon dioxide|CO2"),
        ("What do bees make?", "honey"),
        ("What is frozen water called?", "ice"),
        ("Who wrote the play Romeo and Juliet?", "Shakespeare"),
        ("Which organ pumps blood through the body?", "heart"),
        ("What is the opposite of hot?", "cold"),
        ("In which country are the pyramids of Giza?", "Egypt"),
        ("What colour do you get when you mix blue and yellow?", "green"),
        ("Which animal is known as the king of the jungle?", "lion"),
    ],
    "sum": [
        (f"What is {a} plus {b}?", str(a + b)) for a, b in zip(range(1, 10), (1, 3, 4, 2, 5, 3, 1, 6, 9))
    ],
    "list": [
        (f"List three {things}. Number them 1, 2 and 3, each on a line of its own.", "")
        for things in (
            *("fruits", "colours", "animals", "countries", "sports", "vegetables"),
            *("musical instruments", "kinds of weather", "tools of a carpenter", "things in a kitchen"),
        )
    ],
    "explanation": [
        (f"Explain in three or four sentences {what}.", "")
        for what in (
            *("why the sky is blue", "what rain is", "why people sleep", "how a bicycle works"),
            *(
                "what a library is for",
                "why exercise is good for you",
                "what a computer does",
                "how bread is made",
            ),
            *("what the seasons are", "why we should drink water"),
        )
    ],
}
MAX_NEW_TOKENS = dict(fact=48, sum=48, list=64, explanation=128)


def _holds(answer: str, expected: str) -> bool:
    return re.search(rf"\b(?:{expected})\b", answer, re.I) is not None


def _lists_three(answer: str, _: str) -> bool:
    "Lines that begin with 1, 2 and 3, and say something that is not the same."
    items = [re.search(rf"^\W*{n}[.):]\W*(\w.*)$", answer, re.M) for n in (1, 2, 3)]
    return all(items) and len({item[1].strip().lower() for item in items}) == 3


def _explains(answer: str, _: str) -> bool:
    "Two whole sentences of thirty words together, and not the same one again and again."
    sentences = [s.strip() for s in re.findall(r"[^.!?]+[.!?](?=\s|$)", answer) if len(s.split()) >= 4]
    words = answer.lower().split()
    return len(set(sentences)) >= 2 and len(words) >= 30 and len(set(words)) >= 0.5 * len(words)


CHECKS: dict[str, Callable[[str, str], bool]] = dict(
    fact=_holds, sum=_holds, list=_lists_three, explanation=_explains
)


def is_right(kind: str, expected: str, answer: str) -> bool:
    "Does an answer hold what was asked for? A check in code, which a person could pass with nonsense."
    return CHECKS[kind](answer, expected)


# ---- replay: other questions, which the base answers itself

REPLAY = [
    *(f"What is the capital of {x}?" for x in ("Spain", "Germany", "Canada", "Brazil", "Greece", "Norway")),
    *("How many months does a year have?", "Which planet is the largest?", "What do cows eat?"),
    *("Who painted the Mona Lisa?", "What is the opposite of day?", "What is the boiling point of water?"),
    *("Which language is spoken in Portugal?", "What do you call a baby dog?", "What is the longest river?"),
    *(f"What is {a} plus {b}?" for a, b in ((2, 2), (3, 5), (4, 4), (6, 1), (7, 2), (8, 5))),
    *(
        f"List three {x}. Number them 1, 2 and 3, each on a line of its own."
        for x in ("flowers", "cities", "drinks", "jobs", "birds", "books", "games", "trees", "holidays")
    ),
    *(
        f"Explain in three or four sentences {x}."
        for x in (
            *("what a bank does", "how plants grow", "why the moon shines", "what music is"),
            *("how a car works", "what a school is for", "why friends matter", "what wind is"),
            *("how fish breathe", "what a map is for", "why we read books", "what electricity is"),
            *("how soup is made", "what a museum is", "why we wash our hands"),
        )
    ),
]


def whole(answer: str) -> str:
    "Without the sentence in which the answer was cut: a row whose end is arbitrary teaches to stop anywhere."
    ends = [m.end() for m in re.finditer(r"[^\d\s][.!?](?=\s|$)", answer)]  # "1." begins an item
    return answer[: ends[-1]] if ends else answer


def replay_rows(base: LM) -> list[dict]:  # prompt, completion
    "What the base itself says to the questions of `REPLAY`."
    return [dict(prompt=p, completion=whole(a)) for p, a in zip(REPLAY, reply(base, REPLAY, 128)) if a]


# ---- measuring


def asked(lm: LM) -> dict[str, list[dict]]:  # kind -> question, answer, right
    "Every question, answered and checked."
    found = {}
    for kind, questions in QUESTIONS.items():
        answers = reply(lm, [question for question, _ in questions], MAX_NEW_TOKENS[kind])
        found[kind] = [
            dict(question=question, answer=answer, right=is_right(kind, expected, answer))
            for (question, expected), answer in zip(questions, answers)
        ]
    return found


def counts(answers: dict[str, list[dict]], kind: str | None = None) -> list[tuple]:  # (right, 1) of each
    "Of one kind, or of all."
    return [(float(a["right"]), 1) for k, some in answers.items() if kind in (None, k) for a in some]


def measured(name: str, lm: LM, before: dict | None, **about) -> dict:
    "A model's row of the file."
    answers = asked(lm)
    kinds = [None, *QUESTIONS]
    row = dict(name=name, **about, scores={k or "all": numbers(interval(counts(answers, k))) for k in kinds})
    if before:
        row["changed"] = {
            k or "all": numbers(interval(counts(answers, k), counts(before["answers"], k), how="difference"))
            for k in kinds
        }
    return dict(row, answers=answers)


def packages(lm: LM, test: list[dict], stages: dict[str, Report]) -> dict:
    "Scores on the run's test rows, and the paired change from each stage of the run."
    report = evaluate(lm, test, metrics=("quality",), max_new_tokens=48, score=score_package)
    return dict(
        packages={metric: numbers(report.score(metric)) for metric in report.rows},
        against={
            name: {m: numbers(interval(report.rows[m], stage.rows[m], how="difference")) for m in report.rows}
            for name, stage in stages.items()
            if stage.test == report.test
        },
    )


def main(folder: Path, out: Path, only: str | None) -> None:
    run = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    about, seed = run["about"], run["about"]["seed"]
    stages = {
        s["name"]: Report.of(s["report"]) for s in run["stages"] if s["name"] in ("base", "prompt", "SFT")
    }
    material = packages_material(seed, **{f"n_{part}": about["rows"][part] for part in ("train", "test")})
    base, few = load(about["base"]), material.train[: len(material.train) // 3]
    found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    done = {row["name"]: row for row in found.get("models", [])}

    def tuned(rows: list[dict]) -> LM:
        return finetune_sft(base, rows, epochs=1, learning_rate=about["knobs"]["learning_rate"], seed=seed)

    def trained(name: str, rows: list[dict], **more) -> dict:
        began = time.perf_counter()
        lm = tuned(rows)
        seconds = round(time.perf_counter() - began, 1)
        scores = packages(lm, material.test, stages)
        return measured(name, lm, done["base"], rows=len(few), seconds=seconds, **more, **scores)

    plain = lambda rows: [dict(prompt=row["prompt"], completion=row["completion"]) for row in rows]
    makers = {
        "base": lambda name: measured(name, base, None, rows=0, replay=0),
        f"SFT, {len(material.train)} rows": lambda name: measured(
            name, load(folder / "sft"), done["base"], rows=len(material.train), replay=0
        ),
        f"SFT, {len(few)} rows": lambda name: trained(name, plain(few), replay=0),
        f"SFT, {len(few)} rows, replay": lambda name: trained(
            name, plain(few) + (again := replay_rows(base)), replay=len(again)
        ),
    }
    for name, make in makers.items():
        if name in done or only not in (None, name):
            continue
        done[name] = make(name)
        kept = [done[known] for known in makers if known in done]
        write_atomic(out, json.dumps(dict(about=about, models=kept), ensure_ascii=False, indent=1) + "\n")
        print(name, done[name]["scores"]["all"], done[name].get("seconds", ""), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of a run, with its report.json and sft")
    parser.add_argument("--out", type=Path, default=NBS / "real/forgetting.json")
    parser.add_argument("--only", help="name of the one model to ask")
    given = parser.parse_args()
    main(given.folder, given.out, given.only)
