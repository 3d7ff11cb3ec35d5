"The tree and the return on investment: what the first lesson has no room for."

import random
from types import SimpleNamespace

import pytest

from ftguide.decide import ENDS, TREE, Plan, choose_technique, draw_tree, explore, roi, sensitivity


def score(value, low, high, **kw):
    return SimpleNamespace(value=value, low=low, high=high, **kw)


# ---- the tree


def test_any_case_ends_somewhere_with_a_reason_for_each_answer():
    rng = random.Random(0)
    for _ in range(300):
        low, value, high = sorted(rng.random() for _ in range(3))
        plan = choose_technique(
            rng.choice([value, score(value, low, high, n=50)]),
            rng.randrange(3000),
            rng.randrange(3000),
            rng.random() < 0.5,
            rng.random() < 0.5,
            rng.random() < 0.5,
            rng.random() < 0.5,
            worth_it=rng.random() < 0.8,
        )
        assert (
            plan.end in ENDS
            and len(plan.reasons) == len(plan.answers)
            and plan.collect[: len(plan.missing)]
            == [c for c in plan.collect if c.split(";")[0] in plan.missing][: len(plan.missing)]
        )
        assert plan.end == "deploy" or not plan.steps
        assert "{" not in str(plan) and str(plan).startswith(plan.verdict)


@pytest.mark.parametrize(
    "prompting, end",
    [
        (score(0.85, 0.80, 0.899, n=300), "deploy"),
        (score(0.85, 0.80, 0.95, n=30), "measure"),
        (score(0.95, 0.91, 0.99, n=90), "stop"),
        (score(0.95, 0.90, 0.99, n=90), "measure"),
        (score(0.85, 0.80, 0.90, n=90), "deploy"),
        (score(0.9, 0.85, 0.95, n=90), "measure"),
        (score(0.5, 0.5, 0.5), "deploy"),
        (score(0.85, 0.7, 0.95), "measure"),
        (score(1, 1, 1, n=20), "measure"),
        (score(1, 1, 1, n=50), "stop"),
        (score(0, 0, 0, n=2), "deploy"),
        (0.9, "deploy"),
        (0.91, "stop"),
    ],
)
def test_an_interval_across_the_threshold_decides_nothing(prompting, end):
    plan = choose_technique(prompting, 5000)
    assert plan.end == end
    if end == "measure":
        assert plan.missing[0].startswith("test rows") and "neither yes nor no" in plan.reasons[0]


def test_more_rows_are_asked_for_when_the_threshold_is_nearer():
    rows = lambda value: int(
        choose_technique(score(value, value - 0.1, value + 0.1, n=50), 5000)
        .missing[0]
        .split("about ")[1]
        .split(" ")[0]
        .replace(",", "")
    )
    assert 0 < rows(0.82) < rows(0.86)
    assert "many times" in choose_technique(score(0.9, 0.8, 1, n=50), 5000).missing[0]


def test_what_to_collect_comes_in_order():
    plan = choose_technique(0.5, 10, objective_task=False, cost_critical=True, teacher_available=False)
    assert [c.split(":")[0] for c in plan.collect] == [
        "labelled examples",
        "preference pairs",
        "a teacher",
    ] and plan.missing == ["labelled examples: 990 more"]
    assert plan._repr_markdown_().index("1. labelled") < plan._repr_markdown_().index("2. preference")


def test_latency_is_compared_with_its_target():
    assert choose_technique(0.5, 2000, latency_target_ms=100, latency_ms=100).steps == ["sft"]
    assert choose_technique(0.5, 2000, latency_target_ms=100, latency_ms=101).steps == ["sft", "distill"]
    assert choose_technique(0.5, 2000, latency_critical=True, latency_target_ms=100, latency_ms=50).steps == [
        "sft",
        "distill",
    ]


