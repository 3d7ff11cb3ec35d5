"What the trainers read, row by row."

from made_rows import HI, error, small_model

from ftguide.engine.training_data import peek, stream_rows


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
