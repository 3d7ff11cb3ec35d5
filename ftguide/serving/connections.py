"Connections of browsers to the page: how many there are, and how long the head of a request may take."

# uvicorn waits for ever for a head that trickles in, counts connections without asking whose they are, and
# believes who claims on this machine to be a proxy. Here a time limits the first, and a number the second;
# proxies are the guard's matter.

from __future__ import annotations

import asyncio
import socket
import threading
import time
from functools import partial

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from ftguide.serving.errors import PageError
from ftguide.serving.guard import Proxies
from ftguide.serving.limits import Limits, one_visitor

START_S = 30  # that a server may take to begin
END_S = 2  # that answers may still be written when a server ends
UNREAD_S = 60  # that a visitor may leave an answer unread


class Connection(H11Protocol):
    "One connection, closed when a head or an answer takes too long, or when its address has too many."

    def __init__(self, *args, limits: Limits, proxies: Proxies, **kwargs):
        super().__init__(*args, **kwargs)
        self.limits = limits
        self.proxies = proxies
        self.head_timer: asyncio.TimerHandle | None = None
        self.unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if self._of_its_address() > max(self.limits.connections // 2, 1):
            transport.abort()
        else:
            self._watch_head()

    def _of_its_address(self) -> int:  # connections that it has; 0 for a proxy, which has everybody's
        visitor = self._visitor()
        if visitor in self.proxies:
            return 0
        return sum(other._visitor() == visitor for other in self.connections)

    def _visitor(self) -> str:
        return one_visitor(self.client[0]) if self.client else ""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def _watch_head(self) -> None:
        "Begin to wait for the head of a request, or stop because it is there."
        waits = self.cycle is None or self.cycle.response_complete
        if waits and self.head_timer is None:
            self.head_timer = self.loop.call_later(self.limits.patience, self._give_up)
        elif not waits and self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unread_timer = self.loop.call_later(UNREAD_S, self._give_up)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.unread_timer is not None:
            self.unread_timer.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self.head_timer, self.unread_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)


class PageServer:
    "A server of its own thread; `close()` ends it."

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,  # of `listen`
        limits: Limits,
        proxies: Proxies,
    ):
        config = uvicorn.Config(
            app,
            http=partial(Connection, limits=limits, proxies=proxies),
            ws="none",
            proxy_headers=False,
            server_header=False,
            log_level="warning",
            limit_concurrency=limits.connections,
            timeout_graceful_shutdown=END_S,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([listener],), daemon=True)
        self.thread.start()
        end = time.monotonic() + START_S
        while not self.server.started:
            if not self.thread.is_alive() or time.monotonic() > end:
                raise PageError("the server did not start; its log says why")
            time.sleep(0.01)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(END_S + 5)


def listen(host: str, port: int) -> socket.socket:
    "A socket that listens; PageError in one line when that is not possible."
    if not 1 <= port <= 65535:
        raise PageError(f"port must be between 1 and 65535, not {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as e:
        raise PageError(
            f"cannot listen on {host}, port {port} ({str(e.strerror).split(' (')[0]}); "
            "choose another --port, or stop the program that has it"
        ) from e
