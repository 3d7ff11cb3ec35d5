"The tree, the estimate and the return on investment: what the first chapter has no room for."

import json
import random
import subprocess
import sys
import tomllib
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from ftguide.decide import (
    ENDS,
    METHODS,
    TREE,
    Plan,
    api_usd,
    choose_technique,
    draw_tree,
    estimate,
    explore,
    prices,
    roi,
    sensitivity,
    shape,
)

ROOT = Path(__file__).resolve().parents[2]
SMOL = dict(
    model_type="llama",
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=49152,
    tie_word_embeddings=True,
)
TOY = dict(
    model_type="llama",
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=128,
    tie_word_embeddings=False,
)


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


# ---- the estimate


@pytest.mark.parametrize(
    "change",
    [
        {},
        dict(tie_word_embeddings=True),
        dict(num_key_value_heads=4, attention_bias=True),
        dict(model_type="qwen2"),
        dict(model_type="mistral", head_dim=16),
    ],
)
def test_parameters_are_counted_exactly(change):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**{**TOY, **change})
    model = AutoModelForCausalLM.from_config(config)
    real = sum(p.numel() for p in model.parameters())
    assert (
        shape(config).parameters
        == shape(model).parameters
        == shape(SimpleNamespace(model=model, tokenizer=None)).parameters
        == real
    )


def test_adapters_are_counted_as_peft_counts_them():
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    model = get_peft_model(
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**TOY)),
        LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=4),
    )
    assert estimate(TOY, "lora", rank=4).trained == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )


@pytest.mark.parametrize("kv", [2, 4])
def test_activations_are_what_autograd_keeps(kv):
    cells = {c.id: c.source for c in nbformat.read(ROOT / "nbs/00_decide.ipynb", 4).cells}
    space = {}
    exec(cells["decide-hooks"].split("wide =")[0], space)
    one, two = ({**TOY, "num_key_value_heads": kv, "num_hidden_layers": n} for n in (1, 2))
    told = [
        estimate(c, batch_size=3, sequence_length=20, device="CPU").memory["activations"] for c in (one, two)
    ]
    assert told[1] - told[0] == space["autograd_keeps"](two, 3, 20) - space["autograd_keeps"](one, 3, 20)


def test_a_folder_with_a_config_is_enough(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TOY))
    assert estimate(tmp_path).parameters == estimate(str(tmp_path)).parameters == estimate(TOY).parameters
    assert estimate("tiny").parameters > estimate("tiny-small").parameters


def test_larger_costs_more_and_adapters_less():
    small, large = (estimate(SMOL, batch_size=b, device="CPU") for b in (2, 16))
    assert large.peak_bytes > small.peak_bytes and large.flops == small.flops
    assert (
        estimate(SMOL, "lora", batch_size=1, sequence_length=64, device="CPU").peak_bytes
        < estimate(SMOL, batch_size=1, sequence_length=64, device="CPU").peak_bytes / 2
    )
    assert estimate(SMOL, epochs=3).usd == pytest.approx(3 * estimate(SMOL).usd)
    assert estimate(SMOL, mfu=0.6).hours == pytest.approx(estimate(SMOL, mfu=0.3).hours / 2)
    assert (
        estimate(SMOL, "distill", teacher={**SMOL, "num_hidden_layers": 60}).memory["teacher"]
        > estimate(SMOL, "distill").memory["teacher"]
    )
    assert (
        not estimate({**SMOL, "num_hidden_layers": 3000}, device="L4").fits
        and estimate(SMOL, device="L4").fits
    )
    assert all(str(p) in str(estimate(SMOL, m)) for m in METHODS for p in ("weights", "peak", "USD"))


@pytest.mark.parametrize(
    "kw, says",
    [
        (dict(method="rlhf"), "method must be one of sft, lora, dpo, distill, not 'rlhf'"),
        (dict(device="H1000"), "no device 'H1000' in prices.json; it has CPU, L4"),
        (dict(device={}), "device needs memory_gb, peak_tflops, usd_per_hour"),
        (
            dict(device=dict(memory_gb=1, peak_tflops=0, usd_per_hour=1)),
            "peak_tflops must be a number above 0",
        ),
        (dict(batch_size=-1), "batch_size must be a whole number, 1 or more"),
        (dict(batch_size=2.5), "batch_size"),
        (dict(sequence_length=0), "sequence_length"),
        (dict(rank=0), "rank"),
        (dict(tokens=-1), "tokens must be a number above 0"),
        (dict(tokens=float("inf")), "tokens"),
        (dict(epochs=0), "epochs"),
        (dict(scored=1.5), "scored must be a share"),
        (dict(mfu=0), "mfu must be a share"),
    ],
)
def test_bad_numbers(kw, says):
    with pytest.raises(ValueError, match=says):
        estimate(TOY, **kw)


