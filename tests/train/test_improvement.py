"The monthly loop: what it deploys, refuses and waits for, and what a kill leaves."

import importlib
import json
import sys
from zlib import crc32

import numpy as np
import pytest
import torch
from killed import child, month_that_waits, server
from stages import weights
from transformers import TrainerCallback

from ftguide.deployment import Gate, deploy
from ftguide.engine.checkpoints import WHOLE
from ftguide.engine.formats import DataError
from ftguide.engine.rows import conversation_text
from ftguide.engine.statistics import bootstrap, interval, required_sample_size
from ftguide.evaluation import Report
from ftguide.improvement import NonInferiorityGate, improve
from ftguide.journey import check_stage
from ftguide.models import load
from ftguide.serving.months import STATE
from ftguide.serving.versions import current, rollback, versions
from ftguide.serving.votes import Feedback
from ftguide.sft import finetune_sft

pytestmark = pytest.mark.filterwarnings("ignore:.*DPO will learn length")  # yes is longer than no

ROWS = [
    dict(prompt=f"Is the {i} {c} good?", completion="yes" if i % 4 == 0 else "no")
    for i in range(10)
    for c in ("mug", "lamp", "tray", "chair", "bag", "kettle", "bottle", "wallet")
]
HOLDOUT = ROWS[:24]


def score(row, answer):
    return dict(
        yes=(float(answer.startswith("yes")), 1),
        short=(float(len(answer) < 20), 1),
        coin=(float(crc32((row["prompt"] + answer).encode()) % 2), 1),
    )


GATE = NonInferiorityGate("yes", guards=("short",), margin=0.15)
KNOBS = dict(score=score, samples=1, max_new_tokens=8, min_pairs=20, learning_rate=3e-3, epochs=2)


@pytest.fixture(scope="module")
def first():
    "A small model that says no to nearly everything."
    return finetune_sft("tiny-small", ROWS[24:], epochs=2, learning_rate=2e-3)


@pytest.fixture
def shop(first, tmp_path):
    deploy(
        first, tmp_path / "shop", Report("SFT", first.parameters, rows={"yes": [(0, 1)]}), Gate(quality=None)
    )
    return tmp_path / "shop"


def vote(store, likes, rows=ROWS[24:], tag="", rater="r"):
    for i, r in enumerate(rows):
        store.choose(
            r["prompt"] + tag,
            "yes",
            "no",
            "v1",
            "v1",
            "a" if likes == "yes" else "b",
            rater=f"{rater}{i % 5}",
        )
    return store


@pytest.fixture
def store(tmp_path):
    return Feedback(tmp_path / "votes.db")


def test_good_votes_are_deployed_poisoned_ones_are_not_and_no_vote_counts_twice(shop, store):
    before = vote(store, "yes").rows()
    busy = improve(
        shop,
        store,
        NonInferiorityGate("yes", guards=("short",), margin=0.15, limits=Gate(quality=None, rows=1000)),
        HOLDOUT,
        **KNOBS,
    )
    assert (busy.outcome, busy.failures) == (
        "kept",
        ["rows is 24, the gate asks for at least 1,000 (976 short)"],
    )  # no vote's fault: the same call may try again
    month = improve(shop, store, GATE, HOLDOUT, **KNOBS)
    assert (month.outcome, month.before, month.after, current(shop).name, month.pairs) == (
        "deployed",
        "v1",
        "v2",
        "v2",
        56,
    ) and month.differences["yes"].low > 0
    assert store.rows() == before  # read, never written
    assert torch.equal(weights(load(current(shop))), weights(month.lm))
    assert interval(Report.read(current(shop) / "report.json").rows["yes"]) == month.report.score("yes")
    again = improve(shop, store, GATE, HOLDOUT, **KNOBS)
    assert (again.outcome, again.pairs, again.missing) == ("waiting", 0, 20) and "20 are missing" in str(
        again
    )
    vote(store, "no", tag=" Really?", rater="robot")
    bad = improve(shop, store, GATE, HOLDOUT, **KNOBS)
    assert (bad.outcome, bad.after, versions(shop)) == ("kept", "v2", ["v1", "v2"]) and bad.differences[
        "yes"
    ].high < 0
    assert any(
        line.startswith("yes -") and "more rows would not change that" in line for line in bad.failures
    )
    assert improve(shop, store, GATE, HOLDOUT, **KNOBS).pairs == 0  # clearly worse: these votes are used
    assert len(store.rows()) == 112 and not (shop / ".improving" / "month.json").exists()
    kept = json.loads((shop / STATE).read_text(encoding="utf-8"))
    assert [m["outcome"] for m in kept["months"]] == ["kept", "deployed", "kept"]
    assert rollback(shop).name == "v1"


