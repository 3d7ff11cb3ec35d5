"""Training and answering with a real model on a CPU, beside TRL and a plain loop: `python tools/cpu.py`.

Every line of the CSV is a process of its own, and the contenders take turns. SFT, DPO and distillation make
the same steps on the same real rows from the same weights; the first step warms up, the others are timed.
What DPO reads of its reference counts as well. Peaks are those of the whole call, over what the process held
before it. `flops` is the work that cannot be avoided: real tokens without their padding, each needed product
once, and the output layer at scored positions alone. A measurement that was cut off goes on where it was."""

import argparse
import csv
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from ftguide.distillation import distill, make_student
from ftguide.dpo import align_dpo
from ftguide.engine.loading import known_folder
from ftguide.engine.precision import fast_bfloat16
from ftguide.engine.pretrained import PRETRAINED, at_hand
from ftguide.engine.tokens import context_length
from ftguide.engine.training_data import to_trl
from ftguide.evaluation import evaluate
from ftguide.models import LM, collate, encode, load, reply, save, tokens_per_second
from ftguide.packages import load_packages, score_package
from ftguide.sft import finetune_sft

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from trl.experimental.gkd import GKDConfig, GKDTrainer

ROOT = Path(__file__).resolve().parent.parent
BATCH = {"SFT": 8, "LoRA": 8, "DPO": 4, "distillation": 4, "threads": 8}  # rows or pairs of a step
STEPS = 2  # the first one warms up
RATE = 1e-5
SAME = dict(
    learning_rate=RATE,
    lr_scheduler_type="constant",
    warmup_steps=0,
    weight_decay=0.0,
    logging_steps=1,
    seed=0,
    train_sampling_strategy="sequential",
)
BETA = 0.1
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CONTENDERS = {
    **dict.fromkeys(("SFT", "DPO", "distillation"), ("ftguide", "TRL", "plain")),
    "LoRA": ("ftguide", "ftguide, frozen in bfloat16"),
    "evaluate": ("ftguide",),
    "reply": ("ftguide",),
    "product": ("torch",),
    "threads": ("one", "all", "one, a core busy", "all, a core busy", "chosen, a core busy"),
}
# contenders beside the two precisions: one round, as their memory is asked for
ONCE = {
    "SFT": ("TRL default",),
    "DPO": ("TRL default", "TRL, reference once"),
    "distillation": ("TRL default",),
}
ALONE = {"threads": "bfloat16"}  # stages in one precision
COLUMNS = (
    *("stage", "contender", "precision", "round", "wall", "user", "system", "whole", "peak_mb", "losses"),
    *("tokens", "scored", "flops", "threads", "processor", "torch", "transformers", "trl", "date", "error"),
)


# ---- the rows


def rows_of(stage: str, tokenizer, context: int) -> list[dict]:
    "Real rows that fit: descriptions of packages with the maintainers' answers."
    n = BATCH[stage] * STEPS
    if stage == "DPO":
        rows = [
            dict(prompt=r["prompt"], chosen=r["completion"], rejected=first_sentence(r["package"]))
            for r in load_packages("train", 8 * n, tasks=("synopsis",), seed=1)
        ]
    else:
        rows = [dict(prompt=r["prompt"], completion=r["completion"]) for r in load_packages("train", 8 * n)]
    return [row for row in rows if all(len(ids) < context for ids, _ in coded(tokenizer, [row]))][:n]


def first_sentence(package: dict) -> str:  # of its description: true, and no synopsis
    return package["description"].split(". ")[0][:200]


def coded(tokenizer, rows: list[dict]) -> list[tuple]:  # (ids, labels); of a pair two, chosen ones first
    answers = [key for key in rows[0] if key != "prompt"]
    return [encode(tokenizer, row["prompt"], row[key]) for key in answers for row in rows]


