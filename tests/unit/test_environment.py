"Processes, bars and what libraries print."

import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

from ftguide.engine.environment import is_interactive, processes, progress_bar, quiet_libraries, to_device


def watched(monkeypatch, terminal: bool, switch: str | None = None):
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: terminal, write=len, flush=list))
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    if switch is not None:
        monkeypatch.setenv("TQDM_DISABLE", switch)


@pytest.mark.parametrize(
    "terminal, switch, looking",
    [(True, None, True), (True, "0", True), (True, "1", False), (False, None, False)],
)
def test_somebody_looks_at_a_terminal_unless_bars_are_switched_off(monkeypatch, terminal, switch, looking):
    watched(monkeypatch, terminal, switch)
    assert is_interactive() is looking


def test_somebody_looks_at_a_notebook(monkeypatch):
    watched(monkeypatch, False)
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    assert is_interactive()


def test_the_launcher_says_which_process_this_is(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert processes() == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert processes() == (2, 4)


@pytest.mark.parametrize("rank, hidden", [("0", False), ("1", True)])
def test_one_process_shows_its_bar(monkeypatch, rank, hidden):
    watched(monkeypatch, True)
    monkeypatch.setenv("RANK", rank)
    with progress_bar(3, "reading") as bar:
        assert bar.disable is hidden and bar.total == 3


def test_libraries_are_quiet(monkeypatch):
    import transformers

    watched(monkeypatch, False)
    with warnings.catch_warnings(record=True) as said:
        quiet_libraries()
        warnings.warn("gradient_checkpointing is deprecated", FutureWarning, stacklevel=1)
    assert not said and os.environ["TQDM_DISABLE"] == "1"
    assert transformers.logging.get_verbosity() == transformers.logging.ERROR


@pytest.mark.parametrize("first", ["huggingface_hub.constants", "os"])
def test_no_library_reports_what_is_run(first):
    code = (
        f"import {first}, ftguide.engine.environment, huggingface_hub.constants as constants\n"
        "print(constants.HF_HUB_DISABLE_TELEMETRY)"
    )
    env = {
        k: v for k, v in os.environ.items() if k not in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE", "CI")
    }
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_the_environment_is_read_without_torch():
    code = "import sys, ftguide.engine.environment, ftguide.engine.files; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU")
def test_without_a_gpu_a_model_stays_where_it_is():
    lm = SimpleNamespace(model=torch.nn.Linear(2, 2))
    assert to_device(lm) is lm and lm.model.weight.device.type == "cpu"
