"""Near duplicates among texts: MinHash and locality-sensitive hashing propose pairs, a similarity decides

datasketch and rapidfuzz come with `ftguide[check]`, so they are imported where they are needed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

WORD = re.compile(r"\w+(?:-\w+)*")
COMPARED = 4000  # so many characters of a text are compared
PERMUTATIONS, BANDS = 64, 16  # values of a MinHash, and groups of four that propose a pair


def rare_words(texts: Sequence[str]) -> list[str]:
    "Of each text, the words that few texts have (2 %, at least 5, at most 100), sorted; all if none is rare."
    count = Counter(word for text in texts for word in _words(text))
    most = max(5, min(0.02 * len(texts), 100))
    found = []
    for text in texts:  # words are found twice and never kept: of a million texts they fill the memory
        words = _words(text)
        rare = [word for word in words if count[word] <= most]
        found.append(" ".join(sorted(rare or words)))
    return found


def _words(text: str) -> set[str]:
    return set(WORD.findall(text[:COMPARED]))


def similarity(
    a: str,
    b: str,
    rare_a: str,  # of `rare_words`
    rare_b: str,
) -> float:  # 0..100
    "How much two texts agree: in all their characters, and in their rare words, whichever is less."
    from rapidfuzz import fuzz

    return min(fuzz.token_set_ratio(rare_a, rare_b), fuzz.ratio(a[:COMPARED], b[:COMPARED]))


def near_duplicates(
    texts: Sequence[str],
    known: Sequence[str] = (),  # compared with these instead of with one another
    least: float = 90,  # similarity from which two texts count as the same
    progress: Callable[[int], None] | None = None,  # called with the number of texts after each batch
) -> dict[int, tuple[int, float]]:  # number of a text -> (the most similar earlier or known text, similarity)
    "MinHash (Broder 1997) and LSH propose pairs that share rare words, `similarity` decides."
    every, first = [*known, *texts], len(known)
    rare = rare_words(every)
    previous = _previous_in_band(_minhashes(rare, progress))
    if known:
        _skip_own(previous, first)
    found = {}
    for i in range(first, len(every)):
        scores = [(similarity(every[i], every[j], rare[i], rare[j]), j) for j in _proposed(previous, i)]
        score, j = max(scores, default=(-1, -1))
        if j >= 0 and score >= least:
            found[i - first] = (j, score)
    return found


def _minhashes(
    texts: list[str],  # words, joined by spaces
    progress: Callable[[int], None] | None,
) -> np.ndarray:  # (N, 64) uint32
    from datasketch import MinHash

    marks = np.empty((len(texts), PERMUTATIONS), np.uint32)
    for start in range(0, len(texts), 1000):
        words = [[word.encode() for word in text.split()] for text in texts[start : start + 1000]]
        hashes = MinHash.bulk(words, num_perm=PERMUTATIONS)
        for i, one in enumerate(hashes, start):
            marks[i] = one.hashvalues
        if progress:
            progress(len(hashes))
    return marks


def _previous_in_band(
    marks: np.ndarray,  # (N, 64) MinHash values
) -> np.ndarray:  # (N, 16)
    "For each text and each four of its values: the last text before with the same four, or -1."
    bands = marks.reshape(len(marks), BANDS, -1)
    previous = np.full(bands.shape[:2], -1)
    for b in range(BANDS):
        order = np.lexsort(bands[:, b].T)  # equal ones side by side, in their own order
        same = (bands[order[1:], b] == bands[order[:-1], b]).all(1)
        previous[order[1:][same], b] = order[:-1][same]
    return previous


def _skip_own(previous: np.ndarray, first: int):
    "Texts from `first` on are not compared with one another: their chains lead to the known texts at once."
    for i in range(first, len(previous)):
        for b, j in enumerate(previous[i].tolist()):
            if j >= first:
                previous[i, b] = previous[j, b]  # the known one that this text has


def _proposed(previous: np.ndarray, i: int) -> set[int]:
    "Every text before that shares a band with text i."
    found: set[int] = set()
    for b in range(previous.shape[1]):
        found.update(_chain(previous, i, b))
    return found


def _chain(previous: np.ndarray, i: int, b: int) -> Iterator[int]:
    j = int(previous[i, b])
    while j >= 0:
        yield j
        j = int(previous[j, b])