def batches(tokenizer, rows: list[dict], size: int) -> list[dict]:
    parts = (rows[i : i + size] for i in range(0, len(rows), size))
    return [collate(coded(tokenizer, part), tokenizer.pad_token_id) for part in parts]


def forward_flops(model, sizes: list[tuple]) -> float:  # sizes: (tokens, known before, scored) of each row
    "Two operations for each weight and token, causal attention, and the output layer where it is needed."
    config = model.config
    weights = sum(p.numel() for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2)
    attention = 2 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
    return sum(
        2 * weights * (n - known)
        + attention * (n**2 - known**2)
        + 2 * config.hidden_size * config.vocab_size * scored
        for n, known, scored in sizes
    )


# ---- what is timed


class Clock(TrainerCallback):
    "Wall, user and system time of all steps but the first, and of the reference where one is read before."

    def __init__(self):
        self.marks, self.reference = [], (0.0, 0.0, 0.0)

    @staticmethod
    def now() -> tuple:
        used = os.times()
        return time.perf_counter(), used.user, used.system

    def mark(self, *args, **kwargs) -> None:
        self.marks.append(self.now())

    on_step_end = mark

    def around(self, function: Callable) -> Callable:
        "The function; the time it takes is the reference's."

        def timed(*args, **kwargs):
            began = self.now()
            try:
                return function(*args, **kwargs)
            finally:
                self.reference = tuple(b - a for a, b in zip(began, self.now()))

        return timed

    def seconds(self) -> dict:  # of one step
        steps = len(self.marks) - 1
        spent = (b - a for a, b in zip(self.marks[0], self.marks[-1]))
        mean = (s / steps + r / (steps + 1) for s, r in zip(spent, self.reference))
        return dict(zip(("wall", "user", "system"), mean))


def memory(field: str) -> float:  # MB of this process; nan where the system does not say
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("nan")
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def whole(call: Callable) -> dict:  # seconds and peak of a call, and what it returns
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
    before, began = memory("VmRSS"), Clock.now()
    result = call()
    spent = [b - a for a, b in zip(began, Clock.now())]
    times = dict(zip(("wall", "user", "system"), spent))
    return dict(times, whole=spent[0], peak_mb=memory("VmHWM") - before, result=result)


# ---- who computes


def ours(stage: str, folders: dict, rows: list[dict], clock: Clock, **config) -> list[dict]:  # training log
    knobs = (
        dict(SAME, epochs=1, batch_size=BATCH[stage], callbacks=(clock,), patience=None, force=True) | config
    )
    if stage == "distillation":
        soft = dict(alpha=1.0, temperature=1.0)
        return distill(folders["base"], folders["student"], data=rows, **soft, **knobs).history
    if stage == "DPO":
        return align_dpo(folders["base"], rows, beta=BETA, **knobs).history
    base = load(folders["base"], dtype=knobs.pop("dtype")) if "dtype" in knobs else folders["base"]
    return finetune_sft(base, rows, **knobs).history


