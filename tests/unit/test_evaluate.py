"What the evaluation chapter should not carry: refused comparisons, broken models, hostile answers in a browser, a server, 200 prompts one by one."

import csv
import json
import math
import random
import warnings
from dataclasses import asdict

import pytest
import torch

from ftguide import evaluate as chapter
from ftguide.data import DataError
from ftguide.engine.rows import Row, conversation_text
from ftguide.evaluate import (
    LIMITS,
    HealthCallback,
    Limit,
    Report,
    api_price_ratio,
    attribute_accuracy,
    bleu,
    bootstrap,
    diagnose,
    evaluate,
    few_shot,
    health_metrics,
    human_sheet,
    judge,
    log_metrics,
    perplexity_per_byte,
    prompting_baseline,
    read_sheet,
    teacher_forced_scores,
    text_scores,
    wilson,
    win_rate,
)
from ftguide.market import load_tasks
from ftguide.models import ModelError, load, perplexity, reply
from ftguide.sft import finetune_sft

ROWS = load_tasks("test", 8, seed=3)


@pytest.fixture(scope="module")
def small():
    return load("tiny-small")


@pytest.fixture(scope="module")
def tuned(small):
    return finetune_sft(small, load_tasks("train", 128, seed=1), epochs=2, batch_size=8)


# ---- metrics and intervals


def test_bleu_is_sacrebleu_on_random_texts():
    import sacrebleu

    rng, words = (
        random.Random(0),
        ["a", "blue", "mug", "of", "oak", "made", "in", "cork", "with", "lã", "é", "12", "ml", "."],
    )
    text = lambda: " ".join(rng.choices(words, k=rng.randint(1, 12)))
    for _ in range(20):
        said = [text() for _ in range(6)]
        wanted = [s if rng.random() < 0.5 else text() for s in said]
        assert bleu(said, wanted, n=10).value == pytest.approx(sacrebleu.corpus_bleu(said, [wanted]).score)
    perfect = bleu(["one two three four five"] * 3, ["one two three four five"] * 3)
    assert (round(perfect.low), round(perfect.high)) == (100, 100)


def test_per_byte_does_not_depend_on_the_tokenizer(small):
    prompts, answers = [r["prompt"] for r in ROWS], [r["completion"] for r in ROWS]
    nats = math.log(perplexity(small, prompts, answers))
    seen = teacher_forced_scores(small, ROWS)
    assert sum(x[0] for x in seen) / sum(x[1] for x in seen) == pytest.approx(nats, rel=1e-4)
    assert perplexity_per_byte(small, prompts, answers) == pytest.approx(
        math.exp(sum(x[0] for x in seen) / sum(len(a.encode()) for a in answers)), rel=1e-4
    )


def test_attribute_accuracy_counts_places():
    assert attribute_accuracy("mug | Red| steel", "mug | red | glass") == (2, 3)
    assert attribute_accuracy("", "a | b") == (0, 2) and attribute_accuracy("b | a", "a | b") == (0, 2)
    assert win_rate([1, 1, 0, -1]).value == pytest.approx(0.625)


@pytest.mark.parametrize(
    "api",
    [
        {},
        {"usd_per_million_output_tokens": 1},
        {"usd_per_million_output_tokens": "?", "date": "2026-01-01"},
        {"usd_per_million_output_tokens": 1, "date": "soon"},
        {"usd_per_million_output_tokens": 1, "date": "2999-01-01"},
        {"usd_per_million_output_tokens": -1, "date": "2026-01-01"},
        2.0,
    ],
)
def test_an_api_price_needs_a_number_and_a_date(api):
    with pytest.raises(ValueError):
        api_price_ratio(0.5, api)


# ---- reports


def test_reports_of_different_rows_are_not_compared(small):
    a, b = (evaluate(small, rows, metrics=("quality",), max_new_tokens=8) for rows in (ROWS, ROWS[:4]))
    with pytest.raises(ValueError, match="same rows"):
        a - b
    with pytest.raises(ValueError, match="same rows"):
        evaluate(small, ROWS, against=b, metrics=("quality",))
    with pytest.raises(ValueError, match="same rows"):
        a - evaluate(small, ROWS[::-1], metrics=("quality",), max_new_tokens=8)
    with pytest.raises(ValueError, match="no metric in common"):
        Report("x", 1) - Report("y", 1)
    assert all(s.value == s.low == s.high == 0 for s in (a - a).scores.values()) and (a - a).clear == []


