"The journey: a rule for going on, what a test asks, stages one at a time, and examples in the prompt."

import json
import random
import warnings
from collections import Counter

import pytest
from stages import let_answers_end

from ftguide.engine.formats import DataError
from ftguide.engine.generation import Answer
from ftguide.evaluation import Report, with_examples
from ftguide.journey import (
    _best_examples,
    check_stage,
    example_material,
    journey,
    load_material,
    packages_material,
    stages_of,
    verdict,
)
from ftguide.models import load


def report(name, **rows):
    return Report(name, 1, {m: [(x, 1) for x in xs] for m, xs in rows.items()}, test="same")


# the rule


def test_goes_on_only_when_the_whole_interval_is_above():
    before = report("before", sold=[1, 0, 0, 0, 0] * 8)
    better = report("better", sold=[1, 1, 0, 0, 0] * 8)
    assert check_stage(better, before, "sold").go and str(check_stage(better, before, "sold")).startswith(
        "Go on: sold changed by +0.200"
    )
    open_ = check_stage(better, before, "sold", 0.15)
    assert (
        not open_.go
        and open_.more_rows > 0
        and str(open_).startswith("Wait:")
        and f"{open_.more_rows} more test rows" in str(open_)
    )
    worse = check_stage(before, better, "sold")
    assert (
        not worse.go
        and worse.more_rows is None
        and str(worse).startswith("Do not go on:")
        and "lies below" in str(worse)
    )
    assert check_stage(better, before, "sold", 1.2, "ratio").gain.value == pytest.approx(2)


def test_a_clear_fall_elsewhere_stops_and_an_unclear_one_does_not():
    before = report("before", sold=[0] * 40, true=[1] * 40)
    for wrong, fell in ((12, ("true",)), (1, ())):
        after = report("after", sold=[1] * 40, true=[0] * wrong + [1] * (40 - wrong))
        assert check_stage(after, before, "sold").fell == fell and check_stage(after, before, "sold").go == (
            not fell
        )
        assert (
            check_stage(after, before, "sold", watch=()).go
            and check_stage(after, before, "sold", watch=("true",), may_fall=0.5).go
        )


def test_few_equal_and_foreign_rows_say_nothing():
    few = check_stage(report("a", sold=[1] * 4), report("b", sold=[0] * 4), "sold")
    assert not few.go and few.more_rows == 6 and "too few" in str(few)
    same = check_stage(report("a", sold=[1] * 40), report("b", sold=[1] * 40), "sold")
    assert not same.go and same.more_rows is None and "No number of rows" in str(same)
    with pytest.raises(KeyError, match="no metric 'bought'; there are sold"):
        check_stage(report("a", sold=[1] * 20), report("b", sold=[1] * 20), "bought")
    other = report("b", sold=[1] * 20)
    other.test = "other"
    with pytest.raises(ValueError, match="did not answer the same rows"):
        check_stage(report("a", sold=[1] * 20), other, "sold")


def test_the_rows_it_asks_for_do_tell():
    "Where 30 rows leave a gain open, as many as asked for decide mostly, four times as many nearly always."

    def drawn(n, seed):
        rng = random.Random(seed)
        first = [rng.random() < 0.4 for _ in range(n)]
        return report("after", sold=[float(x or rng.random() < 0.15) for x in first]), report(
            "before", sold=[float(x and rng.random() < 0.9) for x in first]
        )

    open_ = [
        (seed, v.more_rows)
        for seed in range(200)
        if (v := check_stage(*drawn(30, seed), "sold")).more_rows and 0.09 < v.gain.value < 0.17
    ]
    assert len(open_) >= 5
    share = lambda times: (
        sum(check_stage(*drawn(times * (30 + more), 1000 + seed), "sold").go for seed, more in open_)
        / len(open_)
    )
    assert share(1) > 0.45 and share(4) > 0.85


def test_a_score_of_nothing_has_no_ratio():
    nothing, little, much = (
        report("teacher", sold=[0] * 40),
        report("teacher", sold=[1] + [0] * 39),
        report("student", sold=[1] * 20 + [0] * 20),
    )
    for before in (nothing, little):
        said = check_stage(much, before, "sold", 0.75, "ratio")
        assert said.go and "too near 0 for a ratio; less 0.75 times the latter it is +0." in str(said), said
    both = check_stage(nothing, report("student", sold=[0] * 40), "sold", 0.75, "ratio")
    assert not both.go and "nan" not in str(both)


