"What would fail silently is refused, and what is mended passes."

import warnings

import pytest
import torch
from letters import Letters
from made_rows import HI, ROW, TOOLS, error, pairs, small_model, talk

import ftguide.engine.preflight as module
from ftguide.engine.formats import DataError
from ftguide.engine.model_folders import ModelError
from ftguide.engine.preflight import (
    _examples,
    _reference_problems,
    _rounding_problems,
    _step_problems,
    _template_problems,
    asked_in_both,
    check_answered,
    check_for_trl,
    check_room,
    different_tokens,
    read_for_training,
    updatable_share,
    with_thumbs,
)
from ftguide.engine.tokens import tokenised
from ftguide.engine.trainer_settings import planned_steps
from ftguide.models import load


@pytest.fixture(scope="module")
def small():
    return load("tiny-small")


@pytest.mark.parametrize(
    "config, steps",
    [
        ({}, (15, 2)),
        (dict(per_device_train_batch_size=2), (27, 3)),
        (dict(dataloader_drop_last=True), (12, 2)),
        (dict(gradient_accumulation_steps=2), (9, 1)),
        (dict(num_train_epochs=0.5), (3, 1)),
        (dict(max_steps=7), (7, 1)),
        (dict(max_steps=0), (0, 0)),
        (dict(max_steps=-1), (15, 2)),
        (dict(warmup_steps=4), (15, 4)),
        (dict(warmup_steps=0), (15, 0)),
        (dict(warmup_steps=1), (15, 1)),
        (dict(warmup_steps=0.5), (15, 8)),
    ],
)
def test_steps_are_those_of_the_trainer(config, steps):
    assert planned_steps(17, 3, 4, config) == steps and planned_steps(
        3, 1, 4, dict(dataloader_drop_last=True, max_steps=5)
    ) == (0, 0)


def preflight(model, data, method="sft", **how):
    "As the stages call it: the rows are read, and returned when nothing is refused."
    rows = read_for_training(data, method, how.get("config"))
    module.preflight(model, rows, method, **how)
    return rows


def pace(n, method="sft", rate=None, epochs=1, batch_size=4, lm=None, **config):
    lm = lm or small_model()
    problems = _step_problems(n, method, epochs, batch_size, config)
    return [*problems, *_rounding_problems(lm, rate)]


def test_a_training_that_changes_nothing():
    assert pace(8) == [] and pace(4, config_is=1) == [
        (
            "the only step would have the learning rate 0, because warm-up begins there: 4 "
            "rows in batches of 4. Take more epochs, a smaller batch_size, or warmup_steps=0"
        )
    ]
    assert pace(4, "distill") == pace(4, warmup_steps=0) == pace(4, max_steps=1) == pace(5) == pace(
        4, epochs=2
    ) == [] and pace(4, max_steps=-1)
    assert pace(3, dataloader_drop_last=True) == [
        (
            "no step would be made: 3 rows in batches of 4 with dataloader_drop_last=True. "
            "Give more rows, a smaller batch_size, or leave that setting out"
        )
    ]
    assert pace(9, max_steps=0, dataloader_drop_last=False, other=1, per_device_train_batch_size=2) == [
        (
            "no step would be made: 9 rows in batches of 2 with max_steps=0, "
            "dataloader_drop_last=False. Give more rows, a smaller batch_size, or leave that "
            "setting out"
        )
    ]
    assert pace(9, epochs=0) == [
        (
            "no step would be made: 9 rows in batches of 4 with 0 epochs. Give more rows, a "
            "smaller batch_size, or leave that setting out"
        )
    ]