def test_a_ratio_to_a_score_of_0_is_left_out_and_opens_no_gate(small, tmp_path):
    from ftguide.deploy import Gate

    shares = lambda *right: [(x, 1) for x in right]
    assert all(
        math.isnan(bootstrap(shares(*[1] * 20), shares(*[1] * k, *[0] * (20 - k))).value)
        for k in (0, 1, 2, 3)
    )  # 0.85^20: one resample in 26 has no right row
    s = bootstrap(shares(*[1] * 20), shares(*[1] * 10, *[0] * 10))
    assert s.value == 2 and 1 < s.low < 2 < s.high < 5
    assert bootstrap(shares(1, 1), shares(0, 0), how="difference").value == 1
    asked = lambda rouge, exact=None, **more: evaluate(
        small,
        ROWS,
        metrics=("quality",),
        max_new_tokens=4,
        score=lambda row, answer: {
            **({} if rouge is None else {"ROUGE-L": (rouge, 1)}),
            **({} if exact is None else {"exact match": (exact, 1)}),
        },
        **more,
    )
    base, none = asked(0.4, 0), asked(None, 0)
    with pytest.warns(UserWarning, match="no ratio for exact match: tiny-small scores 0 there"):
        worse = asked(0.2, 1, against=base)
    assert (
        list(worse.against) == ["ROUGE-L"]
        and worse.no_ratio == ["exact match"]
        and worse.quality == pytest.approx(0.5)
        and len(Gate(quality=0.75).failures(worse)) == 1
    )
    with pytest.warns(UserWarning, match="no ratio"):
        assert asked(0.4, 0, against=base).quality == pytest.approx(1)  # a model is as good as itself
    with pytest.warns(UserWarning, match="no ratio"):
        nothing = asked(None, 1, against=none)
    assert math.isnan(nothing.quality) and "not a finite number" in Gate(quality=0).failures(nothing)[0]
    nothing.save(tmp_path / "r.json")
    assert math.isnan(Report.read(tmp_path / "r.json").quality)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert asked(0.2, against=base).no_ratio == []


def test_report_survives_json_and_old_reports_are_read(small, tmp_path):
    report = evaluate(
        small,
        ROWS,
        max_new_tokens=8,
        api=dict(usd_per_million_output_tokens=0.6, date="2026-09-26", source="a list price"),
    )
    report.save(tmp_path / "r.json")
    again = Report.read(tmp_path / "r.json")
    assert (
        again.scores == report.scores
        and again.perplexity_per_byte == report.perplexity_per_byte
        and again.api["date"] == "2026-09-26"
    )
    assert again._repr_markdown_() == report._repr_markdown_() and not (again - report).clear
    assert (
        all(isinstance(v, (int, float)) for v in report.speed.values())
        and report.speed["api_price_ratio"] > 0
    )
    old = {k: v for k, v in asdict(report).items() if k not in ("nll", "test", "api", "no_ratio")}
    assert Report.of(old).quality == report.quality and Report.of(old).perplexity_per_byte is None
    assert len(report.plot(again).get_yticks()) == len(report.rows)


def test_your_own_score_replaces_the_built_in_ones(small):
    report = evaluate(
        small,
        ROWS,
        metrics=("quality",),
        max_new_tokens=8,
        score=lambda row, answer: {"words": (len(answer.split()), 1)},
    )
    assert list(report.rows) == ["words"]


# ---- what is refused


def test_empty_and_incomplete_test_sets(small):
    with pytest.raises(DataError, match="no rows"):
        evaluate(small, [])
    with pytest.raises(DataError, match="expected: prompt, completion"):
        evaluate(small, [dict(prompt="Hi")])
    with pytest.raises(ValueError, match="row 2 has none"):
        text_scores([dict(reference="a", answer="a"), dict(answer="b")])
    with pytest.raises(ValueError, match="no rows"):
        text_scores([])
    with pytest.raises(ValueError, match="every answer"):
        bleu(["a"], [])
    with pytest.raises(ValueError, match="unknown metrics"):
        evaluate(small, ROWS, metrics=("beauty",))
    with pytest.raises(ValueError, match="date"):
        evaluate(small, ROWS, api=dict(usd_per_million_output_tokens=1))


