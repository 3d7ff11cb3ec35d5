"""Work that is killed: in a process forked from one that has imported everything already.

At a moment that a seed chooses."""

import functools
import multiprocessing
import os
import random
import time
from pathlib import Path

KILLS = int(os.environ.get("FTGUIDE_KILLS", 2))  # of each piece of work


@functools.cache
def server():
    "Forks children in which only the work itself takes time, and no thread of the tests runs."
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "torch",
            "datasets",
            "trl.trainer.sft_trainer",
            "trl.trainer.dpo_trainer",
            "ftguide.sft",
            "ftguide.dpo",
            "ftguide.distillation",
            "ftguide.report.run_folder",
        ]
    )
    first = context.Process(target=nothing)
    first.start()
    first.join(120)  # the imports
    return context


def nothing():
    pass


def child(work, *args):
    "Begin a piece of work, which is a function of a module."
    process = server().Process(target=work, args=args, daemon=True)
    process.start()
    return process


def seconds_of(work, *args) -> float:
    "How long it takes when nobody disturbs it."
    server()
    began = time.monotonic()
    process = child(work, *args)
    process.join(120)
    assert process.exitcode == 0
    return time.monotonic() - began


def killed(work, *args, seconds: float, seed: int) -> bool:
    "Begin, and kill at a random moment of the first `seconds`; False when it was faster."
    process = child(work, *args)
    process.join(random.Random(seed).uniform(0, seconds))
    process.kill()
    process.join(30)
    assert process.exitcode in (0, -9), f"ended by itself with {process.exitcode}"
    return process.exitcode == -9


# ---- the pieces of work


def train(stage: str, folder: str):
    from stages import STAGES

    make, rows, knobs = STAGES[stage]
    return make("tiny-small", rows, output_dir=folder, resume=True, **{**knobs, "epochs": 1})


def cache(folder: str):
    from stages import ROWS

    from ftguide.engine.cache import write_cache

    return write_cache(
        "tiny", [dict(prompt=r["prompt"]) for r in ROWS[:48]], folder, shard_rows=4, max_new_tokens=8
    )


def month(shop: str, votes: str):
    from test_improvement import GATE, HOLDOUT, KNOBS

    from ftguide.improvement import improve

    return improve(shop, votes, GATE, HOLDOUT, **KNOBS)


def journey(folder: str, knobs: dict, told=None):
    "The whole journey; `told` is set as soon as it holds its folder, and then it waits."
    from ftguide.report.run_folder import run

    def say(line):
        if told:
            told.set()
            time.sleep(60)

    return run(folder, resume=Path(folder, "report.json").exists(), say=say, **knobs)


def hold(folder: str, told):
    "A training that stops after its first step, and waits."
    from stages import ROWS
    from transformers import TrainerCallback

    from ftguide.sft import finetune_sft

    class Wait(TrainerCallback):
        def on_step_end(self, args, state, control, **kw):
            if state.global_step == 12:
                told.set()
                time.sleep(60)

    return finetune_sft("tiny-small", ROWS, epochs=2, output_dir=folder, callbacks=(Wait(),))


def write_again_and_again(report: str, model: str, store: str, votes: str):
    "Everything small that is written: reports, models, backups, exports."
    from ftguide.engine.files import write_atomic
    from ftguide.evaluation import Report
    from ftguide.models import load, save
    from ftguide.serving.votes import Feedback

    lm, measured, said = (
        load("tiny-small"),
        Report("m", 1, rows={"quality": [(0.5, 1)] * 20_000}),
        Feedback(store),
    )
    for n in range(10_000):
        measured.save(report)
        save(lm, model, overwrite=True)
        said.vote("q", f"a{n}", "v1", True)
        said.backup()
        write_atomic(votes, '{"prompt": "a"}\n' * 200_000)
