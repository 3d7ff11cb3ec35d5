"Every finding on a planted failure, and none on clean rows: which row, which number, which words."

import json
import random
import string
from types import SimpleNamespace

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from letters import Letters
from made_rows import FUZZ, HI, ROW, TASKS, any_kind, any_rows, error, pairs, said, sft, small_model

import ftguide.data as data
from ftguide.data import split
from ftguide.engine.checks import Finding, Findings, few_rows, length_bias, shorten
from ftguide.engine.formats import DataError
from ftguide.engine.personal_data import personal_data
from ftguide.engine.preflight import preflight
from ftguide.engine.rows import read
from ftguide.market import load_tasks
from ftguide.models import LM, load


@pytest.fixture(scope="module")
def small():
    return load("tiny-small")


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


def check(*args, **how):
    found = data.check(*args, **how)
    assert all(type(x) is str for f in found.found for x in (f.do, f.where, f.example)) and all(
        f.do for f in found.found
    )  # every finding says what to do
    return found


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
    assert str(found) == (
        "1,000 rows: 1 error, 2 warnings\nerror    a: 2 (0.2%), row 2, row 3\n         x "
        "|y\n         mend\nwarning  b: 1 (0.1%)\n         look\nwarning  c: 1 (0.1%), "
        "row 3\n         look\nnote     d: 1 (0.1%)\n         z\n         know"
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
            (
                f"{base[:35].lower()} … {(base.lower() + ' ? → seven lamps.')[-35:]} ≈ "
                f"{base[:35].lower()} … {(base.lower() + '? → seven lamps.')[-35:]} (99 % "
                "alike)"
            ),
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
        (
            "“at least 500 rows” is folklore. Train on a quarter, a half and all of them; "
            "while the curve still rises, more rows pay"
        ),
    )


def test_enough_rows():
    sheet = lambda n, kind: list(few_rows(SimpleNamespace(rows=[0] * n, kind=kind)))
    assert (
        sheet(1000, "sft") == []
        and "1,000 pairs" in sheet(999, "pairs")[0].do
        and "100,000 documents" in sheet(1, "corpus")[0].do
    )


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
        "••••••" in shorten("to ana@example.com")
        and "ana" not in shorten("to ana@example.com")
        and shorten("x" * 70) == "x" * 70
        and shorten("x" * 36 + "y" * 35) == "x" * 35 + " … " + "y" * 35
    )
    assert shorten("abcdefgh", 6) == "abc … fgh"
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
        answers=[[r["chosen"], r["rejected"]] for r in rows],
        finding=lambda name, severity, rows, do, example="": [(name, severity, list(rows), example)],
    )
    found = [f for f in length_bias(sheet) if f[0] == "length bias"]
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
        check(rows, small_model(positions=20)).max_length == 20
        and check(rows, small_model(), max_length=12).max_length == 12
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
    odd = dict(prompt="(judge)", completion="y")
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

    monkeypatch.setattr("ftguide.engine.checks.progress_bar", bar)
    check([HI] + sft(("Zed?", "Yes.")))
    assert seen == [(None, "reading"), 1, 1, (2, "checking"), 2]
    seen.clear()
    check([HI] + sft(("Zed?", "Yes.")), Letters())
    assert seen == [(None, "reading"), 1, 1, (4, "checking"), 2, 2]


