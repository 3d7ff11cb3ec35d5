"""A conversation in tokens: what the chat template makes of it, and which of the tokens are answers.

The one place where a conversation becomes tokens, for training, for the checks before it and for scoring."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from ftguide.engine.formats import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# what can be wrong with a conversation
REFUSED = "template refuses"
REWRITTEN = "answers change"
LEFT_OUT = "text left out"
CONTROL = "control tokens"
UNKNOWN = "unknown tokens"

MARKS = (
    "weight",
    "train",
    "training",
    "trainable",
    "loss",
)  # of a message: 0 or false says, do not learn this
Written = str | Exception  # what a template makes of messages; what it raises where it refuses them


class Conversation(NamedTuple):
    "Messages, and those among them that are answers to learn."

    messages: list[dict]  # role and content each
    answers: tuple[int, ...]  # numbers of the messages that are scored
    begun: str = ""  # how the prompt begins the first of them; that part is not scored


def is_learnt(
    message: dict,
) -> bool:
    "Is this an answer that training scores? What others say is none, nor what is marked with a weight of 0."
    marks = (message.get(name) for name in MARKS)
    return message["role"] == "assistant" and all(mark is None or bool(mark) for mark in marks)


def learnt(
    messages: list[dict],
    since: int = 0,  # number of the first message that is looked at
) -> tuple[int, ...]:
    "Numbers of the answers that training scores."
    return tuple(k for k, message in enumerate(messages) if k >= since and is_learnt(message))


def as_messages(
    prompt: str | list[dict],  # text, or messages already
) -> list[dict]:  # messages with role and content
    "A prompt as a conversation."
    return [dict(role="user", content=prompt)] if isinstance(prompt, str) else list(prompt)


def answered(
    prompt: str | list[dict],  # text or messages
    answer: str | list[dict],  # text or messages
) -> Conversation:
    "A prompt and its answer; one that the prompt begins, with words of the assistant, goes on from there."
    asked = as_messages(prompt)
    said = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else list(answer)
    if not asked or asked[-1]["role"] != "assistant" or said[0]["role"] != "assistant":
        return Conversation([*asked, *said], learnt([*asked, *said], len(asked)))
    begun = asked.pop()["content"]
    begun = begun if begun.strip() else ""
    said[0] = {**said[0], "content": begun + said[0]["content"]}
    return Conversation([*asked, *said], learnt([*asked, *said], len(asked)), begun)


class Tokens(NamedTuple):
    """A conversation as training sees it.

    An answer's tokens are those from where the model is asked for it to the end of its turn: what a user, a
    system message or a tool says is not among them, wherever it stands."""

    ids: array  # of int; empty where the template refuses the conversation
    answers: tuple[tuple[int, int], ...]  # of each answer: its first token, and one past its last
    changed: int = 0  # tokens at a prompt's end that are others once the answer follows; the worst prompt's
    faults: tuple[str, ...] = ()  # what is wrong, by the names above
    why: str = ""  # what the template said when it refused, or what the tokenizer cannot write

    @property
    def start(self) -> int:
        "The first scored token."
        return self.answers[0][0] if self.answers else len(self.ids)

    @property
    def scored(self) -> list[int]:
        "The scored tokens."
        return [token for first, end in self.answers for token in self.ids[first:end]]

    @property
    def mask(self) -> array:
        "1 for each scored token, 0 for each of the others."
        mask = array("b", bytes(len(self.ids)))
        for first, end in self.answers:
            mask[first:end] = array("b", b"\1" * (end - first))
        return mask

    @property
    def labels(self) -> list[int]:
        "The ids of the scored tokens, -100 in the place of the others."
        labels = [-100] * len(self.ids)
        for first, end in self.answers:
            labels[first:end] = self.ids[first:end]
        return labels


def in_tokens(
    tokenizer: PreTrainedTokenizerBase,
    conversations: list[Conversation],
    chat_template: str | None = None,  # the tokenizer's own by default
) -> list[Tokens]:
    """Each conversation in tokens; all texts go to the tokenizer in one call.

    An answer begins where the tokens of the whole and those of the prompt alone part, as in TRL."""
    how = {"chat_template": chat_template} if chat_template else {}
    whole = write(tokenizer, [c.messages for c in conversations], **how)
    turns = [(n, k) for n, c in enumerate(conversations) for k in c.answers]
    said = _said(tokenizer, conversations, turns, whole, how)
    asked = _asked(tokenizer, conversations, turns, said, how)
    ids = _ids(tokenizer, [*whole, *asked, *said])
    control = _control_tokens(tokenizer, conversations, whole)
    texts: list[list] = [[] for _ in conversations]
    for (n, _), before, after in zip(turns, asked, said):
        texts[n].append((before, after))
    return [
        _tokens(tokenizer, conversation, text, of_turns, ids, control)
        for conversation, text, of_turns in zip(conversations, whole, texts)
    ]


def write(
    tokenizer: PreTrainedTokenizerBase,
    conversations: list[list[dict]],
    **how,  # of `apply_chat_template`
) -> list[Written]:
    "Each conversation as text."
    if not conversations:
        return []
    try:
        return tokenizer.apply_chat_template(conversations, tokenize=False, **how)
    except Exception as e:
        if len(conversations) == 1:
            return [e]
        return [write(tokenizer, [one], **how)[0] for one in conversations]


def prompt_settings(
    messages: list[dict],
) -> dict:  # of `apply_chat_template`
    "How a prompt is written: a new answer is asked for, or one that the prompt begins is gone on with."
    begun = bool(messages) and messages[-1]["role"] == "assistant"
    return {"continue_final_message": True} if begun else {"add_generation_prompt": True}


def _said(tokenizer, conversations, turns, whole, how) -> list[Written]:
    "The text up to the end of each answer's turn."
    texts = {(n, len(c.messages) - 1): text for n, (c, text) in enumerate(zip(conversations, whole))}
    inner = [turn for turn in turns if turn not in texts]
    begins = [conversations[n].messages[: k + 1] for n, k in inner]
    texts |= dict(zip(inner, write(tokenizer, begins, **how)))
    return [texts[turn] for turn in turns]


def _asked(tokenizer, conversations, turns, said, how) -> list[Written]:
    "The text after which the model is to write each answer."
    found: list[Written] = list(said)
    questions: dict[bool, list] = {False: [], True: []}
    for i, (n, k) in enumerate(turns):
        before, begun = conversations[n].messages[:k], _begun(conversations[n], k)
        if begun:
            before = [*before, {"role": "assistant", "content": begun}]
        elif not any(m["role"] == "user" for m in before):
            found[i] = _before_words(said[i], conversations[n].messages[k]["content"])
            continue
        questions[bool(begun)].append((i, before))
    for some in filter(None, questions.values()):
        numbers, prompts = zip(*some)
        texts = write(tokenizer, list(prompts), **prompt_settings(prompts[0]), **how)
        for i, text in zip(numbers, texts):
            found[i] = text
    return found


def _begun(conversation: Conversation, k: int) -> str:
    return conversation.begun if k == conversation.answers[0] else ""


def _before_words(text: Written, words: str) -> Written:
    "Nobody asks for a greeting, and no template writes a prompt of nothing: its words say where it begins."
    return text if isinstance(text, Exception) else text[: max(text.rfind(words.strip()), 0)]


def _ids(tokenizer, texts: Iterable[Written]) -> dict[str, list[int]]:
    "Token ids of each different text, without special tokens added."
    different = list(dict.fromkeys(text for text in texts if isinstance(text, str)))
    if not different:
        return {}
    encoded = tokenizer(different, add_special_tokens=False, return_attention_mask=False)
    return dict(zip(different, encoded.input_ids))


def _tokens(
    tokenizer,
    conversation: Conversation,
    text: Written,  # of the whole
    turns: list[tuple[Written, Written]],  # of each answer: what stands before it, and all up to its end
    ids: dict[str, list[int]],  # of every text
    control: re.Pattern | None,
) -> Tokens:
    refusals = [one for one in (text, *(one for turn in turns for one in turn)) if isinstance(one, Exception)]
    if refusals:
        return Tokens(array("i"), (), faults=(REFUSED,), why=first_line(refusals[0])[:200])
    whole, answers, changed = ids[text], [], 0
    for asked, said in turns:
        start = _in_common(ids[asked], whole)
        end = _in_common(ids[said], whole)
        answers.append((start, max(start, end)))
        changed = max(changed, len(ids[asked]) - start)
    unknown = _not_written(tokenizer, text, [whole[start:end] for start, end in answers])
    wrong = {
        REWRITTEN: not all(text.startswith(said) for _, said in turns),
        LEFT_OUT: not _all_written(conversation, text),
        CONTROL: control and any(control.search(m["content"]) for m in conversation.messages),
        UNKNOWN: unknown,
    }
    faults = tuple(name for name, is_so in wrong.items() if is_so)
    return Tokens(array("i", whole), tuple(answers), changed, faults, unknown)


def _not_written(tokenizer, text: str, answers: list[list[int]]) -> str:
    "How much of the answers, and which words, the tokenizer cannot write; empty where it writes all."
    unknown = getattr(tokenizer, "unk_token_id", None)
    scored = [token for answer in answers for token in answer]
    if unknown is None or unknown not in scored or tokenizer.unk_token in text:
        return ""
    words = list(dict.fromkeys(text.split()))[:1000]
    cannot = [w for w, ids in _ids(tokenizer, words).items() if unknown in ids]
    return f"{scored.count(unknown)} of {len(scored)} tokens, such as {' '.join(cannot[:5])[:60]}"


def _in_common(head: list[int], ids: list[int]) -> int:
    "How many tokens two lists have in common at their beginning."
    if ids[: len(head)] == head:
        return len(head)
    return next((n for n, (a, b) in enumerate(zip(head, ids)) if a != b), min(len(head), len(ids)))


def _all_written(conversation: Conversation, text: str) -> bool:
    "Does the text say what the messages say? An earlier answer that is not scored may be shortened."
    must = (
        m
        for k, m in enumerate(conversation.messages)
        if m["role"] != "assistant" or k in conversation.answers
    )
    missing = [m for m in must if m["content"] not in text]
    if not missing:
        return True
    squeezed = _squeezed(text)
    return all(
        _squeezed(m["content"]) in squeezed
        or (m["role"] == "tool" and _squeezed(json.dumps(m["content"], ensure_ascii=False)[1:-1]) in squeezed)
        for m in missing
    )


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _control_tokens(tokenizer, conversations, texts: list[Written]) -> re.Pattern | None:
    "The tokens that the template writes itself, where messages hold them as well; None where none does."
    special = _any_of(
        str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special
    )
    if special is None:
        return None
    contents = [[m["content"] for m in c.messages] for c in conversations]
    found = {token for said in contents for content in said for token in special.findall(content)}
    return _any_of(token for token in found if _is_written(token, contents, texts))


def _is_written(token: str, contents: list[list[str]], texts: list[Written]) -> bool:
    "Does the template write it more often than the messages hold it?"
    return any(
        text.count(token) > sum(content.count(token) for content in said)
        for said, text in zip(contents, texts)
        if isinstance(text, str)
    )


def _any_of(tokens: Iterable[str]) -> re.Pattern | None:
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
