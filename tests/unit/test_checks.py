"The reader and the checks, beside results counted by hand: which row, which number, which words."

import csv
import json
import random
import warnings
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats
import torch
from letters import Letters

import ftguide.data as chapter
import ftguide.models
from ftguide.data import (
    DataError,
    Finding,
    Findings,
    Span,
    check_lengths,
    different_tokens,
    lengths,
    near_duplicates,
    normalised_text,
    personal_data,
    preflight,
    prepare,
    rare_words,
    read,
    similarity,
    spans,
    split,
    stream,
    to_trl,
    updatable_share,
)
from ftguide.models import LM, ModelError

HI = dict(prompt="hi", completion="yo")  # u:hi.a:yo. in letters
talk = lambda *said: [dict(role="assistant" if i % 2 else "user", content=x) for i, x in enumerate(said)]


def check(*args, **how):
    found = chapter.check(*args, **how)
    assert all(type(x) is str for f in found.found for x in (f.do, f.where, f.example)) and all(
        f.do for f in found.found
    )  # every finding says what to do
    return found


def error(of, *args, **how):
    with pytest.raises(ValueError) as e:
        of(*args, **how)
    return str(e.value)


# the reader


@pytest.mark.parametrize(
    "name, data, says",
    [
        (
            "a.jsonl",
            '{"prompt": "a", "completion": "b", "prompt": "c"}',
            "FILE, line 1: not valid JSON (key 'prompt' appears twice). Each line must be one object such as {\"prompt\": ...}",
        ),
        (
            "a.jsonl",
            '\n{"' + "k" * 50 + '": 1, "a": 2, "' + "k" * 50 + '": 1}',
            f"FILE, line 2: not valid JSON (key '{'k' * 40}' appears twice). Each line must be one object such as {{\"prompt\": ...}}",
        ),
        (
            "a.jsonl",
            json.dumps(HI) + "\n\n{1}",
            'FILE, line 3: not valid JSON (Expecting property name enclosed in double quotes). Each line must be one object such as {"prompt": ...}',
        ),
        (
            "a.jsonl",
            "[" * 100_000,
            'FILE, line 1: not valid JSON (nested too deeply). Each line must be one object such as {"prompt": ...}',
        ),
        (
            "a.jsonl",
            json.dumps(HI) + "\n\ufeff" + json.dumps(HI),
            'FILE, line 2: not valid JSON (Unexpected UTF-8 BOM (decode using utf-8-sig)). Each line must be one object such as {"prompt": ...}',
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
            "FILE, line 2: not valid JSON (Expecting value). The file must hold one list of objects; with one object a line it is named .jsonl",
        ),
        (
            "a.json",
            "{",
            "FILE: not valid JSON (Expecting property name enclosed in double quotes). The file must hold one list of objects; with one object a line it is named .jsonl",
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
            "FILE, row 2: more fields than the header has columns; quote text that holds the separator, and name every column",
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
            "FILE: cannot be read as parquet: Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file.",
        ),
        (
            "a.txt",
            "a",
            "FILE: unknown format '.txt'; there are .jsonl, .json, .csv, .tsv, .parquet; a table is named .csv, with commas, semicolons or tabs",
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
    assert error(read, "folder.csv") == "no file folder.csv"
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

    monkeypatch.setitem(chapter.READERS, ".csv", reader)
    assert error(read, file) == says.replace("FILE", str(file))


def test_an_error_is_one_line_whatever_the_data_holds():
    assert (
        str(DataError("a\nb\r\nc\ud83d")) == "a b c\\ud83d"
        and str(DataError()) == ""
        and str(DataError(3)) == "3"
    )


@pytest.mark.parametrize(
    "row, kind, says",
    [
        (dict(prompt="a"), "sft", "row 1: columns found: prompt; expected: prompt, completion or messages"),
        ({}, "pairs", "row 1: columns found: none; expected: prompt, chosen, rejected"),
        (
            {f"c{i}" + "x" * 50: 1 for i in range(30)},
            "corpus",
            "row 1: columns found: "
            + ", ".join((f"c{i}" + "x" * 50)[:40] for i in range(20))
            + "; expected: prompt or text",
        ),
        (dict(HI, prompt=" \n"), "sft", "row 1: column 'prompt' is empty; fill it or remove the row"),
        (dict(HI, completion=None), "sft", "row 1: column 'completion' is empty; fill it or remove the row"),
        (
            dict(HI, completion=3),
            "sft",
            "row 1: column 'completion' must be text or a list of messages, found int",
        ),
        (dict(text=talk("a")), "corpus", "row 1: column 'text' must be text, found list"),
        (dict(messages="a"), "sft", "row 1: column 'messages' must be a list of messages, found str"),
        (
            dict(messages=[dict(role="user")]),
            "sft",
            "row 1: column 'messages' must be a list of messages, found list",
        ),
        (
            dict(messages=[dict(role=1, content="a")]),
            "sft",
            "row 1: column 'messages' must be a list of messages, found list",
        ),
        (
            dict(messages=[dict(role="user", content=2)]),
            "sft",
            "row 1: column 'messages' must be a list of messages, found list",
        ),
        (dict(messages=["a"]), "sft", "row 1: column 'messages' must be a list of messages, found list"),
        (dict(messages=[]), "sft", "row 1: column 'messages' is empty; fill it or remove the row"),
        (
            dict(messages=talk("a")),
            "sft",
            "row 1: no message of the assistant says anything; there is nothing to learn",
        ),
        (
            dict(messages=talk("a", " ")),
            "sft",
            "row 1: no message of the assistant says anything; there is nothing to learn",
        ),
        (
            dict(prompt="a", chosen="b", rejected="b"),
            "pairs",
            "row 1: chosen and rejected are the same; there is nothing to prefer",
        ),
        (
            dict(prompt="a", chosen="b", rejected=[dict(role="assistant", content="b")]),
            "pairs",
            "row 1: chosen and rejected are the same; there is nothing to prefer",
        ),
        (
            dict(prompt="a", completion=" "),
            "corpus",
            "row 1: column 'completion' is empty; fill it or remove the row",
        ),
        (
            dict(HI, completion="ab\ud83d"),
            "sft",
            "row 1: column 'completion' holds half a character ('\\ud83d' at 2); write the file again as UTF-8",
        ),
        (
            dict(messages=talk("é", "\udc00")),
            "sft",
            "row 1: column 'messages' holds half a character ('\\udc00' at 0); write the file again as UTF-8",
        ),
        (
            dict(messages=[dict(role="user\ud83d", content="a"), *talk("a", "b")]),
            "sft",
            "row 1: column 'messages' holds half a character ('\\ud83d' at 4); write the file again as UTF-8",
        ),
    ],
)
def test_a_row_that_cannot_be_used(row, kind, says):
    assert error(read, [row], kind) == says


def test_rows_that_can_be_used():
    assert read([dict(input="a", output="b", more=1)]) == [dict(prompt="a", completion="b", more=1)]
    assert read([dict(HI, input="x", output="z")]) == [
        dict(HI, input="x", output="z")
    ]  # a name that is taken stays
    for row in (dict(HI, messages=3), dict(HI, messages=None)):
        assert read([row]) == [HI]
    assert read([dict(messages=talk("a", "b"), prompt=None)]) == [dict(messages=talk("a", "b"))]
    assert read([dict(prompt="a", completion="b", text="c")], "corpus") == [dict(prompt="a", completion="b")]
    assert (
        error(read, [dict(text="c", completion=None)], "corpus")
        == "row 1: column 'completion' is empty; fill it or remove the row"
    )
    pair = dict(prompt=talk("a"), chosen="b", rejected=[dict(role="assistant", content="b!")])
    assert read([pair], "pairs") == [pair] and read([dict(HI, completion="b", chosen="b", rejected="b")])


# what training sees


def test_spans_are_counted_in_tokens():
    letters = Letters()
    pair = lambda c, r: dict(prompt="hi", chosen=c, rejected=r)
    assert spans(letters, [HI, dict(messages=talk("hi", "yo", "and", "so"))]) == [
        Span(10, 7, 7, True),
        Span(21, 18, 18, True),
    ]
    assert spans(letters, [pair("yo", "good"), pair("good", "yo")], "pairs") == [Span(12, 7, 7, True)] * 2
    assert spans(letters, [dict(prompt="hi"), dict(text="hello"), dict(prompt="hi", text="x")], "corpus") == [
        Span(7, 0, 0, True),
        Span(6, 0, 0, True),
        Span(7, 0, 0, True),
    ]
    assert spans(letters, [HI, dict(prompt=[dict(role="judge", content="x")], completion="y"), HI]) == [
        Span(10, 7, 7, True),
        None,
        Span(10, 7, 7, True),
    ]
    assert (
        spans(letters, [dict(prompt="hi"), dict(prompt=[dict(role="judge", content="x")])], "corpus")
        == [Span(7, 0, 0, True), None]
        and spans(letters, []) == []
    )
    assert spans(letters, [HI], ends={ord("o")})[0].ends and not spans(letters, [HI], ends={ord("u")})[0].ends
    assert spans(letters, [dict(prompt="hi", completion=[dict(role="assistant", content="yo")])]) == [
        Span(10, 7, 7, True)
    ]
    seen = []
    assert len(spans(letters, [HI] * 2001, progress=seen.append)) == 2001 and seen == [1000, 1000, 1]


def test_spans_of_templates_that_change_the_prompt():
    letters = Letters()
    pair = dict(prompt="hi", chosen="yo", rejected="no")
    letters.asks = "a:y"
    assert spans(letters, [pair, dict(pair, chosen="no", rejected="yo")], "pairs") == [
        Span(10, 8, 7, True)
    ] * 2 and spans(letters, [HI]) == [Span(10, 8, 8, True)]
    letters.asks = "a:yo.and"
    assert spans(letters, [HI]) == [Span(10, 13, 10, False)]
    letters.asks = "a:"
    letters.end = ""
    assert (
        spans(letters, [dict(pair, chosen="y.")], "pairs")
        == spans(letters, [dict(pair, rejected="n.")], "pairs")
        == [Span(8, 6, 6, False)]
    )
    assert spans(letters, [dict(pair, chosen="y.", rejected="n.")], "pairs") == [Span(8, 6, 6, True)]
    letters.sure = False
    assert spans(letters, [HI]) == [Span(9, 7, 0, False)]


def model(dtype=torch.float32, positions=40, end=46, **more):
    "A model with eight weights, whose context is forty tokens."
    layer = torch.nn.Linear(4, 2, bias=False).to(dtype)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    text = SimpleNamespace(max_position_embeddings=positions)
    layer.config, layer.generation_config = (
        SimpleNamespace(get_text_config=lambda: text, _name_or_path="somewhere"),
        SimpleNamespace(eos_token_id=end),
    )
    for k, v in more.items():
        setattr(layer, k, v)
    return LM(layer, Letters(), "small")


def test_rows_that_do_not_fit_are_named():
    judge = dict(prompt=[dict(role="judge", content="x")], completion="y")
    assert lengths(Letters(), [HI, dict(HI, completion="good")]) == [10, 12] and lengths(
        Letters(), [dict(text="x")], "corpus"
    ) == [2]
    assert (
        error(lengths, Letters(), [HI, judge])
        == "row 2: the chat template cannot write it; look at the order of its roles"
    )
    rows = [HI, dict(HI, completion="y" * 32), dict(HI, completion="y" * 33)] + [
        dict(HI, completion="y" * 40)
    ] * 2
    check_lengths(model(), rows[:2])
    check_lengths(model(), [dict(text="x" * 39)], "corpus")
    assert (
        error(check_lengths, model(), rows[:4])
        == "2 of 4 rows do not fit into small's context of 40 tokens: row 3 (41 tokens), row 4 (48 tokens). Shorten or remove them"
    )
    assert (
        error(check_lengths, model(), rows, room=1)
        == "4 of 5 rows do not fit into small's context of 39 tokens: row 2 (40 tokens), row 3 (41 tokens), row 4 (48 tokens) .... Shorten or remove them"
    )
    assert error(check_lengths, model(), rows[:4] + [HI], room=1).startswith(
        "3 of 5"
    ) and " ..." not in error(check_lengths, model(), rows[:4], room=1)
    assert error(check_lengths, model(), [dict(text="x" * 40)], "corpus").startswith("1 of 1 rows")


# alike


def test_prompts_and_answers_as_text():
    assert normalised_text(" A\tß\n b ") == "a ss b"
    assert (
        chapter._asked(dict(messages=talk("a", "b", "c", "d"))) == "a"
        and chapter._asked(dict(messages=[dict(role="system", content="s"), *talk("a", "b")])) == "s\na"
    )
    assert (
        chapter._asked(dict(text="t")) == "t"
        and chapter._asked(dict(prompt=talk("a", "b"), text="t")) == "a\nb"
    )
    assert error(
        chapter._asked, dict(a=1, b=2)
    ) == "a row has no prompt, messages or text, only a, b; read() checks rows" and "only nothing;" in error(
        chapter._asked, {}
    )
    assert (
        chapter._answered(dict(messages=talk("a", "b", "c", "d")), "sft") == ["b", "d"]
        and chapter._answered(dict(HI, messages=1), "sft") == ["yo"]
        and chapter._answered(HI, "corpus") == []
    )
    assert chapter._answered(dict(chosen=talk("x", "c"), rejected="r"), "pairs") == ["x\nc", "r"]


def test_rare_words_are_in_few_texts():
    assert rare_words(["b a-1 a b"] + ["b c"] * 4) == ["a a-1 b"] + ["b c"] * 4
    assert rare_words(["all a"] + ["all b"] * 5) == ["a"] + ["b"] * 5  # six of six: common; five: rare
    assert rare_words(["all"] * 6) == ["all"] * 6  # nothing else to go by
    few = lambda n, k: rare_words([f"w t{i}" if i < k else f"t{i}" for i in range(n)])[0]
    assert (
        few(400, 8) == "t0 w" and few(400, 9) == "t0" and few(6000, 100) == "t0 w" and few(6000, 101) == "t0"
    )
    assert rare_words(["x" * 3999 + "y z"]) == ["x" * 3999 + "y"]


def test_similarity_is_the_lesser_of_two():
    assert (
        similarity("abcd", "abce", "x y", "y x") == 75
        and similarity("abcd", "abcd", "x", "y") == 0
        and similarity("abcd", "abcd", "x", "x") == 100
    )
    assert (
        similarity("a" * 4000 + "b", "a" * 4000 + "c" * 900, "x", "x")
        == 100
        > similarity("a" * 3999 + "b", "a" * 3999 + "c", "x", "x")
    )


def test_twins_name_the_nearest():
    base = "seven red lamps stand near the old green door of house nine"
    texts = [base, "nothing of this kind was ever written down anywhere", base + "!", base + " !", base]
    found = near_duplicates(texts)
    assert found == {
        2: (0, pytest.approx(99.2, abs=0.1)),
        3: (2, pytest.approx(99.2, abs=0.1)),
        4: (0, 100.0),
    }
    assert (
        near_duplicates(texts, least=100) == {4: (0, 100.0)} and near_duplicates(texts[:3], least=99.9) == {}
    )
    assert near_duplicates([texts[1], base + "?"], ["no", base]) == {1: (1, pytest.approx(99.2, abs=0.1))}
    assert near_duplicates([base, base], ["quite another sentence"]) == {}  # not with one another
    seen = []
    near_duplicates([f"word{i}" for i in range(900)], [f"known{i}" for i in range(200)], progress=seen.append)
    assert seen == [1000, 100]
    many = [f"a{i} b{i} c{i} d{i}" for i in range(1001)]
    assert near_duplicates(many + [many[1000], many[0]]) == {1001: (1000, 100.0), 1002: (0, 100.0)}


def test_near_duplicates_are_proposed_as_datasketch_proposes_them():
    import numpy as np
    from datasketch import MinHash, MinHashLSH

    from ftguide.data import _before

    rng = random.Random(0)
    words = [f"w{i}" for i in range(60)]
    hashes = list(MinHash.bulk([[w.encode() for w in rng.sample(words, 5)] for _ in range(400)], num_perm=64))
    before, index = _before(np.array([h.hashvalues for h in hashes])), MinHashLSH(num_perm=64, params=(16, 4))

    def chain(i):  # every text before with a band of this one's
        for b in range(16):
            j = before[i, b]
            while j >= 0:
                yield int(j)
                j = before[j, b]

    proposed = 0
    for i, h in enumerate(hashes):
        assert set(chain(i)) == set(index.query(h))
        proposed += len(index.query(h))
        index.insert(i, h)
    assert proposed > 100


# findings


def test_findings_are_written_out():
    found = Findings(
        [
            Finding("a", "error", [1, 2], "row 2, row 3", "x  |y", "mend"),
            Finding("b", "warning", [0], "", "", "look"),
            Finding("c", "warning", [2], "row 3", "", "look"),
            Finding("d", "note", [3], "", "z", "know"),
        ],
        1000,
    )
    assert (
        str(found)
        == "1,000 rows: 1 error, 2 warnings\nerror    a: 2 (0.2%), row 2, row 3\n         x |y\n         mend\nwarning  b: 1 (0.1%)\n         look\nwarning  c: 1 (0.1%), row 3\n         look\nnote     d: 1 (0.1%)\n         z\n         know"
    )
    assert found.markdown().split("\n") == [
        "1,000 rows: 1 error, 2 warnings",
        "",
        "| severity | finding | rows | where | example | what to do |",
        "|---|---|---|---|---|---|",
        r"| error | a | 2 (0.2%) | row 2, row 3 | x \|y | mend |",
        "| warning | b | 1 (0.1%) |  |  | look |",
        "| warning | c | 1 (0.1%) | row 3 |  | look |",
        "| note | d | 1 (0.1%) |  | z | know |",
    ]
    assert (
        str(Findings([], 1)) == "1 row: nothing to mend"
        and Findings([], 2).markdown() == "2 rows: nothing to mend\n\n"
        and str(Findings([Finding("n", "note", [], "", "", "know")], 2))
        == "2 rows: nothing to mend\nnote     n: –\n         know"
    )
    assert (
        found["c"].rows == [2]
        and found["none"] == Finding("none", "note", [], "", "", "")
        and "c" in found
        and "none" not in found
    )
    assert (
        found.flagged() == {0, 1, 2}
        and found.without("0123") == ["3"]
        and found.without("0123", "a") == ["0", "3"]
        and found.without("0123", "d") == list("0123")
        and found.without("0123", "b", "c") == ["1", "3"]
    )


def findings(rows, *args, **how):
    return [
        (f.name, f.severity, f.rows, f.where, f.example)
        for f in check(rows, *args, **how).found
        if f.name != "few rows"
    ]


def sft(*rows, **more):
    return [dict(prompt=q, completion=a, **more) for q, a in rows]


def pairs(*rows):
    return [dict(prompt=q, chosen=c, rejected=r) for q, c, r in rows]


def test_copies():
    base = "How many red lamps stand near the old green door of house nine"
    rows = sft(
        (base + "?", "Seven lamps."),
        ("Why?", "Zed."),
        (base.upper() + "? ", "seven  lamps."),
        (base + " ?", "Seven lamps."),
        ("Why?", "Zod."),
        ("why?", "ZED."),
        ("Why?", "Not so."),
        ("Why?", "Never."),
    )
    assert findings(rows) == [
        (
            "exact duplicates",
            "warning",
            [2, 5],
            "row 3, row 6",
            f"{base[:29].lower()}{base[29:35].lower()} … {(base.lower() + '? → seven lamps.')[-35:]}",
        ),
        (
            "near duplicates",
            "warning",
            [3],
            "row 4",
            f"{base[:35].lower()} … {(base.lower() + ' ? → seven lamps.')[-35:]} ≈ {base[:35].lower()} … {(base.lower() + '? → seven lamps.')[-35:]} (99 % alike)",
        ),
        (
            "contradictory answers",
            "warning",
            [1, 4, 5, 6, 7],
            "row 2, row 5, row 6 …",
            "why? → zed. / zod. / not so.",
        ),
    ]
    assert check(rows, near=99.9)["near duplicates"].rows == [] and "contradictory answers" not in check(
        pairs(("q", "a1", "b1"), ("q", "a2", "b2")), kind="pairs"
    )


def test_leaks():
    base = "How many red lamps stand near the old green door of house nine"
    rows = sft(
        ("Is it Zed?", "Yes."),
        (base + " ?", "Two."),
        ("Is IT  Zod?", "No."),
        (base + "?", "Six."),
        ("is it zod?", "no"),
        ("What is Zud?", "All."),
    )
    found = check(
        rows,
        test=sft(("What for Zab?", "x"), ("is it zod?", "Yes."), (base + "?", "x"), ("is it zod?", "Maybe.")),
    )
    assert found.found[0].severity == "error" and (
        found["train/test leakage"].rows,
        found["train/test leakage"].example,
    ) == ([2, 3, 4], "is it zod? → no.")
    assert (found["near leakage"].rows, found["near leakage"].severity) == ([1], "warning") and found[
        "near leakage"
    ].example == f"{base.lower()} ? ≈ {base.lower()}? (99 % alike)"
    assert not {"near leakage", "train/test leakage"} & {
        f.name for f in check(rows).found
    } and "near leakage" not in check(rows, test=sft((base + "?", "x")), near=99.9)
    assert check(pairs(("Zed?", "a", "b")), kind="pairs", test=[dict(prompt="zed?")])[
        "train/test leakage"
    ].rows == [0] and check([dict(text="Zed")], kind="corpus", test=[dict(text="zed")])[
        "train/test leakage"
    ].rows == [0]


def test_content():
    ends = [
        (
            f"Why does Zed-{i} hold?",
            f"Because the number {i} is made of very good steel{'' if i < 2 else '.'}",
        )
        for i in range(20)
    ]
    assert check(sft(*ends, task="t"))["truncated answers"].rows == [0, 1]
    assert "truncated answers" not in check(sft(*ends[1:], task="t"))  # nineteen say nothing of a habit
    assert "truncated answers" not in check(
        sft(*ends, ("Why does Zed-x hold?", "Because the letter x is made of very good steel"), task="t")
    )  # 3 of 21: no habit
    assert check(sft(*ends, ("Who is Zod?", "Seven words and no stop is short"), task="t"))[
        "truncated answers"
    ].rows == [0, 1]
    assert check(
        sft(
            *ends,
            ("Who is Zod?", "These are eight words and no full stop"),
            ("Who is Zud?", "This row is here for the tenth part."),
            *((f"Who is Zud-{i}?", "This row is here for the tenth part.") for i in range(8)),
            task="t",
        )
    )["truncated answers"].rows == [0, 1, 20]
    assert check(sft(("Zed?", "Well..."), ("Zod?", "Well… "), ("Zud?", "Well.. no"), ("Zid?", "a … b")))[
        "truncated answers"
    ].rows == [0, 1]
    assert check(pairs(("Zed?", "Fine.", "Well...")), kind="pairs")["truncated answers"].rows == [0]
    found = check(
        sft(
            ("Resuma o texto abaixo, por favor.", "Um."),
            ("Fix Zed", "Two."),
            ("Fix this " * 23, "Three."),
            ("?", "Four."),
            ("the " * 49 + "them", "x"),
        )
    )
    assert found["vague prompts"].rows == [0, 3] and found["vague prompts"].where == "row 1, row 4"
    assert (
        check(
            sft(("Fix it " * 28 + "him", "x"), ("Fix it " * 28 + "do", "x"), ("Fix it " * 28 + "the", "x"))
        )["vague prompts"].rows
        == [1, 2]
        and len("fix it " * 28 + "the") == 199
    )
    assert "vague prompts" not in check(sft(("Fix it " * 28 + "this", "x")))  # two hundred letters
    found = check(
        sft(
            ("Zed?", "Dear [your name ...], hello"),
            ("Zod?", "[1]"),
            ("Zud {{ name }}?", "a"),
            ("Zid?", "LOREM IPSUM"),
        )
    )
    assert (
        found["unfilled templates"].rows == [0, 2, 3]
        and found["unfilled templates"].example == "[your name ...]"
    )


def labelled(good, n, task="t", other=lambda i: "bad"):
    return sft(*((f"Review {i} of Zed-{i}", "good" if i < good else other(i)) for i in range(n)), task=task)


def test_labels():
    found = check(labelled(16, 20))["unbalanced labels"]
    assert (found.rows, found.example, found.severity) == (
        [],
        "",
        "note",
    )  # 16 of 20 may be chance: p = 0.006
    found = check(labelled(19, 20))["unbalanced labels"]
    assert (found.rows, found.example, found.severity) == (
        [19],
        "always answering 'good' is right in 95% of 20 rows",
        "warning",
    )
    assert "unbalanced labels" not in check(labelled(19, 19)) and check(labelled(20, 20))[
        "unbalanced labels"
    ].rows == list(range(20))
    assert check(labelled(40, 50))["unbalanced labels"].rows == list(
        range(40, 50)
    ) and "unbalanced labels" not in check(labelled(39, 50))
    each = lambda i: f"bad {i}"
    assert check(labelled(28, 30, other=each))["unbalanced labels"].rows == [
        28,
        29,
    ] and "unbalanced labels" not in check(
        labelled(27, 30, other=each)
    )  # four labels of thirty rows: free text
    assert check(labelled(281, 300, other=each))["unbalanced labels"].rows == list(
        range(281, 300)
    ) and "unbalanced labels" not in check(labelled(280, 300, other=each))  # twenty labels at most
    assert check(labelled(20, 20, "a") + labelled(10, 20, "b"))["unbalanced labels"].rows == list(range(20))
    assert "unbalanced labels" not in check(
        [dict(prompt=f"Zed {i}", chosen="good", rejected=f"bad{i}") for i in range(30)], kind="pairs"
    )


@pytest.mark.parametrize("n, tenth, points", [(9, 0, 50), (50, 5, 44), (999, 99, 10), (10, 1, 50)])
def test_few_rows(n, tenth, points):
    found = check(sft(*((f"What is Zed-{i}?", f"It is {i}.") for i in range(n))))["few rows"]
    assert found == Finding(
        "few rows",
        "note",
        [],
        "",
        f"a test of one tenth holds {tenth} rows: an accuracy of 50 % is known to ±{points} points",
        "“at least 500 rows” is folklore. Train on a quarter, a half and all of them; while the curve still rises, more rows pay",
    )


def test_enough_rows():
    sheet = lambda n, kind: list(chapter._few(SimpleNamespace(rows=[0] * n, kind=kind)))
    assert (
        sheet(1000, "sft") == []
        and "1,000 pairs" in sheet(999, "pairs")[0].do
        and "100,000 documents" in sheet(1, "corpus")[0].do
    )


@pytest.mark.parametrize(
    "text, found",
    [
        ("to ana+shop@example.com.br now", [("e-mail", "ana+shop@example.com.br")]),
        ("529.982.247-25 ", [("CPF", "529.982.247-25")]),
        ("52998224725", [("CPF", "52998224725")]),
        ("529.982.247-26", []),
        ("529-982-247-25", []),
        ("4111-1111-1111-1111", [("card number", "4111-1111-1111-1111")]),
        ("4111 1111 1111 1112", []),
        ("378282246310005", [("card number", "378282246310005")]),
        ("+44 20 7946 0958", [("phone number", "+44 20 7946 0958")]),
        ("(11) 91234-5678", [("phone number", "(11) 91234-5678")]),
        ("(000) 000-0000 x", []),
        ("(212) 736-5000", [("phone number", "(212) 736-5000")]),
        ("11912345678", []),
        ("2024-05-06 12:30", []),
        ("3031-5000", []),
        ("+55 11 3031 5000", [("phone number", "+55 11 3031 5000")]),
        ("1234 567", []),
        ("1234 5678 9012 3456 7", []),
        ("+290 22345", [("phone number", "+290 22345")]),
        ("a@example.com, b@example.com", [("e-mail", "a@example.com"), ("e-mail", "b@example.com")]),
    ],
)
def test_numbers_that_are_somebodys(text, found):
    assert personal_data(text) == found


def test_personal_data_of_rows():
    rows = sft(
        ("Whose is it?", "ana@example.com and 529.982.247-25"),
        ("Whose is Zed?", "Nobody's."),
        ("Is it bia@example.com?", "No."),
    )
    assert [f for f in findings(rows) if f[0] == "personal data"] == [
        ("personal data", "warning", [0, 2], "row 1, row 3", "e-mail: 2, CPF: 1")
    ]
    assert (
        "••••••" in chapter._short("to ana@example.com")
        and "ana" not in chapter._short("to ana@example.com")
        and chapter._short("x" * 70) == "x" * 70
        and chapter._short("x" * 36 + "y" * 35) == "x" * 35 + " … " + "y" * 35
    )
    assert chapter._short("abcdefgh", 6) == "abc … fgh"
    number = "(11) 91234-5678"
    assert (
        personal_data(number, ("US",)) == []
        and personal_data(number, ("US", "BR"))
        and "personal data" not in check(sft(("Who?", number)), regions=("US",))
    )
    assert (
        len(personal_data("4111-1111-1111-1111, " * 101)) == 100
        and len(personal_data("4111-1111-1111-1111, " * 100)) == 100
    )


def test_pairs():
    rows = pairs(
        ("q", "a", "b"),
        ("Q ", "b", "c"),
        ("q", "C", "a"),
        ("q", "a", "d"),
        ("other", "b", "a"),
        ("x", "Same.", "same. "),
        ("Who is Zed?", "so", "no"),
    )
    found = check(rows, kind="pairs")
    assert (found["circular preferences"].rows, found["circular preferences"].severity) == (
        [0, 1, 2],
        "error",
    ) and found["circular preferences"].example in ("a > b > c > a", "b > c > a > b", "c > a > b > c")
    assert (found["chosen equals rejected"].rows, found["chosen equals rejected"].severity) == (
        [5],
        "error",
    ) and "circular preferences" not in check(rows[1:], kind="pairs")
    two = check(rows[:3] + pairs(("r", "x", "y"), ("r", "y", "x")), kind="pairs")["circular preferences"]
    assert two.rows == [0, 1, 2, 3, 4] and "x" not in two.example


@pytest.mark.parametrize(
    "longer, shorter, equal, side, share",
    [
        (0, 8, 2, "shorter", "100%"),
        (8, 0, 0, "longer", "100%"),
        (7, 0, 0, None, None),
        (120, 80, 0, "longer", "60%"),
        (119, 80, 0, None, None),
        (80, 120, 3, "shorter", "60%"),
        (30, 20, 0, None, None),
        (0, 0, 3, None, None),
    ],
)
def test_length_bias(longer, shorter, equal, side, share):
    rows = [
        dict(
            prompt=f"Zed {i}",
            chosen="long" if i < longer else f"x{i % 10}",
            rejected="long" if longer <= i < longer + shorter else f"y{i % 10}",
        )
        for i in range(longer + shorter + equal)
    ]
    sheet = SimpleNamespace(
        kind="pairs",
        asked=[r["prompt"] for r in rows],
        said=[[r["chosen"], r["rejected"]] for r in rows],
        finding=lambda name, severity, rows, do, example="": [(name, severity, list(rows), example)],
    )
    found = [f for f in chapter._pairs(sheet) if f[0] == "length bias"]
    n = longer + shorter
    if side is None:
        assert found == []
        return
    p = scipy.stats.binomtest(max(longer, shorter), n, 0.5).pvalue
    assert found == [
        (
            "length bias",
            "warning",
            list(range(longer) if side == "longer" else range(longer, n)),
            f"the {side} answer is chosen in {share} of {n} pairs (sign test, p = {p:.0e})",
        )
    ]


def test_tokenised():
    rows = sft(("hi", "yo"), ("ho", "y" * 33), ("q" * 33, "yo"), ("q" * 34, "yo"), ("ha", "y" * 32))
    found = check(rows, Letters())
    assert (
        found.lengths == [10, 41, 41, 42, 40]
        and found.max_length == 40
        and found["cut answers"].rows == [1, 2, 3]
        and found["cut answers"].severity == "error"
    )
    assert found["cut answers"].example == "60.0% of the rows are longer than 40 tokens, the longest has 42"
    assert (
        check(rows, Letters(), max_length=38)["no trained token"].rows == [2, 3]
        and check(rows, Letters(), max_length=39)["no trained token"].rows == [3]
        and check(rows, Letters(), max_length=39)["no trained token"].severity == "error"
    )
    assert (
        check(rows, model(positions=20)).max_length == 20
        and check(rows, model(), max_length=12).max_length == 12
    )
    endless = Letters()
    endless.model_max_length = 10**9
    assert check(rows, endless).max_length is None
    endless.model_max_length -= 1
    assert check(rows, endless).max_length == 10**9 - 1
    assert (
        check(rows).lengths == []
        and check(rows).max_length is None
        and check([dict(text="x" * 40)], Letters(), "corpus")["cut answers"].rows == [0]
        and check([dict(text="x" * 40)], Letters(), "corpus").errors[0].name == "cut answers"
    )
    broken = Letters()
    broken.asks = "a:x"
    assert (
        check(rows[:1], broken)["prompt's end changes"].rows == [0]
        and check(rows[:1], broken)["prompt's end changes"].severity == "warning"
        and "prompt changes" not in check(rows[:1], broken)
    )
    broken.asks = "a:xx"
    assert (
        check(rows[:1], broken)["prompt changes"].rows == [0]
        and check(rows[:1], broken)["prompt changes"].severity == "error"
        and "prompt's end changes" not in check(rows[:1], broken)
    )
    broken = Letters()
    broken.end = ""
    assert (
        check(rows[:1], broken)["no end token"].rows == [0]
        and check(rows[:1], broken)["no end token"].severity == "error"
        and "no end token" not in check([dict(text="x")], broken, "corpus")
    )
    odd = dict(prompt=[dict(role="judge", content="x")], completion="y")
    found = check([rows[0], odd], Letters())
    assert (
        found["template refuses"].rows == [1]
        and found["template refuses"].severity == "error"
        and found.lengths == [10]
        and check([odd], Letters())["cut answers"].rows == []
    )


def test_check_as_a_whole():
    rows = [
        HI,
        3,
        dict(prompt="?"),
        sft(("Is it Zed?", "Yes."))[0],
        dict(HI, completion=""),
        dict(prompt="ok", completion="\ud83d"),
    ]
    found = check(rows)
    assert found.n == 6 and found.found[0] == Finding(
        "unusable rows",
        "error",
        [1, 2, 4, 5],
        "row 2, row 3, row 5",
        "row 2: expected an object with columns, found int",
        "mend or remove them; training refuses the file",
    )
    assert [f.severity for f in found.found] == sorted(
        (f.severity for f in found.found), key=("error", "warning", "note").index
    ) and found["few rows"]
    assert (
        check([3, HI, HI])["exact duplicates"].rows == [2]
        and check([3, HI, HI])["exact duplicates"].where == "row 3"
        and "unusable rows" not in check([HI])
    )
    assert (
        error(check, [3]) == "row 1: expected an object with columns, found int"
        and error(check, []) == "the data: no rows"
        and error(check, [HI], kind="x") == "kind must be one of sft, pairs, corpus, not 'x'"
    )
    wide = [HI, {"x" * 39 + str(i): 1 for i in range(20)}]
    assert len(check(wide)["unusable rows"].example) == 200
    assert (
        error(check, "nowhere.csv") == "no file nowhere.csv"
        and error(check, [HI], test=[3]) == "row 1: expected an object with columns, found int"
    )


def test_check_of_a_file(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("\n" + json.dumps(HI) + "\n3\n" + json.dumps(HI) + "\n")
    found = check(file)
    assert (
        found["exact duplicates"].where == "line 4"
        and found["unusable rows"].where == "line 3"
        and found["unusable rows"].example.startswith(f"{file}, line 3")
    )
    file.write_text("")
    assert error(check, file) == f"{file}: no rows" and error(check, str(file)) == f"{file}: no rows"


def test_checks_say_how_far_they_are(monkeypatch):
    import contextlib

    seen = []

    @contextlib.contextmanager
    def bar(total, what):
        seen.append((total, what))
        yield SimpleNamespace(update=lambda n=1: seen.append(n))

    monkeypatch.setattr(ftguide.models, "progress_bar", bar)
    check([HI] + sft(("Zed?", "Yes.")))
    assert seen == [(None, "reading"), 1, 1, (2, "checking"), 2]
    seen.clear()
    check([HI] + sft(("Zed?", "Yes.")), Letters())
    assert seen == [(None, "reading"), 1, 1, (4, "checking"), 2, 2]


def test_missing_libraries_are_named(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    for gone in (["scipy"], ["datasketch", "stdnum"], ["phonenumbers", "rapidfuzz"]):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in gone else real(name))
        with pytest.raises(ModuleNotFoundError, match=f"needs {', '.join(gone)}: pip install"):
            check([HI])


# what the trainers get


def test_split_keeps_prompts_together_and_tasks_in_proportion():
    rows = [dict(prompt=f"q{i}", completion="x") for i in range(20)]
    assert [len(p) for p in split(rows)] == [16, 2, 2] and split(rows) == split(rows, seed=0) != split(
        rows, seed=1
    ) == split(rows, seed=1)
    assert sorted(r["prompt"] for p in split(rows) for r in p) == sorted(r["prompt"] for r in rows) and all(
        p == [r for r in rows if r in p] for p in split(rows)
    )
    assert [len(p) for p in split(rows, (1.0, 0.0))] == [20, 0] and [
        len(p) for p in split(rows[:10], (0.26, 0.74))
    ] == [3, 7]
    for seed in range(9):
        assert (
            sum(
                any(r["prompt"].strip().lower() == "q0" for r in p)
                for p in split(rows + [dict(prompt=" Q0", completion="y")] * 3, (0.5, 0.5), seed)
            )
            == 1
        )
    mixed = [dict(r, task="a") for r in rows] + [
        dict(prompt=f"b{i}", completion="x", task="b") for i in range(10)
    ]
    for seed in range(9):
        assert [
            [sum(r["task"] == task for r in p) for task in "ab"] for p in split(mixed, (0.5, 0.3, 0.2), seed)
        ] == [[10, 5], [6, 3], [4, 2]]
    for shares in ((0.5, 0.4), (1.2, -0.2), (0.5, 0.5001)):
        assert error(split, rows, shares) == f"shares must be 0 or more and sum to 1, not {shares}"


def test_rows_as_trl_takes_them():
    said = lambda role, text: [dict(role=role, content=text)]
    assert (
        to_trl([dict(HI, more=1)]).to_list()
        == prepare(model(), [HI]).to_list()
        == [dict(prompt=said("user", "hi"), completion=said("assistant", "yo"))]
    )
    assert (
        to_trl([dict(messages=talk("a", "b"), more=1)]).to_list() == [dict(messages=talk("a", "b"))]
        and prepare(model(), None) is None
    )
    assert to_trl([dict(prompt=talk("a"), completion=said("assistant", "b"))]).to_list() == [
        dict(prompt=talk("a"), completion=said("assistant", "b"))
    ]
    pair = dict(prompt="q", chosen="a", rejected="b")
    assert (
        to_trl([pair], "pairs").to_list()
        == prepare(model(), [pair], "pairs").to_list()
        == [dict(prompt=said("user", "q"), chosen=said("assistant", "a"), rejected=said("assistant", "b"))]
    )
    assert (
        error(to_trl, [HI, HI, dict(messages=talk("a", "b"))])
        == "row 1 has prompt, completion and row 3 has messages; write all rows in one shape"
    )
    assert error(
        to_trl, [dict(messages=[dict(talk("a")[0], name=1)]), dict(messages=[dict(talk("a")[0], name=["x"])])]
    ).startswith("the rows do not make one table: ")
    assert "do not fit" in error(prepare, model(), [dict(HI, completion="y" * 40)]) and error(
        prepare, model(), [3]
    ).startswith("row 1")
    assert "do not fit" in error(prepare, model(), [dict(pair, chosen="y" * 40)], "pairs")


def test_rows_of_a_stream():
    says = "a stream has no length, so max_steps must say how many steps to take"
    for config in ({}, dict(max_steps=0), dict(max_steps=None), dict(max_steps=-1)):
        assert error(chapter.peek, [HI], "sft", config) == says
    assert (
        chapter.peek(iter([HI] * 5), "sft", dict(max_steps=1), 2) == [HI] * 2
        and len(chapter.peek([HI] * 1005, "sft", dict(max_steps=9))) == 1000
        and error(chapter.peek, [HI], "pairs", dict(max_steps=1))
    )
    assert list(chapter.stream_rows(model(), [HI, dict(HI, completion="y" * 32)])) == [
        HI,
        dict(HI, completion="y" * 32),
    ] and list(chapter.stream_rows(model(), [dict(text="x")], "corpus")) == [dict(text="x")]
    assert (
        error(list, chapter.stream_rows(model(), [HI, 3]))
        == "row 2 of the stream: expected an object with columns, found int"
    )
    assert (
        error(list, chapter.stream_rows(model(), [HI, dict(HI, completion="y" * 33)]))
        == "row 2 of the stream has 41 tokens and does not fit into small's context of 40. Shorten it, or filter the stream"
    )


# before training


@pytest.mark.parametrize(
    "config, steps",
    [
        ({}, (15, 2)),
        (dict(per_device_train_batch_size=2), (27, 3)),
        (dict(dataloader_drop_last=True), (12, 2)),
        (dict(gradient_accumulation_steps=2), (9, 1)),
        (dict(num_train_epochs=0.5), (3, 1)),
        (dict(max_steps=7), (7, 1)),
        (dict(max_steps=0), (0, 0)),
        (dict(max_steps=-1), (15, 2)),
        (dict(warmup_steps=4), (15, 4)),
        (dict(warmup_steps=0), (15, 0)),
        (dict(warmup_steps=1), (15, 1)),
        (dict(warmup_steps=0.5), (15, 8)),
    ],
)
def test_steps_are_those_of_the_trainer(config, steps):
    assert chapter._steps(17, 3, 4, config) == steps and chapter._steps(
        3, 1, 4, dict(dataloader_drop_last=True, max_steps=5)
    ) == (0, 0)


def pace(n, method="sft", rate=None, epochs=1, batch_size=4, lm=None, **config):
    return list(chapter._pace(lm or model(), n, method, rate, epochs, batch_size, config))


def test_a_training_that_changes_nothing():
    assert pace(8) == [] and pace(4, config_is=1) == [
        "the only step would have the learning rate 0, because warm-up begins there: 4 rows in batches of 4. Take more epochs, a smaller batch_size, or warmup_steps=0"
    ]
    assert pace(4, "distill") == pace(4, warmup_steps=0) == pace(4, max_steps=1) == pace(5) == pace(
        4, epochs=2
    ) == [] and pace(4, max_steps=-1)
    assert pace(3, dataloader_drop_last=True) == [
        "no step would be made: 3 rows in batches of 4 with dataloader_drop_last=True. Give more rows, a smaller batch_size, or leave that setting out"
    ]
    assert pace(9, max_steps=0, dataloader_drop_last=False, other=1, per_device_train_batch_size=2) == [
        "no step would be made: 9 rows in batches of 2 with max_steps=0, dataloader_drop_last=False. Give more rows, a smaller batch_size, or leave that setting out"
    ]
    assert pace(9, epochs=0) == [
        "no step would be made: 9 rows in batches of 4 with 0 epochs. Give more rows, a smaller batch_size, or leave that setting out"
    ]


def test_a_rate_too_small_for_the_numbers():
    half = model(torch.bfloat16)
    assert pace(9, rate=1e-3, lm=half) == [
        "the learning rate 0.001 changes only 0.0% of the weights a step: they are bfloat16, whose numbers lie further apart. Load the model as float32, or raise the rate"
    ]
    assert (
        pace(9, rate=1e-2, lm=half)
        == pace(9, rate=1e-3)
        == pace(9, rate=None, lm=half)
        == pace(9, rate=1e-3, lm=model(torch.bfloat16, is_quantized=True))
        == []
    )
    with torch.no_grad():
        half.model.weight.view(-1)[:4] = 0.01
    assert (
        updatable_share(half.model, 1e-3) == 0.5 and pace(9, rate=1e-3, lm=half) == []
    )  # half of them is enough
    with torch.no_grad():
        half.model.weight.view(-1)[3] = 1.0
    assert updatable_share(half.model, 1e-3) == 0.375 and "only 37.5%" in pace(9, rate=1e-3, lm=half)[0]
    assert (
        updatable_share(half.model, 1e-3, sample=4) == updatable_share(half.model, 1e-3, sample=3) == 0.5
        and updatable_share(half.model, 1e-3, sample=1000) == 0.375
    )  # every second: 1, 0.01 of each
    half.model.count = torch.nn.Parameter(torch.ones(90, dtype=torch.int8), requires_grad=False)
    assert updatable_share(half.model, 1e-3) == 0.375
    assert updatable_share(torch.nn.Identity(), 1.0) == 0.0
    up = model(torch.bfloat16)
    assert (
        updatable_share(up.model, 0.0030) == 1.0
    )  # below 1 the numbers lie closer: 1 - 0.003 is another one
    half = model(torch.bfloat16)
    with torch.no_grad():
        half.model.weight.fill_(-1.0)
    assert updatable_share(half.model, 0.0030) == 1.0


def wording(rows, lm=None, kind="sft"):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        return list(chapter._wording(lm or model(), rows, kind)), [str(w.message) for w in found]


def test_templates_that_spoil_the_training():
    assert (
        wording([HI])
        == wording([dict(prompt="hi")], kind="corpus")
        == wording([dict(text="hi")], kind="corpus")
        == wording(pairs(("a", "b", "c")), kind="pairs")
        == ([], [])
    )
    mute = model()
    mute.tokenizer.end = ""
    says = [
        "small: no answer ends with an end token, so the model would never learn to stop. Its chat template must write '.' after the answer"
    ]
    assert wording([HI], mute) == wording([dict(prompt="hi", completion="yo")], mute, "corpus") == wording(
        pairs(("a", "b", "c")), mute, "pairs"
    ) == (says, []) and wording([dict(text="hi")], mute, "corpus") == ([], [])
    assert wording([dict(HI, completion="y.")] + [HI] * 9, mute) == ([], [])  # one is enough
    for end in (111, [46, 111]):
        other = model(end=end)
        other.tokenizer.end = ""
        assert wording([HI], other) == ([], [])  # the letter o
    nothing = model(end=None)
    nothing.tokenizer.end = ""
    assert wording([HI], nothing)[0] == says
    bare = model()
    bare.tokenizer.pad_token_id = None
    assert wording([HI], bare) == (
        ["small: the tokenizer has no padding token; ftguide.models.ready gives it one"],
        [],
    )
    odd = model()
    odd.tokenizer.asks = "a:x"
    fine = dict(prompt="hi", completion="x")
    assert wording([HI] * 2 + [fine] * 8, odd) == (
        [],
        [
            "small: in 2 of 10 rows the prompt's last token joins the answer's first, so the model is asked in other tokens than it was taught. End the template's prompt with a special token"
        ],
    )
    assert wording([HI] + [fine] * 9, odd) == ([], [])  # one of ten
    odd.tokenizer.asks = "a:xx"
    fine = dict(prompt="hi", completion="xx")
    assert wording([HI] * 2 + [fine] * 8, odd) == (
        [
            "small: in 2 of 10 rows the prompt's tokens are others once the answer follows, so the loss starts at the wrong token. Mend the chat template"
        ],
        [],
    ) and wording([HI] + [fine] * 9, odd) == ([], [])
    assert (
        wording([fine] * 100 + [HI] * 50, odd) == wording([HI] * 10 + [fine] * 90 + [HI], odd) == ([], [])
    )  # a hundred rows show it
    assert wording([dict(prompt="hi", completion="xx"), dict(prompt="hi", completion=None)], odd, "corpus")[
        0
    ][0].startswith("small: in 1 of 2 rows the prompt's tokens are others")


def test_a_reference_that_is_another_model(monkeypatch):
    lm, same, other = model(), model(torch.bfloat16), model()
    with torch.no_grad():
        other.model.weight[0, 0] = 2
    other.name = "other"
    assert list(chapter._reference(lm, same)) == list(chapter._reference(lm, model())) == []
    says = "the reference (other) is not the model that training starts from: 1 of 1 weight tensors differ, so the first loss is not ln 2. Leave precompute_ref_log_probs on, or save the model and load it from there"
    assert list(chapter._reference(lm, other)) == [says]
    more = model()
    more.name = "other"
    more.model.extra = torch.nn.Parameter(torch.ones(1))
    assert list(chapter._reference(lm, more)) == [says.replace("1 of 1", "0 of 1")] and list(
        chapter._reference(more, lm)
    ) == [says.replace("other", "small").replace("1 of 1", "1 of 2")]
    wide = model()
    wide.name = "other"
    wide.model.weight = torch.nn.Parameter(torch.ones(2, 5))
    assert list(chapter._reference(lm, wide)) == [says]
    monkeypatch.setattr(ftguide.models, "load", lambda name: other)
    assert list(chapter._reference(lm, "a/folder")) == [says.replace("other", "folder")]

    def gone(name):
        raise ModelError(f"no model {name}")

    monkeypatch.setattr(ftguide.models, "load", gone)
    assert list(chapter._reference(lm, "none")) == ["the reference cannot be loaded: no model none"]


def test_tokens_that_mean_something_else():
    a, b = Letters(), Letters()
    b.get_vocab = lambda: {chr(i): i if i != 98 else 99 for i in range(97, 106)}
    assert different_tokens(a, Letters()) == [] and different_tokens(a, b) == [
        ("b", 98, 99),
        ("e", None, 101),
        ("f", None, 102),
        ("g", None, 103),
        ("h", None, 104),
    ]
    assert different_tokens(b, a)[1] == ("e", 101, None)


def test_preflight_asks_everything(monkeypatch):
    lm, other = model(), model()
    other.name = "teacher"
    other.tokenizer.get_vocab = lambda: {"b": 1}
    rows, eight = [HI] * 8, pairs(*((f"q{i}", "a", "b") for i in range(8)))
    assert (
        preflight(lm, rows) == rows
        and preflight(lm, eight, "dpo") == eight
        and preflight(lm, [dict(prompt="hi")], "distill") == [dict(prompt="hi")]
    )
    assert error(preflight, lm, rows, "kto") == "method must be sft, dpo or distill, not 'kto'" and error(
        preflight, lm, [dict(prompt="a")]
    ).startswith("row 1: columns found")
    assert (
        "no step would be made" in error(preflight, lm, rows, epochs=0)
        and "in batches of 9" in error(preflight, lm, rows, batch_size=9)
        and "only step" in error(preflight, lm, rows[:4])
        and preflight(lm, rows[:4], epochs=2)
        and "max_steps=0" in error(preflight, lm, rows, config=dict(max_steps=0))
    )
    assert "changes only" in error(preflight, model(torch.bfloat16), rows, learning_rate=1e-3)
    says = error(preflight, lm, rows, "distill", teacher=other)
    assert (
        says
        == "teacher and student have different tokenizers (first difference, token and its two ids: ('a', None, 97)), so soft labels would teach the wrong tokens. Use alpha=0, which teaches with the teacher's text"
    )
    assert (
        preflight(lm, rows, "distill", teacher=other, alpha=0)
        == preflight(lm, rows, "distill", teacher=model())
        == rows
        and error(preflight, lm, rows, "distill", teacher=other, alpha=0.01) == says
    )
    changed = model()
    with torch.no_grad():
        changed.model.weight[0, 0] = 2
    assert (
        "not the model that" in error(preflight, lm, eight, "dpo", reference=changed)
        and preflight(lm, eight, "dpo", reference=model()) == eight
    )
    asked = []
    monkeypatch.setattr(chapter, "_reference", lambda lm, reference: asked.append(reference) or [])
    for how in (
        dict(config=dict(precompute_ref_log_probs=False)),
        dict(config=dict(precompute_ref_log_probs=False), lora=True),
        dict(config=dict(precompute_ref_log_probs=True)),
        dict(config=dict(precompute_ref_log_probs=False), reference="r"),
    ):
        preflight(lm, eight, "dpo", **how)
    preflight(lm, rows, config=dict(precompute_ref_log_probs=False))
    assert asked == ["somewhere", "r"]
    mute = model()
    mute.tokenizer.end = ""
    assert "no answer ends" in error(preflight, mute, rows)


def test_preflight_of_a_stream_looks_at_its_head(monkeypatch):
    monkeypatch.setattr(chapter, "is_streamed", lambda data: True)
    eight = pairs(*((f"q{i}", "a", "b") for i in range(8)))
    assert (
        preflight(model(), iter(eight), "dpo", config=dict(max_steps=1)) == eight
        and error(preflight, model(), iter(eight), "dpo")
        == "a stream has no length, so max_steps must say how many steps to take"
    )


def test_preflight_looks_at_lengths():
    lm, short, long = model(), model(positions=20), dict(HI, completion="y" * 40)
    short.name = "teacher"
    said = error(preflight, lm, [HI] * 8 + [long])
    assert (
        said
        == "1 of 9 rows do not fit into small's context of 40 tokens: row 9 (48 tokens). Shorten or remove them"
    )
    with pytest.raises(DataError):
        preflight(lm, [HI] * 8 + [long])
    with pytest.raises(ValueError) as e:
        preflight(lm, [HI] * 2 + [long])
    assert (
        type(e.value) is ValueError
        and str(e.value)
        == "the only step would have the learning rate 0, because warm-up begins there: 3 rows in batches of 4. Take more epochs, a smaller batch_size, or warmup_steps=0; 1 of 3 rows do not fit into small's context of 40 tokens: row 3 (48 tokens). Shorten or remove them"
    )
    assert error(preflight, lm, [dict(prompt="q" * 20)] * 8, "distill", teacher=short, alpha=0).startswith(
        "8 of 8 rows do not fit into teacher's context of 20 tokens"
    )
    with pytest.warns(UserWarning) as found:
        assert preflight(lm, [HI] * 2 + [long], force=True) == [HI] * 2 + [long]
    assert [str(w.message)[:38] for w in found] == [
        "training all the same: the only step w",
        "training all the same: 1 of 3 rows do ",
    ]
    packed = lambda n, positions=40: preflight(
        model(positions=positions), [HI] * n, config=dict(packing=True)
    )  # ten tokens a row
    assert (
        packed(17)
        and "4 rows in batches of 4" in error(packed, 16)
        and "4 rows in batches" in error(packed, 13)
        and "3 rows in batches" in error(packed, 12)
    )
    roomy = model(positions=5000)
    roomy.tokenizer.model_max_length = 5000
    assert "1 rows in batches" in error(
        preflight, roomy, [HI] * 409, config=dict(packing=True)
    ) and "2 rows in batches" in error(
        preflight, roomy, [HI] * 408 + [dict(HI, completion="y" * 9)], config=dict(packing=True)
    )
