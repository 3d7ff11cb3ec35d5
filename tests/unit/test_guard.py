"What the page refuses, as ASGI messages: whose word is taken, how long a body may be, and how it may arrive."

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftguide.serving.errors import PageError
from ftguide.serving.limits import Limits

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from ftguide.serving.guard import Proxies, RequestGuard

JOIN = "/gradio_api/queue/join"
HERE = "127.0.0.1:7860"


class Page:
    "Stands for gradio: keeps what it was given, and answers with a status."

    def __init__(self, status=200):
        self.status = status
        self.seen = []  # (scope, body)

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        self.seen.append((scope, body))
        await send(dict(type="http.response.start", status=self.status, headers=[]))
        await send(dict(type="http.response.body", body=b"ok"))


def ask(path="/", method="GET", headers=(), parts=(b"{}",), client="127.0.0.1", guard=None, pause_s=0.0):
    "Status of the answer, its headers, and how many bytes of the body were taken."
    guard = guard or RequestGuard(Page(), {"127.0.0.1"}, Limits(patience=1), wrong_password_s=0.0)
    headers = [("host", HERE), *headers] if "host" not in dict(headers) else headers
    sent, waiting, taken = [], iter(parts), []

    async def receive():
        await asyncio.sleep(pause_s)
        if (part := next(waiting, None)) is None:
            await asyncio.sleep(30)  # nothing comes any more
        taken.append(len(part))
        return dict(type="http.request", body=part, more_body=len(taken) < len(parts))

    async def send(message):
        sent.append(message)

    scope = dict(
        type="http",
        path=path,
        method=method,
        headers=[(name.encode(), value.encode("latin-1")) for name, value in headers],
        client=(client, 1) if client else None,
        scheme="http",
    )
    asyncio.run(asyncio.wait_for(guard(scope, receive, send), 20))
    return sent[0]["status"], dict(sent[0]["headers"]), sum(taken)


@pytest.mark.parametrize(
    "status, path, method, headers",
    [
        (200, "/", "GET", []),
        (200, "/", "HEAD", []),
        (200, "/assets/index.js", "GET", []),
        (200, "/gradio_api/heartbeat/abc123", "GET", []),
        (403, "/", "GET", [("host", "evil.example")]),
        (403, JOIN, "POST", [("origin", "https://evil.example")]),
        (403, JOIN, "POST", [("origin", "null")]),
        (200, JOIN, "POST", [("origin", "http://127.0.0.1:7860")]),
        (413, JOIN, "POST", [("content-length", "999999")]),
        (413, JOIN, "POST", [("content-length", "999999999999999999")]),
        (400, JOIN, "POST", [("content-length", "-1")]),
        (400, JOIN, "POST", [("content-length", "9" * 30)]),
        (400, JOIN, "POST", [("content-length", "")]),
        (400, JOIN, "POST", [("content-length", "1"), ("content-length", "2")]),
        (400, JOIN, "POST", [("content-length", "1"), ("transfer-encoding", "chunked")]),
        (415, JOIN, "POST", [("content-encoding", "gzip")]),
        (405, JOIN, "OPTIONS", [("origin", "http://127.0.0.1:7860")]),
        (405, "/", "TRACE", []),
        (404, "/gradio_api/upload", "POST", []),
        (404, "/upload", "POST", []),
        (404, "/gradio_api/file=/etc/passwd", "GET", []),
        (404, "/gradio_api/file/etc/passwd", "GET", []),
        (404, "/static/../../etc/passwd", "GET", []),
        (404, "/assets/..\\..\\x", "GET", []),
        (404, "/gradio_api/component_server", "POST", []),
        (404, "/gradio_api/run/ask", "POST", []),
        (404, "/gradio_api/gradio_api/upload", "POST", []),
        (404, "//upload", "POST", []),
        (404, "/monitoring/summary", "GET", []),
        (431, "/", "GET", [("x", "y")] * 101),
        (400, "/", "GET", [("host", "a" * 254)]),
    ],
)
def test_only_what_the_page_asks_for_is_let_through(status, path, method, headers):
    page = Page()
    guard = RequestGuard(page, {"127.0.0.1"}, Limits(), wrong_password_s=0.0)
    assert ask(path, method, headers, guard=guard)[0] == status
    assert len(page.seen) == (status == 200)


@pytest.mark.parametrize(
    "host",
    [
        "",
        " ",
        "a b",
        "[",
        "[::1",
        "::1",
        "127.0.0.1:",
        "127.0.0.1:x",
        "127.0.0.1:999999",
        "@127.0.0.1",
        "é",
        "a/b",
    ],
)
def test_a_malformed_host_is_a_bad_request(host):
    assert ask(headers=[("host", host)])[0] == 400
    assert ask(headers=[("host", HERE), ("host", HERE)])[0] == 400


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "http://[",
        "http://[::1",
        "127.0.0.1:7860",
        "http:127.0.0.1",
        "http://a b",
        "://",
        "http://127.0.0.1:7860/x",
        "é",
    ],
)
@pytest.mark.parametrize("method, path", [("GET", "/"), ("POST", JOIN)])
def test_a_malformed_origin_is_a_bad_request(origin, method, path):
    assert ask(path, method, [("origin", origin)])[0] == 400


