"Run: seeds, inputs, checkpoints, what it goes on with after a kill, and where it stops."

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from killed import child, command, limit_file_sizes, started, wait_a_little
from stages import FEW, FEW_PAIRS, FEW_THUMBS, ROWS, STAGES, Poison, family, weights
from transformers import TrainerCallback
from typer.testing import CliRunner

from ftguide.cli import app
from ftguide.distillation import distill
from ftguide.dpo import align_dpo, align_kto
from ftguide.engine.checkpoints import WHOLE, checkpoints
from ftguide.engine.run import Run, check_positive, copy_for_training, training_arguments
from ftguide.engine.trainers import TrainingError
from ftguide.models import completion_logps, load, reply
from ftguide.sft import finetune_sft


def test_a_run_copies_checks_and_sets_the_pace():
    half = load("tiny-small", dtype="bfloat16")
    run = Run(
        model=half,
        name="mine",
        method="sft",
        learning_rates=(4e-4, 2e-5),
        epochs=1,
        learning_rate=None,
        batch_size=4,
    )
    assert run.start.model.dtype == torch.float32 and half.model.dtype == torch.bfloat16
    assert run.start.name == "mine"
    assert run.pace == pytest.approx(dict(learning_rate=4e-4, epochs=1, batch_size=4))
    assert copy_for_training(half, "copy").model.dtype == torch.float32


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_numbers_must_be_positive_and_finite(value):
    check_positive(epochs=1, learning_rate=None)
    with pytest.raises(ValueError, match="epochs must be above 0"):
        check_positive(epochs=value)
    with pytest.raises(ValueError, match="epochs must be above 0"):
        finetune_sft("tiny-small", FEW, epochs=value)


# the opposite of what is taught: validated on them, a model can only get worse
WRONG = [dict(prompt=r["prompt"], completion=str(int(r["completion"]) + 1)) for r in ROWS[:16]]


def test_warm_up_is_a_share_of_the_steps():
    how = dict(epochs=2, batch_size=16, learning_rate=1e-3, seed=0, validate=True, keep=False, config={})
    settings = training_arguments(load("tiny-small"), "runs/x", 1000, **how)
    assert settings["warmup_steps"] == 0.1 and settings["load_best_model_at_end"]
    assert settings["eval_steps"] == settings["save_steps"] == 1 / 4


def test_warm_up_counts_steps_and_not_batches():
    "80 rows in batches of 2, four of which make a step: 10 steps an epoch."
    rates = lambda lm: [h["learning_rate"] for h in lm.history if "learning_rate" in h]
    pace = dict(epochs=2, batch_size=2, learning_rate=1e-3, gradient_accumulation_steps=4)
    for lm in (
        finetune_sft("tiny-small", ROWS, **pace),
        distill("tiny", "tiny-small", ROWS, **pace),
    ):
        seen = rates(lm)
        assert len(seen) == 20 and seen[0] == 0 and max(seen) == seen[2] == 1e-3
    few = distill("tiny", "tiny-small", ROWS, **dict(pace, epochs=0.5))  # 20 batches, and 5 steps
    assert len(rates(few)) == 5 and rates(few)[0] == 1e-3


class Stop(TrainerCallback):
    "Ends the training with an error after a step."

    def __init__(self, step: int = 1):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise RuntimeError("stopped by the test")


