"For rows of every shape: the tokens that `check` says are scored are those that a trainer's batch scores."

import contextlib
import json
import re
from functools import partial

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from made_rows import CALL, TOOLS, WITH_TOOLS

import ftguide.engine.run as run
from ftguide.distillation import distill
from ftguide.dpo import align_dpo, align_kto
from ftguide.engine.checks import Sheet, template_faults
from ftguide.engine.rows import Row, read
from ftguide.engine.tokens import tokenised
from ftguide.engine.trainers import DPOTrainer, KTOTrainer
from ftguide.models import load
from ftguide.sft import finetune_sft

MODEL = load("tiny-small")
WITHOUT_MARKS = MODEL.copy()
WITHOUT_MARKS.tokenizer.chat_template = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
CALLING = MODEL.copy()
CALLING.tokenizer.chat_template = WITH_TOOLS


class Stop(Exception):
    "The trainer that a stage has built, before its first step."


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    def stop(trainer, *args, **kwargs):
        raise Stop(trainer)

    monkeypatch.setattr(run, "fit", stop)
    for trainer in (DPOTrainer, KTOTrainer):
        monkeypatch.setattr(trainer, "_precompute_ref_logps", lambda self, dataset, name, size: dataset)


# what others say is in other letters than what the assistant says
asked_words = st.text(st.sampled_from("abc é?,\n7"), min_size=1, max_size=12).filter(str.strip)
said_words = st.text(st.sampled_from("xyz ü!;\n3"), min_size=1, max_size=12).filter(str.strip)
SAID = re.compile("[xyzü!;3]")
ASKED = re.compile("[abcé?,7]")
ROLES = {"user": ["user", "human", "User"], "assistant": ["assistant", "gpt", "model"]}


def in_parts(text):
    return [{"type": "text", "text": text}]


def turn(role, marks=({},)):
    said = said_words if role == "assistant" else asked_words
    content = st.one_of(said, said, said.map(in_parts))
    named = st.sampled_from(ROLES.get(role, [role]))
    return st.builds(
        lambda name, text, more: dict(role=name, content=text, **more), named, content, st.sampled_from(marks)
    )


unlearnt = ({}, {}, dict(weight=0), dict(weight=1), dict(train=False), dict(loss_mask="0"))
exchange = st.tuples(turn("user"), turn("assistant"))
rounds = st.lists(exchange, max_size=2).map(lambda pairs: [m for pair in pairs for m in pair])
opening = st.one_of(st.just([]), turn("system").map(lambda m: [m]))
asked = st.builds(lambda a, b, c: [*a, *b, c], opening, rounds, turn("user"))
prompt = st.one_of(
    asked_words,
    asked_words.map(lambda text: f"\n\nHuman: {text}\n\nAssistant:"),
    asked,
    st.builds(lambda a, b: [*a, b], asked, turn("assistant")),
)
inside = st.lists(
    st.tuples(turn("assistant", unlearnt), st.one_of(turn("user"), turn("tool"))), max_size=2
).map(lambda pairs: [m for pair in pairs for m in pair])
answer = st.one_of(
    said_words,
    st.builds(lambda a, b, c: [*a, b, *c], inside, turn("assistant"), st.lists(turn("user"), max_size=1)),
)
greeting = st.one_of(st.just([]), turn("assistant").map(lambda m: [m]))
conversation = st.builds(
    lambda a, b, c, d, e: [*a, *b, c, *d, *e],
    opening,
    greeting,
    turn("user"),
    inside,
    st.tuples(turn("assistant")),
)
sharegpt = conversation.map(lambda talk: [{"from": m["role"], "value": m["content"]} for m in talk])
history = st.lists(st.tuples(asked_words, said_words).map(list), max_size=2)
beside = dict(
    system=st.one_of(asked_words, st.none(), asked_words.map(in_parts)),
    tools=st.none(),
    history=history,
    source=st.just("x"),
)
alone = {name: values for name, values in beside.items() if name != "history"}
labelled = st.one_of(
    st.fixed_dictionaries(dict(prompt=prompt, completion=answer), optional=beside),
    st.fixed_dictionaries(dict(messages=conversation), optional=alone),
    st.fixed_dictionaries(dict(conversations=sharegpt), optional=alone),
    st.fixed_dictionaries(
        dict(instruction=asked_words, input=st.one_of(asked_words, st.just("")), output=said_words),
        optional=beside,
    ),
)
pair = st.fixed_dictionaries(dict(prompt=prompt, chosen=answer, rejected=answer), optional=beside).filter(
    lambda row: str(row["chosen"]) != str(row["rejected"])
)
transcripts = st.builds(
    lambda question, a, b: {
        name: f"\n\nHuman: {question}\n\nAssistant: {text}" for name, text in (("chosen", a), ("rejected", b))
    },
    asked_words,
    said_words,
    said_words,
)
thumb = st.fixed_dictionaries(dict(prompt=prompt, completion=answer), optional=beside)


