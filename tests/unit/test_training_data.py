"What the trainers read, row by row."

from made_rows import HI, error, small_model, talk

from ftguide.engine.training_data import peek, prepare, stream_rows, to_trl


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
    assert (
        to_trl([dict(HI, more=1)]).to_list()
        == prepare(small_model(), [HI]).to_list()
        == [dict(prompt=said("user", "hi"), completion=said("assistant", "yo"))]
    )
    assert (
        to_trl([dict(messages=talk("a", "b"), more=1)]).to_list() == [dict(messages=talk("a", "b"))]
        and prepare(small_model(), None) is None
    )
    assert to_trl([dict(prompt=talk("a"), completion=said("assistant", "b"))]).to_list() == [
        dict(prompt=talk("a"), completion=said("assistant", "b"))
    ]
    pair = dict(prompt="q", chosen="a", rejected="b")
    assert (
        to_trl([pair], "pairs").to_list()
        == prepare(small_model(), [pair], "pairs").to_list()
        == [dict(prompt=said("user", "q"), chosen=said("assistant", "a"), rejected=said("assistant", "b"))]
    )
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
