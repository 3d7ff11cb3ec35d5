"Streams through the three trainers: the same training as from a list, errors when their row comes, and memory that does not grow with the file."
import json, os, subprocess, sys
from itertools import islice
from pathlib import Path

import pytest
import torch

from ftguide.data import DataError, streamed
from ftguide.distill import distill
from ftguide.dpo import align_dpo
from ftguide.market import load_tasks
from ftguide.sft import finetune_sft

ROOT = Path(__file__).resolve().parent.parent
ORDERED = dict(max_steps=6, batch_size=4, train_sampling_strategy="sequential", seed=3)


@pytest.fixture(scope="module")
def rows():
    return [dict(prompt=r["prompt"], completion=r["completion"]) for r in load_tasks("train", 40, tasks=("summary", "sentiment"), seed=2)]


def written(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def difference(a, b):
    return max((x - y).abs().max().item() for x, y in zip(a.model.parameters(), b.model.parameters()))


def test_sft_from_a_stream_is_sft_from_a_list(rows, tmp_path):
    file = written(tmp_path / "rows.jsonl", rows)
    assert difference(finetune_sft("tiny-small", rows, **ORDERED), finetune_sft("tiny-small", streamed(file), **ORDERED)) < 1e-6


def test_dpo_from_a_stream_is_dpo_from_a_list(rows, tmp_path):
    pairs = [dict(prompt=r["prompt"], chosen=r["completion"], rejected="I do not know") for r in rows]
    stream = streamed(written(tmp_path / "pairs.jsonl", pairs), "pairs")
    a, b = align_dpo("tiny-small", pairs, **ORDERED), align_dpo("tiny-small", stream, **ORDERED)
    assert b.history[0]["loss"] == pytest.approx(0.6931, abs=1e-3) and difference(a, b) < 1e-5


def test_distillation_from_a_stream_is_distillation_from_a_list(rows, tmp_path):
    prompts = [dict(prompt=r["prompt"]) for r in rows]
    stream = streamed(written(tmp_path / "prompts.jsonl", prompts), "corpus")
    assert difference(*(distill("tiny", "tiny-small", data, max_new_tokens=8, eval_data=prompts[:4], **ORDERED) for data in (prompts, stream))) < 1e-5


def test_a_stream_goes_on_from_its_checkpoint(rows, tmp_path):
    file, run = written(tmp_path / "rows.jsonl", rows), dict(ORDERED, save_strategy="steps", save_steps=2)
    whole = finetune_sft("tiny-small", streamed(file), **run)
    class Stop(__import__("transformers").TrainerCallback):
        def on_step_end(self, args, state, control, **kw):
            if state.global_step == 3: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): finetune_sft("tiny-small", streamed(file), output_dir=str(tmp_path / "out"), callbacks=(Stop(),), **run)
    assert difference(whole, finetune_sft("tiny-small", streamed(file), output_dir=str(tmp_path / "out"), resume=True, **run)) < 1e-6


def test_a_bad_row_is_named_when_it_comes(rows, tmp_path):
    late = [dict(prompt="Hi", completion="yes")] * 1004 + [dict(prompt="Hi", completion="")]
    with pytest.raises(Exception, match="line 1005: column 'completion' is empty"): finetune_sft("tiny-small", streamed(written(tmp_path / "late.jsonl", late)), max_steps=10, batch_size=128)
    early = written(tmp_path / "early.jsonl", [dict(prompt="Hi")])
    with pytest.raises(DataError, match="completion"): streamed(early)


def test_what_a_stream_cannot_do_is_said(rows, tmp_path):
    stream = streamed(written(tmp_path / "rows.jsonl", rows))
    for train in (lambda: finetune_sft("tiny-small", stream), lambda: align_dpo("tiny-small", stream), lambda: distill("tiny", "tiny-small", stream)):
        with pytest.raises(ValueError, match="max_steps must say how many steps"): train()
    with pytest.raises(ValueError, match="leave on_policy, cross_tokenizer, cache and data out"): distill("tiny", "tiny-small", stream, on_policy=True, max_steps=2)


MEASURE = """
import json, resource, sys
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from ftguide.data import streamed
from ftguide.models import LM, load
stage, file, rows, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
tokenizer = load("tiny-small").tokenizer
config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, max_position_embeddings=128,
                     pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id)
small = LM(AutoModelForCausalLM.from_config(config), tokenizer, "micro")
if stage == "sft": from ftguide.sft import finetune_sft as train; args, kind = (small,), "sft"
elif stage == "dpo": from ftguide.dpo import align_dpo as train; args, kind = (small,), "pairs"
else: from ftguide.distill import distill as train; args, kind = (small, small), "corpus"
train(*args, streamed(file, kind), max_steps=rows // size, batch_size=size, logging_steps=10**6)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak_mb(stage, file, rows, batch_size=100, seconds=400):
    done = subprocess.run([sys.executable, "-c", MEASURE, stage, str(file), str(rows), str(batch_size)], capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, timeout=seconds)
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout.split()[-1])


@pytest.mark.parametrize("stage", ["sft", "dpo", "distill"])
def test_memory_does_not_grow_with_the_file(stage, tmp_path):
    "2,000 rows of 100 KB: 200 MB, of which a stream holds a batch."
    row = dict(sft=dict(prompt="Hi", completion="yes"), dpo=dict(prompt="Hi", chosen="yes", rejected="no"), distill=dict(prompt="Hi", completion="yes"))[stage]
    note = "x" * 100_000                                                  # a column nobody asked for
    file = tmp_path / "large.jsonl"
    with file.open("w", encoding="utf-8") as f:
        for n in range(2000): f.write(json.dumps({**row, "note": note + str(n)}) + "\n")
    with (tmp_path / "small.jsonl").open("w", encoding="utf-8") as f: f.writelines(islice(file.open(encoding="utf-8"), 500))
    assert file.stat().st_size > 2e8
    assert peak_mb(stage, file, 2000) < peak_mb(stage, tmp_path / "small.jsonl", 500) + 60


@pytest.mark.skipif(os.environ.get("FTGUIDE_MILLION") != "1", reason="many minutes; FTGUIDE_MILLION=1 runs it")
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("stage", ["sft", "dpo", "distill"])
def test_a_million_rows_to_the_end(stage, tmp_path):
    "Every row another one, read to the last: the peak is that of the first fiftieth."
    file = tmp_path / "million.jsonl"
    with file.open("w", encoding="utf-8") as f:
        for i in range(1_000_000): f.write(json.dumps(dict(prompt=f"{i}+1?", completion=str(i + 1)) if stage != "dpo" else dict(prompt=f"{i}+1?", chosen=str(i + 1), rejected=str(i))) + "\n")
    few, all_of_them = (peak_mb(stage, file, rows, 500, 3 * 3600) for rows in (20_000, 1_000_000))
    print(f"{stage}: {few:.0f} MB after 20,000 rows, {all_of_them:.0f} MB after 1,000,000")
    assert all_of_them < few + 40
