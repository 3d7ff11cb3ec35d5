"""The true architectures and sizes with random weights, on a CPU: load, two steps, save, reply, and the peak.

`pytest --long` adds the 1.7B shape and longer rows: eight minutes on two cores, 14 GB of memory, 6 GB of
disk."""

import shutil
import sys
from pathlib import Path

import gpu
import nbformat
import pytest
import torch

from ftguide.distillation import distill
from ftguide.dpo import align_dpo
from ftguide.engine.measuring import measure
from ftguide.models import encode, load, reply, save
from ftguide.scale import estimate, measure_training, parameter_count
from ftguide.sft import finetune_sft

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = {"135M": 134_515_008, "360M": 361_821_120, "1.7B": 1_711_376_384}
SHAPES = {name: shape for name, shape in gpu.SHAPES.items() if name != "micro"}
CASES = [  # (method, base, teacher, rows, tokens), and how far from the estimate the peak may be
    (("sft", "135M", None, 2, 96), 0.15),
    (("lora", "135M", None, 2, 96), 0.15),
    (("dpo", "135M", None, 1, 64), 0.25),
    (("distill", "135M", "135M", 1, 64), 0.25),
]
ALL_CASES = [
    *CASES,
    (("distill", "135M", "360M", 1, 64), 0.25),
    (("sft", "360M", None, 2, 256), 0.25),
    (("dpo", "360M", None, 2, 256), 0.25),
    (("lora", "1.7B", None, 2, 256), 0.25),
    (("distill", "360M", "1.7B", 2, 256), 0.25),
]


def told(found: dict, base: str, teacher: str | None) -> int:
    "Bytes that the estimate tells of a training that was measured."
    setting = (found[name] for name in ("method", "batch_size", "sequence_length", "tokens"))
    shape = SHAPES.get(teacher)
    return estimate(SHAPES[base], *setting, "CPU", scored=found["scored"], teacher=shape).peak_bytes


@pytest.mark.skipif(
    sys.platform != "linux", reason="how a C library keeps memory differs; measured with glibc"
)
@pytest.mark.parametrize(
    ("names", "cases", "seconds"),
    [
        pytest.param(["135M"], CASES, 500, id="135M"),
        pytest.param(list(SHAPES), ALL_CASES, 3500, id="1.7B", marks=pytest.mark.long),
    ],
)
@pytest.mark.timeout(3600)
def test_load_train_save_reply(tmp_path, names, cases, seconds):
    "The last run is the first with memory left to the C library, which keeps what it likes."
    jobs = [dict(zip(("method", "base", "teacher", "size", "length"), case)) for case, _ in cases]
    try:
        made, *seen = measure_training(tmp_path, {name: SHAPES[name] for name in names}, jobs, seconds)
        assert {name: parameter_count(tmp_path / name) for name in names} == {
            name: PARAMETERS[name] for name in names
        }
        assert not list(tmp_path.glob("after*")), "what was trained is gone"
        [free] = measure(tmp_path, [dict(jobs[0], train="ftguide.sft:finetune_sft")], exact=False)
    finally:
        shutil.rmtree(tmp_path)
    assert made["vocabulary"] == 49152 and made["bytes"] == pytest.approx(
        2 * sum(PARAMETERS[name] for name in names), rel=1e-3
    ), "bfloat16, each weight once"
    for (case, far), found in zip(cases, seen, strict=True):
        bytes_told = told(found, *case[1:3])
        print(f"{case}: {found['bytes'] / 1e9:.2f} GB, estimate {bytes_told / 1e9:.2f} GB")
        assert found["bytes"] < 24e9 and abs(found["bytes"] / bytes_told - 1) < far, (found, bytes_told)
        assert isinstance(found["answer"], str) and 0 < found["loss"] < 15
    assert 0.85 < free["bytes"] / told(free, "135M", None) < 1.35, free  # 1.21 was measured


def test_parameters_of_the_published_shapes():
    assert {name: estimate(shape).parameters for name, shape in SHAPES.items()} == PARAMETERS


