"Runs every chapter from a fresh kernel in the profile that FTGUIDE_PROFILE names."

import configparser
import json
import os
from pathlib import Path

import papermill
import pytest

ROOT = Path(__file__).resolve().parents[2]
PROFILE = os.environ.get("FTGUIDE_PROFILE", "tiny")


def parameters(stem):
    ini = configparser.ConfigParser()
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    return json.loads(ini[PROFILE].get(stem, "{}"))


CHAPTERS = sorted(ROOT.glob("nbs/[0-9]*.ipynb"))  # other pages have no code


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_chapter_runs(path, tmp_path):
    papermill.execute_notebook(
        str(path),
        str(tmp_path / path.name),
        parameters=parameters(path.stem),
        cwd=str(tmp_path),
        kernel_name="python3",
        progress_bar=False,
    )
