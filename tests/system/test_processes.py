"""`accelerate launch -m ftguide` with two processes on the CPU: the weights of one process.

The launcher itself runs where a worker is killed; elsewhere two forks get what it hands to its workers.
There is one writer and one message, and a run that is killed goes on. `pytest --long` does all of it for
every stage: slices (FSDP2) for DPO and distillation, and a killed run for each."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from killed import command, server
from ports import free_port
from ranks import two_ranks
from typer.testing import CliRunner

from ftguide.cli import app
from ftguide.engine.cache import write_cache
from ftguide.market import load_tasks
from ftguide.models import load

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
QUIET = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
}


def launch(*args, config="data_parallel", run=("-m", "ftguide"), **how):
    return subprocess.Popen(
        [
            BIN / "accelerate",
            "launch",
            "--config_file",
            ROOT / f"configs/{config}.yaml",
            "--num_processes",
            "2",
            "--main_process_port",
            str(free_port()),
            *run,
            *map(str, args),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=QUIET,
        start_new_session=True,
        **how,
    )


def finish(process, seconds=300):
    try:
        said, _ = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, said


def command_of_two(log, *words) -> list[int]:
    "Exit codes of a command in two processes, which get what accelerate's launcher hands to its workers."
    given, _, _ = _validate_launch_command(
        launch_command_parser().parse_args(
            ["--config_file", str(ROOT / "configs/data_parallel.yaml"), "--num_processes", "2"]
            + ["--main_process_port", str(free_port()), "-m", "ftguide"]
        )
    )
    return two_ranks(command, words, log, environment=prepare_multi_gpu_env(given))


def in_this_process(*args):
    done = CliRunner().invoke(app, [*map(str, args)])
    assert done.exit_code == 0, done.output


def difference(a, b):
    return max(
        (x - y).abs().max().item() for x, y in zip(load(a).model.parameters(), load(b).model.parameters())
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    rows = [
        dict(prompt=r["prompt"], completion=r["completion"])
        for r in load_tasks("train", 32, tasks=("summary", "sentiment", "extraction"), seed=2)
    ]
    tables = dict(
        sft=rows,
        dpo=[dict(prompt=r["prompt"], chosen=r["completion"], rejected="I do not know") for r in rows],
        distill=rows,
    )
    for name, table in tables.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in table), encoding="utf-8")
    return folder


MODELS = dict(
    sft=("--base", "tiny-small"),
    dpo=("--base", "tiny-small"),
    distill=("--teacher", "tiny", "--student", "tiny-small"),
)


@pytest.fixture(scope="module", params=list(MODELS))
def stage(
    request, files, tmp_path_factory
):  # (the command without batch size and folder, what one process makes of it)
    common, one = (
        (request.param, *MODELS[request.param], "--data", files / f"{request.param}.jsonl", "--epochs", 3),
        tmp_path_factory.mktemp("one") / "model",
    )
    in_this_process(*common, "--batch-size", 8, "--out", one)
    return (*common, "--batch-size", 4), one


def steps(model):
    return [
        h["step"] for h in json.loads((model / "history.json").read_text(encoding="utf-8")) if "loss" in h
    ]


def test_two_processes_end_with_the_weights_of_one(stage, tmp_path):
    words, one = stage
    codes = command_of_two(tmp_path / "log", *words, "--out", tmp_path / "two")
    said = (tmp_path / "log").read_text(encoding="utf-8")
    assert codes == [0, 0], said
    assert steps(one) == steps(tmp_path / "two"), (
        "both took the same number of steps: there were two processes"
    )
    assert difference(one, tmp_path / "two") < 1e-4
    assert said.count("parameters, in") == 1 and not (tmp_path / "two.checkpoints").exists()


def cut(words, folder, **how):
    "A run whose second worker is killed after the first checkpoint."
    run, deadline = launch(*words, "--out", folder / "cut", **how), time.monotonic() + 240
    while not list(folder.glob("cut.checkpoints/checkpoint-*/whole.json")):
        assert run.poll() is None and time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.02)
    workers = subprocess.run(
        ["pgrep", "-f", f"{words[0]} .*{folder / 'cut'}"], capture_output=True, text=True
    ).stdout.split()
    ranks = [int(p) for p in workers if b"RANK=1" in Path(f"/proc/{p}/environ").read_bytes().split(b"\0")]
    for pid in ranks:
        os.kill(pid, signal.SIGKILL)
    code, said = finish(run)
    if not ranks or code == 0:
        pytest.skip("the run was over before its worker could be killed")
    assert "SIGKILL" in said or "exitcode:-9" in said.replace(" ", "")
    assert not (folder / "cut").exists()


def only_long(request, words, stage):
    if words[0] != stage and not request.config.getoption("--long"):
        pytest.skip("only with --long")


def test_a_killed_worker_ends_the_run_and_the_run_goes_on(stage, tmp_path, request):
    words, one = stage
    only_long(request, words, "distill")
    cut(words, tmp_path)
    codes = command_of_two(tmp_path / "log", *words, "--out", tmp_path / "cut", "--resume")
    assert codes == [0, 0], (tmp_path / "log").read_text(encoding="utf-8")
    assert steps(one) == steps(tmp_path / "cut") and difference(one, tmp_path / "cut") < 1e-4


FSDP = dict(config="fsdp2", run=(ROOT / "tests/helpers/fsdp_cpu.py",))


@pytest.mark.long  # the run that is cut and goes on ends with the same weights
def test_slices_end_with_the_weights_of_one(stage, tmp_path):
    "FSDP2: each process holds half of every weight, and what is written is the whole model."
    words, one = stage
    code, said = finish(launch(*words, "--out", tmp_path / "two", **FSDP))
    assert code == 0, said
    assert steps(one) == steps(tmp_path / "two") and difference(one, tmp_path / "two") < 1e-4
    assert said.count("parameters, in") == 1


def test_slices_go_on_after_a_worker_was_killed(stage, tmp_path, request):
    words, one = stage
    only_long(request, words, "sft")
    cut(words, tmp_path, **FSDP)
    code, said = finish(launch(*words, "--out", tmp_path / "cut", "--resume", **FSDP))
    assert code == 0, said
    assert steps(one) == steps(tmp_path / "cut") and difference(one, tmp_path / "cut") < 1e-4


def test_wrong_input_is_said_once(tmp_path):
    codes = command_of_two(
        tmp_path / "log", "sft", "--data", tmp_path / "none.jsonl", "--out", tmp_path / "x"
    )
    assert 2 in codes and (tmp_path / "log").read_text(encoding="utf-8").count("error: no file") == 1


HOW = dict(max_new_tokens=8, shard_rows=3, k=8, samples=8)


def write_and_count(rows, folder, counts):
    counts.put(len(write_cache("tiny-small", rows, folder, **HOW).rows))


def test_two_processes_share_the_writing_of_a_cache(tmp_path):
    tasks = load_tasks("train", 12, tasks=("summary",), seed=5)
    rows = [dict(prompt=r["prompt"], completion=r["completion"]) for r in tasks]
    counts = server().SimpleQueue()
    assert two_ranks(write_and_count, rows, tmp_path / "cache", counts) == [0, 0]
    assert [counts.get(), counts.get()] == [12, 12]
    whole = write_cache("tiny-small", rows, tmp_path / "alone", **HOW)
    shards = list((tmp_path / "cache").glob("shard-*"))
    assert len(shards) == 4 and len(whole.rows) == 12
    for shard in shards:
        assert shard.read_bytes() == (tmp_path / "alone" / shard.name).read_bytes()


def test_configs_are_what_accelerate_reads():
    from accelerate.commands.config.config_args import load_config_from_file

    found = {p.stem: load_config_from_file(str(p)) for p in (ROOT / "configs").glob("*.yaml")}
    assert {name: str(c.distributed_type).split(".")[-1] for name, c in found.items()} == dict(
        data_parallel="MULTI_GPU", fsdp2="FSDP", zero3="DEEPSPEED"
    )
    assert (
        found["fsdp2"].fsdp_config["fsdp_version"] == 2 and found["zero3"].deepspeed_config["zero_stage"] == 3
    )


@pytest.mark.parametrize("accumulated", [1, 4])
def test_deepspeed_reads_the_zero3_config(accumulated, monkeypatch):
    """As accelerate and transformers make DeepSpeed's settings of the file, which needs no DeepSpeed.

    ZeRO-3, nothing against the trainer's own numbers, nothing left open."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import DeepSpeedPlugin
    from accelerate.utils.deepspeed import HfDeepSpeedConfig
    from accelerate.utils.launch import prepare_deepspeed_cmd_env
    from transformers import TrainingArguments
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    file = str(ROOT / "configs/zero3.yaml")
    given, _, _ = _validate_launch_command(
        launch_command_parser().parse_args(["--config_file", file, "-m", "ftguide"])
    )
    given.deepspeed_fields_from_accelerate_config = ",".join(load_config_from_file(file).deepspeed_config)
    for key, value in prepare_deepspeed_cmd_env(given)[1].items():
        if key.startswith("ACCELERATE") and key != "ACCELERATE_USE_DEEPSPEED":
            monkeypatch.setenv(key, value)
    own = {
        k: v for k, v in vars(HfTrainerDeepSpeedConfig).items() if not k.startswith("__")
    }  # its own base asks for the package
    config = type("Config", (HfDeepSpeedConfig,), dict(own, _dtype=None, mismatches=[]))(
        DeepSpeedPlugin().deepspeed_config
    )
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    arguments, lm = (
        TrainingArguments(
            output_dir="x",
            use_cpu=True,
            report_to=[],
            per_device_train_batch_size=2,
            gradient_accumulation_steps=accumulated,
        ),
        load("tiny-small"),
    )
    config.trainer_config_process(arguments)
    config.trainer_config_finalize(arguments, lm.model, 10)
    assert (
        config.is_zero3()
        and not config.is_offload()
        and config.mismatches == []
        and "auto" not in json.dumps(config.config)
    )
    assert (
        config.config["train_micro_batch_size_per_gpu"] == 2
        and config.config["gradient_accumulation_steps"] == accumulated
    )
    assert config.config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"], (
        "so that the first process gets whole weights"
    )
