"""Training and serving at real sizes, this guide's trainers beside TRL's, on one GPU: `python tools/gpu.py`.

Weights are float32, arithmetic is bfloat16 (autocast), checkpointing is on: what both choose by themselves
on a GPU. Random weights and random words: speed and memory do not depend on what a model knows. On a GPU
each line of the CSV is a process of its own; on a CPU, which is for trying the script, all are one, and so
is their peak. tokens_per_second counts every token of a step, padding too (both answers of a pair). mfu is
6 operations for a parameter and token, 12 more for a layer, its width and a token's position, 2 for a
parameter of the teacher, over the device's peak: the same count for both trainers, whatever they leave out
or do twice. The first steps are not timed."""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = (
    "date",
    "device",
    "torch",
    "transformers",
    "trl",
    "shape",
    "parameters",
    "stage",
    "who",
    "rows",
    "length",
    "seconds_per_step",
    "tokens_per_second",
    "mfu",
    "peak_gb",
    "loss",
    "latency_ms",
    "usd_per_million_tokens",
    "error",
)


def llama(hidden, layers, heads, kv, ffn, vocabulary=49152):
    return dict(
        model_type="llama",
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        intermediate_size=ffn,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
    )


SHAPES = {
    "micro": llama(32, 2, 2, 2, 64, 1024),
    "135M": llama(576, 30, 9, 3, 1536),
    "360M": llama(960, 32, 15, 5, 2560),
    "1.7B": llama(2048, 24, 32, 32, 8192),
}
STAGES, WHO = ("SFT", "DPO", "distillation"), ("ftguide", "TRL")


def model(shape, tokenizer, seed=0):  # -> LM with random float32 weights
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from ftguide.models import LM, complete_tokenizer

    torch.manual_seed(seed)
    ids = dict(
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return complete_tokenizer(
        LM(
            AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**SHAPES[shape], **ids})),
            tokenizer,
            shape,
        )
    )


