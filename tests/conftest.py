"Shared by all tests: no network, no telemetry, no progress bars."
import os

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TQDM_DISABLE="1", MPLBACKEND="agg", TOKENIZERS_PARALLELISM="false")

import pytest


@pytest.fixture(scope="module")
def browser():
    "One headless Chromium for a file of tests; skipped with a reason where there is none."
    from browser import chromium
    driver = chromium()
    yield driver
    driver.quit()
