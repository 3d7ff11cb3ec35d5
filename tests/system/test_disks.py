"Folders that may not be written, and a disk that is full: one line, and what was there stays."

import json
import os
import shutil
import subprocess

import pytest
from commands import cli
from stages import ROWS

from ftguide.evaluation import evaluate
from ftguide.serving.votes import Feedback


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
