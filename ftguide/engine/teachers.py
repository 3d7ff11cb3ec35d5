"Whoever a student can learn from: the protocol, a local model, one of which only the text is seen"

from __future__ import annotations

import hashlib
import json
import math
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch.utils.data import IterableDataset, get_worker_info
from trl.trainer.utils import hash_module

from ftguide.engine.environment import processes, progress_bar, to_device
from ftguide.engine.generation import CutAnswers, warn_of_cut
from ftguide.engine.heads import OWN, head_kind
from ftguide.engine.labelling import (
    Journal,
    Throttle,
    asked_until_valid,
    check_format,
    new_entry,
    with_answer,
)
from ftguide.engine.model_folders import ModelError
from ftguide.engine.rows import Row, read, request_key
from ftguide.engine.texts import is_blank
from ftguide.engine.tokens import check_written, context_length, tokenised
from ftguide.engine.training_data import stream_rows
from ftguide.engine.vocabularies import vocabulary_fingerprint
from ftguide.models import LM, load, plain_head, prompt_text, replies, scored_states


@runtime_checkable
class Teacher(Protocol):
    "What a distillation asks of its teacher, whoever that is; what is written out here suits most of them."

    lm: LM | None = None  # the model itself, where it can be asked about any text; None where it cannot
    gives_scores: bool = False  # probabilities of tokens, and not their text alone
    covers_vocabulary: bool = False  # of every token; a cache keeps a few at each position
    default_temperature: float = 1.0  # of the soft labels

    @property
    def identity(self) -> str:
        "Whose answers and scores these are: another teacher's differ. A run is gone on with by the same one."
        return weights_fingerprint(self.lm) if self.lm is not None else type(self).__name__

    def check_settings(
        self,
        *,
        on_policy: bool = False,
        cache: str | Path | None = None,
        temperature: float | None = None,  # None: not asked for
        alpha: float | None = None,
        divergence: str | float | None = None,
    ):
        "ValueError when a setting asks for what this teacher cannot give."

    def check_rows(self, corpus, data, eval_data):  # None: not given
        "ValueError when rows are missing, or given to a teacher that brings its own."
        if corpus is None and data is None:
            raise ValueError("corpus is missing: rows with prompt, or text")

    def check_student(self, student: LM):
        "ValueError when this student would learn the wrong tokens; a warning where it would gain nothing."

    def answers(
        self,
        *parts: list[dict],  # rows with prompt, or text; those to train on, those to validate on
        max_new_tokens: int,
    ) -> list[list[dict]]:  # for each part, its rows with completion, or text
        """The rows answered; a completion that is there stays.

        Rows that are answered with nothing are left out, and those whose answers the limit cut; a warning
        counts these."""
        ...

    def encoded_answers(
        self, tokenizer, *parts: list[dict], max_new_tokens: int
    ) -> list[list[tuple]]:  # for each part, (ids, labels) of its rows
        "The answered rows as the student reads them."
        answered = self.answers(*parts, max_new_tokens=max_new_tokens)
        return [encoded(tokenizer, rows) for rows in answered]

    def begin(
        self,
        rows: list,  # (ids, labels) of what will be trained on, in the order of their numbers
        keep: bool = True,  # will a row come again?
    ):
        "Get ready to score these rows."

    def scores(
        self,
        rows: list[int],  # their numbers, as `begin` counted them
        batch: dict,  # the same rows: input_ids, attention_mask, labels, (B, T)
    ) -> tuple:  # what `dense_targets` takes; what `sparse_targets` takes where not every token is covered
        "What the teacher thinks of the scored tokens."
        raise NotImplementedError

    def labeller(self) -> TextTeacher:
        "Who answers a corpus in writing."
        ...


def as_teacher(teacher) -> Teacher:
    "A model, folder or hub name becomes a `LogitTeacher`; a teacher is one already."
    return teacher if isinstance(teacher, Teacher) else LogitTeacher(teacher)


# ---- what teachers have in common


def output_width(lm: LM) -> int:
    "How many ids a model scores: often more than its tokenizer writes, because rows round the number up."
    layer = lm.model.get_output_embeddings() if hasattr(lm.model, "get_output_embeddings") else None
    layer = getattr(lm.model, "lm_head", None) if layer is None else layer
    return lm.model.config.get_text_config().vocab_size if layer is None else layer.weight.shape[0]


