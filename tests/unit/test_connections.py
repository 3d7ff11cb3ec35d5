"Connections that take too long, or are too many, on a server that answers everything with ok."

import socket
import time
from contextlib import ExitStack, closing, contextmanager

import pytest

from ftguide.serving.errors import PageError
from ftguide.serving.limits import Limits

pytest.importorskip("uvicorn")
from ftguide.serving import connections
from ftguide.serving.connections import PageServer, listen
from ftguide.serving.guard import Proxies

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def ok(scope, receive, send):
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": message["type"] + ".complete"})
        return await send({"type": "lifespan.shutdown.complete"})
    size = int(scope["query_string"] or 2)
    await send(dict(type="http.response.start", status=200, headers=[]))
    for _ in range(0, size, 100_000):
        await send(dict(type="http.response.body", body=b"o" * min(size, 100_000), more_body=True))
    await send(dict(type="http.response.body", body=b""))


@contextmanager
def opened(proxies=(), **limits):
    "Port of a server."
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = PageServer(ok, listen("127.0.0.1", port), Limits(**{"patience": 1, **limits}), Proxies(proxies))
    try:
        yield port
    finally:
        server.close()
        assert not server.thread.is_alive()


def connected(port):
    return closing(socket.create_connection(("127.0.0.1", port), timeout=20))


def heard(s):
    "What a server says until it closes the connection."
    said = b""
    try:
        while part := s.recv(65536):
            said += part
    except ConnectionError:
        pass
    return said


def status(s):
    "First line of the answer to a request; nothing where the connection is closed."
    try:
        s.sendall(GET)
        return s.recv(12)
    except ConnectionError:
        return b""


def test_a_server_answers_and_ends():
    with opened() as port, connected(port) as s:
        s.sendall(GET + GET.replace(b"Host", b"Connection: close\r\nHost"))  # on one connection
        assert heard(s).count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("beginning", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n", GET + b"GET /"])
def test_a_head_that_does_not_come_ends_the_connection(beginning):
    with opened() as port, connected(port) as s:
        s.sendall(beginning)
        began = time.monotonic()
        heard(s)
        assert time.monotonic() - began < 15


def test_a_head_that_trickles_in_ends_the_connection():
    with opened() as port, connected(port) as s:
        s.sendall(b"GET / HTTP/1.1\r\nX-")
        with pytest.raises(ConnectionError):
            for _ in range(100):  # 20 s
                s.sendall(b"a")
                time.sleep(0.2)


def test_a_head_without_an_end_is_refused():
    with opened(patience=20) as port, connected(port) as s:
        sent = 0
        try:
            s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
            for _ in range(1000):
                s.sendall(b"X-Header: " + b"a" * 990 + b"\r\n")
                sent += 1000
        except ConnectionError:
            pass
        assert sent < 1_000_000 or b" 400 " in heard(s)


def test_an_address_has_half_of_the_connections():
    with opened(connections=8, patience=20) as port, ExitStack() as held:
        many = [held.enter_context(connected(port)) for _ in range(6)]
        time.sleep(0.5)
        assert [status(s) for s in many] == [b"HTTP/1.1 200"] * 4 + [b""] * 2
        many[0].close()
        time.sleep(0.5)
        with connected(port) as s:  # there is room again
            assert status(s) == b"HTTP/1.1 200"


def test_a_proxy_has_everybodys_connections():
    with opened(["127.0.0.0/8"], connections=8, patience=20) as port, ExitStack() as held:
        many = [held.enter_context(connected(port)) for _ in range(6)]
        assert [status(s) for s in many] == [b"HTTP/1.1 200"] * 6


def test_a_visitor_who_does_not_read_is_let_go(monkeypatch):
    monkeypatch.setattr(connections, "UNREAD_S", 0.5)
    with opened() as port, connected(port) as s:
        s.sendall(b"GET /?100000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(2)
        assert len(heard(s)) < 100_000_000


def test_one_listens_or_says_why():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for host, port in (
            ("127.0.0.1", taken.getsockname()[1]),
            ("127.0.0.1", 70000),
            ("no.such.invalid", 80),
        ):
            with pytest.raises(PageError):
                listen(host, port)
