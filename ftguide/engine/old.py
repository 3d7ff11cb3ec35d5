"""For distillation only, until it goes through `Run`."""

from functools import lru_cache

from ftguide.engine.run import Run, check_positive, fit
from ftguide.engine.run import copy_for_training as _copy
from ftguide.engine.trainers import SafeTrainer


@lru_cache
def guarded(trainer_class):
    return type(f"Safe{trainer_class.__name__}", (SafeTrainer, trainer_class), {})


def copy_for_training(base, name, lora=None, **positive):
    check_positive(**positive)
    return _copy(base, name, lora)


def train(trainer, checkpoint, run, keep):
    fit(trainer, checkpoint, run, keep)


def to_lm(trainer, start, lora):
    run = Run.__new__(Run)
    run.start, run.lora = start, lora
    start.model.__dict__.pop("forward", None)
    return run._result(trainer)
