"Metrics, reports, comparisons and prompting: what is refused, and that the library agrees."

import math
import random
import re
import sys
import warnings
from dataclasses import asdict

import pytest
import torch
from rouge_score import rouge_scorer
from sheets import talk

from ftguide.engine.formats import DataError
from ftguide.engine.generation import Answer
from ftguide.engine.model_folders import ModelError
from ftguide.engine.rows import Row, conversation_text
from ftguide.engine.statistics import bootstrap, win_rate
from ftguide.engine.tables import markdown
from ftguide.engine.tokens import context_length
from ftguide.evaluation import (
    Report,
    _answer_alone,
    api_price_ratio,
    attribute_accuracy,
    bleu,
    degeneration_metrics,
    evaluate,
    few_shot,
    latency,
    perplexity_per_byte,
    prompting_baseline,
    rouge_l,
    rouge_n,
    text_scores,
    with_examples,
)
from ftguide.health import (
    diagnose,
    teacher_forced_scores,
)
from ftguide.market import load_tasks
from ftguide.models import completion_logps, load, perplexity, reply
from ftguide.sft import finetune_sft

ROWS = load_tasks("test", 8, seed=3)


@pytest.fixture(scope="module")
def small():
    return load("tiny-small")


@pytest.fixture(scope="module")
def tuned(small):
    return finetune_sft(small, load_tasks("train", 128, seed=1), epochs=2, batch_size=8)


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
    same = (a - a).scores
    assert all(s.value == 0 for s in same.values()) and (a - a).clear == []
    assert all(s.low < -0.1 < 0.1 < s.high for m, s in same.items() if m != "nats per byte")  # of few rows


def test_a_ratio_to_a_score_of_0_is_left_out_and_opens_no_gate(small, tmp_path):
    from ftguide.deployment import Gate

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
        speeds["latency"]["latency_p50_ms"] > 0
        and "usd_per_million_tokens" not in speeds["latency"]
        and "latency_p95_ms" not in speeds["latency"]
        and speeds["latency"]["latency_answers"] == 12
    )


def test_p95_is_told_of_enough_answers_only(small):
    few, enough = (latency(small, ["Hi"], new_tokens=2, n=n, batch_size=1) for n in (58, 59))
    assert "latency_p95_ms" not in few and few["latency_answers"] == 58
    assert (
        enough["latency_p50_ms"]
        <= enough["latency_p95_low_ms"]
        <= enough["latency_p95_ms"]
        <= enough["latency_p95_high_ms"]
    )
    said = markdown([Report("few", 1, speed=few), Report("enough", 1, speed=enough)])
    (line,) = [line for line in said.splitlines() if "p95" in line]
    assert "58 are too few" in line and line.count("[") == 1


def test_a_model_with_nan_is_refused_before_it_answers(small, monkeypatch):
    broken = small.copy("broken")
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("nan"))
    monkeypatch.setattr(
        sys.modules["ftguide.evaluation"], "replies", lambda *a, **k: pytest.fail("it was asked")
    )
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
    assert all(answer["cut"] for answer in report.answers) and report.max_new_tokens == 20
    assert "4 of 4, at 20 tokens" in markdown([report])
    assert {s.sign for s in diagnose(model=endless, test=ROWS, max_new_tokens=64)} >= {
        "end_probability",
        "truncated_share_excess",
    }


def test_an_answer_as_long_as_the_limit_is_not_cut_if_it_ends(monkeypatch, small):
    "The length of an answer does not say whether it had ended."
    said = [Answer("yes", False), Answer("yes", True)]
    monkeypatch.setattr(sys.modules["ftguide.evaluation"], "replies", lambda *a, **k: said)
    rows = [dict(prompt=f"{i}?", completion="yes") for i in range(2)]
    report = evaluate(small, rows, metrics=("quality",), max_new_tokens=1)
    assert report.degeneration["truncated_share"] == 0.5
    assert [a.get("cut") for a in report.answers] == [None, True]
    assert report.score("exact match").value == 1  # scored as it is
    assert degeneration_metrics(small, ["yes", "yes"], 1)["truncated_share"] == 1  # where nobody knows