def test_a_rate_too_small_for_the_numbers():
    half = small_model(torch.bfloat16)
    assert pace(9, rate=1e-3, lm=half) == [
        (
            "the learning rate 0.001 changes only 0.0% of the weights a step: they are "
            "bfloat16, whose numbers lie further apart. Load the model as float32, or raise "
            "the rate"
        )
    ]
    assert (
        pace(9, rate=1e-2, lm=half)
        == pace(9, rate=1e-3)
        == pace(9, rate=None, lm=half)
        == pace(9, rate=1e-3, lm=small_model(torch.bfloat16, is_quantized=True))
        == []
    )
    with torch.no_grad():
        half.model.weight.view(-1)[:4] = 0.01
    assert (
        updatable_share(half.model, 1e-3) == 0.5 and pace(9, rate=1e-3, lm=half) == []
    )  # half of them is enough
    with torch.no_grad():
        half.model.weight.view(-1)[3] = 1.0
    assert updatable_share(half.model, 1e-3) == 0.375 and "only 37.5%" in pace(9, rate=1e-3, lm=half)[0]
    assert (
        updatable_share(half.model, 1e-3, sample=4) == updatable_share(half.model, 1e-3, sample=3) == 0.5
        and updatable_share(half.model, 1e-3, sample=1000) == 0.375
    )  # every second: 1, 0.01 of each
    half.model.count = torch.nn.Parameter(torch.ones(90, dtype=torch.int8), requires_grad=False)
    assert updatable_share(half.model, 1e-3) == 0.375
    assert updatable_share(torch.nn.Identity(), 1.0) == 0.0
    up = small_model(torch.bfloat16)
    assert (
        updatable_share(up.model, 0.0030) == 1.0
    )  # below 1 the numbers lie closer: 1 - 0.003 is another one
    half = small_model(torch.bfloat16)
    with torch.no_grad():
        half.model.weight.fill_(-1.0)
    assert updatable_share(half.model, 0.0030) == 1.0


def wording(rows, lm=None, kind="sft"):
    lm = lm or small_model()
    some = _examples(lm, rows) if kind == "corpus" else tokenised(lm.tokenizer, rows[:100], kind)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        return list(_template_problems(lm, some)), [str(w.message) for w in found]


def test_templates_that_spoil_the_training():
    assert (
        wording([HI])
        == wording([dict(prompt="hi")], kind="corpus")
        == wording([dict(text="hi")], kind="corpus")
        == wording(pairs(("a", "b", "c")), kind="pairs")
        == ([], [])
    )
    mute = small_model()
    mute.tokenizer.end = ""
    says = [
        (
            "small: no answer ends with an end token, so the model would never learn to "
            "stop. Its chat template must write '.' after the answer"
        )
    ]
    assert wording([HI], mute) == wording([dict(prompt="hi", completion="yo")], mute, "corpus") == wording(
        pairs(("a", "b", "c")), mute, "pairs"
    ) == (says, []) and wording([dict(text="hi")], mute, "corpus") == ([], [])
    assert wording([dict(HI, completion="y.")] + [HI] * 9, mute) == ([], [])  # one is enough
    for end in (111, [46, 111]):
        other = small_model(end=end)
        other.tokenizer.end = ""
        assert wording([HI], other) == ([], [])  # the letter o
    nothing = small_model(end=None)
    nothing.tokenizer.end = ""
    assert wording([HI], nothing)[0] == says
    bare = small_model()
    bare.tokenizer.pad_token_id = None
    assert wording([HI], bare) == (
        ["small: the tokenizer has no padding token; ftguide.models.complete_tokenizer gives it one"],
        [],
    )
    odd = small_model()
    odd.tokenizer.asks = "a:x"
    fine = dict(prompt="hi", completion="x")
    assert wording([HI] * 2 + [fine] * 8, odd) == (
        [],
        [
            (
                "small: in 2 of 10 rows the prompt's last token joins the answer's first, so "
                "the model is asked in other tokens than it was taught. End the template's "
                "prompt with a special token"
            )
        ],
    )
    assert wording([HI] + [fine] * 9, odd) == ([], [])  # one of ten
    odd.tokenizer.asks = "a:xx"
    fine = dict(prompt="hi", completion="xx")
    assert wording([HI] * 2 + [fine] * 8, odd) == (
        [
            (
                "small: in 2 of 10 rows the prompt's tokens are others once the answer "
                "follows, so the loss starts at the wrong token. Mend the chat template"
            )
        ],
        [],
    ) and wording([HI] + [fine] * 9, odd) == ([], [])
    assert (
        wording([fine] * 100 + [HI] * 50, odd) == wording([HI] * 10 + [fine] * 90 + [HI], odd) == ([], [])
    )  # a hundred rows show it
    assert wording([dict(prompt="hi", completion="xx"), dict(prompt="hi", completion=None)], odd, "corpus")[
        0
    ][0].startswith("small: in 1 of 2 rows the prompt's tokens are others")


