"""What the page accepts, and how often.

Every limit is checked on the server, because a script skips the browser's checks."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ftguide.serving.errors import PageError

CALLERS_KEPT = 10_000  # addresses remembered before those that have been quiet are dropped


@dataclass(frozen=True)
class Limits:
    "What the page accepts. Without limits one visitor can occupy the model for everybody."

    prompt: int = 2000  # characters
    note: int = 500  # characters
    answer: int = 96  # tokens
    per_minute: int = 60  # questions and votes from one address
    logins: int = 10  # passwords tried from one address in a minute
    at_once: int = 16  # answers written at the same time
    waiting: int = 64  # questions that wait; the next one is refused
    body: int = 100_000  # bytes of a request
    patience: int = 10  # seconds that the head of a request may take to arrive, and its body again
    connections: int = 400  # open at the same time, half of them from one address

    def __post_init__(self):
        for name, value in vars(self).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise PageError(f"{name} must be a whole number above 0, not {value!r}")


DEFAULT_LIMITS = Limits()


class RateLimiter:
    "At most `n` calls from one address in `seconds`."

    def __init__(self, n: int, seconds: float = 60, clock: Callable[[], float] = time.monotonic):
        self.n = n
        self.seconds = seconds
        self.clock = clock
        self.calls: dict[str, deque] = {}
        self.lock = threading.Lock()

    def __call__(self, who: str) -> bool:  # may this call go on?
        now, who = self.clock(), one_visitor(who)
        with self.lock:
            if len(self.calls) > CALLERS_KEPT:
                self.calls = {k: v for k, v in self.calls.items() if v and v[-1] > now - self.seconds}
            calls = self.calls.setdefault(who, deque(maxlen=self.n))
            if len(calls) == self.n and calls[0] > now - self.seconds:
                return False
            calls.append(now)
            return True

    def forgive(self, who: str) -> None:
        "Do not count the last call."
        with self.lock:
            if calls := self.calls.get(one_visitor(who)):
                calls.pop()


def one_visitor(address: str) -> str:
    "What is counted as one: an IPv4 address, or the network of 2^64 that one IPv6 customer is given."
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return str(ip if ip.version == 4 else ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))
