"Whatever stands in a file: rows with their address, or one typed error that says where."

import csv
import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_rows import FUZZ, HI, ROW, any_kind, any_rows, error

from ftguide.data import check
from ftguide.engine.formats import READERS, DataError
from ftguide.engine.rows import read, stream


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize(
    "name, data, says",
    [
        (
            "a.jsonl",
            '{"prompt": "a", "completion": "b", "prompt": "c"}',
            (
                "FILE, line 1: not valid JSON (key 'prompt' appears twice). Each line must "
                'be one object such as {"prompt": ...}'
            ),
        ),
        (
            "a.jsonl",
            '\n{"' + "k" * 50 + '": 1, "a": 2, "' + "k" * 50 + '": 1}',
            (
                f"FILE, line 2: not valid JSON (key '{'k' * 40}' appears twice). Each line "
                f'must be one object such as {{"prompt": ...}}'
            ),
        ),
        (
            "a.jsonl",
            json.dumps(HI) + "\n\n{1}",
            (
                "FILE, line 3: not valid JSON (Expecting property name enclosed in double "
                'quotes). Each line must be one object such as {"prompt": ...}'
            ),
        ),
        (
            "a.jsonl",
            "[" * 100_000,
            (
                "FILE, line 1: not valid JSON (nested too deeply). Each line must be one "
                'object such as {"prompt": ...}'
            ),
        ),
        (
            "a.jsonl",
            json.dumps(HI) + "\n\ufeff" + json.dumps(HI),
            (
                "FILE, line 2: not valid JSON (Unexpected UTF-8 BOM (decode using "
                'utf-8-sig)). Each line must be one object such as {"prompt": ...}'
            ),
        ),
        (
            "a.jsonl",
            b'{"a": 1}\n12345\xff',
            "FILE, line 1: columns found: a; expected: prompt, completion or messages",
        ),
        (
            "a.jsonl",
            json.dumps(HI).encode() + b"\n12345\xff",
            "FILE, line 2: not UTF-8 text (byte 5 of the line); save the file as UTF-8",
        ),
        (
            "a.json",
            '[\n{"a": }]',
            (
                "FILE, line 2: not valid JSON (Expecting value). The file must hold one list "
                "of objects; with one object a line it is named .jsonl"
            ),
        ),
        (
            "a.json",
            "{",
            (
                "FILE: not valid JSON (Expecting property name enclosed in double quotes). "
                "The file must hold one list of objects; with one object a line it is named "
                ".jsonl"
            ),
        ),
        ("a.json", '{"prompt": "a"}', "FILE: the file must hold a list of objects, not dict"),
        ("a.json", json.dumps([HI, 3]), "FILE, row 2: expected an object with columns, found int"),
        ("a.json", b'\xef\xbb\xbf["\xff"]', "FILE: not UTF-8 text (byte 2); save it as UTF-8"),
        (
            "a.csv",
            "prompt,completion,prompt\na,b,c\n",
            "FILE: column 'prompt' appears twice; rename or remove one",
        ),
        (
            "a.csv",
            f"{'c' * 50},{'c' * 50}\na,b\n",
            f"FILE: column '{'c' * 40}' appears twice; rename or remove one",
        ),
        (
            "a.csv",
            "prompt,completion\na,b\na,b,c\n",
            (
                "FILE, row 2: more fields than the header has columns; quote text that holds "
                "the separator, and name every column"
            ),
        ),
        (
            "a.csv",
            "prompt,completion\na\n",
            "FILE, row 1: column 'completion' is empty; fill it or remove the row",
        ),
        ("a.csv", "", "FILE: no rows"),
        (
            "a.parquet",
            "no parquet",
            (
                "FILE: cannot be read as parquet: Parquet magic bytes not found in footer. "
                "Either the file is corrupted or this is not a parquet file."
            ),
        ),
        (
            "a.txt",
            "a",
            (
                "FILE: unknown format '.txt'; there are .jsonl, .ndjson, .json, .csv, .tsv, .parquet; "
                'one {"text": ...} a line makes it a corpus, named .jsonl; '
                "a table is named .csv, with commas, semicolons or tabs"
            ),
        ),
    ],
)
def test_what_a_file_cannot_hold(name, data, says, tmp_path):
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    assert error(read, tmp_path / name) == says.replace("FILE", str(tmp_path / name))


