"""Batched decoding: many prompts at once, with the answers and the random draws each would have alone.

Stands on model_folders. What a folder's generation_config.json asks for beside that is said, and not done.
"""

from __future__ import annotations

import copy
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from transformers import (
    Cache,
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    cache_utils,
)
from transformers.generation import LogitsProcessor, StoppingCriteria

from ftguide.engine.model_folders import ModelError

NEUTRAL = dict(  # settings of transformers that change which tokens are written, with the values that do not
    do_sample=False,
    temperature=1.0,
    top_k=50,
    top_p=1.0,
    min_p=None,
    top_h=None,
    typical_p=1.0,
    epsilon_cutoff=0.0,
    eta_cutoff=0.0,
    num_beams=1,
    num_beam_groups=1,
    diversity_penalty=0.0,
    length_penalty=1.0,
    early_stopping=False,
    num_return_sequences=1,
    penalty_alpha=None,
    dola_layers=None,
    constraints=None,
    force_words_ids=None,
    repetition_penalty=1.0,
    encoder_repetition_penalty=1.0,
    no_repeat_ngram_size=0,
    encoder_no_repeat_ngram_size=0,
    exponential_decay_length_penalty=None,
    bad_words_ids=None,
    sequence_bias=None,
    suppress_tokens=None,
    begin_suppress_tokens=None,
    forced_bos_token_id=None,
    forced_eos_token_id=None,
    min_length=0,
    min_new_tokens=None,
    max_time=None,
    stop_strings=None,
    guidance_scale=None,
    watermarking_config=None,
    token_healing=False,
    remove_invalid_values=False,
    prompt_lookup_num_tokens=None,
    assistant_early_exit=None,
    speculation_type=None,
    use_mtp=None,
)
_said: set[str] = set()  # lines of `say_settings`


def asked_by_folder(
    config: GenerationConfig,
) -> dict:  # setting -> what it is
    "What a generation config asks for beyond the likeliest token, or a draw from all of them."
    asked = {name: getattr(config, name, None) for name in NEUTRAL}
    none = lambda name, value: value is None or value == NEUTRAL[name] or (name == "top_k" and value == 0)
    return {name: value for name, value in asked.items() if not none(name, value)}


def neutral(
    config: GenerationConfig,
) -> dict:  # arguments of `generate`
    "What must be handed to `generate`, so that the config changes no choice of a token."
    return {name: NEUTRAL[name] for name in asked_by_folder(config)}


@contextmanager
def without_settings(model: PreTrainedModel) -> Iterator[None]:
    "The model's own settings of this kind are gone while the block runs: for libraries that call `generate`."
    before = model.generation_config
    model.generation_config = copy.deepcopy(before)
    model.generation_config.update(**neutral(before))
    try:
        yield
    finally:
        model.generation_config = before


def say_settings(name: object, model: PreTrainedModel) -> None:
    "One line, once: what the folder asks for and is not done here."
    asked = asked_by_folder(model.generation_config)
    line = (
        f"{name}: generation_config.json asks for {', '.join(f'{k}={v}'[:60] for k, v in asked.items())}; "
        "answers here are greedy at temperature 0 and drawn from all tokens above it, and leave that out"
    )
    if asked and line not in _said:
        _said.add(line)
        print(line, file=sys.stderr, flush=True)


class Answer(NamedTuple):
    "What a model wrote, without white space around it."

    text: str
    cut: bool  # did a limit end it? Then the model had not written an end token


class CutAnswers(UserWarning):
    "Answers were cut by a limit, and are left out."


