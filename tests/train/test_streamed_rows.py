"""Streams through the three trainers: the same training as from a list, and memory that does not grow.

An error is raised when its row comes. `pytest --long` sends a million rows through each trainer, a quarter
to half an hour for each; FTGUIDE_ROWS is another number of them."""

import json
import os
import sys
from itertools import islice

import pytest
import torch
from killed import child, server
from stages import replies_that_end
from transformers import AutoModelForCausalLM, LlamaConfig, TrainerCallback

from ftguide.distillation import distill
from ftguide.dpo import align_dpo
from ftguide.engine import teachers
from ftguide.engine.formats import DataError
from ftguide.engine.training_data import stream_rows, streamed
from ftguide.market import load_tasks
from ftguide.models import LM, load
from ftguide.sft import finetune_sft

ORDERED = dict(max_steps=6, batch_size=4, train_sampling_strategy="sequential", seed=3)


@pytest.fixture(scope="module")
def rows():
    return [
        dict(prompt=r["prompt"], completion=r["completion"])
        for r in load_tasks("train", 40, tasks=("summary", "sentiment"), seed=2)
    ]


def written(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def difference(a, b):
    return max((x - y).abs().max().item() for x, y in zip(a.model.parameters(), b.model.parameters()))


def test_sft_from_a_stream_is_sft_from_a_list(rows, tmp_path):
    file = written(tmp_path / "rows.jsonl", rows)
    assert (
        difference(
            finetune_sft("tiny-small", rows, **ORDERED), finetune_sft("tiny-small", streamed(file), **ORDERED)
        )
        < 1e-6
    )


def test_dpo_from_a_stream_is_dpo_from_a_list(rows, tmp_path):
    pairs = [dict(prompt=r["prompt"], chosen=r["completion"], rejected="I do not know") for r in rows]
    stream = streamed(written(tmp_path / "pairs.jsonl", pairs), "pairs")
    a, b = align_dpo("tiny-small", pairs, **ORDERED), align_dpo("tiny-small", stream, **ORDERED)
    assert b.history[0]["loss"] == pytest.approx(0.6931, abs=1e-3) and difference(a, b) < 1e-5


def test_distillation_from_a_stream_is_distillation_from_a_list(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(teachers, "replies", replies_that_end)
    prompts = [dict(prompt=r["prompt"]) for r in rows]
    stream = streamed(written(tmp_path / "prompts.jsonl", prompts), "corpus")
    assert (
        difference(
            *(
                distill("tiny", "tiny-small", data, max_new_tokens=8, eval_data=prompts[:4], **ORDERED)
                for data in (prompts, stream)
            )
        )
        < 1e-5
    )


def test_a_stream_goes_on_from_its_checkpoint(rows, tmp_path):
    file, run = written(tmp_path / "rows.jsonl", rows), dict(ORDERED, save_strategy="steps", save_steps=2)
    whole = finetune_sft("tiny-small", streamed(file), **run)

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kw):
            if state.global_step == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune_sft(
            "tiny-small", streamed(file), output_dir=str(tmp_path / "out"), callbacks=(Stop(),), **run
        )
    assert (
        difference(
            whole,
            finetune_sft("tiny-small", streamed(file), output_dir=str(tmp_path / "out"), resume=True, **run),
        )
        < 1e-6
    )


def test_a_bad_row_is_named_when_it_comes(rows, tmp_path):
    late = [dict(prompt="Hi", completion="yes")] * 1004 + [dict(prompt="Hi", completion="")]
    with pytest.raises(Exception, match="line 1005: column 'completion' is empty"):
        finetune_sft(
            "tiny-small", streamed(written(tmp_path / "late.jsonl", late)), max_steps=10, batch_size=128
        )
    early = written(tmp_path / "early.jsonl", [dict(prompt="Hi")])
    with pytest.raises(DataError, match="completion"):
        streamed(early)


def test_what_a_stream_cannot_do_is_said(rows, tmp_path):
    stream = streamed(written(tmp_path / "rows.jsonl", rows))
    for train in (
        lambda: finetune_sft("tiny-small", stream),
        lambda: align_dpo("tiny-small", stream),
        lambda: distill("tiny", "tiny-small", stream),
    ):
        with pytest.raises(ValueError, match="max_steps must say how many steps"):
            train()
    with pytest.raises(ValueError, match="leave on_policy, cross_tokenizer, cache and data out"):
        distill("tiny", "tiny-small", stream, on_policy=True, max_steps=2)


TRAIN = {"sft": (finetune_sft, "sft"), "dpo": (align_dpo, "pairs"), "distill": (distill, "corpus")}


def peak_mb() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Early(TrainerCallback):
    "Tells the peak after a step."

    def __init__(self, step: int, tell):
        self.step, self.tell = step, tell

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.tell(peak_mb())


def measured(stage, files, batch_size, early, told):
    "Train a model of a few weights on one file after the other."
    torch.set_num_threads(1)
    tokenizer = load("tiny-small").tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    small = LM(AutoModelForCausalLM.from_config(config), tokenizer, "micro")
    train, kind = TRAIN[stage]
    models = (small, small) if stage == "distill" else (small,)
    tells = Early(early // batch_size, told.put)
    knobs = dict(batch_size=batch_size, logging_steps=10**6, callbacks=(tells,))
    for file, rows in files:
        train(*models, streamed(file, kind), max_steps=rows // batch_size, **knobs)
        told.put(peak_mb())


def peaks_mb(stage, *files, batch_size=100, seconds=400, early=0):
    "The peak after each file of (path, rows), trained on one after the other; first that after `early` rows."
    told = server().SimpleQueue()
    process = child(measured, stage, files, batch_size, early, told)
    process.join(seconds)
    assert process.exitcode == 0
    peaks = []
    while not told.empty():
        peaks.append(told.get())
    return peaks


@pytest.mark.skipif(sys.platform == "win32", reason="resource")
@pytest.mark.parametrize("stage", TRAIN)
def test_memory_does_not_grow_with_the_file(stage, tmp_path):
    "2,000 rows of 100 KB: a stream holds a batch, and the first thousand while they are checked."
    row = dict(
        sft=dict(prompt="Hi", completion="yes"),
        dpo=dict(prompt="Hi", chosen="yes", rejected="no"),
        distill=dict(prompt="Hi", completion="yes"),
    )[stage]
    note = "x" * 100_000  # a column nobody asked for
    file = tmp_path / "large.jsonl"
    with file.open("w", encoding="utf-8") as f:
        for n in range(2000):
            f.write(json.dumps({**row, "note": note + str(n)}) + "\n")
    with (tmp_path / "small.jsonl").open("w", encoding="utf-8") as f:
        f.writelines(islice(file.open(encoding="utf-8"), 1000))
    assert file.stat().st_size > 2e8
    small, large = peaks_mb(stage, (tmp_path / "small.jsonl", 1000), (file, 2000))
    assert large < small + 40


ROWS = int(os.environ.get("FTGUIDE_ROWS", 1_000_000))


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
@pytest.mark.skipif(sys.platform == "win32", reason="resource")
@pytest.mark.parametrize("stage", TRAIN)
def test_a_million_rows_to_the_end(stage, tmp_path):
    "Every row another one, of seven digits, read to the last: the peak is that of the first fiftieth."
    file, answers = tmp_path / "million.jsonl", ("chosen", "rejected") if stage == "dpo" else ("completion",)
    with file.open("w", encoding="utf-8") as f:
        for i in range(10**6, 10**6 + ROWS):
            f.write(json.dumps(dict(prompt=f"{i}+1?", **dict(zip(answers, (str(i + 1), str(i)))))) + "\n")
    early = max(ROWS // 50, 5000)
    few, all_of_them = peaks_mb(stage, (file, ROWS), batch_size=500, seconds=3.5 * 3600, early=early)
    print(f"{stage}: {few:.0f} MB after {early:,} rows, {all_of_them:.0f} MB after {ROWS:,}")
    assert all_of_them < few + 40


def test_rows_before_a_wrong_one_come_first():
    "Rows are tokenised a few at a time, and nobody notices: the wrong one is named when its turn comes."
    lm, good = load("tiny-small"), [dict(prompt=f"{i}+1?", completion=str(i + 1)) for i in range(200)]
    assert list(stream_rows(lm, good)) == good and list(stream_rows(lm, [])) == []
    for wrong, says in (
        (dict(prompt="a", completion=""), "row 71 of the stream: column 'completion' is empty"),
        (dict(prompt="a " * 5000, completion="x"), "row 71 of the stream has 5005 tokens"),
        (
            dict(prompt=[dict(role="assistant", content="a")], completion="x"),
            "row 71 of the stream: the chat template cannot write it",
        ),
    ):
        came = []
        if "template" in says:
            lm = lm.copy()
            lm.tokenizer.chat_template = (
                "{% if messages[0].role != 'user' %}{{ raise_exception('order') }}{% endif %}"
                + lm.tokenizer.chat_template
            )
        with pytest.raises(DataError, match=says):
            for row in stream_rows(lm, [*good[:70], wrong, *good[70:]]):
                came.append(row)
        assert came == good[:70]