def test_latency_is_measured_when_it_is_asked_for(small):
    speeds = {m: evaluate(small, ROWS[:2], metrics=(m,)).speed for m in ("cost", "latency")}
    assert "latency_p50_ms" not in speeds["cost"] and speeds["cost"]["usd_per_million_tokens"] > 0
    assert (
        speeds["latency"]["latency_p95_ms"] >= speeds["latency"]["latency_p50_ms"] > 0
        and "usd_per_million_tokens" not in speeds["latency"]
    )


def test_a_model_with_nan_is_refused_before_it_answers(small, monkeypatch):
    broken = small.copy("broken")
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("nan"))
    monkeypatch.setattr("ftguide.models.reply", lambda *a, **k: pytest.fail("it was asked"))
    with pytest.raises(ModelError, match="broken: the logits are not finite"):
        evaluate(broken, ROWS)
    with pytest.raises(ModelError, match="not finite"):
        diagnose(model=broken, test=ROWS)


def test_a_model_that_never_stops_is_bounded_and_found(small):
    class Endless(torch.nn.Module):  # adds a large negative number to the end token's score
        def __init__(self, head, end):
            super().__init__()
            self.head, self.end = head, end

        def forward(self, x):
            y = self.head(x).clone()
            y[..., self.end] = -1e4
            return y

    endless = small.copy("endless")
    endless.model.lm_head = Endless(endless.model.lm_head, small.tokenizer.eos_token_id)
    report = evaluate(endless, ROWS[:4], metrics=("quality",), max_new_tokens=20)
    assert (
        report.degeneration["truncated_share"] == 1
        and max(len(small.tokenizer(r["answer"]).input_ids) for r in report.answers) <= 21
    )
    assert {s.sign for s in diagnose(model=endless, test=ROWS, max_new_tokens=64)} >= {
        "end_probability",
        "truncated_share_excess",
    }


# ---- generation


def test_200_answers_together_are_those_one_by_one(tuned):
    prompts = [r["prompt"] for r in load_tasks("test", 200, seed=5)]
    together = reply(tuned, prompts, 12, batch_size=50)
    assert together == reply(tuned, prompts, 12, batch_size=1) and len(set(together)) > 50


# ---- detectors


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


def test_detectors_take_a_name_as_all_others_do(small):
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


def test_a_sentinel_says_before_the_training_what_it_cannot_do():
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


def test_a_sentinel_counts_rows_it_cannot_score_once(small):
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


def test_the_sentinel_stops_a_memorising_run(small):
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


def test_the_sentinel_watches_dpo_and_is_silent_on_a_gentle_run(tuned):
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


# ---- prompting


def test_fewer_examples_when_they_do_not_fit(small):
    examples = load_tasks("train", 8, tasks=("extraction",), seed=1)
    test = load_tasks("test", 4, tasks=("extraction",), seed=1)
    with pytest.warns(UserWarning, match="do not fit"):
        found = prompting_baseline(small, test, examples, shots=(0, 2, 8), max_new_tokens=16)
    assert {0, 2} <= set(found) and 2 < max(found) < 8 and all(s.n == 4 for s in found.values())
    assert found[2] == few_shot(small, test, examples[:2], 16)
    with pytest.raises(ValueError, match="also test rows"):
        prompting_baseline(small, test, test[:1] + examples)
    with pytest.raises(ValueError, match="shots"):
        prompting_baseline(small, test, examples, shots=(-1,))


@pytest.mark.parametrize(
    "says, right",
    [
        ("name: mug\ncolour: blue", 1),
        ("name: mug\ncolour: blue\n\nq2\n=> x", 1),
        ("name: mug\ncolour: blue\nq2", 1),
        ("name: mug", 0),
        ("name: mug\ncolour: red", 0),
    ],
)
def test_an_answer_of_several_lines_is_read_whole(small, monkeypatch, says, right):
    monkeypatch.setattr("ftguide.models.reply", lambda lm, prompts, *a, **k: [says] * len(prompts))
    assert (
        few_shot(
            small,
            [dict(prompt="q", completion="name: mug\ncolour: blue")],
            [dict(prompt="p", completion="name: cup")],
        ).value
        == right
    )


