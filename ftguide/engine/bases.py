"""Which model a person's own rows start from, and whether the shipped models can know their text.

Stands on environment, formats, loading and pretrained. Nothing is fetched here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ftguide.engine.environment import processes
from ftguide.engine.formats import DataError, addressed_rows
from ftguide.engine.loading import SHIPPED, shipped_folder
from ftguide.engine.pretrained import PRETRAINED, at_hand

REAL = "smollm2-135m"
LOOKED_AT = 50  # rows

# Characters that a token of the shipped models stands for: 2.6 to 3.3 in each task of the
# marketplace, in either language; 1.6 to 1.8 in sums, in letters to customers, in Debian's descriptions.
FAMILIAR = 2.2
LABEL = 12  # characters; shorter text is the name of a task, or a label


def base_for(
    sources: Iterable[Any],  # files or lists of rows; None is left out
    asked: Any = None,  # model that somebody named, which is taken
    say: Callable[[str], object] = print,  # which model is taken, and why
) -> Any:  # name of a model, or what was asked for
    "The model that own rows start from: the one named, else a real one when it is at hand, else tiny."
    base = asked or (REAL if at_hand(REAL) else SHIPPED[0])
    shipped = str(getattr(base, "name", base)) in SHIPPED
    get = f"`ftguide get {REAL}` fetches a real model once, {PRETRAINED[REAL].megabytes} MB"
    if processes()[0] > 0:
        return base  # one of several processes says it
    if shipped and not all(map(is_familiar, sources)):
        say(
            f"base: {getattr(base, 'name', base)}, which knows the guide's invented marketplace and nothing "
            f"else, and these rows are about something else; {get}"
        )
    elif asked is None:
        say(f"base: {base}; {get}" if shipped else f"base: {base}, as it is at hand; --base names another")
    return base


def is_familiar(source: Any) -> bool:
    "Is this text like the marketplace's? True too where nothing can be read: reading says why."
    if isinstance(source, str) and not Path(source).is_file():
        return True  # a name on the hub, which is read once
    if source is None or hasattr(source, "__next__"):
        return True  # rows that can be read only once
    rows = islice(addressed_rows(source), LOOKED_AT)
    try:
        texts = [text for _, row in rows if isinstance(row, dict) for text in _texts(row)]
    except DataError:
        return True
    tokenizer = Tokenizer.from_file(str(shipped_folder(SHIPPED[0]) / "tokenizer.json"))
    tokenizer.no_padding()
    tokens = sum(len(encoded.ids) for encoded in tokenizer.encode_batch(texts))
    return sum(map(len, texts)) >= FAMILIAR * tokens


def _texts(row: dict) -> list[str]:
    "What a row says, in any of its columns; of messages, their content."
    said = []
    for value in row.values():
        said += (
            [m.get("content") for m in value if isinstance(m, dict)] if isinstance(value, list) else [value]
        )
    return [text for text in said if isinstance(text, str) and len(text) >= LABEL]