def check_whole_scores(teacher: LM, student: LM) -> None:
    "ValueError when TRL's on-policy loss, which multiplies by both output layers itself, would be another."
    wide, narrow = output_width(teacher), output_width(student)
    if wide != narrow:
        raise ValueError(
            f"on_policy compares every score, and {teacher.name} scores {wide:,} ids, "
            f"{student.name} {narrow:,}. Leave on_policy out, and the ids that both have are compared"
        )
    for lm in (teacher, student):
        if head_kind(lm.model) == OWN:
            raise ValueError(
                f"on_policy multiplies by the output layer alone, and {lm.name} does more with its scores "
                f"({type(lm.model).__name__}). Leave on_policy out"
            )


def vocabulary_size(tokenizer) -> int:
    "One more than the largest id that a tokenizer writes."
    return max([len(tokenizer), *(i + 1 for i in getattr(tokenizer, "added_tokens_decoder", {}))])


def answer_rows(
    lm: LM,
    rows: list[dict],  # with prompt, or text
    max_new_tokens: int,
) -> tuple[list[dict], int]:  # prompt and completion, or text; how many answers were cut
    "The rows with a model's greedy answers; without those it answers with nothing, or without an end."
    open_prompts = [r["prompt"] for r in rows if _is_open(r)]
    with progress_bar(len(open_prompts), "teacher answers") as progress:
        answers = (
            replies(lm, open_prompts, max_new_tokens, progress=lambda n: progress.update(n - progress.n))
            if open_prompts
            else []
        )
    said = iter("" if answer.cut else answer.text for answer in answers)
    answered = [{**r, "completion": next(said)} if _is_open(r) else r for r in rows]
    kept = [r for r in answered if "prompt" not in r or _says_something(r["completion"])]
    return kept, sum(answer.cut for answer in answers)


def _is_open(row: dict) -> bool:
    return "prompt" in row and "completion" not in row


def _says_something(completion: str | list) -> bool:
    return not isinstance(completion, str) or not is_blank(completion)


def encoded(tokenizer, rows: list[dict]) -> list[tuple[list, list]]:  # (ids, labels) of each
    "Answered rows with labels on their answers; a text is scored from its second token on."
    found = tokenised(tokenizer, rows, "corpus")
    check_written(found)
    return [(list(row.parts[0].ids), row.parts[0].labels) for row in found]


def weights_fingerprint(lm: LM) -> str:
    "The same weights give the same digits, whatever the model is called."
    return hash_module(lm.model)[:16]


def written_answers(
    teacher: Teacher,
    tokenizer,  # the student's
    parts: tuple[list, list],  # rows to train on, rows to validate on
    max_new_tokens: int,
    score: bool,  # will the teacher be asked for its scores?
) -> tuple[list[dict], list[dict]]:  # the same, with input_ids, labels, row
    "The answered rows as `SoftLabelTrainer` reads them; ValueError when every answer is empty."
    train, valid = teacher.encoded_answers(tokenizer, *parts, max_new_tokens=max_new_tokens)
    require_answers(train + valid)
    if score:
        teacher.begin(train + valid)
    return numbered(train, 0), numbered(valid, len(train))


def require_answers(rows: list) -> list:  # the same
    "ValueError when a teacher's answers left nothing to learn."
    if not rows:
        raise ValueError(
            "the teacher's answers are all empty or cut at the limit; ask it a few of the prompts with "
            "reply(), and look, or give a larger max_new_tokens"
        )
    return rows


def numbered(
    encoded: list[tuple],  # (ids, labels)
    first: int,  # number of the first one
) -> list[dict]:  # input_ids, labels, row
    "Encoded rows with the numbers by which a teacher finds them again."
    return [dict(input_ids=ids, labels=labels, row=n) for n, (ids, labels) in enumerate(encoded, first)]


class AnsweredStream(IterableDataset):
    "A stream of prompts: the teacher answers a chunk of them when its turn comes."

    def __init__(
        self,
        teacher: Teacher,
        student: LM,
        corpus,  # a stream of rows with prompt, or text
        max_new_tokens: int,
        first: int = 0,  # number of the first row
        chunk: int = 64,  # rows answered at a time
    ):
        self.teacher, self.student, self.corpus = teacher, student, corpus
        self.max_new_tokens, self.first, self.chunk = max_new_tokens, first, chunk
        self.told = False  # has it been said that answers are left out?
        teacher.begin([], keep=False)  # a row comes once: nothing of it is worth keeping

    def __iter__(self) -> Iterator[dict]:
        loader = get_worker_info()
        if loader is not None and loader.id > 0:
            return  # each worker of a data loader has the whole stream, and a row comes once
        rows, number = stream_rows(self.student, self.corpus, "corpus"), self.first
        while chunk := list(islice(rows, self.chunk)):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore" if self.told else "default", category=CutAnswers)
                (encoded,) = self.teacher.encoded_answers(
                    self.student.tokenizer, chunk, max_new_tokens=self.max_new_tokens
                )
            self.told = self.told or len(encoded) < len(chunk)  # of the first chunk; the others are alike
            yield from numbered(encoded, number)
            number += len(encoded)