def test_of_a_one_line_answer_one_line_is_read(small, monkeypatch):
    monkeypatch.setattr("ftguide.models.reply", lambda lm, prompts, *a, **k: ["mug\nand more"] * len(prompts))
    assert few_shot(small, [dict(prompt="q", completion="mug")], []).value == 1
    assert chapter._first(["a\n\nb\n\nc"], ["a\n\nb"]) == ["a\n\nb"]


def test_examples_are_of_the_rows_task_and_arrive_as_a_conversation():
    examples, test = load_tasks("train", 8, seed=1), load_tasks("test", 8, seed=1)
    asked = []

    def model(prompts):
        asked.extend(prompts)
        return ["positive"] * len(prompts)

    prompting_baseline(model, test, examples, shots=(1,))
    ends = [
        p[0]["content"].splitlines()[-1] == p[-1]["content"].splitlines()[-1]
        for p in asked
        if not p[-1]["content"].endswith("?")
    ]
    assert [m["role"] for m in asked[0]] == ["user", "assistant", "user"] and all(ends) and len(asked) == 8


# ---- people

HOSTILE = [
    "<script>document.title='owned'</script>",
    "</pre></fieldset><img src=x onerror=alert(1)>",
    "=1+1",
    "-2+3;\"quoted\", 'too'",
    "line one\nline two\r\n@sum",
    "ação 漢字 🙂 \u202e",
    "{{x}} @ROWS@ @SHEET@ &amp;",
    "",
    "+55 11",
    "\ttab",
]


def sheet(tmp_path, n=10):
    rows = [dict(prompt=f"Question {i}: {HOSTILE[i % 10]}") for i in range(n)]
    models = {
        "secret-one": lambda prompts: [HOSTILE[i % 10] for i in range(len(prompts))],
        "secret-two": lambda prompts: [f"plain answer {i}" for i in range(len(prompts))],
    }
    return human_sheet(models, rows, tmp_path / "sheet", n=n), tmp_path / "sheet/key.json"


def fill(path, key, choose):
    items = json.loads(key.read_text(encoding="utf-8"))["items"]
    with open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("id", "better"), *((i, choose(r)) for i, r in items.items())])
    return path


def test_a_sheet_is_blind_and_escaped(tmp_path):
    page, key = sheet(tmp_path)
    text = page.read_text(encoding="utf-8")
    table = (page.parent / "sheet.csv").read_text(encoding="utf-8-sig")
    assert "secret" not in text + table and "secret-one" in key.read_text() and key.parent != page.parent
    assert (
        text.count("<script>") == 1
        and "<img" not in text
        and "://" not in text
        and "http" not in text.replace("http-equiv", "")
    )
    import io

    cells = [c for row in csv.reader(io.StringIO(table)) for c in row]
    assert not [c for c in cells if c[:1] in tuple("=+-@\t\r")]
    sides = [r["left_is"] for r in json.loads(key.read_text(encoding="utf-8"))["items"].values()]
    assert 0 < sides.count("secret-one") < 10
    with pytest.raises(FileExistsError):
        human_sheet({"a": lambda p: p, "b": lambda p: p}, ROWS, tmp_path / "sheet")


