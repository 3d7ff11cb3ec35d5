"The distillation engine: loss against formulas and TRL, caches, teachers that only write, what is refused."

import json
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import torch.nn.functional as F

from ftguide.distill import (
    CachedTeacher,
    DistillationPipeline,
    TextTeacher,
    _kept,
    dense_targets,
    distill,
    distillation_loss,
    scaled_jsd,
    sparse_targets,
    validated,
    write_cache,
)
from ftguide.evaluate import Endpoint
from ftguide.models import ModelError, collate, encode, load, reply, scored_logits

ROWS = [dict(prompt=f"How much is {i} + {i % 7}?") for i in range(40)]
SETTINGS = [
    (d, t, a)
    for d in ("forward_kl", "reverse_kl", "jsd", 0.1)
    for t, a in ((1.0, 1.0), (2.0, 0.7), (4.0, 0.0))
]


def weights(lm):
    return torch.cat([p.detach().flatten() for p in lm.model.parameters()])


def case(n=7, h=5, v=11, seed=0, dtype=torch.double):
    torch.manual_seed(seed)
    head = torch.nn.Linear(h, v, bias=True).to(dtype)
    return (
        torch.randn(n, h, dtype=dtype, requires_grad=True),
        head,
        torch.randint(0, v, (n,)),
        torch.randn(n, v, dtype=dtype),
    )


def plain(scores, teacher, targets, beta, temperature, alpha):
    "The loss written down once more, without chunks and without sharing a line."
    p, q = (teacher / temperature).softmax(-1), (scores / temperature).softmax(-1)
    if beta == 0:
        d = (p * (p / q).log()).sum(-1)
    elif beta == 1:
        d = (q * (q / p).log()).sum(-1)
    else:
        m = beta * p + (1 - beta) * q
        d = (beta * (p * (p / m).log()).sum(-1) + (1 - beta) * (q * (q / m).log()).sum(-1)) / (
            beta * (1 - beta)
        )
    return alpha * temperature**2 * d.mean() + (1 - alpha) * F.cross_entropy(scores, targets)


@pytest.mark.parametrize("divergence,temperature,alpha", SETTINGS)
def test_loss_and_gradients_are_the_formula(divergence, temperature, alpha):
    states, head, targets, teacher = case()
    loss, soft, hard = distillation_loss(
        states,
        head,
        targets,
        dense_targets(teacher),
        divergence=divergence,
        temperature=temperature,
        alpha=alpha,
    )
    beta = dict(forward_kl=0, reverse_kl=1, jsd=0.5).get(divergence, divergence)
    wanted = plain(head(states), teacher, targets, beta, temperature, alpha)
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-12) and (soft + hard).item() == pytest.approx(
        loss.item(), abs=1e-12
    )
    got, expected = (torch.autograd.grad(x, (states, head.weight, head.bias)) for x in (3 * loss, 3 * wanted))
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_gradcheck_also_in_many_chunks(divergence):
    states, head, targets, teacher = case(n=5, h=3, v=4)
    weight = head.weight.detach().clone().requires_grad_()

    def loss(s, w):
        layer = torch.nn.Linear(3, 4, bias=False, dtype=torch.double)
        del layer.weight
        layer.weight = w
        return distillation_loss(s, layer, targets, dense_targets(teacher), divergence=divergence)[0]

    assert torch.autograd.gradcheck(
        lambda s: distillation_loss(s, None, targets, dense_targets(teacher), divergence=divergence)[0],
        (torch.randn(5, 4, dtype=torch.double, requires_grad=True),),
    )
    big = case(n=9, h=2, v=2**19, dtype=torch.float)  # four positions a chunk
    one = distillation_loss(big[0], big[1], big[2], dense_targets(big[3]), divergence=divergence)[0]
    assert one.item() == pytest.approx(
        plain(
            big[1](big[0]), big[3], big[2], dict(forward_kl=0, reverse_kl=1, jsd=0.5)[divergence], 2.0, 0.7
        ).item(),
        rel=1e-4,
    )


