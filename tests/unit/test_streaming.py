"Answers while they are written: in batches, at one pace, and stopped when nobody reads them."

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ftguide.engine.model_folders import ModelError
from ftguide.engine.tokens import context_length
from ftguide.market import load_tasks
from ftguide.models import load, prompt_text, reply
from ftguide.serving.streaming import PendingAnswer, Writer, in_lockstep


def wait(what, seconds=60):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


def test_both_answers_advance_at_one_pace():
    "Pieces hold several tokens, of the faster model more of them; either may be the longer answer."
    rng = random.Random(0)

    def pieces(text, most):
        at = 0
        while at < len(text):
            at += rng.randint(1, most)
            yield text[:at]

    for fast, slow in [("x" * 300, "y" * 290), ("x" * 60, "y" * 200), ("x" * 200, "y" * 60), ("", "y")]:
        for swap in (False, True):
            two = [pieces(fast, 30), pieces(slow, 5)]
            *on_the_way, last = in_lockstep(*(two[::-1] if swap else two))
            assert last == ((slow, fast) if swap else (fast, slow)) and on_the_way
            lengths = [len(a) for a, b in on_the_way if len(a) == len(b)]
            assert len(lengths) == len(on_the_way) and lengths == sorted(lengths)


def test_answers_in_a_batch_are_the_replies():
    lm = load("tiny-small")
    prompts = [r["prompt"] for r in load_tasks("test", 7, seed=5)]
    write = Writer(lm, 24, rows=3)

    def last(p):
        return list(write(p))[-1]

    with ThreadPoolExecutor(7) as pool:
        assert list(pool.map(last, prompts)) == reply(lm, prompts, 24)
    with pytest.raises(ModelError, match="does not fit"):
        list(write("word " * 5000))
    long = next(
        text
        for n in range(200, 0, -1)
        if len(lm.tokenizer(prompt_text(lm.tokenizer, text := "word " * n)).input_ids) < context_length(lm)
    )
    write, asked, answers = Writer(lm, 24), [prompts[0], long, prompts[1], long[5:], "Hi"], []
    write.busy = True  # nobody writes yet, so all of them wait in one line
    with ThreadPoolExecutor(5) as pool:
        for n, p in enumerate(asked, 1):
            answers.append(pool.submit(last, p))
            wait(lambda n=n: len(write.waiting) == n)
        write._work()
    assert [a.result() for a in answers] == [
        reply(lm, p, 24) for p in asked
    ]  # a long question takes no room from the others' answers

    def broken(**_):
        raise RuntimeError("no memory")

    lm.model.generate = broken
    with pytest.raises(RuntimeError, match="no memory"):
        list(write("Hi"))


def test_the_last_piece_is_the_whole_answer_and_closing_stops_the_model():
    lm = load("tiny-small")
    write = Writer(lm, 24)
    pieces = list(write("Hi"))
    assert pieces[-1] == reply(lm, "Hi", 24) and len(pieces) > 3
    writing = write("A long one")
    next(writing)
    writing.close()
    wait(lambda: not write.busy, 20)


def test_half_a_letter_waits_for_its_other_half():
    "A byte-level tokenizer may cut a letter in two."
    lm = load("tiny-small")
    rocket = lm.tokenizer("🚀", add_special_tokens=False).input_ids
    assert len(rocket) > 1 and lm.tokenizer.decode(rocket[:1]).endswith("\ufffd")
    answer = PendingAnswer(lm.tokenizer, [], 10)
    for token in rocket:
        answer.put(token, [])
    answer.end()
    assert [answer.pieces.get() for _ in range(3)] == ["🚀", "🚀", None]


def test_equally_many_characters_of_both_are_shown():
    shown = list(in_lockstep(["a", "a b", "a b c"], ["1 2 3", "1 2 3 4 5"]))
    assert shown == [("a", "1"), ("a b", "1 2"), ("a b c", "1 2 3"), ("a b c", "1 2 3 4 5")]
