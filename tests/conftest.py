"Shared by all tests: no network, no telemetry, no progress bars, the same made-up examples every time; what shares a fixture runs in one process."

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("seeded", deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
settings.register_profile(
    "hunt", parent=settings.get_profile("seeded"), derandomize=False
)  # pytest --hypothesis-profile=hunt: other examples every time
settings.load_profile("seeded")
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TQDM_DISABLE="1",
    MPLBACKEND="agg",
    TOKENIZERS_PARALLELISM="false",
)


def pytest_collection_modifyitems(items):
    "With `-n`, a file of tests stays in one process, where its models are made once; chapters are independent of each other."
    for item in items:
        if not item.path.name == "test_notebooks.py":
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="module")
def browser():
    "One headless Chromium for a file of tests; skipped with a reason where there is none."
    from browser import chromium

    driver = chromium()
    yield driver
    driver.quit()


@pytest.fixture
def clicked():
    "Runs cells in a real kernel that shows widgets; a message between the two is lost once in a while, so a kernel that says nothing for a minute is started again."
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