@pytest.mark.parametrize(
    "kw, says",
    [
        (dict(latency_target_ms=100), "belong together"),
        (dict(latency_ms=100), "belong together"),
        (dict(latency_target_ms=0, latency_ms=3), "above 0"),
        (dict(latency_target_ms=-5, latency_ms=3), "above 0"),
        (dict(worth_it="no"), "worth_it must be True or False"),
        (dict(min_pairs=1.5), "whole number"),
        (dict(good_enough=90), "good_enough must be a share"),
    ],
)
def test_bad_knobs(kw, says):
    with pytest.raises(ValueError, match=says):
        choose_technique(0.5, 2000, **kw)


@pytest.mark.parametrize(
    "prompting",
    [
        87,
        -0.1,
        True,
        None,
        "0.5",
        float("nan"),
        score(0.5, 0.6, 0.7),
        score(0.5, -0.1, 0.7),
        score(50, 40, 60),
    ],
)
def test_bad_scores(prompting):
    with pytest.raises(ValueError, match="prompting_score"):
        choose_technique(prompting, 2000)


def test_every_branch_of_the_tree_leads_somewhere_and_is_drawn():
    assert all(b.then in TREE or b.then in ENDS for q in TREE.values() for b in (q.yes, q.no))
    assert all(bool(b.missing) == bool(b.how) for q in TREE.values() for b in (q.yes, q.no))
    drawn = [t.get_text() for t in draw_tree(choose_technique(0.5, 10)).texts]
    assert all(text in drawn for text in [*(q.ask for q in TREE.values()), *ENDS.values()])


def test_explore_needs_somebody_who_can_click(monkeypatch):
    for key in ("JPY_SESSION_NAME", "VSCODE_PID"):
        monkeypatch.delenv(key, raising=False)
    assert isinstance(explore(), Plan) and explore(labelled_examples=3).end == "collect"
    monkeypatch.setenv("JPY_SESSION_NAME", "x")
    pytest.importorskip("ipywidgets")
    assert len(explore(prompting_score=0.7).children) == 9
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert isinstance(explore(), Plan)


def test_a_moved_slider_shows_the_new_plan(monkeypatch, clicked):
    pytest.importorskip("ipywidgets")
    monkeypatch.setenv("JPY_SESSION_NAME", "x")
    nb = clicked(
        "from ftguide.decide import explore\nbox = explore(prompting_score=0.5, labelled_examples=5000)\nbox",
        "box.children[0].value = 0.95",
        "print(box.children[-1].outputs[0]['data']['text/markdown'])",
    )
    assert nb.cells[-1].outputs[0].text.startswith("**do not train**")


# ---- money


def test_sensitivity_moves_one_thing_at_a_time():
    case = dict(
        calls_per_month=1000,
        cost_before_usd_per_month=500,
        cost_after_usd_per_month=10,
        labour_weeks=3,
        usd_per_hour=50,
        compute_usd=0,
    )
    moves = sensitivity(**case)
    assert "compute_usd" not in moves and next(iter(moves)) in (
        "calls_per_month",
        "cost_before_usd_per_month",
    )
    for name, (low, high) in moves.items():
        if name == "calls_per_month":
            assert (
                high
                == roi(
                    **{
                        **case,
                        "calls_per_month": 2000,
                        "cost_before_usd_per_month": 1000,
                        "cost_after_usd_per_month": 20,
                    }
                ).five_year_usd
            )
        else:
            assert (low, high) == tuple(roi(**{**case, name: case[name] * f}).five_year_usd for f in (0.5, 2))
    with pytest.raises(ValueError, match="labour_weeks"):
        sensitivity(**{**case, "labour_weeks": -1})


def test_the_curve_goes_through_the_payback():
    r = roi(1000, 500, 10, 3)
    assert (
        r.curve()[0] == (0, -r.investment_usd)
        and r.curve()[-1] == (60, r.five_year_usd)
        and len(r.curve(12)) == 13
    )
    before, after = (r.curve()[i][1] for i in (int(r.payback_months), int(r.payback_months) + 1))
    assert before < 0 <= after
