"What is refused before gradio reads it."

# A page that listens on this machine can still be reached by other pages in the same browser: any site may
# tell the browser to send a form to 127.0.0.1. And gradio has more addresses than the page needs: uploads,
# files, a proxy. So only what the page's own script asks for is let through, and a body is read here, whole
# and within its limits, before anything looks at it.

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import time
from collections.abc import Collection
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from ftguide.engine.files import strict_json
from ftguide.serving.errors import PageError
from ftguide.serving.limits import Limits, RateLimiter

OPEN_PATHS = re.compile(  # what the page and its script ask for
    r"/(|config|login|logout|theme\.css|favicon\.ico|manifest\.json|robots\.txt)/?"
    r"|/(assets|static|svelte)/.+"
    r"|(/gradio_api)?/(heartbeat/\w+|run/predict|queue/(join|data)|startup-events|theme\.css|cancel|reset)/?"
)
HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")
MOST_HEADERS = 100
ONCE = ("host", "origin", "content-length", "content-type", "transfer-encoding")  # headers that come once
WRONG_PASSWORD_S = 1.0  # before a wrong password is answered
DISCARD_BODIES = 20  # of a body that is refused, so many times its limit is read and thrown away
CONTENT_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
SECURITY_HEADERS = [
    (b"content-security-policy", CONTENT_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class Refused(Exception):
    "A request that is answered with a status and a reason, and goes no further."

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class Proxies:
    "The addresses and networks whose word about a visitor's address is taken."

    def __init__(
        self,
        addresses: Collection[str] = (),  # such as 127.0.0.1 or 10.0.0.0/8; PageError for anything else
    ):
        try:
            self.networks = [ipaddress.ip_network(address) for address in addresses]
        except ValueError as e:
            raise PageError(f"a proxy is named by its address or network, such as 127.0.0.1: {e}") from None

    def __contains__(self, host: str) -> bool:
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:
            return False
        ip = getattr(ip, "ipv4_mapped", None) or ip
        return any(ip in network for network in self.networks)


class RequestGuard:
    """ASGI middleware, and the first one that a request meets.

    Refuses requests the page does not need, and sends the headers that restrict the browser."""

    def __init__(
        self,
        app: ASGIApp,
        hosts: Collection[str] | None,  # names the page answers to; None = any
        limits: Limits,
        proxies: Proxies | None = None,  # who may say where a visitor comes from; None = nobody
        wrong_password_s: float = WRONG_PASSWORD_S,
    ):
        self.app = app
        self.hosts = hosts
        self.limits = limits
        self.proxies = proxies or Proxies()
        self.behind_proxy = ProxyHeadersMiddleware(self._guarded, ["proxy", *map(str, self.proxies.networks)])
        self.wrong_password_s = wrong_password_s
        self.logins = RateLimiter(limits.logins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # nothing here speaks WebSocket
            return await send({"type": "websocket.close", "code": 1008})
        if visitor_of(scope) in self.proxies:
            return await self.behind_proxy({**scope, "client": ("proxy", 0)}, receive, send)
        # anybody may write such a header; gradio believes some of them
        names = (b"x-forwarded-", b"forwarded", b"x-gradio-server")
        headers = [(name, value) for name, value in scope["headers"] if not name.startswith(names)]
        await self._guarded({**scope, "headers": headers}, receive, send)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = RequestBody(receive, self.limits)
        try:
            self.check(scope)
            content = await body.read()
            if scope["method"] == "POST" and not _is_login(scope):
                check_json(content)
        except Refused as e:
            await body.discard_rest()
            answer = PlainTextResponse(str(e), e.status, {"connection": "close"})
            return await answer(scope, receive, send)

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *SECURITY_HEADERS]
                if _is_login(scope) and message["status"] < 400:
                    self.logins.forgive(visitor_of(scope))
                elif _is_login(scope):
                    await asyncio.sleep(self.wrong_password_s)
            await send(message)

        whole = [dict(type="http.request", body=content, more_body=False)]

        async def received() -> Message:
            return whole.pop() if whole else await receive()

        await self.app(scope, received, answered)

    def check(self, scope: Scope) -> None:
        "Refused says why a request is not let through; nothing of its body is read for that."
        if len(scope["headers"]) > MOST_HEADERS:
            raise Refused(431, f"the request has more than {MOST_HEADERS} headers")
        head = _headers(scope)
        host = HOST.fullmatch(head.get("host", ""))
        if host is None:
            raise Refused(400, "the Host header is missing or malformed")
        forwarded = head.get("x-forwarded-host", head["host"]).split(",")[0].strip()
        if not HOST.fullmatch(forwarded):
            raise Refused(400, "the X-Forwarded-Host header is malformed")
        if self.hosts is not None and host["name"].strip("[]").lower() not in self.hosts:
            raise Refused(403, "this page does not answer to that host name")
        if "transfer-encoding" in head and "content-length" in head:
            raise Refused(400, "a request has a length or comes in chunks, not both")
        if head.get("content-encoding", "identity") != "identity":
            raise Refused(415, "the page takes no compressed requests")
        path, method = scope["path"], scope["method"]
        if method not in ("GET", "HEAD", "POST"):
            raise Refused(405, "the page has no such method")
        if ".." in path or not OPEN_PATHS.fullmatch(path):
            raise Refused(404, "this page has no such address")
        origin = head.get("origin")
        if origin is not None and not _is_origin(origin):
            raise Refused(400, "the Origin header is malformed")
        if method == "POST" and origin is not None and origin.split("//")[-1].lower() != head["host"].lower():
            raise Refused(403, "another site's page may not vote")
        length = head.get("content-length", "0")
        if not re.fullmatch("[0-9]{1,18}", length):
            raise Refused(400, "the Content-Length header is malformed")
        if int(length) > self.limits.body:
            raise _too_long(self.limits)
        if _is_login(scope) and not self.logins(visitor_of(scope)):
            raise Refused(429, "too many passwords tried; wait a minute")


class RequestBody:
    "The body of a request, counted as it arrives, whatever its headers say."

    def __init__(self, receive: Receive, limits: Limits):
        self.receive = receive
        self.limits = limits
        self.ended = False
        self.deadline_s = time.monotonic() + limits.patience

    async def read(self) -> bytes:
        "All of it; Refused when it is too long, or does not arrive in time."
        body = bytearray()
        while not self.ended:
            body += await self._part()
            if len(body) > self.limits.body:
                raise _too_long(self.limits)
        return bytes(body)

    async def discard_rest(self) -> None:
        "Read on for a while and keep nothing: a client that is still sending would not read the answer."
        size = 0
        with suppress(Refused):
            while not self.ended and size <= DISCARD_BODIES * self.limits.body:
                size += len(await self._part())

    async def _part(self) -> bytes:
        try:
            message = await asyncio.wait_for(self.receive(), self.deadline_s - time.monotonic())
        except TimeoutError:
            self.ended = True  # nobody waits for it twice
            raise Refused(408, "the request did not arrive in time") from None
        self.ended = not message.get("more_body")
        if message["type"] == "http.disconnect":
            raise Refused(400, "the request broke off")
        return message.get("body", b"")


def check_json(content: bytes) -> None:
    """Refused unless a body is a JSON object of numbers that are finite and text that can be written.

    gradio repeats in its answer what it cannot use, and fails where that is no JSON itself."""
    try:
        found = strict_json(content)
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise Refused(400, "the request is not JSON as the page's script writes it") from None
    if not isinstance(found, dict):
        raise Refused(400, "the request is not a JSON object")


def _too_long(limits: Limits) -> Refused:
    return Refused(413, f"the request is longer than {limits.body:,} bytes")


def _is_login(scope: Scope) -> bool:
    return scope["method"] == "POST" and scope["path"].startswith("/login")


def visitor_of(scope: Scope) -> str:
    "Address of who sent a request."
    return (scope.get("client") or ("", 0))[0]


def _headers(scope: Scope) -> dict[str, str]:
    "Headers by name; Refused for one that must not come twice."
    head: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name = raw_name.decode("latin-1").lower()
        if name in head and name in ONCE:
            raise Refused(400, f"the {name} header comes twice")
        head[name] = raw_value.decode("latin-1")
    return head


def _is_origin(text: str) -> bool:
    "`null`, or a scheme, a host and perhaps a port."
    if text == "null":
        return True
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    whole = f"{parts.scheme}://{parts.netloc}"
    return bool(parts.scheme and HOST.fullmatch(parts.netloc)) and text.lower() == whole.lower()
