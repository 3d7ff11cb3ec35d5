"Tokens of a row and the start of its answer, counted by hand."

import pytest
from letters import Letters
from made_rows import HI, TASKS, error, small_model, talk

from ftguide.engine.spans import Span, check_lengths, lengths, spans
from ftguide.market import load_tasks
from ftguide.models import encode, load


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


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
    check_lengths(small_model(), rows[:2])
    check_lengths(small_model(), [dict(text="x" * 39)], "corpus")
    assert error(check_lengths, small_model(), rows[:4]) == (
        "2 of 4 rows do not fit into small's context of 40 tokens: row 3 (41 tokens), "
        "row 4 (48 tokens). Shorten or remove them"
    )
    assert error(check_lengths, small_model(), rows, room=1) == (
        "4 of 5 rows do not fit into small's context of 39 tokens: row 2 (40 tokens), "
        "row 3 (41 tokens), row 4 (48 tokens) .... Shorten or remove them"
    )
    assert error(check_lengths, small_model(), rows[:4] + [HI], room=1).startswith(
        "3 of 5"
    ) and " ..." not in error(check_lengths, small_model(), rows[:4], room=1)
    assert error(check_lengths, small_model(), [dict(text="x" * 40)], "corpus").startswith("1 of 1 rows")


def test_spans_are_those_of_encode(tiny):
    rows = load_tasks("train", 40, "pt", TASKS) + [
        dict(
            prompt=[dict(role="system", content="Be brief."), dict(role="user", content="Hi")],
            completion="\n Hello",
        )
    ]
    for s, r in zip(spans(tiny.tokenizer, rows), rows):
        ids, labels = encode(tiny.tokenizer, r["prompt"], r["completion"])
        assert (s.length, s.start) == (len(ids), labels.count(-100)) and s.ends
