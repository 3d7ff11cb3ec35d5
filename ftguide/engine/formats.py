"""The files that rows come in (JSON lines, JSON, tables, Parquet, the hub), each row with its address."""

from __future__ import annotations

import csv
import json
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from glob import glob
from itertools import chain, zip_longest
from pathlib import Path

import pyarrow.parquet

from ftguide.engine.environment import hub_is_off, quiet_libraries

KINDS = {  # kind of data -> the alternatives of columns it may have
    "sft": (("prompt", "completion"), ("messages",)),
    "pairs": (("prompt", "chosen", "rejected"),),
    "corpus": (("prompt",), ("text",)),
}
ALIASES = {"instruction": "prompt", "input": "prompt", "output": "completion"}  # Alpaca's and others' names
COLUMN_NAMES = {name for shapes in KINDS.values() for shape in shapes for name in shape} | ALIASES.keys()

HOW_TO_SAVE = "in a spreadsheet choose Save as, CSV UTF-8"
AS_JSON_LINES = 'one {"text": ...} a line makes it a corpus, named .jsonl'
OTHER_FORMATS = {  # suffix that cannot be read -> what to do
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".numbers"), HOW_TO_SAVE),
    **dict.fromkeys((".gz", ".zip", ".bz2", ".zst", ".xz", ".tar", ".tgz"), "unpack it first"),
    ".txt": f"{AS_JSON_LINES}; a table is named .csv, with commas, semicolons or tabs",
    **dict.fromkeys((".md", ".html", ".xml", ".pdf", ".docx", ".doc"), AS_JSON_LINES),
    **dict.fromkeys((".gguf", ".safetensors", ".bin", ".pt"), "it holds a model, and rows are asked for"),
    ".arrow": "give the folder that save_to_disk wrote",
}


class DataError(ValueError):
    "Data that cannot be used; the message says which file and row, and what to do."

    def __init__(self, message: str = ""):
        one_line = " ".join(str(message).splitlines())  # one line, whatever the data holds
        super().__init__(one_line.encode("utf-8", "backslashreplace").decode())


# A reader yields (where, row). A row that cannot be read is the DataError that says why: the caller decides.
Addressed = tuple[str, "dict | DataError"]
Source = str | Path | Iterable[dict]  # a file, a name on the hub, a list of dicts, a datasets.Dataset


def read_jsonl(path: Path) -> Iterator[Addressed]:
    "One JSON object a line; a line that is none does not end the reading."
    expected = 'Each line must be one object such as {"prompt": ...}'
    with open(path, "rb") as f:
        for n, line in enumerate(f, 1):
            where = f"{path}, line {n}"
            try:
                text = line.decode("utf-8-sig" if n == 1 else "utf-8").strip()
            except UnicodeDecodeError as e:
                problem = f"not UTF-8 text (byte {e.start} of the line); save the file as UTF-8"
                yield where, DataError(f"{where}: {problem}")
                continue
            if text in ("{", "["):
                yield where, _parsed(text, where, expected + "; a file that holds one list is named .json")
            elif text:
                yield where, _parsed(text, where, expected)


def read_json(path: Path) -> Iterator[Addressed]:
    "One list of JSON objects, read whole."
    expected = "The file must hold one list of objects; with one object a line it is named .jsonl"
    rows = _parsed(path.read_text(encoding="utf-8-sig"), str(path), expected)
    if isinstance(rows, DataError):
        raise rows
    if not isinstance(rows, list):
        raise DataError(f"{path}: the file must hold a list of objects, not {type(rows).__name__}")
    for n, row in enumerate(rows, 1):
        yield f"{path}, row {n}", row


def _parsed(text: str, where: str, expected: str):
    "The JSON value, or the DataError that says why there is none."
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        return DataError(f"{where}: not valid JSON (nested too deeply). {expected}")
    except ValueError as e:
        line = f", line {e.lineno}" if getattr(e, "lineno", 1) > 1 else ""
        return DataError(f"{where}{line}: not valid JSON ({getattr(e, 'msg', e)}). {expected}")


def _object(pairs: list[tuple]) -> dict:
    "A JSON object; ValueError when a key stands in it twice, because one of the two values would be lost."
    row = dict(pairs)
    if len(row) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"key {str(key)[:40]!r} appears twice")
    return row


def read_csv(path: Path) -> Iterator[Addressed]:
    """A table as a spreadsheet writes it, with commas, semicolons, tabs or bars, in UTF-8 or UTF-16.

    A first column without a name that numbers the rows, as pandas and R write it, is left out with a word."""
    csv.field_size_limit(2**31 - 1)
    with open(path, encoding=_encoding(path), newline="") as f:
        header = f.readline()
        named = re.fullmatch(r"sep=(.)\s*", header)  # Excel's way to name the separator
        if named:
            header = f.readline()
        separator = named[1] if named else max(",;\t|", key=header.count)
        records = csv.reader(chain((header,), f), delimiter=separator, strict=True)
        names = [_column_name(written) for written in next(records, [])]
        _refuse_repeated(path, filter(None, names))
        n, numbered = 0, False
        for fields in _records(records):
            if not fields:
                continue
            n += 1
            where = f"{path}, row {n}"
            if isinstance(fields, csv.Error):
                yield where, _unmatched_quotes(where, fields)
            elif any(map(str.strip, fields)):  # a spreadsheet writes empty rows as separators
                if _is_numbered(names, fields):
                    if not numbered:
                        _warn_of_index(path)
                    numbered, fields = True, ["", *fields[1:]]
                yield where, _record(where, names, fields)


