"A teacher's answers and scores on disk: written once, read by every later training"

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from ftguide.engine.environment import processes, progress_bar, to_device
from ftguide.engine.files import fingerprint, write_atomic
from ftguide.engine.generation import warn_of_cut
from ftguide.engine.rows import read
from ftguide.engine.teachers import (
    Teacher,
    TextTeacher,
    answer_rows,
    encoded,
    vocabulary_size,
    weights_fingerprint,
)
from ftguide.engine.vocabularies import vocabulary_fingerprint
from ftguide.models import LM, collate, load, scored_logits

DESCRIPTION = "cache.json"  # how the cache was made; the other files are shards


def likely_and_drawn_tokens(
    scores: torch.Tensor,  # (N, V)
    k: int,  # likeliest tokens
    samples: int,  # tokens drawn from the others, each as often as it is probable; one may come twice
    temperature: float,
) -> tuple:  # (N, k + samples) ids, their log-probabilities, (N,) log of what the others weigh together
    "The few tokens of a distribution that are kept: the likeliest, and some of the others."
    logps = scores.float().div(temperature).log_softmax(-1)
    top = logps.topk(k).indices
    others = logps.scatter(1, top, float("-inf"))
    drawn = torch.multinomial(others.softmax(-1), samples, replacement=True)
    ids = torch.cat([top, drawn], 1)
    return ids, logps.gather(1, ids), others.logsumexp(1).clamp(min=-6e4)  # what float16 can hold


# ---- writing


def write_cache(
    teacher: LM | str | Path,  # LM, folder or hub name
    corpus,  # rows (or a file) with prompt, or text
    folder: str | Path,  # where to; what is there of the same cache is kept
    *,
    temperature: float = 2.0,  # at which it will be used
    k: int = 32,  # likeliest tokens kept at each position
    samples: int = 32,  # tokens drawn from the others
    max_new_tokens: int = 96,  # of the teacher's answers
    shard_rows: int = 256,  # rows a file
) -> CachedTeacher:
    "Let a teacher answer and score a corpus once; ValueError when the folder holds another cache."
    lm, rows, folder = to_device(load(teacher)), read(corpus, "corpus"), Path(folder)
    if not 1 <= k < len(lm.tokenizer) or samples < 1 or not temperature > 0:
        raise ValueError(
            f"k must lie between 1 and the vocabulary's {len(lm.tokenizer):,} tokens, samples be 1 or more, "
            f"and temperature above 0; not {k}, {samples}, {temperature}"
        )
    about = dict(
        teacher=weights_fingerprint(lm),
        corpus=fingerprint(rows),
        vocabulary=vocabulary_fingerprint(lm.tokenizer),
        k=k,
        samples=samples,
        temperature=float(temperature),
        max_new_tokens=max_new_tokens,
        shard_rows=shard_rows,
        shards=math.ceil(len(rows) / shard_rows),
    )
    _begin_or_continue(folder, about)
    numbered = [{**row, "row": number} for number, row in enumerate(rows)]
    rank, world = processes()  # several processes take turns, one file each
    with progress_bar(about["shards"], "caching the teacher") as progress:
        for n, file in enumerate(_shards(folder, about)):
            if n % world == rank and not file.exists():
                _write_shard(lm, numbered[n * shard_rows : (n + 1) * shard_rows], n, file, about)
            progress.update(1)
    while not all(file.exists() for file in _shards(folder, about)):
        time.sleep(0.2)  # the other processes' files
    kept = CachedTeacher(folder)
    warn_of_cut(len(rows) - len(kept.rows), len(rows), max_new_tokens, "are not taught", "empty or cut")
    return kept


def _shards(folder: Path, about: dict) -> list[Path]:
    return [folder / f"shard-{n:05d}.safetensors" for n in range(about["shards"])]