def theirs(stage: str, folders: dict, rows: list[dict], clock: Clock, **config) -> list[dict]:
    tokenizer = AutoTokenizer.from_pretrained(folders["base"])
    common = dict(
        SAME,
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH[stage],
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        max_length=2048,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    how = common | config
    model = partial(AutoModelForCausalLM.from_pretrained, dtype=torch.float32)
    given = dict(processing_class=tokenizer, callbacks=[clock])
    if stage == "SFT":
        data = to_trl(rows)
        trainer = trl.SFTTrainer(model(folders["base"]), trl.SFTConfig(**how), train_dataset=data, **given)
    elif stage == "DPO":
        reference = None if how.get("precompute_ref_log_probs") else model(folders["base"])
        data = to_trl(rows, "pairs")
        args = trl.DPOConfig(**how, beta=BETA)
        trainer = trl.DPOTrainer(model(folders["base"]), reference, args, train_dataset=data, **given)
    else:
        data = Dataset.from_list([dict(row=i) for i in range(len(rows))])
        args = GKDConfig(**how, lmbda=0.0, beta=0.0, temperature=1.0)
        together = lambda some: collate(
            coded(tokenizer, [rows[r["row"]] for r in some]), tokenizer.pad_token_id
        )
        given |= dict(data_collator=together)
        trainer = GKDTrainer(
            model(folders["student"]), model(folders["base"]), args, train_dataset=data, **given
        )
    trainer.train()
    return trainer.state.log_history


def plain(stage: str, folders: dict, rows: list[dict], clock: Clock, bf16: bool) -> list[dict]:
    "A loop in PyTorch: all logits, then the mask."
    tokenizer = load(folders["base"]).tokenizer
    trained = "student" if stage == "distillation" else "base"
    model = AutoModelForCausalLM.from_pretrained(folders[trained], dtype=torch.float32).train()
    teacher = None
    if stage == "distillation":
        teacher = AutoModelForCausalLM.from_pretrained(folders["base"], dtype=torch.float32).eval()
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.0, fused=True)
    losses, parts = [], batches(tokenizer, rows, BATCH[stage])
    cast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=bf16)

    @clock.around
    @torch.no_grad()
    def references() -> list[torch.Tensor]:  # all of them before the first step
        with cast():
            return [plain_logps(model, batch) for batch in parts]

    beside = references() if stage == "DPO" else [teacher] * len(parts)
    for batch, other in zip(parts, beside):
        with cast():
            loss = PLAIN_LOSSES[stage](model, batch, other)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(dict(loss=loss.item()))
        clock.mark()
    return losses


def plain_logps(model, batch: dict) -> torch.Tensor:  # of each sequence
    mask, targets = batch["labels"][:, 1:] != -100, batch["input_ids"][:, 1:, None]
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    return (logits.float().log_softmax(-1).gather(-1, targets)[..., 0] * mask).sum(-1)


def plain_sft(model, batch: dict, _) -> torch.Tensor:
    return model(**batch).loss


def plain_dpo(model, batch: dict, reference: torch.Tensor) -> torch.Tensor:
    chosen, rejected = (plain_logps(model, batch) - reference).chunk(2)
    return -F.logsigmoid(BETA * (chosen - rejected)).mean()


