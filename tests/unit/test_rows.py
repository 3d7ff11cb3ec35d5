"One reading of a row, beside results written by hand; and what the same question is."

import subprocess
import sys

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made_rows import HI, ROW, error, said, talk

from ftguide.data import split
from ftguide.engine.formats import DataError
from ftguide.engine.rows import (
    Row,
    answer_text,
    conversation_text,
    normalised_text,
    question_key,
    question_spellings,
    read,
    request_key,
    same_question,
    stream,
    without_questions,
)
from ftguide.engine.tokens import tokenised
from ftguide.engine.training_data import to_trl
from ftguide.models import load


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


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
            "row 1: column 'messages', message 1 (user): content is missing; give it text, "
            'or "" beside tool_calls',
        ),
        (
            dict(messages=[dict(role=1, content="a")]),
            "sft",
            "row 1: column 'messages', message 1: the role '1'; expected system, user, assistant or tool",
        ),
        (
            dict(messages=[dict(role="user", content=2)]),
            "sft",
            "row 1: column 'messages', message 1 (user): content must be text, found int",
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
            dict(messages=talk("a", "b", "c", " ")),
            "sft",
            "row 1: message 4, of the assistant, is empty, and the model would learn to say nothing; "
            "fill it, or remove the row",
        ),
        (
            dict(messages=[talk("a")[0], dict(role="assistant", content="b", weight=0)]),
            "sft",
            "row 1: no message of the assistant says anything; there is nothing to learn",
        ),
        (
            dict(prompt="a", completion=[dict(role="tool", content="b")]),
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
            (
                "row 1: column 'completion' holds half a character ('\\ud83d' at 2); write "
                "the file again as UTF-8"
            ),
        ),
        (
            dict(messages=talk("é", "\udc00")),
            "sft",
            "row 1: column 'messages' holds half a character ('\\udc00' at 0); write the file again as UTF-8",
        ),
        (
            dict(messages=[dict(role="user\ud83d", content="a"), *talk("a", "b")]),
            "sft",
            "row 1: column 'messages', message 1: the role 'user\\ud83d'; "
            "expected system, user, assistant or tool",
        ),
        (
            dict(messages=[*talk("a", "b"), dict(role="assistant", content="c")]),
            "sft",
            "row 1: message 3 is of the assistant, and so is the one before it; "
            "make one message of both, or put what was said between them there",
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


def test_prompts_and_answers_as_text():
    assert normalised_text(" A\tß\n b ") == "a ss b"
    assert (
        Row(dict(messages=talk("a", "b", "c", "d"))).question == "a"
        and Row(dict(messages=[dict(role="system", content="s"), *talk("a", "b")])).question == "s\na"
    )
    assert (
        Row(dict(text="t")).question == "t" and Row(dict(prompt=talk("a", "b"), text="t")).question == "a\nb"
    )
    assert error(
        lambda: Row(dict(a=1, b=2)).question
    ) == "a row has no prompt, messages or text, only a, b; read() checks rows" and "only nothing;" in error(
        lambda: Row({}).question
    )
    assert (
        Row(dict(messages=talk("a", "b", "c", "d")), "sft").answers == ["b", "d"]
        and Row(dict(HI, messages=1), "sft").answers == ["yo"]
        and Row(HI, "corpus").answers == []
    )
    assert Row(dict(chosen=talk("x", "c"), rejected="r"), "pairs").answers == ["x\nc", "r"]


def test_alpacas_columns_are_one_prompt(tmp_path):
    rows = [
        dict(instruction="Translate to French.", input="Good morning", output="Bonjour."),
        dict(instruction="Name a colour.", input="", output="blue"),
        dict(instruction="Name a size.", input=None, output="30 cm"),
    ]
    assert [r["prompt"] for r in read(rows)] == [
        "Translate to French.\n\nGood morning",
        "Name a colour.",
        "Name a size.",
    ]
    (tmp_path / "a.csv").write_text("Instruction;Input;Output\nAdd.;2 and 3;5\nSay no.;;no\n")
    assert [(r["prompt"], r["completion"]) for r in read(tmp_path / "a.csv")] == [
        ("Add.\n\n2 and 3", "5"),
        ("Say no.", "no"),
    ]
    assert read([dict(instruction="be brief", prompt="Hi", completion="Ho")])[0]["prompt"] == "Hi"
    for row, says in (
        (dict(instruction=" ", input="", output="x"), "column 'instruction' is empty"),
        (dict(input="", output="x"), "column 'input' is empty"),
        (dict(input="a", output=3), "column 'output' must be text"),
        (
            dict(instruction="a", response="b"),
            "columns found: instruction, response; expected: prompt, completion",
        ),
    ):
        with pytest.raises(DataError, match=says):
            read([row])


def test_a_prompt_repeated_in_the_answers_is_taken_out_of_them(tiny):
    "UltraFeedback's columns: the answers are whole conversations."
    pair = dict(
        prompt="Ad?",
        chosen=said(("user", "Ad?"), ("assistant", "A mug.")),
        rejected=said(("user", "Ad?"), ("assistant", "no")),
    )
    plain = dict(prompt="Ad?", chosen=said(("assistant", "A mug.")), rejected=said(("assistant", "no")))
    assert (
        read([pair], "pairs") == [plain]
        and read([dict(pair, prompt=said(("user", "Ad?")))], "pairs")[0]["chosen"] == plain["chosen"]
    )
    assert read([dict(prompt="Ad?", completion=pair["chosen"])]) == [
        dict(prompt="Ad?", completion=plain["chosen"])
    ]
    assert tokenised(tiny.tokenizer, read([pair], "pairs"), "pairs") == tokenised(
        tiny.tokenizer, [dict(prompt="Ad?", chosen="A mug.", rejected="no")], "pairs"
    )
    with pytest.raises(
        DataError, match="row 1: column 'chosen' begins with a message of the user that is not the prompt"
    ):
        read([dict(pair, prompt="Another?")], "pairs")
    with pytest.raises(
        DataError, match="row 1: column 'chosen' begins with a message of the system that is not the prompt"
    ):
        read([dict(pair, chosen=said(("system", "Sell.")) + pair["chosen"])], "pairs")
    with pytest.raises(DataError, match="row 1: column 'rejected' is empty"):
        read([dict(pair, rejected=said(("user", "Ad?"), ("assistant", " ")))], "pairs")


def test_two_shapes(tmp_path):
    talk = [dict(role="user", content="Hi"), dict(role="assistant", content="Hello")]
    assert read([dict(ROW, messages=None)]) == [ROW] and read([dict(messages=talk, prompt=None)]) == [
        dict(messages=talk)
    ]
    with pytest.raises(DataError, match="row 1 has prompt, completion and row 2 has messages"):
        to_trl(read([ROW, dict(messages=talk)]))
    with pytest.raises(DataError, match="one table"):
        to_trl([dict(messages=[dict(talk[0], name=1), dict(talk[1], name=["x"])])])
    with pytest.raises(DataError, match="'messages' is empty"):
        read([dict(messages=[dict(role="user", content="")])])
    with pytest.raises(DataError, match="must be text, found list"):
        read([dict(text=talk)], "corpus")
    with pytest.raises(DataError, match="must be a list of messages, found str"):
        read([dict(messages="Hi")])
    with pytest.raises(DataError, match="no prompt, messages or text, only a"):
        split([dict(a=1)])


def test_stream_stops_at_the_bad_row():
    rows = stream([ROW, {"prompt": ""}])
    assert next(rows) == ROW
    with pytest.raises(DataError, match="row 2"):
        next(rows)
    with pytest.raises(ValueError, match="kind"):
        stream([ROW], "nonsense")


def test_a_million_rows_in_constant_memory(tmp_path):
    with open(tmp_path / "many.jsonl", "w") as f:
        for i in range(1_000_000):
            f.write(f'{{"prompt": "How much is {i} + 1?", "completion": "{i + 1}"}}\n')
    code = """import resource, sys
from ftguide.engine.rows import stream
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = stream(sys.argv[1])
for _ in range(1000): next(rows)
before = peak(); n = 1000 + sum(1 for _ in rows)
print(n, peak() - before)"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "many.jsonl"], capture_output=True, text=True, check=True
    )
    n, grown = map(int, done.stdout.split())
    assert n == 1_000_000 and grown < 20_000 * (1 if sys.platform != "darwin" else 1000)  # kB; bytes on a Mac


words = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), min_size=1, max_size=5).map(
    " ".join
)


def spoken(text: str, rng) -> str:
    "The same words in another case and with other spaces."
    return "".join(
        rng.choice((" ", "\n\t ", "  ")) if c == " " else c for c in rng.choice((text, text.upper()))
    )


@settings(max_examples=150)
@given(words, words, words, st.booleans(), st.booleans(), st.randoms(use_true_random=False))
def test_a_question_is_the_same_in_every_spelling(question, system, answer, with_system, goes_on, rng):
    assume(question.upper().casefold() == question.casefold())  # not so of ß, and a few more
    asks = [("user", spoken(question, rng))]
    if with_system:
        asks.insert(0, ("system", system))
    later = [("assistant", answer), ("user", "And then?")] if goes_on else []
    plain = dict(prompt=question, completion=answer)
    others = [
        dict(prompt=spoken(question, rng), chosen="a", rejected="b"),
        dict(text=spoken(question, rng)),
        dict(prompt=said(*asks, *later), completion=answer),
        dict(messages=said(*asks, *later, ("assistant", answer))),
    ]
    for other in others:
        assert same_question(plain, other) and same_question(other, plain), other
        assert question_key(plain) in question_spellings(other)
        assert without_questions([plain], [other]) == []
    different = dict(others[-1], messages=said(("user", question + " not"), ("assistant", answer)))
    assert not same_question(plain, different) and without_questions([plain], [different]) == [plain]


def test_a_greeting_answers_no_question():
    greeted = dict(messages=said(("assistant", "Hello!"), ("user", "Where is it?"), ("assistant", "Here.")))
    assert question_key(greeted) == "hello! where is it?"
    assert question_key(dict(prompt=greeted["messages"][:2])) == question_key(greeted)


def test_requests_count_every_message_and_letter():
    asked = said(("user", "Where is it?"))
    assert request_key("Where is it?") == request_key(asked) == '"Where is it?"'
    assert request_key("where is it?") != request_key("Where is it?")
    assert request_key(said(("system", "s"), ("user", "q"))) != request_key("q")
    turned = [dict(content="s", role="system"), dict(content="q", role="user")]
    assert request_key(turned) == request_key(said(("system", "s"), ("user", "q")))


def test_what_stands_in_a_row():
    talk_of_two = talk("a", "b", "c", "d")
    row = Row(dict(messages=talk_of_two))
    assert row.request == talk_of_two[:3] and row.reference == "d" and row.question == "a"
    assert row.turns == [(False, "a"), (True, "b"), (False, "c"), (True, "d")]
    assert row.conversations == [(talk_of_two, (1, 3), "")] and row.for_trl == dict(messages=talk_of_two)
    assert row.prompt_and_answer == (talk_of_two[:1], talk_of_two[1:])
    pair = Row(dict(prompt="q", chosen="x", rejected="y", messages=3), "pairs")
    assert (pair.request, pair.question, pair.answers) == ("q", "q", ["x", "y"])
    assert pair.turns == [(False, "q"), (True, "x"), (True, "y")]
    assert [(c.messages[-1]["content"], c.answers) for c in pair.conversations] == [("x", (1,)), ("y", (1,))]
    assert set(pair.for_trl) == {"prompt", "chosen", "rejected"}
    text = Row(dict(text="t"), "corpus")
    assert (text.request, text.question, text.answers, text.turns) == ("t", "t", [], [(False, "t")])
    assert conversation_text(talk("a", "b")) == "user: a\n\nassistant: b" and conversation_text("a") == "a"
    assert answer_text([*talk("a", "b"), dict(role="user", content="thanks")]) == "b" == answer_text("b")
