"Folders that may not be written, a full disk, a clock that is put back, other threads, a large file."

import datetime
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from stages import ROWS, weights
from test_hostile import cli

from ftguide.engine.checkpoints import WHOLE, checkpoints
from ftguide.evaluation import Report, evaluate
from ftguide.feedback import thumbs_from
from ftguide.models import completion_logps, load
from ftguide.serving import backups, votes
from ftguide.serving.votes import Feedback, restore
from ftguide.sft import finetune_sft

BIG_MB = int(os.environ.get("FTGUIDE_BIG_FILE_MB", 20))


# ---- folders that may not be written, and a disk that is full


def mounted(tmp_path, *options):
    "A file system of its own; skipped where it may not be mounted."
    there = tmp_path / "mounted"
    there.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", there],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f"no tmpfs may be mounted here: {getattr(e, 'stderr', e)}")
    return there


@pytest.fixture
def readonly(tmp_path):
    if hasattr(os, "geteuid") and os.geteuid():
        there = tmp_path / "mounted"
        there.mkdir(mode=0o555)
        yield there
        there.chmod(0o755)
        return
    there = mounted(tmp_path, "ro")
    yield there
    subprocess.run(["umount", there], check=True)


@pytest.fixture
def small_disk(tmp_path):
    there = mounted(tmp_path, "size=4m")
    yield there
    subprocess.run(["umount", there], check=True)


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in ROWS[:16]), encoding="utf-8")
    return path


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        "".join(
            json.dumps(dict(prompt=r["prompt"], chosen=r["completion"], rejected="No")) + "\n"
            for r in ROWS[:16]
        ),
        encoding="utf-8",
    )
    return path


def commands(there, rows, pairs, report):
    small = ("--base", "tiny-small", "--epochs", "1")
    return [
        ("sft", *small, "--data", rows, "--out", there / "m"),
        ("dpo", *small, "--data", pairs, "--out", there / "m"),
        ("distill", "--teacher", "tiny-small", "--epochs", "1", "--data", rows, "--out", there / "m"),
        ("run", *small, "--sft", rows, "--out", there / "run"),
        ("evaluate", "--model", "tiny-small", "--data", rows, "--out", there / "r.json"),
        ("deploy", "tiny-small", "--folder", there / "shop", "--report", report, "--quality", "0"),
    ]


@pytest.fixture
def report(tmp_path, rows):
    evaluate("tiny-small", rows, metrics=("quality",), max_new_tokens=4).save(tmp_path / "report.json")
    return tmp_path / "report.json"


def test_a_folder_that_may_not_be_written(readonly, rows, pairs, report):
    for command in commands(readonly, rows, pairs, report):
        code, said = cli(*command)
        last = said.splitlines()[-1]
        assert code in (1, 2) and last.startswith("error: ") and str(readonly) in last, (command, said)
    with pytest.raises(ValueError, match="may be written"):
        Feedback(readonly / "votes.db")


def test_a_disk_that_is_full(small_disk, rows, pairs, report):
    "What was there stays, what is half is gone, and with room the same command ends well."
    filler = small_disk / "filler"

    def full(free):
        filler.unlink(missing_ok=True)
        left = shutil.disk_usage(small_disk).free - free
        filler.write_bytes(b"\0" * max(left, 0))

    for command in commands(small_disk, rows, pairs, report)[:4]:
        full(200_000)
        code, said = cli(*command)
        assert (
            code == 1
            and said.splitlines()[-1].startswith("error: ")
            and ("No space" in said or "could not be written" in said or "no room" in said)
        ), (command, said)
        assert not (small_disk / "m").exists(), command
        filler.unlink()
        for left in small_disk.iterdir():
            shutil.rmtree(left)
    full(0)
    code, said = cli(*commands(small_disk, rows, pairs, report)[4])
    assert (
        code == 1
        and "No space" in said
        and not (small_disk / "r.json").exists()
        and not list(small_disk.glob(".r*"))
    ), said


# ---- a clock that is put back


@pytest.fixture
def back(monkeypatch):
    "Puts the clock of this process, and of the files it writes, back by so many hours."

    def put(hours):
        real, now = time.time, datetime.datetime
        monkeypatch.setattr(time, "time", lambda: real() - 3600 * hours)

        class Earlier(now):
            @classmethod
            def now(cls, tz=None):
                return now.now(tz) - datetime.timedelta(hours=hours)

        monkeypatch.setattr(votes, "datetime", Earlier)
        monkeypatch.setattr(backups, "datetime", Earlier)

    return put


def test_checkpoints_are_counted_by_their_step(tmp_path):
    "The file times of the first half lie an hour ahead."
    from transformers import TrainerCallback

    class Ahead(TrainerCallback):
        def on_save(self, args, state, control, **kw):
            if state.global_step > 12:
                return
            for p in Path(args.output_dir).glob("checkpoint-*"):
                os.utime(p, (time.time() + 3600 + state.global_step,) * 2)

    lm = finetune_sft("tiny-small", ROWS[:40], epochs=2, output_dir=tmp_path, callbacks=(Ahead(),))
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-20", "checkpoint-15"] and all(
        (p / WHOLE).exists() for p in checkpoints(tmp_path)
    )
    assert torch.equal(weights(lm), weights(finetune_sft("tiny-small", ROWS[:40], epochs=2)))