def called(word, learnt):
    "A question, a call, its result and an answer."
    function = dict(CALL["function"], arguments={"q": word})
    call = dict(role="assistant", content=None, tool_calls=[dict(CALL, function=function)], weight=learnt)
    return [
        dict(role="user", content="a"), call, dict(role="tool", content=word),
        dict(role="assistant", content="x"),
    ]  # fmt: skip


calling = st.builds(
    lambda talk, tools: dict(messages=talk, tools=tools),
    st.builds(called, said_words, st.sampled_from([0, 1])),
    st.sampled_from([TOOLS, json.dumps(TOOLS)]),
)


def usable(rows, kind):
    found = []
    for row in rows:
        with contextlib.suppress(ValueError):  # such as a pair that differs in nothing a reader sees
            found += read([row], kind)
    return found


def said_by_check(lm, rows, kind):
    "Each conversation in tokens, and which of them are scored."
    sheet = Sheet(kind, lm.tokenizer)
    sheet.read(rows)
    assert not [f for f in template_faults(sheet) if f.severity == "error" and f.name != "prompt changes"]
    return [(list(part.ids), list(part.mask)) for row in sheet.tokens for part in row.parts]


def scored_by_batches(stage, lm, rows, **how):
    "The same, of the batches that the trainer of a stage would train on."
    with pytest.raises(Stop) as stopped:
        stage(lm, rows, batch_size=2, epochs=1, force=True, warmup_steps=0, **how)
    (trainer,) = stopped.value.args
    found = []
    for batch in trainer.get_train_dataloader():
        marks = batch["labels"] != -100 if "labels" in batch else batch["completion_mask"] > 0
        for ids, attended, scored in zip(batch["input_ids"], batch["attention_mask"], marks):
            there = attended.bool()
            found.append((ids[there].tolist(), scored[there].int().tolist()))
    return found


def check_letters(lm, rows, kind):
    "All that the assistant says and is to be learnt is scored, and nothing that anybody else says."
    for row, found in zip(rows, tokenised(lm.tokenizer, rows, kind)):
        for conversation, part in zip(Row(row, kind).conversations, found.parts):
            if part.changed:
                continue  # a token holds the end of the prompt and the beginning of the answer
            learnt = "".join(conversation.messages[k]["content"] for k in conversation.answers)
            text = lm.tokenizer.decode(part.scored, skip_special_tokens=True)
            assert SAID.findall(text) == SAID.findall(learnt[len(conversation.begun) :])
            assert not ASKED.findall(text)


def agree(stage, lm, given, kind, rows):
    said = said_by_check(lm, given, kind)
    assert sorted(said) == sorted(scored_by_batches(stage, lm, rows))
    check_letters(lm, rows, kind)


