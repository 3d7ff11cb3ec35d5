"The model card of a deployed version, and fingerprints of what it was trained on."

# Programs read the first lines of a card, YAML between two lines of dashes, for licence, base model and
# measured numbers. The data itself does not belong in the folder; its fingerprint does, so that two people
# can find out whether they mean the same file.

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from ftguide.engine.formats import DataError, addressed_rows
from ftguide.engine.tables import markdown
from ftguide.evaluation import Report
from ftguide.models import LM

BLOCK = 2**20  # bytes of a file read at once


def data_fingerprints(
    data,  # rows or a file; a list of files; or a dict of name -> rows or file. None = not stated
) -> list[dict]:  # name, rows, sha256: of a file's bytes, or of the rows as sorted JSON lines
    "What a model was trained on, without saying it; DataError for a file that cannot be read."
    if data is None:
        return []
    if isinstance(data, (str, Path)):
        data = [data]
    if not isinstance(data, dict):
        files = isinstance(data, (list, tuple)) and all(isinstance(x, (str, Path)) for x in data)
        data = _files_by_name(data) if files else {"rows": data}
    return [dict(name=name, **_fingerprint(source)) for name, source in data.items()]


def _files_by_name(files: list[str | Path]) -> dict[str, str | Path]:
    """Files by name; where names are the same, by as much of the path as tells them apart.

    One given twice is one."""
    paths = {Path(os.path.abspath(f)).parts[1:]: f for f in files}  # without the root
    return {"/".join(_shortest_end(parts, list(paths))): file for parts, file in paths.items()}


def _shortest_end(parts: tuple[str, ...], others: list[tuple[str, ...]]) -> tuple[str, ...]:
    "The last parts of a path, as few as no other path ends in."
    for length in range(1, len(parts)):
        end = parts[-length:]
        if sum(other[-length:] == end for other in others) == 1:
            return end
    return parts


def _fingerprint(source) -> dict:  # rows, sha256
    digest, rows = hashlib.sha256(), 0
    is_file = isinstance(source, (str, Path)) and Path(source).is_file()
    for _, row in addressed_rows(source):
        if isinstance(row, DataError):
            raise row
        if not is_file:
            line = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str) + "\n"
            digest.update(line.encode("utf-8", "backslashreplace"))
        rows += 1
    if is_file:
        with open(source, "rb") as f:
            while block := f.read(BLOCK):
                digest.update(block)
    return dict(rows=rows, sha256=digest.hexdigest())


def model_card(
    lm: LM,  # that was measured
    report: Report,  # its measurement
    rules: list[str],  # of the gate it had to pass; `Gate.rules`
    data: list[dict] = (),  # of `data_fingerprints`
    license: str = "",  # as the hub writes it, such as apache-2.0
    base: str = "",  # what it was made from; a hub name or anything else
) -> str:  # YAML and Markdown
    "The model card of a deployed version: what it is, what was measured, and what was asked."
    origin = [
        f"{lm.parameters:,} parameters.",
        f"Made from {base}." if base else "",
        f"Licence: {license}." if license else "No licence was stated; ask before you pass it on.",
    ]
    parts = [
        f"---\n{_front_matter(lm, report, license, base)}\n---",
        f"# {lm.name}",
        " ".join(filter(None, origin)),
        "## What was measured",
        "Shares are followed by their 95 % interval.",
        markdown([report]),
    ]
    if report.against:
        ratios = [f"- {metric}: {score}" for metric, score in report.against.items()]
        parts += ["Ratio to the model it was compared with:", "\n".join(ratios)]
    if rules:
        parts += ["It was deployed because it met this gate:", "\n".join(f"- {rule}" for rule in rules)]
    if data:
        rows = [f"| {d['name']} | {d['rows']:,} | `{d['sha256']}` |" for d in data]
        table = "\n".join(["| data | rows | SHA-256 |", "| --- | --- | --- |", *rows])
        parts += ["## What it was trained on", table]
    return "\n\n".join(parts) + "\n"


def _front_matter(lm: LM, report: Report, license: str, base: str) -> str:  # YAML as the hub reads it
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="private",
            dataset_name=f"test rows {report.test or 'unknown'}",
            metric_type=metric.replace(" ", "-").replace(",", ""),
            metric_name=metric,
            metric_value=round(score.value, 4),
        )
        for metric, score in report.scores.items()
        if math.isfinite(score.value)
    ]
    is_hub_name = re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).exists()
    about = ModelCardData(
        license=license or None,
        base_model=base if is_hub_name else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["ftguide"],
        **(dict(model_name=lm.name, eval_results=results) if results else {}),
    )
    return about.to_yaml().strip()
