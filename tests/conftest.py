"Shared by all tests: no network, no telemetry, no progress bars, the same made-up examples every time."

import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Where a model was fetched, lessons and the tests of the real model see it; no other test does, whose output
# would depend on it.
NO_MODELS = str(Path(tempfile.gettempdir()) / "ftguide-no-models")
CACHES = {name: os.environ.get(name, "") for name in ("FTGUIDE_CACHE", "HF_HUB_CACHE")}
KEPT = json.loads(os.environ.setdefault("FTGUIDE_TEST_CACHES", json.dumps(CACHES)))  # for `pytest -n`, too
os.environ.update(dict.fromkeys(CACHES, NO_MODELS))

settings.register_profile("seeded", deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
# pytest --hypothesis-profile=hunt: other examples every time
settings.register_profile("hunt", parent=settings.get_profile("seeded"), derandomize=False)
settings.load_profile("seeded")
os.environ.update(
    HF_HUB_OFFLINE="1",
    PIP_NO_INDEX="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TQDM_DISABLE="1",
    MPLBACKEND="agg",
    TOKENIZERS_PARALLELISM="false",
)


ROOMS = ["lessons", "train", "system", "unit"]


def pytest_configure(config):
    config.option.loadscopereorder = False  # the order below, and not lessons last, each of which is one test


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also the tests that take many minutes")


def pytest_collection_modifyitems(config, items):
    """Each test is marked with its folder, and those marked `long` wait for --long.

    With `-n`, a file of tests stays in one process, where its models are made once; lessons are independent
    of each other. What takes long comes first, so that no process works alone at the end."""
    tests_of = Counter(item.path for item in items)
    items.sort(key=lambda item: (ROOMS.index(item.path.parent.name), -tests_of[item.path], item.path))
    for item in items:
        room = item.path.parent.name
        item.add_marker(getattr(pytest.mark, room))
        if room != "lessons":
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        if item.get_closest_marker("long") and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="takes many minutes; pytest --long runs it"))


@pytest.fixture(scope="module")
def browser():
    "One headless Chromium for a file of tests; skipped with a reason where there is none."
    from browser import chromium

    driver = chromium()
    yield driver
    driver.quit()


@pytest.fixture
def clicked():
    """Runs cells in a real kernel that shows widgets.

    A message between the two is lost once in a while, so a kernel that says nothing for a minute is started
    again."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError

    def run(*cells):
        for last in (False, False, True):
            nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
            try:
                NotebookClient(nb, kernel_name="python3", timeout=60).execute()
                return nb
            except CellTimeoutError:
                if last:
                    raise

    return run


@pytest.fixture(scope="session")
def with_fetched_models():
    "The environment in which a model that was fetched is seen."
    return {name: value for name, value in {**os.environ, **KEPT}.items() if value}


@pytest.fixture(scope="session")
def real_folder(with_fetched_models):
    "Folder of the real model; skipped with a reason where it was not fetched, and never fetched here."
    ask = "from ftguide.engine import bases; print(bases.at_hand(bases.REAL) or '')"
    done = subprocess.run(
        [sys.executable, "-c", ask], env=with_fetched_models, capture_output=True, text=True, check=True
    )
    if not done.stdout.strip():
        pytest.skip("smollm2-135m is not at hand; `ftguide get smollm2-135m` fetches it")
    return Path(done.stdout.strip())


@pytest.fixture
def back(monkeypatch):
    "Puts the clock of this process, and of the votes and backups that it writes, back by so many hours."
    from ftguide.serving import backups, votes

    def put(hours):
        real, now = time.time, datetime.datetime
        monkeypatch.setattr(time, "time", lambda: real() - 3600 * hours)

        class Earlier(now):
            @classmethod
            def now(cls, tz=None):
                return now.now(tz) - datetime.timedelta(hours=hours)

        monkeypatch.setattr(votes, "datetime", Earlier)
        monkeypatch.setattr(backups, "datetime", Earlier)

    return put
