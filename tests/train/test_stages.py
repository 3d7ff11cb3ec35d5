"What every stage keeps: determinism, untouched inputs, interrupted runs, other architectures, conversations."

import json
import signal
import subprocess
import sys
import time

import pytest
import torch

from ftguide.distillation import distill
from ftguide.dpo import align_dpo, align_kto
from ftguide.models import LM, complete_tokenizer, completion_logps, load, reply, save
from ftguide.sft import finetune_sft

ROWS = [dict(prompt=f"How much is {i} + 1?", completion=str(i + 1)) for i in range(24)]
PAIRS = [dict(prompt=r["prompt"], chosen=r["completion"], rejected="no idea") for r in ROWS]
THUMBS = [dict(r, label=i % 3 > 0) for i, r in enumerate(ROWS)]


def weights(lm):
    return torch.cat([p.detach().flatten() for p in lm.model.parameters()])


@pytest.mark.parametrize(
    "stage",
    [
        lambda: finetune_sft("tiny-small", ROWS, epochs=1),
        lambda: align_dpo("tiny-small", PAIRS),
        lambda: align_kto("tiny-small", THUMBS),
        lambda: distill("tiny", "tiny-small", ROWS, epochs=1),
        lambda: distill("tiny", "tiny-small", ROWS, epochs=1, on_policy=True, max_new_tokens=4, batch_size=4),
    ],
    ids=["sft", "dpo", "kto", "distill", "on-policy"],
)
def test_same_seed_same_weights(stage):
    before = weights(load("tiny-small"))
    a, b = stage(), stage()
    assert torch.equal(weights(a), weights(b))
    assert not torch.equal(weights(a), before) and torch.equal(weights(load("tiny-small")), before)
    assert "forward" not in a.model.__dict__ and a.history


def test_in_memory_model_is_never_changed():
    lm = load("tiny-small")
    before = weights(lm).clone()
    align_dpo(finetune_sft(lm, ROWS, epochs=1), PAIRS)
    distill(lm, lm, ROWS, epochs=1)
    assert torch.equal(weights(lm), before)


def test_first_dpo_loss_is_ln2_also_from_a_folder(tmp_path):
    sft = finetune_sft("tiny-small", ROWS, epochs=1)
    for base in (sft, str(save(sft, tmp_path / "sft"))):
        first = next(h["loss"] for h in align_dpo(base, PAIRS).history if "loss" in h)
        assert first == pytest.approx(0.693147, abs=1e-3)


def test_conversations_score_only_the_assistant():
    rows = [
        dict(
            messages=[
                dict(role="system", content="Be brief."),
                dict(role="user", content="Hi"),
                dict(role="assistant", content="Hello"),
                dict(role="user", content="Who?"),
                dict(role="assistant", content=f"Me {i}"),
            ]
        )
        for i in range(8)
    ]
    assert torch.isfinite(weights(finetune_sft("tiny-small", rows, epochs=1))).all()


def own_tokenizer():
    "Byte-level BPE trained here; an end token, but no padding token and no chat template."
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        [r["prompt"] + r["completion"] for r in ROWS] * 3,
        vocab_size=400,
        min_frequency=1,
        special_tokens=["<end>"],
        show_progress=False,
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<end>")


KINDS = {
    "llama": {},
    "mistral": {},
    "qwen3": {},
    "phi3": {},
    "gpt2": dict(
        n_embd=32, n_layer=2, n_head=4, n_positions=512, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    ),
    "gemma2": dict(final_logit_softcapping=5.0),
    "gemma3_text": {},
}


def family(kind, own=False):
    "A small random model, with its own tokenizer or the guide's, which has a padding token and a template."
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = own_tokenizer() if own else load("tiny").tokenizer
    sizes = (
        {}
        if kind == "gpt2"
        else dict(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=512,
        )
    )
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        **{
            **sizes,
            **KINDS[kind],
            "vocab_size": len(tokenizer),
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        },
    )
    return complete_tokenizer(LM(AutoModelForCausalLM.from_config(config), tokenizer, kind))


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gpt2"])
def test_other_architectures(kind):
    lm = family(kind)
    before = weights(lm).clone()
    for after in (
        align_dpo(lm, PAIRS[:8], learning_rate=1e-3),
        distill("tiny", lm, ROWS[:8], epochs=1, learning_rate=1e-3),
    ):
        assert torch.isfinite(weights(after)).all() and not torch.equal(weights(after), before)
    assert isinstance(reply(lm, "Hi", 4), str)


@pytest.mark.parametrize("own", [False, True], ids=["template", "own"])
@pytest.mark.parametrize("kind", KINDS)
def test_first_sft_loss_is_the_plain_computation(kind, own):
    lm = family(kind, own)
    before = weights(lm).clone()
    after = finetune_sft(lm, ROWS[:4], epochs=1, learning_rate=1e-3, batch_size=4, warmup_steps=0)
    sums, counts = completion_logps(lm, [r["prompt"] for r in ROWS[:4]], [r["completion"] for r in ROWS[:4]])
    assert next(h["loss"] for h in after.history if "loss" in h) == pytest.approx(
        (-sums.sum() / counts.sum()).item(), rel=1e-4
    )
    assert torch.isfinite(weights(after)).all() and not torch.equal(weights(after), before)


