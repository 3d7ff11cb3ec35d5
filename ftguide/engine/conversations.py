"""A conversation in tokens: what the chat template makes of it, and which of the tokens are answers.

The one place where a conversation becomes tokens, for training, for the checks before it and for scoring."""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from ftguide.engine.formats import first_line
from ftguide.engine.spellings import MARKS
from ftguide.engine.texts import is_blank

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# what can be wrong with a conversation
REFUSED = "template refuses"
REWRITTEN = "answers change"
LEFT_OUT = "text left out"
CONTROL = "control tokens"
UNKNOWN = "unknown tokens"
UNREAD = "keys left out"

READ_HERE = {"role", "content", "tools", *MARKS}  # keys of a message that need not stand in the text
NAMED_BY_CALL = {"name"}  # of a tool's message, whose call has said it
THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # keys under which an answer holds what led to it
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


def says(
    message: dict,
) -> str:
    "The text of a message, and its calls of tools as JSON."
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls") or ()]
    return "\n".join([message["content"], *calls] if message["content"] else calls)


def says_something(
    message: dict,
) -> bool:
    "Is there text in it, or a call of a tool?"
    return not is_blank(message["content"]) or bool(message.get("tool_calls"))


def tools_of(
    messages: list[dict],
) -> list[dict]:  # as transformers' templates take them
    "The tools that a conversation may call: the key `tools` of any of its messages, each once."
    found = [tool for m in messages if "tools" in m for tool in m["tools"]]
    return [tool for n, tool in enumerate(found) if tool not in found[:n]]


def without_tools(
    messages: list[dict],
) -> list[dict]:
    "The messages alone."
    return _without_key(messages, "tools")


def _without_key(messages: list[dict], key: str) -> list[dict]:
    if not any(key in m for m in messages):
        return messages
    return [{name: value for name, value in m.items() if name != key} for m in messages]


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
    first = asked.pop()
    begun = "" if is_blank(first["content"]) else first["content"]
    tools = {"tools": first["tools"]} if "tools" in first else {}
    said[0] = {**said[0], **tools, "content": begun + said[0]["content"]}
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
    left_out: str = ""  # what a message says and the text does not
    unread: str = ""  # keys of messages that the template does not write

    def reason(self, fault: str) -> str:
        "What exactly is wrong, where that is known."
        known = {REFUSED: self.why, UNKNOWN: self.why, LEFT_OUT: self.left_out, UNREAD: self.unread}
        return known.get(fault, "") if fault in self.faults else ""

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
    left_out = [_left_out(tokenizer, c, text, how) for c, text in zip(conversations, whole)]
    return [
        _tokens(tokenizer, conversation, text, of_turns, ids, control, missing)
        for conversation, text, of_turns, missing in zip(conversations, whole, texts, left_out)
    ]


def write(
    tokenizer: PreTrainedTokenizerBase,
    conversations: list[list[dict]],
    **how,  # of `apply_chat_template`
) -> list[Written]:
    "Each conversation as text, with the tools it may call."
    tools = list(map(tools_of, conversations))
    if not any(tools):
        return _write(tokenizer, conversations, **how)
    written: list[Written] = [""] * len(conversations)
    for some in [one for n, one in enumerate(tools) if one not in tools[:n]]:
        numbers = [n for n, one in enumerate(tools) if one == some]
        given = {"tools": some} if some else {}
        texts = _write(tokenizer, [without_tools(conversations[n]) for n in numbers], **given, **how)
        for n, text in zip(numbers, texts):
            written[n] = text
    return written


def _write(tokenizer, conversations: list[list[dict]], **how) -> list[Written]:
    if not conversations:
        return []
    try:
        return tokenizer.apply_chat_template(conversations, tokenize=False, **how)
    except Exception as e:
        if len(conversations) > 1:
            return [_write(tokenizer, [one], **how)[0] for one in conversations]
        as_text = with_text_arguments(conversations[0])
        return [e] if as_text == conversations[0] else _write(tokenizer, [as_text], **how)


def with_text_arguments(
    messages: list[dict],
) -> list[dict]:
    "Arguments of calls as JSON, which OpenAI's API and some templates take."
    return [
        {**m, "tool_calls": list(map(_with_text_arguments, m["tool_calls"]))} if "tool_calls" in m else m
        for m in messages
    ]


def _with_text_arguments(call: dict) -> dict:
    function = call["function"]
    if isinstance(function["arguments"], str):
        return call
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def write_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[dict]],
) -> list[Written]:
    "Each prompt as the model is asked it; a ValueError where the template leaves tools or calls out."
    texts: list[Written] = [""] * len(prompts)
    for begun in (False, True):
        numbers = [n for n, prompt in enumerate(prompts) if _begins_answer(prompt) == begun]
        some = [prompts[n] for n in numbers]
        for n, text in zip(numbers, write(tokenizer, some, **prompt_settings(begun))):
            missing = _calls_left_out(tokenizer, prompts[n], text, prompt_settings(begun))
            texts[n] = ValueError(f"it leaves out {missing}") if missing else text
    return texts


def _begins_answer(prompt: list[dict]) -> bool:
    return bool(prompt) and prompt[-1]["role"] == "assistant"


