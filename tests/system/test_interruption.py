"""Killed at random moments and called again: the same weights, and no half file that anything trips over.

And two at work in one folder, and a cell that is interrupted.
FTGUIDE_KILLS=20 kills each piece of work twenty times."""

import json
import os
import sys
import time
from itertools import count
from pathlib import Path

import pytest
import torch
from killed import KILLS, cache, child, hold, journey, killed, month, seconds_of, train, write_again_and_again
from stages import STAGES, weights

from ftguide.cli import app
from ftguide.deployment import Gate, deploy
from ftguide.engine.cache import CachedTeacher
from ftguide.engine.checkpoints import WHOLE, checkpoints
from ftguide.evaluation import Report
from ftguide.models import load
from ftguide.serving.versions import current, versions
from ftguide.serving.votes import Feedback, restore

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
    pytest.mark.filterwarnings("ignore:.*cut off while it was written"),
    pytest.mark.filterwarnings("ignore:.*DPO will learn length"),
    pytest.mark.timeout(300 + 60 * KILLS),
]


def kill_all(work, start, check, seconds):
    """Kill `KILLS` times, two in a row in one folder.

    `start` gives new arguments, `check` looks at what two kills left and goes on."""
    kills, tries = 0, count()
    while kills < KILLS:
        args = start(next(tries))  # a folder of its own
        for _ in range(2):
            kills += killed(work, *args, seconds=seconds, seed=next(tries))
        check(*args)
        assert next(tries) < 20 * KILLS, "it ends before it can be killed"


@pytest.mark.parametrize("stage", STAGES)
def test_training(stage, tmp_path):
    seconds = seconds_of(train, stage, str(tmp_path / "whole"))
    plain = weights(load(checkpoints(tmp_path / "whole")[0]))  # written after the last step

    def check(_, folder):
        for there in checkpoints(folder):
            if (there / WHOLE).exists():
                load(there)
        assert (weights(train(stage, folder)) - plain).abs().max() <= 1e-6

    kill_all(train, lambda n: (stage, str(tmp_path / f"run{n}")), check, seconds)


def test_the_cache_of_a_teacher(tmp_path):
    seconds, plain = seconds_of(cache, str(tmp_path / "whole")), CachedTeacher(tmp_path / "whole")

    def check(folder):
        done = cache(folder)
        assert done.rows == plain.rows
        for a, b in zip(done.shards, plain.shards):
            assert all(torch.equal(a.get_tensor(k), b.get_tensor(k)) for k in b.keys())  # noqa: SIM118 - a file of safetensors is no dict

    kill_all(cache, lambda n: (str(tmp_path / f"run{n}"),), check, seconds)


def test_a_month(tmp_path):
    from test_improvement import ROWS, vote

    from ftguide.sft import finetune_sft

    first = finetune_sft("tiny-small", ROWS[24:], epochs=2, learning_rate=2e-3)

    def start(n):
        shop = tmp_path / f"shop{n}"
        deploy(first, shop, Report("SFT", first.parameters, rows={"yes": [(0, 1)]}), Gate(quality=None))
        vote(store := Feedback(tmp_path / f"votes{n}.db"), "yes")
        store.close()
        return str(shop), str(store.path)

    whole = start("whole")
    seconds = seconds_of(month, *whole)
    plain = weights(load(current(whole[0])))

    def check(shop, votes):
        for v in versions(shop):
            load(current(shop).parent / v)
        if current(shop).name == "v1":
            month(shop, votes)
        else:
            assert (
                month(shop, votes).outcome == "waiting"
            )  # killed after it had deployed: no vote counts twice
        assert versions(shop) == ["v1", "v2"] and (weights(load(current(shop))) - plain).abs().max() <= 1e-5

    kill_all(month, start, check, seconds)


def test_small_files_and_models(tmp_path):
    def check(report, model, store, votes):
        for path, read in (
            (report, Report.read),
            (votes, lambda p: [json.loads(line) for line in Path(p).read_text().splitlines()]),
        ):
            if (tmp_path / path).exists():
                read(path)
        if (tmp_path / model).exists():
            load(model)
        assert Feedback(store).numbers()["votes"] >= 0
        if list((tmp_path / f"{store}.backups").glob("*.db")):
            restore(store)

    kill_all(
        write_again_and_again,
        lambda n: [
            str(tmp_path / f"{name}{n}") for name in ("report.json", "model", "votes.db", "pairs.jsonl")
        ],
        check,
        2.0,
    )


