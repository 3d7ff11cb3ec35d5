"Signs of a broken model: from a log, from rows, and while training goes on."

import math
import warnings

import pytest
import torch

from ftguide.engine.formats import DataError
from ftguide.engine.model_folders import ModelError
from ftguide.evaluation import evaluate
from ftguide.health import (
    LIMITS,
    HealthCallback,
    Limit,
    diagnose,
    health_metrics,
    log_metrics,
    teacher_forced_scores,
)
from ftguide.market import load_tasks
from ftguide.models import load
from ftguide.sft import finetune_sft

ROWS = load_tasks("test", 8, seed=3)


@pytest.fixture(scope="module")
def small():
    return load("tiny-small")


@pytest.fixture(scope="module")
def tuned(small):
    return finetune_sft(small, load_tasks("train", 128, seed=1), epochs=2, batch_size=8)


def test_a_log_alone_tells():
    rising = [dict(loss=0.05, epoch=1)] + [dict(eval_loss=0.5 + 0.2 * e, epoch=e) for e in range(1, 7)]
    assert {s.kind for s in diagnose(rising)} == {"overfitting"} and len(diagnose(rising)) == 2
    falling = [
        h for e in range(1, 7) for h in (dict(loss=1 / e, epoch=e), dict(eval_loss=1 / e + 0.05, epoch=e))
    ]
    assert diagnose(falling) == [] and diagnose([]) == [] and log_metrics([dict(train_runtime=3.0)]) == {}
    sinking = [{"loss": 0.6, "rewards/chosen": -0.1 * i} for i in range(60)]
    assert [s.sign for s in diagnose(sinking, beta=0.1)] == ["chosen_change_nats"]
    assert diagnose([{"loss": 0.6, "rewards/chosen": -0.05}] * 9) == []
    assert [s.sign for s in diagnose([dict(loss=1.0), dict(eval_loss=float("nan"))])] == [
        "validation_gap_nats"
    ]
    assert (
        len(diagnose(rising, limits={**LIMITS, "validation_gap_nats": Limit("overfitting", at_most=9)})) == 1
    )
    with pytest.raises(ValueError, match="no sign"):
        diagnose(rising, limits={"memorized": Limit("overfitting", at_most=1)})


def test_forgetting_needs_the_model_from_before(small, tuned):
    with pytest.raises(ValueError, match="before"):
        health_metrics(model=tuned, abilities=dict(ads=ROWS))
    with pytest.raises(ValueError, match="no rows"):
        health_metrics(model=tuned, before=small, abilities=dict(ads=[]))
    same = health_metrics(model=tuned, before=tuned, abilities=dict(ads=ROWS, text=[dict(text="a blue mug")]))
    assert {k: v for k, v in same.items() if k.startswith("forgot")} == {
        "forgot ads, nats per byte": 0,
        "forgot ads, accuracy": 0,
        "forgot text, nats per byte": 0,
    }


LONG, ONE = dict(prompt="a blue mug " * 400, completion="ok"), dict(text="a")


def test_rows_without_a_token_to_score_are_named_or_counted(small):
    for row in (LONG, ONE):
        with pytest.raises(DataError, match="row 10: no token to score"):
            teacher_forced_scores(small, [*ROWS, ROWS[0], row])
    with pytest.warns(UserWarning, match="1 of 9 test rows are left out"):
        found = health_metrics(model=small, test=[*ROWS, LONG], n=9)
    assert found == pytest.approx(health_metrics(model=small, test=ROWS, n=9), rel=1e-4)
    with pytest.warns(UserWarning, match="1 of 1 rows of text are left out"):
        assert health_metrics(model=small, before=small, abilities=dict(text=[ONE])) == {}


def test_a_row_cut_at_the_context_counts_the_bytes_that_were_read(small):
    limit = small.model.config.max_position_embeddings
    text = "a blue mug made of glass. " * 400
    answer = "blue and green and red " * 400
    ids = small.tokenizer(text).input_ids[:limit]
    (_, tokens, size, _, end), (_, n, kept, _, cut) = teacher_forced_scores(
        small, [dict(text=text), dict(prompt="Which?", completion=answer)]
    )
    assert (
        tokens == limit - 1
        and size == len(small.tokenizer.decode(ids).encode()) < len(text.encode()) / 4
        and math.isnan(end)
    )
    assert (
        n < limit
        and kept < len(answer) / 4
        and answer.startswith(small.tokenizer.decode(small.tokenizer(answer).input_ids[: n - 2]))
        and abs(kept - len(answer) * n / len(small.tokenizer(answer).input_ids)) < 30
        and math.isnan(cut)
    )
    found = health_metrics(
        model=small, test=[dict(prompt="Which?", completion=answer)] * 2 + ROWS, max_new_tokens=4
    )
    assert found["end_probability"] == pytest.approx(
        sum(x[4] for x in teacher_forced_scores(small, ROWS)) / len(ROWS)
    )  # an answer that was cut has no end
    assert "end_probability" not in health_metrics(
        model=small, test=[dict(prompt="Which?", completion=answer)], max_new_tokens=4
    )