def prompt_settings(
    begun: bool,  # does the prompt begin the answer?
) -> dict:  # of `apply_chat_template`
    "How a prompt is written: a new answer is asked for, or one that the prompt begins is gone on with."
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
        before, answer = conversations[n].messages[:k], conversations[n].messages[k]
        begun = _begun(conversations[n], k)
        if begun:
            tools = {"tools": answer["tools"]} if "tools" in answer else {}
            before = [*before, {"role": "assistant", "content": begun, **tools}]
        elif not any(m["role"] == "user" for m in before):
            found[i] = _before_words(said[i], answer)
            continue
        questions[bool(begun)].append((i, before))
    for is_begun, some in questions.items():
        numbers, prompts = zip(*some) if some else ((), ())
        texts = write(tokenizer, list(prompts), **prompt_settings(is_begun), **how)
        for i, text in zip(numbers, texts):
            found[i] = text
    return found


def _begun(conversation: Conversation, k: int) -> str:
    return conversation.begun if k == conversation.answers[0] else ""


def _before_words(text: Written, greeting: dict) -> Written:
    "Nobody asks for a greeting, and no template writes a prompt of nothing: its words say where it begins."
    calls = greeting.get("tool_calls") or [{"function": {"name": ""}}]
    words = greeting["content"].strip() or calls[0]["function"]["name"]
    return text if isinstance(text, Exception) else text[: max(text.rfind(words), 0)]


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
    left_out: tuple[str, str],  # what the text does not say; keys that are not written
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
        LEFT_OUT: left_out[0],
        CONTROL: control and any(map(control.search, map(says, conversation.messages))),
        UNKNOWN: unknown,
        UNREAD: left_out[1],
    }
    faults = tuple(name for name, is_so in wrong.items() if is_so)
    return Tokens(array("i", whole), tuple(answers), changed, faults, unknown, *left_out)


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


def _left_out(tokenizer, conversation: Conversation, text: Written, how: dict) -> tuple[str, str]:
    "What a message says and the text does not; keys of messages that the template does not write."
    if isinstance(text, Exception):
        return "", ""
    messages, answers = conversation.messages, conversation.answers
    missing = _text_left_out(conversation, text) or _calls_left_out(tokenizer, messages, text, how)
    keys = {key for m in messages for key in (m.keys() - NAMED_BY_CALL if m["role"] == "tool" else m)}
    keys -= READ_HERE | {"tool_calls", "tool_call_id"}
    written = {key: write(tokenizer, [_without_key(messages, key)], **how) for key in sorted(keys)}
    unread = [key for key, texts in written.items() if texts == [text]]
    lost = [key for key in unread if key in THOUGHTS and any(messages[k].get(key) for k in answers)]
    return missing or ", ".join(lost), ", ".join(key for key in unread if key not in lost)


def _text_left_out(conversation: Conversation, text: str) -> str:
    "The first message whose text is missing; an earlier answer that is not scored may be shortened."
    must = [
        (n, m)
        for n, m in enumerate(conversation.messages)
        if m["role"] != "assistant" or n in conversation.answers
    ]
    missing = [(n, m) for n, m in must if m["content"] not in text]
    squeezed = _squeezed(text) if missing else ""
    for n, m in missing:
        spellings = _spellings(m["content"]) if m["role"] == "tool" else [m["content"]]
        if not any(_is_in(one, squeezed) for one in spellings):
            return f"message {n + 1}, of the {m['role']}: {' '.join(m['content'].split())[:40]!r}"
    return ""


def _calls_left_out(tokenizer, messages: list[dict], text: Written, how: dict) -> str:
    "The first tool, call or argument that the text does not hold; a name is counted with and without it."
    tools, calls = tools_of(messages), [call for m in messages for call in m.get("tool_calls") or ()]
    if isinstance(text, Exception) or not tools + calls:
        return ""
    for what, some, key in (("the tool", tools, "tools"), ("the call of", calls, "tool_calls")):
        (bare,) = write(tokenizer, [_without_key(messages, key)], **how) if some else ("",)
        before = "" if isinstance(bare, Exception) else bare
        for name, times in Counter(one["function"]["name"] for one in some).items():
            if text.count(name) < before.count(name) + times:
                return f"{what} {name}"
    squeezed = _squeezed(text)
    said = (value for call in calls for value in _texts_in(call["function"]["arguments"]))
    missing = [value for value in said if not any(_is_in(one, squeezed) for one in _spellings(value))]
    return f"the argument {missing[0][:40]!r} of a call" if missing else ""


def _texts_in(value) -> Iterator[str]:
    "All texts inside nested lists and objects."
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(inner)


def _spellings(text: str) -> list[str]:
    "As it stands, and within JSON."
    return [text, *(json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True))]


def _is_in(text: str, squeezed: str) -> bool:
    return _squeezed(text) in squeezed


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _control_tokens(tokenizer, conversations, texts: list[Written]) -> re.Pattern | None:
    "The tokens that the template writes itself, where messages hold them as well; None where none does."
    special = _any_of(
        str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special
    )
    if special is None:
        return None
    contents = [list(map(says, c.messages)) for c in conversations]
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
