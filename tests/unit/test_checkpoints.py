"""Which checkpoints are whole, whatever moment a run was killed at."""

import shutil

import pytest

from ftguide.engine import checkpoints as module
from ftguide.engine.checkpoints import WHOLE, checkpoints, delete_old, last_checkpoint, make_room, mark_whole

RECORD = dict(seed=0)


@pytest.fixture
def folder(tmp_path):
    for step in (5, 10, 15):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}/model.safetensors").write_bytes(b"weights")
        mark_whole(tmp_path / f"checkpoint-{step}", RECORD)
    return tmp_path


def names(folder):
    return [path.name for path in checkpoints(folder)]


def test_the_newest_and_the_best_stay(folder):
    delete_old(folder, 2, str(folder / "checkpoint-5"))
    assert names(folder) == ["checkpoint-15", "checkpoint-5"]
    delete_old(folder, 1, None)
    assert names(folder) == ["checkpoint-15"]


def test_room_is_made_before_one_more_is_written(folder):
    "The newest whole one stays whatever happens to the next, and the best one too."
    make_room(folder, None, None)
    assert len(names(folder)) == 3
    make_room(folder, 2, str(folder / "checkpoint-5"))
    assert names(folder) == ["checkpoint-15", "checkpoint-5"]
    (folder / "checkpoint-15" / WHOLE).unlink()
    make_room(folder, 1, None)
    assert names(folder) == ["checkpoint-15", "checkpoint-5"]


def test_without_a_limit_all_stay(folder):
    delete_old(folder, None, None)
    assert len(names(folder)) == 3


def test_half_deleted_looks_like_half_written(folder, monkeypatch):
    "Killed while an old checkpoint was deleted: some of its files are left, and its mark is not."

    def killed(path, **_):
        (path / "model.safetensors").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(module.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        delete_old(folder, 2, None)
    assert [p.name for p in checkpoints(folder) if (p / WHOLE).exists()] == ["checkpoint-15", "checkpoint-10"]


def test_goes_on_from_the_newest_whole_one(folder):
    (folder / "checkpoint-15" / WHOLE).unlink()
    with pytest.warns(UserWarning, match="checkpoint-15 was cut off"):
        assert last_checkpoint(folder, True, RECORD) == str(folder / "checkpoint-10")


def test_a_folder_of_another_run_is_refused(folder):
    with pytest.raises(ValueError, match="seed was 0 and is 1"):
        last_checkpoint(folder, True, dict(seed=1))
    with pytest.raises(FileExistsError):
        last_checkpoint(folder, False, RECORD)
    with pytest.raises(ValueError, match="seed was 0 and is None"):
        last_checkpoint(folder, True, {})
    shutil.rmtree(folder / "checkpoint-10")
    (folder / "checkpoint-15" / WHOLE).write_text("[]")
    with pytest.raises(ValueError, match="damaged"):
        last_checkpoint(folder, True, RECORD)