def test_unclear_votes_stay_new_and_wait_for_more(shop, store):
    "The coin comes up by chance, so no interval tells."
    vote(vote(store, "yes"), "yes", ROWS[24:54], rater="s")
    gate = NonInferiorityGate("yes", guards=("coin",), margin=0.0)
    month = improve(shop, store, gate, HOLDOUT, **KNOBS)
    assert month.outcome == "kept" and month.differences["coin"].low < 0 < month.differences["coin"].high, (
        month
    )
    same = improve(shop, store, gate, HOLDOUT, **KNOBS)
    assert (same.outcome, same.pairs) == ("waiting", 56) and "new votes are needed" in str(same)
    other = improve(shop, store, gate, HOLDOUT, min_votes=2, **KNOBS)
    assert (other.outcome, other.pairs) == ("kept", 30)  # not the pairs that were tried
    vote(store, "yes", ROWS[24:26], " Well?")
    assert improve(shop, store, GATE, HOLDOUT, **KNOBS).pairs == 58


def test_too_few_votes_train_nothing_and_a_folder_of_the_users_stays_as_it_is(shop, store, tmp_path):
    runs = tmp_path / "runs"
    (runs / "checkpoints").mkdir(parents=True)
    (runs / "thesis.txt").write_text("years of work")
    mine = sorted(runs.rglob("*"))
    vote(store, "yes", ROWS[24:37])
    month = improve(shop, store, GATE, HOLDOUT, output_dir=runs, **KNOBS)
    assert (month.outcome, month.pairs, month.missing, month.lm, versions(shop)) == (
        "waiting",
        13,
        7,
        None,
        ["v1"],
    )
    assert sorted(runs.rglob("*")) == mine
    vote(store, "yes", ROWS[37:44])

    class Seen(TrainerCallback):
        def on_train_end(self, *_, **__):
            self.made = list(runs.glob("*/checkpoints/checkpoint-*"))

    seen = Seen()
    assert improve(shop, store, GATE, HOLDOUT, output_dir=runs, callbacks=(seen,), **KNOBS).pairs == 20
    assert sorted(runs.rglob("*")) == mine and seen.made  # it did work there, in a folder of its own


def test_prompts_of_the_holdout_are_not_trained_on(shop, store):
    vote(store, "yes", ROWS)
    month = improve(shop, store, GATE, HOLDOUT, **{**KNOBS, "min_pairs": 60})
    assert month.pairs == 56 and month.dropped == {"prompt of the hold-out": 24} and month.missing == 4
    said = lambda role, text: dict(role=role, content=text)
    talks = [
        dict(
            messages=[
                said("system", "Be brief."),
                said("user", r["prompt"].upper()),
                said("assistant", r["completion"]),
            ]
        )
        for r in HOLDOUT
    ]
    lists = [
        dict(
            prompt=[said("user", "Hello"), said("assistant", "Hi"), said("user", r["prompt"])],
            completion=r["completion"],
        )
        for r in HOLDOUT
    ]
    store.choose(
        conversation_text(lists[0]["prompt"]), "yes", "no", "v1", "v1", "a"
    )  # a vote on a whole conversation
    for rows, n in ((talks, 24), (lists, 25)):
        assert improve(shop, store, GATE, rows, new_holdout=True, **{**KNOBS, "min_pairs": 60}).dropped == {
            "prompt of the hold-out": n
        }


def test_a_changed_holdout_is_refused(shop, store, tmp_path):
    improve(shop, store, GATE, HOLDOUT, **KNOBS)
    changed = [dict(HOLDOUT[0], completion="perhaps"), *HOLDOUT[1:]]
    for rows in (changed, HOLDOUT[1:], HOLDOUT[::-1]):
        with pytest.raises(ValueError, match="hold-out is not the one.*24 rows.*new_holdout"):
            improve(shop, store, GATE, rows, **KNOBS)
    file = tmp_path / "holdout.jsonl"
    file.write_text("\n".join(json.dumps(r) for r in HOLDOUT), encoding="utf-8")
    assert improve(shop, store, GATE, file, **KNOBS).outcome == "waiting"  # the same rows from a file
    assert improve(shop, store, GATE, changed, new_holdout=True, **KNOBS).outcome == "waiting"
    with pytest.raises(ValueError, match="hold-out is not the one"):
        improve(shop, store, GATE, HOLDOUT, **KNOBS)