def test_sheets_that_cannot_be(tmp_path, small):
    with pytest.raises(ValueError, match="two models"):
        human_sheet([small], ROWS, tmp_path / "a")
    with pytest.raises(ValueError, match="two models"):
        human_sheet([small, small], ROWS, tmp_path / "a")
    with pytest.raises(ValueError, match="nothing to choose"):
        human_sheet({"a": lambda p: p, "b": lambda p: p}, ROWS, tmp_path / "a")
    with pytest.raises(ValueError, match="no answer to"):
        human_sheet({"a": Report("a", 1), "b": lambda p: p}, ROWS, tmp_path / "a")
    with pytest.raises(DataError, match="only text"):
        human_sheet({"a": lambda p: p, "b": lambda p: p}, [dict(text="x")], tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_filled_sheet_becomes_a_win_rate_and_pairs(tmp_path):
    _, key = sheet(tmp_path)
    likes_one = lambda r: "left" if r["left_is"] == "secret-one" else "right"
    likes_two = lambda r: "right" if r["left_is"] == "secret-one" else "left"
    all_one, all_two, ties = (
        fill(tmp_path / f"{n}.csv", key, f)
        for n, f in (("one", likes_one), ("two", likes_two), ("tie", lambda r: "tie"))
    )
    one = read_sheet(all_one, key)
    assert (
        one.win_rate.value == 1
        and len(one.pairs) == 10
        and {p["chosen"] for p in one.pairs} == set(HOSTILE)
        and one.kappa is None
    )
    assert (
        read_sheet(all_two, key).win_rate.value == 0
        and read_sheet(ties, key).win_rate.value == 0.5
        and not read_sheet(ties, key).pairs
    )
    both = read_sheet(all_one, key, second=all_two)
    assert both.win_rate.value == 0.5 and not both.pairs and both.agreement.value == 0 and both.kappa <= 0
    counter = iter(range(99))
    mixed = fill(tmp_path / "m.csv", key, lambda r: likes_one(r) if next(counter) % 2 else likes_two(r))
    assert read_sheet(mixed, key, second=mixed).kappa == pytest.approx(1)


def test_kappa_is_of_what_was_clicked(tmp_path):
    from sklearn.metrics import cohen_kappa_score

    _, key = sheet(tmp_path, n=200)
    rng = random.Random(0)
    habit = lambda r: rng.choices(("left", "right"), (9, 1))[0]
    one, two, left = (
        fill(tmp_path / f"{n}.csv", key, f)
        for n, f in (("one", habit), ("two", habit), ("left", lambda r: "left"))
    )
    read = lambda path: [r["better"] for r in csv.DictReader(path.open(encoding="utf-8"))]
    assert (
        read_sheet(one, key, second=two).kappa == pytest.approx(cohen_kappa_score(read(one), read(two)))
        and abs(read_sheet(one, key, second=two).kappa) < 0.2
    )
    both = read_sheet(left, key, second=left)
    assert (
        math.isnan(both.kappa)
        and both.agreement.value == 1
        and 0.9 < both.agreement.low < 1
        and "of 200 rows" in repr(both)
    )


@pytest.mark.parametrize(
    "text, says",
    [
        ("id,better\nq0000000000,left\n", "not in the key"),
        ("id,better\n@,up\n", "must be left, right or tie"),
        ("id,better\n@,left\n@,left\n", "answered twice"),
        ("name,vote\nx,left\n", "expected: id, better"),
        ("id,better\n@,\n", "no row is answered"),
    ],
)
def test_bad_sheets_name_the_row(tmp_path, text, says):
    _, key = sheet(tmp_path)
    first = next(iter(json.loads(key.read_text(encoding="utf-8"))["items"]))
    (tmp_path / "f.csv").write_text(text.replace("@", first))
    with pytest.raises(DataError, match=says):
        read_sheet(tmp_path / "f.csv", key)
    with pytest.raises(DataError, match="no file"):
        read_sheet(tmp_path / "none.csv", key)


def test_a_spreadsheet_of_another_country_is_read(tmp_path):
    page, key = sheet(tmp_path)
    with open(page.parent / "sheet.csv", encoding="utf-8-sig", newline="") as f:
        rows = list(csv.DictReader(f))
    with open(tmp_path / "filled.csv", "w", encoding="utf-8-sig", newline="") as f:
        w = csv.DictWriter(f, list(rows[0]), delimiter=";")
        w.writeheader()
        w.writerows({**r, "better": "LEFT " if n else ""} for n, r in enumerate(rows))
    found = read_sheet(tmp_path / "filled.csv", key)
    assert len(found.verdicts) == 9 and found.unread == 1


# ---- the page in a browser


def test_ten_rows_in_a_browser(tmp_path, browser):
    from selenium.webdriver.support.ui import WebDriverWait

    page, key = sheet(tmp_path)
    items = json.loads(key.read_text(encoding="utf-8"))["items"]
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", dict(behavior="allow", downloadPath=str(downloads))
    )
    js, wait = browser.execute_script, WebDriverWait(browser, 60).until
    done = lambda: js("return document.getElementById('done').textContent")
    browser.get(page.as_uri())
    assert (
        js("return document.querySelectorAll('fieldset').length") == 10
        and browser.title == "Which answer is better?"
        and done() == "0 of 10 answered"
    )
    shown = {
        i: js(
            "return [...document.getElementById(arguments[0]).querySelectorAll('pre')].map(p => p.textContent)",
            i,
        )
        for i in items
    }
    plain = lambda t: t.replace("\r\n", "\n")
    assert all(
        shown[i] == [plain(r[k]) for k in ("prompt", "left", "right")] for i, r in items.items()
    )  # seen as written, not as HTML
    chosen = {i: ("left", "right", "tie")[n % 3] for n, i in enumerate(items)}
    for i, c in chosen.items():
        js("document.querySelector(arguments[0]).closest('label').click()", f"#{i} input[value={c}]")
    first = next(iter(items))
    browser.find_element("css selector", f"#{first} input[type=text]").send_keys('=cmd, "x"')
    assert done() == "10 of 10 answered"
    browser.refresh()
    assert done() == "10 of 10 answered"
    browser.find_element("id", "save").click()
    saved = wait(
        lambda _: next((p for p in downloads.iterdir() if p.suffix == ".csv" and p.stat().st_size), None)
    )
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked and not [u for u in asked if not u.startswith(("file:", "blob:", "data:"))]
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] and not [
        e for e in events if e["method"] == "Page.javascriptDialogOpening"
    ]
    rows = list(csv.DictReader(saved.read_text(encoding="utf-8-sig").splitlines()))
    assert {r["id"]: r["better"] for r in rows} == chosen and next(
        r["comment"] for r in rows if r["id"] == first
    ) == '\'=cmd, "x"'
    found = read_sheet(saved, key)
    wins = [
        0 if c == "tie" else 1 if (c == "left") == (items[i]["left_is"] == "secret-one") else -1
        for i, c in chosen.items()
    ]
    assert found.verdicts == wins and len(found.pairs) == sum(map(abs, wins))


