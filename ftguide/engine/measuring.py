"Memory and time of a training, measured: random models of a true shape, and a fresh process for each run."

import ctypes
import gc
import json
import os
import pkgutil
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback

from ftguide.models import LM, encode, load, reply, save

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ANSWERS = {"dpo": ("chosen", "rejected")}  # columns beside the prompt; else "completion"


def random_words(n: int, seed: int) -> list[str]:
    "Made-up words of one to four syllables."
    rng = random.Random(seed)
    onsets = ["b", "c", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "st", "tr", "pl"]
    syllables = [onset + vowel + end for onset in onsets for vowel in "aeiou" for end in ("", "n", "r", "s")]
    return ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(n)]


def random_tokenizer(
    vocabulary: int,  # how many tokens it gets
) -> PreTrainedTokenizerFast:
    "A tokenizer of made-up words, made as SmolLM2's was: digits apart, then pairs of bytes."
    bpe = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=_SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [" ".join(random_words(20, seed)) for seed in range(4000)]
    bpe.train_from_iterator([CHATML] * 9 + texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=_SPECIAL_TOKENS[1],
        eos_token=_SPECIAL_TOKENS[2],
        pad_token=_SPECIAL_TOKENS[2],
        unk_token=_SPECIAL_TOKENS[0],
        chat_template=CHATML,
    )


