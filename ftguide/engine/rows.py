"""One reading of a row: prompt with completion, messages, pairs or text, and the spellings of other tools"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ftguide.engine.conversations import Conversation, answered, as_messages, is_learnt, learnt
from ftguide.engine.formats import ALIASES, KINDS, DataError, Source, addressed_rows
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
        columns, names = _renamed(given)
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
        return [m["content"] for m in self.columns["messages"] if is_learnt(m)]

    @property
    def turns(self) -> list[tuple[bool, str]]:
        "All that the row says, in order: (is it an answer?, text)."
        if self.is_conversation:
            return [(is_learnt(m), m["content"]) for m in self.columns["messages"]]
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
            return {"messages": self.columns["messages"]}
        answers = ("completion",) if self.kind == "sft" else ("chosen", "rejected")
        return {
            "prompt": _turn(self.columns["prompt"], "user"),
            **{name: _turn(self.columns[name], "assistant") for name in answers},
        }


def stream(
    source: Source,  # a file, several by a pattern, a list of dicts, a Dataset; owner/name:split of the hub
    kind: str = "sft",  # "sft", "pairs" or "corpus"
) -> Iterator[dict]:  # rows with the kind's columns, others kept
    "Checked rows one by one, so a file may exceed memory (a .json may not); DataError at the first bad row."
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    return _checked_rows(source, kind)


def _checked_rows(source: Source, kind: str) -> Iterator[dict]:
    empty = True
    for where, row in addressed_rows(source):
        yield Row.read(row, kind, where).columns
        empty = False
    if empty:
        raise no_rows(source)


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
    if isinstance(prompt, list) and [m["role"] for m in prompt] == ["user"]:
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
    return "\n\n".join(f"{m['role']}: {m['content']}" for m in prompt)


def as_text(
    value: str | Messages,
) -> str:
    "What a prompt or an answer says, whether it is text or messages."
    return value if isinstance(value, str) else "\n".join(m["content"] for m in value)


def answer_text(
    answer: str | Messages,
) -> str:
    "The last answer among messages, as text."
    if isinstance(answer, str):
        return answer
    return answer[min(last_answer(answer), len(answer) - 1)]["content"]


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


def _renamed(row: dict) -> tuple[dict, dict]:  # the row, {name of `KINDS`: the name it had}
    "Alpaca's `instruction` and the `input` it is about are one prompt; `input` may be empty."
    row, names = dict(row), {}
    asked, about = row.get("instruction"), row.get("input")
    if "prompt" not in row and isinstance(asked, str) and (about is None or isinstance(about, str)):
        row.pop("input", None)
        if is_blank(asked):
            row["instruction"] = about
        elif about and not is_blank(about):
            row["instruction"] = f"{asked}\n\n{about}"
    for old, new in ALIASES.items():
        if old in row and new not in row:
            row[new] = row.pop(old)
            names[new] = old
    return row, names


def _check_values(where: str, columns: dict, shape: tuple[str, ...], kind: str, names: dict):
    "DataError unless each column says something; an answer loses the prompt it repeats."
    answered = ("completion",) if kind == "corpus" and "completion" in columns else ()
    for name in shape + answered:
        _check_value(where, names.get(name, name), columns[name])
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
    if all(is_blank(messages[k]["content"]) for k in answers):
        raise DataError(f"{where}: no message of the assistant says anything; there is nothing to learn")
    for k in answers:
        if is_blank(messages[k]["content"]):
            raise DataError(
                f"{where}: message {k + 1}, of the assistant, is empty, "
                "and the model would learn to say nothing; fill it, or remove the row"
            )


def _answer_alone(where: str, column: str, prompt: str | Messages, answer: Messages) -> Messages:
    "An answer in messages without the prompt that some data sets repeat before it."
    asked = _turn(prompt, "user")
    repeated = all((a["role"], a["content"]) == (m["role"], m["content"]) for a, m in zip(asked, answer))
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
        said, texts = [m["content"] for m in value], [m[k] for m in value for k in ("content", "role")]
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
