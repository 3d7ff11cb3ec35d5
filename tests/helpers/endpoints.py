"An OpenAI-compatible server for tests."

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ftguide.serving.endpoint import Endpoint

QUESTIONS = [dict(prompt=f"question {i % 10}") for i in range(12)]  # ten questions, two of them twice


class Server:
    "An OpenAI-compatible server around a function, which fails as it is told."

    def __init__(self, answer, plan=(), cut=lambda text: False):
        pytest.importorskip("openai")
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
                text = answer(body["messages"])
                said = dict(
                    id="1",
                    object="chat.completion",
                    created=0,
                    model="m",
                    choices=[
                        dict(
                            index=0,
                            finish_reason="length" if cut(text) else "stop",
                            message=dict(role="assistant", content=text),
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
                with contextlib.suppress(OSError):
                    self.wfile.write(data)

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