def test_a_reference_that_is_another_model(monkeypatch):
    lm, same, other = small_model(), small_model(torch.bfloat16), small_model()
    with torch.no_grad():
        other.model.weight[0, 0] = 2
    other.name = "other"
    assert list(_reference_problems(lm, same)) == list(_reference_problems(lm, small_model())) == []
    says = (
        "the reference (other) is not the model that training starts from: 1 of 1 weight "
        "tensors differ, so the first loss is not ln 2. Leave precompute_ref_log_probs on, "
        "or save the model and load it from there"
    )
    assert list(_reference_problems(lm, other)) == [says]
    more = small_model()
    more.name = "other"
    more.model.extra = torch.nn.Parameter(torch.ones(1))
    assert list(_reference_problems(lm, more)) == [says.replace("1 of 1", "0 of 1")] and list(
        _reference_problems(more, lm)
    ) == [says.replace("other", "small").replace("1 of 1", "1 of 2")]
    wide = small_model()
    wide.name = "other"
    wide.model.weight = torch.nn.Parameter(torch.ones(2, 5))
    assert list(_reference_problems(lm, wide)) == [says]
    monkeypatch.setattr("ftguide.engine.preflight.load", lambda name: other)
    assert list(_reference_problems(lm, "a/folder")) == [says.replace("other", "folder")]

    def gone(name):
        raise ModelError(f"no model {name}")

    monkeypatch.setattr("ftguide.engine.preflight.load", gone)
    assert list(_reference_problems(lm, "none")) == ["the reference cannot be loaded: no model none"]


def test_tokens_that_mean_something_else():
    a, b = Letters(), Letters()
    b.get_vocab = lambda: {chr(i): i if i != 98 else 99 for i in range(97, 106)}
    assert different_tokens(a, Letters()) == [] and different_tokens(a, b) == [
        ("b", 98, 99),
        ("e", None, 101),
        ("f", None, 102),
        ("g", None, 103),
        ("h", None, 104),
    ]
    assert different_tokens(b, a)[1] == ("e", 101, None)


