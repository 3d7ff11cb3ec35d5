"The rating sheet for people: a page that works offline, the same rows as CSV, and reading what raters chose."

from __future__ import annotations

import csv
import hashlib
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from ftguide.engine.formats import DataError, read_csv

CHOICES = {"left": "left", "tie": "no difference", "right": "right"}  # column `better` -> text on the page


def write_sheet(
    items: list[dict],  # of each row: id, prompt, left, right, all text
    folder: Path,  # exists; gets sheet.html and sheet.csv
) -> Path:  # of the page
    "Write the rows for raters; nothing in it says which model is which."
    digest = hashlib.sha256("".join(item["id"] for item in items).encode()).hexdigest()[:12]
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    text = templates.get_template("sheet.html").render(sheet=digest, items=items, choices=CHOICES)
    page = folder / "sheet.html"
    page.write_text(text, encoding="utf-8")
    shown = ("prompt", "left", "right")
    with open(folder / "sheet.csv", "w", encoding="utf-8-sig", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", *shown, "better", "comment"])
        table.writerows([item["id"], *(_no_formula(item[name]) for name in shown), "", ""] for item in items)
    return page


def _no_formula(text: str) -> str:
    "A spreadsheet must not take a text for a formula."
    return "'" + text if re.match(r"[=+@\t\r-]", text) else text


def read_choices(
    path: str | Path,  # the CSV that a rater saved or filled in
    ids: set[str] | dict,  # of the sheet's rows
) -> dict[str, str]:  # id -> left, right or tie; only answered rows
    "One rater's choices; DataError names a row that is not of this sheet, or not readable."
    if not Path(path).is_file():
        raise DataError(f"no file {path}")
    found = {}
    for where, row in read_csv(Path(path)):
        if isinstance(row, DataError):
            raise row
        if "id" not in row or "better" not in row:
            raise DataError(f"{where}: columns found: {', '.join(map(str, row))}; expected: id, better")
        choice = (row["better"] or "").strip().lower()
        if row["id"] not in ids:
            raise DataError(
                f"{where}: row {row['id']!r} is not in the key; does the key belong to another sheet?"
            )
        if choice and choice not in CHOICES:
            raise DataError(f"{where}: better must be left, right or tie, not {choice!r}")
        if row["id"] in found:
            raise DataError(f"{where}: row {row['id']!r} is answered twice")
        if choice:
            found[row["id"]] = choice
    return found