def test_autocast_to_bfloat16_stays_close():
    "As on a GPU: half precision inside, float32 weights and gradients."
    states, head, targets, teacher = case(n=40, h=32, v=64, dtype=torch.float)

    def run():
        loss, _, _ = distillation_loss(states, head, targets, dense_targets(teacher))
        return loss.item(), torch.autograd.grad(loss, (states, head.weight))

    whole, grads = run()
    with torch.autocast("cpu", torch.bfloat16):
        half, rough = run()
    assert half == pytest.approx(whole, rel=0.02) and all(g.dtype == torch.float for g in rough)
    for a, b in zip(rough, grads):
        assert (a - b).norm() / b.norm() < 0.05


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_trl_has_the_same_divergence(beta):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.gkd import GKDTrainer
    _, _, _, s = case(seed=1)
    _, _, targets, t = case(seed=2)
    ours = scaled_jsd(t.log_softmax(-1), s.log_softmax(-1), beta).mean().item() * (beta * (1 - beta) or 1)
    assert ours == pytest.approx(
        GKDTrainer.generalized_jsd_loss(
            s[None], t[None], labels=targets[None], beta=beta, temperature=1.0
        ).item(),
        abs=1e-6,
    )


def test_every_beta_has_one_scale():
    "Near 0 and 1 the usual formula vanishes; divided by beta (1 - beta) it becomes the two KLs."
    _, _, _, s = case(seed=1)
    t = s + 0.01 * case(seed=2)[3]
    values = [
        scaled_jsd(t.log_softmax(-1), s.log_softmax(-1), b).mean().item()
        for b in (0.0, 0.01, 0.3, 0.5, 0.99, 1.0)
    ]
    assert max(values) / min(values) < 1.05 and min(values) > 0


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_few_tokens_have_the_right_mean(temperature):
    "The average over many draws is the exact loss and the exact gradient; with the k likeliest alone it would not be."
    states, head, targets, teacher = case(n=3)
    many = lambda x, n=4000: x.repeat(n, *[1] * (x.dim() - 1))
    torch.manual_seed(0)
    ids, logps, rest = _kept(many(teacher), 3, 2, temperature)
    a, b = (
        distillation_loss(s, head, t, soft, temperature=temperature, alpha=1.0)[0]
        for s, t, soft in (
            (states, targets, dense_targets(teacher)),
            (many(states), many(targets), sparse_targets(ids, logps, rest, 3)),
        )
    )
    assert b.item() == pytest.approx(a.item(), rel=0.02)
    for x, y in zip(*(torch.autograd.grad(l, (head.weight, states)) for l in (a, b))):
        torch.testing.assert_close(x, y, rtol=0.1, atol=0.01)
    with pytest.raises(ValueError, match="the student likes"):
        distillation_loss(states, head, targets, sparse_targets(ids, logps, rest, 3), divergence="jsd")


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3", "phi3", "gpt2", "gemma2", "gemma3_text"])
def test_first_loss_is_the_plain_computation_for_every_architecture(kind):
    from test_stages import ROWS as labelled
    from test_stages import family

    teacher, student = load("tiny"), family(kind)
    after = distill(
        teacher, student, labelled[:4], epochs=1, batch_size=4, warmup_steps=0, learning_rate=1e-3
    )
    batch = collate(
        [encode(student.tokenizer, r["prompt"], r["completion"]) for r in labelled[:4]],
        student.tokenizer.pad_token_id,
    )
    with torch.no_grad():
        (s, targets), (t, _) = (scored_logits(lm.model, batch) for lm in (student, teacher))
    first = next(h for h in after.history if "loss" in h)
    assert first["loss"] == pytest.approx(
        plain(s.double(), t.double(), targets, 0, 2.0, 0.7).item(), rel=1e-4
    )
    assert first["soft"] + first["hard"] == pytest.approx(first["loss"], rel=1e-4)
    assert not torch.equal(weights(after), weights(student))


def test_cache_gives_the_same_student_and_resumes(tmp_path):
    plainly = distill("tiny", "tiny-small", ROWS, epochs=1, max_new_tokens=16)
    cached = distill("tiny", "tiny-small", ROWS, epochs=1, max_new_tokens=16, cache=tmp_path / "c")
    first, last = (
        ([h["loss"] for h in lm.history if "loss" in h][i] for lm in (plainly, cached)) for i in (0, -1)
    )
    for losses, rel in ((list(first), 0.05), (list(last), 0.1)):
        assert losses[1] == pytest.approx(losses[0], rel=rel)  # 40 rows: other draws, other steps
    kept = CachedTeacher(tmp_path / "c")
    assert (
        torch.equal(weights(distill(kept, "tiny-small", epochs=1)), weights(cached))
        and kept.bytes_per_token < 1000
    )  # short answers: half of it are the prompts
    with pytest.raises(ValueError, match="holds another cache.*teacher was"):
        write_cache("tiny-small", ROWS, tmp_path / "c", max_new_tokens=16)
    with pytest.raises(ValueError, match="written for temperature 2, not 3"):
        distill(kept, "tiny-small", temperature=3.0)
    with pytest.raises(ValueError, match="the student likes"):
        distill(kept, "tiny-small", divergence="jsd")
    with pytest.raises(ValueError, match="leave corpus"):
        distill(kept, "tiny-small", ROWS)