# ---- conversations


def talk(about, *, system="Answer in Portuguese.", last="shorter", after=()):
    turns = [
        ("system", system),
        ("user", f"talk about {about}"),
        ("assistant", f"a long {about}"),
        ("user", last),
        ("assistant", about),
        *after,
    ]
    return dict(messages=[dict(role=role, content=text) for role, text in turns])


def test_a_conversation_is_asked_up_to_its_last_answer(small):
    row = talk("mug", after=[("user", "thanks")])
    assert (
        Row(row).reference == "mug"
        and Row(row).request == row["messages"][:4]
        and Row(talk("mug")).request == row["messages"][:4]
    )
    assert (
        conversation_text(row["messages"][:4])
        == "system: Answer in Portuguese.\n\nuser: talk about mug\n\nassistant: a long mug\n\nuser: shorter"
        and conversation_text([dict(role="user", content="Hi")]) == "Hi"
    )
    assert (
        Row(
            dict(
                prompt="x",
                completion=[dict(role="assistant", content="mug"), dict(role="user", content="thanks")],
            )
        ).reference
        == "mug"
    )
    a, b = (
        evaluate(small, [row], metrics=("quality",), max_new_tokens=4),
        evaluate(small, [talk("mug")], metrics=("quality",), max_new_tokens=4),
    )
    assert (
        a.answers == b.answers
        and a.answers[0]["reference"] == "mug"
        and a.answers[0]["prompt"] == row["messages"][:4]
        and a.nll == b.nll
        and a.test == b.test
    )
    assert teacher_forced_scores(small, [row]) == teacher_forced_scores(small, [talk("mug")])


