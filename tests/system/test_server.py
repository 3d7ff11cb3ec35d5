"`transformers serve` on a model that the guide saved, asked through OpenAI's client."

import os
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
from ports import free_port

from ftguide.deployment import Gate, deploy
from ftguide.engine.model_folders import ModelError
from ftguide.engine.teachers import TextTeacher
from ftguide.evaluation import evaluate, prompting_baseline
from ftguide.judges import judge
from ftguide.market import load_tasks
from ftguide.models import reply, save
from ftguide.serving.endpoint import Endpoint, ask
from ftguide.sft import finetune_sft

pytest.importorskip("openai")
pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")


def serve(folder, port, log):
    "`transformers serve` as a process of its own, once it answers."
    with log.open("a") as out:
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "transformers.cli.transformers",
                "serve",
                str(folder),
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
                "--device",
                "cpu",
            ],
            stdout=out,
            stderr=out,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
            return server
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    "A model, and the folder it is in."
    lm = finetune_sft(
        "tiny-small", load_tasks("train", 120, tasks=("summary", "extraction"), seed=1), epochs=2
    )
    return lm, save(lm, tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="module")
def served(saved, tmp_path_factory):
    "The model, and the address of a server that serves what `current` leads to after a second deployment."
    (lm, _), port, folder = saved, free_port(), tmp_path_factory.mktemp("served")
    for model in ("tiny-small", lm):
        report = evaluate(model, load_tasks("test", 2), metrics=("quality",), max_new_tokens=8)
        deploy(model, folder / "ads", report, Gate(quality=0.0))
    server = serve(folder / "ads/current", port, folder / "log")
    try:
        yield lm, Endpoint(f"http://127.0.0.1:{port}/v1", str(folder / "ads/current"), timeout_s=120)
    finally:
        server.kill()
        server.wait()


def test_what_current_leads_to_answers_as_reply_does(served):
    lm, there = served
    prompts = [r["prompt"] for r in load_tasks("test", 50, tasks=("summary", "extraction"), seed=3)]
    assert ask(there, prompts, 48) == reply(lm, prompts, 48)


def test_a_prompting_baseline_and_a_judge_through_the_server(served):
    lm, there = served
    rows, examples = (load_tasks(split, 6, tasks=("summary",), seed=2) for split in ("test", "train"))
    here, far = (
        prompting_baseline(who, rows, examples, shots=(0,), max_new_tokens=32) for who in (lm, there)
    )
    assert far[0].value == here[0].value
    judged = judge(there, rows, [r["completion"] for r in rows], ["no"] * 6)
    assert len(judged.verdicts) + judged.unread == 6  # a model of this size may give no verdict at all


def test_a_model_the_server_does_not_have(served):
    _, there = served
    with pytest.raises(ModelError, match="does not answer"):
        ask(Endpoint(there.url, "/no/such/folder", retries=0), ["Hi"])


def test_a_text_teacher_outlives_its_server(saved, tmp_path):
    "The server is killed after some answers and started again; nothing is asked twice."
    (lm, folder), port, log, file = saved, free_port(), tmp_path / "log", tmp_path / "answers.jsonl"
    prompts = [r["prompt"] for r in load_tasks("test", 40, tasks=("summary", "extraction"), seed=4)]
    teacher, servers = (
        TextTeacher(
            Endpoint(f"http://127.0.0.1:{port}/v1", str(folder), timeout_s=60, retries=12, at_once=2)
        ),
        [serve(folder, port, log)],
    )
    over = threading.Event()

    def restart():
        while not file.exists() or len(file.read_bytes().splitlines()) < 5:
            if over.wait(0.02):
                return
        servers[0].kill()
        servers[0].wait()
        servers.append(serve(folder, port, log))

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        rows = teacher.label([dict(prompt=p) for p in prompts], file, max_new_tokens=48)
    finally:
        over.set()
        thread.join()
        for server in servers:
            server.kill()
            server.wait()
    assert len(servers) == 2 and [r["completion"] for r in rows] == reply(lm, prompts, 48)
    assert (
        teacher.bill["requests"] == 40
        and teacher.bill["output_tokens"] > 40
        and len(file.read_text(encoding="utf-8").splitlines()) == 40
    )
