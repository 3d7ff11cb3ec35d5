"A folder of versions: one in service, a way back, and the order in which they came."

import json
import os
import shutil
import sys
import time

import pytest
from commands import cli

from ftguide.deployment import Gate, deploy
from ftguide.evaluation import Report
from ftguide.models import load
from ftguide.serving.versions import current, rollback, versions

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links, locks and signals")
OPEN = Gate(quality=None)


@pytest.fixture(scope="module")
def lm():
    return load("tiny-small")


@pytest.fixture(scope="module")
def report(lm):
    return Report(lm.name, lm.parameters)  # of which nothing is asked


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


def test_versions_are_numbered(lm, report, tmp_path):
    from ftguide.deployment import deploy
    from ftguide.serving.versions import current, rollback

    for n in range(3):
        made = deploy(lm, tmp_path / "shop", report, OPEN)
        for file in (made, *made.iterdir()):
            os.utime(file, (time.time() - 3600 * n,) * 2)
    assert (
        versions(tmp_path / "shop") == ["v1", "v2", "v3"]
        and current(tmp_path / "shop").name == "v3"
        and rollback(tmp_path / "shop").name == "v2"
    )
