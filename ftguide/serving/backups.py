"Backups of a store of votes: a folder beside it with dated copies, the newest sorted last."

# A copy is written under a hidden name and renamed when it is whole. One backup works at a time, behind a
# lock that ends with its process; so what it finds unfinished was left by one that was killed.

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from ftguide.engine.files import folder_lock
from ftguide.serving.errors import FeedbackError
from ftguide.serving.schema import check_schema

SIDE_FILES = ("", "-wal", "-shm")  # a database and what SQLite keeps beside it


class BackupFolder:
    "The backups of one store."

    def __init__(self, store: Path):
        self.store = store
        self.folder = store.with_name(store.name + ".backups")

    def files(self) -> list[Path]:
        "The complete backups, newest first."
        return sorted(self.folder.glob("*.db"), key=lambda path: path.stem, reverse=True)

    def newest_readable(self) -> Path | None:
        return next((path for path in self.files() if is_readable(path)), None)

    @contextmanager
    def alone(self, wait_s: float) -> Iterator[None]:
        "Alone among the backups; what one that was killed left unfinished is deleted."
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as e:
            raise FeedbackError(
                f"{self.folder}: {e.strerror}; it must be a folder that may be written"
            ) from e
        if not os.access(self.folder, os.W_OK):
            raise FeedbackError(f"{self.folder}: may not be written; check its permissions")
        with ExitStack() as held:
            try:
                held.enter_context(folder_lock(self.folder, "backup", wait_s))
            except FileExistsError:
                raise FeedbackError(
                    f"{self.folder}: another backup has been at work for {wait_s} seconds; "
                    "try again when it has ended"
                ) from None
            for left in self.unfinished():
                with suppress(OSError):  # `Feedback.forget` names it
                    left.unlink()
            yield

    def unfinished(self) -> list[Path]:
        "Copies of a process that was killed, with SQLite's own files beside them."
        pattern = r"\..+-\d+(-journal|-wal|-shm)?"  # a hidden name and the number of the process
        return [path for path in sorted(self.folder.iterdir()) if re.fullmatch(pattern, path.name)]

    def logs(self) -> list[Path]:
        "Logs of SQLite that outlived their backup and are not empty."
        ends = ("-wal", "-journal")
        return [path for path in self.folder.iterdir() if path.name.endswith(ends) and path.stat().st_size]

    def new_file(self) -> Path:
        "Path of the next backup: dated, or just after the newest one where the clock was put back."
        name, there = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f"), self.files()
        if there and there[0].stem >= name:
            newest = re.match(r"(.*?)(?:~(\d+))?$", there[0].stem)
            name = f"{newest[1]}~{int(newest[2] or 0) + 1:06d}"
        return self.folder / f"{name}.db"

    def delete_old(self, keep: int) -> None:
        for old in self.files()[max(keep, 1) :]:
            for end in SIDE_FILES:
                old.with_name(old.name + end).unlink(missing_ok=True)

    def advice(self) -> str:
        "What to do about a damaged store."
        if not (there := self.files()):
            return "There is no backup beside it; `backup()` makes one"
        return f"The newest backup is {there[0]}; `restore({str(self.store)!r})` puts it in place"


def is_readable(path: Path) -> bool:
    "Is this a store of votes without damage?"
    address = path.resolve().as_posix().replace("?", "%3f").replace("#", "%23")
    try:
        with closing(sqlite3.connect(f"file:{address}?mode=ro", uri=True)) as db:
            check_schema(db, path, db.execute("PRAGMA user_version").fetchone()[0])
            return (
                db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
                and db.execute("SELECT count(*) FROM feedback").fetchone()[0] >= 0
            )
    except (sqlite3.Error, FeedbackError):
        return False
