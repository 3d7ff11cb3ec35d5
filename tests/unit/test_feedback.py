"What votes become: raters' weights, thumbs for KTO, pairs for DPO."

import random
from graphlib import TopologicalSorter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftguide.engine.rows import read
from ftguide.feedback import pairs_from, rater_weights, thumbs_from

ROWS = st.lists(
    st.tuples(
        st.sampled_from(["vote", "choice"]),
        st.sampled_from("pq"),
        st.sampled_from(["x", "y", "z", "w", " "]),
        st.sampled_from(["x", "y", "z"]),
        st.sampled_from([-1, 0, 1]),
        st.sampled_from(["", "ana", "bo", "cy", "di"]),
    ),
    max_size=40,
)


def made(rows):
    return [
        dict(
            id=i,
            kind=k,
            prompt=p,
            rater=who,
            **(
                dict(answer=a, up=s > 0)
                if k == "vote"
                else dict(a=a, b=b, chosen={1: "a", 0: "tie", -1: "b"}[s])
            ),
        )
        for i, (k, p, a, b, s, who) in enumerate(rows, 1)
    ]


@settings(max_examples=150)
@given(ROWS, st.integers(1, 3), st.booleans(), st.sampled_from([0.0, 0.4]))
def test_every_row_has_one_fate_and_pairs_make_no_circle(rows, min_votes, weighted, min_margin):
    rows = made(rows)
    pairs, lost = pairs_from(rows, min_votes, min_margin, weighted)
    assert sum(lost.values()) <= len(rows) and (pairs or sum(lost.values()) == len(rows))
    for prompt in "pq":
        graph = TopologicalSorter()
        for p in pairs:
            if p["prompt"] == prompt:
                graph.add(p["rejected"], p["chosen"])
        graph.prepare()
    assert all(
        p["chosen"] != p["rejected"] and p["votes"] >= min_votes and min_margin < p["margin"] <= 1 + 1e-9
        for p in pairs
    )
    assert len({(p["prompt"], p["chosen"], p["rejected"]) for p in pairs}) == len(pairs)
    if pairs:
        read(pairs, "pairs")
    thumbs, left = thumbs_from(rows, min_votes, min_margin, weighted)
    votes = sum(r["kind"] == "vote" for r in rows)
    assert (
        sum(left.values()) <= votes and len(thumbs) <= votes and all(t["votes"] >= min_votes for t in thumbs)
    )
    if not lost and not weighted:
        assert sum(p["votes"] for p in pairs) >= len(rows) / 2


def vote(i, answer, up, who, prompt="p"):
    return dict(id=i, kind="vote", prompt=prompt, answer=answer, up=up, rater=who)


def choice(i, a, b, chosen, who, prompt="p"):
    return dict(id=i, kind="choice", prompt=prompt, a=a, b=b, chosen=chosen, rater=who)


@pytest.mark.parametrize(
    "rows, pairs, lost",
    [
        ([vote(1, "x", True, "ana"), vote(2, "y", False, "bo")], [("x", "y")], {}),
        (
            [choice(1, "x", "y", "b", "ana"), choice(2, "y", "x", "a", "bo"), choice(3, "x", "y", "a", "cy")],
            [("y", "x")],
            {"outvoted": 1},
        ),
        ([choice(1, "x", "y", "a", "ana"), choice(2, "x", "y", "b", "bo")], [], {"undecided": 2}),
        ([choice(1, "x", "y", "a", "ana"), choice(2, "y", "x", "a", "ana")], [("y", "x")], {"replaced": 1}),
        ([choice(1, "x", "y", "a", ""), choice(2, "x", "y", "a", "")], [("x", "y")], {}),
        (
            [
                choice(1, "x", "x", "a", "ana"),
                choice(2, "x", " ", "a", "ana"),
                choice(3, "x", "y", "tie", "ana"),
            ],
            [],
            {"same answer": 1, "empty answer": 1, "tie": 1},
        ),
        (
            [
                choice(1, "x", "y", "a", "ana"),
                choice(2, "x", "y", "a", "bo"),
                choice(3, "y", "z", "a", "ana"),
                choice(4, "y", "z", "a", "bo"),
                choice(5, "z", "x", "a", "ana"),
            ],
            [("x", "y"), ("y", "z")],
            {"contradiction": 1},
        ),
        (
            [vote(1, "x", True, "ana"), vote(2, "y", False, "bo"), choice(3, "y", "x", "a", "cy")],
            None,
            {"contradiction": 1},
        ),
        ([vote(1, "x", True, "ana", "other"), vote(2, "y", False, "bo")], [], {"no partner": 2}),
    ],
)
def test_fates(rows, pairs, lost):
    found, why = pairs_from(rows, weighted=False)
    if pairs is not None:
        assert sorted((p["chosen"], p["rejected"]) for p in found) == sorted(pairs) and why == lost
    else:
        assert len(found) == 1


def test_too_few_votes():
    rows = [choice(1, "x", "y", "a", "ana"), choice(2, "x", "z", "a", "ana"), choice(3, "x", "z", "a", "bo")]
    pairs, lost = pairs_from(rows, min_votes=2)
    assert [(p["chosen"], p["rejected"], p["votes"]) for p in pairs] == [("x", "z", 2)] and lost == {
        "too few votes": 1
    }


def simulated_choices(skills, n=150, each=4, seed=0):
    rng, rows = random.Random(seed), []
    for i in range(n):
        for who in rng.sample(sorted(skills), each):
            swap = rng.random() < 0.5
            right = rng.random() < skills[who]
            rows.append(
                choice(
                    len(rows) + 1,
                    *(("bad", "good") if swap else ("good", "bad")),
                    "a" if right != swap else "b",
                    who,
                    f"q{i}",
                )
            )
    return rows


def test_weights_follow_skill_and_beat_the_plain_majority():
    skills = dict(ann=0.92, bo=0.85, cy=0.8, di=0.5, ed=0.5, flo=0.5, gil=0.5)
    rows = simulated_choices(skills)
    weights = rater_weights(rows)
    assert (
        min(weights[w] for w in ("ann", "bo", "cy")) > max(weights[w] for w in ("di", "ed", "flo", "gil"))
        and min(weights.values()) >= 0
    )
    right = lambda weighted: sum(p["chosen"] == "good" for p in pairs_from(rows, weighted=weighted)[0]) / 150
    assert right(True) > right(False) + 0.05
    assert rater_weights([choice(1, "x", "y", "a", "alone")]) == {}