def test_missing_libraries_are_named(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    for gone in (["scipy"], ["datasketch", "stdnum"], ["phonenumbers", "rapidfuzz"]):
        monkeypatch.setattr(
            "ftguide.engine.checks.find_spec", lambda name, gone=gone: None if name in gone else real(name)
        )
        with pytest.raises(ModuleNotFoundError, match=f"needs {', '.join(gone)}: pip install"):
            check([HI])


@FUZZ
@given(any_rows, any_kind, st.booleans())
def test_fuzz_check(tiny, data, kind, with_tokens):
    try:
        found = check(
            data, tiny if with_tokens else None, kind, test=[{"prompt": "a b c", "completion": "d"}]
        )
    except DataError:
        return
    assert isinstance(found, Findings) and found.n == len(data)
    assert all(0 <= i < len(data) for f in found.found for i in f.rows)
    str(found).encode("utf-8")
    found.markdown().encode("utf-8")


def test_one_line_of_ten_megabytes(tmp_path, tiny):
    words = " ".join(
        random.Random(0).choices(
            ["".join(p) for p in zip(string.ascii_lowercase, string.ascii_lowercase[1:])], k=3_400_000
        )
    )
    long = dict(ROW, prompt=words)
    (tmp_path / "long.jsonl").write_text(
        "\n".join(
            json.dumps(r)
            for r in (
                ROW,
                long,
                dict(long, completion="5"),
                dict(ROW, prompt="a" * 10_000_000),
                dict(ROW, prompt="@1 " * 3_000_000),
            )
        ),
        encoding="utf-8",
    )
    assert len(read(tmp_path / "long.jsonl")) == 5
    found = check(tmp_path / "long.jsonl")
    assert found["contradictory answers"].rows == [1, 2] and len(str(found)) < 5000
    assert check([ROW, dict(ROW, prompt=words[:200_000])], tiny)["no trained token"].rows == [1]


def test_every_turn_of_a_conversation_counts():
    talk = lambda second, last: dict(
        messages=said(
            ("user", "Hello, I need help."),
            ("assistant", "Of course."),
            ("user", second),
            ("assistant", last),
        )
    )
    rows = [
        talk("Where is my blue mug?", "In the post."),
        talk("How large is the kettle?", "In the post."),
        talk("How large is the kettle?", "Two litres."),
        talk("I am ana.b@example.com, CPF 529.982.247-25", "Thank you."),
    ]
    found = check(rows)
    assert (
        "exact duplicates" not in found
        and found["contradictory answers"].rows == [1, 2]
        and found["personal data"].rows == [3]
    )
    assert check([*rows[:1], *rows[:1]])["exact duplicates"].rows == [1]


def test_a_system_message_hides_no_leak():
    rows = [dict(prompt=f"How much is {i} + {i}?", completion=str(2 * i)) for i in range(20)]
    test = [
        dict(messages=said(("system", "Be kind."), ("user", rows[3]["prompt"]), ("assistant", "6"))),
        dict(prompt=said(("system", "Be brief."), ("user", rows[5]["prompt"])), completion="10"),
    ]
    assert check(rows, test=test)["train/test leakage"].rows == [3, 5]


def test_a_greeting_is_no_answer():
    rows = [
        dict(
            messages=said(
                ("system", "Be kind."),
                ("assistant", "Hello! What can I do?"),
                ("user", f"How much is {i} + {i}?"),
                ("assistant", str(2 * i)),
            )
        )
        for i in range(100)
    ]
    assert [len(part) for part in split(rows)] == [80, 10, 10]
    found = check(rows[:80], test=rows[80:])
    assert "train/test leakage" not in found and "contradictory answers" not in found


@pytest.fixture(scope="module")
def clean():
    return load_tasks("train", 1000, "en", TASKS)


@pytest.mark.parametrize(
    "name, row",
    [
        ("exact duplicates", lambda r: dict(r, prompt="  " + r["prompt"].upper())),
        ("near duplicates", lambda r: dict(r, completion=r["completion"] + " Hurry!")),
        ("contradictory answers", lambda r: dict(r, completion="Not that.")),
        (
            "vague prompts",
            lambda r: dict(prompt="Resuma o texto abaixo, por favor.", completion="Um resumo."),
        ),
        ("unfilled templates", lambda r: dict(prompt="Rewrite {{text}} politely.", completion="Done.")),
        (
            "truncated answers",
            lambda r: dict(r, prompt="Why the Zed-9?", completion="Because the Zed-9 is made of steel and …"),
        ),
        (
            "truncated answers",
            lambda r: dict(
                r,
                prompt="Why the Zed-8?",
                task="ad",
                completion="Because the Zed-8 is made of steel and comes with a",
            ),
        ),
        ("unusable rows", lambda r: dict(r, completion=None)),
        ("unusable rows", lambda r: dict(r, completion="\u200b\ufeff")),
        ("unfilled templates", lambda r: dict(prompt="Rewrite [TEXT] politely.", completion="Done.")),
        ("wrong encoding", lambda r: dict(prompt="Quem Ã© Zed?", completion="Um homem.")),
        (
            "system prompt in answers",
            lambda r: dict(prompt="Who is Zed?", completion="You are a helpful assistant. Zed is a man."),
        ),
        ("personal data", lambda r: dict(prompt="Whose number is it?", completion="529.982.247-25")),
        ("cut answers", lambda r: dict(prompt="Is it wide?", completion="very " * 600)),
        ("no trained token", lambda r: dict(prompt="very " * 600, completion="Yes.")),
    ],
)
def test_planted(name, row, clean, tiny):
    assert name not in check(clean, tiny)
    found = check(clean + [row(clean[0])], tiny)
    assert len(clean) in found[name].rows and len(found[name].rows) <= 2
    assert found[name].do and found[name].where and name in str(found) and name in found.markdown()
    if found[name].severity != "note":
        assert len(clean) not in [
            i for i, r in enumerate(clean + [0]) if r in found.without(clean + [0], name)
        ]


@pytest.mark.parametrize("lang", ["en", "pt"])
@pytest.mark.parametrize("seed", [1, 2])
def test_clean_rows_are_not_flagged(lang, seed, tiny):
    found = check(
        load_tasks("train", 2000, lang, TASKS, seed=seed),
        tiny,
        test=load_tasks("test", 500, lang, TASKS, seed=seed),
    )
    assert len(found.flagged()) <= 0.01 * found.n, found


def test_clean_pairs_are_not_flagged(tiny):
    rows, other = load_tasks("train", 600, "en", ("ad",)), load_tasks("train", 600, "en", ("ad",), seed=9)
    rng = random.Random(0)
    sides = [rng.sample([r["completion"], o["completion"]], 2) for r, o in zip(rows, other)]
    found = check(
        [dict(prompt=r["prompt"], chosen=c, rejected=j) for r, (c, j) in zip(rows, sides)], tiny, "pairs"
    )
    assert len(found.flagged()) <= 0.01 * found.n, found


def test_leakage_also_of_near_copies(clean):
    test = load_tasks("test", 100, "en", ("ad", "summary"))
    found = check(
        clean
        + [
            dict(test[0], prompt=test[0]["prompt"].lower()),
            dict(test[1], prompt="Please: " + test[1]["prompt"]),
        ],
        test=test,
    )
    assert (
        found["train/test leakage"].rows == [1000]
        and found["near leakage"].rows == [1001]
        and found.errors[0].name == "train/test leakage"
    )


def test_what_only_pairs_have():
    pair = lambda q, c, r: dict(prompt=q, chosen=c, rejected=r)
    found = check(
        [pair("q", "a", "b"), pair("Q ", "b", "a"), pair("other", "a", "b"), pair("x", "Same.", "same. ")],
        kind="pairs",
    )
    assert found["circular preferences"].rows == [0, 1] and found["chosen equals rejected"].rows == [3]
    shorter = check([pair(f"q{i}", f"short {i}", f"a good deal longer {i}") for i in range(40)], kind="pairs")
    assert "shorter answer is chosen in 100% of 40" in shorter["length bias"].example
    assert "length bias" not in check(
        [pair(f"q{i}", f"short {i}", f"a good deal longer {i}") for i in range(6)], kind="pairs"
    )


def test_labels_and_small_data():
    rows = lambda share: [
        dict(prompt=f"Review {i} of Zed-{i}", completion="good" if i % 100 < share else "bad", task="s")
        for i in range(200)
    ]
    assert (
        "unbalanced labels" in check(rows(90))
        and "unbalanced labels" not in check(rows(60))
        and "unbalanced labels" in check(rows(100))
    )
    assert "few rows" in check(rows(50)) and not check(rows(50))["few rows"].rows


@pytest.mark.parametrize(
    "template, name",
    [
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "no end token"),
        (
            "{% for m in messages %}{{ loop.length }}{{ m['content'] }}{{ eos_token }}{% endfor %}",
            "prompt changes",
        ),
        ("{% for m in messages %}{{ raise_exception('no') }}{% endfor %}", "template refuses"),
    ],
)
def test_broken_templates(template, name, tiny):
    broken = tiny.copy().tokenizer
    broken.chat_template = template
    assert [f.name for f in check([ROW] * 1 + [dict(ROW, prompt="How much is 3 + 3?")], broken).errors] == [
        name
    ]


