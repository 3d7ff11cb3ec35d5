"Rows of other tools: what each of their columns, keys and roles becomes, and what is refused or counted."

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from made_rows import CALL, TOOLS, error, said

from ftguide.engine.formats import DataError
from ftguide.engine.rows import Row, question_key, read, repeated_prompts, request_key
from ftguide.engine.spellings import in_our_columns, not_read, transcript

TALK = said(("user", "Hi"), ("assistant", "Yes"))


def only(row, kind="sft"):
    (found,) = read([row], kind)
    return found


@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
def test_a_system_column_is_the_first_message(name):
    brief, hi = said(("system", "Brief.")), said(("user", "Hi"))
    assert only({name: "Brief.", "messages": TALK}) == dict(messages=brief + TALK)
    assert only({name: "Brief.", "prompt": "Hi", "completion": "Yes"})["prompt"] == brief + hi
    pair = {name: "Brief.", "prompt": "Hi", "chosen": "Yes", "rejected": "No"}
    assert only(pair, "pairs") == dict(prompt=brief + hi, chosen="Yes", rejected="No")
    assert only({name: "Brief.", "prompt": "Hi"}, "corpus") == dict(prompt=brief + hi)
    for nothing in ("", None, float("nan"), "  "):
        assert only({name: nothing, "messages": TALK}) == dict(messages=TALK)
    again = only({name: "Brief.", "messages": brief + TALK})
    assert again == dict(messages=brief + TALK) and only(again) == again
    assert "two different texts of the system" in error(read, [{name: "Other.", "messages": brief + TALK}])
    assert "must be text, found int" in error(read, [{name: 3, "messages": TALK}])
    repeated = dict(pair, chosen=[*hi, *said(("assistant", "Yes"))])  # the answers repeat the prompt alone
    assert only(repeated, "pairs")["chosen"] == said(("assistant", "Yes"))


def test_alpacas_history_stands_before_the_question():
    row = dict(instruction="And?", input="", output="Two.", history=[["How large?", "Small."]])
    earlier = said(("user", "How large?"), ("assistant", "Small."))
    assert only(row) == dict(prompt=[*earlier, *said(("user", "And?"))], completion="Two.")
    both = only(dict(row, system="Sell."))
    assert both["prompt"] == said(("system", "Sell.")) + earlier + said(("user", "And?"))
    assert only(dict(row, history=earlier))["prompt"][:2] == earlier
    assert only(dict(row, history=[])) == dict(prompt="And?", completion="Two.")
    assert only(dict(row, history=np.array([["How large?", "Small."]])))["prompt"][:2] == earlier
    kept = [dict(row, history=[[f"How large is {i}?", "Small."]]) for i in range(2)]
    assert len({question_key(r) for r in read(kept)}) == 2
    for wrong in ("x", [["a"]], [["a", 1]], 3):
        with pytest.raises(DataError, match="history"):
            read([dict(row, history=wrong)])
    with pytest.raises(DataError, match="'history' goes with a prompt"):
        read([dict(messages=TALK, history=[["a", "b"]])])


def test_tools_go_with_the_first_message_in_every_form():
    spellings = [dict(tools=TOOLS), dict(tools=json.dumps(TOOLS)), dict(functions=[TOOLS[0]["function"]])]
    for given in spellings:
        row = only(dict(given, messages=TALK))
        assert row == dict(messages=[dict(TALK[0], tools=TOOLS), TALK[1]]) and only(row) == row
        asked = only(dict(given, prompt="Hi", completion="Yes"))["prompt"]
        assert asked == [dict(role="user", content="Hi", tools=TOOLS)]
        assert request_key(asked) != request_key("Hi")
    for none in ([], None, "", "[]"):
        assert only(dict(tools=none, messages=TALK)) == dict(messages=TALK)
    assert Row(only(dict(tools=TOOLS, messages=TALK))).for_trl == dict(messages=TALK, tools=json.dumps(TOOLS))
    assert "not valid JSON" in error(read, [dict(tools="{", messages=TALK)])
    assert "a tool has no name" in error(read, [dict(tools=[{}], messages=TALK)])
    assert "must be a list of tools" in error(read, [dict(tools=3, messages=TALK)])


