"The split: nothing crosses, and every task gets its share."

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_rows import FUZZ, error

from ftguide.data import split
from ftguide.engine.texts import normalised_text


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


@FUZZ
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "prompt": st.sampled_from(["a", "A ", " a", "b", "c", "d", "e", "f"]),
                "completion": st.just("x"),
                "task": st.sampled_from("st"),
            }
        ),
        min_size=1,
        max_size=30,
    ),
    st.integers(0, 99),
)
def test_fuzz_split(data, seed):
    parts = split(data, (0.5, 0.3, 0.2), seed)
    assert parts == split(data, (0.5, 0.3, 0.2), seed) and sum(map(len, parts)) == len(data)
    seen = [{normalised_text(r["prompt"]) for r in part} for part in parts]
    assert sum(map(len, seen)) == len(set().union(*seen))


def test_a_split_without_rows_is_said():
    with pytest.warns(
        UserWarning, match="part 2 of the split, of share 0.1, is empty: the rows have 2 different prompts"
    ):
        assert split([dict(prompt=f"Q{i % 2}", completion="A") for i in range(20)])[1] == []


def test_split_keeps_tasks_and_conversations_together():
    rows = [
        dict(prompt=f"{t} {i}", completion="x", task=t)
        for t, n in (("many", 900), ("few", 20))
        for i in range(n)
    ]
    for seed in range(5):
        assert [sum(r["task"] == "few" for r in part) for part in split(rows, seed=seed)] == [16, 2, 2]
    first = [dict(role="user", content="Hi "), dict(role="assistant", content="Hello")]
    rows = [
        dict(messages=first),
        dict(messages=first + [dict(role="user", content="Bye"), dict(role="assistant", content="Bye")]),
    ] + [dict(prompt=f"q{i}", completion="x") for i in range(50)]
    assert any(rows[0] in part and rows[1] in part for part in split(rows))