@pytest.mark.parametrize("words, least", [(1, 96), (60, 96), (150, 225)])
def test_the_limit_follows_the_references(monkeypatch, small, words, least):
    asked = []

    def replies(lm, prompts, max_new_tokens, **how):
        asked.append(max_new_tokens)
        return [Answer("x", False)] * len(prompts)

    monkeypatch.setattr(sys.modules["ftguide.evaluation"], "replies", replies)
    rows = [dict(prompt="a?", completion="mug " * words), dict(prompt="b?", completion="a")]
    report = evaluate(small, rows, metrics=("quality",))
    assert asked == [report.max_new_tokens] and least <= asked[0] <= context_length(small) // 2
    evaluate(small, rows, metrics=("quality",), max_new_tokens=7)
    assert asked[1] == 7


def test_200_answers_together_are_those_one_by_one(tuned):
    prompts = [r["prompt"] for r in load_tasks("test", 200, seed=5)]
    together = reply(tuned, prompts, 12, batch_size=50)
    assert together == reply(tuned, prompts, 12, batch_size=1) and len(set(together)) > 50


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
    monkeypatch.setattr(
        sys.modules["ftguide.evaluation"], "reply", lambda lm, prompts, *a, **k: [says] * len(prompts)
    )
    assert (
        few_shot(
            small,
            [dict(prompt="q", completion="name: mug\ncolour: blue")],
            [dict(prompt="p", completion="name: cup")],
        ).value
        == right
    )


def test_of_a_one_line_answer_one_line_is_read(small, monkeypatch):
    monkeypatch.setattr(
        sys.modules["ftguide.evaluation"],
        "reply",
        lambda lm, prompts, *a, **k: ["mug\nand more"] * len(prompts),
    )
    assert few_shot(small, [dict(prompt="q", completion="mug")], []).value == 1
    assert _answer_alone(["a\n\nb\n\nc"], ["a\n\nb"]) == ["a\n\nb"]


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


def test_an_example_of_another_task_is_not_shown():
    row = lambda name, task: dict(prompt=name, completion=name.upper()) | (dict(task=task) if task else {})
    examples = [row("a1", "a"), row("b1", "b"), row("x1", None)]
    shown = lambda task: [m["content"] for m in with_examples([row("q", task)], examples)[0][:-1:2]]
    assert [shown(task) for task in ("a", "b", "c", None)] == [
        ["a1", "x1"],
        ["b1", "x1"],
        ["x1"],
        ["a1", "b1", "x1"],
    ]


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


def test_rouge_is_rouge_scores_on_random_texts():
    class Words:
        def tokenize(self, text):
            return re.findall(r"\w+", text.lower())

    rng, words = random.Random(0), ["a", "Blue", "mug", "of", "oak", "lã", "é", "12", "ml", ".", "avó", "avô"]
    kinds = ["rouge1", "rouge2", "rougeL"]
    scorer = rouge_scorer.RougeScorer(kinds, tokenizer=Words())
    for _ in range(300):
        answer, reference = (" ".join(rng.choices(words, k=rng.randint(0, 14))) for _ in range(2))
        theirs = scorer.score(reference, answer)
        ours = [rouge_n(answer, reference, 1), rouge_n(answer, reference, 2), rouge_l(answer, reference)]
        assert ours == [theirs[kind].fmeasure for kind in kinds]


def test_a_report_does_not_depend_on_the_number_of_threads():
    """Sums are rounded in another order, so a near tie may be answered differently.

    Shares agree within one row, log-probabilities within 1e-4."""
    lm, test, threads, found = load("tiny-small"), load_tasks("test", 12), torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(
                (
                    evaluate(lm, test, metrics=("quality",), max_new_tokens=8, samples=1),
                    completion_logps(lm, [r["prompt"] for r in test], [r["completion"] for r in test])[0],
                )
            )
    finally:
        torch.set_num_threads(threads)
    (one, a), (two, b) = found
    assert one.rows.keys() == two.rows.keys() and (a - b).abs().max() < 1e-4 * a.abs().max()
    for m in one.rows:
        assert one.score(m).value == pytest.approx(
            two.score(m).value, abs=1 / 12 if one.score(m).value <= 1 else 1e-2
        )
