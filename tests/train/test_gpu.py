"`tools/gpu.py` on a CPU with a tiny shape: every line is measured, and the chapter draws what it wrote."

import csv
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = [sys.executable, ROOT / "tools/gpu.py"]
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def test_the_script_runs_through_and_the_chapter_draws_it(tmp_path, monkeypatch):
    done = subprocess.run(
        [
            *RUN,
            "--device",
            "cpu",
            "--shapes",
            "micro",
            "--steps",
            "2",
            "--rows",
            "2",
            "--length",
            "64",
            "--out",
            tmp_path / "gpu.csv",
        ],
        capture_output=True,
        text=True,
        env=QUIET,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = list(csv.DictReader((tmp_path / "gpu.csv").open(encoding="utf-8")))
    assert [(line["stage"], line["who"]) for line in lines] == [
        (s, w) for s in ("SFT", "DPO", "distillation") for w in ("ftguide", "TRL")
    ] + [("serving", "ftguide")]
    for ours, theirs in zip(lines[:6:2], lines[1:6:2]):
        assert abs(float(ours["loss"]) - float(theirs["loss"])) < 0.1, (
            "the same rows and weights; the order of the rows is each trainer's own"
        )
        assert not ours["error"]
        for line in (ours, theirs):
            for column in ("tokens_per_second", "mfu", "peak_gb", "seconds_per_step"):
                assert float(line[column]) > 0
    assert float(lines[2]["loss"]) == pytest.approx(0.6931, abs=1e-3)
    assert (
        float(lines[-1]["latency_ms"]) > 0
        and float(lines[-1]["usd_per_million_tokens"]) > 0
        and lines[0]["date"]
    )
    monkeypatch.chdir(tmp_path)
    cells = {c.id: c.source for c in nbformat.read(ROOT / "nbs/11_scale.ipynb", 4).cells}
    import matplotlib.pyplot as plt
    from IPython.display import Markdown

    space = dict(Path=Path, plt=plt, Markdown=Markdown)
    exec(cells["scale-prices"].split("\n\n\n")[0], space)  # the lesson's `table`
    source, last = cells["scale-gpu"].rsplit("\ntable(", 1)
    exec(source, space)
    assert len(space["labels"]) == 3
    assert eval("table(" + last, space).data.count("\n") == 1 + len(lines)


def test_what_cannot_be_measured_is_said():
    import torch

    done = subprocess.run([*RUN, "--steps", "1"], capture_output=True, text=True, env=QUIET)
    assert done.returncode == 1 and done.stderr.startswith("error: --steps must be 2 or more")
    if not torch.cuda.is_available():
        done = subprocess.run(RUN, capture_output=True, text=True, env=QUIET)
        assert done.returncode == 1 and done.stderr.startswith(
            "error: torch finds no CUDA GPU here; --device cpu"
        )
