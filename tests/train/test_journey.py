"""The journey: a rule for going on, stages one at a time.

And a run in a folder, which was killed and goes on to the same models.
"""

import json
import random
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from killed import child, journey_killed_at
from typer.testing import CliRunner

from ftguide.cli import app
from ftguide.engine.formats import DataError
from ftguide.evaluation import Report, with_examples
from ftguide.journey import (
    _best_examples,
    check_stage,
    example_material,
    journey,
    load_material,
    packages_material,
    results_table,
    stages_of,
    verdict,
)
from ftguide.models import load, save
from ftguide.report.run_folder import run, settings

SIZE = dict(n_train=48, n_sheets=16, n_corpus=16, n_test=16)
KNOBS = dict(
    base="tiny-small", student="tiny-small", lang="pt", seed=1, size=SIZE, speed=False, distill_epochs=1
)


def report(name, **rows):
    return Report(name, 1, {m: [(x, 1) for x in xs] for m, xs in rows.items()}, test="same")


def weights(lm):
    return torch.cat([p.detach().flatten() for p in lm.model.parameters()])


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


def test_conversations_through_the_whole_journey(tmp_path):
    "Rows of messages: trained, judged, and shown in the report."
    talk = lambda i: [
        dict(role="system", content="Be <brief>."),
        dict(role="user", content=f"How much is {i} + {i}?"),
        dict(role="assistant", content=str(2 * i)),
    ]
    run(
        tmp_path / "run",
        "tiny-small",
        sft=[dict(messages=talk(i)) for i in range(40)],
        speed=False,
        say=lambda line: None,
    )
    shown = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "Be &lt;brief&gt;." in shown and "How much is" in shown


@pytest.mark.parametrize(
    "knobs, says",
    [
        (dict(seed=-1), "seed must be between 0"),
        (dict(usd_per_hour=-1), "usd_per_hour must be 0 or more"),
        (dict(usd_per_hour=float("nan")), "usd_per_hour must be 0 or more"),
    ],
)
def test_settings_are_refused_before_anything_is_written(tmp_path, knobs, says):
    with pytest.raises(ValueError, match=says):
        run(tmp_path / "run", **{**KNOBS, **knobs})
    assert not (tmp_path / "run").exists()


# what the command leaves alone


def test_a_folder_beside_the_model_is_not_swept_away(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps(dict(prompt=f"Q{i}", completion="A")) + "\n" for i in range(16)), encoding="utf-8"
    )
    beside = tmp_path / "m.checkpoints"
    beside.mkdir()
    (beside / "notes.txt").write_text("mine")
    train = lambda: CliRunner().invoke(
        app,
        ["sft", "--base", "tiny-small", "--data", str(rows), "--out", str(tmp_path / "m"), "--epochs", "1"],
    )
    done = train()
    assert (
        done.exit_code == 2
        and "m.checkpoints holds notes.txt, which no training wrote" in done.output
        and (beside / "notes.txt").read_text() == "mine"
    )
    (beside / "notes.txt").unlink()
    done = train()
    assert done.exit_code == 0 and (tmp_path / "m").is_dir() and not beside.exists(), done.output


def test_dpo_sweeps_its_own_files_and_goes_on_with_them(tmp_path):
    "Beside the checkpoints lie the reference's log-probabilities."
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(
        "".join(json.dumps(dict(prompt=f"Q{i}", chosen="good", rejected="evil")) + "\n" for i in range(16)),
        encoding="utf-8",
    )
    train = lambda *more: CliRunner().invoke(
        app,
        [
            "dpo",
            "--base",
            "tiny-small",
            "--data",
            str(pairs),
            "--out",
            str(tmp_path / "m"),
            "--epochs",
            "1",
            *more,
        ],
    )
    with pytest.MonkeyPatch.context() as m:  # stopped before the model is saved
        m.setattr("ftguide.models.save", lambda *a, **k: 1 / 0)
        done = train()
    assert isinstance(done.exception, ZeroDivisionError) and list(
        (tmp_path / "m.checkpoints").glob("reference-*.json")
    )
    done = train("--resume")
    assert done.exit_code == 0 and (tmp_path / "m").is_dir() and not (tmp_path / "m.checkpoints").exists(), (
        done.output
    )


@pytest.mark.parametrize(
    "args, says",
    [
        (["votes", "v.db", "--pairs", "x.jsonl", "--thumbs", "x.jsonl"], "x.jsonl is named twice"),
        (["check", "rows.jsonl", "--max-length", "5"], "--max-length counts tokens, so it needs --model"),
        (
            ["check", "rows.jsonl", "--model", "tiny-small", "--max-length", "0"],
            "--max-length must be 1 or more, not 0",
        ),
    ],
)
def test_flags_that_do_not_fit_together(tmp_path, monkeypatch, args, says):
    from ftguide.serving.votes import Feedback

    monkeypatch.chdir(tmp_path)
    Feedback("v.db")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Q", "completion": "A"}\n')
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 2 and says in done.output and not (tmp_path / "x.jsonl").exists(), done.output


