"""Whether two tokenizers are one: the same tokens with the same ids, and texts cut in the same way."""

from __future__ import annotations

import json

from transformers import PreTrainedTokenizerBase

from ftguide.engine.files import fingerprint
from ftguide.engine.model_folders import without_marks

PROBES = (  # what tokenizers cut differently: words, capitals, numbers, spaces, code, other scripts, signs
    "The quick brown foxes weren't jumping over the laziest dogs unbelievably often.",
    "Preço: R$ 1.234,56 (à vista), pão-de-açúcar e coração.",
    "1234567890 3.14159 2026-11-30 0x1F 1e-9",
    "  two  spaces\n\n\tand a tab  \r\n",
    "def f(x):\n    return {'a': [x**2, -1]}  # done!!!",
    "ИЗВЕСТИЯ 東京都 한국어 العربية हिन्दी ﬁ Å é",
    "🙂👍🏽 … “quoted” – dash™ https://example.org/a?b=c&d=%20",
    "CamelCaseWords snake_case_words ALLCAPS antidisestablishmentarianism",
)


def vocabulary_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    "The same tokens, the same cutting of texts and the same chat template give the same digits."
    tokens = sorted(tokenizer.get_vocab().items())
    template = tokenizer.chat_template
    template = without_marks(template) if isinstance(template, str) else template
    return fingerprint([template, merges(tokenizer), probed(tokenizer), *tokens])


def different_tokens(
    a: PreTrainedTokenizerBase,
    b: PreTrainedTokenizerBase,
) -> list[tuple]:  # (token, id in a, id in b) of the first differences; empty when equal
    "Where two tokenizers disagree on what an id means."
    ids_a, ids_b = a.get_vocab(), b.get_vocab()
    tokens = sorted(ids_a.keys() | ids_b.keys())
    differ = [(t, ids_a.get(t), ids_b.get(t)) for t in tokens if ids_a.get(t) != ids_b.get(t)]
    return differ[:5]


def cut_differently(
    a: PreTrainedTokenizerBase,
    b: PreTrainedTokenizerBase,
) -> str:  # where; empty when nothing is known that they cut differently
    "Where two tokenizers with the same ids make other tokens of a text."
    for text, ids_a, ids_b in zip(PROBES, probed(a), probed(b)):
        if ids_a != ids_b:
            n = next(i for i, pair in enumerate(zip([*ids_a, None], [*ids_b, None])) if pair[0] != pair[1])
            return f"{text[:30]!r} becomes other tokens from the {n + 1}. on"
    if merges(a) != merges(b):
        return "their merges differ"
    return ""


def probed(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    "The probes in tokens."
    return [list(ids) for ids in tokenizer(list(PROBES), add_special_tokens=False).input_ids]


def merges(tokenizer: PreTrainedTokenizerBase) -> list:  # pairs, in their order; empty where there are none
    "Which pairs of tokens a tokenizer joins, the first ones first."
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return []
    found = json.loads(backend.to_str())["model"].get("merges") or []
    return [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in found]