def test_calls_in_every_form_are_one():
    asked = said(("user", "Which?"))
    call = dict(role="assistant", content="", tool_calls=[CALL])
    arguments = json.dumps(CALL["function"]["arguments"])
    forms = [
        dict(role="assistant", content=None, tool_calls=[CALL]),
        dict(role="assistant", tool_calls=[CALL["function"]]),
        dict(role="assistant", tool_calls=json.dumps([CALL])),
        dict(role="assistant", content=None, function_call=dict(name="lookup", arguments=arguments)),
        {"from": "function_call", "value": json.dumps(CALL["function"])},
        dict(role="assistant", content=None, tool_calls=np.array([CALL])),
    ]
    for form in forms:
        assert only(dict(messages=[*asked, form])) == dict(messages=[*asked, call])
    row = Row(dict(messages=[*asked, call]))
    assert json.loads(row.answers[0]) == CALL["function"]
    assert "the last answer calls a tool" in error(lambda: row.reference)
    asked_only = dict(prompt=[*asked, call])
    for row, kind in ((asked_only, "corpus"), (dict(asked_only, completion="x"), "sft")):
        assert "the prompt ends with a call" in error(read, [row], kind)
    for wrong in (3, [3], [{}], [dict(name="f", arguments=3)], [dict(name="f", arguments="{")]):
        with pytest.raises(DataError, match="row 1.*call"):
            read([dict(messages=[*asked, dict(role="assistant", content="", tool_calls=wrong)])])


def test_what_a_table_invents_is_dropped_and_counted():
    "Rows of different calls come back from Parquet with each other's keys."
    first, second = ({"name": "f", "arguments": {key: 1}} for key in "ab")
    talk = lambda call: [*said(("user", "Hi")), dict(role="assistant", content="", tool_calls=[call])]
    table = pa.Table.from_pylist([dict(messages=talk(first)), dict(messages=talk(second))])
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    rows = pyarrow.parquet.read_table(file).to_pylist()
    assert "b" in rows[0]["messages"][1]["tool_calls"][0]["arguments"]  # it did invent one
    with pytest.warns(UserWarning, match=r"arguments of calls that are null \(2 of 2 rows\)"):
        found = read(rows)
    assert [m["messages"][1]["tool_calls"][0]["function"] for m in found] == [first, second]
    assert all(m.keys() == {"role", "content"} for m in (r["messages"][0] for r in found))
    from_pandas = read(table.to_pandas().to_dict("records"))
    assert from_pandas == found


def test_content_is_text_whatever_holds_it():
    parts = [dict(type="text", text="Which"), dict(text="colour?")]
    for content in (parts, ["Which", "colour?"], np.array(parts)):
        row = only(dict(messages=[dict(role="user", content=content), TALK[1]]))
        assert row["messages"][0] == dict(role="user", content="Which\ncolour?")
    gemini = [dict(role="user", parts=[dict(text="Hi")]), dict(role="model", parts=[dict(text="Yes")])]
    assert only(dict(messages=gemini)) == dict(messages=TALK)
    nova = dict(system=[dict(text="Sell.")], messages=[dict(role="user", content=[dict(text="Hi")]), TALK[1]])
    assert only(nova) == dict(messages=said(("system", "Sell.")) + TALK)
    result = dict(role="tool", content=dict(colour="blue"))
    row = only(dict(messages=[TALK[0], dict(role="assistant", tool_calls=[CALL]), result, TALK[1]]))
    assert row["messages"][2]["content"] == '{"colour": "blue"}'
    image = [dict(type="image_url", image_url="x")]
    for wrong, says in (
        (None, "message 1 .user.: content is null"),
        (image, "a part of type image_url; only text"),
        ([3], "a part of type int"),
        (dict(a=1), "content must be text, found dict"),
    ):
        with pytest.raises(DataError, match=says):
            read([dict(messages=[dict(role="user", content=wrong), TALK[1]])])
    with pytest.raises(DataError, match="column 'images' holds no text"):
        read([dict(messages=TALK, images=["a.png"])])
    assert only(dict(messages=TALK, images=[])) == dict(messages=TALK)


@pytest.mark.parametrize(
    "user, assistant", [("human", "gpt"), ("User", "Assistant"), ("user", "model"), ("prompter", "bot")]
)
def test_roles_of_others(user, assistant):
    assert only(dict(messages=said((user, "Hi"), (assistant, "Yes")))) == dict(messages=TALK)
    sharegpt = [{"from": user, "value": "Hi"}, {"from": assistant, "value": "Yes"}]
    assert only(dict(conversations=sharegpt)) == dict(messages=TALK)
    factory = dict(
        conversations=sharegpt[:1], chosen=sharegpt[1], rejected={"from": assistant, "value": "No"}
    )
    assert only(factory, "pairs") == dict(
        prompt=TALK[:1], chosen=TALK[1:], rejected=said(("assistant", "No"))
    )