def _begin_or_continue(folder: Path, about: dict):
    "Begin a cache, or go on with one that was made in the same way."
    description = folder / DESCRIPTION
    if description.exists():
        found = json.loads(description.read_text(encoding="utf-8"))
        if other := [f"{k} was {found.get(k)} and is {v}" for k, v in about.items() if found.get(k) != v]:
            raise ValueError(
                f"{folder} holds another cache ({'; '.join(other)}); choose another folder, "
                "or delete this one"
            )
    folder.mkdir(parents=True, exist_ok=True)
    _write(description, json.dumps(about).encode())


def _write(file: Path, content: bytes):
    "`write_atomic`, with an error that says how to go on."
    try:
        write_atomic(file, content)
    except OSError as e:
        raise OSError(
            f"{file} could not be written ({e}). The files before it are whole; mend this, and the same call "
            "goes on from there"
        ) from e


def _write_shard(lm: LM, rows: list[dict], number: int, file: Path, about: dict):
    "Answers of some rows (each with its number in the corpus, `row`), and what the teacher thought of them."
    rows, _ = answer_rows(lm, rows, about["max_new_tokens"])
    coded = encoded(lm.tokenizer, rows)
    torch.manual_seed(number)
    ids, logps, rest = _kept_tokens(lm, coded, about)
    flat = lambda lists: torch.tensor([x for numbers in lists for x in numbers], dtype=torch.int32)
    tensors = dict(
        ids=ids.to(torch.int16 if len(lm.tokenizer) <= 2**16 else torch.int32),
        logps=logps.half(),
        rest=rest.half(),
        tokens=flat(ids for ids, _ in coded),
        labels=flat(labels for _, labels in coded),
        lengths=torch.tensor([len(ids) for ids, _ in coded], dtype=torch.int32),
        numbers=torch.tensor([row["row"] for row in rows], dtype=torch.int32),
    )
    _write(file, save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}))


def _kept_tokens(lm: LM, encoded: list[tuple], about: dict, batch_size: int = 16) -> list[torch.Tensor]:
    "What `likely_and_drawn_tokens` keeps of every scored token."
    width = about["k"] + about["samples"]
    kept = [(torch.zeros(0, width), torch.zeros(0, width), torch.zeros(0))]  # where all answers are empty
    lm.model.eval()
    for start in range(0, len(encoded), batch_size):
        batch = collate(encoded[start : start + batch_size], lm.tokenizer.pad_token_id)
        with torch.no_grad():
            scores, _ = scored_logits(lm.model, {k: v.to(lm.model.device) for k, v in batch.items()})
            scores = scores[:, : vocabulary_size(lm.tokenizer)]  # the others are padding, which nobody writes
            kept.append(likely_and_drawn_tokens(scores, about["k"], about["samples"], about["temperature"]))
    return [torch.cat(parts) for parts in zip(*(kept[1:] or kept))]


def cached_teacher(
    lm: LM,
    student: LM,
    corpus: list[dict],
    folder: str | Path,
    **settings,  # of `write_cache`
) -> CachedTeacher:
    "`write_cache`, after the student's vocabulary has been compared with the teacher's: ValueError."
    if vocabulary_fingerprint(lm.tokenizer) != vocabulary_fingerprint(student.tokenizer):
        raise ValueError(
            "cache needs one chat template for teacher and student; give the student the teacher's "
            "(tokenizer.chat_template)"
        )
    return write_cache(lm, corpus, folder, **settings)


# ---- reading