def test_missing_shards_are_named_and_written_again(tmp_path):
    whole = write_cache("tiny-small", ROWS, tmp_path, shard_rows=10, max_new_tokens=8)
    (tmp_path / "shard-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 4 files are missing, the first is shard-00002"):
        CachedTeacher(tmp_path)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("shard-*")}
    assert write_cache("tiny-small", ROWS, tmp_path, shard_rows=10, max_new_tokens=8).rows == whole.rows
    assert all(p.stat().st_mtime_ns == t for p, t in stamps.items())
    with pytest.raises(FileNotFoundError, match="no cache.json"):
        CachedTeacher(tmp_path / "nothing")


def test_full_disk_keeps_what_was_cached(tmp_path, monkeypatch):
    import safetensors.torch as st  # it keeps the `save_file` that it finds when it is first imported

    real, made = st.save_file, []

    def full(tensors, path):
        made.append(path)
        if len(made) > 2:
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(st, "save_file", full)
    with pytest.raises(OSError, match="shard-00002.*No space left.*goes on from there"):
        write_cache("tiny-small", ROWS, tmp_path, shard_rows=10, max_new_tokens=8)
    assert sorted(p.name for p in tmp_path.glob("*shard*")) == [
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    ]
    monkeypatch.undo()
    assert len(write_cache("tiny-small", ROWS, tmp_path, shard_rows=10, max_new_tokens=8).rows) == len(ROWS)


def swapped():
    lm = load("tiny-small")
    get = lm.tokenizer.get_vocab()
    lm.tokenizer.get_vocab = lambda: {t: {7: 8, 8: 7}.get(i, i) for t, i in get.items()}
    return lm


def test_same_size_and_other_tokens_are_refused(tmp_path):
    with pytest.raises(ValueError, match="different tokenizers"):
        distill("tiny", swapped(), ROWS)
    with pytest.raises(ValueError, match="other tokens"):
        distill(write_cache("tiny", ROWS, tmp_path, max_new_tokens=8), swapped())


