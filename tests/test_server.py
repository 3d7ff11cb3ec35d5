"`transformers serve` on a model that the guide saved, asked through OpenAI's client."
import os, socket, subprocess, sys, time, urllib.request

import pytest

from ftguide.evaluate import Endpoint, ask, judge, prompting_baseline
from ftguide.market import load_tasks
from ftguide.models import ModelError, reply, save
from ftguide.sft import finetune_sft

pytest.importorskip("openai"); pytest.importorskip("uvicorn"); pytest.importorskip("fastapi")


def free_port():
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); return s.getsockname()[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    "A model in a folder, and the address of the server that serves this folder."
    lm = finetune_sft("tiny-small", load_tasks("train", 120, tasks=("summary", "extraction"), seed=1), epochs=2)
    folder, port, log = save(lm, tmp_path_factory.mktemp("served") / "model"), free_port(), tmp_path_factory.mktemp("log") / "log"
    with log.open("w") as out:
        server = subprocess.Popen([sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
                                  stdout=out, stderr=out, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})
    try:
        for _ in range(600):
            assert server.poll() is None, log.read_text()
            try: urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1); break
            except OSError: time.sleep(0.2)
        yield lm, Endpoint(f"http://127.0.0.1:{port}/v1", str(folder), timeout_s=120)
    finally: server.kill(); server.wait()


def test_served_answers_are_the_replies(served):
    lm, there = served
    prompts = [r["prompt"] for r in load_tasks("test", 50, tasks=("summary", "extraction"), seed=3)]
    assert ask(there, prompts, 48) == reply(lm, prompts, 48)


def test_a_prompting_baseline_and_a_judge_through_the_server(served):
    lm, there = served
    rows, examples = (load_tasks(split, 6, tasks=("summary",), seed=2) for split in ("test", "train"))
    here, far = (prompting_baseline(who, rows, examples, shots=(0,), max_new_tokens=32) for who in (lm, there))
    assert far[0].value == here[0].value
    assert len(judge(there, rows, [r["completion"] for r in rows], ["no"] * 6).verdicts) == 6


def test_a_model_the_server_does_not_have(served):
    _, there = served
    with pytest.raises(ModelError, match="does not answer"): ask(Endpoint(there.url, "/no/such/folder", retries=0), ["Hi"])
