"A store of votes and choices in one SQLite file, safe with threads, processes and crashes."

# `WAL`, the write-ahead log: a writer appends to a second file, readers are never blocked, and after a crash
# what was written completely is there and the rest is not. `synchronous = FULL` waits until the disk has it;
# `secure_delete` overwrites what is deleted. One connection a process; threads take turns.

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ftguide.engine.files import write_atomic
from ftguide.engine.statistics import Score, wilson, win_rate
from ftguide.engine.texts import is_blank
from ftguide.serving.backups import SIDE_FILES, BackupFolder, is_readable
from ftguide.serving.errors import FeedbackError
from ftguide.serving.export import export_votes
from ftguide.serving.schema import MIGRATIONS, check_schema

PATIENCE_S = 30  # how long a writer waits for others

COLUMNS = (
    "kind",
    "prompt",
    "answer",
    "version",
    "other",
    "other_version",
    "says",
    "rater",
    "note",
    "key",
    "time",
)
SIDES = {"a": 1, "b": -1, "tie": 0}  # what a choice says
INSERT = (
    f"INSERT INTO feedback ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "
    "ON CONFLICT (key) DO NOTHING RETURNING id"
)
SELECT = f"SELECT id, {', '.join(COLUMNS)} FROM feedback"
# The last row of each rater about the same answers: SQLite takes the other columns from the row of max(id).
_RATER = "CASE rater WHEN '' THEN id ELSE rater END"
_SWAPPED = "answer > other OR (answer = other AND version > other_version)"
LAST_VOTES = (
    "SELECT kind, version, says, max(id) FROM feedback WHERE kind = 'vote' "
    f"GROUP BY prompt, answer, version, {_RATER}"
)
LAST_CHOICES = (
    "SELECT kind, version, other_version, says, max(id) FROM feedback WHERE kind = 'choice' GROUP BY prompt, "
    f"CASE WHEN {_SWAPPED} THEN other ELSE answer END, CASE WHEN {_SWAPPED} THEN answer ELSE other END, "
    f"CASE WHEN {_SWAPPED} THEN other_version ELSE version END, "
    f"CASE WHEN {_SWAPPED} THEN version ELSE other_version END, {_RATER}"
)
NO_TEXT = (
    "SELECT id FROM feedback WHERE "
    + " OR ".join(f"typeof({column}) NOT IN ('text', 'null')" for column in COLUMNS if column != "says")
    + " OR (kind = 'choice' AND (other IS NULL OR other_version IS NULL)) LIMIT 1"
)
SEND_AGAIN = "This entry is not kept, all before it are; free some space and send it again"


