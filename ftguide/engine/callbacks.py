"""What happens between the steps of a training: progress, checkpoints, Ctrl-C, early stopping."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import transformers
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback

from ftguide.engine.checkpoints import delete_old, mark_whole
from ftguide.engine.environment import progress_bar


class ProgressCallback(TrainerCallback):
    "A progress bar with the loss and the time left; silent when nobody watches."

    def __init__(self, what: str):  # what: shown before the bar
        self.what = what

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = progress_bar(state.max_steps, self.what)

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            self.bar.set_postfix(loss=f"{float(logs['loss']):.3f}")


class KeepCheckpoints(TrainerCallback):
    "Marks each checkpoint when all of it is written, and deletes old ones."

    def __init__(self, record: dict):  # record: what decides the result, compared when a run goes on
        self.record = record

    def on_save(self, args, state, control, **kwargs):
        if not args.should_save:  # another process does it
            return
        folder = Path(args.output_dir)
        mark_whole(folder / f"checkpoint-{state.global_step}", self.record)
        delete_old(folder, args.save_total_limit, state.best_model_checkpoint)


class StopAfterStep(TrainerCallback):
    "Ctrl-C ends a training after the step, with a checkpoint; a second Ctrl-C ends it at once."

    asked = False

    def on_step_end(self, args, state, control, **kwargs):
        if self.asked:
            control.should_save = control.should_training_stop = True

    @contextmanager
    def listening(
        self,
        keep: bool,  # are checkpoints kept? Otherwise there is nothing to wait for
    ) -> Iterator[None]:
        "Take Ctrl-C while the block runs, where Python can: in the main thread, and not in a background job."
        here = threading.current_thread() is threading.main_thread()
        if not here or not callable(signal.getsignal(signal.SIGINT)):
            yield
            return

        def ask(*_):
            if self.asked or not keep:
                raise KeyboardInterrupt
            self.asked = True

        before = signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class EarlyStopping(EarlyStoppingCallback):
    "transformers' own; a run that it had ended, and that is gone on with, ends again after one step."

    def on_step_end(self, args, state, control, **kwargs):
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True


def early_stopping(
    validate: bool,  # is there validation data?
    patience: int | None,  # validations without a better one; None never stops early
) -> list[TrainerCallback]:
    "Stop early after `patience` validations without a better one."
    if patience is not None and not patience >= 1:
        raise ValueError(f"patience must be 1 validation or more, or None, not {patience}")
    return [EarlyStopping(patience)] if validate and patience else []


def silent(trainer: Trainer) -> Trainer:
    "The trainer without transformers' own progress lines."
    for callback in (PrinterCallback, transformers.ProgressCallback):
        trainer.remove_callback(callback)
    return trainer
