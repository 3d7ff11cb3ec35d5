"""What would fail silently in a training is refused before it starts"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from ftguide.engine.conversations import as_messages
from ftguide.engine.formats import DataError, Source
from ftguide.engine.model_folders import ModelError
from ftguide.engine.pair_scores import scores_against
from ftguide.engine.rows import MOST, Row, question_key, read, repeated_prompts
from ftguide.engine.spellings import MARKS
from ftguide.engine.texts import normalised_text
from ftguide.engine.tokens import (
    FAULTS,
    NOTES,
    TokenisedRow,
    check_written,
    context_length,
    end_tokens,
    row_limit,
    tokenised,
    too_long,
    without_room,
)
from ftguide.engine.trainer_settings import planned_steps
from ftguide.engine.training_data import is_streamed, peek
from ftguide.engine.vocabularies import cut_differently, different_tokens
from ftguide.models import LM, load

METHODS = {"sft": "sft", "dpo": "pairs", "kto": "sft", "distill": "corpus"}  # method -> kind of rows


def read_for_training(
    data: Source,  # as in `stream`
    method: str = "sft",  # "sft", "dpo", "kto" or "distill"
    config: dict | None = None,  # what goes to TRL's config
) -> list[dict]:
    "The rows of a training; of a stream, the first thousand. DataError names the first bad one."
    kind = _kind(method)
    rows = peek(data, kind, config or {}) if is_streamed(data) else read(data, kind)
    return with_thumbs(rows) if method == "kto" else rows


THUMBS = {  # as a table holds them, in any case -> up or down
    **dict.fromkeys(("true", "1", "1.0", "yes"), True),
    **dict.fromkeys(("false", "0", "0.0", "no"), False),
}


def with_thumbs(
    rows: list[dict],
) -> list[dict]:  # the same with a label of True or False
    "Labels as True and False; DataError unless each row has one answer, and there are both thumbs."
    for n, row in enumerate(rows, 1):
        if "messages" in row:
            raise DataError(
                f"row {n} has messages, and a thumb judges one answer: give prompt (text, or the messages "
                "before the answer), completion and label instead"
            )
    labels = [THUMBS.get(normalised_text(str(row.get("label")))) for row in rows]
    if None in labels:
        n = labels.index(None)
        raise DataError(
            f"row {n + 1}: label must be true (thumb up) or false (thumb down), "
            f"not {rows[n].get('label')!r}; 1 and 0, yes and no are understood as well"
        )
    if not any(labels) or all(labels):
        up = sum(labels)
        raise DataError(
            f"{up} thumbs up and {len(labels) - up} down: without both there is nothing to compare"
        )
    return [{**row, "label": label} for row, label in zip(rows, labels)]


def _kind(method: str) -> str:
    if method not in METHODS:
        *names, last = METHODS
        raise ValueError(f"method must be {', '.join(names)} or {last}, not {method!r}")
    return METHODS[method]


def preflight(
    model: LM | str | Path,  # LM, folder or hub name: what will be trained (of a distillation, the student)
    rows: list[dict],  # of `read_for_training`
    method: str = "sft",  # "sft", "dpo", "kto" or "distill"
    *,
    learning_rate: float | None = None,  # at the top; None is not checked
    epochs: float = 1,
    batch_size: int = 4,
    teacher: LM | str | Path | None = None,  # LM, folder or name
    alpha: float = 0.7,  # of a distillation
    reference: LM | str | Path | None = None,  # of DPO: LM, folder or name; None is the model itself
    lora: object | None = None,  # an adapter? Then the reference is the model without it
    config: dict | None = None,  # what goes to TRL's config
    force: bool = False,  # warn instead of refusing
    tokens: list[TokenisedRow] | None = None,  # the rows tokenised, where they are already
    eval_rows: list[dict] | None = None,  # those that choose the best model
):
    "Refuse what would fail silently: ValueError (DataError when rows are at fault) says how to mend it."
    kind = _kind(method)
    lm, config = load(model), config or {}
    teacher = None if teacher is None else load(teacher)
    if tokens is None:
        tokens = tokenised(lm.tokenizer, rows, kind)
    check_written(tokens)
    problems = []
    if teacher is not None and alpha > 0:
        problems += _vocabulary_problems(teacher, lm)
    if method == "dpo" and not lora and not config.get("precompute_ref_log_probs", True):
        reference = reference or lm.model.config._name_or_path  # where TRL looks for it
    if reference is not None:
        problems += _reference_problems(lm, reference)
    problems += _template_problems(lm, _examples(lm, rows) if kind == "corpus" else tokens[:100])
    n = _packed(tokens, row_limit(lm, config)) if config.get("packing") else len(rows)
    problems += _step_problems(n, method, epochs, batch_size, config)
    problems += _rounding_problems(lm, learning_rate)
    of_rows = _fault_problems(tokens)
    of_rows += too_long(lm, tokens, row_limit(lm, config))
    of_rows += _repetition_problems(rows, kind)
    if teacher is not None:
        of_rows += _teacher_problems(teacher, rows, kind)
    refuse(problems + of_rows, force, ValueError if problems else DataError)
    for notice in (*asked_in_both(rows, eval_rows or []), *scores_against(rows)):
        warnings.warn(notice, stacklevel=2)


def asked_in_both(rows: list[dict], eval_rows: list[dict]) -> Iterator[str]:
    "What to say about validation rows that ask what training rows ask: memory answers them."
    asked = set(map(question_key, rows)) if eval_rows else set()
    known = [n for n, row in enumerate(eval_rows, 1) if question_key(row) in asked]
    if known:
        yield (
            f"{len(known)} of {len(eval_rows)} validation rows (the first is row {known[0]}) ask what "
            "training rows ask: memory answers them, and they choose the best model; "
            "take rows that are not trained on"
        )


def refuse(
    problems: list[str],
    force: bool = False,  # warn instead
    error: type[ValueError] = DataError,
):
    "Raise an error that says what is wrong; nothing where nothing is."
    if problems and not force:
        raise error("; ".join(problems))
    for problem in problems:
        warnings.warn(f"training all the same: {problem}", stacklevel=3)


def check_for_trl(
    rows: list[dict],  # of a corpus
    setting: str,  # that hands them to TRL
):
    "ValueError when TRL, which writes these rows itself, would write them otherwise than other trainings."
    asked = [as_messages(row["prompt"]) for row in rows if "prompt" in row]
    said = [[*prompt, *_messages(row.get("completion"))] for prompt, row in zip(asked, rows)]
    wrong = {
        "hold only text, and it asks prompts": len(rows) - len(asked),
        "hold tools, calls or other keys that it does not read": sum(map(_has_other_keys, said)),
        "begin the answer in the prompt, or ask nothing": sum(map(_begins_answer, asked)),
    }
    for what, count in wrong.items():
        if count:
            raise ValueError(f"{setting}: {count} of {len(rows)} rows {what}; take them out")


def _messages(answer: str | list[dict] | None) -> list[dict]:
    return answer if isinstance(answer, list) else []


def _has_other_keys(messages: list[dict]) -> bool:
    return any(m.keys() - {"role", "content", *MARKS} for m in messages)


def _begins_answer(prompt: list[dict]) -> bool:
    return not prompt or prompt[-1]["role"] == "assistant"


def check_room(
    models: list[LM],  # that read the answers
    rows: list[dict],  # with a prompt
    new_tokens: int | None,  # of an answer; None has no limit
    force: bool = False,  # warn instead of refusing
):
    "DataError when an answer that is still to be written may not fit behind its prompt."
    prompts = [dict(prompt=row["prompt"]) for row in rows]
    found = [(lm, tokenised(lm.tokenizer, prompts, "corpus")) for lm in models]
    refuse([said for lm, some in found for said in without_room(lm, some, new_tokens or 0)], force)


def check_answered(
    lm: LM,
    rows: list[dict],  # a corpus, answered
    config: dict,  # what goes to TRL's config
    force: bool = False,  # warn instead of refusing
):
    "DataError when answered rows are longer than what training keeps."
    refuse(too_long(lm, tokenised(lm.tokenizer, rows, "corpus"), row_limit(lm, config)), force)


def updatable_share(
    model: torch.nn.Module,
    learning_rate: float,  # at the top of the schedule
    sample: int = 100_000,  # weights looked at
) -> float:  # share, 0..1
    "Share of the weights that a step as long as the learning rate changes, after rounding to their dtype."
    weights = [p.detach().flatten() for p in model.parameters() if p.is_floating_point()]
    every = max(sum(map(len, weights)) // sample, 1)
    moved, n = 0.0, 0
    for weight in weights:
        some = weight[::every].cpu()
        moves = (some - learning_rate != some) | (some + learning_rate != some)
        moved += moves.float().sum().item()
        n += len(some)
    return moved / max(n, 1)


def _vocabulary_problems(teacher: LM, student: LM) -> Iterator[str]:
    differ = different_tokens(teacher.tokenizer, student.tokenizer)
    where = f"first difference, token and its two ids: {differ[0]}" if differ else ""
    if where := where or cut_differently(teacher.tokenizer, student.tokenizer):
        yield (
            f"teacher and student have different tokenizers ({where}), "
            "so soft labels would teach the wrong tokens. Use alpha=0, which teaches with the teacher's text"
        )


def _reference_problems(lm: LM, reference: LM | str | Path) -> Iterator[str]:
    "Is a DPO reference another model than the one that training starts from?"
    try:
        other = load(reference).model.state_dict()
    except ModelError as e:
        yield f"the reference cannot be loaded: {e}"
        return
    own = lm.model.state_dict()
    wrong = [name for name, weight in own.items() if name not in other or not _equal(weight, other[name])]
    if wrong or own.keys() != other.keys():
        name = getattr(reference, "name", None) or Path(str(reference)).name
        yield (
            f"the reference ({name}) is not the model that training starts from: "
            f"{len(wrong)} of {len(own)} weight tensors differ, so the first loss is not ln 2. "
            "Leave precompute_ref_log_probs on, or save the model and load it from there"
        )


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.float(), b.float().to(a.device))


def _template_problems(
    lm: LM,
    some: list[TokenisedRow],  # a hundred show what is the same for every row
) -> Iterator[str]:
    "Problems of the chat template."
    if lm.tokenizer.pad_token_id is None:
        yield f"{lm.name}: the tokenizer has no padding token; ftguide.models.complete_tokenizer gives it one"
    ends = end_tokens(lm)
    if some and not any(row.ends(ends) for row in some):
        yield (
            f"{lm.name}: no answer ends with an end token, so the model would never learn to stop. "
            f"Its chat template must write {lm.tokenizer.eos_token!r} after the answer"
        )
    changed = sum(row.changed > 1 for row in some)
    joined = sum(row.changed > 0 for row in some)
    if changed > 0.1 * len(some):
        yield (
            f"{lm.name}: in {changed} of {len(some)} rows the prompt's tokens are others once the answer "
            "follows, so the loss starts at the wrong token. Mend the chat template"
        )
    elif joined > 0.1 * len(some):
        warnings.warn(
            f"{lm.name}: in {joined} of {len(some)} rows the prompt's last token joins the answer's first, "
            "so the model is asked in other tokens than it was taught. "
            "End the template's prompt with a special token",
            stacklevel=3,
        )


def _examples(lm: LM, rows: list[dict]) -> list[TokenisedRow]:
    "Of a corpus, a hundred of the rows that have a prompt, with some answer where theirs is still to come."
    some = [
        {"prompt": row["prompt"], "completion": row.get("completion") or "Yes."}
        for row in rows
        if "prompt" in row
    ]
    return [row for row in tokenised(lm.tokenizer, some[:100]) if not row.refused]


def _fault_problems(rows: list[TokenisedRow]) -> list[str]:
    "What is wrong with single rows; what training may have is only said."
    problems = []
    for fault in FAULTS:
        found = [(n, row) for n, row in enumerate(rows, 1) if fault in row.faults]
        if not found:
            continue
        n, first = found[0]
        said = first.says(f"{len(found)} of {len(rows)} rows, the first is row {n}", fault)
        if fault in NOTES:
            warnings.warn(said, stacklevel=3)
        else:
            problems.append(said)
    return problems


def _repetition_problems(rows: list[dict], kind: str) -> list[str]:
    "Do the answers begin with their prompts? A few may have reason to, and are only counted."
    repeated = [] if kind == "corpus" else repeated_prompts([Row(row, kind) for row in rows])
    if not repeated:
        return []
    said = (
        f"{len(repeated)} of {len(rows)} rows, the first is row {repeated[0] + 1}: the answer begins with "
        "its own prompt, so the model would learn to repeat what it is asked; take the prompt out of it"
    )
    if len(repeated) > MOST * len(rows):
        return [said]
    warnings.warn(said, stacklevel=3)
    return []


def _teacher_problems(teacher: LM, rows: list[dict], kind: str) -> list[str]:
    tokens = tokenised(teacher.tokenizer, rows, kind)
    check_written(tokens)
    return too_long(teacher, tokens, context_length(teacher))


def _packed(rows: list[TokenisedRow], limit: int) -> int:
    "How many rows are left when TRL packs them into full contexts."
    return math.ceil(sum(row.length for row in rows) / limit)


def _step_problems(n: int, method: str, epochs: float, batch_size: int, config: dict) -> Iterator[str]:
    "Would a step be made, and one with a learning rate above zero?"
    steps, warmup = planned_steps(n, epochs, batch_size, config)
    if method == "distill" or config.get("lr_scheduler_type") in ("constant", "reduce_lr_on_plateau"):
        warmup = 0  # schedules without warm-up
    if steps == 0:
        batch = config.get("per_device_train_batch_size", batch_size)
        settings = [f"{k}={v}" for k, v in config.items() if k in ("dataloader_drop_last", "max_steps")]
        yield (
            f"no step would be made: {n} rows in batches of {batch} with "
            f"{', '.join(settings) or f'{epochs} epochs'}. "
            "Give more rows, a smaller batch_size, or leave that setting out"
        )
    elif steps == 1 and warmup and config.get("max_steps", -1) < 0:
        yield (
            "the only step would have the learning rate 0, because warm-up begins there: "
            f"{n} rows in batches of {batch_size}. Take more epochs, a smaller batch_size, or warmup_steps=0"
        )


def _rounding_problems(lm: LM, learning_rate: float | None) -> Iterator[str]:
    "Are the weights' numbers too far apart for a step of the learning rate?"
    if not learning_rate or getattr(lm.model, "is_quantized", False):
        return
    share = updatable_share(lm.model, learning_rate)
    if share < 0.5:
        dtype = str(next(lm.model.parameters()).dtype).removeprefix("torch.")
        yield (
            f"the learning rate {learning_rate:g} changes only {share:.1%} of the weights a step: "
            f"they are {dtype}, whose numbers lie further apart. Load the model as float32, or raise the rate"
        )