class Feedback:
    "Votes and choices of people in one SQLite file. Errors are FeedbackError."

    def __init__(
        self,
        path: str | Path,  # made when it does not exist
    ):
        self.path = Path(path)
        self._lock = threading.RLock()
        self._db = None
        self._execute("SELECT 1")
        _STORES.add(self)

    def close(self) -> None:
        "Let go of the file; the next use opens it again."
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def __reduce__(self):
        return Feedback, (self.path,)

    def __repr__(self):
        return f"Feedback({self.path}: {self._execute('SELECT count(*) FROM feedback')[0][0]:,} rows)"

    def vote(
        self,
        prompt: str,
        answer: str,
        version: str,  # of the model that answered
        up: bool,  # True for 👍
        rater: str = "",  # who; empty = unknown
        note: str = "",
        key: str | None = None,  # of this click: sent again, it counts once; with another click FeedbackError
    ) -> int:  # id of the row
        "Keep a thumb; it is on the disk when this returns."
        if not isinstance(up, bool):
            raise FeedbackError(f"up must be True or False, not {up!r}")
        return self._add("vote", prompt, answer, version, None, None, 1 if up else -1, rater, note, key)

    def choose(
        self,
        prompt: str,
        a: str,
        b: str,
        version_a: str,
        version_b: str,
        chosen: str,  # "a", "b" or "tie"
        rater: str = "",
        note: str = "",
        key: str | None = None,
    ) -> int:  # id of the row
        "Keep which of two answers is better."
        if chosen not in SIDES:
            raise FeedbackError(f"chosen must be a, b or tie, not {chosen!r}")
        for name, value in (("b", b), ("version_b", version_b)):
            _check_text(name, value)
        return self._add("choice", prompt, a, version_a, b, version_b, SIDES[chosen], rater, note, key)

    def rows(self) -> list[dict]:  # in the order they came
        """Every row: of a vote kind, prompt, answer, version, up.

        Of a choice prompt, a, b, version_a, version_b, chosen; of both id, rater, note, key, time."""
        return [_as_dict(*row) for row in self._execute(f"{SELECT} ORDER BY id")]

    def numbers(self) -> dict:  # votes, choices, share_up, win_rate, by_version
        """Counts of all clicks, and what people say: of each, the last click on the same answers.

        The share of thumbs up, and how often each version was preferred, are a `Score` with its 95 %
        interval, None where nobody voted; `repeated` clicks were replaced by a later one of the same rater.
        Without a name, each click is a rater's own."""
        thumbs, duels = self._thumbs(), self._duels()
        votes, choices = (self._count("feedback", kind) for kind in ("vote", "choice"))
        opinions = self._count(f"({LAST_VOTES})", "vote") + self._count(f"({LAST_CHOICES})", "choice")
        by_version = {}
        for version in sorted({*thumbs, *duels}):
            up, n = thumbs.get(version, (0, 0))
            verdicts = duels.get(version, [])
            by_version[version] = dict(
                votes=n,
                up=up,
                share_up=_share(up, n),
                choices=len(verdicts),
                win_rate=win_rate(verdicts) if verdicts else None,
            )
        return dict(
            votes=votes,
            choices=choices,
            repeated=votes + choices - opinions,
            share_up=_share(*map(sum, zip(*thumbs.values()))) if thumbs else None,
            win_rate={version: win_rate(verdicts) for version, verdicts in duels.items()},
            by_version=by_version,
        )

    def _count(self, rows: str, kind: str) -> int:
        return self._execute(f"SELECT count(*) FROM {rows} WHERE kind = ?", (kind,))[0][0]

    def _thumbs(self) -> dict[str, tuple[int, int]]:  # version -> thumbs up, thumbs
        counted = self._execute(
            f"SELECT version, sum(says > 0), count(*) FROM ({LAST_VOTES}) GROUP BY version"
        )
        return {version: (up, n) for version, up, n in counted}

    def _duels(self) -> dict[str, list[int]]:  # version -> 1 won, -1 lost or 0 against another version
        verdicts = defaultdict(list)
        for a, b, says in self._execute(f"SELECT version, other_version, says FROM ({LAST_CHOICES})"):
            if a != b:  # a model against itself says nothing about versions
                verdicts[a].append(says)
                verdicts[b].append(-says)
        return dict(verdicts)

    def backup(
        self,
        keep: int = 5,  # older ones are deleted
    ) -> Path:  # the new file, in a folder beside the store
        "Copy the store while others go on writing."
        backups = BackupFolder(self.path)
        lost = "No backup is made, the store is as it was; free some space and try again"
        with _plain_errors(self.path, lost), backups.alone(PATIENCE_S):
            done = backups.new_file()
            write_atomic(done, self._copy_to)
            backups.delete_old(keep)
        return done

    def _copy_to(self, path: Path) -> None:
        with closing(_open(self.path)) as db, closing(sqlite3.connect(path)) as copy:
            db.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")

    def export(
        self,
        path: str | Path,  # .jsonl or .parquet; FileExistsError when it exists
        personal: str = "refuse",  # rows with personal data: "refuse" to export, "mask" it, or "keep" it
        raters: bool = False,  # write the raters' names? Otherwise "rater 1", "rater 2", …
    ) -> Path:
        "Write all rows to a file, whole or not at all."
        return export_votes(self.rows(), path, personal, raters)

    def forget(
        self,
        rater: str,
    ) -> int:  # rows deleted
        """Delete all that a rater said, here and in the backups.

        FeedbackError names files where that was not possible."""
        _check_text("rater", rater)
        if not rater.strip():
            raise FeedbackError("rater is empty; rows without a rater belong to nobody who could ask")
        deleted = len(self._execute("DELETE FROM feedback WHERE rater = ? RETURNING id", (rater,)))
        self._empty_log()
        done = f"{deleted} rows of {rater!r} are deleted, but"
        try:
            left = self._copies() + _not_forgotten(BackupFolder(self.path), rater)
        except FeedbackError as e:
            raise FeedbackError(f"{done} not from the backups: {e}") from e
        if left:
            raise FeedbackError(
                f"{done} they may still be in {', '.join(map(str, left))}; delete these files"
            )
        return deleted

    def _empty_log(self) -> None:
        "The write-ahead log still holds a deleted text until it is emptied."
        end = time.monotonic() + PATIENCE_S
        while self._execute("PRAGMA wal_checkpoint(TRUNCATE)")[0][0] and time.monotonic() < end:
            time.sleep(0.05)

    def _copies(self) -> list[Path]:
        "Files beside the store that may hold what is deleted: its log, and what `restore` left."
        name = self.path.name
        log = self.path.with_name(name + "-wal")
        left = [log] if log.exists() and log.stat().st_size else []
        aside = rf"\.{re.escape(name[:200])}-\d+"  # as `write_atomic` names it
        for path in sorted(self.path.parent.iterdir()):
            if path.name.startswith(f"{name}.damaged") or re.fullmatch(aside, path.name):
                left.append(path)
        return left

    def _execute(self, sql: str, values: tuple = ()) -> list[tuple]:
        "Run one statement, one thread at a time."
        with _plain_errors(self.path), self._lock:
            if self._db is None:
                self._db = _open(self.path)
            return self._db.execute(sql, values).fetchall()

    def _add(self, kind, prompt, answer, version, other, other_version, says, rater, note, key) -> int:
        texts = dict(prompt=prompt, answer=answer, version=version, rater=rater, note=note)
        texts["key"] = "" if key is None else key
        for name, value in texts.items():
            _check_text(name, value)
        if is_blank(prompt):
            raise FeedbackError("prompt is empty: nobody asked anything")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        row = kind, prompt, answer, version, other, other_version, says, rater, note, key or None, now
        while True:  # twice when the row of the key is deleted in between
            for (id,) in self._execute(INSERT, row):
                return id
            for kept in self._execute(f"{SELECT} WHERE key = ?", (key,)):
                return _sent_again(_as_dict(None, *row), _as_dict(*kept))


