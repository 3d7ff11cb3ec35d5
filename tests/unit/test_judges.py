"Sheets become win rates and pairs, and a verdict must survive the swap."

import csv
import json
import math
import random

import pytest
from sheets import HOSTILE, fill, sheet, talk

import ftguide.judges as judge_module
from ftguide.engine.formats import DataError
from ftguide.engine.generation import Answer
from ftguide.engine.rows import Row
from ftguide.engine.statistics import wilson
from ftguide.evaluation import Report
from ftguide.judges import human_sheet, judge, read_sheet
from ftguide.market import load_tasks
from ftguide.models import load

ROWS = load_tasks("test", 8, seed=3)


@pytest.fixture(scope="module")
def small():
    return load("tiny-small")


def test_sheets_that_cannot_be(tmp_path, small):
    with pytest.raises(ValueError, match="two models"):
        human_sheet([small], ROWS, tmp_path / "a")
    with pytest.raises(ValueError, match="two models"):
        human_sheet([small, small], ROWS, tmp_path / "a")
    with pytest.raises(ValueError, match="nothing to choose"):
        human_sheet({"a": lambda p: p, "b": lambda p: p}, ROWS, tmp_path / "a")
    with pytest.raises(ValueError, match="no answer to"):
        human_sheet({"a": Report("a", 1), "b": lambda p: p}, ROWS, tmp_path / "a")
    with pytest.raises(DataError, match="only text"):
        human_sheet({"a": lambda p: p, "b": lambda p: p}, [dict(text="x")], tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_filled_sheet_becomes_a_win_rate_and_pairs(tmp_path):
    _, key = sheet(tmp_path)
    likes_one = lambda r: "left" if r["left_is"] == "secret-one" else "right"
    likes_two = lambda r: "right" if r["left_is"] == "secret-one" else "left"
    all_one, all_two, ties = (
        fill(tmp_path / f"{n}.csv", key, f)
        for n, f in (("one", likes_one), ("two", likes_two), ("tie", lambda r: "tie"))
    )
    one = read_sheet(all_one, key)
    assert (
        one.win_rate.value == 1
        and len(one.pairs) == 10
        and {p["chosen"] for p in one.pairs} == set(HOSTILE)
        and one.kappa is None
    )
    assert (
        read_sheet(all_two, key).win_rate.value == 0
        and read_sheet(ties, key).win_rate.value == 0.5
        and not read_sheet(ties, key).pairs
    )
    both = read_sheet(all_one, key, second=all_two)
    assert both.win_rate.value == 0.5 and not both.pairs and both.agreement.value == 0 and both.kappa <= 0
    counter = iter(range(99))
    mixed = fill(tmp_path / "m.csv", key, lambda r: likes_one(r) if next(counter) % 2 else likes_two(r))
    assert read_sheet(mixed, key, second=mixed).kappa == pytest.approx(1)


def test_kappa_is_of_what_was_clicked(tmp_path):
    from sklearn.metrics import cohen_kappa_score

    _, key = sheet(tmp_path, n=200)
    rng = random.Random(0)
    habit = lambda r: rng.choices(("left", "right"), (9, 1))[0]
    one, two, left = (
        fill(tmp_path / f"{n}.csv", key, f)
        for n, f in (("one", habit), ("two", habit), ("left", lambda r: "left"))
    )
    read = lambda path: [r["better"] for r in csv.DictReader(path.open(encoding="utf-8"))]
    assert (
        read_sheet(one, key, second=two).kappa == pytest.approx(cohen_kappa_score(read(one), read(two)))
        and abs(read_sheet(one, key, second=two).kappa) < 0.2
    )
    both = read_sheet(left, key, second=left)
    assert (
        math.isnan(both.kappa)
        and both.agreement.value == 1
        and 0.9 < both.agreement.low < 1
        and "of 200 rows" in repr(both)
    )


def test_whole_conversations_are_read_judged_and_become_pairs(small, tmp_path):
    from ftguide.engine.training_data import prepare

    rows = [talk("mug"), talk("lamp")]
    asked = [Row(r).request for r in rows]
    echo = lambda word: lambda prompts: [f"{word} {p[1]['content']}" for p in prompts]
    page = human_sheet({"A": echo("a"), "B": echo("b")}, rows, tmp_path / "s")
    key = tmp_path / "s/key.json"
    assert page.read_text(encoding="utf-8").count("system: Answer in Portuguese.") == 2
    pairs = read_sheet(fill(tmp_path / "f.csv", key, lambda r: "left"), key).pairs
    assert (
        sorted((p["prompt"] for p in pairs), key=str) == sorted(asked, key=str)
        and len(prepare(small, pairs, "pairs")) == 2
    )
    a, b = (
        Report(n, 1, answers=[dict(prompt=p, reference="", answer=f"{n} {p[1]['content']}") for p in asked])
        for n in "AB"
    )
    seen = []
    found = judge(lambda prompts: seen.extend(prompts) or ["1", "1", "2", "2"], rows, a, b)
    assert (
        all("talk about mug" in p and "A talk about mug" in p and "lamp" not in p for p in seen[::2])
        and [p["prompt"] for p in found.pairs] == asked
    )
    with pytest.raises(ValueError, match="no answer to 'system: Answer"):
        judge(lambda p: ["1"] * len(p), [talk("jar")], a, b)
    old = Report("old", 1, answers=[dict(prompt="Hi", reference="", answer="there")])
    assert (
        judge_module._answers_of(old, ["Hi"], 4, [])
        == judge_module._answers_of(old, [[dict(role="user", content="Hi")]], 4, [])
        == [("there", False)]
    )


PAIRS = [(dict(prompt=f"Q{i} {{first}} {{prompt}}"), f"good {i} {{second}}", f"bad {i}") for i in range(12)]


rows, good, bad = map(list, zip(*PAIRS))


def test_an_answer_that_was_cut_is_neither_shown_nor_judged(tmp_path):
    rows = [dict(prompt=f"question {i}") for i in range(6)]

    def report(name, cut):
        said = [dict(prompt=r["prompt"], reference="", answer=f"{name} {i}") for i, r in enumerate(rows)]
        return Report(name, 1, answers=[{**a, "cut": True} if i in cut else a for i, a in enumerate(said)])

    one, two = report("one", {0}), report("two", {0, 3})
    asked = []
    result = judge(
        lambda prompts: asked.extend(prompts) or ["1"] * len(prompts), rows, one, two, truth=[1] * 6
    )
    assert result.cut == 2 and len(result.verdicts) == 4 and len(asked) == 8
    assert not any("one 0" in text or "two 3" in text for text in asked) and "2 not judged" in repr(result)
    with pytest.warns(UserWarning, match="2 of 6 answers were pairs with one cut"):
        human_sheet([one, two], rows, tmp_path / "sheet")
    key = json.loads((tmp_path / "sheet/key.json").read_text(encoding="utf-8"))
    assert len(key["items"]) == 4 and key["identical"] == 0


def test_a_verdict_that_was_cut_is_none(monkeypatch):
    said = [Answer("1", False), Answer("1 is not", True), Answer("2", False), Answer("2", False)]
    monkeypatch.setattr(judge_module, "ask_all", lambda *a: said)
    rows = [dict(prompt="a"), dict(prompt="b")]
    result = judge("a judge", rows, ["x", "x"], ["y", "y"])
    assert result.verdicts == [1] and result.unread == 1


def test_a_verdict_must_survive_the_swap():
    reads = lambda prompts: [
        "1" if p.split("Answer 1:\n")[1].startswith("good") else "Answer 2." for p in prompts
    ]
    sure = judge(reads, rows, good, bad, truth=[1] * 12)
    assert (
        sure.win_rate.value == 1
        and sure.position_consistency.value == 1
        and sure.agreement == sure.position_consistency == wilson(12, 12)
        and len(sure.pairs) == 12
        and sure.pairs[0]["chosen"] == good[0]
    )
    assert judge(reads, rows, bad, good, truth=[1] * 12).agreement.value == 0
    for stubborn in ("1", "2"):
        assert judge(lambda p, word=stubborn: [word] * len(p), rows, good, bad).verdicts == [0] * 12
    silent = judge(lambda p: ["1 or 2, hard to say", "neither"] * (len(p) // 2), rows, good, bad)
    assert silent.unread == 12 and silent.agreement is None and silent.verdicts == []
    assert math.isnan(silent.win_rate.value) and silent.position_consistency is None
    assert "no win rate" in repr(silent)
    half = judge(lambda p: ["1", "?"] * (len(p) // 2), rows, good, bad)  # every second row is read
    assert (half.unread, half.verdicts, half.win_rate.n) == (6, [0] * 6, 6)
    assert half.win_rate.low < 0.4 < 0.6 < half.win_rate.high
    thinks = judge(
        lambda p: [f"<think>1 or 2?</think> {word}" for word in reads(p)], rows, good, bad, truth=[1] * 12
    )
    assert thinks.verdicts == [1] * 12
    with pytest.raises(ValueError, match="two answers for every row"):
        judge(reads, rows, good, bad[:3])
    with pytest.raises(ValueError, match="two answers for every row"):
        judge(reads, [], [], [])


@pytest.mark.parametrize(
    "text, verdict",
    [
        ("1", 1),
        ("2.", -1),
        ("Answer 2", -1),
        ("**1**", 1),
        ("12", None),
        ("1 and 2", None),
        ("", None),
        ("2.5", None),
        ("The first", None),
        ("1!", 1),
    ],
)
def test_what_counts_as_a_verdict(text, verdict):
    assert judge_module._verdict(text) == verdict