def test_a_role_that_nobody_knows_is_named():
    for role in ("asistant", "narrator", "", 3, None, ["user"]):
        says = error(read, [dict(messages=[dict(role=role, content="x"), *TALK])])
        assert "message 1" in says and "expected system, user, assistant or tool" in says
    others = said(("developer", "Brief."), ("user", "Hi"), ("function", "3"), ("assistant", "Yes"))
    assert [m["role"] for m in only(dict(messages=others))["messages"]] == [
        "system", "user", "tool", "assistant",
    ]  # fmt: skip


@pytest.mark.parametrize("mark", ["weight", "loss_weight", "train", "trained", "loss_mask", "train_on_turn"])
def test_marks_say_yes_or_no(mark):
    talk = lambda value: dict(messages=[*TALK, TALK[0], dict(TALK[1], **{mark: value})])
    for value in (0, 0.0, False, "0", "false", "No"):
        (conversation,) = Row(only(talk(value))).conversations
        assert conversation.answers == (1,)
    for value in (1, True, "1", "true", None, float("nan")):
        assert Row(only(talk(value))).conversations[0].answers == (1, 3)
    for value in (0.5, 2, "half", [1]):
        assert f"{mark} is {value!r}" in error(read, [talk(value)])


def test_columns_with_a_meaning_elsewhere_are_counted():
    rows = [dict(messages=TALK, weight=2), dict(messages=TALK, chat_template_kwargs=dict(thinking=False))]
    assert [not_read(row) for row in rows] == [["column weight"], ["column chat_template_kwargs"]]
    with pytest.warns(UserWarning, match=r"column weight \(1 of 3 rows\), column chat_template_kwargs"):
        assert read([*rows, dict(messages=TALK, source="x")])[:2] == [dict(messages=TALK)] * 2


HUMAN = "\n\nHuman: Which colour?\n\nAssistant:"


def test_transcripts_are_conversations():
    asked = said(("user", "Which colour?"))
    assert transcript(HUMAN) == asked
    assert transcript("Human: a\n\nAssistant: b\n\nHuman: c\n\nd\n\nAssistant: e") == said(
        ("user", "a"), ("assistant", "b"), ("user", "c\n\nd"), ("assistant", "e")
    )
    for plain in ("Human: being", "Who said Human: x?\n\nAssistant: y", "", "Assistant: a\n\nHuman: b"):
        assert transcript(plain) is None
    blue, red = said(("assistant", "Blue.")), said(("assistant", "Red."))
    pair = dict(chosen=HUMAN + " Blue.", rejected=HUMAN + " Red.")
    for row in (dict(pair, prompt=HUMAN), pair):
        assert only(row, "pairs") == dict(prompt=asked, chosen=blue, rejected=red)
    assert only(dict(prompt=HUMAN, completion=" Blue.")) == dict(prompt=asked, completion="Blue.")
    longer = {name: f"{HUMAN} Any.\n\nHuman: One.\n\nAssistant: {name}" for name in ("chosen", "rejected")}
    assert only(longer, "pairs")["prompt"] == [*asked, *said(("assistant", "Any."), ("user", "One."))]
    assert "columns found: chosen, rejected" in error(read, [dict(chosen="a", rejected="b")], "pairs")
    other = dict(chosen=HUMAN + " Blue.", rejected="\n\nHuman: Else?\n\nAssistant: Red.")
    assert "columns found: chosen, rejected" in error(read, [other], "pairs")


def test_a_prompt_repeated_in_its_answer_is_seen():
    rows = [
        dict(prompt="Which colour is it?", completion="Which colour  is it? Blue."),
        dict(prompt="Which colour is it?", completion="Blue."),
        dict(prompt="Say yes", completion="Say yes, please"),  # too short to tell
        dict(prompt="Which colour is it?", completion="Which colour is it?"),  # asked to repeat
        dict(messages=said(("user", "a"), ("assistant", "b"), ("user", "Which is it now?"),
                           ("assistant", "which is it now? It is b."))),
        dict(prompt=said(("user", "Tell it."), ("assistant", "Once upon a time")), completion=" there was"),
    ]  # fmt: skip
    assert repeated_prompts([Row(row) for row in rows]) == [0, 4]
    pair = dict(prompt="Which colour is it?", chosen="Blue.", rejected="Which colour is it? Red.")
    assert repeated_prompts([Row(pair, "pairs")]) == [0]


def test_rows_that_need_nothing_stay_as_they_are():
    given = dict(prompt="Hi", completion="Yes", task="x", source=None)
    assert in_our_columns(given) == (given, {}) and not_read(given) == []
    row = dict(messages=TALK)
    assert in_our_columns(row)[0]["messages"][0] is TALK[0]
    unused = dict(prompt="Hi", completion="Yes", messages=[dict(role="user", content=None)])
    assert only(dict(unused, system="Brief.")) == dict(
        prompt=said(("system", "Brief."), ("user", "Hi")), completion="Yes"
    )
