"""Rows as other tools write them, in the columns, keys and roles of this guide"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial

from ftguide.engine.formats import ALIASES, DataError
from ftguide.engine.texts import is_blank

Messages = list[dict]  # role and content each

OURS = ("system", "user", "assistant", "tool")
ROLES = {  # what others call a role -> its name here
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "model", "bot", "chatbot", "ai", "function_call"), "assistant"),
    "developer": "system",
    **dict.fromkeys(("function", "observation", "tool_response", "ipython"), "tool"),
    **{role: role for role in OURS},
}
MARKS = (  # keys of a message: 0 or false says, do not learn this
    "weight",
    "loss_weight",
    "loss_mask",
    "loss",
    "train",
    "trained",
    "training",
    "trainable",
    "train_on_turn",
)
WRITTEN = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}  # marks as text
COLUMNS = {"conversations": "messages", "conversation": "messages", "functions": "tools"}
SYSTEM = ("system", "system_prompt", "system_message")  # columns that say what a system message says
SAID = {  # kind of data -> its columns that hold text or messages
    "sft": ("prompt", "completion", "messages"),
    "pairs": ("prompt", "chosen", "rejected"),
    "corpus": ("prompt", "completion"),
}
NOT_TEXT = ("image", "images", "video", "videos", "audio", "audios")
NOT_READ = ("weight", "sample_weight", "loss_weight", "chat_template_kwargs")  # they mean something elsewhere
OF_OTHERS = {*COLUMNS, *SYSTEM, *NOT_TEXT, *NOT_READ, "tools", "history"}


def in_our_columns(
    given: dict,
    kind: str = "sft",  # "sft", "pairs" or "corpus"
    where: str = "row",  # its address, for errors
) -> tuple[dict, dict]:  # the row; {a column's name here: the name it had}
    "A row with its columns renamed, and with all that others write beside the prompt put into messages."
    row, names = _renamed(given, kind)
    said = SAID[kind]
    if "prompt" in row and "completion" in row:
        said = tuple(name for name in said if name != "messages")  # the two say it
    for name in said:
        if name in row and not isinstance(row[name], str):
            row[name] = _messages(row[name], f"{where}: column {names.get(name, name)!r}", name == "messages")
    _read_transcripts(row, said)
    if not OF_OTHERS.isdisjoint(row):
        _read_columns_of_others(row, [name for name in ("prompt", "messages") if name in said], where)
    return row, names


def not_read(
    given: dict,  # a row as it was written
) -> list[str]:  # names of columns and keys
    "What a row holds that others give a meaning, and that reading leaves out."
    if not isinstance(given, dict):
        return []
    found = [f"column {name}" for name in NOT_READ if not _is_empty(given.get(name))]
    lists = [value for value in given.values() if isinstance(value, list)]
    if any(_has_null_arguments(m) for value in lists for m in value if isinstance(m, dict)):
        found.append("arguments of calls that are null")
    return found


def _renamed(given: dict, kind: str) -> tuple[dict, dict]:
    "Alpaca's `instruction` and the `input` it is about are one prompt; `input` may be empty."
    row, names = dict(given), {}
    asked, about = row.get("instruction"), row.get("input")
    if "prompt" not in row and isinstance(asked, str) and (about is None or isinstance(about, str)):
        row.pop("input", None)
        if is_blank(asked):
            row["instruction"] = about
        elif about and not is_blank(about):
            row["instruction"] = f"{asked}\n\n{about}"
    pairs = {"conversations": "prompt"} if kind == "pairs" else {}  # LLaMA-Factory's
    for old, new in (ALIASES | COLUMNS | pairs).items():
        if old in row and new not in row:
            row[new] = row.pop(old)
            names[new] = old
    return row, names


def _plain(value):
    "An array, as tables hold lists, as a list."
    return value.tolist() if hasattr(value, "tolist") else value


def _is_null(value) -> bool:
    "Null, or the number that tables write for it."
    return value is None or (isinstance(value, float) and value != value)


def _is_empty(value) -> bool:
    return _is_null(value) or (isinstance(value, (str, list, dict)) and not value)


# ---- messages


def _messages(value, where: str, alone: bool):
    "A column's value with its messages in our keys; what is none comes back as it is, to be refused."
    value = _plain(value)
    if _is_null(value):
        return None
    if isinstance(value, dict) and not alone:
        value = [value]  # one answer of a pair, as LLaMA-Factory writes it
    if not isinstance(value, list):
        return value
    return [
        _message(m, f"{where}, message {n}") if isinstance(m, dict) else m for n, m in enumerate(value, 1)
    ]


def _message(given: dict, where: str) -> dict:
    "A message with role and content; keys that are null, as a table invents them, are dropped."
    if given.keys() == {"role", "content"} and given["role"] in OURS and isinstance(given["content"], str):
        return given
    message = {key: value for key, value in given.items() if not _is_null(_plain(value))}
    for old, new in (("from", "role"), ("value", "content"), ("parts", "content")):
        if old in message and new not in message:
            message[new] = message.pop(old)
    _read_role(message, where)
    where = f"{where} ({message['role']})"
    _read_calls(message, where)
    for mark in MARKS:
        if mark in message:
            message[mark] = _mark(message[mark], f"{where}: {mark}")
    tools = _tools(message.pop("tools", None), f"{where}: tools")
    if tools:
        message["tools"] = tools
    message["content"] = _content(message, given, where)
    return message


def _read_role(message: dict, where: str):
    role = message.get("role")
    name = role.strip().lower() if isinstance(role, str) else None
    if name not in ROLES:
        found = "no role" if role is None else f"the role {str(role)[:40]!r}"
        raise DataError(f"{where}: {found}; expected system, user, assistant or tool")
    if name == "function_call" and isinstance(message.get("content"), str):  # ShareGPT's
        message["function_call"] = _json(message.pop("content"), f"{where}: the call")
    message["role"] = ROLES[name]


def _content(message: dict, given: dict, where: str) -> str:
    "The text of a message, whatever holds it."
    content = _plain(message.get("content"))
    if isinstance(content, str):
        return content
    if content is None:
        if message.get("tool_calls"):
            return ""
        missing = "is null" if not {"content", "value", "parts"}.isdisjoint(given) else "is missing"
        raise DataError(f'{where}: content {missing}; give it text, or "" beside tool_calls')
    if isinstance(content, list):
        return _joined(content, where)
    if isinstance(content, dict) and message["role"] == "tool":
        return json.dumps(content, ensure_ascii=False)  # a result that is an object
    raise DataError(f"{where}: content must be text, found {type(content).__name__}")


def _joined(parts: list, where: str) -> str:
    "The text of a list of parts; DataError names a part that is none."
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            kind = (
                part.get("type", ", ".join(map(str, part))) if isinstance(part, dict) else type(part).__name__
            )
            raise DataError(f"{where}: content holds a part of type {kind}; only text is trained")
        texts.append(text)
    return "\n".join(texts)


def _mark(value, where: str) -> bool:
    "Is a message to be learnt? DataError for a weight between."
    known = WRITTEN.get(value.strip().lower()) if isinstance(value, str) else value
    if known not in (0, 1):
        raise DataError(f"{where} is {value!r}; only 1 (learn this) and 0 (do not) can be trained")
    return bool(known)


# ---- calls and tools


def _read_calls(message: dict, where: str):
    "Calls of tools as transformers' templates take them; OpenAI's older `function_call` is one of them."
    calls, once = _plain(message.pop("tool_calls", None)), message.pop("function_call", None)
    calls = _json(calls, f"{where}: tool_calls") if isinstance(calls, str) and calls.strip() else calls
    if _is_empty(calls):
        calls = []
    if not isinstance(calls, list):
        raise DataError(f"{where}: tool_calls must be a list of calls, found {type(calls).__name__}")
    calls = calls if _is_empty(once) else [*calls, once]
    if calls:
        message["tool_calls"] = [_call(call, f"{where}: a call") for call in calls]


def _call(call, where: str) -> dict:  # type, function (name, arguments), id where there is one
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(f"{where} has no name; expected {{'function': {{'name': ..., 'arguments': ...}}}}")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str) and arguments.strip():
        arguments = _json(arguments, f"{where} of {function['name']}: arguments")
    if not isinstance(arguments or {}, dict):
        raise DataError(f"{where} of {function['name']}: arguments must be an object, with names")
    which = {"id": call["id"]} if call.get("id") is not None else {}
    asked = {"name": function["name"], "arguments": _without_nulls(arguments or {})}
    return {**which, "type": "function", "function": asked}


def _without_nulls(value):
    "A data frame gives each row the keys of all others, with null in them; a null argument is none."
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _has_null_arguments(message: dict) -> bool:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return False
    arguments = [_arguments(call) for call in calls if isinstance(call, dict)]
    return any(_without_nulls(one) != one for one in arguments)


def _arguments(call: dict):
    function = call.get("function", call)
    value = function.get("arguments") if isinstance(function, dict) else None
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return None


def _tools(value, where: str) -> list[dict]:
    "Descriptions of tools as transformers' templates take them; empty where there are none."
    value = _plain(_json(value, where) if isinstance(value, str) and value.strip() else value)
    tools = [] if _is_empty(value) else value
    if not isinstance(tools, list):
        raise DataError(f"{where} must be a list of tools, found {type(tools).__name__}")
    return [_tool(tool, where) for tool in tools]


def _tool(tool, where: str) -> dict:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(f"{where}: a tool has no name; expected {{'function': {{'name': ..., ...}}}}")
    return {"type": "function", "function": _without_nulls(function)}


def _json(text: str, where: str):
    try:
        return json.loads(text)
    except ValueError as e:
        raise DataError(f"{where}: not valid JSON ({e})") from None


# ---- transcripts


def transcript(
    text: str,
) -> Messages | None:  # None where it is no transcript
    "The messages of a text of the kind that begins with `Human:` and goes on with `Assistant:` (HH-RLHF's)."
    if "Human:" not in text[:20]:
        return None
    before, *turns = re.split(r"(?:\A|\n\s*\n)\s*(Human|Assistant):", text)
    if before.strip() or turns[0::2][:1] != ["Human"] or "Assistant" not in turns[0::2]:
        return None
    messages = [
        {"role": "user" if who == "Human" else "assistant", "content": said.strip()}
        for who, said in zip(turns[0::2], turns[1::2])
    ]
    last = messages[-1]
    return messages[:-1] if last["role"] == "assistant" and not last["content"] else messages


def _read_transcripts(row: dict, names: tuple[str, ...]):
    "A transcript becomes messages; pairs without a prompt have in common what was asked."
    for name in names:
        value = row.get(name)
        messages = transcript(value) if isinstance(value, str) else None
        if messages is None:
            continue
        row[name] = messages
        if name == "prompt":
            for answer in names[1:]:
                if isinstance(row.get(answer), str):
                    row[answer] = row[answer].lstrip()
    both = [row.get(name) for name in ("chosen", "rejected")]
    if "prompt" not in row and "chosen" in names and all(isinstance(one, list) for one in both):
        asked = _asked_by_both(*both)
        if asked:
            row["prompt"] = row["chosen"][:asked]


def _asked_by_both(chosen: Messages, rejected: Messages) -> int:
    "How many messages two conversations have in common before answers of the assistant; 0 where none."
    same = next(
        (n for n, (a, b) in enumerate(zip(chosen, rejected)) if a != b), min(len(chosen), len(rejected))
    )
    answers = (n for n in range(same, 0, -1) if _is_answer(chosen, n) and _is_answer(rejected, n))
    return next(answers, 0)


def _is_answer(messages: Messages, n: int) -> bool:
    return n < len(messages) and isinstance(messages[n], dict) and messages[n].get("role") == "assistant"


# ---- columns beside the prompt


def _read_columns_of_others(row: dict, asked: list[str], where: str):
    "`system`, `history` and `tools` go into the messages; what cannot be trained is refused."
    for name in NOT_TEXT:
        if not _is_empty(_plain(row.pop(name, None))):
            raise DataError(
                f"{where}: column {name!r} holds no text, and only text is trained; remove the row"
            )
    for name in NOT_READ:
        row.pop(name, None)
    if row.keys().isdisjoint(asked):
        return  # a document
    earlier = _history(row.pop("history", None), f"{where}: column 'history'")
    if earlier and not row.get("prompt"):
        raise DataError(f"{where}: column 'history' goes with a prompt; messages hold their earlier turns")
    if earlier:
        _change(row, ["prompt"], lambda said: _behind_system(said, earlier))
    for name in (name for name in SYSTEM if name in row):
        text = _system_text(row.pop(name), f"{where}: column {name!r}")
        if text:
            _change(row, asked, partial(_with_system, text, f"{where}: column {name!r}"))
    tools = _tools(row.pop("tools", None), f"{where}: column 'tools'")
    if tools:
        _change(row, asked, lambda said: [{**said[0], "tools": tools}, *said[1:]])


def _change(row: dict, names: list[str], how: Callable[[Messages], Messages]):
    "Change these columns, as messages; those that say nothing are refused later."
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and not is_blank(value):
            row[name] = how([{"role": "user", "content": value}])
        elif isinstance(value, list) and value and all(isinstance(m, dict) for m in value):
            row[name] = how(value)


def _behind_system(said: Messages, earlier: Messages) -> Messages:
    begins = 1 if said[0]["role"] == "system" else 0
    return [*said[:begins], *earlier, *said[begins:]]


def _with_system(text: str, where: str, said: Messages) -> Messages:
    if said[0]["role"] != "system":
        return [{"role": "system", "content": text}, *said]
    if said[0]["content"].strip() != text.strip():
        raise DataError(f"{where} and the first message are two different texts of the system; keep one")
    return said


def _system_text(value, where: str) -> str:
    value = _plain(value)
    if _is_empty(value):
        return ""
    if isinstance(value, list):
        value = _joined(value, where)
    if not isinstance(value, str):
        raise DataError(f"{where} must be text, found {type(value).__name__}")
    return "" if is_blank(value) else value


def _history(value, where: str) -> Messages:
    "Alpaca's earlier turns: pairs of question and answer; or messages. None of nothing."
    value = _plain(_json(value, where) if isinstance(value, str) and value else value)
    if _is_empty(value):
        return []
    if isinstance(value, list) and all(isinstance(m, dict) for m in value):
        return _messages(value, where, True)
    return list(_pairs(value, where))


def _pairs(value, where: str) -> Iterator[dict]:
    for pair in value if isinstance(value, list) else [value]:
        pair = _plain(pair)
        if (
            not isinstance(pair, (list, tuple))
            or len(pair) != 2
            or not all(isinstance(text, str) for text in pair)
        ):
            raise DataError(f"{where} must be a list of pairs of question and answer, as text")
        yield {"role": "user", "content": pair[0]}
        yield {"role": "assistant", "content": pair[1]}
