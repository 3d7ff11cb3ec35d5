"Backups of a store of votes: few, whole, in their order, and put back."

import multiprocessing
import os
import signal
import sys

import pytest

from ftguide.feedback import thumbs_from
from ftguide.serving import votes
from ftguide.serving.backups import BackupFolder
from ftguide.serving.errors import FeedbackError
from ftguide.serving.votes import Feedback, restore

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and resource limits")


@pytest.fixture
def store(tmp_path):
    return Feedback(tmp_path / "votes.db")


def test_restore_takes_the_newest_backup_that_is_whole(store):
    store.vote("q", "a", "v1", True)
    store.backup()
    store.vote("q", "b", "v1", True)
    newest = store.backup()
    store.close()
    newest.write_bytes(b"no")
    store.path.write_bytes(b"no")
    assert restore(store.path).numbers()["votes"] == 1
    for old in newest.parent.iterdir():
        old.write_bytes(b"no")
    with pytest.raises(FeedbackError, match="no backup beside it can be read; nothing was changed"):
        restore(store.path)


def test_backups_are_kept_few_and_hold_what_was_there(store):
    for n in range(8):
        store.vote("q", f"a{n}", "v1", True)
        last = store.backup(keep=3)
    there = sorted(last.parent.iterdir())
    assert len(there) == 3 and there[-1] == last and Feedback(last).numbers()["votes"] == 8


def backing_up(path, told, go):
    "A backup that is whole and not yet renamed: it waits there, or is killed."
    real = os.replace

    def replace(*a):
        told.set()
        if go is None:
            os.kill(os.getpid(), signal.SIGKILL)
        go.wait(60)
        real(*a)

    os.replace = replace
    Feedback(path).backup()


def beginning(store, go=None):
    context = multiprocessing.get_context("fork")
    told, go = context.Event(), go and context.Event()
    child = context.Process(target=backing_up, args=(store.path, told, go))
    child.start()
    assert told.wait(60)
    return child, go


@pytest.mark.parametrize("then", [lambda s: s.backup(), lambda s: s.forget("Ana Souza")])
def test_what_a_killed_backup_left_is_deleted(store, then):
    store.vote("q", "a", "v1", True, "Ana Souza")
    store.vote("q", "a", "v1", True, "bo")
    whole = store.backup()
    child, _ = beginning(store)
    child.join(60)
    half = [p for p in whole.parent.iterdir() if p != whole]
    assert child.exitcode == -signal.SIGKILL and len(half) == 1 and b"Ana Souza" in half[0].read_bytes()
    mine = whole.parent / ".gitignore"
    mine.write_text("*")
    log = half[0].with_name(half[0].name + "-journal")
    log.write_bytes(b"Ana Souza")
    then(store)
    assert whole.exists() and mine.exists() and not half[0].exists() and not log.exists()


def test_what_a_living_backup_writes_stays(store, monkeypatch):
    store.vote("q", "a", "v1", True, "Ana Souza")
    child, go = beginning(store, go=True)
    half = list(BackupFolder(store.path).folder.iterdir())
    assert len(half) == 1
    monkeypatch.setattr(votes, "PATIENCE_S", 0)
    with pytest.raises(FeedbackError, match="another backup has been at work for 0 seconds; try again"):
        store.backup()
    with pytest.raises(
        FeedbackError, match="1 rows of 'Ana Souza' are deleted, but not from the backups: .*another backup"
    ):
        store.forget("Ana Souza")
    assert half[0].exists()
    go.set()
    child.join(60)
    monkeypatch.undo()
    assert child.exitcode == 0 and store.forget("Ana Souza") == 0
    left = list(half[0].parent.iterdir())
    assert len(left) == 1 and b"Ana Souza" not in left[0].read_bytes()


def test_a_folder_of_backups_that_is_a_file(store):
    BackupFolder(store.path).folder.write_text("mine")
    with pytest.raises(FeedbackError, match=r"votes.db.backups: File exists; it must be a folder"):
        store.backup()


def test_votes_and_backups_are_counted_in_their_order(tmp_path, back):
    store = Feedback(tmp_path / "votes.db")
    store.vote("q", "a", "v1", True, rater="r")
    for _ in range(5):
        store.backup()
    back(48)
    store.vote("q", "a", "v1", False, rater="r")
    late = store.backup()
    later = store.backup()
    assert [r["up"] for r in store.rows()] == [True, False] and store.rows()[0]["time"] > store.rows()[1][
        "time"
    ]
    assert late.exists() and later.exists() and len(list(late.parent.glob("*.db"))) == 5
    assert thumbs_from(store)[0][0]["label"] is False  # the last word counts
    store.close()
    assert len(restore(tmp_path / "votes.db").rows()) == 2
