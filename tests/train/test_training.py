"A run that is cut off: killed, interrupted, out of disk, not a number; and what it goes on with."

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ftguide.distill import distill
from ftguide.dpo import align_dpo
from ftguide.engine.formats import DataError
from ftguide.engine.training_data import streamed
from ftguide.models import WHOLE, TrainingError, load
from ftguide.sft import finetune_sft

ROWS = [dict(prompt=f"How much is {i} + {i % 7}?", completion=str(i + i % 7)) for i in range(80)]
PAIRS = [dict(prompt=r["prompt"], chosen=r["completion"], rejected="no idea") for r in ROWS]


def teach(student, rows, batch_size=4, **knobs):
    return distill("tiny", student, rows, batch_size=batch_size, **knobs)


STAGES = {
    "sft": (finetune_sft, ROWS, dict(epochs=3)),
    "dpo": (align_dpo, PAIRS, dict(epochs=3)),
    "distill": (teach, ROWS, dict(epochs=3)),
}
CHILD = """
import sys, json
from test_training import STAGES
from transformers import TrainerCallback
class Wait(TrainerCallback):
    def on_step_end(self, args, state, control, **kw):
        import time; print(state.global_step, flush=True)
        if state.global_step == int(sys.argv[3]): time.sleep(float(sys.argv[4]))
stage, rows, knobs = STAGES[sys.argv[1]]
stage("tiny-small", rows, output_dir=sys.argv[2], callbacks=(Wait(),), **knobs)
"""


def weights(lm):
    return torch.cat([p.detach().flatten() for p in lm.model.parameters()])


def started(stage, folder, step, seconds=120):
    "A training in a process of its own, when it has taken so many steps; it waits there for so many seconds."
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, stage, str(folder), str(step), str(seconds)],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # a background job ignores it
    for line in child.stdout:
        if int(line) == step:
            return child
    raise AssertionError(child.stderr.read())


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("stage", STAGES)
def test_killed_and_resumed_ends_with_the_same_weights(stage, tmp_path):
    "Killed in the second epoch, between two checkpoints: 60 steps, a checkpoint every 10th."
    make, rows, knobs = STAGES[stage]
    child = started(stage, tmp_path, 37)
    child.kill()
    child.wait()
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
    child = started("sft", tmp_path, 13, seconds=5)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode != 0 and "resume=True (--resume) goes on from there" in err
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


def poison(step):
    "A callback that puts a value that is not a number into a weight after a step."
    from transformers import TrainerCallback

    class Poison(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kw):
            if state.global_step == step:
                next(model.parameters()).data[:] = float("nan")

    return Poison()


