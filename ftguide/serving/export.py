"Votes written to a file for others: without raters' names, and not with personal data that nobody noticed."

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ftguide.engine.files import write_atomic
from ftguide.engine.personal_data import personal_data
from ftguide.serving.errors import FeedbackError

FORMATS = (".jsonl", ".parquet")


def export_votes(
    rows: list[dict],  # of `Feedback.rows`
    path: str | Path,  # .jsonl or .parquet; FileExistsError when it exists
    personal: str,  # rows with personal data: "refuse" to export, "mask" it, or "keep" it
    raters: bool,  # write the raters' names? Otherwise "rater 1", "rater 2", …
) -> Path:
    "Write votes to a file, whole or not at all."
    path = Path(path)
    if path.suffix not in FORMATS:
        raise FeedbackError(f"{path}: unknown format {path.suffix!r}; there are {', '.join(FORMATS)}")
    if personal not in ("refuse", "mask", "keep"):
        raise FeedbackError(f"personal must be refuse, mask or keep, not {personal!r}")
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another file")
    rows = [{name: value for name, value in row.items() if name != "key"} for row in rows]
    if not raters:
        rows = _with_numbered_raters(rows)
    if personal != "keep":
        rows = _without_personal_data(rows, refuse=personal == "refuse")
    write = _write_jsonl if path.suffix == ".jsonl" else _write_parquet
    try:
        write_atomic(path, lambda aside: write(rows, aside))
    except OSError as e:
        raise FeedbackError(f"{path}: not written ({e.strerror or e}); the store is as it was") from e
    return path


def _with_numbered_raters(rows: list[dict]) -> list[dict]:
    names = {}
    for row in rows:
        if row["rater"]:
            names.setdefault(row["rater"], f"rater {len(names) + 1}")
    return [{**row, "rater": names.get(row["rater"], "")} for row in rows]


def _without_personal_data(rows: list[dict], refuse: bool) -> list[dict]:
    "Rows with personal data masked; FeedbackError where they are refused."
    kinds, where, clean = Counter(), [], []
    for row in rows:
        texts = [value for name, value in row.items() if isinstance(value, str) and name != "time"]
        found = [item for text in texts for item in personal_data(text)]
        if found:
            where.append(row["id"])
            kinds.update(kind for kind, _ in found)
        clean.append(_masked(row, found))
    if where and refuse:
        counts = ", ".join(f"{kind}: {n}" for kind, n in kinds.most_common())
        some = ", ".join(map(str, where[:5])) + (" …" if len(where) > 5 else "")
        raise FeedbackError(
            f"rows with personal data: {len(where)} ({counts}; row {some}); nothing was exported. "
            'Use personal="mask" to replace it, or "keep"'
        )
    return clean


def _masked(row: dict, found: list[tuple[str, str]]) -> dict:
    for kind, said in found:
        row = {
            name: value.replace(said, f"[{kind}]") if isinstance(value, str) else value
            for name, value in row.items()
        }
    return row


def _write_jsonl(rows: list[dict], path: Path) -> None:
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_parquet(rows: list[dict], path: Path) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row)) or ["id"]
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in columns}), path)