# what a test asks is learnt in no stage


def asked(rows):
    return {r["prompt"].casefold() for r in rows}


@pytest.mark.parametrize(
    "first, count, held", [(0, 100, 20), (0, 50, 10), (0, 150, 20), (100, 100, 10), (95, 100, 10)]
)
def test_what_a_test_asks_is_learnt_in_no_stage(first, count, held):
    "Pairs and corpus about the SFT rows' prompts: all, some, others as well, others only."
    sft = [dict(prompt=f"Question {i}", completion=f"Answer {i}") for i in range(100)]
    pairs = [
        dict(prompt=f"question {i}", chosen="good", rejected=f"bad {n}")
        for i in range(first, first + count)
        for n in range(2)
    ]
    corpus = [dict(prompt=f"QUESTION {i}") for i in range(first, first + count)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        m = load_material(sft, pairs, corpus, seed=3)
    tests = asked(m.valid + m.test + m.held_pairs)
    assert not asked(m.valid + m.test) & asked(m.train + m.pairs)
    assert (
        not asked(m.pairs) & tests
        and not asked(m.corpus) & tests
        and len(m.pairs) + len(m.held_pairs) == len(pairs)
    )
    assert abs(len(asked(m.held_pairs)) - held) <= 3 and len(asked(m.pairs)) >= 0.7 * count
    if first == 100:
        assert not asked(m.held_pairs) & asked(m.train)
    assert [str(w.message) for w in caught] == [
        f"{count - len(m.corpus)} of {count} corpus rows ask what a test asks, and are left out"
    ]


def test_a_question_is_the_same_in_text_and_in_messages():
    said = lambda role, text: dict(role=role, content=text)
    sft = [
        dict(
            messages=[
                said("system", "Be brief."),
                said("user", f"Question {i}"),
                said("assistant", "A"),
                said("user", "And then?"),
                said("assistant", "B"),
            ]
        )
        for i in range(40)
    ]
    pairs = [
        dict(prompt=prompt, chosen="a", rejected="b")
        for i in range(40)
        for prompt in (f"Question {i}", [said("system", "Be kind."), said("user", f"Question {i}")])
    ]
    m = load_material(sft, pairs)
    held = {r["messages"][1]["content"] for r in m.valid + m.test}
    asks = lambda p: p["prompt"] if isinstance(p["prompt"], str) else p["prompt"][1]["content"]
    assert (
        len(held) == 8
        and {asks(p) for p in m.held_pairs} == held
        and not held & {asks(p) for p in m.pairs}
        and len(m.pairs) == 64
    )


def test_material_that_only_repeats_the_test():
    sft = [dict(prompt=f"Question {i}", completion="A") for i in range(40)]
    m = load_material(sft)
    with pytest.raises(DataError, match="all 4 pairs are about prompts of the SFT rows' test"):
        load_material(sft, [dict(prompt=r["prompt"], chosen="a", rejected="b") for r in m.test])
    with pytest.raises(DataError, match="all 4 prompts of the corpus are asked in a test"):
        load_material(sft, corpus=[dict(prompt=r["prompt"]) for r in m.test])


def test_the_teachers_reference_is_not_learnt():
    from ftguide.journey import Material, _reference

    m = Material(
        corpus=[dict(prompt=f"How much is {i % 20} + 1?") for i in range(60)] + [dict(text="a text")]
    )
    held = _reference(load("tiny-small"), m)
    assert len(held) == 2 and not asked(held) & asked(m.corpus[:-1]) and len(m.corpus) == 55


# stages, one at a time


@pytest.fixture(autouse=True)
def answers_are_whole(monkeypatch):
    let_answers_end(monkeypatch)


def test_a_stage_is_made_when_it_is_asked_for():
    material, begun = example_material("en", 0, 16, 8, 8, 4), []
    before = json.dumps([material.train, material.test, material.pairs, material.held_pairs, material.corpus])
    steps = journey(material, "tiny-small", "tiny-small", speed=False, begin=begun.append)
    assert begun == []
    assert next(steps).name == "base" and begun == ["base"]
    assert next(steps).name == "SFT" and begun == ["base", "SFT"]
    assert (
        json.dumps([material.train, material.test, material.pairs, material.held_pairs, material.corpus])
        == before
    )
    with pytest.raises(ValueError, match="alpha must be between 0 and 1"):
        journey(material, alpha=2)  # before the first stage


def test_without_labelled_rows_the_teacher_is_the_reference():
    stages = list(
        journey(
            load_material(corpus=[dict(prompt=f"How much is {i} + 1?") for i in range(20)]),
            "tiny-small",
            "tiny-small",
            speed=False,
            distill_epochs=1,
        )
    )
    assert [s.name for s in stages] == ["base", "distilled"] and stages[0].report.test == stages[
        1
    ].report.test != ""
    assert verdict(stages).gain.n == 2 and "too few" in str(verdict(stages))
    assert verdict(stages[:1]) is None


def test_a_stage_that_was_handed_out_is_final():
    "The teacher's reference is made before the teacher is judged, not when its student is asked for."
    corpus = [dict(prompt=f"How much is {i} + 1?") for i in range(20)]
    steps = journey(load_material(corpus=corpus), "tiny-small", "tiny-small", speed=False, distill_epochs=1)
    teacher = next(steps)
    given, content = teacher.report, json.dumps(vars(teacher.report), default=vars)
    next(steps)
    assert teacher.report is given and json.dumps(vars(given), default=vars) == content
    assert given.test and "exact match" in given.rows


def test_stages_follow_the_material():
    assert stages_of(example_material("en", 0, 8, 2, 2, 4)) == ["SFT", "DPO", "distilled"]
    assert stages_of(load_material(corpus=[dict(prompt="Hi")])) == ["distilled"]


# Debian's packages


FEW = dict(n_train=24, n_valid=6, n_sheets=64, n_corpus=12, n_test=9)


def test_a_teacher_whose_answers_are_all_cut_is_said(monkeypatch):
    cut = lambda lm, prompts, *args, **how: [Answer("and on", True)] * len(prompts)
    monkeypatch.setattr("ftguide.engine.teachers.replies", cut)
    material = load_material(corpus=[dict(prompt=f"How much is {i} + 1?") for i in range(8)])
    with pytest.raises(ValueError, match="all empty or cut at the limit.*larger max_new_tokens"):
        list(journey(material, "tiny-small", speed=False))


def test_the_number_of_examples_is_chosen_for_each_task(monkeypatch):
    "Examples help with one task and harm another; no trial is an example or a test row."
    material, lm, seen = packages_material(seed=3, **FEW), load("tiny-small"), []
    monkeypatch.setattr("ftguide.journey.context_length", lambda lm: 10**6)
    row_of = {row["prompt"]: row for row in material.train + material.valid}

    def answers(lm, prompts, max_new_tokens, progress):
        seen.extend(prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in prompts)
        shown = 0 if isinstance(prompts[0], str) else len(prompts[0]) // 2
        right = dict(section=shown == 2, synopsis=shown == 0, translation=shown == 4)
        rows = [row_of[prompt] for prompt in seen[-len(prompts) :]]
        progress(len(rows))
        return [row["completion"] if right[row["task"]] else "nothing" for row in rows]

    monkeypatch.setattr("ftguide.journey.reply", answers)
    chosen = _best_examples(lm, material)
    assert Counter(row["task"] for row in chosen) == dict(section=2, translation=4)
    assert not set(seen) & {row["prompt"] for row in material.examples + material.test}
    assert [m["content"] for m in with_examples(material.test[:1], chosen)[0]] == [material.test[0]["prompt"]]


def test_no_package_is_in_two_parts_of_the_material():
    m = packages_material(seed=2, **FEW)
    names = lambda rows: {r["package"]["name"] for r in rows}
    train, sheets = names(m.train), names(m.sheets)
    assert not train & sheets and not (train | sheets) & names(m.test + m.valid)
    assert not asked(m.corpus) & asked(m.train + m.sheets + m.valid + m.test)
    assert names(m.examples) <= train and {r["task"] for r in m.examples} == {
        "synopsis",
        "section",
        "translation",
    }
