"Rows, a model and wrong data that several test files share."

from types import SimpleNamespace

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from letters import Letters

from ftguide.engine.formats import KINDS
from ftguide.models import LM

TASKS = ("ad", "extraction", "sentiment", "summary", "arithmetic")
HI = dict(prompt="hi", completion="yo")  # u:hi.a:yo. in letters


talk = lambda *said: [dict(role="assistant" if i % 2 else "user", content=x) for i, x in enumerate(said)]


def said(*turns):
    "Messages of (role, text)."
    return [dict(role=role, content=text) for role, text in turns]


LOOKUP = {"name": "lookup", "parameters": {"type": "object", "properties": {"q": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": LOOKUP}]
CALL = {"type": "function", "function": {"name": "lookup", "arguments": {"q": "colour"}}}
WITH_TOOLS = (
    "{% if tools %}{{ '<|system|>' + tools | tojson + '<|end|>' }}{% endif %}"
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% for call in m.get('tool_calls', []) %}{{ '(' + call['function'] | tojson + ')' }}{% endfor %}"
    "{{ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)  # a chat template that writes tools and calls


def error(of, *args, **how):
    with pytest.raises(ValueError) as e:
        of(*args, **how)
    return str(e.value)


def small_model(dtype=torch.float32, positions=40, end=46, **more):
    "A model with eight weights, whose context is forty tokens."
    layer = torch.nn.Linear(4, 2, bias=False).to(dtype)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    text = SimpleNamespace(max_position_embeddings=positions)
    layer.config, layer.generation_config = (
        SimpleNamespace(get_text_config=lambda: text, _name_or_path="somewhere"),
        SimpleNamespace(eos_token_id=end),
    )
    for k, v in more.items():
        setattr(layer, k, v)
    return LM(layer, Letters(), "small")


def sft(*rows, **more):
    return [dict(prompt=q, completion=a, **more) for q, a in rows]


def pairs(*rows):
    return [dict(prompt=q, chosen=c, rejected=r) for q, c, r in rows]


ODD = [  # texts that look like others, like nothing, or like what somebody forgot
    *(
        "\u200b",
        "\ufeff \u00ad",
        "\u3164",
        "Cafe\u0301",
        "caf\u00e9 ",
        "[NAME]",
        "{name}",
        "TODO:",
        "NinguÃ©m",
        "\ufffd",
    ),
    *(
        "You are a helpful assistant.",
        "true",
        "0",
        "2.5",
        "11912345678",
        "GB29 NWBK 6016 1331 9268 19",
        "👍🏽",
        "है।",
    ),
]

any_text = st.text(st.characters(), max_size=40) | st.sampled_from(ODD)  # lone surrogates, controls included


names = (
    st.sampled_from(
        [
            "prompt",
            "completion",
            "chosen",
            "rejected",
            "messages",
            "text",
            "instruction",
            "input",
            "output",
            "task",
            "label",
            "score_chosen",
            "score_rejected",
            "system",
            "tools",
            "history",
            "conversations",
            "weight",
            "images",
            "",
        ]
    )
    | any_text
)


calls = st.lists(
    st.fixed_dictionaries({}, optional={"name": any_text, "arguments": any_text | st.just({"q": None})})
    | st.just(CALL)
    | any_text,
    max_size=2,
)
content = any_text | st.none() | st.lists(any_text | st.fixed_dictionaries({"text": any_text}), max_size=2)


message = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system", "tool", "Human", "gpt", "model"]) | any_text,
        "content": content,
    },
    optional={
        "weight": st.sampled_from([0, 1, "false", 0.5, None]),
        "name": any_text,
        "tool_calls": calls | st.none(),
        "function_call": calls.map(lambda some: some[0] if some else None),
        "tools": st.just(TOOLS) | any_text,
    },
)


beside = {  # columns that other tools write
    "system": any_text | st.none() | st.lists(st.fixed_dictionaries({"text": any_text}), max_size=2),
    "tools": st.just(TOOLS) | any_text | st.none(),
    "history": st.lists(st.lists(any_text, max_size=3) | message, max_size=2) | any_text,
    "weight": st.floats() | st.none(),
    "images": st.lists(any_text, max_size=1),
}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text | st.lists(message, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=6,
)


almost = st.dictionaries(names, values, max_size=5)


good = st.one_of(
    st.fixed_dictionaries({"prompt": any_text, "completion": any_text}),
    st.fixed_dictionaries({"prompt": any_text, "chosen": any_text, "rejected": any_text}),
    st.fixed_dictionaries({"messages": st.lists(message, min_size=1, max_size=4)}),
    st.fixed_dictionaries({"prompt": any_text, "completion": any_text}, optional=beside),
    st.fixed_dictionaries({"messages": st.lists(message, min_size=1, max_size=4)}, optional=beside),
    st.fixed_dictionaries({"text": any_text}),
)


any_rows = st.lists(good | almost | values, max_size=6)


any_kind = st.sampled_from(list(KINDS))


FUZZ = settings(max_examples=150)


ROW = {"prompt": "How much is 2 + 2?", "completion": "4"}
