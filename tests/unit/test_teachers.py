"Who a student can learn from: a local model, and one of which only the text is seen."

import json
import threading
import time
from http.server import ThreadingHTTPServer

import pytest
import torch
from endpoints import QUESTIONS, Server
from letters import TABLE, Bigram, Letters
from stages import replies_that_end

from ftguide.distillation import soft_labels
from ftguide.engine import generation, teachers
from ftguide.engine.cache import write_cache
from ftguide.engine.model_folders import ModelError
from ftguide.engine.teachers import LogitTeacher, Teacher, TextTeacher, as_teacher, encoded
from ftguide.models import LM, encode, load, prompt_text, reply

IDS = torch.tensor([[0, 1, 2, 3], [3, 0, 1, 0]])
LABELS = torch.tensor([[-100, -100, 2, 3], [-100, 0, -100, -100]])  # scored: 1 -> 2, 2 -> 3, and 3 -> 0
SCHEMA = dict(type="object", properties=dict(brand=dict(type="string")), required=["brand"])


def test_text_is_scored_whole_and_answers_as_answers():
    letters = Letters()
    assert encoded(letters, [dict(text="hi")]) == [([104, 105, 94, 46], [-100, 105, 94, 46])]
    assert encoded(letters, [dict(prompt="hi", completion="yo")]) == [encode(letters, "hi", "yo")]


def batch(*rows):
    return dict(input_ids=IDS[list(rows)], attention_mask=torch.ones(len(rows), 4), labels=LABELS[list(rows)])


def test_a_teacher_is_asked_once_for_a_row_while_there_is_room():
    model = Bigram(TABLE)
    model.train()
    teacher = LogitTeacher(LM(model, None, "t"), keep_bytes=100)
    teacher.begin([])  # a state has 16 bytes
    assert not model.training
    tables = lambda *rows: torch.tensor([TABLE[i] for i in rows])

    def soft(rows, *which):
        return soft_labels(teacher, rows, batch(*which))(slice(0, 9), 1.0)[0].exp()

    torch.testing.assert_close(soft([5, 7], 0, 1), tables(1, 2, 3))
    assert len(model.asked) == 1 and teacher.room == 100 - 48
    torch.testing.assert_close(soft([7, 5], 1, 0), tables(3, 1, 2))
    torch.testing.assert_close(soft([5], 0), tables(1, 2))
    assert len(model.asked) == 1
    torch.testing.assert_close(soft([5, 8], 0, 1), tables(1, 2, 3))
    assert len(model.asked) == 2 and teacher.room == 4
    soft([9], 0)
    assert (
        len(model.asked) == 3 and teacher.room == -28 and teacher.states == {}
    )  # no room: from now on it is asked every time
    soft([9], 0)
    soft([5], 0)
    assert len(model.asked) == 5 and teacher.states == {}
    one, other = [([5], [5])], [([7], [7])]
    teacher.begin(one)
    assert teacher.room == 100 and teacher.states == {}  # other rows
    soft([5], 0)
    teacher.begin(list(one))
    soft([5], 0)
    assert len(model.asked) == 6 and teacher.room == 100 - 32  # the same: the next student gets what is there
    teacher.begin(other)
    assert teacher.room == 100 and teacher.states == {}
    new = LogitTeacher(LM(model, None, "t"), keep_bytes=50)
    new.begin(None)
    new.scores([0], batch(0))
    assert new.room == 50 - 32 and list(new.states) == [0]  # rows nobody named
    exactly = LogitTeacher(LM(model, None, "t"), keep_bytes=32)
    exactly.begin([])
    exactly.scores([0], batch(0))
    assert exactly.room == 0 and exactly.states == {}
    assert LogitTeacher(LM(model, None, "t")).keep_bytes == 2e9 and exactly.lm.model is model


def test_a_teacher_whose_head_does_more_is_asked_every_time():
    model = Bigram(TABLE, logit_scale=2.0)
    teacher = LogitTeacher(LM(model, None, "t"))
    teacher.begin([])
    wanted = torch.tensor([TABLE[1], TABLE[2]]) ** 2
    for n in (1, 2):
        found = soft_labels(teacher, [5], batch(0))(slice(0, 9), 1.0)[0].exp()
        torch.testing.assert_close(found, wanted / wanted.sum(-1, keepdim=True))
        assert len(model.asked) == n
    assert teacher.room == 0 and teacher.states == {}


