"""Rows as training sees them, in tokens: what is scored, how long they are, and what is wrong with them"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ftguide.engine.conversations import (
    CONTROL,
    LEFT_OUT,
    REFUSED,
    REWRITTEN,
    UNKNOWN,
    UNREAD,
    Conversation,
    Tokens,
    as_messages,
    in_tokens,
    write_prompts,
)
from ftguide.engine.formats import DataError, first_line
from ftguide.engine.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ftguide.models import LM

KEPT = "history differs"
FAULTS = {  # what is wrong with a row -> what it does, and what to do
    REFUSED: "the chat template cannot write it; look at the order of its roles",
    REWRITTEN: (
        "the chat template writes an answer differently once others follow it; "
        "write a row of prompt (all messages before the answer) and completion for each answer"
    ),
    LEFT_OUT: (
        "the chat template leaves out something that a message says, so it would not be learnt; "
        "mend the template or the row"
    ),
    CONTROL: (
        "it holds a token that the chat template writes itself, so a turn would begin or end within a text; "
        "take it out of the text"
    ),
    UNKNOWN: (
        "the tokenizer cannot write its answer, and the model would be taught to write the unknown token; "
        "take those characters out, or a model that knows them"
    ),
    KEPT: (
        "the chat template shortens earlier answers once others follow, and training reads them whole (in "
        "TRL's form of this template): when it is asked, the model reads another history; "
        "a row for each answer avoids it"
    ),
    UNREAD: (
        "keys of its messages that the chat template does not write are not trained; "
        "say it in the text if it matters"
    ),
}
NOTES = (KEPT, UNREAD)  # those that training may have


class TokenisedRow(NamedTuple):
    "One conversation of a row, of a pair two; of a row that a model only answers, its prompt."

    parts: tuple[Tokens, ...]

    @property
    def length(self) -> int:  # tokens, template included
        "Of a pair, the longer one."
        return max(len(part.ids) for part in self.parts)

    @property
    def start(self) -> int:
        "The first scored token; of a pair, the earlier one."
        return min(part.start for part in self.parts)

    @property
    def changed(self) -> int:
        "Tokens at the prompt's end that are others once the answer follows; of a pair, the worse of both."
        return max(part.changed for part in self.parts)

    @property
    def faults(self) -> tuple[str, ...]:
        "What is wrong with it: keys of FAULTS."
        found = {name for part in self.parts for name in part.faults}
        return tuple(name for name in FAULTS if name in found) if found else ()

    @property
    def refused(self) -> bool:
        "Is there nothing to train, because the template cannot write it?"
        return REFUSED in self.faults or REWRITTEN in self.faults

    def with_prompts(self) -> TokenisedRow:
        "The same with every token scored."
        return TokenisedRow(tuple(part._replace(answers=((0, len(part.ids)),)) for part in self.parts))

    def ends(self, ids: set[int]) -> bool:
        "Is an end token among the scored ones?"
        return all(not ids.isdisjoint(part.scored) for part in self.parts)

    def check(self, where: str):
        "DataError when it cannot be trained as it says."
        for fault in self.faults:
            if fault not in NOTES:
                raise DataError(self.says(where, fault))

    def says(self, where: str, fault: str) -> str:
        "One of its faults in a line."
        reason = self.reason(fault)
        return f"{where}: {FAULTS[fault]}" + (f" ({reason})" if reason else "")

    def reason(self, fault: str) -> str:
        "What exactly is wrong, where that is known."
        return next(filter(None, (part.reason(fault) for part in self.parts)), "")


def tokenised(
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict],
    kind: str = "sft",  # "sft", "pairs" or "corpus"
    *,
    prompts_too: bool = False,  # score every token?
    progress: Callable[[int], object] | None = None,  # called with the number of rows after each batch
) -> list[TokenisedRow]:
    "Rows in tokens, a thousand at a time."
    found: list[TokenisedRow] = []
    for n in range(0, len(rows), 1000):
        batch = [Row(row, kind) for row in rows[n : n + 1000]]
        found += _corpus(tokenizer, batch) if kind == "corpus" else _answered(tokenizer, batch)
        if progress:
            progress(len(batch))
    return [row.with_prompts() for row in found] if prompts_too else found


def _answered(tokenizer: PreTrainedTokenizerBase, batch: list[Row]) -> list[TokenisedRow]:
    of_rows = [row.conversations for row in batch]
    found = iter(_in_tokens(tokenizer, [conversation for row in of_rows for conversation in row]))
    return [TokenisedRow(tuple(next(found) for _ in row)) for row in of_rows]


def _in_tokens(tokenizer: PreTrainedTokenizerBase, conversations: list[Conversation]) -> list[Tokens]:
    "In the tokenizer's template; where that rewrites answers, in TRL's form of it that does not."
    found = in_tokens(tokenizer, conversations)
    rewritten = [i for i, tokens in enumerate(found) if REWRITTEN in tokens.faults]
    template = _training_template(tokenizer) if rewritten else None
    if template:
        for i, tokens in zip(
            rewritten, in_tokens(tokenizer, [conversations[i] for i in rewritten], template)
        ):
            found[i] = tokens._replace(faults=(*tokens.faults, KEPT))
    return found


def _training_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    "TRL knows some templates, and has a form of each for training; None where it does not know this one."
    from trl.chat_template_utils import get_training_chat_template  # takes a second, and few models need it

    try:
        return get_training_chat_template(tokenizer)
    except Exception:  # it tries the template on conversations of its own, which may raise anything
        return None


def _corpus(tokenizer: PreTrainedTokenizerBase, batch: list[Row]) -> list[TokenisedRow]:
    "An answered prompt, a prompt as the model is asked, or a text and the end token that is put behind it."
    found: dict[int, Tokens] = {}
    answered = [i for i, row in enumerate(batch) if "completion" in row.columns]
    rows = _answered(tokenizer, [Row(batch[i].columns) for i in answered])
    found |= {i: row.parts[0] for i, row in zip(answered, rows)}
    asked = [i for i, row in enumerate(batch) if "prompt" in row.columns and i not in found]
    found |= dict(zip(asked, _prompts(tokenizer, [batch[i].columns["prompt"] for i in asked])))
    texts = [i for i in range(len(batch)) if i not in found]
    found |= dict(zip(texts, _texts(tokenizer, [batch[i].columns["text"] for i in texts])))
    return [TokenisedRow((found[i],)) for i in range(len(batch))]


def _prompts(tokenizer: PreTrainedTokenizerBase, prompts: list) -> list[Tokens]:
    texts = write_prompts(tokenizer, list(map(as_messages, prompts)))
    ids = _ids(tokenizer, [text if isinstance(text, str) else "" for text in texts])
    return [
        Tokens(array("i", one), ())
        if isinstance(text, str)
        else Tokens(array("i"), (), faults=(REFUSED,), why=first_line(text)[:200])
        for text, one in zip(texts, ids)
    ]


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False).input_ids if texts else []


def _texts(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[Tokens]:
    "A text is scored from its second token on: no model predicts the first."
    if not texts:
        return []
    written = [array("i", [*ids, tokenizer.eos_token_id]) for ids in tokenizer(texts).input_ids]
    return [Tokens(ids, ((1, len(ids)),)) for ids in written]


def end_tokens(lm: LM) -> set[int]:
    "The tokens that end an answer."
    ends = lm.model.generation_config.eos_token_id
    return {lm.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}


def lengths(
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict],
    kind: str = "sft",
) -> list[int]:  # tokens of each row, template included
    "How long each row is as the model sees it; DataError when the chat template cannot write one."
    found = tokenised(tokenizer, rows, kind)
    check_written(found)
    return [row.length for row in found]


def check_written(rows: list[TokenisedRow]):
    "DataError names the first row that the chat template cannot write."
    for n, row in enumerate(rows, 1):
        if row.refused:
            raise DataError(row.says(f"row {n}", row.faults[0]))


AFTER_PADDING = (  # kinds of models whose positions are counted from the padding token's id on
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "data2vec-text",
    "xmod",
)


def context_length(lm: LM) -> int:
    "How many tokens the model can attend to."
    config = lm.model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    if positions and getattr(config, "model_type", None) in AFTER_PADDING:
        positions -= config.pad_token_id + 1
    return min(positions or 10**9, lm.tokenizer.model_max_length or 10**9)


def answer_limit(
    tokenizer: PreTrainedTokenizerBase,
    references: list[str],  # right answers; none where nobody knows them
    context: int,  # tokens the model can attend to
    least: int = 96,
) -> int:  # tokens
    """How long an answer may become: half as long again as the longest right one, and at least `least`.

    Half of the context at most, where the right answers are not longer."""
    longest = max((len(ids) + 1 for ids in _ids(tokenizer, references)), default=0)  # and its end token
    return min(max(least, longest * 3 // 2), max(least, longest, context // 2))


def row_limit(
    lm: LM,
    config: dict | None = None,  # what goes to TRL's config
) -> int:
    "How many tokens of a row training keeps: the context, or what `max_length` says; packed, 4,096 at most."
    config, context = config or {}, context_length(lm)
    usual = 4096 if config.get("packing") else context
    return min(config.get("max_length", usual) or context, context)


def too_long(
    lm: LM,
    rows: list[TokenisedRow],
    limit: int,  # tokens
) -> list[str]:
    "What to say about rows longer than a limit; empty when all fit."
    long = [(n, row) for n, row in enumerate(rows, 1) if row.length > limit]
    if not long:
        return []
    some = ", ".join(f"row {n} ({row.length} tokens)" for n, row in long[:3]) + (
        " ..." if len(long) > 3 else ""
    )
    return [f"{len(long)} of {len(rows)} rows {_exceed(lm, limit)}: {some}. Shorten or remove them"]


def without_room(
    lm: LM,
    rows: list[TokenisedRow],  # prompts
    new_tokens: int,  # of an answer
) -> list[str]:
    "What to say about prompts behind which such an answer does not fit; empty when it fits behind all."
    context = context_length(lm)
    long = [(n, row) for n, row in enumerate(rows, 1) if row.length + new_tokens > context]
    if not long:
        return []
    some = ", ".join(f"row {n} ({row.length} tokens)" for n, row in long[:3]) + " ..." * (len(long) > 3)
    return [
        f"{len(long)} of {len(rows)} prompts leave no room for an answer of {new_tokens} tokens in "
        f"{lm.name}'s context of {context}: {some}. Shorten or remove them, or lower max_new_tokens"
    ]


def _exceed(lm: LM, limit: int) -> str:
    if limit < context_length(lm):
        return f"are longer than the {limit} tokens that training keeps (max_length)"
    return f"do not fit into {lm.name}'s context of {limit} tokens"


def check_lengths(
    lm: LM,
    rows: list[dict],
    kind: str = "sft",
):
    "DataError when rows are longer than the model's context."
    found = tokenised(lm.tokenizer, rows, kind)
    check_written(found)
    for problem in too_long(lm, found, context_length(lm)):
        raise DataError(problem)
