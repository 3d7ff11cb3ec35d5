"The estimate of a training: parameters, memory, arithmetic, and what it says of wrong arguments."

import json
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from ftguide.scale import METHODS, estimate, model_shape

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
    config = AutoConfig.for_model(**{**TOY, **change})
    model = AutoModelForCausalLM.from_config(config)
    real = sum(p.numel() for p in model.parameters())
    assert (
        model_shape(config).parameters
        == model_shape(model).parameters
        == model_shape(SimpleNamespace(model=model, tokenizer=None)).parameters
        == real
    )


def test_adapters_are_counted_as_peft_counts_them():
    model = get_peft_model(
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**TOY)),
        LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=4),
    )
    assert estimate(TOY, "lora", rank=4).trained == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )


@pytest.mark.parametrize("kv", [2, 4])
def test_activations_are_what_autograd_keeps(kv):
    cells = {c.id: c.source for c in nbformat.read(ROOT / "nbs/11_scale.ipynb", 4).cells}
    space = dict(torch=torch, AutoConfig=AutoConfig, AutoModelForCausalLM=AutoModelForCausalLM)
    exec(cells["scale-hooks"].split("wide =")[0], space)
    one, two = ({**TOY, "num_key_value_heads": kv, "num_hidden_layers": n} for n in (1, 2))
    told = [
        estimate(c, batch_size=3, sequence_length=20, device="CPU").memory["activations"] for c in (one, two)
    ]
    assert told[1] - told[0] == space["autograd_keeps"](two, 3, 20) - space["autograd_keeps"](one, 3, 20)


# bytes, measured once, the C library as it is, on a processor that multiplies bfloat16: two steps of four
# rows, half of whose 158 tokens are scored; the teacher is the model of 60 million
MEASURED = {
    "30M": dict(sft=850e6, dpo=1334e6, lora=1009e6, distill=1226e6),
    "60M": dict(sft=1609e6, dpo=2278e6, lora=1512e6, distill=1998e6),
}
SIZES = {"30M": (288, 16, 9, 3, 768), "60M": (448, 18, 7, 7, 1152)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", SIZES)
def test_memory_of_small_models_is_what_was_measured(size, method, monkeypatch):
    monkeypatch.setattr("ftguide.scale.fast_bfloat16", lambda: True)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    shapes = {
        name: {**SMOL, **dict(zip((*names, "intermediate_size"), numbers))} for name, numbers in SIZES.items()
    }
    rows = 8 * (2 if method == "dpo" else 1)  # of two steps, both answers
    told = estimate(shapes[size], method, 4, 158, 158 * rows, "CPU", scored=0.4937, teacher=shapes["60M"])
    assert MEASURED[size][method] == pytest.approx(told.peak_bytes, rel=0.1)
    monkeypatch.setattr("ftguide.scale.fast_bfloat16", lambda: False)
    without = estimate(shapes[size], method, 4, 158, 158 * rows, "CPU", scored=0.4937, teacher=shapes["60M"])
    assert without.peak_bytes < told.peak_bytes and not without.memory["copies"]


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
