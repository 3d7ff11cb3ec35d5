"Tables as spreadsheets write them, and files that are something else than their name says."

import csv
import io

import pytest

from ftguide.data import check
from ftguide.engine.formats import DataError
from ftguide.engine.rows import read

ROWS = [
    dict(prompt="Qual é o preço do café?", completion="O café custa 12,50 reais."),
    dict(prompt="O que é um “índice”?", completion='Uma lista; serve para achar.\nDuas linhas, ou "mais".'),
]


def table(separator: str, names=("prompt", "completion"), end="\r\n") -> str:
    f = io.StringIO(newline="")
    w = csv.writer(f, delimiter=separator, lineterminator=end)
    w.writerow(names)
    w.writerows(r.values() for r in ROWS)
    return f.getvalue()


SHEETS = {
    "semicolons and a byte order mark": table(";").encode("utf-8-sig"),
    "commas": table(",").encode(),
    "tabs": table("\t").encode(),
    "bars": table("|").encode(),
    "UTF-16 with tabs, as Excel's Unicode text": table("\t").encode("utf-16"),
    "old Mac line ends": table(";", end="\r").encode(),
    "a line that names the separator": b"sep=;\r\n" + table(";").encode(),
    "capitals and spaces in the header": table(";", (" Prompt", "COMPLETION ")).encode("utf-8-sig"),
    "empty rows at the end": (table(";") + ";\r\n;\r\n\r\n").encode(),
    "empty columns on the right": "".join(
        f"{line};;\r\n" for line in ("prompt;completion", f"{ROWS[0]['prompt']};{ROWS[0]['completion']}")
    ).encode(),
}


@pytest.mark.parametrize("name", SHEETS)
def test_a_table_from_a_spreadsheet(tmp_path, name):
    file = tmp_path / "rows.csv"
    file.write_bytes(SHEETS[name])
    assert read(file) == (ROWS[:1] if "columns" in name else ROWS)


def test_a_table_named_tsv(tmp_path):
    (tmp_path / "rows.tsv").write_bytes(SHEETS["tabs"])
    assert read(tmp_path / "rows.tsv") == ROWS


@pytest.mark.parametrize(
    "name, data, says",
    [
        ("a.xlsx", b"PK\x03\x04", "'.xlsx'; .*in a spreadsheet choose Save as, CSV UTF-8"),
        ("a.csv", b"PK\x03\x04" + b"\0" * 40, "not text but a spreadsheet"),
        (
            "a.csv",
            table(";").replace("“", "").replace("”", "").encode("latin-1"),
            r"not UTF-8 text \(byte 2\d\); save it as UTF-8 \(in a spreadsheet",
        ),
        ("a.txt", table("\t").encode(), "a table is named .csv"),
        ("a.jsonl.gz", b"\x1f\x8b", "unpack it first"),
        ("a.csv", b'prompt;completion\r\n"Which?;This.\r\nHow?;So.\r\n', "row 1: the quotes do not match"),
        ("a.csv", b'prompt;completion\r\n"Which" one?;This.\r\n', "row 1: the quotes do not match"),
        ("a.csv", b"prompt,completion\r\nHow much?,12,50\r\n", "row 1: more fields than the header"),
        (
            "a.csv",
            b"prompt,completion,\r\nHow much?,12,50\r\n",
            "row 1: column 3 has no name.*name it, or remove it",
        ),
        ("a.jsonl", b'[\n{"prompt": "a", "completion": "b"}\n]\n', "one list is named .json"),
        (
            "a.json",
            b'{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n',
            "one object a line it is named .jsonl",
        ),
    ],
)
def test_a_file_that_is_something_else(tmp_path, name, data, says):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=says) as e:
        read(tmp_path / name)
    assert "\n" not in str(e.value)


def test_one_row_with_wrong_quotes_does_not_hide_the_others(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(
        b'prompt;completion\r\n"Which" one?;This.\r\n'
        + b"".join(b"What is number %d?;It is the number %d.\r\n" % (i, i) for i in range(9))
    )
    found = check(file)
    assert found.n == 10 and found["unusable rows"].rows == [0]
