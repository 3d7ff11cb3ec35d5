"What the monthly loop keeps on disk: which votes are used, and a month that was cut off."

# The state lies beside the versions. The pairs of a month are written down before training begins, in a
# hidden folder with its checkpoints, so that the same call goes on with the same pairs even when new votes
# have come in between.

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ftguide.engine.files import file_lock, fingerprint, read_json, write_atomic
from ftguide.serving.versions import versions

STATE = "improve.json"  # beside the versions


@dataclass
class LoopState:
    "What the months before have used and measured."

    holdout: str | None = None  # fingerprint of the hold-out
    rows: int = 0  # of the hold-out
    used: dict = field(default_factory=lambda: dict(id=0, time=""))  # the last vote that a month has used
    tried: str | None = None  # fingerprint of pairs that were tried in vain
    measured: dict | None = None  # how the report beside the version in service was measured on the hold-out
    months: list[dict] = field(default_factory=list)  # every month's outcome

    @classmethod
    def read(cls, folder: Path) -> LoopState:
        "ValueError when the file is damaged."
        try:
            kept = read_json(folder / STATE)
            return cls(**{**asdict(cls()), **kept})
        except FileNotFoundError:
            return cls()
        except (ValueError, TypeError) as e:
            raise ValueError(
                f"{folder / STATE} is damaged ({e}); put a backup in its place, or delete it: "
                "then all votes count as new and the hold-out may be another"
            ) from e

    def save(self, folder: Path) -> None:
        _write_json(folder / STATE, asdict(self))

    def freeze(self, rows: list[dict], new_holdout: bool) -> None:
        "Freeze the hold-out at the first call that waits or trains; ValueError when it is another one later."
        now = fingerprint(rows)
        if self.holdout not in (None, now) and not new_holdout:
            raise ValueError(
                f"the hold-out is not the one of the months before ({len(rows)} rows, fingerprint {now}; "
                f"it was {self.rows} rows, {self.holdout}): give the same rows, or say new_holdout=True "
                "(--new-holdout) to begin with these"
            )
        if self.holdout != now:
            self.holdout, self.rows, self.tried = now, len(rows), None


class MonthFolder:
    "Pairs and checkpoints of one month, deleted at its end."

    def __init__(
        self,
        folder: Path,  # of the versions
        output_dir: str | Path | None,  # where to work; beside the versions by default
    ):
        if output_dir is None:
            self.path = folder / ".improving"
        else:  # a folder of our own, also in one that somebody else uses
            self.path = Path(output_dir) / f".improving-{fingerprint([str(folder.resolve())])[:8]}"
        self.folder = folder
        self.checkpoints = self.path / "checkpoints"

    def begun(
        self,
        asked: dict,  # what the call asks for
        resume: bool,
    ) -> tuple[dict | None, str]:  # pairs, dropped, seen of that month, or None; why it does not go on
        "What an interrupted call left, if it was to make the same pairs."
        if not resume:
            self.delete()
        try:
            month = read_json(self.path / "month.json")
        except (FileNotFoundError, ValueError):
            return None, ""
        if not isinstance(month, dict) or not isinstance(month.get("asked", {}), dict):
            return None, ""
        was = month.get("asked", {})
        if was == asked:
            return month, ""
        other = [f"{k} was {was[k]}, is {v}" for k, v in asked.items() if k != "votes" and was.get(k, v) != v]
        return None, ", ".join(other)

    def begin(self, month: dict) -> None:
        self.delete()
        self.path.mkdir(parents=True, exist_ok=True)
        _write_json(self.path / "month.json", month)

    def delete(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def close(self, state: LoopState, line: dict) -> None:
        "End the month: its outcome is kept, and its folder is not needed any more."
        state.months.append(dict(time=time.strftime("%Y-%m-%d %H:%M"), **line))
        state.save(self.folder)
        self.delete()

    def close_after_crash(self, state: LoopState) -> None:
        """End a month whose call was cut off between `deploy` and its last line.

        The votes of the version that it deployed are used, whether that one still serves or not."""
        try:
            report = (self.path / "report.json").read_text(encoding="utf-8")
            month = read_json(self.path / "month.json")
        except FileNotFoundError:
            return
        for name in versions(self.folder):
            if (self.folder / name / "report.json").read_text(encoding="utf-8") == report:
                state.used, state.tried = month["seen"], None
                self.close(state, dict(outcome="deployed", after=name))
                return


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    "A lock that ends with the process; ValueError when another process holds it."
    with file_lock(folder / ".improving.lock", wait=False) as mine:
        if not mine:
            raise ValueError(f"another `improve` is at work in {folder}; wait for it to end")
        yield


def _write_json(path: Path, content: dict) -> None:
    write_atomic(path, json.dumps(content, ensure_ascii=False, indent=1))