def test_what_a_teacher_can_do_is_asked_of_it(tmp_path):
    "No code asks for a teacher's class."
    local, written = as_teacher("tiny-small"), TextTeacher("tiny-small")
    cached = write_cache(local.lm, QUESTIONS[:2], tmp_path, temperature=3.0, max_new_tokens=2)
    teachers = (local, cached, written)
    assert all(isinstance(t, Teacher) and as_teacher(t) is t for t in teachers)
    assert [t.gives_scores for t in teachers] == [True, True, False]
    assert [t.covers_vocabulary for t in teachers] == [True, False, False]
    assert [t.default_temperature for t in teachers] == [2.0, 3.0, 1.0]
    assert [t.lm is None for t in teachers] == [False, True, True]
    assert written.labeller() is written and local.labeller().who is local.lm
    with pytest.raises(ValueError, match="answered already"):
        cached.labeller()
    with pytest.raises(ValueError, match="is the cache .* already"):
        cached.check_settings(cache=tmp_path)
    with pytest.raises(ValueError, match="cache keeps probabilities"):
        written.check_settings(cache=tmp_path)


def test_text_teacher_is_retried_billed_and_asked_once(tmp_path):
    with Server(lambda m: m[-1]["content"].upper(), plan=[429, 200, 500]) as server:
        teacher = TextTeacher(
            server.endpoint(), usd_per_million_input_tokens=1.0, usd_per_million_output_tokens=2.0
        )
        assert teacher.estimate(QUESTIONS, 5) == dict(
            requests=10,
            input_tokens=30,
            output_tokens=50,
            usd=pytest.approx(130e-6),
            usd_at_most=pytest.approx(3720e-6),
        )
        rows = teacher.label(QUESTIONS, tmp_path / "a.jsonl", 5)
        assert [r["completion"] for r in rows] == [r["prompt"].upper() for r in QUESTIONS] and len(
            server.asked
        ) == 12
        assert (
            teacher.bill == dict(requests=10, input_tokens=100, output_tokens=30, usd=pytest.approx(160e-6))
            and teacher.rejected == 0
        )
        assert teacher.label(QUESTIONS, tmp_path / "a.jsonl", 5) == rows and len(server.asked) == 12


def test_text_teacher_goes_on_after_a_failure_without_paying_twice(tmp_path):
    file = tmp_path / "a.jsonl"
    with Server(lambda m: "yes", plan=[200] * 4 + [400]) as server:
        teacher = TextTeacher(server.endpoint())
        with pytest.raises(
            ModelError, match="[45] of 10 questions were answered and are kept in .*goes on from there"
        ):
            teacher.label(QUESTIONS, file)
        with file.open("a") as f:
            f.write('{"key": "torn')
        assert (
            len(teacher.label(QUESTIONS, file)) == 12
            and len(server.asked) == 11
            and len({json.dumps(m) for m, _ in server.asked}) == 10
        )
    file.write_text("not an answer\n")
    with pytest.raises(ValueError, match="line 1: no answer of a teacher"):
        teacher.label(QUESTIONS, file)


def test_text_teacher_waits_for_a_server_that_restarts(tmp_path):
    "The server goes away after four answers and comes back at the same address a second later."
    server = Server(lambda m: "yes")
    port, counted = server.http.server_port, server.asked
    teacher = TextTeacher(server.endpoint(retries=8, at_once=2))

    def restart():
        while len(counted) < 4:
            time.sleep(0.01)
        server.__exit__()
        time.sleep(1)

        again = ThreadingHTTPServer(("127.0.0.1", port), server.http.RequestHandlerClass)
        server.http = again
        again.serve_forever()

    threading.Thread(target=restart, daemon=True).start()
    rows = teacher.label([dict(prompt=f"question {i}") for i in range(40)], tmp_path / "a.jsonl")
    assert len(rows) == 40 and len((tmp_path / "a.jsonl").read_text().splitlines()) == 40
    server.http.shutdown()
    server.http.server_close()


