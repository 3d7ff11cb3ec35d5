"Deployments at once, killed, on a full disk; what the report measured, and the commands."

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import cli
from killed import KILLS

import ftguide.deployment as module
import ftguide.serving.versions as store
from ftguide.deployment import Gate, deploy
from ftguide.engine.scoring import weights_fingerprint
from ftguide.evaluation import Report, evaluate
from ftguide.market import load_tasks
from ftguide.models import load, reply, save
from ftguide.serving.versions import current, versions

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links, locks and signals")
OPEN = Gate(quality=0.0)


@pytest.fixture(scope="module")
def lm():
    return load("tiny-small")


@pytest.fixture(scope="module")
def report(lm):
    return evaluate(lm, load_tasks("test", 3, tasks=("ad",)), metrics=("quality",), max_new_tokens=8)


@pytest.fixture(scope="module")
def changed(lm):
    other = lm.copy("other")
    next(other.model.parameters()).data[0, 0] += 0.01
    return other


def test_the_folder_loads_in_transformers(lm, report, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    deploy(lm, tmp_path, report, OPEN)
    tokenizer, model = (
        AutoTokenizer.from_pretrained(tmp_path / "current"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "current"),
    )
    asked = tokenizer.apply_chat_template(
        [dict(role="user", content="Hi")], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**asked, max_new_tokens=12, do_sample=False)
    assert tokenizer.decode(out[0, asked["input_ids"].shape[1] :], skip_special_tokens=True).strip() == reply(
        lm, "Hi", 12
    )


# ---- at once, killed, full


def work(at, folder, lm, report, n):
    "Deploy n times, or die at a point; in a forked process, so that torch need not be imported again."
    import torch

    torch.set_num_threads(1)  # no thread of the parent's pool is here

    def die(*a, **k):
        os.kill(os.getpid(), signal.SIGKILL)

    if at == "save":
        module.save = die
    elif at == "weights":
        lm.model.save_pretrained = die
    elif at == "tokenizer":
        lm.tokenizer.save_pretrained = die
    elif at == "replace":
        os.replace = die
    elif at:
        setattr(store, at, die)
    for _ in range(n):
        module.deploy(lm, folder, report, OPEN)


def child(*args, target=work):
    process = multiprocessing.get_context("fork").Process(target=target, args=args)
    process.start()
    return process


def test_three_processes_deploy_at_once(lm, report, tmp_path):
    ads = tmp_path / "ads"
    running = [child("", ads, lm, report, 3) for _ in range(3)]
    for c in running:
        c.join(60)
    assert [c.exitcode for c in running] == [0, 0, 0]
    assert versions(ads) == [f"v{i}" for i in range(1, 10)] and current(ads).name == "v9"
    replaced = [json.loads((ads / v / "deployment.json").read_text())["replaces"] for v in versions(ads)]
    assert replaced == [None, *versions(ads)[:-1]] and not list(ads.glob(".deploying-*"))
    load(current(ads))


def test_a_deployment_that_has_just_begun_is_not_swept(lm, report, tmp_path, monkeypatch):
    "Another one sweeps at the first moment it can, and finds folders that are going away."
    alone = store.file_lock

    @contextmanager
    def nosy(file, wait=True):
        with alone(file, wait) as held:
            yield held
        if file.name == ".lock":
            store._sweep(file.parent)

    monkeypatch.setattr(store, "file_lock", nosy)
    assert deploy(lm, tmp_path / "ads", report, OPEN).name == "v1" and not list(
        (tmp_path / "ads").glob(".deploying-*")
    )
    gone = tmp_path / "ads/.deploying-gone"
    gone.mkdir()
    (gone / "lock").touch()
    monkeypatch.setattr(
        store, "file_lock", lambda file, wait=True: (shutil.rmtree(gone), alone(file, wait))[1]
    )
    store._sweep(tmp_path / "ads")
    assert not gone.exists()


@pytest.mark.parametrize("at", ["save", "weights", "tokenizer", "_write_record", "_point", "replace"])
def test_killed_at_a_point_leaves_the_old_version_in_service(lm, report, tmp_path, at):
    ads = tmp_path / "ads"
    deploy(lm, ads, report, OPEN)
    c = child(at, ads, lm, report, 1)
    c.join(60)
    assert c.exitcode == -signal.SIGKILL and current(ads).name == "v1" and versions(ads)[0] == "v1"
    assert reply(load(ads / "current"), "Hi", 4) == reply(lm, "Hi", 4)
    deploy(lm, ads, report, OPEN)
    assert (
        current(ads).name == versions(ads)[-1]
        and not list(ads.glob(".deploying-*"))
        and not list(ads.glob(".current-*"))
    )


def test_a_first_deployment_killed_before_the_link_can_be_put_into_service(lm, report, tmp_path):
    ads = tmp_path / "ads"
    c = child("_point", ads, lm, report, 1)
    c.join(60)
    assert c.exitcode == -signal.SIGKILL and versions(ads) == ["v1"] and not os.path.lexists(ads / "current")
    for command in ("rollback", "versions"):
        code, said = cli(command, ads)
        assert (
            code == 2
            and said.startswith("error: nothing is deployed in")
            and said.endswith(
                "there are v1, and `rollback` puts the one that you name with to= (--to) into service"
            )
            and "\n" not in said
        )
    assert (
        cli("rollback", ads, "--to", "v1") == (0, f"in service: {ads / 'v1'}") and current(ads).name == "v1"
    )


@pytest.mark.parametrize("seed", range(max(3, KILLS)))
def test_killed_at_random_moments(lm, report, tmp_path, seed):
    ads, rng = tmp_path / "ads", random.Random(seed)
    deploy(lm, ads, report, OPEN)
    c = child("", ads, lm, report, 1000)
    end = time.monotonic() + 60
    while len(versions(ads)) < 2 + seed % 5 and time.monotonic() < end and c.is_alive():
        time.sleep(0.01)
    time.sleep(rng.random() / 5)
    c.kill()
    c.join(30)
    there = versions(ads)
    assert int(there[-1][1:]) - int(current(ads).name[1:]) <= 1
    for v in there:
        load(ads / v)
    assert deploy(lm, ads, report, OPEN).name == current(ads).name and not list(ads.glob(".deploying-*"))


def test_a_living_deployment_is_not_swept_away(lm, report, tmp_path, monkeypatch):
    real = module.save

    def while_saving(*a, **k):
        monkeypatch.setattr(module, "save", real)
        deploy(lm, tmp_path, report, OPEN)
        return real(*a, **k)

    monkeypatch.setattr(module, "save", while_saving)
    assert deploy(lm, tmp_path, report, OPEN).name == "v2" and versions(tmp_path) == ["v1", "v2"]


@pytest.mark.parametrize("limit", [1_000, 200_000])
def test_a_full_disk_is_one_line(lm, report, tmp_path, limit):
    deploy(lm, tmp_path / "ads", report, OPEN)
    report.save(tmp_path / "r.json")

    def command(pipe):
        import resource

        import torch

        torch.set_num_threads(1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        pipe.send(
            cli(
                "deploy",
                tmp_path / "m",
                "--folder",
                tmp_path / "ads",
                "--report",
                tmp_path / "r.json",
                "--quality",
                0,
            )
        )

    save(lm, tmp_path / "m")
    here, there = multiprocessing.Pipe()
    child(there, target=command).join(60)
    assert here.poll() and here.recv() == (
        1,
        f"error: {tmp_path / 'ads'}: no room on the disk for a new version; "
        "nothing was deployed, and v1 is in service as before",
    )
    assert versions(tmp_path / "ads") == ["v1"] and not list((tmp_path / "ads").glob(".deploying-*"))


# ---- what the report measured


def test_another_fine_tune_of_the_same_size_is_refused(lm, changed, report, tmp_path):
    assert changed.parameters == lm.parameters
    with pytest.raises(ValueError, match="the report measured other weights: tiny-small, as large as other"):
        deploy(changed, tmp_path / "ads", report, OPEN)
    assert not (tmp_path / "ads").exists()


def test_a_fingerprint_outlives_saving_and_the_type_of_the_weights(lm, changed, tmp_path):
    assert (
        weights_fingerprint(load(save(lm, tmp_path / "m")))
        == weights_fingerprint(lm)
        != weights_fingerprint(changed)
    )
    half = lm.copy()
    half.model.bfloat16()
    save(half, tmp_path / "half")
    assert (
        weights_fingerprint(half) == weights_fingerprint(load(tmp_path / "half")) != weights_fingerprint(lm)
    )


def test_an_older_report_is_still_read(lm, changed, report, tmp_path):
    report.save(tmp_path / "r.json")
    old = json.loads((tmp_path / "r.json").read_text())
    del old["weights"]
    (tmp_path / "r.json").write_text(json.dumps(old))
    assert (
        Report.read(tmp_path / "r.json").weights == ""
        and deploy(changed, tmp_path / "ads", Report.read(tmp_path / "r.json"), OPEN).name == "v1"
    )


def test_deploy_versions_and_rollback_commands(report, changed, tmp_path):
    ads, file = tmp_path / "ads", tmp_path / "r.json"
    report.save(file)
    assert cli(
        "deploy", "tiny-small", "--folder", ads, "--report", file, "--quality", 0, "--license", "mit"
    ) == (0, f"in service: {ads / 'v1'}")
    assert cli("deploy", "tiny-small", "--folder", ads, "--report", file, "--quality", 0)[0] == 0
    code, said = cli("versions", ads)
    assert (
        code == 0
        and said.splitlines()[0].startswith("v1  quality")
        and said.splitlines()[1].startswith("* v2  quality")
        and said.endswith("replaced v1")
    )
    assert (
        cli("rollback", ads) == (0, f"in service: {ads / 'v1'}")
        and cli("rollback", ads, "--to", "v2")[0] == 0
    )
    for args, says in [
        (
            ("deploy", "tiny-small", "--folder", ads, "--report", file, "--quality", 1.1),
            "is not deployed: quality is",
        ),
        (("deploy", "tiny-small", "--folder", ads, "--report", tmp_path / "no.json"), "No such file"),
        (
            ("deploy", save(changed, tmp_path / "m"), "--folder", ads, "--report", file, "--quality", 0),
            "other weights",
        ),
        (("versions", tmp_path / "none"), "nothing is deployed"),
        (("rollback", ads, "--to", "v9"), "there are v1, v2"),
        (("deploy", "tiny-small", "--folder", ads, "--report", Path(__file__)), "not a report"),
        (
            (
                "deploy",
                "tiny-small",
                "--folder",
                ads,
                "--report",
                file,
                "--quality",
                0,
                "--data",
                tmp_path / "no.jsonl",
            ),
            "no file",
        ),
    ]:
        code, said = cli(*args)
        assert code == 2 and says in said and said.count("\n") == 0, said
    assert versions(ads) == ["v1", "v2"] and current(ads).name == "v2"
