"""How many threads a large model computes with: none on a core that another program keeps busy.

Threads wait for each other after every product, so one that shares its core holds up all others."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from ftguide.engine.environment import processes
from ftguide.engine.precision import is_large

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "max 100000", or so many microseconds of so many
ASKED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # variables by which somebody chose a number
NEARLY_FREE = 0.3  # of a core, in use by others, does not matter


def available_cores() -> float:
    "Cores this process may use: those it is bound to, as far as its container's quota goes."
    ours = _bound_to()
    return min(len(ours) if ours else os.cpu_count() or 1, _quota())


def _bound_to() -> set[int]:  # numbers of cores; empty where the system does not say
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _quota() -> float:  # cores; infinity where there is no limit
    "CPU time a period that Linux grants a container."
    try:
        time, period = CPU_QUOTA.read_text(encoding="utf-8").split()
        return float("inf") if time == "max" else int(time) / int(period)
    except (OSError, ValueError):
        return float("inf")


def busy_cores(seconds: float = 0.25) -> float:
    """Cores of ours that other programs of normal priority keep busy, watched while this one waits.

    Its own threads go on spinning for a while after their last product, and do not count."""
    ours, began = _bound_to(), time.monotonic()
    before, own = psutil.cpu_times(percpu=True), _own_seconds()
    time.sleep(seconds)
    worked = [_worked(end) - _worked(start) for start, end in zip(before, psutil.cpu_times(percpu=True))]
    used = sum(spent for core, spent in enumerate(worked) if not ours or core in ours)
    others = used - (_own_seconds() - own)
    return max(others / (time.monotonic() - began), 0.0)


def _worked(core) -> float:  # seconds since the start; core: as psutil counts it
    "Without the time that was idle or waited for a disk; what has a lower priority gives way."
    return sum(getattr(core, part, 0.0) for part in ("user", "system", "irq", "softirq", "steal"))


def _own_seconds() -> float:  # of CPU time so far, in all threads
    return sum(os.times()[:2])


@contextmanager
def free_threads(
    what: str,  # computes
    parameters: int,  # of the model; a small one computes as it is
) -> Iterator[None]:
    "As many threads as there are free cores while the block runs, said in a line when it is fewer."
    most, chosen = torch.get_num_threads(), any(os.environ.get(name) for name in ASKED)
    if most == 1 or chosen or not is_large(parameters) or torch.cuda.is_available() or processes()[1] > 1:
        yield
        return
    cores, busy = available_cores(), busy_cores()
    threads = max(1, min(most, int(cores - busy + NEARLY_FREE)))
    if threads < most:
        print(
            f"{what} computes with {threads} of {most} threads: it may use {cores:g} cores, and others "
            f"keep {busy:.1f} of them busy; OMP_NUM_THREADS chooses another number",
            file=sys.stderr,
            flush=True,
        )
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(most)