@pytest.mark.parametrize(
    "plan,message",
    [
        ([401], "refuses the key .401.: set MY_KEY"),
        (["garbage"], "no chat completion"),
        (["slow"] * 2, "does not answer"),
        ([404], "does not answer"),
    ],
    ids=str,
)
def test_endpoint_errors_say_what_to_do_and_never_show_the_key(plan, message, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    with Server(lambda m: "yes", plan=plan) as server:
        teacher = TextTeacher(
            server.endpoint(key_variable="MY_KEY", retries=0, timeout_s=1 if plan[0] == "slow" else 60)
        )
        with pytest.raises(ModelError, match=message) as e:
            teacher.label(QUESTIONS, tmp_path / "a.jsonl")
        assert server.asked[0][1] == "Bearer sk-very-secret"
        assert "very-secret" not in str(e.value) + str(e.value.__cause__)
        assert not (tmp_path / "a.jsonl").exists() or "very-secret" not in (tmp_path / "a.jsonl").read_text()


def test_no_bill_is_above_what_was_estimated_at_most():
    "A token for every byte, answers as long as allowed that never keep the format, a template of 50 tokens."
    for form, tries in ((r"\d+", 4), (SCHEMA, 4), (SCHEMA, 1)):
        with Server(lambda m: '{"b": "' + "x" * 23) as server:
            teacher = TextTeacher(
                server.endpoint(),
                usd_per_million_input_tokens=1.0,
                usd_per_million_output_tokens=2.0,
                tries=tries,
            )
            most = teacher.estimate(QUESTIONS, 30, form, bytes_per_token=1)["usd_at_most"]
            teacher.label(QUESTIONS, None, 30, form)
            spent = sum(
                50 + sum(len(m["content"].encode()) for m in messages) + 2 * 30
                for messages, _ in server.asked
            )
            assert len(server.asked) == 10 * tries and 0.5 * most < spent / 1e6 <= most


def test_an_answer_belongs_to_the_model_that_gave_it(tmp_path, monkeypatch):
    "One name, other weights; one model's name, another address."
    monkeypatch.setattr(teachers, "replies", replies_that_end)
    file, tiny = tmp_path / "a.jsonl", load("tiny")
    other = tiny.copy("tiny")
    other.model.lm_head.weight.data.mul_(-1)
    for lm in (tiny, other):
        assert [r["completion"] for r in TextTeacher(lm).label(QUESTIONS[:3], file, 4)] == reply(
            lm, [r["prompt"] for r in QUESTIONS[:3]], 4
        )
    TextTeacher(tiny).label(QUESTIONS[:3], file, 4)
    assert len(file.read_text().splitlines()) == 6
    with Server(lambda m: "one") as one, Server(lambda m: "two") as two:
        for server, said in ((one, "one"), (two, "two")):
            assert {
                r["completion"] for r in TextTeacher(server.endpoint()).label(QUESTIONS[:3], file, 4)
            } == {said}


def test_raised_tries_go_on_where_the_asking_ended(tmp_path):
    file = tmp_path / "a.jsonl"
    with Server(lambda m: "42" if len(m) == 7 else "forty-two") as server:  # right the fourth time
        teacher = TextTeacher(server.endpoint(), tries=2)
        assert teacher.label(QUESTIONS, file, output_format=r"\d+") == [] and teacher.bill["requests"] == 20
        assert teacher.label(QUESTIONS, file, output_format=r"\d+") == [] and len(server.asked) == 20
        teacher.tries = 4
        assert {r["completion"] for r in teacher.label(QUESTIONS, file, output_format=r"\d+")} == {
            "42"
        } and teacher.rejected == 0
        assert len(server.asked) == teacher.bill["requests"] == 40 and teacher.bill["input_tokens"] == 400
    here = TextTeacher("tiny-small", tries=1)
    assert here.label(QUESTIONS, file, 4, output_format="never") == [] and here.bill["requests"] == 10
    here.tries = 3
    assert here.label(QUESTIONS, file, 4, output_format="never") == [] and here.bill["requests"] == 30
    here.tries = 0
    with pytest.raises(ValueError, match="tries must be 1 or more"):
        here.label(QUESTIONS)


def test_a_local_teacher_keeps_what_it_answered(tmp_path, monkeypatch):
    monkeypatch.setattr(teachers, "replies", replies_that_end)
    lm, file, batches, generate_batch = (
        load("tiny-small"),
        tmp_path / "a.jsonl",
        [],
        generation.generate_batch,
    )
    rows = [dict(prompt="How much is " + "1 + " * (i * 7 % 50) + f"{i}?") for i in range(130)]

    def stopped(model, tokenizer, texts, *a):
        batches.append(texts)
        if len(batches) == 6:
            raise KeyboardInterrupt
        return generate_batch(model, tokenizer, texts, *a)

    monkeypatch.setattr(generation, "generate_batch", stopped)
    said, teacher = (
        reply(lm, [r["prompt"] for r in rows], 4),
        TextTeacher(lm, usd_per_million_input_tokens=1.0, usd_per_million_output_tokens=2.0),
    )
    with pytest.raises(KeyboardInterrupt):
        teacher.label(rows, file, 4)
    assert batches[3:] == batches[:3] and len(file.read_text().splitlines()) == 128
    assert [r["completion"] for r in teacher.label(rows, file, 4)] == said and batches[6:] == batches[2:3]
    size = lambda text: len(lm.tokenizer(text, add_special_tokens=False).input_ids)
    read, written = (
        sum(size(prompt_text(lm.tokenizer, r["prompt"])) for r in rows),
        sum(min(size(a) + 1, 4) for a in said),
    )
    assert teacher.bill == dict(
        requests=130, input_tokens=read, output_tokens=written, usd=pytest.approx((read + 2 * written) / 1e6)
    )
