"""From a name to a model and its tokenizer, checked first; and back to a folder, all or nothing.

Stands on environment and files. Knows models and tokenizers of transformers; the lesson makes an LM of them.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import constants, get_session
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ftguide.engine.environment import quiet_libraries

SHIPPED = ("tiny", "tiny-small")
HUB_NAME = r"\w[\w-]*|\w[\w.-]*/\w[\w.-]*"  # gpt2, owner/name-1.7B
HISTORY = "history.json"  # the training log, beside the weights


class ModelError(ValueError):
    "A model cannot be loaded, or cannot do what is asked of it."


class Source(NamedTuple):
    "Where transformers reads a model."

    path: str  # a folder, or a name of the hub
    why_local: str  # why the hub is not asked; empty when it is


def package_folder() -> Path:
    "Folder of the installed package, with what ships beside the code."
    return Path(__file__).resolve().parents[1]


def shipped_folder(name: str) -> Path:
    "Folder of a shipped model."
    return package_folder() / "checkpoints" / name


def read_model(
    name: str | Path,  # tiny, tiny-small, a folder or a hub name; ModelError says in one line what is wrong
    dtype: str = "float32",  # type of the weights; ModelError when torch has none of that name
    load_in_4bit: bool = False,  # linear layers in 4 bits; ModelError without a CUDA GPU and bitsandbytes
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[dict]]:  # model, tokenizer, training log
    "Read a whole model: no pickles, no code that came with it, no weights made up."
    if not isinstance(getattr(torch, str(dtype), None), torch.dtype):
        raise ModelError(f"dtype {dtype!r} is not a torch type such as float32 or bfloat16")
    in_4bit = _arguments_for_4bit() if load_in_4bit else {}
    source = resolve(name)
    quiet_libraries()
    with _errors_in_one_line(name, source):
        if Path(source.path).is_dir() and str(name) not in SHIPPED:
            check_sizes(Path(source.path))
        where = dict(local_files_only=bool(source.why_local), trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source.path, **where)
        model, found = AutoModelForCausalLM.from_pretrained(
            source.path,
            dtype=getattr(torch, str(dtype)),
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **where,
            **in_4bit,
        )
        _check_complete(name, found)
    return model.eval(), tokenizer, read_history(Path(source.path) / HISTORY)


def resolve(name: str | Path) -> Source:
    "Where a name points to; ModelError when a folder holds no model."
    if str(name) in SHIPPED:
        return Source(str(shipped_folder(str(name))), "it is shipped")
    folder = Path(os.path.expanduser(name))
    if folder.is_dir():
        _check_files(folder)
        return Source(str(folder), "it is a folder")
    if folder.is_file():
        raise ModelError(
            f"{name} is a file; a model is a folder with config.json, .safetensors and a tokenizer"
        )
    if not re.fullmatch(HUB_NAME, str(name)):
        raise ModelError(f"no folder {str(name)!r}{_did_you_mean(name)}")
    if os.environ.get("HF_HUB_OFFLINE") in ("1", "true", "True", "ON"):
        return Source(str(name), "it is not in the local cache")
    if _hub_answers():
        return Source(str(name), "")
    return Source(str(name), "the hub cannot be reached, and it is not in the local cache")


def _check_files(folder: Path) -> None:
    if not (folder / "config.json").exists():
        raise ModelError(f"{folder} has no config.json: it is not a model folder")
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} has no .safetensors file; pickled weights are not read. "
            "Save it with safe_serialization"
        )


def _hub_answers() -> bool:
    "Asked once: the hub's own library asks six times for every file, and waits 23 seconds."
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
        return True
    except Exception:
        return False


def _did_you_mean(name: str | Path) -> str:  # a question, or nothing
    "The shipped model, or the folder beside it, whose name differs by a letter or two."
    path = Path(str(name))
    try:
        beside = [str(p) for p in path.parent.iterdir() if p.is_dir()]
    except (OSError, ValueError):
        beside = []
    found = get_close_matches(str(path), [*SHIPPED, *beside], 1, 0.75)
    return f"; did you mean {found[0]!r}?" if found else ""


def _arguments_for_4bit() -> dict:  # of from_pretrained
    "NF4 blocks whose scales are quantised as well (Dettmers et al. 2023); ModelError where they cannot run."
    there = {
        "a CUDA GPU": torch.cuda.is_available(),
        "bitsandbytes (pip install bitsandbytes)": importlib.util.find_spec("bitsandbytes"),
    }
    if missing := [what for what, found in there.items() if not found]:
        raise ModelError(
            f"load_in_4bit needs {' and '.join(missing)}, not found here. Leave it out: lora=True (--lora) "
            "trains the same adapter on float32 weights, which take 4 bytes each instead of half a byte"
        )
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return dict(quantization_config=config, device_map={"": torch.cuda.current_device()})


def first_line(error: Exception) -> str:  # at most 200 characters
    "What an error of a library says, without the pages that may follow."
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@contextmanager
def _errors_in_one_line(name: str | Path, source: Source) -> Iterator[None]:
    "Turn the libraries' many errors about an unknown model into one line."
    try:
        yield
    except ModelError:
        raise
    except Exception as e:  # each library has errors of its own
        if "custom code" in str(e):
            raise ModelError(
                f"{name} needs Python files of its own (auto_map in its config.json), and none are run here. "
                "Take a model whose architecture transformers has"
            ) from e
        if Path(str(name)).is_dir() or str(name) in SHIPPED:
            raise ModelError(f"cannot read the model in {name}: {first_line(e)}") from e
        why = source.why_local or "the hub cannot be reached, or has no such model"
        raise ModelError(
            f"cannot load {str(name)!r}: {why}. Shipped models are {', '.join(SHIPPED)}; "
            f"a folder also works{_did_you_mean(name)}"
        ) from e


def check_sizes(folder: Path) -> None:
    "ModelError when config.json describes far more numbers than the files hold; no memory is taken for them."
    if (folder / "adapter_config.json").exists():
        return  # the weights of its base are elsewhere
    shapes = _stored_shapes(folder)
    held = sum(map(math.prod, shapes))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    layers = getattr(config.get_text_config(), "num_hidden_layers", None) or 0
    if layers > len(shapes):
        raise ModelError(
            f"{folder}: config.json speaks of {layers:,} layers, and the files hold {len(shapes):,} weights. "
            "They are not of one model, or files are missing"
        )
    # several numbers in one, or a tied output layer counted twice
    slack = 16 if getattr(config, "quantization_config", None) else 2
    wanted = _described_parameters(config)
    if wanted is not None and wanted > slack * held:
        raise ModelError(
            f"{folder}: config.json describes a model of {wanted:,} numbers, and the files hold {held:,}. "
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


def _described_parameters(config) -> int | None:
    "How many numbers a model of this config has; None when it makes no model; loading will say why."
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception:
        return None
    return sum(p.numel() for p in model.parameters())


def _check_complete(
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


def write_model(
    folder: str | Path,  # a link is followed and stays
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    history: list[dict],  # training log
    card: str,  # README.md
    overwrite: bool = False,  # replace what is there? Otherwise FileExistsError
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
        (aside / HISTORY).write_text(json.dumps(history), encoding="utf-8")
        (aside / "README.md").write_text(card, encoding="utf-8")
        _readable_by_all(aside)
        _swap(aside, folder)
    except OSError:
        raise
    except Exception as e:  # safetensors and tokenizers have errors of their own for a full disk
        raise OSError(
            f"{folder} could not be written ({first_line(e)}); nothing of it was left behind"
        ) from e
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _readable_by_all(folder: Path) -> None:
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(0o644)


def _swap(new: Path, folder: Path) -> None:
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