def test_preflight_asks_everything(monkeypatch):
    lm, other = small_model(), small_model()
    other.name = "teacher"
    other.tokenizer.get_vocab = lambda: {"b": 1}
    rows, eight = [HI] * 8, pairs(*((f"q{i}", "a", "b") for i in range(8)))
    assert (
        preflight(lm, rows) == rows
        and preflight(lm, eight, "dpo") == eight
        and preflight(lm, [dict(prompt="hi")], "distill") == [dict(prompt="hi")]
    )
    assert error(
        preflight, lm, rows, "ppo"
    ) == "method must be sft, dpo, kto or distill, not 'ppo'" and error(
        preflight, lm, [dict(prompt="a")]
    ).startswith("row 1: columns found")
    assert (
        "no step would be made" in error(preflight, lm, rows, epochs=0)
        and "in batches of 9" in error(preflight, lm, rows, batch_size=9)
        and "only step" in error(preflight, lm, rows[:4])
        and preflight(lm, rows[:4], epochs=2)
        and "max_steps=0" in error(preflight, lm, rows, config=dict(max_steps=0))
    )
    assert "changes only" in error(preflight, small_model(torch.bfloat16), rows, learning_rate=1e-3)
    says = error(preflight, lm, rows, "distill", teacher=other)
    assert says == (
        "teacher and student have different tokenizers (first difference, token and its "
        "two ids: ('a', None, 97)), so soft labels would teach the wrong tokens. Use "
        "alpha=0, which teaches with the teacher's text"
    )
    assert (
        preflight(lm, rows, "distill", teacher=other, alpha=0)
        == preflight(lm, rows, "distill", teacher=small_model())
        == rows
        and error(preflight, lm, rows, "distill", teacher=other, alpha=0.01) == says
    )
    changed = small_model()
    with torch.no_grad():
        changed.model.weight[0, 0] = 2
    assert (
        "not the model that" in error(preflight, lm, eight, "dpo", reference=changed)
        and preflight(lm, eight, "dpo", reference=small_model()) == eight
    )
    asked = []
    monkeypatch.setattr(
        "ftguide.engine.preflight._reference_problems", lambda lm, reference: asked.append(reference) or []
    )
    for how in (
        dict(config=dict(precompute_ref_log_probs=False)),
        dict(config=dict(precompute_ref_log_probs=False), lora=True),
        dict(config=dict(precompute_ref_log_probs=True)),
        dict(config=dict(precompute_ref_log_probs=False), reference="r"),
    ):
        preflight(lm, eight, "dpo", **how)
    preflight(lm, rows, config=dict(precompute_ref_log_probs=False))
    assert asked == ["somewhere", "r"]
    mute = small_model()
    mute.tokenizer.end = ""
    assert "no answer ends" in error(preflight, mute, rows)


def test_preflight_of_a_stream_looks_at_its_head(monkeypatch):
    monkeypatch.setattr("ftguide.engine.preflight.is_streamed", lambda data: True)
    eight = pairs(*((f"q{i}", "a", "b") for i in range(8)))
    assert (
        preflight(small_model(), iter(eight), "dpo", config=dict(max_steps=1)) == eight
        and error(preflight, small_model(), iter(eight), "dpo")
        == "a stream has no length, so max_steps must say how many steps to take"
    )


def test_preflight_looks_at_lengths():
    lm, short, long = small_model(), small_model(positions=20), dict(HI, completion="y" * 40)
    short.name = "teacher"
    said = error(preflight, lm, [HI] * 8 + [long])
    assert said == (
        "1 of 9 rows do not fit into small's context of 40 tokens: row 9 (48 tokens). Shorten or remove them"
    )
    with pytest.raises(DataError):
        preflight(lm, [HI] * 8 + [long])
    with pytest.raises(ValueError) as e:
        preflight(lm, [HI] * 2 + [long])
    assert type(e.value) is ValueError and str(e.value) == (
        "the only step would have the learning rate 0, because warm-up begins there: 3 "
        "rows in batches of 4. Take more epochs, a smaller batch_size, or "
        "warmup_steps=0; 1 of 3 rows do not fit into small's context of 40 tokens: row 3 "
        "(48 tokens). Shorten or remove them"
    )
    assert error(preflight, lm, [dict(prompt="q" * 20)] * 8, "distill", teacher=short, alpha=0).startswith(
        "8 of 8 rows do not fit into teacher's context of 20 tokens"
    )
    with pytest.warns(UserWarning) as found:
        assert preflight(lm, [HI] * 2 + [long], force=True) == [HI] * 2 + [long]
    assert [str(w.message)[:38] for w in found] == [
        "training all the same: the only step w",
        "training all the same: 1 of 3 rows do ",
    ]
    packed = lambda n, positions=40: preflight(
        small_model(positions=positions), [HI] * n, config=dict(packing=True)
    )  # ten tokens a row
    assert (
        packed(17)
        and "4 rows in batches of 4" in error(packed, 16)
        and "4 rows in batches" in error(packed, 13)
        and "3 rows in batches" in error(packed, 12)
    )
    roomy = small_model(positions=5000)
    roomy.tokenizer.model_max_length = 5000
    assert "1 rows in batches" in error(
        preflight, roomy, [HI] * 409, config=dict(packing=True)
    ) and "2 rows in batches" in error(
        preflight, roomy, [HI] * 408 + [dict(HI, completion="y" * 9)], config=dict(packing=True)
    )


