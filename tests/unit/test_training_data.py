"What the trainers read, row by row."

import json

from made_rows import CALL, HI, TOOLS, error, said, small_model, talk

from ftguide.engine.tokens import tokenised
from ftguide.engine.training_data import (
    dataset,
    in_columns,
    one_answer_each,
    peek,
    prepare,
    score_prompts,
    stream_rows,
    to_trl,
    train_dataset,
)


def test_rows_of_a_stream():
    says = "a stream has no length, so max_steps must say how many steps to take"
    for config in ({}, dict(max_steps=0), dict(max_steps=None), dict(max_steps=-1)):
        assert error(peek, [HI], "sft", config) == says
    assert (
        peek(iter([HI] * 5), "sft", dict(max_steps=1), 2) == [HI] * 2
        and len(peek([HI] * 1005, "sft", dict(max_steps=9))) == 1000
        and error(peek, [HI], "pairs", dict(max_steps=1))
    )
    assert list(stream_rows(small_model(), [HI, dict(HI, completion="y" * 32)])) == [
        HI,
        dict(HI, completion="y" * 32),
    ] and list(stream_rows(small_model(), [dict(text="x")], "corpus")) == [dict(text="x")]
    assert (
        error(list, stream_rows(small_model(), [HI, 3]))
        == "row 2 of the stream: expected an object with columns, found int"
    )
    assert error(list, stream_rows(small_model(), [HI, dict(HI, completion="y" * 33)])) == (
        "row 2 of the stream has 41 tokens and does not fit into small's context of 40. "
        "Shorten it, or filter the stream"
    )


def test_rows_as_trl_takes_them():
    said = lambda role, text: [dict(role=role, content=text)]
    assert to_trl([dict(HI, more=1)]).to_list() == [
        dict(prompt=said("user", "hi"), completion=said("assistant", "yo"))
    ]
    assert (
        to_trl([dict(messages=talk("a", "b"), more=1)]).to_list() == [dict(messages=talk("a", "b"))]
        and prepare(small_model(), None) is None
    )
    assert to_trl([dict(prompt=talk("a"), completion=said("assistant", "b"))]).to_list() == [
        dict(prompt=talk("a"), completion=said("assistant", "b"))
    ]
    pair = dict(prompt="q", chosen="a", rejected="b")
    assert to_trl([pair], "pairs").to_list() == [
        dict(prompt=said("user", "q"), chosen=said("assistant", "a"), rejected=said("assistant", "b"))
    ]
    assert (
        error(to_trl, [HI, HI, dict(messages=talk("a", "b"))])
        == "row 1 has prompt, completion and row 3 has messages; write all rows in one shape"
    )
    assert error(
        to_trl, [dict(messages=[dict(talk("a")[0], name=1)]), dict(messages=[dict(talk("a")[0], name=["x"])])]
    ).startswith("the rows do not make one table: ")
    assert "do not fit" in error(prepare, small_model(), [dict(HI, completion="y" * 40)]) and error(
        prepare, small_model(), [3]
    ).startswith("row 1")
    assert "do not fit" in error(prepare, small_model(), [dict(pair, chosen="y" * 40)], "pairs")


def lists(columns):
    return {name: values.tolist() for name, values in columns.items()}


def test_columns_of_the_trainers():
    letters = small_model().tokenizer
    ids = lambda text: [ord(c) for c in text]
    (row,) = tokenised(letters, [HI])
    assert lists(in_columns(row)) == dict(input_ids=ids("u:hi.a:yo."), labels=[-100] * 7 + ids("yo."))
    assert lists(in_columns(row, "thumbs")) == dict(
        prompt_ids=ids("u:hi.a:"), completion_ids=ids("yo."), completion_mask=[1, 1, 1]
    )
    (pair,) = tokenised(letters, [dict(prompt="hi", chosen="yo", rejected="no!")], "pairs")
    assert lists(in_columns(pair, "pairs")) == dict(
        prompt_ids=ids("u:hi.a:"),
        chosen_ids=ids("yo."),
        chosen_mask=[1, 1, 1],
        rejected_ids=ids("no!."),
        rejected_mask=[1, 1, 1, 1],
    )


def test_a_turn_of_the_user_within_an_answer_is_read_and_does_not_count():
    letters = small_model().tokenizer
    chosen = said(("assistant", "a"), ("user", "b"), ("assistant", "c"))
    (pair,) = tokenised(letters, [dict(prompt="hi", chosen=chosen, rejected="no")], "pairs")
    columns = in_columns(pair, "pairs")
    assert "".join(map(chr, columns["chosen_ids"])) == "a.u:b.a:c."
    assert columns["chosen_mask"].tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 1, 1]
    tool = said(("tool", "t"), ("assistant", "c"))
    (pair,) = tokenised(letters, [dict(prompt="hi", chosen=tool, rejected="no")], "pairs")
    columns = in_columns(pair, "pairs")
    assert "".join(map(chr, columns["prompt_ids"])) == "u:hi."
    for answer, mask in (("chosen", "t:t.a:c."), ("rejected", "a:no.")):
        assert "".join(map(chr, columns[f"{answer}_ids"])) == mask
    assert columns["chosen_mask"].tolist() == [0] * 6 + [1, 1]
    assert columns["rejected_mask"].tolist() == [0, 0, 1, 1, 1]


def test_rows_of_all_shapes_make_one_data_set():
    lm = small_model()
    talk = dict(messages=said(("user", "hi"), ("assistant", "yo")))
    made = dataset(tokenised(lm.tokenizer, [HI, talk]))
    assert made[0] == made[1] == prepare(lm, [HI])[0] and prepare(lm, None) is None
    assert prepare(lm, [HI], prompts_too=True)[0]["labels"] == made[0]["input_ids"]
    streamed = train_dataset(lm, made.to_iterable_dataset(), [])
    assert type(streamed).__name__ == "IterableDataset"


def test_trls_settings_of_what_is_scored():
    for config, whole in (
        ({}, False),
        (dict(completion_only_loss=False), True),
        (dict(assistant_only_loss=False, a=1), True),
        (dict(assistant_only_loss=True), False),
        (dict(completion_only_loss=None), False),
        (dict(completion_only_loss=True, assistant_only_loss=False), False),
    ):
        assert score_prompts(config) is whole and set(config) <= {"a"}


def test_each_answer_ends_a_row_of_its_own():
    turns = talk("a", "b", "c", "d")
    turns[1]["weight"] = 0
    row = dict(prompt=turns[:1], completion=[*turns[1:], *talk("e", "f")])
    found = [[m["content"] for m in one["messages"]] for one in one_answer_each(row)]
    assert found == [["a", "b", "c", "d"], ["a", "b", "c", "d", "e", "f"]]
    assert one_answer_each(HI) == [dict(messages=talk("hi", "yo"))]


def test_tools_are_a_column_for_trl():
    call = dict(role="assistant", content="", tool_calls=[CALL])
    turns = [dict(role="user", content="a", tools=TOOLS), call, *said(("tool", "b"), ("assistant", "c"))]
    (row,) = to_trl([dict(messages=turns)]).to_list()
    assert json.loads(row["tools"]) == TOOLS and "tools" not in row["messages"][0]
