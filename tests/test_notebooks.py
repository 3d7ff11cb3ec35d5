"Runs every chapter from a fresh kernel in the profile that FTGUIDE_PROFILE names."
import configparser, json, os
from pathlib import Path

import papermill
import pytest

ROOT = Path(__file__).resolve().parent.parent
PROFILE = os.environ.get("FTGUIDE_PROFILE", "tiny")


def parameters(stem):
    ini = configparser.ConfigParser(); ini.read(ROOT / "settings.ini", encoding="utf-8")
    return json.loads(ini[PROFILE].get(stem, "{}"))


@pytest.mark.parametrize("path", sorted(ROOT.glob("nbs/*.ipynb")), ids=lambda p: p.stem)
def test_chapter_runs(path, tmp_path):
    papermill.execute_notebook(str(path), str(tmp_path / path.name), parameters=parameters(path.stem), cwd=str(tmp_path), kernel_name="python3", progress_bar=False)
