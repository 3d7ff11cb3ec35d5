"Which tokens of a conversation are answers, by the turn they stand in; and what templates do to one."

import copy

import pytest
from made_rows import CALL, TOOLS, WITH_TOOLS, said
from transformers import AutoTokenizer

from ftguide.engine.conversations import (
    CONTROL,
    LEFT_OUT,
    REFUSED,
    REWRITTEN,
    UNREAD,
    Conversation,
    answered,
    in_tokens,
    is_learnt,
    learnt,
    says,
    tools_of,
    with_text_arguments,
    write_prompts,
)
from ftguide.engine.loading import shipped_folder
from ftguide.engine.tokens import KEPT, tokenised
from ftguide.models import prompt_text

CHATML = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)  # without marks, and with a line break behind the end token
FORGETS = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}"
    "{% if m['role'] == 'assistant' and not loop.last %}{{ m['content'].split('</think>')[-1] }}"
    "{% else %}{{ m['content'] }}{% endif %}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)  # leaves the reasoning out of earlier answers
DROPS = FORGETS.replace(" and not loop.last", "")  # and out of the last one


def tokenizer(template=None):
    own = AutoTokenizer.from_pretrained(shipped_folder("tiny"))
    own.chat_template = template or own.chat_template
    return own


def scored(own, conversation):
    (tokens,) = in_tokens(own, [conversation])
    return [own.decode(tokens.ids[first:end]) for first, end in tokens.answers], tokens


@pytest.mark.parametrize(
    "template, end", [(None, "<|end|>"), (CHATML, "<|end|>\n")], ids=["marks", "no marks"]
)
def test_answers_are_scored_to_the_end_of_their_turn_and_nobody_else_is(template, end):
    own = tokenizer(template)
    turns = said(
        ("system", "Brief."),
        ("user", "Hi"),
        ("assistant", "Yes"),
        ("user", "So?"),
        ("assistant", "No"),
        ("user", "?"),
    )
    found, tokens = scored(own, Conversation(turns, learnt(turns)))
    assert found == ["Yes" + end, "No" + end] and not tokens.faults and tokens.changed == 0
    assert [token for token in tokens.labels if token != -100] == tokens.scored
    assert list(tokens.mask) == [label != -100 for label in tokens.labels]
    several = answered(turns[:2], turns[2:])  # the same turns as a completion
    assert scored(own, several)[0] == found
    assert scored(own, answered(turns[:4], turns[4:]))[0] == ["No" + end]
    assert scored(own, answered("Hi", "Yes"))[0] == ["Yes" + end]


@pytest.mark.parametrize(
    "mark", [dict(weight=0), dict(train=False), dict(loss=0.0), dict(trainable=False)], ids=str
)
def test_an_answer_that_is_not_to_be_learnt_is_read_and_not_scored(mark):
    turns = said(("user", "Hi"), ("assistant", "Yes"), ("user", "So?"), ("assistant", "No"))
    turns[1] |= mark
    found, tokens = scored(tokenizer(), Conversation(turns, learnt(turns)))
    assert found == ["No<|end|>"] and "Yes" in tokenizer().decode(tokens.ids)
    assert is_learnt(dict(turns[1], **{name: 1 for name in mark})) and is_learnt(
        dict(turns[1], **dict.fromkeys(mark))
    )
    assert not is_learnt(dict(role="user", content="x", weight=1))


def test_a_greeting_is_an_answer():
    turns = said(("assistant", "Hello!"), ("user", "Hi"), ("assistant", "Yes"))
    for opening in ([], said(("system", "Hello!"))):
        talk = [*opening, *turns]
        assert scored(tokenizer(), Conversation(talk, learnt(talk)))[0] == ["Hello!<|end|>", "Yes<|end|>"]


