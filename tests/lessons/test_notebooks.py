"Runs every chapter, in a process of its own, in the profile that FTGUIDE_PROFILE names."

import configparser
import json
import os
from pathlib import Path
from unittest import mock

import pytest
from lesson_runner import LessonRunner

ROOT = Path(__file__).resolve().parents[2]
PROFILE = os.environ.get("FTGUIDE_PROFILE", "tiny")


def parameters(stem):
    ini = configparser.ConfigParser()
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    return json.loads(ini[PROFILE].get(stem, "{}"))


CHAPTERS = sorted(ROOT.glob("nbs/[0-9]*.ipynb"))  # other pages have no code


@pytest.fixture(scope="session")
def runner():
    runner = LessonRunner()
    yield runner
    runner.close()


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_chapter_runs(path, tmp_path, runner, with_fetched_models):
    log = tmp_path / "log.txt"
    with mock.patch.dict(os.environ, with_fetched_models, clear=True):
        code = runner.run(str(path), parameters(path.stem), str(log))
    assert code == 0, log.read_text(encoding="utf-8")[-20_000:]
