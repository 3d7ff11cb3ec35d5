"A whole journey in a folder: what it writes, and that a run which was killed goes on to the same models."

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from killed import child, journey_killed_at, journey_killed_in
from stages import let_answers_end, weights
from typer.testing import CliRunner

from ftguide.cli import app
from ftguide.engine.callbacks import ProgressCallback
from ftguide.engine.checkpoints import WHOLE
from ftguide.journey import results_table
from ftguide.models import load, save
from ftguide.report.run_folder import run, settings

SIZE = dict(n_train=48, n_sheets=64, n_corpus=48, n_test=16)  # half of the answers are cut
KNOBS = dict(
    base="tiny-small", student="tiny-small", lang="pt", seed=1, size=SIZE, speed=False, distill_epochs=1
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    said = []
    return out, run(out, **KNOBS, say=said.append), said


# Debian's packages

FEW = dict(n_train=24, n_valid=6, n_sheets=64, n_corpus=12, n_test=9)
SMALL = dict(example="packages", base="tiny-small", student=2, seed=4, size=FEW, speed=False)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    out = tmp_path_factory.mktemp("packages") / "run"
    with pytest.MonkeyPatch.context() as patch:
        let_answers_end(patch)
        return out, run(out, **SMALL, say=lambda line: None)


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
    let_answers_end(monkeypatch)
    out, stages = packages
    mine = tmp_path / "run"
    shutil.copytree(out, mine)
    shutil.rmtree(mine / "student")
    for done in ("finetune_sft", "align_dpo", "_best_examples"):
        monkeypatch.setattr(f"ftguide.journey.{done}", lambda *a, **k: pytest.fail("done again"))
    again = run(mine, **SMALL, resume=True, say=lambda line: None)
    assert [s.name for s in again] == [s.name for s in stages]
    assert torch.equal(weights(again[-1].lm), weights(stages[-1].lm))


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


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("stage, step", [("SFT", 9), ("DPO", 2), ("distilled", 4)])
def test_killed_in_the_middle_of_a_stage(whole, tmp_path, stage, step):
    "The stage goes on from its checkpoint: it neither asks nor trains again what it had."
    out, stages, _ = whole
    mine = tmp_path / "run"
    first = child(journey_killed_in, str(mine), KNOBS, stage, step)
    first.join(120)
    assert first.exitcode == -9
    left = mine / ".unfinished" / stage
    assert list(left.glob(f"*.checkpoints/checkpoint-*/{WHOLE}"))
    assert len(list(left.glob("*.json"))) == (stage != "SFT")
    seen = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("ftguide.engine.callbacks.ProgressCallback.on_train_begin", began(seen))
        again = run(mine, **KNOBS, resume=True, say=lambda _: None)
    assert seen[0] > 0 and seen[1:] == [0] * (len(seen) - 1)
    assert sorted(p.name for p in mine.iterdir()) == sorted(p.name for p in out.iterdir())
    for a, b in zip(stages, again):
        assert a.name == b.name and torch.equal(weights(a.lm), weights(b.lm))
        assert a.pairs == b.pairs and json.dumps(a.report.rows) == json.dumps(b.report.rows)


def began(seen):
    "Notes the step at which each training begins."
    bar = ProgressCallback.on_train_begin

    def on_train_begin(self, args, state, control, **kwargs):
        seen.append(state.global_step)
        bar(self, args, state, control, **kwargs)

    return on_train_begin


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