def test_a_prompt_that_ends_in_line_breaks(small):
    "A byte-level tokenizer joins line breaks at the end of a text and parts them before a word."
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from ftguide.models import PLAIN_TEMPLATE

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.train_from_iterator(
        ["Hi there\n\n"] * 50,
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<eos>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tok = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<eos>", pad_token="<eos>", model_max_length=100
    )
    tok.chat_template = PLAIN_TEMPLATE
    assert "prompt's end changes" not in check([ROW, dict(ROW, prompt="Hi there")], tok)
    tok.chat_template = PLAIN_TEMPLATE.replace("\n", "\n\n")
    found = check([ROW, dict(ROW, prompt="Hi there")], tok)
    assert found["prompt's end changes"].rows == [0, 1] and not found.errors
    with pytest.warns(UserWarning, match="last token joins"):
        preflight(LM(small.model, tok), [ROW] * 8)


def test_personal_data_is_not_printed():
    found = check(
        [
            dict(prompt="Whose is ana@example.com?", completion="529.982.247-25"),
            dict(prompt="Whose is ana@example.com?", completion="Nobody's."),
        ]
    )
    assert "ana@" not in str(found) + found.markdown() and "529" not in str(found) + found.markdown()


def test_findings_can_be_walked():
    "A loop ends: a name that was not found is no finding of the loop."
    found = check(sft(("hi", "a long enough answer."), ("hi", "another answer here.")))
    assert [finding.name for finding in found] == [finding.name for finding in found.found]