FEW = settings(max_examples=12, phases=[Phase.generate])  # making a failure smaller builds many trainers
MODELS = st.sampled_from([MODEL, WITHOUT_MARKS, CALLING])


@FEW
@pytest.mark.filterwarnings("ignore")
@given(st.lists(labelled, min_size=3, max_size=6), MODELS)
def test_labelled_rows(rows, lm):
    agree(finetune_sft, lm, rows, "sft", usable(rows, "sft"))


@FEW
@pytest.mark.filterwarnings("ignore")
@given(st.lists(st.one_of(pair, transcripts), min_size=4, max_size=6), MODELS)
def test_pairs(rows, lm):
    agree(align_dpo, lm, rows, "pairs", usable(rows, "pairs"))


@FEW
@pytest.mark.filterwarnings("ignore")
@given(st.lists(thumb, min_size=4, max_size=6), MODELS)
def test_thumbs(rows, lm):
    labelled = [dict(row, label=bool(i % 2)) for i, row in enumerate(usable(rows, "sft"))]
    agree(align_kto, lm, rows, "sft", labelled)


@FEW
@pytest.mark.filterwarnings("ignore")
@given(st.lists(calling, min_size=3, max_size=5))
def test_rows_with_tools(rows):
    "Calls are scored where they are to be learnt; results and descriptions of tools never are."
    read_rows = read(rows)
    said = said_by_check(CALLING, rows, "sft")
    assert sorted(said) == sorted(scored_by_batches(finetune_sft, CALLING, read_rows))
    for (ids, mask), row in zip(said, rows):
        text = CALLING.tokenizer.decode([token for token, is_scored in zip(ids, mask) if is_scored])
        assert text.count('"lookup"') == row["messages"][1]["weight"] and "properties" not in text
        assert "properties" in CALLING.tokenizer.decode(ids)


talks = st.builds(
    lambda a, b, c, d: dict(messages=[*a, *b, c, d]), opening, rounds, turn("user"), turn("assistant")
)


@settings(max_examples=4, phases=[Phase.generate])
@pytest.mark.filterwarnings("ignore")
@given(st.lists(talks, min_size=3, max_size=5), st.sampled_from([MODEL, WITHOUT_MARKS]))
def test_answers_that_trl_writes_itself(rows, lm):
    "GOLD tokenises in TRL: a row for each answer, which together score what `check` says."
    gold = partial(distill, "tiny", max_new_tokens=8, cross_tokenizer="gold")
    one_by_one = lambda lm, rows, **how: gold(lm, data=rows, **dict(how, batch_size=1))
    trained = scored_by_batches(one_by_one, lm, rows)
    answers = [
        (ids[:end], [0] * start + [1] * (end - start))
        for ids, mask in said_by_check(lm, rows, "sft")
        for start, end in scored_runs(mask)
    ]
    assert sorted(trained) == sorted(answers)


def scored_runs(mask):
    "Where the scored tokens begin and end."
    return [found.span() for found in re.finditer("1+", "".join(map(str, mask)))]


@pytest.mark.filterwarnings("ignore")
def test_what_a_cut_leaves_is_scored_as_before():
    "With `force`, and a `max_length` that cuts: what is left of the ids, and what was scored of these."
    rows = [dict(prompt=f"Is {i} a b c?", completion="a b c 7 " * 3, label=bool(i % 2)) for i in range(4)]
    pairs = [dict(prompt=r["prompt"], chosen=r["completion"], rejected=f"{i} no") for i, r in enumerate(rows)]
    for stage, data, kind in (
        (finetune_sft, rows, "sft"),
        (align_dpo, pairs, "pairs"),
        (align_kto, rows, "sft"),
    ):
        whole = said_by_check(MODEL, data, kind)
        cut = sorted((ids[:20], mask[:20]) for ids, mask in whole)
        assert (
            max(len(ids) for ids, _ in whole) > 20
            and sorted(scored_by_batches(stage, MODEL, data, max_length=20)) == cut
        )
