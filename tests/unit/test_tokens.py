"Tokens of a row and the start of its answer, counted by hand."

import pytest
from letters import Letters
from made_rows import HI, TASKS, error, small_model, talk

from ftguide.engine.conversations import REFUSED
from ftguide.engine.tokens import check_lengths, lengths, row_limit, tokenised
from ftguide.market import load_tasks
from ftguide.models import encode, load

JUDGE = dict(prompt=[dict(role="judge", content="x")], completion="y")


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


def seen(letters, rows, kind="sft", ends=(46,)):
    "Length, first scored token, changed tokens of the prompt, does it end? None where the template refuses."
    return [
        None if row.refused else (row.length, row.start, row.changed, row.ends(set(ends)))
        for row in tokenised(letters, rows, kind)
    ]


def test_rows_are_counted_in_tokens():
    letters = Letters()
    pair = lambda c, r: dict(prompt="hi", chosen=c, rejected=r)
    assert seen(letters, [HI, dict(messages=talk("hi", "yo", "and", "so"))]) == [
        (10, 7, 0, True),
        (21, 7, 0, True),
    ]
    assert seen(letters, [pair("yo", "good"), pair("good", "yo")], "pairs") == [(12, 7, 0, True)] * 2
    assert seen(letters, [HI, JUDGE, HI]) == [(10, 7, 0, True), None, (10, 7, 0, True)]
    assert tokenised(letters, []) == []
    assert seen(letters, [HI], ends=[ord("o")])[0][3] and not seen(letters, [HI], ends=[ord("u")])[0][3]
    assert seen(letters, [dict(prompt="hi", completion=[dict(role="assistant", content="yo")])]) == [
        (10, 7, 0, True)
    ]
    told = []
    assert len(tokenised(letters, [HI] * 2001, progress=told.append)) == 2001 and told == [1000, 1000, 1]


def test_a_corpus_is_prompts_answered_prompts_and_texts():
    rows = [dict(prompt="hi"), dict(text="hello"), dict(prompt="hi", text="x"), dict(HI), JUDGE]
    found = tokenised(Letters(), rows, "corpus")
    assert [row.length for row in found[:4]] == [7, 7, 7, 10]
    assert [row.parts[0].answers for row in found[:4]] == [(), ((1, 7),), (), ((7, 10),)]
    assert found[4].refused and tokenised(Letters(), [dict(prompt=JUDGE["prompt"])], "corpus")[0].refused


def test_every_token_is_scored_where_that_is_asked_for():
    (row,) = tokenised(Letters(), [HI], prompts_too=True)
    assert row.parts[0].labels == list(row.parts[0].ids) == row.parts[0].scored and row.start == 0


def test_templates_that_change_the_prompt():
    letters = Letters()
    pair = dict(prompt="hi", chosen="yo", rejected="no")
    letters.asks = "a:y"
    assert seen(letters, [pair, dict(pair, chosen="no", rejected="yo")], "pairs") == [(10, 7, 1, True)] * 2
    assert seen(letters, [HI]) == [(10, 8, 0, True)]
    letters.asks = "a:yo.and"
    assert seen(letters, [HI]) == [(10, 10, 3, False)]
    letters.asks = "a:"
    letters.end = ""
    assert (
        seen(letters, [dict(pair, chosen="y.")], "pairs")
        == seen(letters, [dict(pair, rejected="n.")], "pairs")
        == [(8, 6, 0, False)]
    )
    assert seen(letters, [dict(pair, chosen="y.", rejected="n.")], "pairs") == [(8, 6, 0, True)]
    letters.sure = False
    assert seen(letters, [HI]) == [(9, 0, 7, False)]


def test_rows_that_do_not_fit_are_named():
    assert lengths(Letters(), [HI, dict(HI, completion="good")]) == [10, 12]
    assert lengths(Letters(), [dict(text="x")], "corpus") == [3]
    assert error(lengths, Letters(), [HI, JUDGE]) == (
        "row 2: the chat template cannot write it; look at the order of its roles (no judges)"
    )
    rows = [HI, dict(HI, completion="y" * 32), *[dict(HI, completion="y" * n) for n in (33, 40, 40, 40)]]
    check_lengths(small_model(), rows[:2])
    check_lengths(small_model(), [dict(text="x" * 38)], "corpus")
    assert error(check_lengths, small_model(), rows[:4]) == (
        "2 of 4 rows do not fit into small's context of 40 tokens: row 3 (41 tokens), "
        "row 4 (48 tokens). Shorten or remove them"
    )
    assert error(check_lengths, small_model(), rows) == (
        "4 of 6 rows do not fit into small's context of 40 tokens: row 3 (41 tokens), "
        "row 4 (48 tokens), row 5 (48 tokens) .... Shorten or remove them"
    )
    assert error(check_lengths, small_model(), [dict(text="x" * 40)], "corpus").startswith("1 of 1 rows")


@pytest.mark.parametrize(
    "config, limit",
    [
        ({}, 40),
        (dict(max_length=28), 28),
        (dict(max_length=99), 40),
        (dict(max_length=None), 40),
        (dict(packing=True), 40),
    ],
)
def test_what_training_keeps_of_a_row(config, limit):
    assert row_limit(small_model(), config) == limit


def test_packing_keeps_4096_tokens_of_a_longer_context():
    roomy = small_model(positions=8192)
    roomy.tokenizer.model_max_length = 8192
    assert row_limit(roomy) == 8192 and row_limit(roomy, dict(packing=True)) == 4096
    assert row_limit(roomy, dict(packing=True, max_length=5000)) == 5000


def test_a_row_in_tokens_is_what_encode_makes_of_it(tiny):
    rows = load_tasks("train", 40, "pt", TASKS) + [
        dict(
            prompt=[dict(role="system", content="Be brief."), dict(role="user", content="Hi")],
            completion="\n Hello",
        )
    ]
    for found, row in zip(tokenised(tiny.tokenizer, rows), rows):
        (tokens,) = found.parts
        assert (list(tokens.ids), tokens.labels) == encode(tiny.tokenizer, row["prompt"], row["completion"])
        assert found.ends({tiny.tokenizer.eos_token_id}) and not found.faults


def test_a_refusal_says_why():
    (row,) = tokenised(Letters(), [JUDGE])
    assert row.faults == (REFUSED,) and row.length == 0
    assert error(row.check, "row 7") == (
        "row 7: the chat template cannot write it; look at the order of its roles (no judges)"
    )