def test_diagnosis_takes_a_name_as_all_others_do(small):
    given = dict(
        test=ROWS[:4], abilities=dict(text=[dict(text="uma caneca azul de vidro")]), n=4, max_new_tokens=8
    )
    assert health_metrics(model="tiny-small", before="tiny-small", **given) == health_metrics(
        model=small, before=small, **given
    )
    watch = HealthCallback(
        test=ROWS[:2],
        before="tiny-small",
        abilities=given["abilities"],
        every=2,
        start=0,
        n=2,
        max_new_tokens=4,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        finetune_sft(small, load_tasks("train", 8, seed=2), max_steps=2, force=True, callbacks=(watch,))


def test_the_callback_says_before_the_training_what_it_cannot_do():
    with pytest.raises(ValueError, match="before"):
        HealthCallback(abilities=dict(text=[ONE]))
    with pytest.raises(ValueError, match="no rows"):
        HealthCallback(abilities=dict(text=[]), before="tiny-small")
    with pytest.raises(ModelError, match="no folder"):
        HealthCallback(before="./no/such/folder")
    with pytest.raises(ValueError, match="no sign"):
        HealthCallback(limits=dict(memorized=Limit("overfitting", at_most=1)))
    with pytest.raises(TypeError, match="unexpected keyword argument 'rows'"):
        HealthCallback(rows=4)


def test_the_callback_counts_rows_it_cannot_score_once(small):
    watch = HealthCallback(test=[*ROWS[:3], LONG], every=1, start=0, n=4, max_new_tokens=4)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        finetune_sft(small, load_tasks("train", 8, seed=2), max_steps=3, force=True, callbacks=(watch,))
    assert [str(w.message)[:32] for w in said if "left out" in str(w.message)] == [
        "1 of 4 test rows are left out: t"
    ]


def test_a_watched_training_is_the_same_training(small):
    rows = load_tasks("train", 32, seed=2)
    weights = lambda lm: torch.cat([p.detach().flatten() for p in lm.model.parameters()])
    watch = HealthCallback(rows, ROWS, every=4, start=0.0, n=4, max_new_tokens=8)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        watched = finetune_sft(small, rows, epochs=1, callbacks=(watch,))
    assert torch.equal(weights(watched), weights(finetune_sft(small, rows, epochs=1)))
    told = [str(w.message) for w in said if str(w.message).startswith("step ")]
    assert len(told) == len({t.split(": ", 2)[2].split(" is ")[0] for t in told})  # each sign once
    with pytest.raises(ValueError, match="every must be"):
        HealthCallback(every=0)


def test_looking_leaves_the_mode_as_it_was(small):
    for training in (True, False):
        lm = small.copy()
        lm.model.train(training)
        evaluate(lm, ROWS[:2], metrics=("quality",), max_new_tokens=4)
        teacher_forced_scores(lm, ROWS[:2])
        assert lm.model.training == training


def test_the_callback_stops_a_memorising_run(small):
    few = load_tasks("train", 12, seed=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lm = finetune_sft(
            small,
            few,
            epochs=20,
            batch_size=2,
            callbacks=(watch := HealthCallback(few, ROWS, every=20, start=0.1, stop=True, n=8),),
            lr_scheduler_type="constant",
        )
    assert watch.symptoms and max(h["step"] for h in lm.history) < 120


def test_the_callback_watches_dpo_and_is_silent_on_a_gentle_run(tuned):
    from ftguide.dpo import align_dpo

    pairs = [
        dict(prompt=r["prompt"], chosen=r["completion"], rejected=r["completion"][::-1])
        for r in load_tasks("train", 24, seed=6)
    ]
    for broken, more in (
        (True, dict(beta=0.01, learning_rate=5e-3, epochs=2)),
        (False, dict(beta=0.1, learning_rate=1e-5)),
    ):
        watch = HealthCallback(
            pairs,
            ROWS,
            every=100,
            beta=more["beta"],
            n=4,
            limits={k: LIMITS[k] for k in ("chosen_change_nats", "overconfidence_nats")},
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            align_dpo(tuned, pairs, callbacks=(watch,), **more)
        assert bool(watch.symptoms) == broken