class CachedTeacher(Teacher):
    "What `write_cache` kept of a teacher: answers and the tokens that matter; the model is not needed."

    gives_scores = True

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / DESCRIPTION).exists():
            raise FileNotFoundError(
                f"{folder} holds no cache: it has no {DESCRIPTION}. write_cache makes one"
            )
        self.about = json.loads((self.folder / DESCRIPTION).read_text(encoding="utf-8"))
        files = _shards(self.folder, self.about)
        if missing := [file.name for file in files if not file.exists()]:
            raise FileNotFoundError(
                f"{folder} is incomplete: {len(missing)} of {len(files)} files are missing, the first is "
                f"{missing[0]}; write_cache with the same arguments goes on from there"
            )
        self.shards = [safe_open(file, "pt") for file in files]
        self.rows = []  # (ids, labels)
        self.places = []  # (shard, its scored tokens from, to) of each row
        self.numbers = []  # of each row in the corpus
        for n, shard in enumerate(self.shards):
            self._read_rows(n, shard)

    def _read_rows(self, n: int, shard):
        self.numbers += shard.get_tensor("numbers").tolist()
        lengths, begin = shard.get_tensor("lengths").tolist(), 0
        tokens, labels = (shard.get_tensor(name).split(lengths) for name in ("tokens", "labels"))
        for row in zip(tokens, labels):
            end = begin + int((row[1][1:] != -100).sum())
            self.rows.append((row[0].tolist(), row[1].tolist()))
            self.places.append((n, begin, end))
            begin = end

    @property
    def identity(self) -> str:
        "How it was written, by whom and of which rows."
        return fingerprint(sorted(self.about.items()))

    @property
    def default_temperature(self) -> float:
        "The one it was written for."
        return self.about["temperature"]

    @property
    def bytes_per_token(self) -> float:  # of a scored token
        "What the cache takes on disk."
        on_disk = sum(file.stat().st_size for file in _shards(self.folder, self.about))
        return on_disk / max(sum(end - begin for _, begin, end in self.places), 1)

    def check_settings(self, *, on_policy=False, cache=None, temperature=None, alpha=None, divergence=None):
        "ValueError when a setting asks for what was not kept."
        if on_policy:
            raise ValueError(
                "on_policy asks the teacher about answers it has never seen; a cache cannot answer, "
                "so give the model"
            )
        if cache is not None:
            raise ValueError(f"the teacher is the cache {self.folder} already; leave cache= out")
        if alpha != 0 and temperature not in (None, self.about["temperature"]):
            raise ValueError(
                f"{self.folder} was written for temperature {self.about['temperature']:g}, "
                f"not {temperature:g}; write another with write_cache"
            )

    def check_rows(self, corpus, data, eval_data):
        "ValueError when other rows are given than those it was made of."
        if any(rows is not None for rows in (corpus, data, eval_data)):
            raise ValueError(
                f"the rows are those of the cache {self.folder}; leave corpus, data and eval_data out, "
                "or give the model and cache="
            )

    def check_student(self, student: LM):
        "ValueError when the student has other tokens."
        if self.about["vocabulary"] != vocabulary_fingerprint(student.tokenizer):
            raise ValueError(
                f"{self.folder} was made with other tokens or another chat template than {student.name}'s, "
                "so its numbers would teach the wrong tokens"
            )

    def encoded_answers(self, tokenizer, *parts: list, max_new_tokens: int) -> list[list[tuple]]:
        "Its own rows; those after the first part of the corpus it was made of are to validate on."
        first = len(parts[0]) or math.inf  # without a corpus, all of them are to train on
        train = sum(number < first for number in self.numbers)
        return [self.rows[:train], self.rows[train:]]

    def begin(self, rows: list, keep: bool = True):
        "ValueError when the rows are not the cache's."
        if rows != self.rows:
            raise ValueError(f"{self.folder} was made of other rows than these")

    def scores(self, rows: list[int], batch: dict) -> tuple:  # what `sparse_targets` takes
        "What was kept of the scored tokens of these rows: ids, log-probabilities, weight of the rest, k."
        device = batch["labels"].device
        ids, logps, rest = (self._part(name, rows).to(device) for name in ("ids", "logps", "rest"))
        unsigned = ids.int() & 0xFFFF if ids.dtype == torch.int16 else ids
        return unsigned, logps, rest, self.about["k"]

    def _part(self, name: str, rows: list[int]) -> torch.Tensor:
        places = (self.places[row] for row in rows)
        return torch.cat([self.shards[n].get_slice(name)[begin:end] for n, begin, end in places])

    def labeller(self) -> TextTeacher:
        "Nobody: ValueError."
        raise ValueError(
            f"the rows of the cache {self.folder} are answered already: leave teacher_label out, "
            "and call distill without data"
        )
