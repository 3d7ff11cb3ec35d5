"The tables of a store: older files are upgraded, and a file that holds anything else is refused."

import os
import sqlite3
import sys
import time
from contextlib import closing

import pytest
from voters import written

from ftguide.feedback import pairs_from
from ftguide.serving import backups, votes
from ftguide.serving.errors import FeedbackError
from ftguide.serving.schema import MIGRATIONS
from ftguide.serving.votes import Feedback

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and resource limits")


@pytest.fixture
def store(tmp_path):
    return Feedback(tmp_path / "votes.db")


def old_file(path, version=1):
    with closing(sqlite3.connect(path)) as db:
        for statement in MIGRATIONS[0]:
            db.execute(statement)
        for i in range(50):
            db.execute(
                "INSERT INTO feedback (kind, prompt, answer, version, says, rater, note, time) "
                "VALUES ('vote', ?, 'a', 'v1', 1, 'ana', '', '2026-01-01')",
                (f"q{i}",),
            )
        db.execute(f"PRAGMA user_version = {version}")
        db.commit()


def test_an_old_file_is_upgraded_by_many_at_once(tmp_path):
    path = tmp_path / "old.db"
    old_file(path)
    store = written(path, 3)
    assert store.numbers()["votes"] == 50 + 24 and store._execute("PRAGMA user_version") == [
        (len(MIGRATIONS),)
    ]
    assert store.vote("q", "a", "v1", True, key="k") == store.vote("q", "a", "v1", True, key="k")


def test_an_upgrade_that_breaks_off_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "old.db"
    old_file(path)
    before = path.read_bytes()
    monkeypatch.setattr(votes, "MIGRATIONS", (MIGRATIONS[0], (MIGRATIONS[1][0], "NOT SQL")))
    with pytest.raises(FeedbackError):
        Feedback(path)
    assert path.read_bytes() == before
    monkeypatch.undo()
    assert Feedback(path).numbers()["votes"] == 50


def test_files_that_are_no_store(tmp_path):
    old_file(tmp_path / "new.db", version=99)
    before = (tmp_path / "new.db").read_bytes()
    with pytest.raises(
        FeedbackError, match="newer ftguide .version 99 of the store, this one knows 2.; upgrade"
    ):
        Feedback(tmp_path / "new.db")
    assert (tmp_path / "new.db").read_bytes() == before
    with closing(sqlite3.connect(tmp_path / "other.db")) as db:
        db.execute("CREATE TABLE songs (name)")
    with pytest.raises(FeedbackError, match="not a store of feedback"):
        Feedback(tmp_path / "other.db")
    with pytest.raises(FeedbackError):
        Feedback(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(FeedbackError, match="file in a folder"):
        Feedback(tmp_path / "file" / "votes.db")
    with pytest.raises(FeedbackError, match="no store"):
        pairs_from(tmp_path / "none.db")


ENDLESS = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT"


HARM = {
    "a view in the table's place": [
        "ALTER TABLE feedback RENAME TO kept",
        f"CREATE VIEW feedback AS {ENDLESS} n AS id, 'vote' AS kind, 'q' AS prompt FROM t",
    ],
    "a trigger that deletes": ["CREATE TRIGGER t AFTER INSERT ON feedback BEGIN DELETE FROM feedback; END"],
    "a trigger that does not end": [
        f"CREATE TRIGGER t AFTER INSERT ON feedback BEGIN INSERT INTO feedback (note) {ENDLESS} n FROM t; END"
    ],
    "a view beside it": [f"CREATE VIEW v AS {ENDLESS} n FROM t"],
    "an index with a function": ["CREATE INDEX i ON feedback (abs(says))"],
    "columns missing": ["ALTER TABLE feedback DROP COLUMN note"],
    "columns of others": ["ALTER TABLE feedback ADD COLUMN more TEXT"],
    "nulls": [
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '') WHERE name = 'feedback'",
    ],
    "another table": ["CREATE TABLE more (x)"],
    "no table": ["DROP TABLE feedback"],
    "version 0": ["PRAGMA user_version = 0"],
    "a version below 0": ["PRAGMA user_version = -3"],
    "bytes for text": ["UPDATE feedback SET prompt = x'ff00'"],
    "text that is none": ["UPDATE feedback SET answer = CAST(x'ff' AS TEXT)"],
    "a choice of nothing": ["UPDATE feedback SET kind = 'choice'"],
    "half a character": ["UPDATE feedback SET rater = CAST(x'eda080' AS TEXT)"],
}


ROWS_ONLY = ("bytes for text", "text that is none", "a choice of nothing", "half a character")


@pytest.mark.parametrize("harm", HARM)
def test_a_store_made_to_do_harm_is_one_line(store, harm):
    "Whatever it holds: nothing of it runs, nothing hangs, and it stays as it is."
    store.vote("q", "a", "v1", True, rater="ana")
    store.close()
    with closing(sqlite3.connect(store.path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        for statement in HARM[harm]:
            db.execute(statement)
    before, began = store.path.read_bytes(), time.monotonic()
    with pytest.raises(FeedbackError) as e:
        found = Feedback(store.path)
        found.rows(), found.numbers()
    assert "\n" not in str(e.value) and time.monotonic() - began < 20
    if harm not in ROWS_ONLY:
        assert store.path.read_bytes() == before and not backups.is_readable(store.path)


@pytest.mark.parametrize(
    "what", ["a folder", "a pipe", "a text", "a letter", "a format of the future", "a part"]
)
def test_a_file_that_is_no_database_is_one_line(store, tmp_path, what):
    path = tmp_path / "other.db"
    if what == "a folder":
        path.mkdir()
    elif what == "a pipe":
        os.mkfifo(path)
    elif what in ("a text", "a letter"):
        path.write_text("prompt,answer\n" * 500 if what == "a text" else "x")
    else:
        store.vote("q", "a", "v1", True)
        store.close()
        content = bytearray(store.path.read_bytes())
        if what == "a part":
            content = content[: len(content) // 2]
        else:
            content[18:20] = b"\x09\x09"
        path.write_bytes(content)
    began = time.monotonic()
    with pytest.raises(FeedbackError) as e:
        Feedback(path).numbers()
    assert "\n" not in str(e.value) and time.monotonic() - began < 20
    assert what != "a letter" or path.read_text() == "x"  # and not a new store