@pytest.mark.parametrize(
    "knobs",
    [
        dict(packing=True),
        dict(lora=True),
        dict(gradient_accumulation_steps=2),
        dict(train_sampling_strategy="group_by_length"),
    ],
    ids=lambda k: next(iter(k)),
)
def test_other_ways_of_training(knobs):
    lm = finetune_sft("tiny-small", ROWS, epochs=2, learning_rate=3e-3, **knobs)
    sums, _ = completion_logps(lm, [r["prompt"] for r in ROWS], [r["completion"] for r in ROWS])
    start, _ = completion_logps(
        load("tiny-small"), [r["prompt"] for r in ROWS], [r["completion"] for r in ROWS]
    )
    assert sums.sum() > start.sum() and type(lm.model).__name__ == "LlamaForCausalLM"


def test_tokenizer_without_template_or_padding():
    lm = load("tiny")
    lm.tokenizer.chat_template = None
    lm.tokenizer.pad_token = None
    after = finetune_sft(complete_tokenizer(LM(lm.model, lm.tokenizer)), ROWS, epochs=1)
    assert isinstance(reply(after, ["Hi", "A longer question"], 4), list)


def test_different_tokenizers_need_text():
    other = load("tiny-small")
    other.tokenizer.add_tokens(["brandnewtoken"])
    with pytest.raises(ValueError, match="alpha=0"):
        distill("tiny", other, ROWS)


def test_own_data_through_the_command(tmp_path):
    "Another domain, Portuguese, 60 rows: models, report.json and report.html."
    for name, rows in (
        (
            "sft",
            [
                dict(
                    prompt=f"Resuma: o ônibus {i} sai às {i % 24} horas.",
                    completion=f"Ônibus {i}: {i % 24} h",
                )
                for i in range(60)
            ],
        ),
        (
            "pairs",
            [
                dict(
                    prompt=f"Resuma: o ônibus {i} sai às {i % 24} horas.",
                    chosen=f"Ônibus {i}: {i % 24} h",
                    rejected="Não sei.",
                )
                for i in range(60)
            ],
        ),
        ("prompts", [dict(prompt=f"Resuma: o trem {i} chega às {i % 24} horas.") for i in range(60)]),
    ):
        (tmp_path / f"{name}.jsonl").write_text(
            "\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8"
        )
    out = tmp_path / "mine"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from ftguide.cli import main; main()",
            "run",
            "--sft",
            tmp_path / "sft.jsonl",
            "--pairs",
            tmp_path / "pairs.jsonl",
            "--corpus",
            tmp_path / "prompts.jsonl",
            "--base",
            "tiny-small",
            "--student",
            "tiny-small",
            "--epochs",
            "1",
            "--distill-epochs",
            "1",
            "--out",
            out,
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(p.name for p in out.iterdir()) == ["dpo", "report.html", "report.json", "sft", "student"]
    for folder in ("sft", "dpo", "student"):
        names = {p.name for p in (out / folder).iterdir()}
        assert {
            "model.safetensors",
            "tokenizer.json",
            "generation_config.json",
            "chat_template.jinja",
            "README.md",
        } <= names
        assert "95 % interval" in (out / folder / "README.md").read_text(encoding="utf-8")
        assert isinstance(reply(load(out / folder), "Resuma: o trem 3 chega às 4 horas."), str)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert [s["name"] for s in report["stages"]] == ["base", "SFT", "DPO", "distilled"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert (
        "Before and after each stage" in page
        and "data:image/png;base64" in page
        and "http://" not in page.split("<body")[0].replace("http://www.w3.org", "")
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupt_keeps_finished_stages(tmp_path):
    out = tmp_path / "mine"
    rows = tmp_path / "sft.jsonl"
    rows.write_text("\n".join(json.dumps(r) for r in ROWS), encoding="utf-8")
    prompts = tmp_path / "p.jsonl"
    prompts.write_text(
        "\n".join(json.dumps(dict(prompt=f"{r['prompt']} {i}")) for i in range(40) for r in ROWS),
        encoding="utf-8",
    )
    run = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from ftguide.cli import main; main()",
            "run",
            "--base",
            "tiny-small",
            "--sft",
            rows,
            "--corpus",
            prompts,
            "--out",
            out,
            "--epochs",
            "1",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # a background job ignores it
    deadline = time.time() + 120
    while not (out / "sft/README.md").exists() and run.poll() is None and time.time() < deadline:
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130 and "finished stages are kept" in err and "Traceback" not in err, err
    assert isinstance(reply(load(out / "sft"), "Hi"), str) and not (out / "student").exists()
