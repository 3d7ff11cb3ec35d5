"Files that appear whole, locks that end with their process, fingerprints that outlive it."

import multiprocessing
import os
import signal
import sys

import filelock
import pytest

from ftguide.engine import files
from ftguide.engine.files import file_lock, fingerprint, folder_lock, write_atomic

forks = pytest.mark.skipif(sys.platform == "win32", reason="forks and signals")


@pytest.mark.parametrize(
    "content", ["née\n", "née\n".encode(), lambda path: path.write_bytes("née\n".encode())]
)
def test_text_bytes_and_a_function_are_written(tmp_path, content):
    write_atomic(tmp_path / "a.txt", content)
    assert (tmp_path / "a.txt").read_bytes() == "née\n".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_was_there_stays_until_the_new_file_is_complete(tmp_path):
    file = tmp_path / "a.txt"
    write_atomic(file, "before")

    def fails(path):
        path.write_text("half")
        assert file.read_text() == "before"
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomic(file, fails)
    assert file.read_text() == "before" and os.listdir(tmp_path) == ["a.txt"]


def test_a_long_name_is_written(tmp_path):
    name = "n" * 250
    write_atomic(tmp_path / name, "text")
    assert (tmp_path / name).read_text() == "text"


def test_the_second_lock_on_a_folder_is_refused_and_leaves_nothing(tmp_path):
    folder = tmp_path / "run"
    with folder_lock(folder, "backup"):
        says = r"another backup is at work in .*run; wait until it ends"
        with pytest.raises(FileExistsError, match=says), folder_lock(folder, "backup"):
            pass
        assert os.listdir(folder) == [] and os.listdir(tmp_path) == ["run"]
    with folder_lock(folder):
        pass
    assert os.listdir(folder) == []


def test_an_error_inside_lets_go_of_the_folder(tmp_path):
    with pytest.raises(KeyError), folder_lock(tmp_path):
        raise KeyError
    with folder_lock(tmp_path):
        pass


def hold(take, path, held, seconds):
    with take(path):
        held.set()
        signal.sigtimedwait([], seconds)


def holder(take, path, seconds=60):
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold, args=(take, path, held, seconds))
    process.start()
    assert held.wait(30)
    return process


@forks
@pytest.mark.parametrize("take", [folder_lock, file_lock])
def test_a_lock_ends_with_its_process(tmp_path, take):
    path = tmp_path / "locked"
    process = holder(take, path)
    if take is folder_lock:
        with pytest.raises(FileExistsError), folder_lock(path):
            pass
    else:
        with file_lock(path, wait=False) as mine:
            assert not mine
    process.kill()
    process.join(30)
    with take(path) as mine:
        assert mine in (None, True)


@forks
@pytest.mark.parametrize("again", [lambda path: folder_lock(path, wait_s=30), folder_lock])
def test_a_folder_can_be_waited_for(tmp_path, again):
    process = holder(folder_lock, tmp_path / "run", seconds=0.5)
    if again is folder_lock:
        process.join(30)
    with again(tmp_path / "run"):
        process.join(30)
        assert process.exitcode == 0


@forks
def test_a_child_process_does_not_keep_the_lock(tmp_path):
    "It has inherited the open folder."
    context = multiprocessing.get_context("fork")
    go = context.Event()
    with folder_lock(tmp_path):
        child = context.Process(target=go.wait, args=(60,))
        child.start()
    try:
        with folder_lock(tmp_path):
            pass
    finally:
        go.set()
        child.join(30)


def test_a_file_system_without_locks_ends_no_training(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files, "lock_descriptor", refuse)
    monkeypatch.setattr(files, "unlock_descriptor", refuse)
    with folder_lock(tmp_path), folder_lock(tmp_path):
        pass


def test_a_system_without_locks_deploys(tmp_path, monkeypatch):
    def missing(*args, **kwargs):
        raise OSError(files.errno.ENOSYS, "fcntl is unavailable")

    monkeypatch.setattr(files, "lock_descriptor", missing)
    with file_lock(tmp_path / ".lock") as mine:
        assert mine


def test_our_locks_and_those_of_filelock_are_the_same(tmp_path):
    with filelock.FileLock(tmp_path / "lock"), file_lock(tmp_path / "lock", wait=False) as mine:
        assert not mine


def test_fingerprints_depend_on_rows_and_their_order():
    rows = [dict(prompt="a", completion="é"), dict(prompt="b", completion="c")]
    assert fingerprint(rows) == "c575473856b15d77"
    assert fingerprint(iter(rows)) == fingerprint([dict(reversed(list(r.items()))) for r in rows])
    assert len({fingerprint(rows), fingerprint(rows[::-1]), fingerprint(rows[:1]), fingerprint([])}) == 4
