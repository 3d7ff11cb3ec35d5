"Deployments at once, killed, on a full disk; the link, the card, the fingerprints, the commands."

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
from killed import KILLS
from typer.testing import CliRunner

import ftguide.deployment as module
import ftguide.serving.versions as store
from ftguide.cli import app
from ftguide.deployment import Gate, deploy
from ftguide.engine.formats import DataError
from ftguide.engine.scoring import weights_fingerprint
from ftguide.evaluation import Report, evaluate
from ftguide.market import load_tasks
from ftguide.models import load, reply, save
from ftguide.serving.card import data_fingerprints, model_card
from ftguide.serving.versions import current, rollback, versions

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


# ---- the link


def test_current_is_a_relative_link_that_survives_a_move(lm, report, tmp_path):
    ads = tmp_path / "ads"
    deploy(lm, ads, report, OPEN)
    deploy(lm, ads, report, OPEN)
    assert (ads / "current").is_symlink() and os.readlink(ads / "current") == "v2"
    ads.rename(tmp_path / "elsewhere")
    ads = tmp_path / "elsewhere"
    assert current(ads) == ads / "v2" and (ads / "current" / "config.json").is_file()
    rollback(ads)
    assert (
        os.readlink(ads / "current") == "v1"
        and not list(ads.glob(".current-*"))
        and not list(ads.glob(".deploying-*"))
    )


def test_a_pointer_that_is_a_text_file_is_read_and_becomes_a_link(lm, report, tmp_path):
    deploy(lm, tmp_path, report, OPEN)
    (tmp_path / "current").unlink()
    (tmp_path / "current").write_text("v1\n")
    assert current(tmp_path).name == "v1"
    assert (
        json.loads((deploy(lm, tmp_path, report, OPEN) / "deployment.json").read_text())["replaces"] == "v1"
    )
    assert (tmp_path / "current").is_symlink()


def test_where_links_do_not_exist_a_text_file_does(lm, report, tmp_path, monkeypatch):
    def no(*a, **k):
        raise OSError("links are not supported here")

    monkeypatch.setattr(os, "symlink", no)
    deploy(lm, tmp_path, report, OPEN)
    deploy(lm, tmp_path, report, OPEN)
    assert (
        (tmp_path / "current").read_text() == "v2\n"
        and rollback(tmp_path).name == "v1"
        and current(tmp_path).name == "v1"
    )


@pytest.mark.parametrize("name", ["v7", "../elsewhere", "/etc", ""])
def test_a_link_that_leads_nowhere(lm, report, tmp_path, name):
    deploy(lm, tmp_path, report, OPEN)
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to(name) if name else (tmp_path / "current").write_text(name)
    with pytest.raises(FileNotFoundError, match="which is no complete version; there are v1"):
        current(tmp_path)
    with pytest.raises(
        FileNotFoundError,
        match=r"there are v1, and `rollback` puts the one that you name with to= \(--to\) into service",
    ):
        rollback(tmp_path)
    assert rollback(tmp_path, to="v1") == current(tmp_path) == tmp_path / "v1"


def test_the_way_back_from_a_version_that_is_broken(lm, report, tmp_path):
    for n in range(3):
        deploy(lm, tmp_path, report, OPEN)
        if n == 1:
            rollback(tmp_path)  # v3 replaces v1
    next((tmp_path / "v3").glob("*.safetensors")).unlink()
    with pytest.raises(ValueError, match="no complete version 'v3'; there are v1, v2"):
        rollback(tmp_path, to="v3")
    assert rollback(tmp_path, to="v2") == current(tmp_path) == tmp_path / "v2"
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("v3")
    assert (
        rollback(tmp_path) == current(tmp_path) == tmp_path / "v1"
    )  # what its record says, not the one before it
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("v2")
    (tmp_path / "v2/deployment.json").write_text("[]")
    with pytest.raises(
        ValueError,
        match=r"v2/deployment.json does not say what v2 replaced; name a version with to= \(--to\): v1, v2",
    ):
        rollback(tmp_path)
    shutil.rmtree(tmp_path / "v2")
    with pytest.raises(
        FileNotFoundError, match="names 'v2', which is no complete version; there are v1, and"
    ):
        rollback(tmp_path)
    assert cli("rollback", tmp_path, "--to", "v1") == (0, f"in service: {tmp_path / 'v1'}")


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


