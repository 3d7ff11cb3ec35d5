"""The machine a program runs on: its processes, its GPU, and how much the libraries print.

Imports nothing of the package, and torch only where a function needs it: reading a file starts in an instant.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import TypeVar

from tqdm.auto import tqdm

Model = TypeVar("Model")  # an LM

# trl reports every trainer it makes, unless it is told not to
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# no warning when a data loader forks
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
if "huggingface_hub.constants" in sys.modules:  # it has read the variable already
    sys.modules["huggingface_hub.constants"].HF_HUB_DISABLE_TELEMETRY = True


def is_interactive() -> bool:
    "Is somebody looking at a terminal or a notebook, so that progress bars make sense?"
    if os.environ.get("TQDM_DISABLE", "") not in ("", "0"):
        return False
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def hub_is_off() -> bool:
    "Has HF_HUB_OFFLINE switched the hub off?"
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "ON", "YES")


def quiet_libraries() -> None:
    "No progress bars of transformers and datasets for work of a second; ours say what matters."
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    # read by datasets when it is imported
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
    # each of its six tries would be two lines
    logging.getLogger("huggingface_hub.utils._http").setLevel("ERROR")
    # trl still says it so
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
    if not is_interactive():
        os.environ["TQDM_DISABLE"] = "1"  # trl's own bars ask for nothing else


def processes() -> tuple[int, int]:  # (number of this one, how many); (0, 1) alone
    "Which of the processes that `accelerate launch` or torchrun started this is."
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def progress_bar(total: int, what: str) -> tqdm:
    "A progress bar with the time left; silent when nobody watches."
    hidden = not is_interactive() or processes()[0] > 0
    return tqdm(total=total, desc=what, disable=hidden, leave=False)


def to_device(lm: Model) -> Model:  # the same
    "Move a model that is not trained to this process's GPU, if any: trainers move only what they train."
    import torch

    if torch.cuda.is_available() and lm.model.device.type == "cpu":
        lm.model.to(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
    return lm
