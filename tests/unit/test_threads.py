"Threads: fewer where others use the cores, as many as before afterwards, and what somebody chose."

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


def test_busy_is_what_others_take_of_our_cores(monkeypatch):
    "Waiting for a disk is not busy, and what runs with a lower priority gives way."
    core = lambda **spent: SimpleNamespace(**{"idle": 0.0, "iowait": 0.0, "nice": 0.0, **spent})
    seen = [core(), core(idle=75.0), core(nice=100.0), core(iowait=100.0), core()]
    monkeypatch.setattr(threads.psutil, "cpu_times_percent", lambda seconds, percpu: seen)
    monkeypatch.setattr(threads, "_bound_to", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(threads, "_own_seconds", lambda: 7.0)
    assert busy_cores() == pytest.approx(1.25)
    monkeypatch.setattr(threads, "_bound_to", set)
    assert busy_cores() == pytest.approx(2.25)


def test_own_threads_that_still_spin_are_not_others(monkeypatch):
    "After a product they wait for the next one at full speed; here for a quarter of a second on 1.5 cores."
    core = SimpleNamespace(idle=0.0, iowait=0.0, nice=0.0)
    monkeypatch.setattr(threads.psutil, "cpu_times_percent", lambda seconds, percpu: [core, core])
    monkeypatch.setattr(threads, "_bound_to", set)
    spent = iter([10.0, 10.375])
    monkeypatch.setattr(threads, "_own_seconds", lambda: next(spent))
    assert busy_cores(0.25) == pytest.approx(0.5)
    spent = iter([10.0, 10.6])
    assert busy_cores(0.25) == 0, "clocks of different kinds may disagree"
