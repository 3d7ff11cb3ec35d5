"""Checkpoints of a run: which are whole, which is the newest, and which may go.

Imports nothing of torch: a run is refused before anything heavy begins."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

from ftguide.engine.environment import processes
from ftguide.engine.files import folder_lock, write_atomic

WHOLE = "whole.json"  # the last file of a checkpoint: what decides the result of its run


def checkpoints(folder: str | Path) -> list[Path]:  # the newest first
    "The checkpoints in a folder, by their step."
    numbered = [p for p in Path(folder).glob("checkpoint-*") if p.name[11:].isdecimal()]
    return sorted(numbered, key=lambda p: -int(p.name[11:]))


def mark_whole(
    path: Path,  # of a checkpoint to which everything else has been written
    record: dict,  # what decides the result
) -> None:
    "Write the file that says a checkpoint is whole, and whose it is."
    write_atomic(path / WHOLE, json.dumps(record))


def make_room(
    folder: str | Path,
    limit: int | None,  # so many may lie there; None: any number
    best: str | None,  # folder of the best one
) -> None:
    "Before one more is written, delete what would go afterwards; the newest whole one and the best stay."
    if limit is None:
        return
    whole = [path for path in checkpoints(folder) if (path / WHOLE).exists()]
    for old in whole[1:]:
        if old.name != Path(best or "").name and len(checkpoints(folder)) >= limit:
            _delete(old)


def delete_old(
    folder: Path,
    limit: int | None,  # so many stay; None keeps all
    best: str | None,  # folder of the best one
) -> None:
    "Delete old checkpoints, by step and never by the clock; the newest and the best stay."
    found = checkpoints(folder)
    first = [p for p in found if p == found[0] or p.name == Path(best or "").name]
    rest = [p for p in found if p not in first]
    for old in [*first, *rest][max(limit, len(first)) :] if limit else ():
        _delete(old)


def _delete(checkpoint: Path) -> None:
    (checkpoint / WHOLE).unlink(missing_ok=True)  # first: half deleted, it must not look whole
    shutil.rmtree(checkpoint, ignore_errors=True)


def check_free(
    folder: str | Path | None,  # of the run; None when no checkpoint is kept
    resume: bool,  # go on from there?
):
    "ValueError or FileExistsError when a run may not begin, or not go on, in this folder."
    if not folder and resume:
        raise ValueError("resume=True needs output_dir, the folder of the run that is to go on")
    if folder and Path(folder).exists() and processes()[0] == 0:
        with folder_lock(folder):
            pass
    found = checkpoints(folder) if folder else []
    if found and not resume:
        raise FileExistsError(
            f"{folder} holds {found[0].name} of an earlier run; resume=True (--resume) goes on from it, "
            "another folder begins a new one"
        )


def last_checkpoint(
    folder: str | Path | None,  # of the run; None when no checkpoint is kept
    resume: bool,  # go on from there?
    record: dict,  # what decides the result, as written into WHOLE
) -> str | None:  # folder of the newest whole checkpoint; None starts at the beginning
    """Where a run goes on.

    ValueError when the checkpoint belongs to another run; FileExistsError when a new run would overwrite it,
    or another is at work."""
    check_free(folder, resume)
    for path in checkpoints(folder) if folder else []:
        if (path / WHOLE).exists():
            _check_same_run(path, record)
            return str(path)
        warnings.warn(f"{path} was cut off while it was written, and is skipped", stacklevel=3)
    return None


def _check_same_run(path: Path, record: dict) -> None:
    made = _read_record(path)
    names = [*record, *(name for name in made if name not in record)]
    other = [
        f"{name} was {made.get(name)} and is {record.get(name)}"
        for name in names
        if made.get(name) != record.get(name)
    ]
    if other:
        more = f"; and {len(other) - 3} more" if len(other) > 3 else ""
        raise ValueError(
            f"{path} belongs to another run ({'; '.join(other[:3])}{more}); call with the same settings, "
            "or choose another output_dir"
        )


def _read_record(path: Path) -> dict:
    try:
        made = json.loads((path / WHOLE).read_text(encoding="utf-8"))
    except ValueError as e:
        made = e
    if not isinstance(made, dict):
        raise ValueError(f"{path / WHOLE} is damaged; delete {path}, and the checkpoint before it is used")
    return made
