"Answers while they are written, many at the same time."

# A step of the model for sixteen rows costs little more than for one, so whoever asks while the model writes
# is answered together with all others who wait, in the next batch.

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import zip_longest

import torch
from transformers.generation.streamers import BaseStreamer

from ftguide.engine.generation import can_be_padded, plainly
from ftguide.engine.model_folders import ModelError
from ftguide.engine.tokens import context_length
from ftguide.models import LM, prompt_text


class PendingAnswer:
    "One answer on its way from the model to a reader."

    def __init__(
        self,
        tokenizer,
        prompt: list[int],  # token ids
        room: int,  # tokens of the answer at most
    ):
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.room = room
        self.ids: list[int] = []
        self.pieces: queue.Queue = queue.Queue()  # texts, or an error; None ends it
        self.every_s = 0.0  # seconds between two pieces at least
        self.last_s = 0.0
        self.closed = False  # written to its end, or nobody reads it any more

    def put(self, token: int, ends: list[int]):
        "Take the next token. A piece that ends in half a letter waits for the other half."
        self.ids.append(token)
        if token in ends:
            return self.end()
        if time.monotonic() - self.last_s < self.every_s:
            return
        if not (text := self.text()).endswith("\ufffd"):
            self.pieces.put(text)
            self.last_s = time.monotonic()

    def text(self) -> str:
        return self.tokenizer.decode(self.ids, skip_special_tokens=True).strip()

    def end(self, error: BaseException | None = None):
        if not self.closed:
            self.pieces.put(error or self.text())
            self.pieces.put(None)
        self.closed = True


class BatchStreamer(BaseStreamer):
    "Hands each row of a batch to its own reader; `InterruptedError` when nobody reads any more."

    def __init__(self, answers: list[PendingAnswer], ends: list[int]):
        self.answers = answers
        self.ends = ends
        self.begun = False

    def put(self, value: torch.Tensor):
        if not self.begun:
            self.begun = True
            return  # the prompts come first
        for answer, token in zip(self.answers, value.tolist()):
            if not answer.closed:
                answer.put(token, self.ends)
        if all(answer.closed for answer in self.answers):
            raise InterruptedError("nobody waits for these answers any more")

    def end(self):
        pass


class Writer:
    "Streams answers; whoever asks while it writes is answered with all others who wait, in the next batch."

    def __init__(
        self,
        lm: LM,
        max_new_tokens: int = 96,
        temperature: float = 0.0,  # 0 = greedy, the answer of `reply`
        rows: int = 16,  # answers written at the same time
        every_s: float = 0.0,  # seconds between two pieces at least, of all answers of a batch together
    ):
        self.lm = lm
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.rows = rows
        self.every_s = every_s
        self.waiting: deque[PendingAnswer] = deque()
        self.lock = threading.Lock()
        self.busy = False

    def __call__(self, prompt: str | list) -> Iterator[str]:  # each text is the answer so far
        """An answer while it is written; closing the iterator stops the model. ModelError.

        The prompt does not fit."""
        tokenizer, limit = self.lm.tokenizer, context_length(self.lm)
        ids = tokenizer(prompt_text(tokenizer, prompt), add_special_tokens=False).input_ids
        if len(ids) >= limit:
            raise ModelError(f"a prompt of {len(ids)} tokens does not fit the context of {limit}; shorten it")
        answer = PendingAnswer(tokenizer, ids, min(self.max_new_tokens, limit - len(ids)))
        with self.lock:
            self.waiting.append(answer)
            if not self.busy:
                self.busy = True
                threading.Thread(target=self._work, daemon=True).start()
        try:
            while (piece := answer.pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            answer.closed = True

    def _work(self):
        "Write batch after batch until nobody waits."
        while True:
            with self.lock:
                answers = self._next_batch()
                if not answers:
                    self.busy = False
                    return
            for answer in answers:
                answer.every_s = self.every_s * len(answers)
            error = None
            try:
                self._generate(answers)
            except BaseException as e:
                error = e
            for answer in answers:
                answer.end(error)

    def _next_batch(self) -> list[PendingAnswer]:  # the caller holds the lock
        """Who is answered next: the first in line, and those after it who fit beside it.

        Rows are padded to the longest prompt, which takes room in the context from all of them: a prompt
        that would cut the others' answers stays in line for a batch of its own."""
        limit, batch, late = context_length(self.lm), [], deque()
        rows = self.rows if can_be_padded(self.lm.model) else 1
        while self.waiting and len(batch) < rows:
            answer = self.waiting.popleft()
            if answer.closed:
                continue
            together = [*batch, answer]
            needed = max(len(a.prompt) for a in together) + max(a.room for a in together)
            (batch if not batch or needed <= limit else late).append(answer)
        self.waiting.extendleft(reversed(late))
        return batch

    def _generate(self, answers: list[PendingAnswer]):
        model, tokenizer = self.lm.model, self.lm.tokenizer
        rows = dict(input_ids=[answer.prompt for answer in answers])
        batch = tokenizer.pad(rows, padding_side="left", return_tensors="pt").to(model.device)
        if self.temperature > 0:
            sampling = dict(do_sample=True, temperature=self.temperature, top_k=0, top_p=1.0)
        else:
            sampling = dict(do_sample=False)
        with suppress(InterruptedError):  # every reader has gone
            model.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                max_new_tokens=max(answer.room for answer in answers),
                streamer=BatchStreamer(answers, model.generation_config.eos_token_id),
                **{**plainly(model), **sampling},
            )


def in_lockstep(one: Iterable[str], other: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Two growing answers at one pace: equally many characters of both, until both are whole.

    A faster model would be recognised by its speed. Taking a piece of each in turn is not enough, because a
    fast model's piece holds more tokens."""
    a = b = ""
    for x, y in zip_longest(one, other):
        a, b = a if x is None else x, b if y is None else y
        both = min(len(a), len(b))
        yield a[:both], b[:both]
    yield a, b