def test_whole_conversations_are_read_judged_and_become_pairs(small, tmp_path):
    from ftguide.data import prepare

    rows = [talk("mug"), talk("lamp")]
    asked = [Row(r).request for r in rows]
    echo = lambda word: lambda prompts: [f"{word} {p[1]['content']}" for p in prompts]
    page = human_sheet({"A": echo("a"), "B": echo("b")}, rows, tmp_path / "s")
    key = tmp_path / "s/key.json"
    assert page.read_text(encoding="utf-8").count("system: Answer in Portuguese.") == 2
    pairs = read_sheet(fill(tmp_path / "f.csv", key, lambda r: "left"), key).pairs
    assert (
        sorted((p["prompt"] for p in pairs), key=str) == sorted(asked, key=str)
        and len(prepare(small, pairs, "pairs")) == 2
    )
    a, b = (
        Report(n, 1, answers=[dict(prompt=p, reference="", answer=f"{n} {p[1]['content']}") for p in asked])
        for n in "AB"
    )
    seen = []
    found = judge(lambda prompts: seen.extend(prompts) or ["1", "1", "2", "2"], rows, a, b)
    assert (
        all("talk about mug" in p and "A talk about mug" in p and "lamp" not in p for p in seen[::2])
        and [p["prompt"] for p in found.pairs] == asked
    )
    with pytest.raises(ValueError, match="no answer to 'system: Answer"):
        judge(lambda p: ["1"] * len(p), [talk("jar")], a, b)
    old = Report("old", 1, answers=[dict(prompt="Hi", reference="", answer="there")])
    assert (
        chapter._answers_of(old, ["Hi"], 4)
        == chapter._answers_of(old, [[dict(role="user", content="Hi")]], 4)
        == ["there"]
    )


def test_examples_that_end_in_the_same_turn_are_no_test_rows():
    asked = []
    prompting_baseline(
        lambda prompts: asked.extend(prompts) or ["x"] * len(prompts),
        [talk("mug")],
        [talk("lamp", system="Be rude.")],
        shots=(1,),
    )
    assert [m["content"] for m in asked[0]] == [
        "Answer in Portuguese.",
        "talk about lamp",
        "a long lamp",
        "shorter",
        "lamp",
        "talk about mug",
        "a long mug",
        "shorter",
    ]
    with pytest.raises(ValueError, match="also test rows"):
        prompting_baseline(lambda p: ["x"] * len(p), [talk("mug")], [talk("mug")])


# ---- judges and endpoints

PAIRS = [(dict(prompt=f"Q{i} {{first}} {{prompt}}"), f"good {i} {{second}}", f"bad {i}") for i in range(12)]
rows, good, bad = map(list, zip(*PAIRS))


def test_a_verdict_must_survive_the_swap():
    reads = lambda prompts: [
        "1" if p.split("Answer 1:\n")[1].startswith("good") else "Answer 2." for p in prompts
    ]
    sure = judge(reads, rows, good, bad, truth=[1] * 12)
    assert (
        sure.win_rate.value == 1
        and sure.position_consistency.value == 1
        and sure.agreement == sure.position_consistency == wilson(12, 12)
        and len(sure.pairs) == 12
        and sure.pairs[0]["chosen"] == good[0]
    )
    assert judge(reads, rows, bad, good, truth=[1] * 12).agreement.value == 0
    for stubborn in ("1", "2"):
        assert judge(lambda p: [stubborn] * len(p), rows, good, bad).verdicts == [0] * 12
    silent = judge(lambda p: ["1 or 2, hard to say", "neither"] * (len(p) // 2), rows, good, bad)
    assert silent.unread == 12 and silent.agreement is None and silent.win_rate.value == 0.5
    with pytest.raises(ValueError, match="two answers for every row"):
        judge(reads, rows, good, bad[:3])
    with pytest.raises(ValueError, match="two answers for every row"):
        judge(reads, [], [], [])


@pytest.mark.parametrize(
    "text, verdict",
    [
        ("1", 1),
        ("2.", -1),
        ("Answer 2", -1),
        ("**1**", 1),
        ("12", None),
        ("1 and 2", None),
        ("", None),
        ("2.5", None),
        ("The first", None),
        ("1!", 1),
    ],
)
def test_what_counts_as_a_verdict(text, verdict):
    assert chapter._verdict(text) == verdict