PAIRS = [dict(prompt=f"Ad {i}?", chosen="A mug.", rejected="no") for i in range(8)]


ROWS = [dict(prompt=f"How much is {i} + 1?", completion=str(i + 1)) for i in range(8)]


def broken_end(lm):
    other = lm.copy("mute")
    other.tokenizer.chat_template = other.tokenizer.chat_template.replace(other.tokenizer.eos_token, "")
    return other


def swapped(lm):
    "The same vocabulary size, two tokens exchanged."
    other = lm.copy("swapped")
    vocabulary = other.tokenizer.get_vocab()
    other.tokenizer = type(
        "Swapped",
        (type(other.tokenizer),),
        {"get_vocab": lambda self: {t: {7: 8, 8: 7}.get(i, i) for t, i in vocabulary.items()}},
    ).from_pretrained(lm.tokenizer.name_or_path)
    return other


@pytest.mark.parametrize(
    "says, bad, mended",
    [
        (
            "bfloat16",
            lambda lm: (load("tiny-small", dtype="bfloat16"), PAIRS, "dpo", dict(learning_rate=5e-7)),
            lambda lm: (lm, PAIRS, "dpo", dict(learning_rate=5e-7)),
        ),
        (
            "learning rate 0",
            lambda lm: (lm, ROWS[:4], "sft", {}),
            lambda lm: (lm, ROWS[:4], "sft", dict(config=dict(warmup_steps=0))),
        ),
        (
            "learning rate 0",
            lambda lm: (lm, ROWS, "sft", dict(batch_size=8)),
            lambda lm: (lm, ROWS, "sft", dict(batch_size=8, config=dict(max_steps=1))),
        ),
        (
            "no step",
            lambda lm: (lm, ROWS, "sft", dict(config=dict(max_steps=0))),
            lambda lm: (lm, ROWS, "sft", dict(config=dict(max_steps=5))),
        ),
        (
            "no step",
            lambda lm: (lm, ROWS[:3], "sft", dict(config=dict(dataloader_drop_last=True))),
            lambda lm: (lm, ROWS, "sft", dict(config=dict(dataloader_drop_last=True))),
        ),
        (
            "learning rate 0",
            lambda lm: (lm, ROWS, "sft", dict(config=dict(packing=True))),
            lambda lm: (lm, ROWS, "sft", dict(epochs=2, config=dict(packing=True))),
        ),
        ("end token", lambda lm: (broken_end(lm), ROWS, "sft", {}), lambda lm: (lm, ROWS, "sft", {})),
        (
            "end token",
            lambda lm: (broken_end(lm), ROWS, "distill", dict(teacher=lm)),
            lambda lm: (lm, ROWS, "distill", dict(teacher=lm)),
        ),
        (
            "different tokenizers",
            lambda lm: (lm, ROWS, "distill", dict(teacher=swapped(lm))),
            lambda lm: (lm, ROWS, "distill", dict(teacher=swapped(lm), alpha=0)),
        ),
        (
            "do not fit",
            lambda lm: (lm, [ROWS[0], dict(ROW, completion="very " * 600)], "sft", dict(epochs=3)),
            lambda lm: (lm, ROWS[:2], "sft", dict(epochs=3)),
        ),
        (
            "not the model that training starts from",
            lambda lm: (lm, PAIRS, "dpo", dict(reference="tiny")),
            lambda lm: (lm, PAIRS, "dpo", dict(reference="tiny-small")),
        ),
    ],
)
def test_preflight(says, bad, mended, small):
    model, data, method, how = bad(small)
    with pytest.raises(ValueError, match=says):
        preflight(model, data, method, **how)
    with pytest.warns(UserWarning, match=says):
        assert preflight(model, data, method, force=True, **how) == data
    model, data, method, how = mended(small)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert preflight(model, data, method, **how) == data


