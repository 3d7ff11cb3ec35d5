"Answers held to a format, asked for again, at a pace."

import json
import threading
import time

import pytest
from endpoints import QUESTIONS, Server

from ftguide.engine.labelling import Throttle, validated
from ftguide.engine.teachers import TextTeacher


def test_rate_limit():
    pace = Throttle(6000)
    began = time.monotonic()
    threads = [threading.Thread(target=pace.wait) for _ in range(21)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert time.monotonic() - began >= 0.19  # 20 gaps of 10 ms


SCHEMA = dict(type="object", properties=dict(brand=dict(type="string")), required=["brand"])


def test_an_answer_that_was_cut_is_asked_for_again():
    "A shorter one is taken; who never gives one is counted and left out."
    short = lambda m: "long and lo" if len(m) == 1 else "short"
    with Server(short, cut=lambda text: text != "short") as server:
        teacher = TextTeacher(server.endpoint())
        rows = teacher.label(QUESTIONS[:4], max_new_tokens=3)
        assert [r["completion"] for r in rows] == ["short"] * 4 and teacher.rejected == 0
        assert "too long, and was cut" in server.asked[-1][0][-1]["content"]
    with Server(lambda m: "long and lo", cut=lambda text: True) as server:
        teacher = TextTeacher(server.endpoint(), tries=2)
        with pytest.warns(UserWarning, match="4 of 4 answers were cut at max_new_tokens=3"):
            assert teacher.label(QUESTIONS[:4], max_new_tokens=3) == []
        assert teacher.rejected == 1 and teacher.bill["requests"] == 8


def test_answers_are_held_to_their_format(tmp_path):
    assert json.loads(validated('```json\n{"brand": "Zavo"}\n```', SCHEMA)) == dict(brand="Zavo")
    for text, form, why in (
        ("", None, "empty"),
        ("no", r"\d+", "does not match"),
        ("{", SCHEMA, "no JSON"),
        ('{"x": 1}', SCHEMA, "brand"),
    ):
        with pytest.raises(ValueError, match=why):
            validated(text, form)
    said = lambda m: '{"brand": "Zavo"}' if len(m) > 1 or m[-1]["content"].endswith(("0", "1")) else "Zavo"
    with Server(said) as server:
        teacher = TextTeacher(server.endpoint())
        rows = teacher.label(QUESTIONS, output_format=SCHEMA)
        assert (
            len(rows) == 12
            and teacher.rejected == 0
            and teacher.bill["requests"] == 18
            and "cannot be used: it is no JSON" in server.asked[-1][0][-1]["content"]
        )
    with Server(lambda m: "Zavo") as server:
        teacher = TextTeacher(server.endpoint(), tries=2)
        assert teacher.label(QUESTIONS, output_format=SCHEMA) == [] and teacher.rejected == 1.0
    with pytest.raises(ValueError, match="no regular expression"):
        teacher.label(QUESTIONS, output_format="(")
    with pytest.raises(TypeError, match="output_format"):
        teacher.label(QUESTIONS, output_format=3)