# stages, one at a time


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


# a run that is killed, and the same run left alone, in Portuguese


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    said = []
    return out, run(out, **KNOBS, say=said.append), said


def test_portuguese_runs_the_same_journey(whole):
    out, stages, said = whole
    assert [s.name for s in stages] == ["base", "SFT", "DPO", "distilled"]
    assert all("anúncio" in r["prompt"] for s in stages for r in s.report.answers[::4])
    assert {"truth", "conversion", "extraction", "sentiment", "summary"} <= set(stages[1].report.rows)
    table = results_table(stages).splitlines()
    assert (
        len(table) == 6 and table[0].startswith("| stage | truth |") and table[-1].startswith("| distilled |")
    )
    assert (
        sum("o on" in line or "Wait" in line for line in said) == 3
    )  # a verdict after each stage but the base
    assert (
        stages[2].pairs
        and stages[2].held_pairs
        and sorted(p.name for p in out.iterdir()) == ["dpo", "report.html", "report.json", "sft", "student"]
    )


# Debian's packages


FEW = dict(n_train=24, n_valid=6, n_sheets=64, n_corpus=12, n_test=9)
SMALL = dict(example="packages", base="tiny-small", student=2, seed=4, size=FEW, speed=False)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    out = tmp_path_factory.mktemp("packages") / "run"
    return out, run(out, **SMALL, say=lambda line: None)


def test_packages_go_from_a_prompt_to_a_student_of_the_models_own_layers(packages):
    out, stages = packages
    assert [s.name for s in stages] == ["base", "prompt", "SFT", "DPO", "distilled"]
    assert all(
        set(s.report.rows) >= {"section", "ROUGE-L", "no fault", "chrF"} and s.report.test for s in stages
    )
    assert len({s.report.test for s in stages}) == 1  # a prompted model answered the same questions
    base, prompt, _, dpo, student = stages
    assert torch.equal(weights(base.lm), weights(prompt.lm))
    assert student.lm.model.config.num_hidden_layers == 2 < dpo.lm.model.config.num_hidden_layers
    assert set(student.report.against) | set(student.report.no_ratio) >= {"ROUGE-L", "chrF"}
    about = json.loads((out / "report.json").read_text(encoding="utf-8"))["about"]
    assert (about["example"], about["student"]) == ("packages", "2 of its own layers")
    assert about["knobs"]["learning_rate"] == 1e-4 and about["rows"]["test"] == 9
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Pairs that DPO learned from" in page and "<dt>no fault</dt>" in page


def test_a_stopped_run_of_packages_goes_on_with_its_prompt(packages, tmp_path, monkeypatch):
    out, stages = packages
    mine = tmp_path / "run"
    shutil.copytree(out, mine)
    shutil.rmtree(mine / "student")
    for done in ("finetune_sft", "align_dpo", "_best_examples"):
        monkeypatch.setattr(f"ftguide.journey.{done}", lambda *a, **k: pytest.fail("done again"))
    again = run(mine, **SMALL, resume=True, say=lambda line: None)
    assert [s.name for s in again] == [s.name for s in stages]
    assert torch.equal(weights(again[-1].lm), weights(stages[-1].lm))


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


@pytest.mark.parametrize(
    "example, asked, student",
    [
        ("market", {}, "tiny-small"),
        ("market", dict(base="tiny-small", student=2), 2),
        ("packages", {}, 20),
        ("packages", dict(student=None), 20),
        ("packages", dict(base="tiny"), "tiny-small"),
        (None, {}, "tiny-small"),
    ],
)
def test_a_student_suits_the_base(example, asked, student):
    assert settings(example, asked)["student"] == student


def test_any_other_base_gets_a_student_of_its_own_layers(tmp_path):
    save(load("tiny"), tmp_path / "mine")
    assert settings(None, dict(base=tmp_path / "mine"))["student"] == 4


@pytest.mark.parametrize(
    "knobs, says",
    [
        (dict(example="market", sft=[dict(prompt="Q", completion="A")]), "give files or the example market"),
        (dict(example="shop"), "example must be market or packages, not 'shop'"),
        (dict(example="packages", lang="pt"), "lang is the marketplace's language"),
        (dict(student=9, base="tiny-small"), "layers must be a number from 1 to 3"),
        (dict(learning_rate=-1.0), "learning_rate must be above 0"),
    ],
)
def test_examples_that_cannot_be_run_are_refused(tmp_path, knobs, says):
    with pytest.raises(ValueError, match=says):
        run(tmp_path / "run", **knobs)
    assert not (tmp_path / "run").exists()