# ---- a local model


class LogitTeacher(Teacher):
    "A local model with the student's tokenizer: every probability, read once while the memory lasts."

    gives_scores = covers_vocabulary = True
    default_temperature = 2.0

    def __init__(
        self,
        lm: LM | str | Path,  # LM, folder or hub name
        keep_bytes: float = 2e9,  # hidden states kept in memory
    ):
        self.lm, self.keep_bytes = to_device(load(lm)), keep_bytes
        self.rows, self.room, self.states = None, None, {}  # what is kept; the bytes that are left for it
        self.shared: int | None = None  # ids that count, where the student scores other padding; None: all
        self.can_keep = plain_head(self.lm.model)

    def check_student(self, student: LM):
        "A warning when the student is the larger one; a line when one scores more ids than the other."
        wide, narrow = output_width(self.lm), output_width(student)
        self.shared = None if wide == narrow else min(wide, narrow, vocabulary_size(self.lm.tokenizer))
        if self.shared and processes()[0] == 0:
            print(
                f"{self.lm.name} scores {wide:,} ids and {student.name} {narrow:,}: soft labels are over the "
                f"{self.shared:,} that both have, and sum to 1 there",
                file=sys.stderr,
                flush=True,
            )
        if self.lm.parameters < student.parameters:
            warnings.warn(
                f"the teacher has {self.lm.parameters:,} parameters and the student "
                f"{student.parameters:,}: distilling into a larger model saves nothing",
                stacklevel=3,
            )

    def answers(self, *parts: list[dict], max_new_tokens: int) -> list[list[dict]]:
        "The rows with the model's greedy answers."
        answered = [answer_rows(self.lm, rows, max_new_tokens) for rows in parts]
        asked = sum(map(_is_open, chain(*parts)))
        warn_of_cut(sum(cut for _, cut in answered), asked, max_new_tokens, "are not taught")
        return [rows for rows, _ in answered]

    def begin(self, rows: list, keep: bool = True):
        "Forget what was kept for other rows; for the same ones it serves the next student too."
        if self.room is None or rows != self.rows:
            self.rows, self.states = rows, {}
            self.room = self.keep_bytes if self.can_keep else 0
        if not keep:
            self.room = 0
        self.lm.model.eval()

    def scores(self, rows: list[int], batch: dict) -> tuple:  # hidden states, output layer, shared ids
        "Hidden states at the scored tokens of these rows, which `batch` holds."
        if all(i in self.states for i in rows):
            return torch.cat([self.states[i] for i in rows]), self.lm.model.lm_head, self.shared
        with torch.no_grad():
            states, head, _ = scored_states(self.lm.model, batch)
        if self.room > 0:
            scored_tokens = (batch["labels"][:, 1:] != -100).sum(1).tolist()
            self._keep(rows, states.split(scored_tokens))
        return states, head, self.shared

    def _keep(self, rows: list[int], states: tuple):
        self.states |= {i: s.clone() for i, s in zip(rows, states)}
        self.room -= sum(s.nbytes for s in states)
        if self.room <= 0:
            self.states = {}

    def labeller(self) -> TextTeacher:
        "The same model, as one that only writes."
        return TextTeacher(self.lm)


# ---- a model of which only the text is seen