def test_files_that_can_be_read(tmp_path):
    write = lambda name, data: ((tmp_path / name).write_bytes(data), tmp_path / name)[1]
    lines = json.dumps(HI).encode()
    assert read(write("a.JSONL", b"\xef\xbb\xbf" + lines + b"\r\n \n" + lines + b"\n")) == [HI, HI]
    assert read(write("a.json", b"\xef\xbb\xbf" + json.dumps([HI, HI]).encode())) == [HI, HI] and read(
        str(tmp_path / "a.json")
    ) == [HI, HI]
    assert read(write("a.json", '[{"prompt": "é", "completion": "ü"}]'.encode())) == [
        dict(prompt="é", completion="ü")
    ]
    for separator in ",;\t":
        assert read(write("a.csv", f"prompt{separator}completion\nhi{separator}yo\n".encode())) == [HI]
    assert read(write("a.csv", '\ufeffprompt;completion\n"a,b\r\nc";é\n'.encode())) == [
        dict(prompt="a,b\r\nc", completion="é")
    ]
    long = "x" * 200_000
    assert (
        read(write("a.csv", f"prompt,completion\n{long},b\n".encode())) == [dict(prompt=long, completion="b")]
        and csv.field_size_limit() == 2**31 - 1
    )


def test_parquet(tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table(dict(prompt=[str(i) for i in range(1500)], completion=["x"] * 1499 + [""])), file)
    assert error(read, file) == f"{file}, row 1500: column 'completion' is empty; fill it or remove the row"
    pq.write_table(pa.table(dict(prompt=["a", "b"], completion=["x", "y"])), file)
    assert read(file) == [dict(prompt="a", completion="x"), dict(prompt="b", completion="y")]
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, names=["prompt", "prompt"]), file)
    assert error(read, file) == f"{file}: column 'prompt' appears twice; rename or remove one"


def test_what_is_no_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []

    def hub(name):
        asked.append(name)
        yield from [("h, row 1", HI)]

    monkeypatch.setattr("ftguide.engine.formats.read_hub", hub)
    assert read("owner/name") == [HI] == read("o.w-n/na.me:split") and asked == [
        "owner/name",
        "o.w-n/na.me:split",
    ]
    from pathlib import Path

    for path, said in (
        (Path("owner/name"), "owner/name"),
        ("owner/name.CSV", "owner/name.CSV"),
        ("-owner/name", "-owner/name"),
        ("a/b/c", "a/b/c"),
        ("x" * 5000, "x" * 200),
        ("a\0b", "a\0b"),
    ):
        assert error(read, path) == f"no file {said}"
    (tmp_path / "owner").mkdir()
    assert error(read, "owner/name") == "no file owner/name" and len(asked) == 2
    (tmp_path / "folder.csv").mkdir()
    assert error(read, "folder.csv").startswith("folder.csv is a folder without a file of rows (.jsonl, ")
    assert (
        error(read, dict(train=[]))
        == "expected rows, found a dict; pass one split, such as data['train'], or a list of objects"
    )
    assert (
        error(read, SimpleNamespace(to_records=1))
        == "expected rows, found a SimpleNamespace; pass data.to_dict('records')"
    )
    assert error(read, 3) == "expected a list of objects, a Dataset or a file, found int"
    assert (
        error(read, []) == "the data: no rows"
        and error(read, [HI, 3]) == "row 2: expected an object with columns, found int"
    )
    assert error(stream, [HI], "nonsense") == "kind must be one of sft, pairs, corpus, not 'nonsense'"
    assert (
        read([dict(prompt="a", chosen="b", rejected="c")], "pairs")
        and read([dict(text="a")], "corpus")
        and next(stream([HI, 3])) == HI
    )
    assert error(read, [dict(text="a")]) and error(read, [HI], "pairs")


