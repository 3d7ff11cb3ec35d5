"What happens when a visitor presses a button of the page, without any of its fields."

# Check, answer, give out a key; or check, and take the key back with a vote. Texts only: nothing that a
# visitor or a model wrote is ever HTML here.

from __future__ import annotations

import os
import secrets
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from ftguide.engine.loading import SHIPPED, is_own_name, resolve
from ftguide.engine.pretrained import PRETRAINED
from ftguide.engine.texts import is_blank
from ftguide.models import load
from ftguide.serving.errors import PageError
from ftguide.serving.limits import Limits, RateLimiter
from ftguide.serving.streaming import Writer, in_lockstep
from ftguide.serving.versions import current, versions
from ftguide.serving.votes import Feedback

WRITING = "The answer is being written."


class PendingVotes:
    """Answers that wait for their vote.

    The browser never holds more than a key; what was asked, answered and by whom stays here. So nobody can
    vote on an answer that no model gave, and a vote takes the answer away."""

    def __init__(
        self,
        store: Feedback,
        keep: int = 10_000,  # answers; the oldest ones make room
    ):
        self.store = store
        self.keep = keep
        self.open: OrderedDict[str, dict] = OrderedDict()  # key -> what `Feedback` keeps of the answer
        self.lock = threading.Lock()

    def put(self, **answer: str) -> str:  # its key
        key = secrets.token_urlsafe(16)
        with self.lock:
            self.open[key] = answer
            while len(self.open) > self.keep:
                self.open.popitem(last=False)
        return key

    def take(
        self,
        key: str | None,
        kind: str,  # "vote" or "choose"
        **vote: Any,
    ) -> None:
        """Store the vote on an answer: once, and only for a key that was given out; PageError otherwise.

        A vote that could not be stored may be tried again."""
        with self.lock:
            answer = self.open.pop(key, None)
        if answer is None:
            raise PageError("there is no answer here to vote on: it was voted on already, or is too old")
        try:
            getattr(self.store, kind)(**answer, **vote, key=key)
        except BaseException:
            with self.lock:
                self.open[key] = answer
            raise


class ServedModel:
    "A model folder as it is now: a plain one, or the version that `deploy` made current."

    def __init__(
        self,
        folder: str | Path,  # of a model, of versions, or tiny, tiny-small, smollm2-135m
        beside: str | Path | None = None,  # folder whose own versions go by their short name
        **writer: Any,  # of `Writer`
    ):
        self.own_name = str(folder) if is_own_name(folder) else None
        self.folder = Path(resolve(folder).path) if self.own_name else _folder_of_versions(Path(folder))
        if not self.folder.is_dir():
            raise PageError(
                f"no folder {str(folder)!r}; give a model folder, "
                f"a folder that `deploy` wrote, or one of {', '.join([*SHIPPED, *PRETRAINED])}"
            )
        self.beside = beside
        self.writer_options = writer
        self.lock = threading.Lock()
        self.place: Path | None = None  # of the weights that are loaded
        self.broken: Path | None = None  # a version that could not be read
        self.name = ""
        self.now()

    def now(self) -> tuple[Writer, str]:  # and the name of the version
        """The model in service.

        A version deployed since the last question is loaded; one that cannot be read leaves the old one in
        service."""
        with self.lock:
            place = None
            try:
                place = self._place()
                if place not in (self.place, self.broken):
                    self.writer = Writer(load(place), **self.writer_options)
                    self.place, self.name = place, self._version(place)
            except Exception as e:
                if self.place is None:
                    raise
                if not isinstance(e, FileNotFoundError):
                    self.broken = place  # not tried again at every question
                print(f"{self.name} stays in service: {e}", file=sys.stderr)
            return self.writer, self.name

    def _place(self) -> Path:
        "Links are followed once, before loading: a vote is credited to the weights that answered."
        deployed = os.path.lexists(self.folder / "current")
        return (current(self.folder) if deployed else self.folder).resolve()

    def _version(self, place: Path) -> str:
        if self.own_name:
            return self.own_name
        short = self.beside is None or place.parent == Path(self.beside).resolve()
        return place.name if short else f"{place.parent.name}/{place.name}"


def _folder_of_versions(path: Path) -> Path:
    "`models/ads/current` is taken as `models/ads`: the same versions, and one store for all of them."
    pointer = path.name == "current" and (path.is_symlink() or path.is_file())
    return path.parent if pointer and versions(path.parent) else path


class PageActions:
    "The buttons of the page. `request` says who presses: client, username and session_hash."

    def __init__(
        self,
        served: ServedModel,
        rival: ServedModel | None,  # to compare with
        store: Feedback,
        limits: Limits,
    ):
        self.served = served
        self.rival = rival
        self.pending = PendingVotes(store)
        self.limits = limits
        self.rate = RateLimiter(limits.per_minute)

    def ask(self, prompt: str, request) -> Iterator[tuple]:  # (answer, key or None, what to say)
        self._check(request, prompt=prompt)
        write, version = self.served.now()
        answer = ""
        for answer in write(prompt):
            yield answer, None, WRITING
        key = self.pending.put(prompt=prompt, answer=answer, version=version)
        yield answer, key, "Is it a good answer?"

    def compare(self, prompt: str, request) -> Iterator[tuple]:  # (left, right, key or None, what to say)
        "Who stands on which side is drawn anew for each question, and written down only beside the key."
        self._check(request, prompt=prompt)
        sides = [self.served.now(), self.rival.now()]
        if secrets.randbelow(2):
            sides.reverse()
        (left, version_a), (right, version_b) = sides
        a = b = ""
        for a, b in in_lockstep(left(prompt), right(prompt)):
            yield a, b, None, WRITING
        key = self.pending.put(prompt=prompt, a=a, b=b, version_a=version_a, version_b=version_b)
        yield a, b, key, "Which answer is better?"

    def vote(self, key: str | None, choice: str, note: str | None, request) -> str:
        self._check(request, note=note)
        self.pending.take(key, "vote", up=choice == "up", note=note or "", rater=_rater(request))
        return "Thank you, your vote is stored."

    def choose(self, key: str | None, choice: str, note: str | None, request) -> str:
        self._check(request, note=note)
        self.pending.take(key, "choose", chosen=choice, note=note or "", rater=_rater(request))
        return "Thank you, your choice is stored."

    def _check(self, request, **texts: str | None) -> None:
        "PageError for what the page does not take."
        if not self.rate(request.client.host):
            raise PageError(
                f"more than {self.limits.per_minute} questions and votes in a minute "
                "from your address; wait a little"
            )
        for name, text in texts.items():
            limit = getattr(self.limits, name)
            if any("\ud800" <= character <= "\udfff" for character in text or ""):
                raise PageError(f"the {name} holds half a character, which no file can hold")
            if len(text or "") > limit:
                raise PageError(f"the {name} has {len(text):,} characters; the page takes {limit:,}")
        if "prompt" in texts and is_blank(texts["prompt"] or ""):
            raise PageError("write a question first")


def _rater(request) -> str:
    "The name given with the password; without one, each visit is a rater of its own."
    if request.username:
        return request.username
    return "visit-" + sha256(str(request.session_hash).encode()).hexdigest()[:12]
