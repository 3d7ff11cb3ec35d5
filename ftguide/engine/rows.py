"""One reading of a row: prompt with completion, messages, pairs or text, and the spellings of other tools"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ftguide.engine.conversations import (
    Conversation,
    answered,
    as_messages,
    is_learnt,
    learnt,
    says,
    says_something,
    tools_of,
    without_tools,
)
from ftguide.engine.formats import KINDS, DataError, Source, addressed_rows
from ftguide.engine.spellings import in_our_columns, not_read
from ftguide.engine.texts import is_blank, normalised_text

Messages = list[dict]  # role and content each


@dataclass(frozen=True)
class Row:
    "What a row asks and answers, whatever its columns are called; data stays dicts, code looks in here."

    columns: dict  # as TRL knows them: prompt, completion, chosen, rejected, messages, text; others are kept
    kind: str = "sft"  # "sft", "pairs" or "corpus"

    @classmethod
    def read(cls, given: dict | DataError, kind: str = "sft", where: str = "row") -> Row:
        "The row with its columns renamed; DataError, beginning with `where`, when it cannot be used."
        if isinstance(given, DataError):
            raise given
        if not isinstance(given, dict):
            raise DataError(f"{where}: expected an object with columns, found {type(given).__name__}")
        columns, names = in_our_columns(given, kind, where)
        shape = next((shape for shape in KINDS[kind] if all(name in columns for name in shape)), None)
        if shape is None:
            found = ", ".join(str(name)[:40] for name in list(given)[:20]) or "none"
            wanted = " or ".join(", ".join(shape) for shape in KINDS[kind])
            raise DataError(f"{where}: columns found: {found}; expected: {wanted}")
        others = {name for other in KINDS[kind] for name in other if name not in shape}
        columns = {name: value for name, value in columns.items() if name not in others}
        _check_values(where, columns, shape, kind, names)
        return cls(columns, kind)

    @property
    def is_conversation(self) -> bool:
        "Is it one list of messages, the answers among them?"
        return self.kind == "sft" and "messages" in self.columns

    @property
    def request(self) -> str | Messages:
        "What a model is given: the prompt as it stands, all messages before the last answer, or the text."
        if "prompt" in self.columns:
            return self.columns["prompt"]
        if "messages" in self.columns:
            messages = self.columns["messages"]
            return messages[: last_answer(messages)]
        return self.columns["text"]

    @property
    def reference(self) -> str:
        "The last answer, as text."
        columns = self.columns
        return answer_text(columns["completion"] if "completion" in columns else columns["messages"])

    @property
    def question(self) -> str:
        "The prompt as text; of messages, all before the first answer to a user (a greeting answers nobody)."
        columns = self.columns
        if "prompt" in columns:
            return as_text(columns["prompt"])
        if "messages" in columns:
            return as_text(_beginning(columns["messages"]))
        if "text" in columns:
            return columns["text"]
        found = ", ".join(str(name)[:40] for name in columns) or "nothing"
        raise DataError(f"a row has no prompt, messages or text, only {found}; read() checks rows")

    @property
    def answers(self) -> list[str]:
        "The answers as text: every turn of the assistant, or chosen and rejected; none of a corpus."
        if self.kind == "corpus":
            return []
        if self.kind == "pairs":
            return [as_text(self.columns["chosen"]), as_text(self.columns["rejected"])]
        if "completion" in self.columns:
            return [as_text(self.columns["completion"])]
        return [says(m) for m in self.columns["messages"] if is_learnt(m)]

    @property
    def turns(self) -> list[tuple[bool, str]]:
        "All that the row says, in order: (is it an answer?, text)."
        if self.is_conversation:
            return [(is_learnt(m), says(m)) for m in self.columns["messages"]]
        return [(False, self.question), *((True, answer) for answer in self.answers)]

    @property
    def whole_text(self) -> str:
        "All that the row says, as it stands."
        return "\n".join(text for _, text in self.turns)

    @property
    def system_texts(self) -> list[str]:
        "What the system says in it."
        messages = self.columns.get("messages", self.columns.get("prompt"))
        if not isinstance(messages, list):
            return []
        return [m["content"] for m in messages if m["role"] in ("system", "developer")]

    @property
    def conversations(self) -> list[Conversation]:
        "As a chat template writes it: one conversation, of a pair one with each answer."
        if self.is_conversation:
            messages = self.columns["messages"]
            return [Conversation(messages, learnt(messages))]
        answers = ("chosen", "rejected") if self.kind == "pairs" else ("completion",)
        return [answered(self.columns["prompt"], self.columns[name]) for name in answers]

    @property
    def prompt_and_answer(self) -> tuple[str | Messages, str | Messages]:
        "Of a labelled row, what stands before its first answer, and all from there on."
        if not self.is_conversation:
            return self.columns["prompt"], self.columns["completion"]
        messages = self.columns["messages"]
        first = learnt(messages)[0]
        return messages[:first], messages[first:]

    @property
    def for_trl(self) -> dict:
        "Only what TRL reads, as messages."
        if self.is_conversation:
            return _for_trl({"messages": self.columns["messages"]})
        answers = ("completion",) if self.kind == "sft" else ("chosen", "rejected")
        turns = {name: _turn(self.columns[name], "assistant") for name in answers}
        return _for_trl({"prompt": _turn(self.columns["prompt"], "user"), **turns})


def stream(
    source: Source,  # a file, several by a pattern, a list of dicts, a Dataset; owner/name:split of the hub
    kind: str = "sft",  # "sft", "pairs" or "corpus"
) -> Iterator[dict]:  # rows with the kind's columns, others kept
    "Checked rows one by one, so a file may exceed memory (a .json may not); DataError at the first bad row."
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    return _checked_rows(source, kind)


def _checked_rows(source: Source, kind: str) -> Iterator[dict]:
    n, left_out = 0, Counter()
    for where, row in addressed_rows(source):
        yield Row.read(row, kind, where).columns
        n += 1
        left_out.update(not_read(row))
    if not n:
        raise no_rows(source)
    if left_out:
        some = ", ".join(f"{what} ({count} of {n} rows)" for what, count in left_out.items())
        warnings.warn(f"what the rows hold is not all read; left out: {some}", stacklevel=2)


def no_rows(source: Source) -> DataError:
    return DataError(f"{source if isinstance(source, (str, Path)) else 'the data'}: no rows")


def read(
    source: Source,  # as in `stream`
    kind: str = "sft",  # "sft", "pairs" or "corpus"
) -> list[dict]:  # rows with the kind's columns, others kept
    "Read and check rows; DataError names the first bad one."
    return list(stream(source, kind))


def question_key(row: dict) -> str:
    """What a row asks, to find the same question elsewhere.

    How its conversation begins, up to the first answer, without the system's message, in any case and
    spacing; of a row without a prompt, its text.
    """
    turns = row["messages"] if "messages" in row else row.get("prompt")
    if not isinstance(turns, list):
        return normalised_text(Row(row).question)
    turns = [m for m in turns if m["role"] != "system"]
    return normalised_text(as_text(_beginning([*turns, {"role": "assistant", "content": ""}])))


def same_question(a: dict, b: dict) -> bool:
    "Do two rows ask the same, so that one in training and one in a test would be a leak?"
    return question_key(a) == question_key(b)


def without_questions(
    rows: list[dict],
    elsewhere: list[dict],  # rows of a test, or of another stage
) -> list[dict]:
    "The rows whose question is asked nowhere in `elsewhere`."
    known = set(map(question_key, elsewhere))
    return [row for row in rows if question_key(row) not in known]


def question_spellings(row: dict) -> set[str]:
    "How a question may stand where only text is kept: its key, the whole conversation, the last turn."
    request = Row(row).request
    last = [m["content"] for m in as_messages(request)[-1:]]
    return {question_key(row), *map(normalised_text, [conversation_text(request), *last])}


def request_key(
    prompt: str | Messages,
) -> str:
    "Equal for prompts that a model reads alike: every message counts, a text is one message of the user."
    if isinstance(prompt, list) and [m["role"] for m in prompt] == ["user"] and not tools_of(prompt):
        prompt = prompt[0]["content"]
    if isinstance(prompt, list):
        prompt = [{"role": m["role"], "content": m["content"], **m} for m in prompt]
    return json.dumps(prompt, ensure_ascii=False)


def conversation_text(
    prompt: str | Messages,
) -> str:
    "A whole conversation as text, as people and judges read it."
    if isinstance(prompt, str):
        return prompt
    if [m["role"] for m in prompt] == ["user"]:
        return prompt[0]["content"]
    return "\n\n".join(f"{m['role']}: {says(m)}" for m in prompt)


MOST = 0.5  # share of rows that repeat their prompt from which on that is no accident


def repeated_prompts(
    rows: list[Row],  # of "sft" or "pairs"
) -> list[int]:  # numbers of the rows
    "Rows in which an answer begins with the words that asked for it, and goes on."
    return [n for n, row in enumerate(rows) if any(map(_repeats, row.conversations))]


def _repeats(conversation: Conversation, least: int = 12) -> bool:  # characters of the question
    messages, answers = conversation.messages, conversation.answers
    turns = [(messages[k - 1]["content"], messages[k]["content"]) for k in answers if k]
    turns = [] if conversation.begun else turns
    both = [tuple(map(normalised_text, turn)) for turn in turns if len(turn[1]) > len(turn[0]) >= least]
    return any(said.startswith(asked) and said != asked and len(asked) >= least for asked, said in both)


def as_text(
    value: str | Messages,
) -> str:
    "What a prompt or an answer says, whether it is text or messages."
    return value if isinstance(value, str) else "\n".join(map(says, value))


def answer_text(
    answer: str | Messages,
) -> str:
    "The last answer among messages, as text; DataError for a call of a tool: each model words it otherwise."
    if isinstance(answer, str):
        return answer
    last = answer[min(last_answer(answer), len(answer) - 1)]
    if last.get("tool_calls"):
        raise DataError(
            f"the last answer calls a tool ({says(last)[:80]}), and answers are compared as text; "
            "end the row with what the assistant says to the tool's result"
        )
    return last["content"]


def last_answer(
    messages: Messages,
) -> int:  # after the end when there is none
    "Where the last answer stands that is to be learnt."
    return max(learnt(messages), default=len(messages))


def _turn(value: str | Messages, role: str) -> Messages:
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def _beginning(messages: Messages) -> Messages:
    "What stands before the first answer to a user; before the first answer where no user is answered."
    roles = [m["role"] for m in messages]
    user = roles.index("user") if "user" in roles else 0
    if "assistant" in roles[user:]:
        return messages[: roles.index("assistant", user)]
    return messages[: roles.index("assistant")] if "assistant" in roles else messages


def _for_trl(row: dict) -> dict:
    "Tools in a column of their own, as TRL reads them; as text, because a table would mix their keys."
    tools = [tool for messages in row.values() for tool in tools_of(messages)]
    if not tools:
        return row
    bare = {name: without_tools(messages) for name, messages in row.items()}
    return {**bare, "tools": json.dumps(tools, ensure_ascii=False)}


def _check_values(where: str, columns: dict, shape: tuple[str, ...], kind: str, names: dict):
    "DataError unless each column says something; an answer loses the prompt it repeats."
    answered = ("completion",) if kind == "corpus" and "completion" in columns else ()
    for name in shape + answered:
        _check_value(where, names.get(name, name), columns[name])
    asked = columns.get("prompt")
    if isinstance(asked, list) and asked[-1].get("tool_calls"):
        raise DataError(f"{where}: the prompt ends with a call of a tool; the result of the call is missing")
    for name in shape[1:]:
        if isinstance(columns[name], list):
            column = names.get(name, name)
            columns[name] = _answer_alone(where, column, columns["prompt"], columns[name])
            _check_value(where, column, columns[name])
            _check_answers(where, columns[name])
    if shape == ("messages",):
        _check_answers(where, columns["messages"])
    if kind == "pairs" and as_text(columns["chosen"]) == as_text(columns["rejected"]):
        raise DataError(f"{where}: chosen and rejected are the same; there is nothing to prefer")


def _check_answers(where: str, messages: Messages):
    "DataError unless there is an answer to learn, and each of them says something."
    answers = learnt(messages)
    if not any(says_something(messages[k]) for k in answers):
        raise DataError(f"{where}: no message of the assistant says anything; there is nothing to learn")
    for k in answers:
        if k and messages[k - 1]["role"] == "assistant":
            raise DataError(
                f"{where}: message {k + 1} is of the assistant, and so is the one before it; "
                "make one message of both, or put what was said between them there"
            )
        if not says_something(messages[k]):
            raise DataError(
                f"{where}: message {k + 1}, of the assistant, is empty, "
                "and the model would learn to say nothing; fill it, or remove the row"
            )


def _answer_alone(where: str, column: str, prompt: str | Messages, answer: Messages) -> Messages:
    "An answer in messages without the prompt that some data sets repeat before it."
    asked = _turn(prompt, "user")
    if answer[0]["role"] != "system":
        asked = [m for m in asked if m["role"] != "system"]
    repeated = all((a["role"], says(a)) == (m["role"], says(m)) for a, m in zip(asked, answer))
    if repeated and len(asked) < len(answer):
        answer = answer[len(asked) :]
    role = answer[0]["role"]
    if role in ("user", "system"):
        raise DataError(
            f"{where}: column {column!r} begins with a message of the {role} that is not the prompt; "
            "it must hold the answer alone"
        )
    return answer


def _check_value(where: str, column: str, value):
    "DataError unless a value is text or messages that say something, in characters that exist."
    if isinstance(value, str) and column != "messages":
        said = texts = [value]
    elif column != "text" and _are_messages(value):
        said, texts = list(map(says, value)), list(map(_all_of, value))
    elif value is None:
        said = texts = []
    else:
        shapes = {"text": "text", "messages": "a list of messages"}
        shape = shapes.get(column, "text or a list of messages")
        raise DataError(f"{where}: column {column!r} must be {shape}, found {type(value).__name__}")
    if all(map(is_blank, said)):
        raise DataError(f"{where}: column {column!r} is empty; fill it or remove the row")
    for text in texts:
        _check_characters(where, column, text)


def _all_of(message: dict) -> str:
    "Whatever a template could write of it."
    if message.keys() == {"role", "content"}:
        return message["content"]
    return json.dumps(message, ensure_ascii=False, default=str)


def _are_messages(value) -> bool:
    return isinstance(value, list) and all(
        isinstance(m, dict) and isinstance(m.get("content"), str) and isinstance(m.get("role"), str)
        for m in value
    )


def _check_characters(where: str, column: str, text: str):
    "DataError where half a character (a surrogate from a wrong conversion) would stop the tokenizer."
    try:
        text.isascii() or text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise DataError(
            f"{where}: column {column!r} holds half a character ({text[e.start]!a} at {e.start}); "
            "write the file again as UTF-8"
        ) from None