@pytest.mark.parametrize(
    "model, says",
    [
        (dict(model_type="bert"), "bert is not a decoder"),
        (dict(model_type="t5"), "t5 is not a decoder"),
        (dict(model_type="distilbert"), "not a decoder"),
        (dict(model_type="gpt2"), "the config of gpt2 has no intermediate_size"),
        (dict(model_type="mixtral"), "mixture of experts"),
        (dict(hidden_size=8), "not a config: .* needs a known model_type"),
        (dict(model_type="no-such"), "not a config"),
        ("no-such-model", "no config for 'no-such-model'"),
        ("/no/such/folder", "no config for"),
        ("", "no config for"),
        (None, "not NoneType"),
        (3, "not int"),
        ({**TOY, "hidden_size": 33}, "not a multiple of the number of attention heads"),
    ],
)
def test_bad_models(model, says, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=says):
        estimate(model)
    if isinstance(model, dict) and model.get("model_type") == "bert":
        with pytest.raises(ValueError, match="bert is not a decoder"):
            estimate(TOY, "distill", teacher=model)


def measure(specs, allocator):
    "The chapter's own measuring process."
    cells = {c.id: c.source for c in nbformat.read(ROOT / "nbs/00_decide.ipynb", 4).cells}
    space = {}
    exec(cells["decide-measure-child"], space)
    done = subprocess.run(
        [sys.executable, "-c", space["child"], json.dumps(specs), allocator],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])[1]


@pytest.mark.skipif(
    sys.platform != "linux", reason="how a C library keeps memory differs; measured with glibc"
)
def test_memory_of_the_whole_135m_model():
    "SmolLM2-135M's shape with random weights, two steps; SFT also with the C library keeping what it likes."
    run = lambda method: dict(config=SMOL, method=method, size=2, length=96)
    held, free = measure([run("lora"), run("sft")], "exact"), measure([run("sft")], "as it is")
    for m, most in ((held[0], 1.15), (held[1], 1.15), (free[0], 1.2)):
        told = estimate(
            SMOL, m["method"], m["batch_size"], m["length"], m["tokens"], "CPU", scored=m["scored"]
        ).peak_bytes
        assert 0.85 < m["bytes"] / told < most, (m, told)


# ---- prices and money


def test_every_price_has_a_date_and_a_source():
    for line in [*prices()["gpus"].values(), *prices()["apis"].values()]:
        assert date(2023, 1, 1) < date.fromisoformat(line["date"]) and len(line["source"]) > 10
        assert all(v > 0 for v in line.values() if not isinstance(v, str))


def test_peaks_agree_with_trl():
    utils = pytest.importorskip("trl.trainer.utils")
    table = dict(getattr(utils, "_PEAK_FLOPS_BY_DEVICE", ()))
    for name, line in prices()["gpus"].items():
        if name in table:
            assert line["peak_tflops"] * 1e12 == table[name]["bfloat16"]


def test_prices_of_ones_own(tmp_path):
    (tmp_path / "p.json").write_text('{"gpus": {}, "apis": {}}')
    assert prices(tmp_path / "p.json") == {"gpus": {}, "apis": {}}
    with pytest.raises(ValueError, match="no API 'x' in prices.json"):
        api_usd("x", 1)
    with pytest.raises(ValueError, match="tokens_out"):
        api_usd("gpt-4o-mini", 1, -1)


def test_prices_are_packaged():
    assert (
        "prices.json"
        in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
            "ftguide"
        ]
    )
    assert "include ftguide/prices.json" in (ROOT / "MANIFEST.in").read_text()


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
    assert "compute_usd" not in moves and list(moves)[0] in ("calls_per_month", "cost_before_usd_per_month")
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
