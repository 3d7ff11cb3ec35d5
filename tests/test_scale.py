"`accelerate launch -m ftguide` with two processes on the CPU: the weights of one process, one writer, one message, and a run that is killed goes on."
import json, os, signal, socket, subprocess, sys, time
from pathlib import Path

import pytest

from ftguide.distill import write_cache
from ftguide.market import load_tasks
from ftguide.models import load

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}


def free_port():
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); return str(s.getsockname()[1])


def launch(*args, **how):
    return subprocess.Popen([BIN / "accelerate", "launch", "--config_file", ROOT / "configs/data_parallel.yaml", "--main_process_port", free_port(), "-m", "ftguide", *map(str, args)],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=QUIET, start_new_session=True, **how)


def finish(process, seconds=300):
    try: said, _ = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None: os.killpg(process.pid, signal.SIGKILL); process.wait()
    return process.returncode, said


def alone(*args):
    done = subprocess.run([sys.executable, "-m", "ftguide", *map(str, args)], capture_output=True, text=True, cwd=ROOT, env=QUIET, timeout=300)
    assert done.returncode == 0, done.stderr


def difference(a, b):
    return max((x - y).abs().max().item() for x, y in zip(load(a).model.parameters(), load(b).model.parameters()))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    rows = [dict(prompt=r["prompt"], completion=r["completion"]) for r in load_tasks("train", 32, tasks=("summary", "sentiment", "extraction"), seed=2)]
    tables = dict(sft=rows, dpo=[dict(prompt=r["prompt"], chosen=r["completion"], rejected="I do not know") for r in rows], distill=rows)
    for name, table in tables.items(): (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in table), encoding="utf-8")
    return folder


MODELS = dict(sft=("--base", "tiny-small"), dpo=("--base", "tiny-small"), distill=("--teacher", "tiny", "--student", "tiny-small"))


@pytest.mark.parametrize("stage", list(MODELS))
def test_two_processes_end_with_the_weights_of_one(stage, files, tmp_path):
    common = (stage, *MODELS[stage], "--data", files / f"{stage}.jsonl", "--epochs", 1)
    alone(*common, "--batch-size", 8, "--out", tmp_path / "one")
    code, said = finish(launch(*common, "--batch-size", 4, "--out", tmp_path / "two"))
    assert code == 0, said
    one, two = ([h["step"] for h in json.loads((tmp_path / name / "history.json").read_text(encoding="utf-8")) if "loss" in h] for name in ("one", "two"))
    assert one == two, "both took the same number of steps: there were two processes"
    assert difference(tmp_path / "one", tmp_path / "two") < 1e-4
    assert said.count("parameters, in") == 1 and not (tmp_path / "two.checkpoints").exists()


def test_a_killed_worker_ends_the_run_and_the_run_goes_on(files, tmp_path):
    common = ("sft", *MODELS["sft"], "--data", files / "sft.jsonl", "--epochs", 6, "--batch-size", 4)
    whole = finish(launch(*common, "--out", tmp_path / "whole")); assert whole[0] == 0, whole[1]
    run, marks = launch(*common, "--out", tmp_path / "cut"), tmp_path / "cut.checkpoints"
    deadline = time.monotonic() + 240
    while not list(marks.glob("checkpoint-*/whole.json")):
        assert run.poll() is None and time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.02)
    workers = [int(p) for p in subprocess.run(["pgrep", "-f", f"ftguide sft.*{tmp_path / 'cut'}"], capture_output=True, text=True).stdout.split()]
    ranks = [p for p in workers if b"RANK=1" in Path(f"/proc/{p}/environ").read_bytes().split(b"\0")]
    for pid in ranks: os.kill(pid, signal.SIGKILL)
    code, said = finish(run)
    if not ranks or code == 0: pytest.skip("the run was over before its worker could be killed")
    assert "SIGKILL" in said or "exitcode: -9" in said.replace(" ", "").replace("exitcode:-9", "exitcode: -9")
    assert not (tmp_path / "cut").exists()
    again = finish(launch(*common, "--out", tmp_path / "cut", "--resume")); assert again[0] == 0, again[1]
    assert difference(tmp_path / "whole", tmp_path / "cut") < 1e-4


def test_wrong_input_is_said_once(tmp_path):
    code, said = finish(launch("sft", "--data", tmp_path / "none.jsonl", "--out", tmp_path / "x"))
    assert code != 0 and said.count("error: no file") == 1


def test_two_processes_share_the_writing_of_a_cache(tmp_path):
    rows = [dict(prompt=r["prompt"]) for r in load_tasks("train", 12, tasks=("summary",), seed=5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    code = "import sys; from ftguide.distill import write_cache; print(len(write_cache('tiny-small', sys.argv[1], sys.argv[2], max_new_tokens=8, shard_rows=3, k=8, samples=8).rows))"
    both = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "rows.jsonl", tmp_path / "cache"], stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**QUIET, "RANK": str(r), "WORLD_SIZE": "2"}) for r in (0, 1)]
    assert [finish(p)[1].split()[-1] for p in both] == ["12", "12"]
    whole = write_cache("tiny-small", tmp_path / "rows.jsonl", tmp_path / "alone", max_new_tokens=8, shard_rows=3, k=8, samples=8)
    for shard in (tmp_path / "cache").glob("shard-*"): assert shard.read_bytes() == (tmp_path / "alone" / shard.name).read_bytes()
    assert len(whole.rows) == 12


def test_configs_are_what_accelerate_reads():
    from accelerate.commands.config.config_args import load_config_from_file
    found = {p.stem: load_config_from_file(str(p)) for p in (ROOT / "configs").glob("*.yaml")}
    assert {name: str(c.distributed_type).split(".")[-1] for name, c in found.items()} == dict(data_parallel="MULTI_GPU", fsdp2="FSDP", zero3="DEEPSPEED")
    assert found["fsdp2"].fsdp_config["fsdp_version"] == 2 and found["zero3"].deepspeed_config["zero_stage"] == 3
