"""Work that is killed: in a process forked from one that has imported everything already.

At a moment that a seed chooses."""

import functools
import multiprocessing
import os
import random
import signal
import sys
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


def started(stage: str, folder: Path, step: int, work=None, log: Path | None = None):
    "A training in a process of its own, when it has taken so many steps; there it waits, or does `work`."
    reached = server().Event()
    process = child(train_until, stage, str(folder), step, reached, work or wait, log)
    assert reached.wait(120), "it has not come so far"
    return process


# ---- the pieces of work


def wait():
    time.sleep(120)


def wait_a_little():
    time.sleep(2)


def limit_file_sizes():
    "No file may grow from now on, as on a disk that is full."
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))


def command(words: list, log: Path):
    "The command line as a process of its own has it; what it says goes into `log`."
    from ftguide.cli import main

    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, sys.stdout.fileno())
    os.dup2(said, sys.stderr.fileno())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    sys.argv = ["ftguide", *map(str, words)]
    main()


def train_until(stage: str, folder: str, step: int, reached, work, log: Path | None):
    "A stage that stops after a step for some work; what it says to people goes into `log`."
    from stages import STAGES
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kw):
            if state.global_step == step:
                reached.set()
                work()

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    if log:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    make, rows, knobs = STAGES[stage]
    make("tiny-small", rows, output_dir=folder, callbacks=(Stop(),), **knobs)


def train(stage: str, folder: str):
    from stages import STAGES

    make, rows, knobs = STAGES[stage]
    return make("tiny-small", rows, output_dir=folder, resume=True, **{**knobs, "epochs": 1})


def cache(folder: str):
    from stages import ROWS

    from ftguide.engine.cache import write_cache

    return write_cache("tiny", ROWS[:48], folder, shard_rows=4)


def month(shop: str, votes: str):
    from test_improvement import GATE, HOLDOUT, KNOBS

    from ftguide.improvement import improve

    return improve(shop, votes, GATE, HOLDOUT, **KNOBS)


def month_that_waits(shop: str, votes: str, begun, waits):
    "A month that says when it has begun, and waits after the sixteenth step."
    from test_improvement import GATE, HOLDOUT, KNOBS
    from transformers import TrainerCallback

    from ftguide.improvement import improve

    class Wait(TrainerCallback):
        def on_step_end(self, args, state, control, **kw):
            if state.global_step == 4:
                begun.set()
            if state.global_step == 16:
                waits.set()
                wait()

    improve(shop, votes, GATE, HOLDOUT, callbacks=(Wait(),), **KNOBS)


def journey(folder: str, knobs: dict, told=None):
    "The whole journey; `told` is set as soon as it holds its folder, and then it waits."
    from ftguide.report.run_folder import run

    def say(line):
        if told:
            told.set()
            time.sleep(60)

    return run(folder, resume=Path(folder, "report.json").exists(), say=say, **knobs)


def journey_killed_at(folder: str, knobs: dict, line: str):
    "The whole journey, killed when it says a line that begins so."
    from ftguide.report.run_folder import run

    def say(said):
        if said.strip().startswith(line):
            os.kill(os.getpid(), signal.SIGKILL)

    run(folder, **knobs, say=say)


def journey_killed_in(folder: str, knobs: dict, stage: str, step: int):
    "The whole journey, killed after a step of a stage."
    import ftguide.engine.callbacks as callbacks
    from ftguide.report.run_folder import run

    bar = callbacks.ProgressCallback.on_step_end

    def on_step_end(self, args, state, control, **kwargs):
        if f"/{stage}/" in args.output_dir and state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        bar(self, args, state, control, **kwargs)

    callbacks.ProgressCallback.on_step_end = on_step_end
    run(folder, **knobs, say=lambda line: None)


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