def random_model(
    config: dict,  # values of a transformers config; a Llama unless model_type says otherwise
) -> torch.nn.Module:
    "A causal LM with random bfloat16 weights: one stretch of numbers, repeated, as drawing all takes long."
    defaults = {"model_type": "llama", "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**{**defaults, **config}), dtype=torch.bfloat16
        )
    model.to_empty(device="cpu")
    model.tie_weights()
    stretch = (torch.randn(2**20, generator=torch.Generator().manual_seed(0)) / 50).bfloat16()
    for weight in model.parameters():
        if weight.ndim == 1:  # of a norm
            weight.data = torch.ones_like(weight)
        else:
            repeated = stretch.repeat(weight.numel() // len(stretch) + 1)
            weight.data = repeated[: weight.numel()].view(weight.shape).clone()
    model.tie_weights()
    return model


def save_random_models(
    folder: str | Path,  # one folder for each model is made here
    models: dict[str, dict],  # name -> config values
    vocabulary: int = 49152,
) -> dict:  # tokens of the vocabulary, bytes of the weights
    "Models of a true shape with random weights in bfloat16, as on the hub."
    tokenizer = random_tokenizer(vocabulary)
    for name, config in models.items():
        save(LM(random_model(config), tokenizer, name), Path(folder) / name)
    weights = sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors"))
    return dict(vocabulary=len(tokenizer), bytes=weights)


def random_rows(
    tokenizer: PreTrainedTokenizerFast,
    method: str,  # "sft", "lora", "dpo" or "distill"
    n: int,
    length: int,  # tokens of a row at most, template included
) -> list[dict]:
    "Rows of made-up words, in the form the method reads."

    def text(tokens: int, seed: int) -> str:
        return tokenizer.decode(tokenizer(" ".join(random_words(tokens, seed))).input_ids[:tokens])

    columns = ANSWERS.get(method, ("completion",))
    return [
        {
            "prompt": text(length // 2 - 26, i),
            **{column: text(length // 2 - 4, 1000 * j + i) for j, column in enumerate(columns, 1)},
        }
        for i in range(n)
    ]


class StepClock(TrainerCallback):
    "Notes when each step ends."

    def __init__(self) -> None:
        self.ends: list[float] = []  # seconds, of a clock that only goes forward

    def on_step_end(self, *args, **kwargs) -> None:
        self.ends.append(time.perf_counter())


def peak_memory(
    work: Callable[[], Any],
    every_s: float = 0.002,  # how often the memory is read
) -> tuple[Any, int]:  # what `work` returns, and bytes of this process beyond what it held before
    "The peak of this process's memory while `work` runs."
    gc.collect()
    memory, done = psutil.Process().memory_info, threading.Event()
    before = memory().rss
    seen = [before]

    def watch() -> None:
        while not done.wait(every_s):
            seen[0] = max(seen[0], memory().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        result = work()
        return result, max(seen[0], memory().rss) - before
    finally:
        done.set()
        thread.join()


def _lengths(tokenizer, rows: list[dict]) -> list[tuple[int, int]]:
    "Tokens of each sequence, and how many of them are scored."
    coded = [
        encode(tokenizer, row["prompt"], row[answer]) for row in rows for answer in row if answer != "prompt"
    ]
    return [(len(ids), sum(label != -100 for label in labels)) for ids, labels in coded]


def measure_one(
    folder: str | Path,  # where the models are
    method: str,  # "sft", "lora", "dpo" or "distill"
    train: str,  # the function that trains, as "module:name"
    base: str,  # name of a model in the folder
    size: int,  # rows of a step; pairs for dpo
    length: int,  # tokens of a row at most
    teacher: str | None = None,  # of a distillation: name of a model in the folder
) -> dict:  # what was trained, peak in bytes, seconds of a step, first loss, an answer
    "Load, two steps, save, load again, reply; the peak is that up to the end of the steps."
    folder, clock = Path(folder), StepClock()
    function = pkgutil.resolve_name(train)

    def trained(models: list, rows: list[dict], size: int) -> LM:
        knobs: dict = dict(epochs=1, batch_size=size, callbacks=(clock,))
        if method == "lora":
            knobs["lora"] = True
        return function(*models, rows, **knobs)

    paths = [folder / name for name in (teacher, base) if name]
    first = random_rows(load("tiny-small").tokenizer, method, 2, 64)
    trained(["tiny-small"] * len(paths), first, 1)  # brings in what is loaded late
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / base)
    rows = random_rows(tokenizer, method, 2 * size, length)
    after, peak = peak_memory(lambda: trained(paths, rows, size))
    lengths = _lengths(tokenizer, rows)
    longest = max(tokens for tokens, _ in lengths)
    loss = next(entry["loss"] for entry in after.history if "loss" in entry)
    saved = save(after, folder / f"after-{method}")
    del after
    gc.collect()
    answer = reply(load(saved), rows[0]["prompt"], 4)
    shutil.rmtree(saved)
    return dict(
        method=method,
        batch_size=size,
        sequence_length=longest,
        scored=sum(scored for _, scored in lengths) / len(lengths) / longest,
        tokens=len(lengths) * longest,
        bytes=peak,
        seconds=clock.ends[-1] - clock.ends[-2],
        loss=loss,
        answer=answer,
    )


def _give_memory_back() -> None:
    "Tell glibc to return freed blocks at once, so that the peak is that of what is used."
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # another C library
        return
    libc.mallopt(-3, 65536)  # M_MMAP_THRESHOLD
    libc.mallopt(-4, 10**6)  # M_MMAP_MAX


def run_jobs(
    jobs: list[dict],  # arguments of `save_random_models` or of `measure_one`
    exact: bool = True,  # make the C library give freed memory back
) -> None:
    "Each job in a process of its own where a system can fork one; prints a line of JSON for each."
    can_fork = sys.platform == "linux"
    if exact and can_fork:
        _give_memory_back()
    for name in {job["train"] for job in jobs if "train" in job}:
        pkgutil.resolve_name(name)  # imported once, for all forks
    for job in jobs:
        if can_fork and (child := os.fork()):
            if os.waitpid(child, 0)[1]:
                sys.exit(f"{job}: failed")
            continue
        result = (save_random_models if "models" in job else measure_one)(**job)
        print(json.dumps(result), flush=True)
        if can_fork:
            os._exit(0)


def measure(
    folder: str | Path,  # where models are made and found
    jobs: list[dict],  # arguments of `save_random_models` or of `measure_one`, without the folder
    timeout_s: float = 3600,  # for all of them
    exact: bool = True,  # make the C library give freed memory back
) -> list[dict]:  # one result for each job
    "Run the jobs in a fresh process; RuntimeError says how one ended."
    code = (
        "import json, sys; from ftguide.engine.measuring import run_jobs; "
        "run_jobs(json.loads(sys.argv[1]), sys.argv[2] == 'exact')"
    )
    told = json.dumps([dict(folder=str(folder), **job) for job in jobs])
    done = subprocess.run(
        [sys.executable, "-c", code, told, "exact" if exact else "as it is"],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"},
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return [json.loads(line) for line in done.stdout.splitlines()]