@pytest.mark.parametrize(
    "what, says",
    [
        (dict(holdout=None), "needs a hold-out"),
        (
            dict(gate=NonInferiorityGate("clicks", guards=())),
            "does not measure clicks; it measures yes, short, coin",
        ),
        (dict(store="lost.db"), "no store of votes"),
        (dict(folder="nowhere"), "nothing is deployed"),
        (dict(min_pairs=0), "min_pairs must be 1"),
        (dict(holdout=[dict(prompt="a")]), "completion"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(shop, store, what, says, tmp_path):
    vote(store, "yes")
    call = dict(folder=shop, store=store, gate=GATE, holdout=HOLDOUT, **KNOBS) | what
    with pytest.raises((ValueError, FileNotFoundError, DataError), match=says) as error:
        improve(**call)
    assert "\n" not in str(error.value) and versions(shop) == ["v1"] and len(store.rows()) == 56
    assert not (shop / ".improving").exists() and not (shop / STATE).exists()


def test_damaged_state_is_reported(shop, store):
    (shop / STATE).write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="improve.json is damaged"):
        improve(shop, store, GATE, HOLDOUT, **KNOBS)


@pytest.mark.skipif(sys.platform == "win32", reason="signals and locks")
def test_killed_and_called_again_ends_with_the_same_version(shop, store, first):
    "Killed in the middle; new votes come in between, and belong to the next month."
    vote(store, "yes")
    begun, waits = server().Event(), server().Event()
    first_try = child(month_that_waits, str(shop), str(store.path), begun, waits)
    assert begun.wait(120)
    with pytest.raises(ValueError, match="another `improve` is at work"):
        improve(shop, store, GATE, HOLDOUT, output_dir=shop.parent / "elsewhere", **KNOBS)
    assert waits.wait(120)
    first_try.kill()
    first_try.join()
    assert current(shop).name == "v1" and list(
        (shop / ".improving").glob(f"checkpoints/checkpoint-*/{WHOLE}")
    )
    vote(store, "no", tag=" Late?")
    month = improve(shop, store, GATE, HOLDOUT, **KNOBS)
    assert (month.outcome, month.pairs, current(shop).name) == ("deployed", 56, "v2")
    from ftguide.dpo import align_dpo
    from ftguide.feedback import pairs_from

    plain = align_dpo(first, pairs_from(store.rows()[:56])[0], learning_rate=3e-3, epochs=2)
    assert (weights(month.lm) - weights(plain)).abs().max() <= 1e-5
    assert improve(shop, store, GATE, HOLDOUT, **{**KNOBS, "min_pairs": 100}).pairs == 56  # the late ones


def test_cut_off_after_deploying_the_votes_are_used(shop, store, monkeypatch):
    vote(store, "yes")

    def crash(*a, **k):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr("ftguide.serving.months.MonthFolder.close", crash)
        with pytest.raises(KeyboardInterrupt):
            improve(shop, store, GATE, HOLDOUT, **KNOBS)
    assert current(shop).name == "v2"
    rollback(shop)  # users complained
    assert improve(shop, store, GATE, HOLDOUT, **KNOBS).pairs == 0 and (
        versions(shop),
        current(shop).name,
    ) == (["v1", "v2"], "v1")


def test_a_rollback_during_the_training_stands(shop, store, first):
    "Nothing is deployed, no vote is used, and the month goes on when its version serves again."
    deploy(first, shop, Report("SFT", first.parameters, rows={"yes": [(0, 1)]}), Gate(quality=None))
    vote(store, "yes")

    class Complaint(TrainerCallback):
        def on_train_end(self, *_, **__):
            rollback(shop)

    with pytest.raises(
        ValueError, match=r"v1 serves .* no longer v2.* nothing is deployed.* votes stay new.*rollback"
    ):
        improve(shop, store, GATE, HOLDOUT, callbacks=(Complaint(),), **KNOBS)
    assert (versions(shop), current(shop).name) == (["v1", "v2"], "v1")
    vote(store, "yes", ROWS[24:34], " Then?")
    few = improve(shop, store, GATE, HOLDOUT, **{**KNOBS, "min_pairs": 100})
    assert (few.outcome, few.pairs) == (
        "waiting",
        66,
    ) and "version was v2, is v1, min_pairs was 20, is 100" in str(few)
    rollback(shop, "v2")
    month = improve(shop, store, GATE, HOLDOUT, **KNOBS)
    assert (month.outcome, month.before, month.after, month.pairs, month.note) == (
        "deployed",
        "v2",
        "v3",
        56,
        "",
    )


def test_a_month_that_was_cut_off_belongs_to_its_call(shop, store, monkeypatch):
    "With another hold-out, other knobs or after a deployment the pairs are taken anew."

    def cut(*holdout, **knobs):  # prompts it would have been trained on
        with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
            m.setattr(
                importlib.import_module("ftguide.improvement"),
                "align_dpo",
                lambda _, pairs, **__: (
                    seen.append({p["prompt"] for p in pairs}) or (_ for _ in ()).throw(KeyboardInterrupt())
                ),
            )
            improve(shop, store, GATE, *holdout, **KNOBS, **knobs)
        return seen[-1]

    seen, asked = [], lambda rows: {r["prompt"] for r in rows}
    vote(vote(store, "yes"), "yes", ROWS[24:54], rater="s")
    assert cut(HOLDOUT) == asked(ROWS[24:])
    assert cut(HOLDOUT, min_votes=2) == asked(ROWS[24:54])
    assert cut(ROWS[24:48], new_holdout=True) == asked(ROWS[48:])
    vote(store, "yes", ROWS[48:51], " Then?")
    assert cut(ROWS[24:48], new_holdout=True) == asked(ROWS[48:])  # the same call goes on
    deploy(
        load(current(shop)),
        shop,
        Report("SFT", load(current(shop)).parameters, rows={"yes": [(0, 1)]}),
        Gate(quality=None),
    )
    month = improve(shop, store, GATE, ROWS[24:48], **KNOBS)
    assert month.pairs == 35 and "begun anew" in str(month) and "version was v1, is v2" in str(month)


def reports(differences, guard):
    rows = lambda shift: {
        "conversion": [(0.3 + d * shift, 1) for d in differences],
        "truth": [(0.9 + g * shift, 1) for g in guard],
    }
    return Report("new", 1, rows=rows(1)), Report("old", 1, rows=rows(0))


STEADY = [0.001, -0.001] * 20


@pytest.mark.parametrize(
    "differences, guard, passes, clearly_worse",
    [
        ([0.05, 0.07] * 20, STEADY, True, False),
        ([0.3, -0.28] * 20, STEADY, False, False),
        ([-0.05, -0.07] * 20, STEADY, False, True),
        ([0.05, 0.07] * 20, [-0.1, -0.12] * 20, False, True),
        ([0.05, 0.07] * 20, [-0.01, 0.0] * 20, True, False),
        ([0.05, 0.07] * 20, [0.0] * 40, False, False),  # 40 rows alike do not show that none in 50 falls
        ([0.0] * 40, STEADY, False, False),
        ([-0.05, -0.06] * 2, [0.0] * 4, False, False),
        ([-0.5] + [0.0] * 39, STEADY, False, False),
    ],
)
def test_gate(differences, guard, passes, clearly_worse):
    new, old = reports(differences, guard)
    assert (not NonInferiorityGate().failures(new, old), NonInferiorityGate().clearly_worse(new, old)) == (
        passes,
        clearly_worse,
    )
    strict = NonInferiorityGate(limits=Gate(quality=None, truncated_share=0.1))
    new.degeneration["truncated_share"] = 0.5
    assert (
        any("truncated_share" in f for f in strict.failures(new, old))
        and strict.clearly_worse(new, old) == clearly_worse
    )
    far = NonInferiorityGate(by=0.5)  # more than any of them gains
    assert (not far.failures(new, old), far.clearly_worse(new, old)) == (False, clearly_worse)


@pytest.mark.parametrize(
    "differences, by, says",
    [
        ([0.0] * 40, 0.0, "more votes may"),
        ([-0.05, -0.06] * 4, 0.0, "8 rows are too few to tell; take at least 10"),
        ([0.5, 0.6] * 4, 0.0, "8 rows are too few to tell; take at least 10"),
        ([-0.05, -0.06] * 5, 0.0, "it is worse, and more rows would not"),
        ([0.02, 0.03] * 20, 0.05, "it is less than that, and more rows would not"),
        ([-0.5] + [0.0] * 39, 0.0, "more votes may"),
        ([0.3, -0.28] * 20, 0.0, "rows would tell"),
    ],
)
def test_what_kept_a_version_out(differences, by, says):
    gate = NonInferiorityGate(by=by, guards=())
    (line,) = gate.failures(*reports(differences, [0.0] * len(differences)))
    assert says in line


@pytest.mark.parametrize("rows", [1, 2, 5, 10, 20, 60])
@pytest.mark.parametrize("metric", ["yes or no", "grade"])
def test_a_model_does_not_pass_against_itself(rows, metric):
    "Two measurements of one model, 400 times: one in forty may look better, whatever the number of rows."
    rng = np.random.default_rng(rows)
    draw = lambda: rng.integers(0, 2, rows) if metric == "yes or no" else rng.beta(2, 2, rows)
    report = lambda: Report("m", 1, rows={"exact match": [(float(v), 1) for v in draw()]}, test="t")
    gate, go = NonInferiorityGate("exact match", guards=()), 0
    passed = 0
    for _ in range(400):
        new, old = report(), report()
        passed += not gate.failures(new, old)
        go += check_stage(new, old, "exact match", watch=()).go
    assert passed / 400 < 0.055 and go / 400 < 0.055
    if rows < 10:
        assert passed == go == 0


def test_rows_to_tell_are_enough():
    "A hold-out as large as it says, of the same kind, does tell; a third of it does not."
    rows = [(0.02 + d, 1) for d in (-0.3, 0.3) * 30]
    nothing = [(0.0, 1)] * 60
    s = bootstrap(rows, nothing, how="difference")
    n = required_sample_size(s, 0.0)
    many = lambda n: (rows * (n // 60 + 1))[: n // 2 * 2]
    assert (
        bootstrap(many(int(n * 1.2)), [(0.0, 1)] * len(many(int(n * 1.2))), how="difference").low
        > 0
        > bootstrap(many(n // 3), [(0.0, 1)] * len(many(n // 3)), how="difference").low
    )


@pytest.mark.parametrize(
    "knobs, says",
    [
        (dict(margin=-0.1), "margin must be 0 or more"),
        (dict(by=float("nan")), "by must be a finite number"),
        (dict(guards="truth"), "guards must be several"),
        (dict(by="5 %"), "by must be"),
    ],
)
def test_a_gate_that_makes_no_sense_is_refused(knobs, says):
    with pytest.raises(ValueError, match=says):
        NonInferiorityGate(**knobs)


def test_command(shop, store, tmp_path):
    from typer.testing import CliRunner

    from ftguide.cli import app

    holdout = tmp_path / "holdout.jsonl"
    holdout.write_text("\n".join(json.dumps(r) for r in HOLDOUT), encoding="utf-8")
    call = ["improve", str(shop), "--store", str(store.path), "--data", str(holdout), "--guard", "ROUGE-L"]
    vote(store, "yes", ROWS[24:27])
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 1 and "97 are missing" in done.output
    missing = CliRunner().invoke(app, [*call[:3], str(tmp_path / "lost.db"), *call[4:]])
    assert missing.exit_code == 2 and "no store of votes" in missing.output
    vote(store, "yes")
    done = CliRunner().invoke(
        app, [*call, "--min-pairs", "30", "--margin", "1", "--by", "-1", "--learning-rate", "0.003"]
    )
    assert done.exit_code == 0 and done.output.startswith("v1 -> v2: 56 new pairs"), done.output


def test_no_vote_counts_twice_when_the_clock_goes_back(tmp_path, back):
    from ftguide.improvement import _new_pairs

    store = Feedback(tmp_path / "votes.db")
    used = dict(id=0, time="")

    def month(tag, hours):
        back(hours)
        for n in range(3):
            store.choose(f"{tag}{n}", "yes", "no", "v1", "v1", "a", rater="r")
        pairs, _, seen = _new_pairs(store, used, [], 1, True)
        used.update(seen)
        return [p["prompt"] for p in pairs]

    assert [month(*m) for m in (("jan", 0), ("feb", 48), ("mar", 24), ("apr", 0))] == [
        [f"{m}{n}" for n in range(3)] for m in ("jan", "feb", "mar", "apr")
    ]