@pytest.mark.parametrize(
    "knobs,message",
    [
        (dict(alpha=1.5), "alpha must lie"),
        (dict(temperature=0.0), "temperature must be above 0"),
        (dict(divergence="kl"), "divergence must be"),
        (dict(divergence=2), "divergence must be"),
        (dict(on_policy=True, alpha=0.5), "alpha mixes in"),
        (dict(on_policy=True, data=[dict(prompt="Hi", completion="Hello")]), "reads no written answers"),
        (dict(corpus=[]), "no rows"),
        (dict(corpus=None), "corpus is missing"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant(knobs, message):
    with pytest.raises(ValueError, match=message):
        distill("tiny", "tiny-small", **dict(dict(corpus=ROWS), **knobs))


def test_a_larger_student_is_warned_of():
    with pytest.warns(UserWarning, match="saves nothing"):
        distill("tiny-small", "tiny", ROWS[:8], epochs=1, max_new_tokens=4)


@pytest.mark.parametrize(
    "knobs",
    [
        dict(gradient_accumulation_steps=2),
        dict(lora=True),
        dict(data=[dict(prompt="Hi", completion="Hello")] * 9),
        dict(
            data=[dict(messages=[dict(role="user", content="Hi"), dict(role="assistant", content="Hello")])]
            * 9,
            epochs=1,
        ),
        dict(alpha=0.0),
        dict(divergence="jsd"),
        dict(on_policy=True, max_new_tokens=4),
    ],
    ids=lambda k: next(iter(k)),
)
def test_other_ways_of_distilling(knobs):
    before = load("tiny-small")
    after = distill("tiny", before, ROWS[:16], **dict(dict(epochs=2, max_new_tokens=16), **knobs))
    assert (
        torch.isfinite(weights(after)).all()
        and not torch.equal(weights(after), weights(before))
        and type(after.model).__name__ == "LlamaForCausalLM"
    )


def test_accumulated_batches_weigh_tokens_equally():
    a, b = (
        distill(
            "tiny",
            "tiny-small",
            ROWS[:16],
            epochs=1,
            max_new_tokens=16,
            batch_size=s,
            gradient_accumulation_steps=n,
        )
        for s, n in ((16, 1), (4, 4))
    )
    assert (weights(a) - weights(b)).abs().max() < 1e-4
    logged = lambda lm: [[h[k] for k in ("step", "loss", "soft", "hard")] for h in lm.history if "soft" in h]
    assert logged(a)[0] == pytest.approx(logged(b)[0], rel=1e-4)
    more = logged(
        distill(
            "tiny",
            "tiny-small",
            ROWS[:16],
            epochs=3,
            max_new_tokens=4,
            batch_size=8,
            gradient_accumulation_steps=2,
            logging_steps=3,
        )
    )
    assert [step for step, *_ in more] == [1, 3]
    for _, loss, soft, hard in more:
        assert soft + hard == pytest.approx(loss, rel=1e-4)


def test_several_processes_log_terms_that_add_up(tmp_path):
    (tmp_path / "run.py").write_text("""import sys; from ftguide.distill import distill
rows = [dict(prompt=f"How much is {i} + 2?", completion="yes " * (i % 5 + 1)) for i in range(8)]
for average in (True, False): distill("tiny", "tiny-small", rows, max_steps=3, logging_steps=3, batch_size=2, gradient_accumulation_steps=2, average_tokens_across_devices=average, output_dir=f"{sys.argv[1]}/{average}")""")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node=2",
            f"--master-port={port}",
            tmp_path / "run.py",
            tmp_path / "two",
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    together, apart = (
        [
            h
            for h in json.loads((tmp_path / f"two/{average}/checkpoint-3/trainer_state.json").read_text())[
                "log_history"
            ]
            if "soft" in h
        ]
        for average in (True, False)
    )
    for a, b in zip(
        together, apart, strict=True
    ):  # a mean over all tokens, and one over the processes' means
        assert a["step"] == b["step"] and b["loss"] == pytest.approx(a["loss"], rel=0.2)
        for h in (a, b):
            assert h["soft"] + h["hard"] == pytest.approx(h["loss"], rel=1e-4)


def test_best_student_is_returned():
    lm = distill(
        "tiny", "tiny-small", ROWS[:16], epochs=4, max_new_tokens=16, eval_data=ROWS[16:24], patience=1
    )
    assert [h for h in lm.history if "eval_loss" in h]


def test_another_tokenizer_behind_a_switch():
    "TRL's GOLD: the student learns from the probabilities of a teacher whose tokens are not its own."
    from test_stages import ROWS as labelled
    from test_stages import family

    student = family("llama", own=True)
    with pytest.raises(ValueError, match="different tokenizers"):
        distill("tiny", student, labelled)
    after = distill("tiny", student, labelled[:16], cross_tokenizer="gold", epochs=30, learning_rate=1e-2)
    losses = [h["loss"] for h in after.history if "loss" in h]
    assert (
        losses[-1] < 0.6 * losses[0]
        and torch.isfinite(weights(after)).all()
        and not torch.equal(weights(after), weights(student))
    )
    talks = [dict(messages=[dict(role="user", content="Hi"), dict(role="assistant", content="Hello")])] * 4
    assert distill(
        "tiny", student, labelled[:4], data=talks, cross_tokenizer="gold", max_steps=1, learning_rate=1e-2
    ).history
    with pytest.raises(ValueError, match="no alpha, on_policy or cache"):
        distill("tiny", student, labelled, cross_tokenizer="gold", alpha=0.5)
    with pytest.raises(ValueError, match="None or 'gold'"):
        distill("tiny", student, labelled, cross_tokenizer="silver")


class Server:
    "An OpenAI-compatible server around a function, which fails as it is told."

    def __init__(self, answer, plan=()):
        self.asked, self.plan, outer = [], list(plan), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((body["messages"], self.headers.get("Authorization")))
                what = outer.plan.pop(0) if outer.plan else 200
                if what == "garbage":
                    return self.reply(200, b"<html>hello</html>", "text/html")
                if what == "slow":
                    time.sleep(1.5)
                    what = 200
                if what != 200:
                    return self.reply(
                        what,
                        json.dumps(
                            dict(error=dict(message=f"no: {what}, key {self.headers.get('Authorization')}"))
                        ).encode(),
                    )
                said = dict(
                    id="1",
                    object="chat.completion",
                    created=0,
                    model="m",
                    choices=[
                        dict(
                            index=0,
                            finish_reason="stop",
                            message=dict(role="assistant", content=answer(body["messages"])),
                        )
                    ],
                    usage=dict(prompt_tokens=10, completion_tokens=3, total_tokens=13),
                )
                self.reply(200, json.dumps(said).encode())

            def reply(self, code, data, kind="application/json"):
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                try:
                    self.wfile.write(data)
                except OSError:
                    pass

            def log_message(self, *a):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def endpoint(self, **knobs):
        return Endpoint(
            f"http://127.0.0.1:{self.http.server_port}/v1",
            "m",
            **dict(dict(retries=3, timeout_s=20, at_once=1), **knobs),
        )

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.http.shutdown()
        self.http.server_close()


pytest.importorskip("openai")
ask = [dict(prompt=f"question {i % 10}") for i in range(12)]  # ten questions, two of them twice


def test_text_teacher_is_retried_billed_and_asked_once(tmp_path):
    with Server(lambda m: m[-1]["content"].upper(), plan=[429, 200, 500]) as server:
        teacher = TextTeacher(
            server.endpoint(), usd_per_million_input_tokens=1.0, usd_per_million_output_tokens=2.0
        )
        assert teacher.estimate(ask, 5) == dict(
            requests=10,
            input_tokens=30,
            output_tokens=50,
            usd=pytest.approx(130e-6),
            usd_at_most=pytest.approx(3720e-6),
        )
        rows = teacher.label(ask, tmp_path / "a.jsonl", 5)
        assert [r["completion"] for r in rows] == [r["prompt"].upper() for r in ask] and len(
            server.asked
        ) == 12
        assert (
            teacher.bill == dict(requests=10, input_tokens=100, output_tokens=30, usd=pytest.approx(160e-6))
            and teacher.rejected == 0
        )
        assert teacher.label(ask, tmp_path / "a.jsonl", 5) == rows and len(server.asked) == 12


def test_text_teacher_goes_on_after_a_failure_without_paying_twice(tmp_path):
    file = tmp_path / "a.jsonl"
    with Server(lambda m: "yes", plan=[200] * 4 + [400]) as server:
        teacher = TextTeacher(server.endpoint())
        with pytest.raises(
            ModelError, match="[45] of 10 questions were answered and are kept in .*goes on from there"
        ):
            teacher.label(ask, file)
        with file.open("a") as f:
            f.write('{"key": "torn')
        assert (
            len(teacher.label(ask, file)) == 12
            and len(server.asked) == 11
            and len({json.dumps(m) for m, _ in server.asked}) == 10
        )
    file.write_text("not an answer\n")
    with pytest.raises(ValueError, match="line 1: no answer of a teacher"):
        teacher.label(ask, file)


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
            teacher.label(ask, tmp_path / "a.jsonl")
        assert server.asked[0][1] == "Bearer sk-very-secret"
        assert "very-secret" not in str(e.value) + str(e.value.__cause__)
        assert not (tmp_path / "a.jsonl").exists() or "very-secret" not in (tmp_path / "a.jsonl").read_text()


def test_rate_limit():
    from ftguide.distill import Throttle

    pace = Throttle(6000)
    began = time.monotonic()
    threads = [threading.Thread(target=pace.wait) for _ in range(21)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert time.monotonic() - began >= 0.19  # 20 gaps of 10 ms


SCHEMA = dict(type="object", properties=dict(brand=dict(type="string")), required=["brand"])


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
        rows = teacher.label(ask, output_format=SCHEMA)
        assert (
            len(rows) == 12
            and teacher.rejected == 0
            and teacher.bill["requests"] == 18
            and "cannot be used: it is no JSON" in server.asked[-1][0][-1]["content"]
        )
    with Server(lambda m: "Zavo") as server:
        teacher = TextTeacher(server.endpoint(), tries=2)
        assert teacher.label(ask, output_format=SCHEMA) == [] and teacher.rejected == 1.0
    with pytest.raises(ValueError, match="no regular expression"):
        teacher.label(ask, output_format="(")
    with pytest.raises(TypeError, match="output_format"):
        teacher.label(ask, output_format=3)


def test_no_bill_is_above_what_was_estimated_at_most():
    "A tokenizer with a token for every byte, answers as long as allowed that never keep the format, a template of 50 tokens."
    for form, tries in ((r"\d+", 4), (SCHEMA, 4), (SCHEMA, 1)):
        with Server(lambda m: '{"b": "' + "x" * 23) as server:
            teacher = TextTeacher(
                server.endpoint(),
                usd_per_million_input_tokens=1.0,
                usd_per_million_output_tokens=2.0,
                tries=tries,
            )
            most = teacher.estimate(ask, 30, form, bytes_per_token=1)["usd_at_most"]
            teacher.label(ask, None, 30, form)
            spent = sum(
                50 + sum(len(m["content"].encode()) for m in messages) + 2 * 30
                for messages, _ in server.asked
            )
            assert len(server.asked) == 10 * tries and 0.5 * most < spent / 1e6 <= most


def test_an_answer_belongs_to_the_model_that_gave_it(tmp_path):
    "One name, other weights; one model's name, another address."
    file, tiny = tmp_path / "a.jsonl", load("tiny")
    other = tiny.copy("tiny")
    other.model.lm_head.weight.data.mul_(-1)
    for lm in (tiny, other):
        assert [r["completion"] for r in TextTeacher(lm).label(ask[:3], file, 4)] == reply(
            lm, [r["prompt"] for r in ask[:3]], 4
        )
    TextTeacher(tiny).label(ask[:3], file, 4)
    assert len(file.read_text().splitlines()) == 6
    with Server(lambda m: "one") as one, Server(lambda m: "two") as two:
        for server, said in ((one, "one"), (two, "two")):
            assert {r["completion"] for r in TextTeacher(server.endpoint()).label(ask[:3], file, 4)} == {said}


def test_raised_tries_go_on_where_the_asking_ended(tmp_path):
    file, begun = tmp_path / "a.jsonl", []
    with Server(lambda m: "42" if len(m) == 7 else "forty-two") as server:  # right the fourth time
        teacher = TextTeacher(server.endpoint(), tries=2)
        assert teacher.label(ask, file, output_format=r"\d+") == [] and teacher.bill["requests"] == 20
        assert teacher.label(ask, file, output_format=r"\d+") == [] and len(server.asked) == 20
        teacher.tries = 4
        assert {r["completion"] for r in teacher.label(ask, file, output_format=r"\d+")} == {
            "42"
        } and teacher.rejected == 0
        assert len(server.asked) == teacher.bill["requests"] == 40 and teacher.bill["input_tokens"] == 400
    here = TextTeacher("tiny-small", tries=1)
    assert here.label(ask, file, 4, output_format="never") == [] and here.bill["requests"] == 10
    here.tries = 3
    assert here.label(ask, file, 4, output_format="never") == [] and here.bill["requests"] == 30
    here.tries = 0
    with pytest.raises(ValueError, match="tries must be 1 or more"):
        here.label(ask)


def test_a_local_teacher_keeps_what_it_answered(tmp_path, monkeypatch):
    import ftguide.models as models

    generate, lm, file, batches = models._generate, load("tiny-small"), tmp_path / "a.jsonl", []
    rows = [dict(prompt="How much is " + "1 + " * (i * 7 % 50) + f"{i}?") for i in range(130)]

    def stopped(lm, texts, *a):
        batches.append(texts)
        if len(batches) == 6:
            raise KeyboardInterrupt
        return generate(lm, texts, *a)

    monkeypatch.setattr(models, "_generate", stopped)
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
        sum(size(models.prompt_text(lm.tokenizer, r["prompt"])) for r in rows),
        sum(min(size(a) + 1, 4) for a in said),
    )
    assert teacher.bill == dict(
        requests=130, input_tokens=read, output_tokens=written, usd=pytest.approx((read + 2 * written) / 1e6)
    )


def taught(monkeypatch, *args, **knobs):  # what the student is to write, validation rows last
    said = []

    def seen(teacher, rows, valid, start, *a, **k):
        said.extend(
            start.tokenizer.decode([t for t in r["labels"] if t != -100], skip_special_tokens=True)
            for r in [*rows, *valid]
        )
        return start

    with monkeypatch.context() as m:
        m.setattr("ftguide.distill._offline", seen)
        distill(*args, max_steps=1, max_new_tokens=4, **knobs)
    return said


def test_a_row_keeps_its_completion_whoever_the_teacher_is(monkeypatch, tmp_path):
    from ftguide.data import streamed

    labelled = [dict(prompt=f"shown {i}", completion="by hand") for i in range(3)]
    with Server(lambda m: "by wire") as server:
        teacher = TextTeacher(server.endpoint())
        assert taught(
            monkeypatch,
            teacher,
            "tiny-small",
            labelled[:1] + ask[:2],
            data=labelled[1:],
            eval_data=labelled[:1] + ask[3:4],
        ) == ["by hand", "by wire", "by wire", "by hand", "by hand", "by hand", "by wire"]
        assert len(server.asked) == teacher.bill["requests"] == 3
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in labelled[:1] + ask[:2]))
        assert (
            taught(monkeypatch, teacher, "tiny-small", streamed(tmp_path / "rows.jsonl", "corpus"))
            == ["by hand", "by wire", "by wire"]
            and len(server.asked) == 5
        )
        line = DistillationPipeline(teacher, "tiny-small")
        data = line.teacher_label(ask, output_format=".*wire")
        bill = dict(teacher.bill)
        assert (
            taught(monkeypatch, teacher, "tiny-small", data) == ["by wire"] * 12
            and len(server.asked) == 15
            and teacher.bill == bill
        )
    assert (
        taught(monkeypatch, "tiny", "tiny-small", ask[:1], data=labelled)
        == reply(load("tiny"), [ask[0]["prompt"]], 4) + ["by hand"] * 3
    )
    with pytest.warns(UserWarning, match="does not read the completions that 3 of the rows have"):
        distill("tiny", "tiny-small", ask[:1] + labelled, on_policy=True, max_steps=1, max_new_tokens=4)


def test_text_teacher_has_nothing_to_soften():
    teacher = TextTeacher("tiny")
    with pytest.raises(ValueError, match="no probabilities, so temperature and alpha"):
        distill(teacher, "tiny-small", ROWS, temperature=2.0, alpha=0.5)
    with pytest.raises(ValueError, match="only writes"):
        distill(teacher, "tiny-small", ROWS, on_policy=True)
    after = distill(teacher, "tiny-small", ROWS[:8], epochs=1, max_new_tokens=8)
    assert after.history[0]["soft"] == 0 and after.history[0]["hard"] > 0


def test_the_four_verbs(tmp_path):
    line = DistillationPipeline("tiny", "tiny-small", "{text}\n\nIn one line:")
    data = line.teacher_label([dict(text=f"A chair with {i} legs") for i in range(12)], max_new_tokens=8)
    assert data[3]["prompt"] == "A chair with 3 legs\n\nIn one line:" and data[3]["completion"]
    with pytest.raises(ValueError, match="call distill first"):
        line.evaluate(data)
    line.distill(data, epochs=1)
    report = line.evaluate(data, ["quality", "cost"])
    assert set(report.against) and line.cost_reduction > 0
    with pytest.raises(ValueError, match="not deployed: quality is .*; cost_reduction is .*20 is asked"):
        line.deploy_if(tmp_path / "m", quality=9.0)
    assert not (tmp_path / "m").exists()
    assert (line.deploy_if(tmp_path / "m", quality=-1.0, cost_reduction=0.0) / "model.safetensors").exists()
    with pytest.raises(ValueError, match="row 1 has no column 'text'"):
        line.teacher_label([dict(prompt="x")])


def test_the_four_verbs_say_what_is_missing(tmp_path):
    kept = write_cache("tiny-small", ROWS[:8], tmp_path / "c", max_new_tokens=4)
    line, rows = (
        DistillationPipeline(kept, "tiny-small"),
        [dict(prompt=r["prompt"], completion="no") for r in ROWS[:4]],
    )
    with pytest.raises(
        ValueError, match="answered already: leave teacher_label out, and call distill without data"
    ):
        line.teacher_label(ROWS)
    assert line.distill(epochs=1).history
    with pytest.raises(ValueError, match="call evaluate first"):
        line.cost_reduction
    line.evaluate(rows, ["quality"])
    for ask_for in (lambda: line.cost_reduction, lambda: line.deploy_if(tmp_path / "m")):
        with pytest.raises(ValueError, match="no cost was measured: call evaluate again, with 'cost'"):
            ask_for()
    line.evaluate(
        rows, ["cost"], api=dict(usd_per_million_output_tokens=1.0, date="2026-01-01", source="a page")
    )
    with pytest.raises(ValueError, match="no quality was measured"):
        line.deploy_if(tmp_path / "m")
    assert not (tmp_path / "m").exists()
