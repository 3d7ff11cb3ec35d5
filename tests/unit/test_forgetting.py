"What a tuned model forgets: checks of answers, the stored measurement, and the pages that show it."

import forgetting as tool  # tools/forgetting.py
import pytest
from book import NBS, cells, texts
from real import numbers

from ftguide.engine.statistics import interval
from ftguide.report.stored_runs import (
    change_in_words,
    read_runs,
    read_score,
    read_stored,
    with_interval,
)

RUNS = read_runs()
ASKED = {m["name"]: m for m in read_stored("forgetting.json")["models"]}
LEARNT = ("section", "ROUGE-L", "chrF")
TRAINED = [m for m in ASKED.values() if "packages" in m]
KNOWN = ["base", "SFT, 900 rows", "SFT, 300 rows", "SFT, 300 rows, replay"]


def test_checks_of_answers():
    right = [
        ("fact", "Paris", "The capital of France is Paris."),
        ("fact", "seven|7", "A week has 7 days."),
        ("sum", "12", "5 plus 7 is 12."),
        ("list", "", "Here are three:\n1. apples\n2. pears\n3. plums"),
        (
            "explanation",
            "",
            "Rain is water that falls from clouds to the ground. Warm air carries vapour up, where it cools "
            "and gathers into drops. When those grow heavy, gravity pulls them down again.",
        ),
    ]
    wrong = [
        ("fact", "ice", "the price of water"),
        ("sum", "2", "12"),
        ("list", "", "fruits, numbered"),
        ("list", "", "1. apples\n2. apples\n3. apples"),
        ("explanation", "", "explanation of rain"),
        ("explanation", "", "It is water. " * 20),
    ]
    assert all(tool.is_right(*case) for case in right) and not any(tool.is_right(*case) for case in wrong)


def test_replay_asks_no_question_of_the_test():
    asked = [question for some in tool.QUESTIONS.values() for question, _ in some]
    assert len(asked) == len(set(asked)) == 44 and len(tool.REPLAY) == len(set(tool.REPLAY)) == 45
    assert not set(asked) & set(tool.REPLAY)


def test_a_cut_answer_ends_with_its_last_sentence():
    assert tool.whole("One is here. Two is. And thr") == "One is here. Two is."
    assert tool.whole("1. apples\n2. pears\n3. plums") == "1. apples\n2. pears\n3. plums"
    assert tool.whole("Whole.") == "Whole."


def test_stored_answers_are_scored_as_the_checks_score_them():
    expected = {q: (kind, e) for kind, some in tool.QUESTIONS.items() for q, e in some}
    assert list(ASKED)[:2] == KNOWN[:2] and set(ASKED) <= set(KNOWN)
    for model in ASKED.values():
        for kind, answers in model["answers"].items():
            for a in answers:
                assert expected[a["question"]][0] == kind
                assert a["right"] == tool.is_right(kind, expected[a["question"]][1], a["answer"])
            counted = numbers(interval(tool.counts(model["answers"], kind)))
            assert model["scores"][kind] == counted
        if "changed" in model:
            pair = (tool.counts(some["answers"]) for some in (model, ASKED["base"]))
            assert model["changed"]["all"] == numbers(interval(*pair, how="difference"))


def test_replay_is_a_tenth_to_a_fifth():
    for model in ASKED.values():
        assert not model["replay"] or 0.1 <= model["replay"] / (model["rows"] + model["replay"]) <= 0.2


def test_sft_beats_the_best_prompt():
    "A clear paired gain in likeness to the maintainers' synopses, with a third of the rows as well."
    assert all(read_score(m["against"]["prompt"]["ROUGE-L"]).low > 0 for m in TRAINED)
    assert RUNS.change("SFT", "prompt", "ROUGE-L").low > 0


SAID = {  # (lesson, cell) -> what its output must hold
    ("05_sft", "sft-real"): [change_in_words(RUNS.change("SFT", "prompt", metric)) for metric in LEARNT]
    + [
        change_in_words(read_score(m["against"]["prompt"][metric]))
        for m in TRAINED
        if not m["replay"]
        for metric in LEARNT
    ],
    ("07c_health", "health-real"): [with_interval(read_score(m["scores"]["all"])) for m in ASKED.values()]
    + [change_in_words(read_score(m["changed"]["all"])) for m in ASKED.values() if "changed" in m],
}


@pytest.mark.parametrize("where", SAID, ids="-".join)
def test_pages_say_what_the_file_says(where):
    page, cell = where
    (found,) = [c for c in cells(NBS / f"{page}.ipynb") if c["id"] == cell]
    text = "\n".join(texts(found))
    assert not [said for said in SAID[where] if said not in text]