def existing_store(
    store: Feedback | str | Path,
) -> Feedback:
    "A store that is there already; FeedbackError where there is none."
    if isinstance(store, Feedback):
        return store
    if not Path(store).is_file():
        raise FeedbackError(f"no store of votes at {store}; a page, or Feedback({str(store)!r}), makes one")
    return Feedback(store)


def restore(
    path: str | Path,  # of a damaged store that nobody has open
    backup: str | Path | None = None,  # by default the newest that can be read
) -> Feedback:
    "Put a backup in the place of a store; what was there is kept beside it, as `….damaged`."
    path = Path(path)
    if backup is None:
        backup = BackupFolder(path).newest_readable()
        if backup is None:
            raise FeedbackError(f"{path}: no backup beside it can be read; nothing was changed")
    elif not is_readable(Path(backup)):
        raise FeedbackError(f"{path}: {backup} cannot be read; nothing was changed")

    def put_aside_and_copy(new: Path) -> None:
        shutil.copyfile(backup, new)
        for end in SIDE_FILES:
            if (old := path.with_name(path.name + end)).exists():
                os.replace(old, path.with_name(f"{path.name}.damaged{end}"))

    with _plain_errors(path):
        write_atomic(path, put_aside_and_copy)
    return Feedback(path)


def _share(part: float, whole: int) -> Score | None:
    return wilson(part, whole) if whole else None


def _check_text(name: str, value: Any) -> None:
    "FeedbackError unless it is text that can be written."
    if not isinstance(value, str):
        raise FeedbackError(f"{name} must be text, not {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise FeedbackError(
            f"{name} holds half a character, which no file can hold; send whole characters"
        ) from None


def _as_dict(id, kind, prompt, answer, version, other, other_version, says, rater, note, key, time) -> dict:
    if kind == "vote":
        said = dict(answer=answer, version=version, up=says > 0)
    else:
        chosen = {number: side for side, number in SIDES.items()}[says]
        said = dict(a=answer, b=other, version_a=version, version_b=other_version, chosen=chosen)
    return dict(id=id, kind=kind, prompt=prompt, **said, rater=rater, note=note, key=key, time=time)


def _sent_again(new: dict, kept: dict) -> int:  # id of the row that is there
    "FeedbackError when a key comes with another click: it would be lost without a word."
    if other := [k for k in new if k not in ("id", "time") and new[k] != kept.get(k)]:
        raise FeedbackError(
            f"key {new['key'][:60]!r} is that of row {kept['id']}, which has another {', '.join(other)}; "
            "a key stands for one click, so give this one its own"
        )
    return kept["id"]