@pytest.mark.long
def test_journey(tmp_path):
    knobs = dict(
        base="tiny-small",
        size=dict(n_train=80, n_sheets=24, n_corpus=16, n_test=8),
        speed=False,
        distill_epochs=1,
    )
    seconds, plain = seconds_of(journey, str(tmp_path / "whole"), knobs), tmp_path / "whole"

    def check(folder, knobs):
        journey(folder, knobs)
        assert sorted(p.name for p in (tmp_path / folder).iterdir()) == sorted(
            p.name for p in plain.iterdir()
        )
        for name in ("sft", "dpo", "student"):
            assert (weights(load(tmp_path / folder / name)) - weights(load(plain / name))).abs().max() <= 1e-6

    kill_all(journey, lambda n: (str(tmp_path / f"run{n}"), knobs), check, seconds)


# ---- two runs in one folder


def test_a_second_training_is_refused_until_the_first_is_gone(tmp_path):
    from killed import server
    from stages import ROWS

    from ftguide.sft import finetune_sft

    told = server().Event()
    first = child(hold, str(tmp_path / "run"), told)
    try:
        assert told.wait(60)
        for resume in (True, False):
            with pytest.raises(
                FileExistsError,
                match=r"another training is at work in .*run; wait until it ends, or choose another folder$",
            ):
                finetune_sft("tiny-small", ROWS, epochs=2, output_dir=tmp_path / "run", resume=resume)
    finally:
        first.kill()
        first.join(30)
    again, plain = (
        finetune_sft("tiny-small", ROWS, epochs=2, output_dir=tmp_path / "run", resume=True),
        finetune_sft("tiny-small", ROWS, epochs=2),
    )
    assert (weights(again) - weights(plain)).abs().max() <= 1e-6


def test_a_second_journey_is_refused_until_the_first_is_gone(tmp_path):
    from killed import server
    from typer.testing import CliRunner

    told = server().Event()
    knobs = dict(base="tiny-small", size=dict(n_train=40, n_sheets=8, n_corpus=8, n_test=4))
    first = child(journey, str(tmp_path / "run"), knobs, told)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps(dict(prompt=f"Question {i}", completion="Answer")) + "\n" for i in range(20)),
        encoding="utf-8",
    )
    second = lambda *more: CliRunner().invoke(
        app, ["run", "--base", "tiny-small", "--sft", str(rows), "--out", str(tmp_path / "run"), *more]
    )
    try:
        assert told.wait(60)
        for more in ((), ("--resume",)):
            done = second(*more)
            assert (
                done.exit_code == 2
                and done.output.count("\n") == 1
                and "another run is at work" in done.output
            ), done.output
    finally:
        first.kill()
        first.join(30)
    from ftguide.engine.files import folder_lock

    with folder_lock(tmp_path / "run"):
        assert not list((tmp_path / "run").iterdir())


# ---- a kernel

ROOT = Path(__file__).resolve().parents[2]
TRAIN = """from ftguide import finetune_sft, load_tasks
from transformers import TrainerCallback
class Say(TrainerCallback):
    def on_step_end(self, *a, **k): print("a step", flush=True)
finetune_sft("tiny-small", load_tasks("train", 16), epochs=1000, callbacks=(Say(),))"""


def test_an_interrupted_cell_leaves_the_kernel_usable():
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(
        kernel_name="python3", startup_timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )

    def said(number, until):
        "The messages of one cell up to the one wanted."
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            m = client.get_iopub_msg(timeout=120)
            if m["parent_header"].get("msg_id") == number and until(m):
                return m
        raise TimeoutError("the kernel said nothing in two minutes")

    try:
        first = client.execute(TRAIN)
        said(first, lambda m: "a step" in m["content"].get("text", ""))
        manager.interrupt_kernel()
        pressed = [time.monotonic()]  # in the middle of the training, not of the imports

        def ended(m):  # pressed again where Python lost the first one, inside a destructor
            if "a step" in m["content"].get("text", "") and time.monotonic() - pressed[0] > 5:
                manager.interrupt_kernel()
                pressed[0] = time.monotonic()
            return m["msg_type"] == "error"

        assert said(first, ended)["content"]["ename"] == "KeyboardInterrupt"
        said(first, lambda m: m["content"].get("execution_state") == "idle")
        second = client.execute("finetune_sft('tiny-small', load_tasks('train', 8), epochs=1).name")
        assert (
            said(second, lambda m: m["msg_type"] in ("execute_result", "error"))["content"]["data"][
                "text/plain"
            ]
            == "'SFT'"
        )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
