"The tables of a store of votes: how they came about, and whether a file has them and nothing else."

# A database can hold more than rows: a view that never ends, a trigger that deletes what is written. So a
# store is what this guide makes, and nothing in another file is run.

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from ftguide.serving.errors import FeedbackError

# Statements that lead from version n to n + 1; a file keeps its version in PRAGMA user_version.
MIGRATIONS = (
    (
        """CREATE TABLE feedback (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL CHECK (kind IN ('vote', 'choice')),
        prompt TEXT NOT NULL,
        answer TEXT NOT NULL,
        version TEXT NOT NULL,
        other TEXT,
        other_version TEXT,
        says INTEGER NOT NULL CHECK (says IN (-1, 0, 1)),
        rater TEXT NOT NULL,
        note TEXT NOT NULL,
        time TEXT NOT NULL)""",
    ),
    (  # a key: a click that was sent twice counts once
        "ALTER TABLE feedback ADD COLUMN key TEXT",
        "CREATE UNIQUE INDEX feedback_key ON feedback (key)",
        "CREATE INDEX feedback_rater ON feedback (rater)",
    ),
)


def check_schema(
    db: sqlite3.Connection,
    path: Path,  # as the error names it
    version: int,  # of the store, as it says itself; 0 for a new file
) -> None:
    "FeedbackError unless a file is empty, or has the tables of its version and nothing else."
    there = _objects(db)
    if not there and version == 0:
        return
    expected = _made(version) if 0 < version <= len(MIGRATIONS) else {}
    if other := [name for name in {**there, **expected} if there.get(name) != expected.get(name)]:
        kind, name = other[0]
        raise FeedbackError(
            f"{path}: is a database, but not a store of feedback: its {kind} {name[:40]!r} is missing, "
            "or not one that this guide makes; choose another file"
        )


def _objects(db: sqlite3.Connection) -> dict[tuple[str, str], str]:  # (kind, name) -> what made it
    "Tables, indexes, views and triggers, without SQLite's own."
    found = db.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    return {(str(kind), str(name)): "".join(str(sql).lower().split()) for kind, name, sql in found}


def _made(version: int) -> dict[tuple[str, str], str]:
    "What a store of that version has."
    with closing(sqlite3.connect(":memory:")) as db:
        for statements in MIGRATIONS[:version]:
            for statement in statements:
                db.execute(statement)
        return _objects(db)