def test_votes_and_backups_are_counted_in_their_order(tmp_path, back):
    store = Feedback(tmp_path / "votes.db")
    store.vote("q", "a", "v1", True, rater="r")
    for _ in range(5):
        store.backup()
    back(48)
    store.vote("q", "a", "v1", False, rater="r")
    late = store.backup()
    later = store.backup()
    assert [r["up"] for r in store.rows()] == [True, False] and store.rows()[0]["time"] > store.rows()[1][
        "time"
    ]
    assert late.exists() and later.exists() and len(list(late.parent.glob("*.db"))) == 5
    assert thumbs_from(store)[0][0]["label"] is False  # the last word counts
    store.close()
    assert len(restore(tmp_path / "votes.db").rows()) == 2


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


def test_versions_are_numbered(tmp_path, report):
    from ftguide.deployment import Gate, deploy
    from ftguide.serving.versions import current, rollback, versions

    for n in range(3):
        made = deploy("tiny-small", tmp_path / "shop", Report.read(report), Gate(quality=0))
        for file in (made, *made.iterdir()):
            os.utime(file, (time.time() - 3600 * n,) * 2)
    assert (
        versions(tmp_path / "shop") == ["v1", "v2", "v3"]
        and current(tmp_path / "shop").name == "v3"
        and rollback(tmp_path / "shop").name == "v2"
    )


# ---- the same again, on another number of threads


def test_a_report_does_not_depend_on_the_number_of_threads():
    """Sums are rounded in another order, so a near tie may be answered differently.

    Shares agree within one row in twenty-four, log-probabilities within 1e-4."""
    from ftguide.market import load_tasks

    lm, test, threads, found = load("tiny-small"), load_tasks("test", 24), torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(
                (
                    evaluate(lm, test, metrics=("quality",), max_new_tokens=12, samples=1),
                    completion_logps(lm, [r["prompt"] for r in test], [r["completion"] for r in test])[0],
                )
            )
    finally:
        torch.set_num_threads(threads)
    (one, a), (two, b) = found
    assert one.rows.keys() == two.rows.keys() and (a - b).abs().max() < 1e-4 * a.abs().max()
    for m in one.rows:
        assert one.score(m).value == pytest.approx(
            two.score(m).value, abs=1 / 24 if one.score(m).value <= 1 else 1e-2
        )


# ---- a large file

LARGE = """
import resource, sys, time
unit = 1024 if sys.platform != "darwin" else 1024**2
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
what, file = sys.argv[1:]; began = time.perf_counter()
if what == "check":
    from ftguide.data import check
    import rapidfuzz, scipy.stats, datasketch, tqdm.auto; before = peak(); n = check(file).n
else:
    from ftguide.engine.training_data import streamed
    rows = iter(streamed(file)); next(rows); before = peak(); n = 1 + sum(1 for _ in rows)
print(n, round(time.perf_counter() - began, 1), round(before), round(peak()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="resource")
def test_a_large_file(tmp_path):
    "Streamed in constant memory; `check` keeps the texts, in a few times their size."
    chance, file = random.Random(0), tmp_path / "large.jsonl"
    sentences = [" ".join(f"w{chance.randrange(2000)}" for _ in range(30)) + "." for _ in range(1000)]
    with file.open("w", encoding="utf-8") as f:
        while f.tell() < BIG_MB * 1e6:
            f.write(
                "".join(
                    json.dumps(
                        dict(
                            prompt=f"Number {chance.getrandbits(60)}: "
                            + " ".join(chance.choices(sentences, k=10)),
                            completion=f"It is {chance.getrandbits(60)}.",
                        )
                    )
                    + "\n"
                    for _ in range(100)
                )
            )
    found = {}
    for what in ("stream", "check"):
        done = subprocess.run(
            [sys.executable, "-c", LARGE, what, str(file)],
            capture_output=True,
            text=True,
            timeout=3000,
            env={**os.environ, "TQDM_DISABLE": "1"},
        )
        assert done.returncode == 0, done.stderr
        found[what] = n, seconds, before, peak = tuple(map(float, done.stdout.split()))
        print(
            f"{file.stat().st_size / 1e6:.0f} MB, {n:,.0f} rows, {what}: {seconds} s, "
            f"memory from {before:,.0f} to {peak:,.0f} MB"
        )
    assert (
        found["stream"][0] == found["check"][0] > BIG_MB * 400
        and found["stream"][3] - found["stream"][2] < 30
    )
    assert found["check"][3] - found["check"][2] < 200 + 6 * BIG_MB
