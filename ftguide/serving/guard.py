"What is refused before gradio reads it."

# A page that listens on this machine can still be reached by other pages in the same browser: any site may
# tell the browser to send a form to 127.0.0.1. And gradio has more addresses than the page needs: uploads,
# files, a proxy.

from __future__ import annotations

from collections.abc import Collection

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ftguide.serving.limits import Limits, RateLimiter

CLOSED_PATHS = (
    "/upload",
    "/proxy=",
    "/file",
    "/stream",
    "/call",
    "/api/",
    "/component_server",
    "/process_recording",
    "/vibe",
    "/run-history",
    "/monitoring",
    "/runs",
)
CONTENT_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
SECURITY_HEADERS = [
    (b"content-security-policy", CONTENT_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class RequestGuard:
    """ASGI middleware.

    Refuses requests the page does not need, and sends the headers that restrict the browser."""

    def __init__(
        self,
        app: ASGIApp,
        hosts: Collection[str] | None,  # names the page answers to; None = any
        limits: Limits,
    ):
        self.app = app
        self.hosts = hosts
        self.limits = limits
        self.logins = RateLimiter(limits.logins)

    def refuse(self, scope: Scope) -> tuple[int, str] | None:  # status and reason; None = let it through
        "Why a request is refused."
        head = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        host, path = head.get("host", ""), scope["path"].removeprefix("/gradio_api")
        if self.hosts and host.rsplit(":", 1)[0].strip("[]") not in self.hosts:
            return 403, "this page does not answer to that host name"
        if path.startswith(CLOSED_PATHS):
            return 404, "this page has no such address"
        if scope["method"] in ("GET", "HEAD"):
            return None
        if head.get("origin", "//" + host).split("//")[-1] != host:
            return 403, "another site's page may not vote"
        if not head.get("content-length", "").isdigit():
            return 411, "say how long the request is"
        if int(head["content-length"]) > self.limits.body:
            return 413, f"the request is longer than {self.limits.body:,} bytes"
        if path.startswith("/login") and not self.logins(scope["client"][0]):
            return 429, "too many passwords tried; wait a minute"
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if found := self.refuse(scope):
            status, reason = found
            return await PlainTextResponse(reason, status)(scope, receive, send)

        async def with_headers(message: Message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *SECURITY_HEADERS]
            await send(message)

        await self.app(scope, receive, with_headers)
