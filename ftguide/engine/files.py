"""Files that other processes see whole or not at all, locks that end with their process, and fingerprints.

Imports nothing of the package.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import lock_descriptor, unlock_descriptor

MOST_JSON_BYTES = 2**28  # of a report with the answers to every row of a large test


def write_atomic(
    path: str | Path,
    content: str | bytes | Callable[[Path], object],  # UTF-8 text, bytes, or a function that writes a path
) -> None:
    "Write a file that appears when it is complete; until then, or on a full disk, what was there stays."
    path = Path(path)
    aside = path.with_name(f".{path.name[:200]}-{os.getpid()}")
    try:
        if callable(content):
            content(aside)
        elif isinstance(content, bytes):
            aside.write_bytes(content)
        else:
            aside.write_text(content, encoding="utf-8")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read_json(
    path: str | Path,
) -> Any:  # its content
    "A JSON file of this guide; ValueError in one line for what is none, or is made to do harm."
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is not a file")
    if path.stat().st_size > MOST_JSON_BYTES:
        raise ValueError(f"{path}: is larger than the {MOST_JSON_BYTES:,} bytes that are read")
    try:
        return strict_json(path.read_bytes())
    except (ValueError, RecursionError) as e:
        why = "it is nested too deeply" if isinstance(e, RecursionError) else str(e).splitlines()[0][:200]
        raise ValueError(f"{path}: is not JSON that can be read ({why})") from None


def strict_json(content: str | bytes) -> Any:
    "JSON as it is defined: no NaN, no Infinity, no number that becomes one. ValueError or RecursionError."
    return json.loads(content, parse_constant=_no_number, parse_float=_finite)


def _no_number(name: str) -> float:
    raise ValueError(f"{name[:40]} is not a finite number")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _no_number(digits)


@contextmanager
def folder_lock(
    folder: str | Path,  # made when it does not exist
    what: str = "training",  # as the error names it
    wait_s: float = 0,  # seconds until the error
) -> Iterator[None]:
    """Hold a lock on a folder that ends with the process; FileExistsError when another process holds it.

    The lock is on the folder itself and leaves no file in it. A system without locks holds nothing."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        if os.name != "nt":
            raise
        yield  # Windows opens no folders
        return
    try:
        if not _acquired(descriptor, wait_s):
            raise FileExistsError(
                f"another {what} is at work in {folder}; wait until it ends, or choose another folder"
            )
        yield
    finally:
        with suppress(OSError):
            unlock_descriptor(descriptor)  # also where a child process has inherited it
        os.close(descriptor)


def _acquired(descriptor: int, wait_s: float) -> bool:
    "Is the lock ours, after some waiting? True too on a file system without locks, which ends no training."
    end = time.monotonic() + wait_s
    try:
        while not lock_descriptor(descriptor, blocking=False):
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)
    except OSError:  # no locks here
        pass
    return True


@contextmanager
def file_lock(
    file: str | Path,  # made when it does not exist
    wait: bool = True,  # until another process lets go? Otherwise the answer may be False
) -> Iterator[bool]:  # is the lock held?
    "Hold a lock on a file; it ends with the process, and the file stays."
    with open(file, "a") as opened:
        try:
            held = lock_descriptor(opened.fileno(), blocking=wait)
        except OSError as e:
            if e.errno != errno.ENOSYS:
                raise
            held = True  # a system without locks
        yield held


def fingerprint(
    rows: Iterable,  # anything JSON can write
) -> str:  # 16 hexadecimal digits
    "The same rows in the same order give the same digits."
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()[:16]