@settings(max_examples=200)
@given(st.sampled_from(["host", "origin"]), st.text(st.characters(max_codepoint=255), max_size=20))
def test_any_host_or_origin_gets_an_answer(name, value):
    status, *_ = ask(JOIN, "POST", [("host", HERE), (name, value)][name == "host" :])
    assert status in (200, 400, 403)


def test_a_body_is_counted_as_it_arrives():
    "Whatever the headers say, no more than the limit and one part is kept, and gradio sees none of it."
    page = Page()
    guard = RequestGuard(page, None, Limits(body=1000, patience=1))
    for headers in ([], [("transfer-encoding", "chunked")], [("content-length", "5")]):
        status, answered, taken = ask(JOIN, "POST", headers, [b"x" * 500] * 10_000, guard=guard)
        assert (status, answered[b"connection"]) == (413, b"close") and taken <= 22_000
    assert page.seen == []
    assert ask(JOIN, "POST", [], [b"{}" + b" " * 498, b" " * 500], guard=guard)[0] == 200
    assert len(page.seen[0][1]) == 1000
    assert ask("/", "GET", [], [b"x" * 500] * 3, guard=guard)[0] == 413  # whatever the method


def test_a_body_that_trickles_in_has_a_time():
    began = time.monotonic()
    status, *_ = ask(JOIN, "POST", [("content-length", "90")], [b"x"] * 90, pause_s=0.2)
    assert status == 408 and time.monotonic() - began < 10
    assert ask(JOIN, "POST", [("content-length", "90")], [b"x", None])[0] == 408  # nothing comes any more


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"NaN",
        b'"text"',
        b'{"data": [NaN]}',
        b'{"data": [-Infinity]}',
        b'{"data": [1e999]}',
        b'{"data": ["\\ud800"]}',
        b"[" * 9_000,
        b'{"a":' * 9_000,
        b"9" * 9_000,
        b"\xff\xfe{}",
        b"{}x",
    ],
)
def test_what_is_no_json_stops_here(body):
    page = Page()
    assert ask(JOIN, "POST", parts=[body], guard=RequestGuard(page, None, Limits()))[0] == 400
    assert page.seen == []


def test_passwords_cannot_be_tried_for_ever():
    wrong = RequestGuard(Page(400), None, Limits(logins=2), wrong_password_s=0.0)
    right = RequestGuard(Page(200), None, Limits(logins=2), wrong_password_s=0.0)
    login = dict(path="/login", method="POST")
    assert [ask(**login, guard=wrong)[0] for _ in range(3)] == [400, 400, 429]
    assert ask("/login/", "POST", guard=wrong)[0] == 429
    assert ask(**login, guard=wrong, client="10.0.0.9")[0] == 400
    assert [ask(**login, guard=right)[0] for _ in range(9)] == [200] * 9  # who knows it is not counted


def test_a_wrong_password_is_answered_slowly():
    slow = RequestGuard(Page(400), None, Limits(), wrong_password_s=0.3)
    began = time.monotonic()
    ask("/login", "POST", guard=slow)
    assert time.monotonic() - began >= 0.3


def seen_address(client, forwarded, proxies=()):
    "Whom gradio takes a visitor for, and which headers of that kind it sees."
    page = Page()
    ask(headers=forwarded, client=client, guard=RequestGuard(page, None, Limits(), Proxies(proxies)))
    ((scope, _),) = page.seen
    kept = [name for name, _ in scope["headers"] if name.startswith((b"x-forwarded", b"forwarded"))]
    return scope["client"] and scope["client"][0], kept


def test_the_word_of_a_proxy_counts_and_nobody_elses():
    says = [
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-host", "evil.example"),
        ("forwarded", "for=1.2.3.4"),
    ]
    assert seen_address("127.0.0.1", says) == ("127.0.0.1", [])
    assert seen_address("10.0.0.9", says, ["127.0.0.1"]) == ("10.0.0.9", [])
    assert seen_address("127.0.0.1", says[:1], ["127.0.0.1"]) == ("1.2.3.4", [b"x-forwarded-for"])
    assert seen_address("10.0.0.9", says[:1], ["10.0.0.0/8"])[0] == "1.2.3.4"
    assert seen_address("::ffff:10.0.0.9", says[:1], ["10.0.0.0/8"])[0] == "1.2.3.4"
    assert seen_address(None, says) == (None, [])


def test_a_forwarded_host_is_a_host_too():
    for host, status in (("name.example", 200), ("[", 400), ("a b", 400), ("name.example, other", 200)):
        guard = RequestGuard(Page(), None, Limits(), Proxies(["127.0.0.1"]))
        assert ask(headers=[("x-forwarded-host", host)], guard=guard)[0] == status


def test_what_a_visitor_adds_before_the_proxy_does_not_count():
    "A proxy appends the address it sees; what stands before it was written by the visitor."
    says = [("x-forwarded-for", "1.1.1.1, 2.2.2.2, 9.9.9.9")]
    assert seen_address("127.0.0.1", says, ["127.0.0.1"])[0] == "9.9.9.9"


@pytest.mark.parametrize("address", ["", "proxy.example", "10.0.0.1/33", "*", "10.0.0.1:80"])
def test_a_proxy_is_named_by_its_address(address):
    with pytest.raises(PageError, match="a proxy is named by its address"):
        Proxies([address])


def test_nothing_speaks_websocket():
    sent = []

    async def send(message):
        sent.append(message)

    page = Page()
    asyncio.run(RequestGuard(page, None, Limits())(dict(type="websocket", headers=[]), None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}] and page.seen == []