def test_trainers_ask_preflight(small):
    import torch

    from ftguide.distillation import distill
    from ftguide.dpo import align_dpo
    from ftguide.sft import finetune_sft

    tuned = small.copy("tuned")
    with torch.no_grad():
        next(tuned.model.parameters()).add_(0.01)
    with pytest.raises(ValueError, match="learning rate 0"):
        finetune_sft(small, ROWS[:4], epochs=1)
    with pytest.raises(ValueError, match="not the model"):
        align_dpo(tuned, PAIRS, precompute_ref_log_probs=False)
    with pytest.raises(ValueError, match="different tokenizers"):
        distill(swapped(small), small, ROWS)
    with pytest.raises(ValueError, match="float32, whose"):
        finetune_sft(small, ROWS, learning_rate=1e-12)
    same = lambda a, b: all(torch.equal(p, q) for p, q in zip(a.model.parameters(), b.model.parameters()))
    with pytest.warns(UserWarning, match="learning rate 0"):
        assert same(finetune_sft(small, ROWS[:4], epochs=1, force=True), small)  # it does fail silently
    assert not same(
        finetune_sft(small, ROWS[:4], epochs=1, lr_scheduler_type="constant"), small
    )  # a schedule without warm-up
    with pytest.warns(UserWarning, match="not the model"):
        history = align_dpo(tuned, PAIRS, precompute_ref_log_probs=False, force=True).history
    assert abs(next(h["loss"] for h in history if "loss" in h) - 0.6931) > 0.001


def test_thumbs_are_read_with_their_labels():
    up, down = dict(ROW, label=True), dict(ROW, label=0)
    assert read_for_training([up, down], "kto") == [up, down] and preflight(
        "tiny-small", [up, down] * 4, "kto"
    )
    talk = dict(messages=[dict(role="user", content="a"), dict(role="assistant", content="b")], label=True)
    assert error(read_for_training, [up, talk], "kto").startswith(
        "row 2 has messages, and a thumb judges one"
    )
    says = "row 2: label must be true (thumb up) or false (thumb down), not None;"
    assert error(read_for_training, [up, ROW], "kto").startswith(says)
    says = "2 thumbs up and 0 down: without both there is nothing to compare"
    assert error(read_for_training, [up, up], "kto") == says


@pytest.mark.parametrize(
    "up, down",
    [(True, False), (1, 0), (1.0, 0.0), ("true", "false"), ("TRUE ", "False"), ("1", "0"), ("yes", "No")],
)
def test_labels_of_a_table(up, down, tmp_path):
    rows = read_for_training([dict(ROW, label=up), dict(ROW, label=down)], "kto")
    assert [row["label"] for row in rows] == [True, False]
    assert all(type(row["label"]) is bool for row in rows)
    (tmp_path / "thumbs.csv").write_text(f"prompt,completion,label\nHi,yo,{up}\nHi,no,{down}\n")
    assert [row["label"] for row in read_for_training(tmp_path / "thumbs.csv", "kto")] == [True, False]


@pytest.mark.parametrize("label", ["", "maybe", 2, -1, 0.5, None, [], "truefalse", "nan"])
def test_what_is_no_label(label):
    assert error(with_thumbs, [dict(ROW, label=True), dict(ROW, label=label)]).startswith(
        "row 2: label must be"
    )


def test_validation_rows_that_are_trained_on():
    asked = lambda n: f"Where is mug number {n}?"
    rows = [dict(prompt=asked(n), completion="Here.") for n in range(8)]
    others = [dict(prompt=asked(n), completion="There.") for n in range(8, 12)]
    again = dict(
        messages=[
            dict(role="user", content=f"\u200b{asked(3).upper()} "),
            dict(role="assistant", content="x"),
        ]
    )
    assert list(asked_in_both(rows, others)) == list(asked_in_both(rows, [])) == []
    (says,) = asked_in_both(rows, [*others, again, *rows[:2]])
    assert says.startswith("3 of 7 validation rows (the first is row 5)")
    with pytest.warns(UserWarning, match="8 of 8 validation rows") as seen:
        preflight("tiny-small", rows, eval_rows=rows)
    assert len(seen) == 1
    texts = [dict(text=asked(n)) for n in range(4)]
    assert "4 of 4" in next(asked_in_both(texts, texts))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preflight("tiny-small", rows, eval_rows=others)


