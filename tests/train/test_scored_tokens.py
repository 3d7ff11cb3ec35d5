"For rows of every shape: the tokens that `check` says are scored are those that a trainer's batch scores."

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ftguide.engine.run as run
from ftguide.dpo import align_dpo, align_kto
from ftguide.engine.checks import Sheet, template_faults
from ftguide.engine.rows import read
from ftguide.engine.trainers import DPOTrainer, KTOTrainer
from ftguide.models import load
from ftguide.sft import finetune_sft

MODEL = load("tiny-small")
WITHOUT_MARKS = MODEL.copy()
WITHOUT_MARKS.tokenizer.chat_template = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


class Stop(Exception):
    "The trainer that a stage has built, before its first step."


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    def stop(trainer, *args, **kwargs):
        raise Stop(trainer)

    monkeypatch.setattr(run, "fit", stop)
    for trainer in (DPOTrainer, KTOTrainer):
        monkeypatch.setattr(trainer, "_precompute_ref_logps", lambda self, dataset, name, size: dataset)


words = st.text(st.sampled_from("abc é?,\n7"), min_size=1, max_size=12).filter(str.strip)


def turn(role, marks=({},)):
    return st.builds(lambda text, more: dict(role=role, content=text, **more), words, st.sampled_from(marks))


unlearnt = ({}, {}, dict(weight=0), dict(weight=1), dict(train=False))
exchange = st.tuples(turn("user"), turn("assistant"))
rounds = st.lists(exchange, max_size=2).map(lambda pairs: [m for pair in pairs for m in pair])
opening = st.one_of(st.just([]), turn("system").map(lambda m: [m]))
asked = st.builds(lambda a, b, c: [*a, *b, c], opening, rounds, turn("user"))
prompt = st.one_of(words, asked, st.builds(lambda a, b: [*a, b], asked, turn("assistant")))
inside = st.lists(
    st.tuples(turn("assistant", unlearnt), st.one_of(turn("user"), turn("tool"))), max_size=2
).map(lambda pairs: [m for pair in pairs for m in pair])
answer = st.one_of(
    words,
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
labelled = st.one_of(
    st.fixed_dictionaries(dict(prompt=prompt, completion=answer)),
    st.fixed_dictionaries(dict(messages=conversation)),
)
pair = st.fixed_dictionaries(dict(prompt=prompt, chosen=answer, rejected=answer)).filter(
    lambda row: str(row["chosen"]) != str(row["rejected"])
)
thumb = st.fixed_dictionaries(dict(prompt=prompt, completion=answer))


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


FEW = settings(max_examples=12)


@FEW
@pytest.mark.filterwarnings("ignore")
@given(st.lists(labelled, min_size=3, max_size=6), st.sampled_from([MODEL, WITHOUT_MARKS]))
def test_labelled_rows(rows, lm):
    rows = usable(rows, "sft")
    assert sorted(said_by_check(lm, rows, "sft")) == sorted(scored_by_batches(finetune_sft, lm, rows))


@FEW
@pytest.mark.filterwarnings("ignore")
@given(st.lists(pair, min_size=3, max_size=6), st.sampled_from([MODEL, WITHOUT_MARKS]))
def test_pairs(rows, lm):
    rows = usable(rows, "pairs")
    assert sorted(said_by_check(lm, rows, "pairs")) == sorted(scored_by_batches(align_dpo, lm, rows))


@FEW
@pytest.mark.filterwarnings("ignore")
@given(st.lists(thumb, min_size=3, max_size=6), st.sampled_from([MODEL, WITHOUT_MARKS]))
def test_thumbs(rows, lm):
    rows = [dict(row, label=bool(i % 2)) for i, row in enumerate(usable(rows, "sft"))]
    assert sorted(said_by_check(lm, rows, "sft")) == sorted(scored_by_batches(align_kto, lm, rows))


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