# ---- the card


def test_the_card_is_one_that_the_hub_reads(lm, report, tmp_path):
    from huggingface_hub import ModelCard

    (tmp_path / "train.jsonl").write_text(
        '{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n'
    )
    there = deploy(
        lm,
        tmp_path / "ads",
        report,
        OPEN,
        data=tmp_path / "train.jsonl",
        license="apache-2.0",
        base="HuggingFaceTB/SmolLM2-360M",
    )
    card = ModelCard.load(there / "README.md")
    d = card.data
    assert (d.license, d.base_model, d.library_name, d.pipeline_tag) == (
        "apache-2.0",
        "HuggingFaceTB/SmolLM2-360M",
        "transformers",
        "text-generation",
    )
    assert {r.metric_name: r.metric_value for r in d.eval_results} == {
        m: round(s.value, 4) for m, s in report.scores.items()
    }
    import hashlib

    digest = hashlib.sha256((tmp_path / "train.jsonl").read_bytes()).hexdigest()
    assert f"| train.jsonl | 2 | `{digest}` |" in card.text and "| truth |" in card.text
    record = json.loads((there / "deployment.json").read_text())
    assert (
        record["data"] == [dict(name="train.jsonl", rows=2, sha256=digest)]
        and record["license"] == "apache-2.0"
        and record["weights"] == report.weights
    )


def test_a_card_says_what_is_not_known(lm, report, tmp_path):
    from huggingface_hub import ModelCard

    card = model_card(lm, report, OPEN.rules(), base=str(tmp_path))
    assert (
        ModelCard(card).data.base_model is None
        and ModelCard(card).data.license is None
        and "No licence was stated" in card
        and f"Made from {tmp_path}" in card
    )
    with pytest.raises(ValueError, match="license must be written as the hub writes it"):
        deploy(lm, tmp_path, report, OPEN, license="Apache 2.0!")


def test_fingerprints_of_data(tmp_path, monkeypatch):
    rows = [dict(prompt="é", completion="b"), dict(prompt="c", completion="\ud800")]
    one = data_fingerprints(rows)[0]
    assert (
        one["rows"] == 2
        and one == data_fingerprints({"rows": [dict(reversed(list(r.items()))) for r in rows]})[0]
        and one["sha256"] != data_fingerprints(rows[::-1])[0]["sha256"]
    )
    a, b = tmp_path / "a.jsonl", tmp_path / "b.csv"
    a.write_text('{"prompt": "x", "chosen": "y", "rejected": "z"}\n')
    b.write_text("input,output\n1,2\n3,4\n")
    assert [(d["name"], d["rows"]) for d in data_fingerprints([a, str(b)])] == [
        ("a.jsonl", 1),
        ("b.csv", 2),
    ] and data_fingerprints(None) == []
    with pytest.raises(DataError, match="no file"):
        data_fingerprints(tmp_path / "none.jsonl")
    same = [
        tmp_path / f
        for f in (
            "x/en/train.jsonl",
            "x/pt/train.jsonl",
            "y/pt/train.jsonl",
            "x/valid.jsonl",
            "x/y/../en/train.jsonl",
        )
    ]
    (tmp_path / "x/y").mkdir(parents=True)
    for n, f in enumerate(same[:4]):
        f.parent.mkdir(parents=True, exist_ok=True)
        f.write_text(f'{{"prompt": "{n}", "completion": "b"}}\n')
    found = data_fingerprints(same)
    assert [d["name"] for d in found] == [
        "en/train.jsonl",
        "x/pt/train.jsonl",
        "y/pt/train.jsonl",
        "valid.jsonl",
    ] and len({d["sha256"] for d in found}) == 4
    monkeypatch.chdir(tmp_path / "x")
    assert [d["name"] for d in data_fingerprints(["valid.jsonl", "en/train.jsonl", "pt/train.jsonl"])] == [
        "valid.jsonl",
        "en/train.jsonl",
        "pt/train.jsonl",
    ]
    a.write_text("{broken")
    with pytest.raises(DataError, match="line 1: not valid JSON"):
        data_fingerprints([a])


# ---- on the command line


def cli(*args):
    r = CliRunner().invoke(app, [str(a) for a in args])
    return r.exit_code, r.output.strip()


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
