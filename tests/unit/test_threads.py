"Threads: fewer where others use the cores, as many as before afterwards, and what somebody chose."

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from ftguide.engine import precision, threads
from ftguide.engine.threads import available_cores, busy_cores, free_threads

LARGE = precision.LARGE


@pytest.fixture
def machine(monkeypatch):
    "Four cores and four threads, whatever this one has; `set` is what torch was told."
    told = SimpleNamespace(threads=4, set=[], busy=0.0)

    def set_num_threads(n):
        told.threads = n
        told.set.append(n)

    for name in threads.ASKED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: told.threads)
    monkeypatch.setattr(torch, "set_num_threads", set_num_threads)
    monkeypatch.setattr(threads, "available_cores", lambda: 4)
    monkeypatch.setattr(threads, "busy_cores", lambda: told.busy)
    return told


@pytest.mark.parametrize(
    "busy, expected", [(0.0, 4), (0.2, 4), (0.5, 3), (1.0, 3), (2.1, 2), (3.9, 1), (4.0, 1)]
)
def test_no_thread_on_a_busy_core(machine, capsys, busy, expected):
    machine.busy = busy
    with free_threads("SFT", LARGE):
        assert machine.threads == expected
    assert machine.threads == 4, "as before"
    assert capsys.readouterr().err.count("\n") == (expected < 4)


def test_an_error_gives_the_threads_back(machine):
    machine.busy = 2.0
    with pytest.raises(KeyError), free_threads("SFT", LARGE):
        raise KeyError
    assert machine.set == [2, 4]


def test_a_quota_counts_like_fewer_cores(machine, monkeypatch):
    monkeypatch.setattr(threads, "available_cores", lambda: 1.5)
    with free_threads("SFT", LARGE):
        assert machine.threads == 1


@pytest.mark.parametrize("why", ["small", "asked", "gpu", "processes"])
def test_what_is_left_alone(machine, monkeypatch, capsys, why):
    machine.busy = 3.0
    if why == "asked":
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
    if why == "gpu":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if why == "processes":
        monkeypatch.setenv("WORLD_SIZE", "2")
    with free_threads("SFT", LARGE - (why == "small")):
        assert machine.threads == 4
    assert machine.set == [] and not capsys.readouterr().err


@pytest.mark.parametrize(
    "text, cores", [("max 100000", 8), ("250000 100000", 2.5), ("900000 100000", 8), ("", 8), (None, 8)]
)
def test_cores_of_a_container(monkeypatch, tmp_path, text, cores):
    monkeypatch.setattr(threads, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(threads, "_bound_to", lambda: set(range(8)))
    if text is not None:
        (tmp_path / "cpu.max").write_text(text)
    assert available_cores() == cores


@pytest.fixture
def clock(monkeypatch):
    "What five cores and this program's threads do in each second of waiting; time passes in `sleep` alone."
    state = SimpleNamespace(now=100.0, own=0.0)
    work = ["user", None, "nice", "iowait", "system"]  # of each core; None: idle in three quarters

    def times(percpu):
        spent = [
            {part: state.now} if part else dict(user=state.now / 4, idle=state.now * 3 / 4) for part in work
        ]
        return [SimpleNamespace(**one) for one in spent]

    def sleep(seconds):
        state.now += seconds

    monkeypatch.setattr(threads.psutil, "cpu_times", times)
    monkeypatch.setattr(threads.time, "sleep", sleep)
    monkeypatch.setattr(threads.time, "monotonic", lambda: state.now)
    monkeypatch.setattr(threads, "_own_seconds", lambda: state.now * state.own)
    return state


@pytest.mark.parametrize("seconds", [0.25, 1.0, 2.0])
def test_busy_is_what_others_take_of_our_cores(clock, monkeypatch, seconds):
    "Waiting for a disk is not busy, and what runs with a lower priority gives way."
    monkeypatch.setattr(threads, "_bound_to", lambda: {0, 1, 2, 3})
    assert busy_cores(seconds) == pytest.approx(1.25)
    monkeypatch.setattr(threads, "_bound_to", set)
    assert busy_cores(seconds) == pytest.approx(2.25)


def test_own_threads_that_still_spin_are_not_others(clock, monkeypatch):
    "After a product they wait for the next one at full speed."
    monkeypatch.setattr(threads, "_bound_to", set)
    clock.own = 1.5
    assert busy_cores() == pytest.approx(0.75)
    clock.own = 2.5
    assert busy_cores() == 0, "clocks of different kinds may disagree"


def test_a_program_beside_this_one_is_seen():
    "On this machine, whatever else runs on it."
    burning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert 0.3 < busy_cores(1.0) <= (os.cpu_count() or 1) + 0.1
    finally:
        burning.kill()
        burning.wait()