def test_the_small_profile_starts_no_measurement(tmp_path):
    "settings.ini leaves the chapter's list of methods empty there: then no process is started."

    def started(*args, **kw):
        raise AssertionError("a process was started")

    cells = nbformat.read(ROOT / "nbs/11_scale.ipynb", 4).cells
    cell = next(c.source for c in cells if c.id == "scale-real")
    space = dict(real_methods=[], smollm2=SHAPES, there=tmp_path, shutil=shutil, measure_training=started)
    exec(cell, space)
    assert space["made"] is None and space["seen"] == []
    with pytest.raises(AssertionError, match="a process was started"):
        exec(cell, space | dict(real_methods=["sft"]))


# ---- other families, small, with the templates and special tokens of their own

FAMILIES = {
    "qwen3": dict(
        special=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        added=["<think>", "</think>"],
        ends=("<|im_end|>", "<|endoftext|>"),
        bos=None,
        config=dict(head_dim=16, tie_word_embeddings=True),
    ),
    "llama3": dict(
        special=[
            "<|begin_of_text|>",
            "<|eot_id|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
        ],
        added=[],
        ends=("<|eot_id|>", None),
        bos="<|begin_of_text|>",
        config=dict(tie_word_embeddings=False),
    ),
}


def family(name):
    """A small random model of the family.

    Llama 3's tokenizer has no padding token; Qwen's template writes an empty thought before an answer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AddedToken, AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl import chat_template_utils

    from ftguide.models import LM, complete_tokenizer

    about = FAMILIES[name]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.train_from_iterator(
        [r["prompt"] + r["completion"] for r in ROWS],
        trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=about["special"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    end, pad = about["ends"]
    tok = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=end,
        **(dict(pad_token=pad) if pad else {}),
        **(dict(bos_token=about["bos"]) if about["bos"] else {}),
    )
    tok.add_tokens([AddedToken(t, special=False, normalized=False) for t in about["added"]])
    tok.chat_template = (
        Path(chat_template_utils.__file__).parent / f"chat_templates/{name}.jinja"
    ).read_text(encoding="utf-8")
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama" if name == "llama3" else name,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tok) + 5,
        max_position_embeddings=512,
        eos_token_id=tok.eos_token_id,
        bos_token_id=tok.bos_token_id,
        pad_token_id=None,
        **about["config"],
    )
    return complete_tokenizer(LM(AutoModelForCausalLM.from_config(config), tok, name))


ROWS = [dict(prompt=f"How much is {i} + 1?", completion=f"It is {i + 1}.") for i in range(12)]
TALKS = [
    dict(
        messages=[
            dict(role="user", content=r["prompt"]),
            dict(role="assistant", content=r["completion"]),
            dict(role="user", content="Sure?"),
            dict(role="assistant", content="Yes."),
        ]
    )
    for r in ROWS
]


@pytest.mark.parametrize("name", FAMILIES)
def test_families_with_their_own_templates(name, tmp_path):
    lm = family(name)
    tok, before = lm.tokenizer, [p.detach().clone() for p in lm.model.parameters()]
    ids, labels = encode(tok, ROWS[0]["prompt"], ROWS[0]["completion"])
    said = tok.decode([i for i, label in zip(ids, labels) if label != -100])
    assert (
        said.strip().endswith(f"It is 1.{tok.eos_token}")
        and ("<think>" in said) == (name == "qwen3")
        and ROWS[0]["prompt"] not in said
    )
    if name == "llama3":
        assert tok.decode(ids).count("<|begin_of_text|>") == 1
    sft = finetune_sft(lm, ROWS, epochs=40, learning_rate=5e-3, batch_size=6)
    assert [h["loss"] for h in sft.history if "loss" in h][-1] < 0.5
    assert "It is" in reply(sft, ROWS[3]["prompt"], 24), "it has learnt to answer in its template"
    for after in (
        finetune_sft(lm, TALKS, max_steps=2),
        align_dpo(
            sft,
            [dict(prompt=r["prompt"], chosen=r["completion"], rejected="No idea.") for r in ROWS],
            max_steps=2,
        ),
        distill(sft, lm, ROWS, max_steps=2, max_new_tokens=16),
    ):
        assert all(torch.isfinite(p).all() for p in after.model.parameters()) and not all(
            torch.equal(p, q) for p, q in zip(after.model.parameters(), before)
        )
    again = load(save(sft, tmp_path / "model"))
    assert (
        reply(again, ROWS[3]["prompt"], 24) == reply(sft, ROWS[3]["prompt"], 24)
        and again.tokenizer.chat_template == tok.chat_template
    )
