"""A model's folder: is it whole, its training log, where its weights began; writing one, all or nothing.

Imports nothing of the package. Knows models and tokenizers of transformers.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
import warnings
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

HISTORY = "history.json"  # the training log, beside the weights
SOURCE = "source.json"  # where the weights came from
ADAPTER = "adapter_config.json"  # of PEFT: the weights beside it are an adapter's
MARK = r"\{%(?P<begin>[-+]?)\s*(?:end)?generation\s*(?P<end>[-+]?)%\}"
HEADS = ("score", "classifier", "qa_outputs")  # what a classifier's weights are called


class ModelError(ValueError):
    "A model cannot be loaded, or cannot do what is asked of it."


def first_line(error: Exception) -> str:  # at most 200 characters
    "What an error of a library says, without the pages that may follow."
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def check_files(folder: Path) -> None:
    "ModelError unless a folder holds a whole model, or an adapter alone."
    weights = [file.name for file in folder.glob("*.safetensors")]
    whole = [name for name in weights if not name.startswith("adapter_model")]
    if (folder / ADAPTER).exists():
        if whole:
            raise ModelError(
                f"{folder} holds whole weights ({whole[0]}) and an adapter beside them ({ADAPTER}), "
                "and nobody knows whether it is in them already; keep one of the two there"
            )
        if not weights:
            raise ModelError(f"{folder} has no adapter_model.safetensors; pickled adapters are not read")
        return
    if not (folder / "config.json").exists():
        raise ModelError(f"{folder} has no config.json: it is not a model folder")
    if not weights:
        raise ModelError(
            f"{folder} has no .safetensors file; pickled weights are not read. "
            "Save it with safe_serialization"
        )


def check_sizes(
    folder: Path,
    config: PretrainedConfig | None = None,  # its config.json, where that was read
) -> None:
    "ModelError when config.json describes far more numbers than the files hold; no memory is taken for them."
    shapes = _stored_shapes(folder)
    held = sum(map(math.prod, shapes))
    config = config or AutoConfig.from_pretrained(folder, trust_remote_code=False)
    # several numbers in one, or a tied output layer counted twice
    slack = 16 if getattr(config, "quantization_config", None) else 2
    check_described(f"{folder}: config.json", config, len(shapes), slack * held, f"{held:,}")


def check_described(
    where: str,  # what describes the model, for the message
    config: PretrainedConfig,  # read from there
    weights: int,  # how many weights, tables of numbers, the files hold
    at_most: float,  # how many numbers these may be
    held: str,  # the same, for the message
) -> None:
    "ModelError when a config describes more layers or numbers than its files can hold."
    layers = getattr(config.get_text_config(), "num_hidden_layers", None) or 0
    if layers > weights:
        raise ModelError(
            f"{where} speaks of {layers:,} layers, and the files hold {weights:,} weights. "
            "They are not of one model, or files are missing"
        )
    wanted = _described_parameters(config)
    if wanted is not None and wanted > at_most:
        raise ModelError(
            f"{where} describes a model of {wanted:,} numbers, and the files hold {held}. "
            "They are not of one model, or files are missing"
        )


def _stored_shapes(folder: Path) -> list:  # of all weights
    shapes = []
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as weights:
                shapes += [weights.get_slice(key).get_shape() for key in weights.keys()]  # noqa: SIM118
        except Exception as e:
            raise ModelError(
                f"{file} cannot be read ({first_line(e)}): it is no safetensors file, or was cut off. "
                "Copy or download it again"
            ) from e
    return shapes


def _described_parameters(config: PretrainedConfig) -> int | None:
    "How many numbers a model of this config has; None when it makes no model; loading will say why."
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception:
        return None
    return sum(p.numel() for p in model.parameters())


def check_complete(
    name: str | Path,
    found: dict,  # what transformers says about the weights it has read
) -> None:
    "ModelError when weights were missing or misshapen: transformers has filled them with random numbers."
    if mismatched := sorted(found["mismatched_keys"]):
        key, theirs, ours = mismatched[0]
        raise ModelError(
            f"{name}: config.json does not fit the weights: {key} has the shape {tuple(theirs)} in the file "
            f"and {tuple(ours)} by config.json ({len(mismatched)} such weights)"
        )
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"{name} is not complete: {len(missing)} weights are missing, the first is {missing[0]}. "
            "Copy or download all its files again"
        )
    left = sorted(found.get("unexpected_keys", ()))
    if heads := [key for key in left if key.split(".")[0] in HEADS]:
        raise ModelError(
            f"{name} is a classifier: its head ({heads[0]}) would not be read. "
            "Take a causal language model, one that continues a text"
        )
    if left:
        warnings.warn(
            f"{name}: {len(left)} weights of the files are no part of the model and are left out, "
            f"the first is {left[0]}",
            stacklevel=2,
        )


def read_history(file: Path) -> list[dict]:  # one dict a logged step; empty where there is no log
    "The training log beside the weights. One that cannot be read is left out with a warning."
    if not file.is_file():
        return []
    try:
        history = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        history = None
    if isinstance(history, list) and all(isinstance(step, dict) for step in history):
        return history
    warnings.warn(f"{file} is no training log and is left out", stacklevel=2)
    return []


def read_origin(folder: Path) -> str:  # empty where nothing is known, or nothing can be read
    "Where the weights in a folder came from, as the fetch or the saving of a model wrote it there."
    try:
        source = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    origin = source.get("origin") if isinstance(source, dict) else None
    return origin if isinstance(origin, str) else ""


def write_model(
    folder: str | Path,  # a link is followed and stays
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    history: list[dict],  # training log
    card: str,  # README.md
    overwrite: bool = False,  # replace what is there? Otherwise FileExistsError
    source: dict | None = None,  # where the weights came from, for source.json
) -> Path:
    "Write a model beside its folder and move it there; OSError leaves nothing behind."
    folder = Path(folder).resolve() if Path(folder).is_symlink() else Path(folder)
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not overwrite)):
        raise FileExistsError(f"{folder} exists and is not empty; choose another folder, or overwrite")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        for file in aside.rglob("*.jinja"):
            file.write_text(without_marks(file.read_text(encoding="utf-8")), encoding="utf-8")
        (aside / HISTORY).write_text(json.dumps(history), encoding="utf-8")
        (aside / "README.md").write_text(card, encoding="utf-8")
        if source:
            (aside / SOURCE).write_text(json.dumps(source, indent=1), encoding="utf-8")
        _readable_by_all(aside)
        swap(aside, folder)
    except OSError:
        raise
    except Exception as e:  # safetensors and tokenizers have errors of their own for a full disk
        raise OSError(
            f"{folder} could not be written ({first_line(e)}); nothing of it was left behind"
        ) from e
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def without_marks(template: str) -> str:
    """A chat template without `{% generation %}` and its end: only training knows them, other programs stop.

    A mark that takes white space or a line's end away becomes a comment that does the same."""
    return re.sub(MARK, _unmarked, template)


def _unmarked(mark: re.Match) -> str:
    begin, end = mark["begin"], mark["end"]
    line = mark.string[: mark.start()].rpartition("\n")[2]
    alone = not line.strip() or mark.string[mark.end() : mark.end() + 1] == "\n"
    return f"{{#{begin} {end}#}}" if begin or end or alone else ""


def _readable_by_all(folder: Path) -> None:
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(0o644)


def swap(new: Path, folder: Path) -> None:
    "Put a new folder in the place of an old one, which comes back when that fails."
    old = new.with_name(f"{new.name}.old")
    try:
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except BaseException:  # Ctrl-C too
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
