"The real model: stored measurements, how they are read, and that pages say what the files say."

import json
import math
from dataclasses import asdict

import pytest
import real as condenser  # tools/real.py
from book import NBS, cells, texts

from ftguide.engine.statistics import Score
from ftguide.evaluation import Report
from ftguide.report.stored_runs import (
    METRICS,
    StoredRuns,
    change_in_words,
    judged,
    read_runs,
    read_score,
    read_stored,
    with_interval,
)

STAGES = ["base", "prompt", "SFT", "DPO", "distilled"]
RUNS = read_runs()


def numbers(value, low, high, n=60):
    return dict(value=value, low=low, high=high, n=n)


def made_run(seed, score, ratio):
    "A run of two stages with one metric."
    stage = lambda name, value: dict(
        name=name,
        seconds=120,
        parameters=2_000_000,
        pairs=7,
        speed=dict(tokens_per_second=50),
        scores=dict(chrF=numbers(value, value - 0.1, value + 0.1)),
    )
    change = dict(chrF=numbers(score - 0.2, 0.05, 0.3))
    pair = dict(after="SFT", before="base", ratio=dict(chrF=ratio), difference=change)
    return dict(
        about=dict(seed=seed, rows=dict(test=60)),
        stages=[stage("base", 0.2), stage("SFT", score)],
        compared=[pair],
    )


RATIO, NO_RATIO = numbers(2.5, 2.1, 3), numbers(None, None, None)


def test_one_run_has_the_interval_of_its_rows():
    one = StoredRuns([made_run(4, 0.5, RATIO)])
    assert (one.count, one.stages) == ("one run, seed 4", ["base", "SFT"])
    assert one.score("SFT", "chrF") == Score(0.5, 0.4, 0.6, 60)
    assert one.change("SFT", "base", "chrF", "ratio") == Score(2.5, 2.1, 3, 60)
    assert (one.minutes("SFT"), one.millions("SFT"), one.pairs("SFT"), one.speed("SFT")) == (2, 2, 7, 50)
    assert one.score("SFT", "section") is None and "60 test rows" in one.rests_on


def test_several_runs_have_the_interval_over_runs():
    three = StoredRuns([made_run(seed, score, RATIO) for seed, score in enumerate((0.4, 0.5, 0.6))])
    score, gain = three.score("SFT", "chrF"), three.change("SFT", "base", "chrF")
    half = 4.3027 * 0.1 / math.sqrt(3)  # Student's t with two degrees of freedom
    assert (three.count, score.n) == ("three runs, seeds 0, 1, 2", 3)
    assert (score.low, score.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-4)
    assert (gain.value, gain.low) == pytest.approx((0.3, 0.3 - half), abs=1e-4)
    apart = StoredRuns([made_run(seed, score, RATIO) for seed, score in enumerate((0.1, 0.9))])
    assert (apart.score("SFT", "chrF").low, apart.score("SFT", "chrF").high) == (0, 1)  # a share


def test_no_ratio_in_one_run_is_no_ratio_in_their_mean():
    two = StoredRuns([made_run(0, 0.5, RATIO), made_run(1, 0.5, NO_RATIO)])
    assert math.isnan(two.change("SFT", "base", "chrF", "ratio").value)


def test_what_is_not_there_is_named():
    with pytest.raises(KeyError, match="base, SFT"):
        StoredRuns([made_run(0, 0.5, RATIO)]).score("DPO", "chrF")
    with pytest.raises(FileNotFoundError, match=r"no-such\.json"):
        read_stored("no-such.json")


def test_words_follow_the_whole_interval():
    assert change_in_words(Score(0.2, 0.1, 0.3, 9)) == "rose by 0.200 [0.100, 0.300]"
    assert change_in_words(Score(-0.2, -0.3, -0.1, 9)) == "fell by 0.200 [0.100, 0.300]"
    assert change_in_words(Score(0.1, -0.1, 0.3, 9)) == "did not clearly change (+0.100 [-0.100, +0.300])"
    assert [judged(Score(2, low, high, 9), 2) for low, high in ((2, 3), (1, 3), (0, 1.9))] == [
        "reached",
        "open",
        "missed",
    ]
    assert with_interval(None) == with_interval(Score(math.nan, math.nan, math.nan, 0)) == "–"
    assert with_interval(Score(0.5, math.nan, math.nan, 1)) == "0.50"


# the script that makes the files


def answered(name, said, test="same"):
    "A report on one synopsis, one translation and one section."
    synopsis = condenser.TASK_PROMPTS["synopsis"].format(description="A")
    asked = [synopsis, "Translate into X: a", "B. Answer: net, web."]
    rows = {"ROUGE-L": [(0.5, 1)] * 4, "section": [(1.0, 1), (0.0, 1)] * 2}
    answers = [dict(prompt=p, reference="one two three", answer=said) for p in asked]
    speed = dict(tokens_per_second=9.0)
    return Report(name, 5, rows, answers=answers, speed=speed, nll=[(3.0, 2, 9)], test=test)


