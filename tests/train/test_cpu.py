"`tools/cpu.py` with a tiny model: every line is measured, and in float32 all contenders compute the same."

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def cpu(*arguments):
    command = [sys.executable, ROOT / "tools/cpu.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=QUIET, timeout=600)


def test_every_line_is_measured_and_the_losses_are_the_same(tmp_path):
    out = tmp_path / "cpu.csv"
    how = ("--model", "tiny-small", "--rounds", "1", "--threads", "1", "--out", out)
    stages = ("SFT", "LoRA", "DPO", "distillation", "product")
    done = cpu(*how, "--stages", *stages, "--minutes", "0")
    assert done.returncode == 0 and not out.exists(), "it was cut off before the first line"
    done = cpu(*how, "--stages", *stages)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = list(csv.DictReader(out.open(encoding="utf-8")))
    assert not [line for line in lines if line["error"]] and len(lines) == 7 + 4 + 9 + 7 + 2
    numbers = ("wall", "user", "whole", "peak_mb", "tokens", "scored", "flops")
    assert all(float(line[name]) > 0 for line in lines if line["stage"] != "product" for name in numbers)
    for stage in ("SFT", "DPO", "distillation"):
        exact = [line for line in lines if (line["stage"], line["precision"]) == (stage, "float32")]
        first, *others = ([float(loss) for loss in line["losses"].split()] for line in exact)
        assert len(first) == 2 and len(others) > 1
        for losses in others:
            assert losses == pytest.approx(first, rel=1e-3)


def test_a_model_that_is_not_at_hand_is_skipped_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.setitem(QUIET, "FTGUIDE_CACHE", str(tmp_path))
    monkeypatch.setitem(QUIET, "HF_HUB_CACHE", str(tmp_path))
    done = cpu("--out", tmp_path / "cpu.csv")
    assert done.returncode == 0 and "ftguide get smollm2-135m" in done.stdout
    assert not (tmp_path / "cpu.csv").exists()