def warn_of_cut(
    cut: int,
    answers: int,  # among so many
    max_new_tokens: int | str,
    what: str,  # what becomes of them, as "make no pair"
    how: str = "cut",
) -> None:
    "A warning counts the answers that a limit has cut."
    if cut:
        warnings.warn(
            f"{cut:,} of {answers:,} answers were {how} at max_new_tokens={max_new_tokens}, and {what}. "
            "A larger max_new_tokens lets longer answers end",
            CutAnswers,
            stacklevel=3,
        )


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],  # as the model reads them
    *,
    context: int,  # tokens the model can attend to; ModelError for a text that fills them
    max_new_tokens: int,  # of one answer
    temperature: float,  # 0 = greedy
    batch_size: int,  # texts at once
    seed: int,  # of the sampling
    progress: Callable[[int], object] | None = None,  # called with the number of texts answered so far
) -> list[Answer]:  # in the order of the texts
    "Continue texts in batches of similar length, padded on the left; what a batch begins with is read once."
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    crowded = _without_room(tokenizer, texts, context - max_new_tokens)
    batches = [
        group[start : start + batch_size]
        for group in _groups(model, tokenizer, texts, [i for i in order if i not in crowded])
        for start in range(0, len(group), batch_size)
    ]
    batches += [[i] for i in order if i in crowded]
    answers, done = [Answer("", False)] * len(texts), 0
    with evaluation_mode(model, seed):
        for batch in batches:
            some = [texts[i] for i in batch]
            continued = generate_batch(model, tokenizer, some, context, max_new_tokens, temperature)
            for i, answer in zip(batch, continued):
                answers[i] = answer
            done += len(batch)
            if progress:
                progress(done)
    return answers


ALIKE = 512  # characters that texts share before they are put into batches of their own
MANY = 8  # such texts before a batch of their own pays
SHARED = 64  # tokens at the beginning of a batch from which on they are read once


def _groups(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    order: list[int],  # numbers of the texts, kept in this order
) -> list[list[int]]:  # groups of them
    "Texts that go into batches together: of one length where the model would read padding."
    if can_be_padded(model):
        return _beginning_alike(texts, order)
    groups: dict[int, list[int]] = {}
    for i in order:
        groups.setdefault(len(tokenizer(texts[i], add_special_tokens=False).input_ids), []).append(i)
    return list(groups.values())


def counts_positions(model: PreTrainedModel) -> bool:
    "Is every token given its position, wherever the padding stands, and nothing else remembered?"
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    known = inspect.signature(type(base).forward).parameters
    return "position_ids" in known and not getattr(base, "_is_stateful", False)


_padded: WeakKeyDictionary = WeakKeyDictionary()  # model -> does padding leave its answers alone?
_cached: WeakKeyDictionary = WeakKeyDictionary()  # model -> does it go on from its cache as from the text?


def can_be_padded(model: PreTrainedModel) -> bool:
    "Is an answer the same with padding before its prompt? Where a model's kind leaves a doubt, it is tried."
    if counts_positions(model):
        return True
    if model not in _padded:
        with evaluation_mode(model, 0):
            _padded[model] = _same_when_padded(model)
    return _padded[model]


def plainly(
    model: PreTrainedModel,
) -> dict:  # arguments of `generate`
    "What `generate` must be told, so that neither settings of a folder nor a broken cache change a token."
    how = neutral(model.generation_config)
    if counts_positions(model):
        return how
    if model not in _cached:
        with evaluation_mode(model, 0):
            _cached[model] = _same(model, {}, dict(use_cache=False))
    return how if _cached[model] else {**how, "use_cache": False}


def _same_when_padded(model: PreTrainedModel) -> bool:
    return _same(model, plainly(model), {**plainly(model), "padding": 16})


def _same(model: PreTrainedModel, one: dict, other: dict) -> bool:
    "Are the scores after two tokens, and after what follows, the same in two ways of asking for them?"
    try:
        return all(
            (a - b).abs().max() <= 1e-3 * a.std()
            for a, b in zip(_tried(model, **one), _tried(model, **other))
        )
    except Exception:  # one of them is none
        return False