@dataclass
class TextTeacher(Teacher):
    "A teacher of which only the text is seen: a model behind an endpoint, or a local one with other tokens."

    who: object  # Endpoint; or LM, folder or hub name
    usd_per_million_input_tokens: float = 0.0  # price of a million tokens read
    usd_per_million_output_tokens: float = 0.0  # price of a million tokens written
    per_minute: float | None = None  # requests a minute, at most
    tries: int = 3  # answers to one question, until one keeps the format
    bill: dict = field(default_factory=dict)  # of the last `label`: requests, tokens, usd
    rejected: float | None = None  # share of the last `label`'s questions that got no valid answer, 0..1

    def check_settings(self, *, on_policy=False, cache=None, **asked):
        "ValueError when a setting would act on probabilities."
        if on_policy:
            raise ValueError(
                "on_policy needs a teacher that scores the student's tokens, and a TextTeacher only writes; "
                "use a local model"
            )
        if cache is not None:
            raise ValueError(
                "cache keeps probabilities, and a TextTeacher gives none; "
                "its label(rows, file) keeps the text"
            )
        if given := [name for name, value in asked.items() if value is not None]:
            raise ValueError(
                f"a TextTeacher gives text and no probabilities, so {' and '.join(given)} would have nothing "
                "to act on; leave them out (the student learns the text), or use a local model with the "
                "student's tokenizer"
            )

    def answers(self, *parts: list[dict], max_new_tokens: int) -> list[list[dict]]:
        "The rows with the teacher's answers; all parts are asked and billed together."
        unanswered = [r for rows in parts for r in rows if "completion" not in r]
        labelled = self.label(unanswered, max_new_tokens=max_new_tokens) if unanswered else []
        known = {_request(r): r["completion"] for r in labelled}
        return [[r for row in rows if (r := _filled(row, known))] for rows in parts]

    @property
    def identity(self) -> str:
        "The endpoint and the model's name there, or a local model's weights."
        if hasattr(self.who, "say"):
            return f"{self.who.model} at {self.who.url.rstrip('/')}"
        return weights_fingerprint(load(self.who))

    def labeller(self) -> TextTeacher:
        "This one."
        return self

    def estimate(
        self,
        rows: list[dict] | str | Path,  # rows (or a file) with prompt
        max_new_tokens: int = 96,
        output_format: str | dict | None = None,  # as in `label`
        bytes_per_token: float = 4,  # of what is read: four suit English, 1 underestimates no language
    ) -> dict:  # requests, input_tokens, output_tokens, usd, usd_at_most
        "What labelling may cost, before it does, if every answer is as long as allowed."
        # usd: each question is asked once, without a chat template. usd_at_most: each is asked `tries` times,
        # with all that was said before and a template of 50 tokens a request.
        tokens = lambda text: math.ceil(len(text.encode()) / bytes_per_token)
        questions = [tokens(q) for q in {_request(r) for r in read(rows, "corpus")}]
        complaint = tokens(200 * " " + json.dumps(output_format))
        again = 2 * max_new_tokens + complaint  # a refused answer, and what was wrong with it
        repeats = self.tries * (self.tries - 1) // 2
        read_at_most = sum(self.tries * (question + 50) + repeats * again for question in questions)
        written_at_most = len(questions) * self.tries * max_new_tokens
        return dict(
            self._priced(len(questions), sum(questions), len(questions) * max_new_tokens),
            usd_at_most=self._priced(0, read_at_most, written_at_most)["usd"],
        )

    def _priced(self, requests: int, tokens_read: int, tokens_written: int) -> dict:
        usd = tokens_read * self.usd_per_million_input_tokens
        usd += tokens_written * self.usd_per_million_output_tokens
        return dict(requests=requests, input_tokens=tokens_read, output_tokens=tokens_written, usd=usd / 1e6)

    def label(
        self,
        rows: list[dict] | str | Path,  # rows (or a file) with prompt; also the answered ones are asked
        file: str | Path | None = None,  # JSON lines of answers: what stands there is not asked again
        max_new_tokens: int = 96,
        output_format: str | dict | None = None,  # as in `validated`
    ) -> list[dict]:  # the rows with a completion; without those whose answers never kept the format
        """Let the teacher answer; ModelError when it cannot go on, with everything answered in the file.

        An answer that the limit cut is refused like one that does not keep the format."""
        check_format(output_format)
        if not self.tries >= 1:
            raise ValueError(f"tries must be 1 or more, not {self.tries}")
        rows, journal = read(rows, "corpus"), Journal(file)
        if text := sum("prompt" not in r for r in rows):
            raise ValueError(f"{text} of {len(rows)} rows have no prompt to answer")
        local = None if hasattr(self.who, "say") else load(self.who)
        keys = self._journal_keys(rows, local, journal, max_new_tokens, output_format)
        entries = {key: journal.found.get(key) or new_entry(key, row) for key, row in zip(keys, rows)}
        missing = {
            key: entry
            for key, entry in entries.items()
            if entry["completion"] is None and entry["requests"] < self.tries
        }
        with progress_bar(len(missing), "teacher answers") as progress:
            if missing:
                ask = self._ask_endpoint if local is None else partial(self._ask_local, local)
                ask(missing, journal, max_new_tokens, output_format, progress)
        answers = {key: journal.found[key] for key in keys}
        self._settle_bill(list(answers.values()))
        cut = sum(entry["completion"] is None and entry.get("cut", False) for entry in answers.values())
        warn_of_cut(cut, len(answers), max_new_tokens, "are left out")
        labelled = ({**row, "completion": answers[key]["completion"]} for key, row in zip(keys, rows))
        return [row for row in labelled if row["completion"] is not None]

    def _journal_keys(self, rows, local, journal: Journal, max_new_tokens, output_format) -> list[str]:
        "An answer is found again by its question, the length and format asked for, and by who gave it."
        who = []
        if local is None:
            who = [self.who.url.rstrip("/"), self.who.model]
        elif journal.file:  # hashing takes a while, and nobody else's answers are in memory
            who = [weights_fingerprint(local), vocabulary_fingerprint(local.tokenizer)]
        setting = json.dumps([who, max_new_tokens, output_format], sort_keys=True)
        keyed = (f"{setting}\n{_request(row)}" for row in rows)
        return [hashlib.sha256(text.encode()).hexdigest()[:24] for text in keyed]

    def _settle_bill(self, entries: list[dict]):
        totals = (sum(e[what] for e in entries) for what in ("requests", "input_tokens", "output_tokens"))
        self.bill = self._priced(*totals)
        self.rejected = sum(e["completion"] is None for e in entries) / max(len(entries), 1)

    def _ask_endpoint(self, missing: dict, journal: Journal, max_new_tokens, output_format, progress):
        "A thread for each request in flight; every answer is in the journal when it arrives."
        pace = Throttle(self.per_minute)

        def say(messages):
            pace.wait()
            return self.who.say(client, messages, max_new_tokens)

        def answer(entry):
            journal.add(asked_until_valid(say, entry, output_format, self.tries))

        with self.who.client() as client:
            pool = ThreadPoolExecutor(self.who.at_once)
            try:
                for done in as_completed([pool.submit(answer, entry) for entry in missing.values()]):
                    done.result()
                    progress.update(1)
            except BaseException as e:
                pool.shutdown(wait=True, cancel_futures=True)
                if not isinstance(e, ModelError):
                    raise
                raise ModelError(f"{e}. {_how_to_go_on(missing, journal)}") from None
            pool.shutdown()

    def _ask_local(
        self,
        lm: LM,
        missing: dict,
        journal: Journal,
        max_new_tokens: int,
        output_format,
        progress,
        batch_size: int = 64,
    ):
        "Greedy answers a batch at a time; where one does not keep the format, sampled ones."
        count = lambda text: len(lm.tokenizer(text, add_special_tokens=False).input_ids)
        texts = {key: prompt_text(lm.tokenizer, entry["prompt"]) for key, entry in missing.items()}
        tokens_read = {key: count(text) for key, text in texts.items()}
        room = context_length(lm) - max_new_tokens
        as_reply_sorts = lambda key: (tokens_read[key] > room, len(texts[key]))
        in_order = sorted(missing, key=as_reply_sorts)
        for n in range(self.tries):
            left = [k for k in in_order if missing[k]["completion"] is None and missing[k]["requests"] == n]
            for keys in (left[i : i + batch_size] for i in range(0, len(left), batch_size)):
                prompts = [missing[key]["prompt"] for key in keys]
                answers = replies(lm, prompts, max_new_tokens, 0.7 if n else 0.0, batch_size, seed=n)
                for key, answer in zip(keys, answers):
                    tokens_written = min(count(answer.text) + 1, max_new_tokens)  # and the end token
                    spent = tokens_read[key], tokens_written
                    entry = with_answer(missing[key], answer.text, *spent, answer.cut, output_format)
                    missing[key] = entry
                    if entry["completion"] is not None or n + 1 == self.tries:
                        journal.add(entry)
                        progress.update(1)


def _request(row: dict) -> str:
    # Not `question_key`, for which another spelling asks the same: a model answers other text differently,
    # and what it answered to one spelling must not be handed out as its answer to another.
    return request_key(Row(row).request)


def _filled(row: dict, answers: dict) -> dict | None:  # answers by `_request`
    if "completion" in row:
        return row
    answer = answers.get(_request(row))
    return None if answer is None else {**row, "completion": answer}


def _how_to_go_on(missing: dict, journal: Journal) -> str:
    answered = sum(journal.found.get(key, entry) is not entry for key, entry in missing.items())
    kept = (
        f" and are kept in {journal.file}; the same call goes on from there"
        if journal.file
        else "; give label a file, and it will go on where it stopped"
    )
    return f"{answered} of {len(missing)} questions were answered{kept}"