def plain_kl(model, batch: dict, teacher) -> torch.Tensor:
    inputs = dict(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    with torch.no_grad():
        wanted = teacher(**inputs).logits[:, :-1].float().log_softmax(-1)
    mask, mine = batch["labels"][:, 1:] != -100, model(**inputs).logits[:, :-1].float().log_softmax(-1)
    return F.kl_div(mine[mask], wanted[mask], log_target=True, reduction="sum") / mask.sum()


PLAIN_LOSSES = {"SFT": plain_sft, "DPO": plain_dpo, "distillation": plain_kl}


# ---- a line of the file


def trained(stage: str, contender: str, precision: str, folders: dict) -> dict:
    lm = load(folders["base"])
    rows, clock, bf16 = rows_of(stage, lm.tokenizer, context_length(lm)), Clock(), precision == "bfloat16"
    counted = work(stage, folders, lm, rows)
    del lm
    trl.DPOTrainer._precompute_ref_logps = clock.around(trl.DPOTrainer._precompute_ref_logps)
    if stage == "threads" or contender.startswith("ftguide"):
        config = dict(bf16=bf16)
        if stage == "LoRA":
            config |= dict(lora=True) | (dict(dtype="bfloat16") if "frozen" in contender else {})
        call = partial(ours, stage, folders, rows, clock, **config)
    elif contender == "plain":
        call = partial(plain, stage, folders, rows, clock, bf16)
    else:
        config = {} if contender == "TRL default" else dict(bf16=bf16, gradient_checkpointing=False)
        if "once" in contender:
            config["precompute_ref_log_probs"] = True
        call = partial(theirs, stage, folders, rows, clock, **config)
    found = whole(call)
    losses = [entry["loss"] for entry in found.pop("result") if "loss" in entry][:STEPS]
    return {
        **found,
        **clock.seconds(),
        "losses": " ".join(f"{loss:.6g}" for loss in losses),
        **counted,
    }


def row_sizes(batch: dict, in_pairs: bool) -> list[tuple]:  # (tokens, known before, scored) of each row
    "What the second answer of a pair begins with is known from the first."
    sizes, half = [], len(batch["labels"]) // 2
    for i, (ids, mask, labels) in enumerate(zip(*batch.values())):
        tokens, known = int(mask.sum()), 0
        if in_pairs and i >= half:
            known = int((ids == batch["input_ids"][i - half]).int().cumprod(0).sum())
        sizes.append((tokens, min(known, tokens), int((labels[1:] != -100).sum())))
    return sizes


def work(stage: str, folders: dict, lm: LM, rows: list[dict]) -> dict:  # of one of the timed steps
    some = batches(lm.tokenizer, rows, BATCH[stage])[1:]
    sizes = [size for batch in some for size in row_sizes(batch, in_pairs=stage == "DPO")]
    once = forward_flops(lm.model, sizes)
    if stage == "distillation":
        flops = once + 3 * forward_flops(load(folders["student"]).model, sizes)
    else:  # the backward pass is twice the forward pass; under LoRA, without the weights' gradients
        flops = once * {"SFT": 3, "threads": 3, "LoRA": 2, "DPO": 4}[stage]
    sums = dict(tokens=sum(n for n, _, _ in sizes), scored=sum(s for _, _, s in sizes), flops=flops)
    return {name: value / len(some) for name, value in sums.items()}


def evaluated(precision: str, folders: dict) -> dict:  # forty rows, all that `evaluate` does
    rows = load_packages("test", 40)
    found = whole(lambda: evaluate(load(folders["base"], dtype=precision), rows, score=score_package))
    report = found.pop("result")
    scores = {name: score.value for name, score in report.scores.items()} | dict(perplexity=report.perplexity)
    return dict(
        found, losses=" ".join(f"{name.replace(' ', '_')}={value:.4g}" for name, value in scores.items())
    )


def answered(
    precision: str, folders: dict
) -> dict:  # seconds of forty answers; tokens a second of one and of 32
    lm, prompts = load(folders["base"], dtype=precision), [r["prompt"] for r in load_packages("test", 40)]
    reply(lm, prompts[:2], 4)
    found = whole(lambda: reply(lm, prompts, 48))
    del found["result"]
    one = tokens_per_second(lm, prompts[:2], 1, 32, warm_up=False)
    many = tokens_per_second(lm, prompts[:32], 32, 16, warm_up=False)
    return dict(found, losses=f"one={one:.4g} many={many:.4g}")


def product(precision: str, n: int = 2048) -> dict:  # the machine's best speed on one product
    x, seconds = torch.randn(n, n, dtype=PRECISIONS[precision]), []
    for _ in range(8):
        began = Clock.now()
        x @ x
        seconds.append([b - a for a, b in zip(began, Clock.now())])
    return dict(zip(("wall", "user", "system"), min(seconds)), flops=2 * n**3)


@contextmanager
def neighbour(there: bool) -> Iterator[None]:
    "Another program, which keeps a core busy while the block runs."
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if there else None
    try:
        yield
    finally:
        if other:
            other.kill()
            other.wait()


def measured(job: dict, folders: dict, threads: int, answers) -> None:  # in a process of its own
    warnings.simplefilter("ignore")
    stage, contender, precision = job["stage"], job["contender"], job["precision"]
    threads = 1 if stage == "threads" and contender.startswith("one") else threads
    torch.set_num_threads(threads)
    os.environ.pop("OMP_NUM_THREADS", None)
    if not contender.startswith("chosen"):
        os.environ["OMP_NUM_THREADS"] = str(threads)  # for the guide's training, which would choose fewer
    try:
        with neighbour(contender.endswith("a core busy")):
            if stage in BATCH:
                line = trained(stage, contender, precision, folders)
            elif stage == "product":
                line = product(precision)
            else:
                line = (evaluated if stage == "evaluate" else answered)(precision, folders)
    except Exception as e:
        line = dict(error=f"{type(e).__name__}: {e}"[:200].replace("\n", " "))
    answers.put(line)


# ---- the file


def jobs(stages: list[str], rounds: int) -> list[dict]:
    "All contenders of a round before the next one, in another order each round; stages take turns as well."
    made = []
    for turn in range(rounds):
        placed = []
        for stage in stages:
            precisions = [ALONE[stage]] if stage in ALONE else list(PRECISIONS)
            names = [(name, precision) for name in CONTENDERS[stage] for precision in precisions]
            start = 2 * turn % len(names)
            names = names[start:] + names[:start]
            if turn == 0:
                names += [
                    (name, precision)
                    for name in ONCE.get(stage, ())
                    for precision in (("bfloat16",) if name == "TRL default" else precisions)
                ]
            placed += [(place, stage, *name) for place, name in enumerate(names)]
        placed.sort(key=lambda job: job[0])
        made += [
            dict(stage=stage, contender=name, precision=precision, round=turn)
            for _, stage, name, precision in placed
        ]
    return made


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    has = "with" if fast_bfloat16() else "without"
    return f"{next(named, platform.processor() or 'unknown')}, {has} bfloat16 products"


def write(path: Path, lines: list[dict]) -> None:
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, COLUMNS)
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in line.items()} for line in lines
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m", help="a name of the guide's, or a folder")
    parser.add_argument("--stages", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--minutes", type=float, default=120, help="begin nothing after so many")
    parser.add_argument("--only", help="one contender")
    parser.add_argument("--out", type=Path, default=ROOT / "nbs/real/cpu.csv")
    args = parser.parse_args()
    known = at_hand(args.model) if args.model in PRETRAINED else known_folder(args.model) or args.model
    if known is None:
        print(f"skipped: {args.model} is not at hand; `ftguide get {args.model}` fetches it")
        return
    folder = Path(known)
    torch.set_num_threads(1)  # a process with threads cannot be forked
    part, began = Path(f"{args.out}.part"), time.monotonic()
    lines = list(csv.DictReader(part.open(encoding="utf-8"))) if part.exists() else []
    key = lambda line: (line["stage"], line["contender"], line["precision"], int(line["round"]))
    done = {key(line) for line in lines}
    machine = dict(
        threads=args.threads,
        processor=processor(),
        date=date.today().isoformat(),
        **{name: version(name) for name in ("torch", "transformers", "trl")},
    )
    fork = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    asked = [
        j
        for j in jobs(args.stages, args.rounds)
        if key(j) not in done and args.only in (None, j["contender"])
    ]
    with tempfile.TemporaryDirectory() as scratch:
        count = load(folder).model.config.num_hidden_layers
        save(make_student(folder, range(0, count, 3)), Path(scratch) / "student")
        folders = dict(base=str(folder), student=str(Path(scratch) / "student"))
        for job in asked:
            if time.monotonic() - began > 60 * args.minutes:
                print(f"{len(lines)} lines in {part}; the same command goes on")
                return
            answers = fork.SimpleQueue()
            process = fork.Process(target=measured, args=(job, folders, args.threads, answers))
            process.start()
            process.join()
            line = dict(error=f"exit code {process.exitcode}") if answers.empty() else answers.get()
            lines.append({**job, **machine, **line})
            write(part, lines)
            print(
                {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in {**job, **line}.items()}, flush=True
            )
    os.replace(part, args.out)
    print(f"{len(lines)} lines in {args.out}")


if __name__ == "__main__":
    main()
