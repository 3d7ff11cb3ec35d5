"What a reader cannot tell apart is the same text, in each place that compares texts."

import random
import unicodedata

import pytest

from ftguide.data import check, split
from ftguide.engine.formats import DataError
from ftguide.engine.rows import question_key, read, same_question
from ftguide.engine.texts import is_blank, normalised_text, same_text
from ftguide.evaluation import exact_match, rouge_l
from ftguide.feedback import pairs_from, thumbs_from

ALIKE = [
    ("Maçã e pêssego", unicodedata.normalize("NFD", "maçã e pêssego")),
    ("Where is it?", "where  is\u00a0it?\n"),
    ("cooperate", "co\u00adoper\u200bate\ufeff"),
    ("I ❤️ it", "i ❤ it"),
    ("نامه‌ای", "نامهای"),
    ("Straße", "STRASSE"),
    ("ΑΣ", "ας"),
    ("a\u202eb\u202c", "ab"),
    ("한글", unicodedata.normalize("NFD", "한글")),
    ("x\u3000y", "x y"),
    ("tab\tand\x0cfeed", "tab and feed"),
    ("zero\x00byte", "zerobyte"),
]
BLANK = [
    "",
    " ",
    "\n\t",
    "\u200b",
    "\ufeff\u200d",
    "\u00ad \u2060",
    "\u3164",
    "\u2800\u2800",
    "\ufe0f",
    "\x00\x07",
]


@pytest.mark.parametrize("a, b", ALIKE)
def test_alike(a, b):
    assert normalised_text(a) == normalised_text(b) and same_text(a, b) and exact_match(a, b) == 1
    assert rouge_l(a, b) == 1 and same_question(dict(prompt=a), dict(prompt=b))
    assert question_key(dict(text=a)) == question_key(dict(text=b))
    rows = [dict(prompt=f"{a} ({i})", completion="yes") for i in range(10)]
    rows += [dict(prompt=f"{b} ({i})", completion="YES") for i in range(10)]
    parts = [{normalised_text(row["prompt"]) for row in part} for part in split(rows, (0.5, 0.5))]
    assert sorted(map(len, parts)) == [5, 5] and not parts[0] & parts[1]
    found = check(rows, test=rows[15:])
    assert len(found["exact duplicates"].rows) == 10 and found["train/test leakage"].rows == [
        *range(5, 10),
        *range(15, 20),
    ]
    twins = [dict(prompt="Which?", chosen=f"So: {a}", rejected=f"So: {b}")]
    assert check(twins, kind="pairs")["chosen equals rejected"].rows == [0]


@pytest.mark.parametrize("a, b", [("cafe", "café"), ("a b", "ab"), ("2", "²"), ("ⅸ", "ix"), ("1.", "1")])
def test_different(a, b):
    assert not same_text(a, b) and exact_match(a, b) == 0


def test_the_form_is_one():
    "Normalising twice, or composing first, changes nothing."
    rng = random.Random(0)
    every = [c for c in map(chr, range(0x3000)) if unicodedata.category(c) != "Cn"]
    for _ in range(5000):
        text = "".join(rng.choices(every, k=4))
        once = normalised_text(text)
        assert normalised_text(once) == once == normalised_text(unicodedata.normalize("NFD", text))
        assert is_blank(text) == (once == "")


@pytest.mark.parametrize("text", BLANK)
def test_empty_is_what_is_empty_to_a_reader(text):
    assert is_blank(text) and normalised_text(text) == ""
    for row, kind in (
        (dict(prompt="Hi", completion=text), "sft"),
        (dict(prompt=text, completion="Hello"), "sft"),
        (dict(messages=[dict(role="user", content="Hi"), dict(role="assistant", content=text)]), "sft"),
        (dict(prompt="Hi", chosen="Hello", rejected=text), "pairs"),
        (dict(text=text), "corpus"),
    ):
        with pytest.raises(DataError):
            read([row], kind)
        with pytest.raises(DataError):
            check([row], kind=kind)


def vote(id, prompt, answer, up, rater):
    return dict(kind="vote", id=id, prompt=prompt, answer=answer, up=up, rater=rater, time="")


def test_votes_on_one_answer_in_two_spellings():
    rows = [
        vote(1, "Café?", "Yes.", True, "ana"),
        vote(2, "Cafe\u0301?", "yes.\u200b", True, "bia"),
        vote(3, "café? ", "Never.", False, "ana"),
        vote(4, "café?", "\u200b", False, "ana"),
        dict(kind="choice", id=5, prompt="x", a="Same", b="same ", chosen="a", rater="ana", time=""),
    ]
    thumbs, lost = thumbs_from(rows)
    assert [(t["prompt"], t["completion"], t["label"], t["votes"]) for t in thumbs] == [
        ("Café?", "Yes.", True, 2),
        ("Café?", "Never.", False, 1),
    ]
    assert lost == {"empty answer": 1}
    pairs, lost = pairs_from(rows, min_votes=1)
    assert [(p["prompt"], p["chosen"], p["rejected"]) for p in pairs] == [("Café?", "Yes.", "Never.")]
    assert lost == {"empty answer": 1, "same answer": 1}