def test_condensed_run_keeps_scores_changes_and_answers():
    stage = lambda name, said, **more: dict(
        name=name, seconds=1.23, history=[], report=asdict(answered(name, said)), **more
    )
    data = dict(about=dict(seed=0), stages=[stage("base", "a b c d"), stage("SFT", "a b", pairs=[1, 2])])
    found = json.loads(json.dumps(condenser.condensed(data)))
    assert [s["name"] for s in found["stages"]] == ["base", "SFT"] and found["reference_words"] == 3
    assert found["stages"][1]["scores"]["synopsis words"]["value"] == 2
    assert found["stages"][1]["scores"]["section"]["value"] == 0.5 and found["stages"][1]["pairs"] == 2
    (pair,) = found["compared"]
    assert (pair["after"], pair["before"]) == ("SFT", "base")
    assert pair["difference"]["synopsis words"]["value"] == -2
    assert pair["difference"]["ROUGE-L"]["value"] == 0
    assert [s["answers"] for s in found["samples"]] == [dict(base="a b c d", SFT="a b")] * 3


# what the files hold


@pytest.mark.parametrize("run", RUNS.runs, ids=lambda run: f"seed-{run['about']['seed']}")
def test_a_stored_run_is_whole(run):
    assert [s["name"] for s in run["stages"]] == STAGES
    for stage in run["stages"]:
        for metric in METRICS:
            score = read_score(stage["scores"][metric])
            assert 0 <= score.low <= score.value <= score.high <= 1 and score.n == 60
        assert stage["seconds"] > 0 and stage["speed"]["tokens_per_second"] > 0
    pairs = {(c["after"], c["before"]): c for c in run["compared"]}
    for i, after in enumerate(STAGES):
        for before in STAGES[:i]:
            for metric in METRICS:
                gain = read_score(pairs[after, before]["difference"][metric])
                assert gain.low <= gain.value <= gain.high
    assert len(run["samples"]) >= 6 and all(set(s["answers"]) == set(STAGES) for s in run["samples"])
    assert json.loads((NBS / f"real/seed-{run['about']['seed']}.json").read_text(encoding="utf-8")) == run


def test_seeds_differ_in_nothing_but_chance():
    about = [{k: run["about"][k] for k in ("base", "student", "rows", "knobs")} for run in RUNS.runs]
    assert all(one == about[0] for one in about)
    assert len({run["about"]["seed"] for run in RUNS.runs}) == len(RUNS.runs)


def test_stored_files_are_small():
    assert sum(path.stat().st_size for path in (NBS / "real").iterdir()) < 1_500_000


def test_students_are_whole():
    explored = read_stored("students.json")
    for student in explored["untrained"]:
        assert len(student["kept"]) == student["layers"] and student["nll"] > explored["teacher_nll"]
    assert {s["layers"] for s in explored["untrained"]} == {24, 20, 15} and explored["trained"]


# the pages


def stored_output(page, cell):
    "What a cell of a lesson shows, as stored."
    (found,) = [c for c in cells(NBS / f"{page}.ipynb") if c["id"] == cell]
    return "\n".join(texts(found))


def every(stages, metrics=METRICS):
    return [with_interval(RUNS.score(stage, metric)) for stage in stages for metric in metrics]


def gains(after, before, metrics=METRICS):
    return [change_in_words(RUNS.change(after, before, metric)) for metric in metrics]


def kept(metrics=METRICS):
    return [with_interval(RUNS.change("distilled", "DPO", metric, "ratio")) for metric in metrics]


LEARNT = ("section", "ROUGE-L", "chrF")
SAID = {  # (lesson, cell) -> what its output must hold
    ("00_start", "start-sft"): every(("base", "prompt", "SFT"), ("section",)),
    ("00_start", "start-dpo"): gains("DPO", "SFT", ("no fault", "ROUGE-L")),
    ("00_start", "start-distill"): kept(LEARNT),
    ("00a_decide", "decide-real"): every(("base", "prompt", "SFT"), LEARNT) + gains("prompt", "base", LEARNT),
    ("06_dpo", "dpo-real"): every(("SFT", "DPO")) + gains("DPO", "SFT"),
    ("07_distill", "distill-real"): every(("DPO", "distilled")) + kept(),
    ("07a_students", "students-real"): kept(),
    ("09_journey", "journey-real-table"): every(STAGES),
    ("09_journey", "journey-real-beside"): kept(),
    ("09_journey", "journey-real-says"): gains("SFT", "prompt") + gains("DPO", "SFT"),
}


@pytest.mark.parametrize("where", SAID, ids="-".join)
def test_pages_say_what_the_files_say(where):
    text = stored_output(*where)
    assert not [said for said in SAID[where] if said not in text]


@pytest.mark.parametrize("where", SAID, ids="-".join)
def test_pages_say_how_many_runs_there_are(where):
    if where[1] in ("journey-real-table", "journey-real-beside"):
        where = (where[0], "journey-real-read")
    assert RUNS.count in stored_output(*where).lower()