@pytest.mark.parametrize("stage", STAGES)
def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(stage, tmp_path):
    make, rows, knobs = STAGES[stage]
    with pytest.raises(TrainingError, match="step 13: the loss is nan.*begins with '.+'"):
        make("tiny-small", rows, output_dir=tmp_path, callbacks=(poison(12),), **knobs)
    assert [p.parent.name for p in tmp_path.glob(f"checkpoint-*/{WHOLE}")] == ["checkpoint-10"]


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    with pytest.raises(TrainingError, match="step 10: weights are not finite"):
        finetune_sft("tiny-small", ROWS, epochs=3, output_dir=tmp_path, callbacks=(poison(10),))
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits")
def test_full_disk_keeps_the_checkpoint_before(tmp_path):
    "No file may grow past a limit that is set after the first checkpoint: writing the second fails as on a full disk."
    code = CHILD.replace(
        "print(state.global_step, flush=True)",
        "import resource; state.global_step == 15 and resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))",
    )
    child = subprocess.run(
        [sys.executable, "-c", code, "sft", str(tmp_path), "0"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    assert child.returncode != 0 and "step 20: the checkpoint could not be written" in child.stderr, (
        child.stderr
    )
    assert [p.parent.name for p in tmp_path.glob(f"checkpoint-*/{WHOLE}")] == ["checkpoint-10"]


def test_best_model_is_returned_and_training_stops_early():
    valid = [
        dict(prompt=r["prompt"], completion=str(int(r["completion"]) + 1)) for r in ROWS[:16]
    ]  # the opposite of what is taught: it can only get worse
    lm = finetune_sft("tiny-small", ROWS[:32], epochs=30, eval_data=valid, patience=2)
    seen = [(h["step"], h["eval_loss"]) for h in lm.history if "eval_loss" in h]
    best = min(loss for _, loss in seen)
    assert seen[-1][0] < 8 * 30 and [loss for _, loss in seen].index(best) == len(seen) - 3
    from ftguide.models import completion_logps

    sums, counts = completion_logps(lm, [r["prompt"] for r in valid], [r["completion"] for r in valid])
    assert (-sums.sum() / counts.sum()).item() == pytest.approx(best, abs=0.02)
    with pytest.raises(ValueError, match="patience"):
        finetune_sft("tiny-small", ROWS, patience=0)


@pytest.mark.parametrize("stream", (False, True))
def test_validation_rows_are_scored_as_the_training_rows_are(stream, tmp_path):
    "On their answers, whichever shape the training rows have; a shape that would be scored on its prompts too is refused."
    turns = [
        dict(
            messages=[dict(role="user", content=r["prompt"]), dict(role="assistant", content=r["completion"])]
        )
        for r in ROWS
    ]

    def losses(rows, valid):
        (path := tmp_path / "train.jsonl").write_text(
            "\n".join(json.dumps(r) for r in rows), encoding="utf-8"
        )
        return [
            h["eval_loss"]
            for h in finetune_sft(
                "tiny-small", streamed(path) if stream else rows, eval_data=valid[:8], max_steps=4, force=True
            ).history
            if "eval_loss" in h
        ]

    expected = losses(ROWS, ROWS)
    assert expected == pytest.approx(losses(turns, turns), abs=1e-4) and expected == pytest.approx(
        losses(turns, ROWS), abs=1e-4
    )
    with pytest.raises(
        DataError, match="eval_data has messages and the training rows have prompt and completion.*one shape"
    ):
        losses(ROWS, turns)


def test_distillation_stops_early_and_returns_the_best_student():
    "Validation rows with wrong answers: the better the student, the worse it does there."
    valid = [dict(r, completion=str(int(r["completion"]) + 1)) for r in ROWS[:16]]
    lm = distill(
        "tiny", "tiny-small", ROWS[:32], epochs=30, batch_size=4, eval_data=valid, alpha=0.0, patience=2
    )
    seen = [h["eval_loss"] for h in lm.history if "eval_loss" in h]
    assert len(seen) < 60 and seen.index(min(seen)) == len(seen) - 3


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_the_command_goes_on_where_it_was_killed(tmp_path):
    data, out = tmp_path / "train.jsonl", tmp_path / "model"
    data.write_text("\n".join(json.dumps(r) for r in ROWS), encoding="utf-8")
    command = [
        sys.executable,
        "-c",
        "from ftguide.cli import main; main()",
        "sft",
        "--base",
        "tiny-small",
        "--data",
        str(data),
        "--out",
        str(out),
        "--epochs",
        "12",
    ]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.time() + 120
    while (
        not list(tmp_path.glob(f"model.checkpoints/*/{WHOLE}"))
        and child.poll() is None
        and time.time() < deadline
    ):
        time.sleep(0.05)
    child.kill()
    child.wait()
    assert not out.exists() and list(tmp_path.glob(f"model.checkpoints/*/{WHOLE}"))
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2 and "--resume" in again.stderr, again.stderr
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert done.returncode == 0 and not (tmp_path / "model.checkpoints").exists(), done.stderr
    assert (weights(load(out)) - weights(finetune_sft("tiny-small", ROWS, epochs=12))).abs().max() <= 1e-6
