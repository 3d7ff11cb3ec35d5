"A folder of numbered versions of a model, one of them in service, none of them half written."

# A version is a folder `v1`, `v2`, … that holds config, weights, report and the record of its deployment. It
# is written under a hidden name and renamed when it is whole. `current` is a link to the version in service,
# turned in one step; where there are no links, it is a text file with the version's name.

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

from safetensors import SafetensorError

from ftguide.engine.files import file_lock, read_json

RECORD = "deployment.json"  # gate, data, and which version this one replaced
PARTS = ("config.json", "report.json", RECORD)  # of a whole version, beside its weights
NAME_A_VERSION = "name a version with to= (--to)"


def versions(folder: str | Path) -> list[str]:  # "v1", "v2", …; empty when nothing was ever deployed
    "The complete versions in a folder, oldest first."
    numbered = sorted(filter(_number, Path(folder).glob("v*")), key=_number)
    return [path.name for path in numbered if _is_whole(path)]


def _number(path: Path) -> int:  # 0 when it is no version's name
    return int(path.name[1:]) if re.fullmatch(r"v[1-9]\d*", path.name) else 0


def _is_whole(version: Path) -> bool:
    "False for a copy that broke off: one of its files is missing."
    return all((version / part).is_file() for part in PARTS) and any(version.glob("*.safetensors"))


def current(folder: str | Path) -> Path:  # give it to `load`
    "Folder of the version in service; FileNotFoundError when there is none."
    name, there = _pointed_at(folder), versions(folder)
    if name in there:
        return Path(folder) / name
    if name is None:
        what, ways = f"nothing is deployed in {folder}: it has no link named 'current'", ""
    else:
        what = f"{Path(folder) / 'current'} names {name!r}, which is no complete version"
        ways = "; there are none"
    if there:
        ways = (
            f"; there are {', '.join(there)}, "
            "and `rollback` puts the one that you name with to= (--to) into service"
        )
    raise FileNotFoundError(what + ways)


def _pointed_at(folder: str | Path) -> str | None:  # None when there is no link
    "What the link says, whether there is such a version or not."
    pointer = Path(folder) / "current"
    if pointer.is_symlink():
        return os.readlink(pointer).rstrip("/")
    return pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else None


def _in_service(folder: Path) -> str | None:  # name of the version; None when there is none
    try:
        return current(folder).name
    except FileNotFoundError:
        return None


def _point(folder: Path, version: str) -> None:
    """Make a version the current one, in one step.

    A link cannot be changed, but a new one can be renamed over it."""
    aside = Path(tempfile.mkdtemp(prefix=".current-", dir=folder))
    try:
        try:
            os.symlink(version, aside / "link", target_is_directory=True)
        except (OSError, NotImplementedError):
            (aside / "link").write_text(version + "\n", encoding="utf-8")  # no links here
        os.replace(aside / "link", folder / "current")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def new_version(
    folder: Path,  # of all versions; made when it does not exist
) -> Iterator[Path]:  # an empty folder to write the version in; deleted at the end
    """A hidden folder to write a version in, which no other deployment sweeps away.

    On a full disk OSError of one line."""
    with _full_disk_in_one_line(folder), ExitStack() as held:
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(folder / ".lock"):
            _sweep(folder)
            aside = Path(tempfile.mkdtemp(prefix=".deploying-", dir=folder))
            held.callback(shutil.rmtree, aside, ignore_errors=True)
            held.enter_context(file_lock(aside / "lock"))  # before anybody else can sweep
        yield aside


def put_in_service(
    folder: Path,
    written: Path,  # a version written inside `new_version`, with its report
    record: dict,  # what RECORD is to keep beside the date and the version it replaces
) -> Path:  # its folder from now on
    "Give a written version its number, which is never used twice, and make it the current one."
    with file_lock(folder / ".lock"):
        _write_record(written, _in_service(folder), record)
        highest = max(map(_number, folder.iterdir()), default=0)
        version = written.rename(folder / f"v{highest + 1}")
        _point(folder, version.name)
        return version


def _write_record(written: Path, replaces: str | None, record: dict) -> None:
    "The last file of a version; all of them are on the disk before a name says so."
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = dict(replaces=replaces, deployed=now, **record)
    (written / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    for file in written.iterdir():
        with open(file, "rb") as f:
            os.fsync(f.fileno())


def _sweep(folder: Path) -> None:
    """Remove what crashed deployments left behind.

    What a living one is writing stays, because its lock is held."""
    for left in [*folder.glob(".deploying-*"), *folder.glob(".current-*")]:
        lock = left / "lock"
        try:
            with file_lock(lock, wait=False) if lock.exists() else nullcontext(True) as abandoned:
                if abandoned:
                    shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:
            pass  # its deployment has just ended and taken it away


@contextmanager
def _full_disk_in_one_line(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as e:
        full = getattr(e, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if not full and not re.search("No space|File too large|quota", str(e)):
            raise
        raise OSError(
            f"{folder}: no room on the disk for a new version; nothing was deployed, "
            f"and {_in_service(folder) or 'nothing'} is in service as before"
        ) from e


def rollback(
    folder: str | Path,
    to: str | None = None,  # a version's name; by default the one that the current version replaced
) -> Path:  # folder of the version that is current now
    "Put an earlier version back into service; ValueError when there is none. No version is deleted."
    folder = Path(folder)
    if not versions(folder):
        current(folder)  # which says that there is nothing
    with file_lock(folder / ".lock"):
        there = versions(folder)
        to = _replaced(folder, there) if to is None else to
        if to not in there:
            raise ValueError(f"{folder} has no complete version {to!r}; there are {', '.join(there)}")
        _point(folder, to)
        return folder / to


def _replaced(folder: Path, there: list[str]) -> str:
    "What the version in service replaced; its record says so, also where its weights are gone."
    if (name := _pointed_at(folder)) is None:
        current(folder)  # which says that there is no link
    record = folder / name / RECORD
    try:
        replaced = read_json(record)["replaces"]
    except (OSError, ValueError, KeyError, TypeError):
        if name not in there:
            current(folder)  # which says that the link leads nowhere
        raise ValueError(
            f"{record} does not say what {name} replaced; {NAME_A_VERSION}: {', '.join(there)}"
        ) from None
    if replaced is None:
        raise ValueError(
            f"{name} replaced nothing, so there is no way back from it; {NAME_A_VERSION}: {', '.join(there)}"
        )
    return replaced
