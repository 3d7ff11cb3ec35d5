"A server that speaks OpenAI's chat format is asked as a model is, and its faults are named."

import json
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from made_rows import CALL, TOOLS

from ftguide.engine.model_folders import ModelError
from ftguide.evaluation import prompting_baseline
from ftguide.judges import judge
from ftguide.market import load_tasks
from ftguide.models import load, reply
from ftguide.serving.endpoint import Endpoint, ask
from ftguide.sft import finetune_sft


@pytest.fixture(scope="module")
def tuned():
    return finetune_sft(load("tiny-small"), load_tasks("train", 128, seed=1), epochs=2, batch_size=8)


@contextmanager
def server(lm):
    "A real HTTP server that answers OpenAI's chat format with a model."
    seen, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                seen.append((self.path, body))
                text = (
                    reply(lm, [body["messages"]], body["max_tokens"])[0]
                    if body["model"] == "tiny-small"
                    else None
                )
            done = json.dumps(
                dict(
                    id="c",
                    object="chat.completion",
                    created=0,
                    model=body["model"],
                    choices=[
                        dict(index=0, finish_reason="stop", message=dict(role="assistant", content=text))
                    ],
                )
                if text is not None
                else dict(error=dict(message=f"no model {body['model']}"))
            ).encode()
            self.send_response(200 if text is not None else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(done)))
            self.end_headers()
            self.wfile.write(done)

        def log_message(self, *a):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1", seen
    finally:
        http.shutdown()
        http.server_close()


def test_a_server_is_asked_as_a_model_is(tuned, monkeypatch):
    pytest.importorskip("openai", reason="the extra serve is not installed: no openai client")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    test = load_tasks("test", 6, tasks=("sentiment",), seed=2)
    examples = load_tasks("train", 2, tasks=("sentiment",), seed=2)
    with server(tuned) as (url, seen):
        there = Endpoint(url, "tiny-small", retries=0)
        assert ask(there, [r["prompt"] for r in test], 8) == reply(tuned, [r["prompt"] for r in test], 8)
        assert {p for p, _ in seen} == {"/v1/chat/completions"} and all(
            b["temperature"] == 0 for _, b in seen
        )
        found = prompting_baseline(there, test, examples, shots=(0, 2), max_new_tokens=8)
        assert (
            set(found) == {0, 2}
            and found[0].value
            == sum(a == r["completion"] for a, r in zip(reply(tuned, [r["prompt"] for r in test], 8), test))
            / 6
        )
        prompts = [dict(prompt=f"Ask {i}") for i in range(12)]
        judged = judge(there, prompts, ["good"] * 12, ["bad"] * 12)
        assert len(judged.verdicts) + judged.unread == 12
        with pytest.raises(ModelError, match="no model"):
            ask(Endpoint(url, "other", retries=0), ["Hi"])
    with pytest.raises(ModelError, match="does not answer"):
        ask(Endpoint(url, "tiny-small", retries=0, timeout_s=2), ["Hi"])
    with pytest.raises(ValueError, match="http"):
        Endpoint("localhost:8000", "x")


def test_without_the_client_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ModelError, match=r"ftguide\[serve\]"):
        ask(Endpoint("http://localhost:1/v1", "x"), ["Hi"])


class Recorded:
    "A client that keeps what it is asked."

    def __init__(self):
        self.asked, self.chat, self.completions = [], self, self

    def create(self, **request):
        self.asked.append(request)
        answer = SimpleNamespace(message=SimpleNamespace(content="Blue."))
        return SimpleNamespace(choices=[answer])


def test_a_server_is_told_the_tools_in_its_own_keys():
    pytest.importorskip("openai")
    client = Recorded()
    turns = [
        dict(role="user", content="Which?", tools=TOOLS),
        dict(role="assistant", content="", tool_calls=[CALL], weight=0),
        dict(role="tool", content="blue", tool_call_id="c1"),
    ]
    server = Endpoint("http://localhost:1/v1", "m")
    assert server.say(client, turns, 8)[0] == server.say(client, turns[:0], 8)[0] == "Blue."
    asked, bare = client.asked
    assert asked["tools"] == TOOLS and "tools" not in bare and turns[0]["tools"] == TOOLS
    assert [m.keys() - {"role", "content"} for m in asked["messages"]] == [
        set(), {"tool_calls"}, {"tool_call_id"},
    ]  # fmt: skip
    (call,) = asked["messages"][1]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == CALL["function"]["arguments"]