def test_a_run_is_condensed_for_the_lessons(packages, tmp_path):
    out, stages = packages
    tool = Path(__file__).resolve().parents[2] / "tools/real.py"
    target = tmp_path / "real/seed-4.json"
    subprocess.run([sys.executable, tool, out, "--out", target], check=True)
    found = json.loads(target.read_text(encoding="utf-8"))
    assert [s["name"] for s in found["stages"]] == [s.name for s in stages]
    score = stages[2].report.score("ROUGE-L")
    assert found["stages"][2]["scores"]["ROUGE-L"]["value"] == pytest.approx(score.value, abs=1e-4)
    assert "BLEU" in found["stages"][0]["scores"] and found["about"]["seed"] == 4
    both = [(c["after"], c["before"]) for c in found["compared"]]
    assert ("DPO", "prompt") in both and ("distilled", "DPO") in both
    assert set(found["samples"][0]["answers"]) == {s.name for s in stages} and found["pairs"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("after", ["SFT", "DPO"])
def test_killed_and_resumed_is_the_same_run(whole, tmp_path, monkeypatch, after):
    out, stages, _ = whole
    mine = tmp_path / "run"
    first = child(journey_killed_at, str(mine), KNOBS, f"{after} |")
    first.join(120)
    assert first.exitcode == -9
    assert [s["name"] for s in json.loads((mine / "report.json").read_text(encoding="utf-8"))["stages"]] == [
        "base",
        "SFT",
        "DPO",
    ][: 2 if after == "SFT" else 3]
    (mine / ".student-half").mkdir()
    (mine / ".report.json").write_text("{")  # what a kill in the middle of writing leaves
    if after == "SFT":
        shutil.copytree(mine / "sft", mine / "dpo")  # a model that report.json does not name is not finished
    with pytest.raises(FileExistsError, match="exists and is not empty.*--resume"):
        run(mine, **KNOBS)
    monkeypatch.setattr("ftguide.journey.finetune_sft", lambda *a, **k: pytest.fail("SFT is trained again"))
    if after == "DPO":
        monkeypatch.setattr("ftguide.journey.align_dpo", lambda *a, **k: pytest.fail("DPO is trained again"))
    said = []
    again = run(mine, **KNOBS, resume=True, say=said.append)
    assert sum("from the stopped run" in line for line in said) == (2 if after == "SFT" else 3)
    assert sorted(p.name for p in mine.iterdir()) == sorted(p.name for p in out.iterdir())
    for a, b in zip(stages, again):
        assert a.name == b.name and torch.equal(weights(a.lm), weights(b.lm))
    for folder in ("sft", "dpo", "student"):
        assert torch.equal(weights(load(out / folder)), weights(load(mine / folder)))
    one, two = (json.loads((p / "report.json").read_text(encoding="utf-8"))["stages"] for p in (out, mine))
    for a, b in zip(one, two):
        assert {k: a[k] for k in ("name", "report", "pairs", "held_pairs")} == {
            k: b[k] for k in ("name", "report", "pairs", "held_pairs")
        }


def test_a_finished_run_is_loaded(whole, tmp_path, monkeypatch):
    mine = tmp_path / "run"
    shutil.copytree(whole[0], mine)
    (mine / "report.html").unlink()
    for stage in ("finetune_sft", "align_dpo", "distill"):
        monkeypatch.setattr(f"ftguide.journey.{stage}", lambda *a, **k: pytest.fail("trained again"))
    assert [s.name for s in run(mine, **KNOBS, resume=True, say=lambda _: None)] == [
        "base",
        "SFT",
        "DPO",
        "distilled",
    ] and (mine / "report.html").exists()


def test_what_is_not_this_run_is_refused(whole, tmp_path):
    mine = tmp_path / "run"
    shutil.copytree(whole[0], mine)
    before = sorted(p.name for p in mine.rglob("*"))
    for change, says in (
        (dict(seed=2), "seed was 1, and is 2"),
        (dict(distill_epochs=2), "knobs was"),
        (dict(lang="en"), "lang was pt, and is en"),
    ):
        with pytest.raises(ValueError, match=f"belongs to another run: {says}"):
            run(mine, **{**KNOBS, **change}, resume=True)
    assert sorted(p.name for p in mine.rglob("*")) == before

    def fails(*args):
        done = CliRunner().invoke(app, ["run", *map(str, args)])
        assert done.exit_code == 2 and done.output.count("\n") == 1, done.output
        return done.output

    assert "belongs to another run" in fails("--out", mine, "--resume")
    (mine / "report.json").write_text("{half")
    assert "is not a run's report" in fails("--out", mine, "--resume")
    (mine / "report.json").unlink()
    assert "holds no report.json" in fails("--out", mine, "--resume")
