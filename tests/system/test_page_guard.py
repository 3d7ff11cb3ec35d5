"A started page, and what arrives at it over raw sockets: bounded in number and time, on this machine only."

import contextlib
import gzip
import json
import socket
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("gradio")
from test_page import Server

from ftguide.serving.load_test import PageClient
from ftguide.serving.votes import Feedback

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="/proc, and several addresses on this machine"
)
PASSWORD = "right horse"
JOIN = "/gradio_api/queue/join"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "A page with a password."
    top = tmp_path_factory.mktemp("guard")
    arguments = ("tiny-small", "--store", top / "votes.db", "--max-new-tokens", 4)
    with Server(top / "log", *arguments, FTGUIDE_PASSWORD=PASSWORD) as server:
        server.store = Feedback(top / "votes.db")
        yield server


@pytest.fixture(autouse=True)
def unharmed(site):
    "Whatever arrived: no mistake of ours in the log, and the next visitor is answered."
    yield
    assert site.process.poll() is None
    said = site.log.read_text()
    assert "Traceback" not in said, said[-3000:]
    connection = socket.create_connection(("127.0.0.1", site.port), timeout=20)
    with connection:
        connection.sendall(head("GET", "/", ("Connection", "close")))
        assert heard(connection).startswith(b"HTTP/1.1 200")


def head(method, path, *headers, host="127.0.0.1"):
    host = [] if host is None else [("Host", host)]
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in [*host, *headers])]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def heard(connection, most=1_000_000):
    "What the server says until it closes the connection."
    said = b""
    with contextlib.suppress(ConnectionError):
        while len(said) < most and (part := connection.recv(65536)):
            said += part
    return said


def said(site, *pieces, of="127.0.0.1"):
    "Send pieces as far as they are taken; the status of the answer, 0 where there is none."
    with socket.create_connection(("127.0.0.1", site.port), timeout=20, source_address=(of, 0)) as connection:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
        connection.settimeout(40)
        words = heard(connection, 12).split(b" ")
        return int(words[1]) if len(words) > 1 else 0


def memory_mb(site):
    status = Path(f"/proc/{site.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


def chunks(total, size=65536):
    part = b"%x\r\n" % size + b"a" * size + b"\r\n"
    yield from (part for _ in range(total // size))
    yield b"0\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    [[("Transfer-Encoding", "chunked")], [("Transfer-Encoding", "chunked"), ("Content-Length", "9")]],
)
@pytest.mark.parametrize("path", [JOIN, "/login", "/gradio_api/run/predict", "/gradio_api/upload"])
def test_a_body_in_chunks_is_cut_off(site, path, headers):
    "Of 64 MB nothing is kept, although nobody asked for a password yet."
    before = memory_mb(site)
    status = said(site, head("POST", path, *headers), *chunks(64_000_000))
    assert status in (0, 400, 404, 413)  # 0: closed while the body was still being sent
    assert memory_mb(site) - before < 30


def test_a_small_body_in_chunks_is_taken(site):
    body = json.dumps(dict(data=[], fn_index=0, session_hash="x")).encode()
    kind = [("Transfer-Encoding", "chunked"), ("Content-Type", "application/json"), ("Connection", "close")]
    assert said(site, head("POST", JOIN, *kind), b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)) == 401
    assert said(site, head("POST", JOIN, *kind, ("Content-Length", "9")), b"0\r\n\r\n") == 400


@pytest.mark.parametrize(
    "host", [None, "", " ", "[", "[::1", "::::", "a b", "127.0.0.1:x", "\xe9", "a" * 10_000]
)
def test_a_malformed_host(site, host):
    assert said(site, head("GET", "/", ("Origin", "http://x"), host=host)) in (400, 403)


@pytest.mark.parametrize(
    "origin", ["[", "http://[", "http://[::1", "://", "\xe9", "http://a b", "http://" + "a" * 10_000]
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_malformed_origin(site, origin, method):
    asked = head(method, "/config", ("Origin", origin), ("Access-Control-Request-Method", "POST"))
    assert said(site, asked) in (400, 403, 405)


@pytest.mark.parametrize("name", ["X-Forwarded-Host", "X-Gradio-Server", "X-Forwarded-Proto", "Forwarded"])
@pytest.mark.parametrize("value", ["evil.example", "[", "http://[", "\xe9"])
def test_what_only_a_proxy_may_say(site, name, value):
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as connection:
        connection.sendall(head("GET", "/", (name, value), ("Connection", "close")))
        answer = heard(connection)
    assert answer.startswith(b"HTTP/1.1 200") and b"evil.example" not in answer


@pytest.mark.parametrize(
    "lines",
    [
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1e3\r\n\r\n",
        b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"f" * 99
        + b"\r\n",
        b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
        b"GET /%00 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /%ff%fe HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"CONNECT evil.example:80 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
    ],
)
def test_what_is_no_request(site, lines):
    assert said(site, lines) in (400, 403, 404, 405, 408, 413, 431)


@pytest.mark.parametrize(
    "path", ["/gradio_api/heartbeat/abc", "/gradio_api/queue/data?session_hash=abc", "/config"]
)
def test_nothing_speaks_websocket(site, path):
    upgrade = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")]
    key = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as connection:
        connection.sendall(head("GET", path, *upgrade, key))
        assert not connection.recv(12).endswith(b" 101")


def test_a_stream_takes_no_body(site):
    "An event stream waits for its visitor to leave, and would read a body without end while it waits."
    before = memory_mb(site)
    stream = head("GET", "/gradio_api/heartbeat/abc", ("Transfer-Encoding", "chunked"))
    assert said(site, stream, *chunks(16_000_000)) in (0, 413)
    assert memory_mb(site) - before < 30


def test_compressed_bodies_and_uploads_are_refused(site):
    bomb = gzip.compress(b"a" * 50_000_000)  # 50 kB
    kind = [("Content-Type", "application/json"), ("Content-Length", len(bomb)), ("Connection", "close")]
    assert said(site, head("POST", JOIN, ("Content-Encoding", "gzip"), *kind), bomb) == 415
    assert said(site, head("POST", JOIN, *kind), bomb) in (400, 401, 422)
    form = (
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\n'
        + b"a" * 5000
        + b"\r\n--b--\r\n"
    )
    kind = [("Content-Type", "multipart/form-data; boundary=b"), ("Content-Length", len(form))]
    assert said(site, head("POST", "/gradio_api/upload", *kind), form) == 404
    assert said(site, head("POST", "/login", *kind, ("Connection", "close")), form) in (400, 422)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=..%2f..%2f..%2fetc%2fpasswd",
        "/gradio_api/file/etc/passwd",
        "/file=/etc/passwd",
        "/gradio_api/%66ile=/etc/passwd",
        "/static/..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/assets/%2e%2e/%2e%2e/routes.py",
        "/static//etc/passwd",
        "/svelte/%2fetc%2fpasswd",
        "/gradio_api/custom_component/0/client/component/..%2f..%2fetc%2fpasswd",
        "/assets/..%5c..%5croutes.py",
    ],
)
def test_no_file_but_the_pages_own(site, path):
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as connection:
        connection.sendall(head("GET", path, ("Connection", "close")))
        answer = heard(connection)
    assert answer.split(b" ")[1] in (b"401", b"403", b"404") and b"root:" not in answer


