"Near duplicates: which texts, how similar, and as datasketch would propose them."

import random

import pytest

from ftguide.engine.duplicates import near_duplicates, rare_words, similarity


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

    from ftguide.engine.duplicates import _previous_in_band

    rng = random.Random(0)
    words = [f"w{i}" for i in range(60)]
    hashes = list(MinHash.bulk([[w.encode() for w in rng.sample(words, 5)] for _ in range(400)], num_perm=64))
    before, index = (
        _previous_in_band(np.array([h.hashvalues for h in hashes])),
        MinHashLSH(num_perm=64, params=(16, 4)),
    )

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


def test_similarity_needs_the_rare_words():
    texts = [
        f"product: mug\nbrand: Zed{i}\nmodel: Vex-{i * 7}\ncolour: blue\nwarranty: 12 months"
        for i in range(50)
    ]
    assert not near_duplicates(texts)
    assert set(near_duplicates([texts[3] + "!", texts[4].replace("mug", "cup")], texts)) == {0, 1}
    rare = rare_words(texts + [texts[0] + " !"])
    assert (
        similarity(texts[0], texts[0] + " !", rare[0], rare[-1])
        > 95
        > 75
        > similarity(texts[0], texts[31], rare[0], rare[31])
    )
