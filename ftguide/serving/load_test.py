"Visitors without a browser, who ask and vote at the same addresses as the page's own script."

from __future__ import annotations

import html
import json
import random
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx

from ftguide.serving.errors import PageError

CHOICES = ("choose_a", "choose_b", "choose_tie")
THUMBS = ("vote_up", "vote_down")


class PageClient:
    "One visit."

    def __init__(self, url: str, name: str = "visitor", password: str | None = None):
        self.http = httpx.Client(base_url=url, timeout=120)
        self.session = secrets.token_hex(8)
        if password:
            self.http.post("/login", data=dict(username=name, password=password)).raise_for_status()
        config = self.http.get("/config").raise_for_status().json()
        self.ids = {event["api_name"]: event["id"] for event in config["dependencies"]}

    def ask(
        self,
        prompt: str,
        name: str = "ask",  # or "compare"
    ) -> tuple[list[str], float, float]:  # what the page shows, seconds to the first word, to the last
        "Ask, and read the stream to its end."
        began, times, done = time.perf_counter(), [], None
        self.http.post("/gradio_api/queue/join", json=self._body(name, prompt)).raise_for_status()
        for event in self._events():
            if event["msg"] == "process_generating":
                times.append(time.perf_counter() - began)  # the first one says that it begins
            if event["msg"] in ("process_completed", "unexpected_error"):
                done = event
        if not done["success"]:
            raise PageError(str(done))
        shown = [_plain(data) for data in done["output"]["data"] if isinstance(data, str)]
        return shown, times[min(1, len(times) - 1)], time.perf_counter() - began

    def press(
        self,
        name: str,  # such as vote_up
        note: str = "",
        key: str | None = None,  # none is needed: the page has it
    ) -> str:  # what the page says
        "Press a button."
        done = self.http.post("/gradio_api/run/predict", json=self._body(name, key, note))
        return _plain(done.raise_for_status().json()["data"][1])

    def _body(self, name: str, *data) -> dict:
        return dict(data=data, fn_index=self.ids[name], session_hash=self.session)

    def _events(self) -> Iterator[dict]:
        address, session = "/gradio_api/queue/data", dict(session_hash=self.session)
        with self.http.stream("GET", address, params=session) as lines:
            for line in lines.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])


def _plain(shown: str) -> str:
    "A message of the page without its markup."
    return html.unescape(shown.removeprefix("<p>").removesuffix("</p>"))


@dataclass
class LoadResult:
    "What the visitors of `load_test` saw."

    first: list[float] = field(default_factory=list)  # seconds to the first words, one a question
    whole: list[float] = field(default_factory=list)  # seconds to the whole answer
    votes: int = 0  # that the page thanked for
    errors: list[str] = field(default_factory=list)


def load_test(
    url: str,
    prompts: list[str],
    users: int = 20,  # at the same time
    seconds: float = 10,  # no new question after this
    think_s: float = 1.0,  # mean pause of a visitor before the next question
    compare: bool = False,  # every second question as a comparison?
    seed: int = 0,
) -> LoadResult:
    "Simulated visitors who ask, read and vote."
    end = time.monotonic() + seconds
    with ThreadPoolExecutor(users) as pool:
        visits = [pool.submit(_visit, url, prompts, end, think_s, compare, seed, n) for n in range(users)]
    total = LoadResult()
    for visit in visits:
        seen = visit.result()
        total.first += seen.first
        total.whole += seen.whole
        total.votes += seen.votes
        total.errors += seen.errors
    return total


def _visit(
    url: str, prompts: list[str], end: float, think_s: float, compare: bool, seed: int, n: int
) -> LoadResult:
    "One visitor, until the end; an error ends the visit."
    chance, count, seen = random.Random(f"{seed}-{n}"), 0, LoadResult()
    try:
        visitor = PageClient(url)
        while time.monotonic() < end:
            time.sleep(min(chance.expovariate(1 / think_s), 5 * think_s))
            count += 1
            duel = compare and count % 2 == 0
            _, first_s, whole_s = visitor.ask(chance.choice(prompts), "compare" if duel else "ask")
            seen.first.append(first_s)
            seen.whole.append(whole_s)
            button = chance.choice(CHOICES if duel else THUMBS)
            said = visitor.press(button, f"visitor {n}, question {count}")
            if said.startswith("Thank you"):
                seen.votes += 1
            else:
                seen.errors.append(said)
    except Exception as e:
        seen.errors.append(f"{type(e).__name__}: {e}")
    return seen