def test_a_body_that_does_not_come_has_a_time(site):
    began = time.monotonic()
    asked = head("POST", JOIN, ("Content-Length", "50000"), ("Content-Type", "application/json"))
    assert said(site, asked, b"{") == 408
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 90_000,
        b'{"data":' * 9_000,
        b"9" * 90_000,
        b"NaN",
        b"\xff\xfe",
        b'{"data": [1e999], "fn_index": -1}',
        b"",
    ],
)
def test_nonsense_in_a_body(site, body):
    visitor = PageClient(site.url, "ana", PASSWORD)
    cookie = "; ".join(f"{name}={value}" for name, value in visitor.http.cookies.items())
    kind = [("Content-Type", "application/json"), ("Content-Length", len(body)), ("Connection", "close")]
    for path in (JOIN, "/gradio_api/run/predict", "/gradio_api/cancel", "/gradio_api/reset"):
        assert 400 <= said(site, head("POST", path, *kind, ("Cookie", cookie)), body) < 500, path


def login(site, password, *headers):
    body = b"username=eve&password=" + password
    kind = [("Content-Type", "application/x-www-form-urlencoded"), ("Content-Length", len(body))]
    return said(site, head("POST", "/login", *kind, *headers, ("Connection", "close")), body, of="127.0.0.9")


def test_passwords_on_this_machine_are_slow_and_few(site):
    "Whatever the visitor says of where he comes from."
    began = time.monotonic()
    assert login(site, b"%ed%a0%80%ff%00") == 400  # half a character
    assert time.monotonic() - began > 0.9
    tries = [login(site, b"wrong", ("X-Forwarded-For", f"10.0.0.{i}")) for i in range(11)]
    assert set(tries[:9]) == {400} and set(tries[9:]) == {429}
    assert (
        login(site, PASSWORD.encode(), ("X-Forwarded-For", "10.1.1.1"), ("Forwarded", "for=1.2.3.4")) == 429
    )
    assert PageClient(site.url, "ana", PASSWORD).ids  # other addresses are not locked out
    assert site.store.rows() == []