def test_system_prompts_in_answers():
    system = "Answer in one short line, and never name a price."
    talk = lambda answer: dict(messages=said(("system", system), ("user", "Where?"), ("assistant", answer)))
    rows = [
        talk("On the shelf."),
        talk(f"Sure. {system.upper()}  On the shelf."),
        dict(prompt=said(("system", system), ("user", "When?")), completion=f"{system} Now."),
        dict(prompt="Who?", completion="<<SYS>> Be kind. <</SYS>> Zed."),
        dict(prompt="Quem é Zed?", completion="Você é um assistente prestativo. Zed é um homem."),
        dict(prompt="What do I do at Zed?", completion="You are an assistant manager there."),
        dict(prompt="Is Zed a kind of system?", completion="System requirements are low for Zed."),
        dict(
            messages=said(("system", "Be kind."), ("user", "How?"), ("assistant", "Be kind."))
        ),  # too short to tell
    ]
    found = check(rows)["system prompt in answers"]
    assert found.rows == [1, 2, 3, 4] and found.severity == "warning"


def test_control_and_unknown_tokens_are_found_with_a_model(small):
    rows = [dict(prompt=f"Where is mug {i}?", completion=f"On shelf {i}.") for i in range(6)]
    end = small.tokenizer.eos_token
    rows[2]["completion"] += f" {end} And more."
    assert check(rows, small)["control tokens"].rows == [2] and "control tokens" not in check(rows)


def test_prompts_in_answers_and_columns_that_nobody_reads_are_found(tiny):
    rows = [dict(prompt=f"Which colour is mug {i}?", completion=f"It is blue {i}.") for i in range(10)]
    twice = [dict(row, completion=f"{row['prompt']} {row['completion']}") for row in rows]
    found = check(twice[:6] + rows[6:], tiny)["prompt repeated"]
    assert (found.severity, found.rows) == ("error", list(range(6)))
    found = check(twice[:5] + rows[5:])["prompt repeated"]
    assert (found.severity, found.rows) == ("warning", list(range(5)))
    assert "prompt repeated" not in check(rows)
    found = check([*rows[:7], *(dict(row, weight=2) for row in rows[7:])])["not read"]
    assert (found.severity, found.rows, found.example) == ("warning", [7, 8, 9], "column weight: 3")
    found = check([dict(rows[0], id=1, task="x"), dict(rows[1], id=2, source="y"), *rows[2:]])
    assert found["other columns"].example == "id: 2, source: 1" and not found.errors + found.warnings


def test_systems_tools_and_names_are_found_by_check_where_the_template_does_not_write_them(tiny):
    rows = [dict(prompt=f"Which colour is mug {i}?", completion=f"It is blue {i}.") for i in range(4)]
    tools = [dict(type="function", function=dict(name="lookup"))]
    found = check([*rows[:3], dict(rows[3], tools=tools)], tiny)["text left out"]
    assert (found.severity, found.rows, found.example) == ("error", [3], "the tool lookup")
    named = [dict(said(("user", "Hi"))[0], name="Ana"), *said(("assistant", "Yes"))]
    found = check([*rows, dict(messages=named)], tiny)["keys left out"]
    assert (found.severity, found.rows, found.example) == ("warning", [4], "name")
    with_system = check([dict(row, system=f"Sell {i}.") for i, row in enumerate(rows)], tiny)
    assert not with_system.errors and with_system.n == 4