@pytest.mark.parametrize(
    "raised, says",
    [
        (PermissionError("no"), "FILE: may not be read; check its permissions"),
        (OSError(5, "broken\nline"), "FILE (after row 1): cannot be read as csv: [Errno 5] broken"),
        (KeyError(), "FILE (after row 1): cannot be read as csv: KeyError"),
        (
            UnicodeDecodeError("utf-8", b"abc", 2, 3, "bad"),
            "FILE (after row 1): not UTF-8 text (byte 2); save it as UTF-8",
        ),
        (DataError("as it is"), "as it is"),
    ],
)
def test_a_file_that_breaks_off(raised, says, tmp_path, monkeypatch):
    file = tmp_path / "a.csv"
    file.write_text("x")

    def reader(path):
        yield f"{path}, row 1", HI
        raise raised

    monkeypatch.setitem(READERS, ".csv", reader)
    assert error(read, file) == says.replace("FILE", str(file))


def test_an_error_is_one_line_whatever_the_data_holds():
    assert (
        str(DataError("a\nb\r\nc\ud83d")) == "a b c\\ud83d"
        and str(DataError()) == ""
        and str(DataError(3)) == "3"
    )


def outcome(source, kind):
    "The rows, or the error; anything else is a failure of the test."
    try:
        found = read(source, kind)
    except DataError as e:
        said = str(e)
        said.encode("utf-8")
        assert said and "\n" not in said and len(said) < 1000
        if isinstance(source, Path):
            assert source.name in said
        return e
    assert found and all(isinstance(r, dict) for r in found)
    return found


@FUZZ
@given(any_rows, any_kind)
def test_fuzz_read_list(data, kind):
    found = outcome(data, kind)
    if isinstance(found, DataError):
        assert "row " in str(found) or "no rows" in str(found)


@FUZZ
@given(any_rows, any_kind, st.sampled_from(["\n", "\r\n", "\n\n"]), st.booleans(), st.booleans())
def test_fuzz_read_json_lines(folder, data, kind, end, bom, ascii_only):
    path = folder / "fuzz.jsonl"
    text = "".join(json.dumps(r, ensure_ascii=ascii_only) + end for r in data)
    path.write_bytes(("\ufeff" * bom + text).encode("utf-8", "surrogatepass"))
    found = outcome(path, kind)
    if isinstance(found, DataError):
        assert "line " in str(found) or "no rows" in str(found)


@FUZZ
@given(
    st.binary(max_size=200) | st.text(max_size=200).map(str.encode),
    st.sampled_from([".jsonl", ".json", ".csv", ".parquet"]),
    any_kind,
)
def test_fuzz_read_any_bytes(folder, data, suffix, kind):
    path = folder / f"bytes{suffix}"
    path.write_bytes(data)
    outcome(path, kind)


@FUZZ
@given(
    st.lists(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=4), max_size=5),
    st.sampled_from([",", ";", "\t"]),
    any_kind,
    st.booleans(),
)
def test_fuzz_read_csv(folder, table, separator, kind, header):
    path = folder / "fuzz.csv"
    with open(path, "w", encoding="utf-8", newline="") as f:
        w = csv.writer(f, delimiter=separator)
        if header:
            w.writerow(["prompt", "completion"])
        w.writerows(table)
    outcome(path, kind)


@pytest.mark.parametrize(
    "source",
    [
        None,
        3,
        2.5,
        b"bytes",
        {"prompt": "a"},
        [None],
        [[1]],
        [b"x"],
        object(),
        "x" * 5000,
        "a\0b",
        "",
        ".",
        "~/no/such",
        "a/b/c",
    ],
)
def test_what_is_no_data(source):
    with pytest.raises(DataError):
        read(source)
    with pytest.raises(DataError):
        check(source)


def test_data_frame_and_dataset_dict():
    import pandas as pd
    from datasets import Dataset, DatasetDict

    with pytest.raises(DataError, match="to_dict"):
        read(pd.DataFrame([ROW]))
    with pytest.raises(DataError, match="split"):
        read(DatasetDict(train=Dataset.from_list([ROW])))
    assert read(Dataset.from_list([ROW])) == [ROW] == read(r for r in [ROW])