@pytest.mark.parametrize(
    "stage",
    [
        lambda: finetune_sft("tiny-small", FEW, epochs=1),
        lambda: align_dpo("tiny-small", FEW_PAIRS),
        lambda: align_kto("tiny-small", FEW_THUMBS),
        lambda: distill("tiny", "tiny-small", FEW, epochs=1),
        lambda: distill("tiny", "tiny-small", FEW, epochs=1, on_policy=True, max_new_tokens=4, batch_size=4),
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
    align_dpo(finetune_sft(lm, FEW, epochs=1), FEW_PAIRS)
    distill(lm, lm, FEW, epochs=1)
    assert torch.equal(weights(lm), before)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gpt2"])
def test_other_architectures(kind):
    lm = family(kind)
    before = weights(lm).clone()
    for after in (
        align_dpo(lm, FEW_PAIRS[:8], learning_rate=1e-3),
        distill("tiny", lm, FEW[:8], epochs=1, learning_rate=1e-3),
    ):
        assert torch.isfinite(weights(after)).all() and not torch.equal(weights(after), before)
    assert isinstance(reply(lm, "Hi", 4), str)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("stage", STAGES)
def test_killed_and_resumed_ends_with_the_same_weights(stage, tmp_path):
    "Killed in the second epoch, between two checkpoints: 60 steps, a checkpoint every 10th."
    make, rows, knobs = STAGES[stage]
    process = started(stage, tmp_path, 37)
    process.kill()
    process.join()
    whole = sorted(int(p.parent.name.split("-")[1]) for p in tmp_path.glob(f"checkpoint-*/{WHOLE}"))
    assert whole and whole[-1] == 30
    resumed, plain = (
        make("tiny-small", rows, output_dir=tmp_path, resume=True, **knobs),
        make("tiny-small", rows, **knobs),
    )
    assert (weights(resumed) - weights(plain)).abs().max() <= 1e-6
    losses = lambda lm: {h["step"]: h["loss"] for h in lm.history if "loss" in h}
    assert losses(resumed) == pytest.approx(losses(plain), abs=1e-6)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(tmp_path):
    log = tmp_path / "log"
    process = started("sft", tmp_path, 13, wait_a_little, log)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode != 0 and "resume=True (--resume) goes on from there" in log.read_text()
    assert max(int(p.parent.name.split("-")[1]) for p in tmp_path.glob(f"checkpoint-*/{WHOLE}")) >= 13
    make, rows, knobs = STAGES["sft"]
    assert (
        weights(make("tiny-small", rows, output_dir=tmp_path, resume=True, **knobs))
        - weights(make("tiny-small", rows, **knobs))
    ).abs().max() <= 1e-6


def test_half_written_checkpoint_is_skipped(tmp_path):
    finetune_sft("tiny-small", ROWS, epochs=1, output_dir=tmp_path)
    newest = max(tmp_path.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    (newest / WHOLE).unlink()
    (newest / "model.safetensors").write_bytes(b"half")
    with pytest.warns(UserWarning, match="cut off while it was written"):
        again = finetune_sft("tiny-small", ROWS, epochs=1, output_dir=tmp_path, resume=True)
    assert torch.isfinite(weights(again)).all()


def test_other_rows_or_settings_are_refused(tmp_path):
    finetune_sft("tiny-small", ROWS, epochs=1, output_dir=tmp_path)
    with pytest.raises(ValueError, match="belongs to another run.*rows"):
        finetune_sft("tiny-small", ROWS[1:], epochs=1, output_dir=tmp_path, resume=True)
    with pytest.raises(ValueError, match="seed was 0 and is 3"):
        finetune_sft("tiny-small", ROWS, epochs=1, output_dir=tmp_path, resume=True, seed=3)
    with pytest.raises(FileExistsError, match="resume=True"):
        finetune_sft("tiny-small", ROWS, epochs=1, output_dir=tmp_path)
    with pytest.raises(ValueError, match="needs output_dir"):
        finetune_sft("tiny-small", ROWS, epochs=1, resume=True)


VALID = [dict(r, completion="no idea") for r in ROWS[:8]]
SFT = dict(model="tiny-small", data=ROWS, eval_data=VALID, epochs=1, batch_size=8)


@pytest.fixture(scope="module")
def sft_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft")
    return folder, finetune_sft(**SFT, output_dir=folder)


def other_template():
    lm = load("tiny-small").copy()
    lm.tokenizer.chat_template += " "
    return lm


@pytest.mark.parametrize(
    "name, change",
    [
        ("model", lambda: dict(model="tiny")),
        ("tokenizer", lambda: dict(model=other_template())),
        ("rows", lambda: dict(data=ROWS[1:])),
        ("eval_rows", lambda: dict(eval_data=VALID[1:])),
        ("eval_rows", lambda: dict(eval_data=None)),
        ("patience", lambda: dict(patience=1)),
        ("lora", lambda: dict(lora=True)),
        ("prompts_too", lambda: dict(completion_only_loss=False)),
        *(
            (name, lambda name=name, value=value: {name: value})
            for name, value in dict(
                epochs=2,
                batch_size=16,
                learning_rate=1e-3,
                seed=1,
                weight_decay=0.1,
                lr_scheduler_type="linear",
                warmup_steps=0,
                max_steps=9,
                max_length=200,
                max_grad_norm=0.5,
                optim="sgd",
                adam_beta2=0.9,
                neftune_noise_alpha=5.0,
                label_smoothing_factor=0.1,
                per_device_eval_batch_size=2,
                dataloader_drop_last=True,
                loss_type="dft",
            ).items()
        ),
        ("packing", lambda: dict(packing=True, warmup_steps=0)),
        ("batch_size", lambda: dict(gradient_accumulation_steps=2)),
        ("batch_size", lambda: dict(per_device_train_batch_size=2)),
    ],
)
def test_another_run_is_refused_by_what_is_other(sft_run, name, change):
    with pytest.raises(ValueError, match=rf"belongs to another run.*\b{name} was "):
        finetune_sft(**{**SFT, **change()}, output_dir=sft_run[0], resume=True)


def test_what_decides_nothing_is_not_compared(sft_run):
    folder, lm = sft_run
    same = dict(name="other", logging_steps=3, save_total_limit=5, run_name="r", dataloader_num_workers=1)
    same |= dict(per_device_train_batch_size=4, gradient_accumulation_steps=2, gradient_checkpointing=True)
    again = finetune_sft(**SFT, output_dir=folder, resume=True, **same)
    assert torch.equal(weights(again), weights(lm))


@pytest.mark.parametrize(
    "name, change",
    [
        ("teacher", dict(teacher="tiny-small")),
        ("model", dict(student="tiny")),
        ("temperature", dict(temperature=1.0)),
        ("alpha", dict(alpha=0.5)),
        ("divergence", dict(divergence="jsd")),
        ("max_new_tokens", dict(max_new_tokens=50)),
        ("rows", dict(corpus=ROWS[:23])),
        ("lora", dict(lora=True)),
        ("weight_decay", dict(weight_decay=0.0)),
    ],
)
def test_another_distillation_is_refused(tmp_path, name, change):
    plain = dict(teacher="tiny", student="tiny-small", corpus=ROWS[:24], epochs=1, output_dir=tmp_path)
    distill(**plain)
    with pytest.raises(ValueError, match=rf"belongs to another run.*\b{name} was "):
        distill(**{**plain, **change}, resume=True)


def test_other_preferences_are_refused(tmp_path):
    plain = dict(output_dir=tmp_path / "dpo", epochs=1)
    align_dpo("tiny-small", FEW_PAIRS, **plain)
    for change in (
        dict(beta=0.2),
        dict(loss_type="ipo"),
        dict(max_length=100),
        dict(truncation_mode="keep_end"),
    ):
        with pytest.raises(ValueError, match=f"belongs to another run.*{next(iter(change))} was "):
            align_dpo("tiny-small", FEW_PAIRS, **plain, resume=True, **change)
    plain["output_dir"] = tmp_path / "kto"
    align_kto("tiny-small", FEW_THUMBS, **plain)
    halves = dict(per_device_train_batch_size=4, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="per_device_train_batch_size was 8 and is 4"):
        align_kto("tiny-small", FEW_THUMBS, **plain, resume=True, **halves)  # its answers would meet others


def test_a_step_may_be_shared_out_anew(tmp_path):
    "Out of memory in the middle: half the batch, twice the accumulation, the same steps."
    pace = dict(epochs=1, batch_size=8)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        finetune_sft("tiny-small", ROWS, **pace, output_dir=tmp_path, callbacks=(Stop(6),))
    halves = dict(per_device_train_batch_size=4, gradient_accumulation_steps=2)
    again = finetune_sft("tiny-small", ROWS, **pace, output_dir=tmp_path, resume=True, **halves)
    assert (weights(again) - weights(finetune_sft("tiny-small", ROWS, **pace))).abs().max() <= 1e-5


def test_at_most_two_checkpoints_lie_there(tmp_path):
    seen = []

    class Count(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):  # before any is deleted
            seen.append(len(list(tmp_path.glob("checkpoint-*"))))

    finetune_sft("tiny-small", ROWS, epochs=2, output_dir=tmp_path, callbacks=(Count(),))
    assert seen == [1, 2, 2, 2]


def test_a_run_that_stopped_early_is_over(tmp_path):
    "Gone on with, it returns the same best model."
    knobs = dict(epochs=30, eval_data=WRONG, patience=2, output_dir=tmp_path)
    lm = finetune_sft("tiny-small", ROWS[:32], **knobs)
    again = finetune_sft("tiny-small", ROWS[:32], **knobs, resume=True)
    last = lambda lm: max(h["step"] for h in lm.history)
    assert torch.equal(weights(again), weights(lm)) and last(again) <= last(lm) + 1 < 8 * 30


@pytest.mark.parametrize(
    "stage, setting",
    [
        (lambda **c: finetune_sft("tiny-small", FEW, **c), dict(eos_token="</s>")),
        (lambda **c: finetune_sft("tiny-small", FEW, **c), dict(chat_template_path="x.jinja")),
        (lambda **c: align_dpo("tiny-small", FEW_PAIRS, **c), dict(pad_token="<pad>")),
        (lambda **c: align_kto("tiny-small", FEW_THUMBS, **c), dict(model_init_kwargs=dict(dtype="float16"))),
        (lambda **c: distill("tiny", "tiny-small", FEW, **c), dict(resume_from_checkpoint="x")),
        (lambda **c: distill("tiny", "tiny-small", FEW, on_policy=True, **c), dict(beta=0.5)),
        (lambda **c: distill("tiny", "tiny-small", FEW, on_policy=True, **c), dict(max_completion_length=9)),
    ],
)
def test_a_setting_that_would_act_too_late_is_refused(stage, setting):
    with pytest.raises(ValueError, match=f"^{next(iter(setting))} "):
        stage(**setting)


@pytest.mark.parametrize("stage", STAGES)
def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(stage, tmp_path):
    make, rows, knobs = STAGES[stage]
    with pytest.raises(TrainingError, match="step 13: the loss is nan.*begins with '.+'"):
        make("tiny-small", rows, output_dir=tmp_path, callbacks=(Poison(12),), **knobs)
    assert [p.parent.name for p in tmp_path.glob(f"checkpoint-*/{WHOLE}")] == ["checkpoint-10"]


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    with pytest.raises(TrainingError, match="step 10: weights are not finite"):
        finetune_sft("tiny-small", ROWS, epochs=3, output_dir=tmp_path, callbacks=(Poison(10),))
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits")
def test_full_disk_keeps_the_checkpoint_before(tmp_path):
    "No file may grow past a limit set after the first checkpoint: the second fails as on a full disk."
    log = tmp_path / "log"
    process = started("sft", tmp_path, 15, limit_file_sizes, log)
    process.join(60)
    assert process.exitcode != 0 and "step 20: the checkpoint could not be written" in log.read_text()
    assert [p.parent.name for p in tmp_path.glob(f"checkpoint-*/{WHOLE}")] == ["checkpoint-10"]


def test_best_model_is_returned_and_training_stops_early():
    valid = WRONG
    lm = finetune_sft("tiny-small", ROWS[:32], epochs=30, eval_data=valid, patience=2)
    seen = [(h["step"], h["eval_loss"]) for h in lm.history if "eval_loss" in h]
    best = min(loss for _, loss in seen)
    assert seen[-1][0] < 8 * 30 and [loss for _, loss in seen].index(best) == len(seen) - 3
    sums, counts = completion_logps(lm, [r["prompt"] for r in valid], [r["completion"] for r in valid])
    assert (-sums.sum() / counts.sum()).item() == pytest.approx(best, abs=0.02)
    with pytest.raises(ValueError, match="patience"):
        finetune_sft("tiny-small", ROWS, patience=0)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_the_command_goes_on_where_it_was_killed(tmp_path):
    data, out = tmp_path / "train.jsonl", tmp_path / "model"
    data.write_text("\n".join(json.dumps(r) for r in ROWS), encoding="utf-8")
    words = f"sft --base tiny-small --data {data} --out {out} --epochs 3".split()
    process = child(command, words, tmp_path / "log")
    deadline = time.time() + 120
    while (
        not list(tmp_path.glob(f"model.checkpoints/*/{WHOLE}"))
        and process.is_alive()
        and time.time() < deadline
    ):
        time.sleep(0.02)
    process.kill()
    process.join()
    assert not out.exists() and list(tmp_path.glob(f"model.checkpoints/*/{WHOLE}"))
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2 and "--resume" in again.output, again.output
    done = CliRunner().invoke(app, [*words, "--resume"])
    assert done.exit_code == 0 and not (tmp_path / "model.checkpoints").exists(), done.output
    assert (weights(load(out)) - weights(finetune_sft("tiny-small", ROWS, epochs=3))).abs().max() <= 1e-6


def test_distillation_stops_early_and_returns_the_best_student():
    "Validation rows with wrong answers: the better the student, the worse it does there."
    valid = [dict(r, completion=str(int(r["completion"]) + 1)) for r in ROWS[:16]]
    lm = distill(
        "tiny", "tiny-small", ROWS[:32], epochs=30, batch_size=4, eval_data=valid, alpha=0.0, patience=2
    )
    seen = [h["eval_loss"] for h in lm.history if "eval_loss" in h]
    assert len(seen) < 60 and seen.index(min(seen)) == len(seen) - 3


def test_checkpoints_are_counted_by_their_step(tmp_path):
    "The file times of the first half lie an hour ahead."

    class Ahead(TrainerCallback):
        def on_save(self, args, state, control, **kw):
            if state.global_step > 12:
                return
            for p in Path(args.output_dir).glob("checkpoint-*"):
                os.utime(p, (time.time() + 3600 + state.global_step,) * 2)

    lm = finetune_sft("tiny-small", ROWS[:40], epochs=2, output_dir=tmp_path, callbacks=(Ahead(),))
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-20", "checkpoint-15"] and all(
        (p / WHOLE).exists() for p in checkpoints(tmp_path)
    )
    assert torch.equal(weights(lm), weights(finetune_sft("tiny-small", ROWS[:40], epochs=2)))