def test_pairs_whose_scores_prefer_the_other():
    rows = [
        pair | dict(score_chosen=2, score_rejected=n)
        for n, pair in enumerate(pairs(*(("q", f"a{i}", "b") for i in range(8))))
    ]
    with pytest.warns(UserWarning, match="in 5 of 8 rows score_chosen is below score_rejected.*row 3"):
        preflight("tiny-small", rows, "dpo")


def test_preflight_returns_nothing():
    assert module.preflight("tiny-small", ROWS) is None


def test_answers_that_repeat_their_prompts_are_refused(small):
    plain = [dict(prompt=f"Which colour is mug {i}?", completion=f"Blue {i}.") for i in range(9)]
    twice = [dict(row, completion=f"{row['prompt']} {row['completion']}") for row in plain]
    assert "9 of 9 rows, the first is row 1: the answer begins with its own prompt" in error(
        preflight, small, twice
    )
    with pytest.warns(UserWarning, match="2 of 9 rows, the first is row 1"):
        preflight(small, twice[:2] + plain[2:])
    with pytest.warns(UserWarning, match="training all the same: 9 of 9 rows"):
        preflight(small, twice, force=True)
    chosen = [dict(prompt=r["prompt"], chosen=r["completion"], rejected="No.") for r in twice]
    assert "9 of 9 rows" in error(preflight, small, chosen, "dpo")


def test_tools_without_a_template_for_them_are_refused(small):
    rows = [dict(ROW, tools=TOOLS)] * 8
    for method in ("sft", "distill"):
        assert "the tool lookup" in error(preflight, small, rows, method)
    named = [dict(messages=[dict(talk("Hi")[0], name="Ana"), talk("Hi", "Yes")[1]])] * 8
    with pytest.warns(UserWarning, match=r"8 of 8 rows, the first is row 1.*\(name\)"):
        preflight(small, named)


def test_rows_that_trl_would_write_otherwise_are_refused():
    check_for_trl([HI, dict(prompt=talk("a", "b", "c"), completion=talk("x", "y")[1:])], "gold")
    asked = dict(role="user", content="a")
    for wrong, says in (
        (dict(text="x"), "gold: 1 of 2 rows hold only text"),
        (dict(prompt=[dict(asked, tools=TOOLS)]), "gold: 1 of 2 rows hold tools"),
        (
            dict(prompt="a", completion=[dict(role="assistant", content="b", name="c")]),
            "1 of 2 rows hold tools",
        ),
        (dict(prompt=talk("a", "b")), "1 of 2 rows begin the answer"),
        (dict(prompt=[], completion=talk("x", "y")[1:]), "1 of 2 rows begin the answer"),
    ):
        assert says in error(check_for_trl, [HI, wrong], "gold")


def test_answers_need_room():
    "Contexts of forty tokens: `u:hi.a:` takes seven of them, and the answer and its end the rest."
    rows = [HI, dict(prompt="h" * 20)]
    lm = small_model()
    check_room([lm], rows, 15)
    check_room([lm], rows, None)
    assert error(check_room, [lm, lm], rows, 16).startswith(
        "1 of 2 prompts leave no room for an answer of 16 tokens in small's context of 40: row 2 (25 tokens)"
    )
    with pytest.warns(UserWarning, match="training all the same: 2 of 2 prompts"):
        check_room([lm], rows, 40, force=True)
    check_answered(lm, rows[:1], dict(max_length=10))
    assert "1 of 1 rows are longer than the 9 tokens" in error(
        check_answered, lm, rows[:1], dict(max_length=9)
    )