def test_hub_name_offline_is_one_line():
    with pytest.raises(DataError, match="no data set of that name") as e:
        read("no-such-owner/no-such-data")
    assert "\n" not in str(e.value) and "HF_HUB_OFFLINE" in str(e.value)
    with pytest.raises(DataError, match="no data set"):
        check("no-such-owner/no-such-data:test")


def test_asking_the_hub_is_said_before_it_takes_its_time(monkeypatch, capsys):
    def slow(*args, **knobs):
        assert "no-such-owner/no-such-data is no file: asking the hub" in capsys.readouterr().err
        raise ConnectionError("no way out")

    monkeypatch.setattr("datasets.load_dataset", slow)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(DataError, match="no data set of that name: no way out"):
        read("no-such-owner/no-such-data")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    capsys.readouterr()
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **knobs: 1 / 0)
    with pytest.raises(DataError, match="switched off by HF_HUB_OFFLINE"):
        read("no-such-owner/no-such-data")
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "name, text, says",
    [
        (
            "a.jsonl",
            '{"prompt": "a", "completion": "b", "prompt": "c"}',
            "line 1: not valid JSON (key 'prompt' appears twice)",
        ),
        ("a.jsonl", json.dumps(ROW) + "\n" + '{"prompt": ' + "1" * 5000 + "}", "line 2: not valid JSON"),
        ("a.jsonl", "[" * 100_000, "line 1: not valid JSON (nested too deeply)"),
        (
            "a.jsonl",
            json.dumps(ROW) + "\n" + r'{"prompt": "\ud83d", "completion": "x"}',
            "line 2: column 'prompt' holds half a character",
        ),
        (
            "a.jsonl",
            json.dumps({"messages": [{"role": "user", "content": "Hi"}]}),
            "no message of the assistant",
        ),
        ("a.json", '{"prompt": "a"}', "must hold a list"),
        ("a.json", '[{"prompt": "a",\n "prompt": "b"}]', "appears twice"),
        ("a.csv", "prompt,prompt\na,b\n", "column 'prompt' appears twice"),
        ("a.csv", "prompt,completion\na,b\na,b,c\n", "row 2: more fields"),
        ("a.csv", "prompt,completion\na\n", "row 1: column 'completion' is empty"),
        ("a.csv", "", "no rows"),
    ],
)
def test_message(tmp_path, name, text, says):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as e:
        read(tmp_path / name)
    assert says in str(e.value) and name in str(e.value)


def test_bad_bytes_in_the_middle(tmp_path):
    line = json.dumps(ROW).encode()
    (tmp_path / "a.jsonl").write_bytes(line + b"\n" + line[:-3] + b'\xff"}\n')
    with pytest.raises(DataError, match="line 2: not UTF-8"):
        read(tmp_path / "a.jsonl")
    (tmp_path / "a.csv").write_bytes(b"prompt,completion\n" + b"a,b\n" * 20_000 + b"\xff,b\n")
    with pytest.raises(DataError, match=r"after row \d+\): not UTF-8"):
        read(tmp_path / "a.csv")


def test_upper_case_suffix_bom_and_crlf(tmp_path):
    (tmp_path / "A.JSONL").write_bytes(
        b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\r\n\r\n" + json.dumps(ROW).encode()
    )
    assert read(tmp_path / "A.JSONL") == [ROW, ROW]


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_ndjson_is_jsonl(tmp_path):
    (tmp_path / "a.ndjson").write_text(lines(ROW, ROW))
    assert read(tmp_path / "a.ndjson") == [ROW, ROW]


