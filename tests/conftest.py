"Shared by all tests: no network, no telemetry, no progress bars, the same made-up examples every time."

import os

import pytest
from hypothesis import HealthCheck, settings

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


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also the tests that take many minutes")


def pytest_collection_modifyitems(config, items):
    """Each test is marked with its folder, and those marked `long` wait for --long.

    With `-n`, a file of tests stays in one process, where its models are made once; lessons are independent
    of each other."""
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