@pytest.mark.parametrize("template", [None, CHATML], ids=["marks", "no marks"])
def test_an_answer_goes_on_where_the_prompt_begins_it(template):
    own = tokenizer(template)
    prompt = said(("user", "How?"), ("assistant", "Sure:"))
    found, tokens = scored(own, answered(prompt, " here it is"))
    (whole,) = in_tokens(own, [answered("How?", "Sure: here it is")])
    assert tokens.ids == whole.ids and found[0].strip().startswith("here it is<|end|>")
    assert prompt_text(own, prompt) + " here it is" in own.decode(tokens.ids)
    empty = answered(said(("user", "How?"), ("assistant", " ")), "So.")
    assert empty == answered("How?", "So.")


def test_an_answer_that_changes_once_others_follow_is_no_row_to_train():
    turns = said(
        ("user", "Hi"), ("assistant", "<a></think>Yes"), ("user", "So?"), ("assistant", "<b></think>No")
    )
    own = tokenizer(FORGETS)
    assert scored(own, Conversation(turns, learnt(turns)))[1].faults == (REWRITTEN, LEFT_OUT)
    assert scored(own, Conversation(turns, (3,)))[1].faults == ()  # what is not scored may be shortened
    assert scored(own, answered(turns[:3], turns[3:]))[0] == ["<b></think>No<|end|>"]
    (row,) = tokenised(own, [dict(messages=turns)])
    assert row.refused


def test_trls_form_of_a_known_template_keeps_what_was_said():
    from trl.chat_template_utils import qwen3_chat_template

    own = tokenizer(qwen3_chat_template)
    turns = said(("user", "Hi"), ("assistant", "Yes"), ("user", "So?"), ("assistant", "No"))
    (row,) = tokenised(own, [dict(messages=turns)])
    assert row.faults == (KEPT,) and not row.refused
    text = own.decode(row.parts[0].scored)
    assert text.count("<think>") == 2 and "So?" not in text
    (single,) = tokenised(own, [dict(messages=turns[:2])])
    assert single.faults == ()


def test_what_a_template_leaves_out_is_seen():
    own = tokenizer(DROPS)
    assert scored(own, answered("Hi", "a </think> b"))[1].faults == (LEFT_OUT,)
    rest = tokenizer().chat_template.split("%}", 1)[1]
    silent = tokenizer("{% for message in messages if message['role'] != 'system' %}" + rest)
    assert scored(silent, answered(said(("system", "Brief."), ("user", "Hi")), "Yes"))[1].faults == (
        LEFT_OUT,
    )
    trims = tokenizer(tokenizer().chat_template.replace("message['content']", "message['content'] | trim"))
    assert scored(trims, answered(" Hi\n", "\n Yes "))[1].faults == ()


def test_a_token_that_the_template_writes_itself_is_seen_in_a_text():
    own = tokenizer()
    assert scored(own, answered("a <|user|> b", "Yes"))[1].faults == (CONTROL,)
    assert scored(own, answered("Hi", "Yes<|end|> and"))[1].faults == (CONTROL,)
    assert scored(own, answered("a <|pad|> b", "Yes"))[1].faults == ()  # not one of the template's
    assert scored(own, answered("a <|other|> b", "Yes"))[1].faults == ()


def test_a_refused_conversation_does_not_keep_the_others_from_being_written():
    own = tokenizer("{% if messages[0].role != 'user' %}{{ raise_exception('order') }}{% endif %}" + CHATML)
    wrong = Conversation(said(("system", "x"), ("user", "Hi"), ("assistant", "Yes")), (2,))
    right = answered("Hi", "Yes")
    first, second, third = in_tokens(own, [right, wrong, right])
    assert second.faults == (REFUSED,) and second.why == "order" and not second.ids
    assert first == third and first.ids and copy.copy(first) == first


def with_call(tools=TOOLS):
    first = dict(role="user", content="Which?", **(dict(tools=tools) if tools else {}))
    call = dict(role="assistant", content="", tool_calls=[CALL])
    return [first, call, *said(("tool", "blue"), ("assistant", "Blue."))]