def _open(path: Path) -> sqlite3.Connection:
    "A connection to a store, which is made or upgraded when it has to be."
    if path.exists() and not path.is_file():
        raise FeedbackError(f"{path}: is not a file, and so no store of feedback; choose another name")
    if (
        path.exists() and path.stat().st_size and not _begins_as_sqlite(path)
    ):  # a short one would be overwritten
        raise sqlite3.DatabaseError("file is not a database")
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False)
    try:
        _retry_while_locked(lambda: _upgrade(db, path))
        # the one statement that does not wait for others: processes that open a new file at once collide here
        _retry_while_locked(lambda: db.execute("PRAGMA journal_mode = WAL").fetchone())
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")
        broken = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if broken != "ok":
            raise sqlite3.DatabaseError(broken)
        for (id,) in db.execute(NO_TEXT):
            raise sqlite3.DatabaseError(f"row {id} holds something that is not text")
    except BaseException:
        db.close()
        raise
    return db


def _begins_as_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def _retry_while_locked(act: Callable[[], Any]) -> Any:
    "Try again while SQLite says that others hold the file: not every statement waits by itself."
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return act()
        except sqlite3.OperationalError as e:
            if "locked" not in str(e) or time.monotonic() > end:
                raise
            time.sleep(random.uniform(0.001, 0.02))


def _upgrade(db: sqlite3.Connection, path: Path) -> None:
    "Bring a store to the newest version, in one transaction; FeedbackError for a newer one, or no store."
    if _version(db, path) == len(MIGRATIONS):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        for statements in MIGRATIONS[_version(db, path) :]:
            for statement in statements:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _version(db: sqlite3.Connection, path: Path) -> int:
    "Version of a store that has the tables of that version; read in one moment, while others may upgrade it."
    db.execute("SAVEPOINT look")
    try:
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if found > len(MIGRATIONS):
            raise FeedbackError(
                f"{path}: was written by a newer ftguide "
                f"(version {found} of the store, this one knows {len(MIGRATIONS)}); upgrade ftguide"
            )
        check_schema(db, path, found)
        return found
    finally:
        db.execute("RELEASE look")


@contextmanager
def _plain_errors(path: Path, lost: str = SEND_AGAIN) -> Iterator[None]:
    "SQLite's errors as one line that says what to do."
    try:
        yield
    except OSError as e:
        raise FeedbackError(
            f"{path}: {e.strerror or e}; "
            "it must be a file in a folder that may be written, with room on the disk"
        ) from e
    except sqlite3.Error as e:
        raise FeedbackError(f"{path}: {_advice(path, str(e), lost)}") from e


def _advice(path: Path, said: str, lost: str) -> str:
    if "full" in said or "disk I/O" in said:
        return f"no room on the disk ({said}). {lost}"
    if "locked" in said:
        return f"others have been writing for {PATIENCE_S} seconds ({said}); send it again"
    if "readonly" in said:
        return "may not be written; check the permissions of the file and its folder"
    if "unable to open" in said:
        return "cannot be opened; it must be a file in a folder that may be written"
    return f"damaged, or not a store of feedback ({said}). {BackupFolder(path).advice()}"


def _not_forgotten(backups: BackupFolder, rater: str) -> list[Path]:
    "Delete what a rater said from the backups; files that may still hold it."
    if not backups.folder.is_dir():
        return []
    with backups.alone(PATIENCE_S):
        left = [path for path in backups.files() if not _forgotten(path, rater)]
        return left + sorted({*backups.unfinished(), *backups.logs()})


def _forgotten(path: Path, rater: str) -> bool:
    try:
        with closing(sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)) as db:
            db.execute("PRAGMA secure_delete = ON")
            db.execute("DELETE FROM feedback WHERE rater = ?", (rater,))
            # a backup that somebody looks at has a log too
            return not db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.Error:
        return False


# A forked connection believes that it holds locks, and holds none. So connections are closed before a process
# forks, and both halves open their own.
_STORES: weakref.WeakSet[Feedback] = weakref.WeakSet()
_HELD: list[Feedback] = []


def _before_fork() -> None:
    for store in list(_STORES):
        store._lock.acquire()
        store.close()
        _HELD.append(store)


def _after_fork_in_parent() -> None:
    while _HELD:
        _HELD.pop()._lock.release()


def _after_fork_in_child() -> None:
    while _HELD:
        _HELD.pop()._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