def _encoding(path: Path) -> str:
    "Excel writes UTF-16 as well, and says so in the first two bytes."
    with open(path, "rb") as f:
        begins = f.read(4)
    if begins in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0"):
        raise DataError(f"{path}: not text but a spreadsheet or an archive; {HOW_TO_SAVE}")
    return "utf-16" if begins[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _column_name(written: str) -> str:
    "A column's name; one that we know is recognised in capitals and with spaces around it."
    name = written.strip()
    return name.lower() if name.lower() in COLUMN_NAMES else name


def _records(records: Iterator[list]) -> Iterator[list | csv.Error]:
    "The fields of each record; a csv.Error where they cannot be told apart."
    while True:
        try:
            yield next(records)
        except StopIteration:
            return
        except csv.Error as e:
            yield e


def _unmatched_quotes(where: str, error: csv.Error) -> DataError:
    return DataError(
        f"{where}: the quotes do not match ({error}); "
        "a quote that opens a field must close it, and one inside a field is written twice"
    )


def _is_numbered(names: list[str], fields: list[str]) -> bool:
    "Is the first column an index: no name above it, a number in it?"
    return len(names) > 1 and not names[0] and fields[0].strip().isdecimal()


def _warn_of_index(path: Path):
    warnings.warn(
        f"{path}: the first column has no name and numbers the rows (pandas writes none with "
        "to_csv(index=False)); it is left out",
        stacklevel=2,
    )


def _record(where: str, names: list[str], fields: list[str]) -> dict | DataError:
    "Fields by their columns; columns without a name are left out when nothing stands in them."
    if any(map(str.strip, fields[len(names) :])):
        return DataError(
            f"{where}: more fields than the header has columns; "
            "quote text that holds the separator, and name every column"
        )
    for n, (name, field) in enumerate(zip(names, fields), 1):
        if not name and field.strip():
            return DataError(
                f"{where}: column {n} has no name and holds {field.strip()[:40]!r}; name it, or remove it"
            )
    return {name: field for name, field in zip_longest(names, fields[: len(names)]) if name}


def _refuse_repeated(source: Path | str, columns: Iterable[str]):
    "DataError when two columns have one name."
    twice = [column for column, n in Counter(columns).items() if n > 1]
    if twice:
        raise DataError(f"{source}: column {str(twice[0])[:40]!r} appears twice; rename or remove one")


def read_parquet(path: Path) -> Iterator[Addressed]:
    "A Parquet file, a thousand rows at a time."
    table = pyarrow.parquet.ParquetFile(path)
    _refuse_repeated(path, table.schema_arrow.names)
    rows = (row for batch in table.iter_batches(1024) for row in batch.to_pylist())
    for n, row in enumerate(rows, 1):
        yield f"{path}, row {n}", row


READERS: dict[str, Callable[[Path], Iterator[Addressed]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
}


def read_hub(name: str) -> Iterator[Addressed]:
    "Rows of a data set of the hub: owner/name, or owner/name:split."
    import datasets  # half a second that no file needs

    repository, _, part = name.partition(":")
    quiet_libraries()
    offline = hub_is_off()
    if not offline:
        saying = f"{name} is no file: asking the hub for it, which can take half a minute to say no"
        print(saying, file=sys.stderr, flush=True)
    try:
        data = datasets.load_dataset(repository, split=part or "train")
    except Exception as e:
        why = first_line(e)[:200]
        if offline:
            why = "the hub is switched off by HF_HUB_OFFLINE, and the local cache has none"
        raise DataError(f"no file {name}, and no data set of that name: {why}") from e
    _refuse_repeated(name, data.column_names)
    for n, row in enumerate(data, 1):
        yield f"{name}, row {n}", row


def first_line(error: Exception) -> str:
    "What an error of a library says, without the pages that may follow."
    return next(iter(str(error).splitlines()), type(error).__name__)


def addressed_rows(
    source: Source,
) -> Iterator[Addressed]:
    "Every row with its address; a row that cannot be read is a DataError."
    if isinstance(source, (str, Path)):
        if _is_hub_name(source):
            yield from read_hub(source)
            return
        for path in files_of(source):
            yield from read_folder(path) if _is(path, Path.is_dir) else read_file(path)
        return
    if isinstance(source, dict):
        what = f"a {type(source).__name__}; pass one split, such as data['train'], or a list of objects"
        raise DataError(f"expected rows, found {what}")
    if hasattr(source, "to_records"):
        raise DataError(f"expected rows, found a {type(source).__name__}; pass data.to_dict('records')")
    if not hasattr(source, "__iter__"):
        raise DataError(f"expected a list of objects, a Dataset or a file, found {type(source).__name__}")
    for n, row in enumerate(source, 1):
        yield f"row {n}", row


def _is_hub_name(source: str | Path) -> bool:
    "A name with one slash, of no folder and no format of ours."
    if not isinstance(source, str) or not re.fullmatch(r"\w[\w.-]*/[\w.-]+(:\w+)?", source):
        return False
    path = Path(source)
    return path.suffix.lower() not in READERS and not _is(path.parent, Path.exists)


def _is(path: Path, test: Callable[[Path], bool]) -> bool:
    try:
        return test(path)
    except (OSError, ValueError):
        return False  # a name too long, or with a zero byte


def files_of(
    source: str | Path,  # a file, a pattern such as data/*.jsonl, or a folder that `save_to_disk` wrote
) -> list[Path]:  # of a pattern its files in the order of their names; the folder itself
    "What a name stands for; DataError where it is an address, another folder, or nothing."
    path, name = Path(source), str(source)
    if address := re.match(r"([a-z][a-z0-9+.-]+):/+", name, re.I):
        said = f"{address[1]}://{name[address.end() :]}"[:200]
        raise DataError(f"{said} is an address; download it, and give the file's name")
    if _is(path, Path.is_dir):
        if not (path / SAVED).is_file():
            raise _is_a_folder(path)
    elif not _is(path, Path.is_file) and re.search(r"[*?[]", name):
        found = _matching(name)
        if not found:
            raise DataError(f"no file matches {name[:200]}")
        return found
    return [path]


def _matching(pattern: str) -> list[Path]:
    "Files in the order of their names, part 2 before part 10."
    try:
        found = [path for path in glob(pattern, recursive=True) if Path(path).is_file()]
    except (OSError, ValueError):  # a name too long, or with a zero byte
        return []
    parts = lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
    return list(map(Path, sorted(found, key=parts)))


SAVED = "dataset_info.json"  # what `save_to_disk` of a Dataset writes beside its rows
SPLITS = "dataset_dict.json"  # of a DatasetDict


def _is_a_folder(path: Path) -> DataError:
    "What to give instead: a split, a file, or all files of a kind."
    if (path / SPLITS).is_file():
        splits = sorted(saved.parent.name for saved in path.glob(f"*/{SAVED}"))
        return DataError(f"{path} holds splits; give one of them: {_some(path, splits)}")
    try:
        files = sorted(file.name for file in path.iterdir() if file.suffix.lower() in READERS)
    except OSError as e:
        return DataError(f"{path} is a folder, and cannot be looked into: {first_line(e)}")
    if not files:
        return DataError(f"{path} is a folder without a file of rows ({', '.join(READERS)})")
    pattern = path / f"*{Path(files[0]).suffix}"
    return DataError(f"{path} is a folder; give a file, {_some(path, files)}, or a pattern, '{pattern}'")


def _some(folder: Path, names: list[str]) -> str:
    return ", ".join(str(folder / name) for name in names[:3]) + (" ..." if len(names) > 3 else "")


def read_folder(path: Path) -> Iterator[Addressed]:
    "What `save_to_disk` of a datasets.Dataset wrote."
    import datasets  # half a second that no file needs

    try:
        data = datasets.load_from_disk(str(path))
    except Exception as e:
        raise DataError(f"{path}: cannot be read as what save_to_disk writes: {first_line(e)}") from e
    _refuse_repeated(path, data.column_names)
    for n, row in enumerate(data, 1):
        yield f"{path}, row {n}", row


def read_file(path: Path) -> Iterator[Addressed]:
    "Rows of a file, by its suffix; whatever goes wrong is a DataError that says after which row."
    if not _is(path, Path.is_file):
        raise DataError(f"no file {str(path)[:200]}")
    suffix = path.suffix.lower()
    if suffix not in READERS:
        instead = f"; {OTHER_FORMATS[suffix]}" if suffix in OTHER_FORMATS else ""
        raise DataError(f"{path}: unknown format {path.suffix!r}; there are {', '.join(READERS)}{instead}")
    last = ""
    try:
        for where, row in READERS[suffix](path):
            yield where, row
            last = f" (after {where.rsplit(', ', 1)[-1]})"
    except DataError:
        raise
    except UnicodeDecodeError as e:
        how = f" ({HOW_TO_SAVE})" if READERS[suffix] is read_csv else ""
        raise DataError(f"{path}{last}: not UTF-8 text (byte {e.start}); save it as UTF-8{how}") from e
    except PermissionError as e:
        raise DataError(f"{path}: may not be read; check its permissions") from e
    except Exception as e:
        raise DataError(f"{path}{last}: cannot be read as {suffix[1:]}: {first_line(e)}") from e