def test_tools_are_written_and_calls_are_answers():
    own, turns = tokenizer(WITH_TOOLS), with_call()
    found, tokens = scored(own, Conversation(turns, learnt(turns)))
    assert found == ['({"name": "lookup", "arguments": {"q": "colour"}})<|end|>', "Blue.<|end|>"]
    assert not tokens.faults and own.decode(tokens.ids).count("properties") == 1
    assert says(turns[1]) == '{"name": "lookup", "arguments": {"q": "colour"}}' and tools_of(turns) == TOOLS
    plain, other = said(("user", "Hi"), ("assistant", "Yes")), with_call([dict(TOOLS[0], strict=True)])
    together = in_tokens(own, [Conversation(t, learnt(t)) for t in (turns, plain, other, plain)])
    assert together[0] == tokens and together[1] == together[3] and "strict" in own.decode(together[2].ids)
    (asked,) = write_prompts(own, [turns[:3]])
    assert own.decode(tokens.ids).startswith(asked) and asked.endswith("<|assistant|>")


def test_tools_that_the_template_does_not_know_are_no_row_to_train():
    own = tokenizer()
    for turns, missing in (
        (with_call(), "the tool lookup"),
        (with_call(None), "the call of lookup"),
        ([dict(with_call()[0]), with_call()[3]], "the tool lookup"),
    ):
        tokens = scored(own, Conversation(turns, learnt(turns)))[1]
        assert tokens.faults == (LEFT_OUT,) and tokens.reason(LEFT_OUT) == missing
    refused, fine = write_prompts(own, [with_call()[:1], said(("user", "Hi"))])
    assert isinstance(refused, ValueError) and isinstance(fine, str)
    names_only = tokenizer(WITH_TOOLS.replace("call['function'] | tojson", "call['function']['name']"))
    tokens = scored(names_only, Conversation(with_call(), (1, 3)))[1]
    assert tokens.reason(LEFT_OUT) == "the argument 'colour' of a call"
    calls_only = tokenizer(WITH_TOOLS.replace("{% if tools %}", "{% if false %}"))
    assert scored(calls_only, Conversation(with_call(), (1, 3)))[1].reason(LEFT_OUT) == "the tool lookup"


def test_arguments_are_written_as_the_template_takes_them():
    as_text = WITH_TOOLS.replace(
        "call['function'] | tojson", "call['function']['name'] + call['function']['arguments']"
    )
    found, tokens = scored(tokenizer(as_text), Conversation(with_call(), (1, 3)))
    assert found[0] == '(lookup{"q": "colour"})<|end|>' and not tokens.faults
    once = with_text_arguments(with_call())
    assert once[1]["tool_calls"][0]["function"]["arguments"] == '{"q": "colour"}'
    assert with_text_arguments(once) == once


def test_keys_that_no_template_writes_are_named():
    turns = said(("user", "Hi"), ("assistant", "Yes"))
    turns[0]["name"] = "Ana"
    tokens = scored(tokenizer(), Conversation(turns, (1,)))[1]
    assert tokens.faults == (UNREAD,) and tokens.reason(UNREAD) == "name"
    names = tokenizer(WITH_TOOLS.replace("+ m['content']", "+ m.get('name', '') + m['content']"))
    assert scored(names, Conversation(turns, (1,)))[1].faults == ()
    thought = [turns[0], dict(turns[1], reasoning_content="It is polite.")]
    tokens = scored(tokenizer(), Conversation(thought, (1,)))[1]
    assert tokens.faults == (LEFT_OUT, UNREAD) and tokens.reason(LEFT_OUT) == "reasoning_content"
    (row,) = tokenised(tokenizer(), [dict(messages=turns)])
    row.check("row 1")  # a note
    assert row.reason(UNREAD) == "name"


def test_a_prompt_that_only_begins_the_answer_keeps_its_tools():
    prompt = [dict(role="assistant", content="So", tools=TOOLS)]
    conversation = answered(prompt, ", well")
    assert tools_of(conversation.messages) == TOOLS and conversation.begun == "So"
    assert scored(tokenizer(WITH_TOOLS), conversation)[0] == [", well<|end|>"]