def table(
    tokenizer, stage, rows, length
):  # rows whose tokens, in the template, are just about `length`, half of them answer
    rng = random.Random(0)
    common = ["red", "blue", "lamp", "mug", "warm", "light", "small", "large", "costs", "nine", "coins"]

    def text(tokens):
        words = []
        while len(tokenizer(" ".join(words)).input_ids) < tokens:
            words.append(rng.choice(common))
        return " ".join(words)

    answers = ("chosen", "rejected") if stage == "DPO" else ("completion",)
    return [
        {"prompt": text(length // 2 - 4), **{a: text(length // 2 - 4) for a in answers}} for _ in range(rows)
    ]


def synchronized():  # seconds, when all that was asked for is done
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def clock():
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self):
            self.ends = []

        def on_step_end(self, *args, **kw):
            self.ends.append(synchronized())

    return Clock()


def ours(stage, lm, teacher, data, watch, job):  # -> training log
    from ftguide.distillation import distill
    from ftguide.dpo import align_dpo
    from ftguide.sft import finetune_sft

    knobs = dict(
        epochs=1,
        batch_size=job["rows"],
        callbacks=(watch,),
        logging_steps=1,
        save_strategy="no",
        learning_rate=1e-5,
    )
    if stage == "distillation":
        return distill(teacher, lm, data, alpha=1.0, temperature=1.0, **knobs).history
    return (align_dpo if stage == "DPO" else finetune_sft)(lm, data, **knobs).history


def trl(stage, lm, teacher, data, watch, job):  # -> training log
    import tempfile

    import torch
    import trl
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    from ftguide.engine.training_data import to_trl

    gpu = torch.cuda.is_available()
    common = dict(
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=1,
        per_device_train_batch_size=job["rows"],
        learning_rate=1e-5,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        max_length=job["length"] + 64,
        bf16=gpu,
        gradient_checkpointing=gpu,
        use_cpu=not gpu,
    )
    if stage == "SFT":
        trainer, config, knobs = trl.SFTTrainer, trl.SFTConfig(**common), {}
    elif stage == "DPO":
        trainer, config, knobs = trl.DPOTrainer, trl.DPOConfig(**common, precompute_ref_log_probs=True), {}
    else:
        trainer, config, knobs = (
            GKDTrainer,
            GKDConfig(**common, lmbda=0.0, beta=0.0, temperature=1.0),
            dict(teacher_model=teacher.model),
        )
    rows = (
        to_trl(data, "pairs" if stage == "DPO" else "sft")
        if stage != "distillation"
        else [
            dict(
                messages=[
                    dict(role="user", content=r["prompt"]),
                    dict(role="assistant", content=r["completion"]),
                ]
            )
            for r in data
        ]
    )
    if isinstance(rows, list):
        from datasets import Dataset

        rows = Dataset.from_list(rows)
    run = trainer(
        model=lm.model,
        args=config,
        train_dataset=rows,
        processing_class=lm.tokenizer,
        callbacks=[watch],
        **knobs,
    )
    run.train()
    return run.state.log_history


def trained(job):  # seconds, tokens a second, operations, peak, loss

    from ftguide.models import encode, load

    tokenizer = load("tiny").tokenizer
    lm, watch = model(job["shape"], tokenizer), clock()
    teacher = model(job["teacher"], tokenizer, 1) if job["stage"] == "distillation" else None
    data = table(tokenizer, job["stage"], job["rows"] * job["steps"], job["length"])
    length = max(len(encode(tokenizer, r["prompt"], r[a])[0]) for r in data for a in r if a != "prompt")
    log = (ours if job["who"] == "ftguide" else trl)(job["stage"], lm, teacher, data, watch, job)
    gaps = [b - a for a, b in zip(watch.ends, watch.ends[1:])]
    seconds, tokens = (
        median(gaps[len(gaps) // 3 :]),
        job["rows"] * length * (2 if job["stage"] == "DPO" else 1),
    )
    work = lambda m, passes: (
        passes
        * (2 * m.parameters + 4 * m.model.config.num_hidden_layers * m.model.config.hidden_size * length)
    )
    flops = tokens * (work(lm, 3) + (work(teacher, 1) if teacher else 0))
    return dict(
        parameters=lm.parameters,
        seconds_per_step=seconds,
        tokens_per_second=tokens / seconds,
        mfu=flops / seconds / job["peak"],
        length=length,
        peak_gb=peak_gb(),
        loss=[h["loss"] for h in log if "loss" in h][-1],
    )


def peak_gb():
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    import resource

    return (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    )  # of the process, libraries included


def served(job):  # latency of one prompt, tokens a second of many, and what a million cost
    import torch

    from ftguide.models import load, tokens_per_second

    tokenizer = load("tiny").tokenizer
    lm, new = model(job["shape"], tokenizer), 8 if job["shape"] == "micro" else 64
    if torch.cuda.is_available():
        lm.model.to("cuda", torch.bfloat16)
    prompts = [r["prompt"] for r in table(tokenizer, "SFT", 2 * job["rows"], min(job["length"], 256))]
    lm.model.eval()
    one, many = (tokens_per_second(lm, prompts[:n], n, new) for n in (1, len(prompts)))
    return dict(
        parameters=lm.parameters,
        latency_ms=1000 * new / one,
        tokens_per_second=many,
        usd_per_million_tokens=job["usd_per_hour"] / 3600 / many * 1e6,
        peak_gb=peak_gb(),
    )


def measured(job):
    os.environ.update(TQDM_DISABLE="1", HF_HUB_OFFLINE="1")
    import warnings

    warnings.simplefilter("ignore")
    return (served if job["stage"] == "serving" else trained)(job)


def alone(job):  # measured in a process of its own, or why not
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(job)], capture_output=True, text=True
    )
    return (
        json.loads(done.stdout.splitlines()[-1])
        if done.returncode == 0
        else dict(error=(done.stderr.strip().splitlines() or ["ended without a word"])[-1][:200])
    )


def device(name, peak_tflops, usd_per_hour):  # what it is called, operations a second at its best, price
    import torch

    from ftguide.engine.prices import prices

    lines = prices()["gpus"]
    if name == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        a = torch.randn(1024, 1024)
        a @ a
        times = []
        for _ in range(5):
            began = time.perf_counter()
            a @ a
            times.append(time.perf_counter() - began)
        return (
            "CPU",
            (peak_tflops or 2 * 1024**3 / min(times) / 1e12) * 1e12,
            usd_per_hour or lines["CPU"]["usd_per_hour"],
        )
    if not torch.cuda.is_available():
        raise SystemExit(
            "error: torch finds no CUDA GPU here; --device cpu --shapes micro --steps 2 tries the script "
            "without one"
        )
    called = torch.cuda.get_device_name()
    known = next((lines[k] for k in lines if k != "CPU" and k.lower() in called.lower()), {})
    peak, price = peak_tflops or known.get("peak_tflops"), usd_per_hour or known.get("usd_per_hour")
    if not peak or not price:
        raise SystemExit(
            f"error: prices.json does not know {called}; give --peak-tflops (dense bfloat16, from its data "
            "sheet) and --usd-per-hour"
        )
    return called, peak * 1e12, price


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["135M", "360M", "1.7B"])
    parser.add_argument(
        "--teacher", choices=list(SHAPES), help="of every distillation; by default the largest of the shapes"
    )
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rows", type=int, default=8, help="of a step; pairs for DPO")
    parser.add_argument("--length", type=int, default=1024, help="tokens of a row")
    parser.add_argument("--peak-tflops", type=float)
    parser.add_argument("--usd-per-hour", type=float)
    parser.add_argument("--out", type=Path, default=ROOT / "nbs/gpu.csv")
    args = parser.parse_args()
    if args.steps < 2:
        raise SystemExit("error: --steps must be 2 or more: a time lies between the ends of two steps")
    name, peak, price = device(args.device, args.peak_tflops, args.usd_per_hour)
    fixed = dict(
        date=date.today().isoformat(),
        device=name,
        **{p: version(p) for p in ("torch", "transformers", "trl")},
    )
    largest = args.teacher or max(args.shapes, key=lambda s: SHAPES[s]["hidden_size"])
    lines = []
    for shape in args.shapes:
        for stage, who in [(s, w) for s in STAGES for w in WHO] + [("serving", "ftguide")]:
            job = dict(shape=shape, stage=stage, who=who, rows=args.rows, length=args.length)
            found = (measured if args.device == "cpu" else alone)(
                dict(job, steps=args.steps, teacher=largest, peak=peak, usd_per_hour=price)
            )
            lines.append({**fixed, **job, **found})
            print(
                shape,
                stage,
                who,
                {k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()},
                flush=True,
            )
    with args.out.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, COLUMNS)
        writer.writeheader()
        writer.writerows(lines)
    print(f"{len(lines)} lines in {args.out}")
    if any("error" in line for line in lines):
        raise SystemExit("error: some lines could not be measured; the column error says why")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(measured(json.loads(sys.argv[2]))))
    else:
        main()