def _tried(model: PreTrainedModel, padding: int = 0, **how) -> tuple[torch.Tensor, ...]:
    width, pad = model.get_input_embeddings().num_embeddings, model.generation_config.pad_token_id
    # two rows: a state that mixes the rows of a batch is as wrong as one that reads padding
    ids = torch.tensor([[width // 4, width // 2], [width // 3, width // 5]], device=model.device)
    return model.generate(
        input_ids=torch.nn.functional.pad(ids, (padding, 0), value=pad),
        attention_mask=torch.nn.functional.pad(torch.ones_like(ids), (padding, 0)),
        output_logits=True,
        return_dict_in_generate=True,
        **{**neutral(model.generation_config), **how, "max_new_tokens": 3, "min_new_tokens": 3},
    ).logits


def _beginning_alike(
    texts: list[str],
    order: list[int],  # numbers of the texts, kept in this order
) -> list[list[int]]:  # groups of them
    "Texts with one long beginning, such as solved examples, apart from the others."
    groups: dict[str, list[int]] = {}
    for i in order:
        groups.setdefault(texts[i][:ALIKE], []).append(i)
    several = [group for group in groups.values() if len(group) >= MANY and len(texts[group[0]]) > ALIKE]
    apart = {i for group in several for i in group}
    return [*several, [i for i in order if i not in apart]]


def _without_room(
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    room: int,  # tokens
) -> set[int]:  # numbers of the texts
    "Texts too long for a whole answer: in a batch they would end the others' answers with theirs."
    # no token is shorter than a byte
    long = [i for i, text in enumerate(texts) if len(text.encode("utf-8")) > room]
    return {i for i in long if len(tokenizer(texts[i], add_special_tokens=False).input_ids) > room}


@contextmanager
def evaluation_mode(model: PreTrainedModel, seed: int) -> Iterator[None]:
    "Without dropout and gradients, with chance that neither depends on the caller's nor changes it."
    training = model.training
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model.eval()
        try:
            yield
        finally:
            model.train(training)


def generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    context: int,  # tokens the model can attend to
    max_new_tokens: int,
    temperature: float,  # 0 = greedy
) -> list[Answer]:
    "Continue the texts of one batch; ModelError when the longest leaves no room."
    encoded = tokenizer(
        texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    )
    length = encoded.input_ids.shape[1]
    if length >= context:
        raise ModelError(f"a prompt of {length} tokens does not fit the context of {context}; shorten it")
    ids, mask = encoded.input_ids.to(model.device), encoded.attention_mask.to(model.device)
    shared = shared_beginning(model, ids, mask)
    cache = None
    if shared:
        ids, mask, cache = _read_once(model, ids, mask, shared)
    tokens = decode(
        model,
        ids,
        mask,
        cache,
        pad=tokenizer.pad_token_id,
        room=min(max_new_tokens, context - length),
        temperature=temperature,
    )
    ended = torch.isin(tokens, _end_tokens(model)).any(1).tolist()
    said = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [Answer(text.strip(), not end) for text, end in zip(said, ended)]


def _end_tokens(model: PreTrainedModel) -> torch.Tensor:  # ids
    return torch.tensor(model.generation_config.eos_token_id, device=model.device)


def shared_beginning(
    model: PreTrainedModel,
    ids: torch.Tensor,  # (B, T) token ids, padded on the left
    mask: torch.Tensor,  # (B, T) 1 where they are not padding
) -> int:  # tokens, at least SHARED; 0: not worth it, or this model's cache cannot hold them
    "How many tokens all texts of a batch begin with, short of the last token of the shortest."
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    if len(ids) < 2 or kinds != {"full_attention"} or window or not counts_positions(model):
        return 0  # a window counts the padding that would stand in the middle
    starts = mask.argmax(1)
    most = int(mask.sum(1).min()) - 1
    begun = torch.stack([row[start : start + most] for row, start in zip(ids, starts)])
    same = (begun == begun[0]).all(0)
    shared = most if same.all() else int((~same).int().argmax())
    return shared if shared >= SHARED else 0


def _read_once(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, shared: int
) -> tuple[torch.Tensor, torch.Tensor, Cache | None]:  # ids and mask with the padding behind what is shared
    "Read what a batch begins with, once, into a cache for all its rows; None where it cannot be repeated."
    order = torch.stack(
        [
            torch.cat((row.nonzero()[:shared, 0], (row == 0).nonzero()[:, 0], row.nonzero()[shared:, 0]))
            for row in mask
        ]
    )
    ids, mask = ids.gather(1, order), mask.gather(1, order)
    few = dict(logits_to_keep=1) if model._supports_logits_to_keep() else {}
    cache = model(input_ids=ids[:1, :shared], use_cache=True, **few).past_key_values
    if not isinstance(cache, DynamicCache):
        return ids, mask, None
    cache.batch_repeat_interleave(len(ids))
    return ids, mask, cache


class ExponentialSampling(LogitsProcessor):
    """Scores whose largest is a token drawn from the model's probabilities.

    `torch.multinomial` draws in the same way: the largest probability over an exponential draw.
    Answers that have ended get their draws as well, so leaving them out changes no other."""

    def __init__(
        self,
        temperature: float,
        count: int,  # answers, ended ones too
        rows: torch.Tensor,  # (R,) numbers of those that go on
    ):
        self.temperature, self.count, self.rows = temperature, count, rows

    def __call__(self, input_ids, scores):  # (R, V) -> (R, V)
        draws = torch.empty(self.count, scores.shape[1], device=scores.device).exponential_()
        return (scores / self.temperature).softmax(-1) / draws[self.rows]


class QuarterEnded(StoppingCriteria):
    "Stop all answers of a batch as soon as a quarter of them have ended."

    def __init__(
        self,
        ends: torch.Tensor,  # (E,) ids of end tokens
        start: int,  # position of the first new token
    ):
        self.ends, self.start = ends, start

    def ended(self, input_ids):  # (R, T) -> (R,)
        return torch.isin(input_ids[:, self.start :], self.ends).any(1)

    def __call__(self, input_ids, scores, **kwargs):  # (R,) all True once a quarter has ended
        ended = self.ended(input_ids)
        return ended | (ended.sum() * 4 >= len(input_ids))


def decode(
    model: PreTrainedModel,
    ids: torch.Tensor,  # (B, T) token ids, padded on the left
    mask: torch.Tensor,  # (B, T) 1 where they are not padding
    cache: Cache | None = None,  # of what has been read already
    *,
    pad: int,  # id of the padding token
    room: int,  # new tokens at most
    temperature: float,  # 0 = greedy
) -> torch.Tensor:  # (B, room) token ids, padding after the end
    "Greedy decoding, or sampling; answers that have ended are left out each time a quarter of them have."
    count, length = ids.shape
    rows = torch.arange(count, device=ids.device)
    answers = ids.new_full((count, room), pad)
    stop = QuarterEnded(_end_tokens(model), length)
    while len(rows) and ids.shape[1] < length + room:
        sampling = [ExponentialSampling(temperature, count, rows)] if temperature > 0 else []
        done = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=length + room - ids.shape[1],
            return_dict_in_generate=True,
            stopping_criteria=[stop],
            logits_processor=sampling,
            **({} if cache is None else dict(past_key_values=cache)),
            **{**plainly(model), "do_sample": False},
        )
        mask = torch.nn.functional.pad(mask, (0, done.sequences.shape[1] - ids.shape[1]), value=1)
        ids = done.sequences
        answers[rows, : ids.shape[1] - length] = ids[:, length:]
        on = (~stop.ended(ids)).nonzero()[:, 0]
        ids, mask, rows = ids[on], mask[on], rows[on]
        cache = _of_rows(done.get("past_key_values"), on)
    return answers


def _of_rows(cache: Cache | None, rows: torch.Tensor) -> Cache | None:
    "The cache of some rows; None where it cannot drop the others, and the prompts are read again."
    remembers = getattr(cache_utils, "LinearAttentionCacheLayerMixin", ())  # states of a whole row
    layers = getattr(cache, "layers", ())
    if not hasattr(cache, "batch_select_indices") or any(
        isinstance(layer, remembers) or not hasattr(layer, "batch_select_indices") for layer in layers
    ):
        return None
    cache.batch_select_indices(rows)
    return cache