def test_a_pattern_is_read_part_after_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/more").mkdir(parents=True)
    rows = [dict(prompt=f"Question {i}?", completion=f"Answer {i}") for i in range(6)]
    (tmp_path / "data/part-2.jsonl").write_text(lines(*rows[2:4]))
    (tmp_path / "data/part-10.jsonl").write_text(lines(rows[4]) + "nonsense\n" + lines(rows[5]))
    (tmp_path / "data/part-1.jsonl").write_text(lines(*rows[:2]))
    (tmp_path / "data/more/part-3.csv").write_text("prompt,completion\nso,yes\n")
    assert read("data/part-[12].jsonl") == rows[:4] and len(read("data/**/*.csv")) == 1
    assert "data/part-10.jsonl, line 2: not valid JSON" in error(read, "data/*.jsonl")
    found = check("data/part-*.jsonl")
    assert found.n == 7 and found["unusable rows"].rows == [5]
    assert found["unusable rows"].where == "part-10.jsonl line 2"
    assert check(Path("data/*1.jsonl")).n == 2
    for pattern in ("data/*.parquet", "nowhere/*", "[", "*" * 5000, "a\0*", "\ud800*"):
        assert error(read, pattern).startswith("no file matches ")
    (tmp_path / "odd[1].jsonl").write_text(lines(ROW))
    assert read("odd[1].jsonl") == [ROW]  # a file's own name comes first


def test_folders(tmp_path):
    from datasets import Dataset, DatasetDict

    rows = [dict(prompt=f"Question {i}?", completion=f"Answer {i}") for i in range(3)]
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved") == rows == read(str(tmp_path / "saved"))
    DatasetDict(train=Dataset.from_list(rows), test=Dataset.from_list(rows)).save_to_disk(tmp_path / "both")
    assert f"give one of them: {tmp_path / 'both/test'}, {tmp_path / 'both/train'}" in error(
        read, tmp_path / "both"
    )
    assert read(tmp_path / "both/train") == rows
    (tmp_path / "saved/state.json").write_text("{")
    assert error(read, tmp_path / "saved").startswith(
        f"{tmp_path / 'saved'}: cannot be read as what save_to_disk"
    )
    (tmp_path / "parts").mkdir()
    assert "without a file of rows" in error(read, tmp_path / "parts")
    for name in ("b.jsonl", "a.jsonl", "notes.txt"):
        (tmp_path / "parts" / name).write_text(lines(ROW))
    says = error(read, tmp_path / "parts")
    assert f"{tmp_path / 'parts/a.jsonl'}, {tmp_path / 'parts/b.jsonl'}" in says and "*.jsonl" in says
    assert "notes" not in says


@pytest.mark.parametrize(
    "name, shown",
    [
        ("https://example.com/train.jsonl", "https://example.com/train.jsonl"),
        (Path("https://example.com/train.jsonl"), "https://example.com/train.jsonl"),
        ("s3://bucket/rows.parquet", "s3://bucket/rows.parquet"),
        ("hf://datasets/owner/name", "hf://datasets/owner/name"),
    ],
)
def test_addresses_are_not_fetched(name, shown):
    assert error(read, name) == f"{shown} is an address; download it, and give the file's name"


@pytest.mark.parametrize("suffix", [".gguf", ".safetensors", ".arrow", ".pdf", ".md", ".gz", ".xlsx"])
def test_other_files_say_what_to_do(suffix, tmp_path):
    (tmp_path / f"a{suffix}").write_bytes(b"x")
    assert error(read, tmp_path / f"a{suffix}").count("; ") == 2


def test_an_index_without_a_name_is_left_out_with_a_word(tmp_path):
    import pandas as pd

    rows = [dict(prompt=f"Question {i}?", completion=f"Answer {i}") for i in range(4)]
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "a.csv")
    frame.iloc[[3, 1]].to_csv(tmp_path / "some.csv", sep=";")
    frame.to_csv(tmp_path / "none.csv", index=False)
    for name, expected in (("a.csv", rows), ("some.csv", [rows[3], rows[1]])):
        with pytest.warns(
            UserWarning, match=f"{name}: the first column has no name and numbers the rows"
        ) as seen:
            assert read(tmp_path / name) == expected
        assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path / "none.csv") == rows
    frame.set_index(pd.Index(list("wxyz"))).to_csv(tmp_path / "named.csv")
    assert "row 1: column 1 has no name and holds 'w'" in error(read, tmp_path / "named.csv")
    (tmp_path / "last.csv").write_text("prompt,completion,\nq,a,7\n")
    assert "row 1: column 3 has no name and holds '7'" in error(read, tmp_path / "last.csv")
