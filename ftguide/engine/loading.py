"""From a name to a model and its tokenizer, checked first.

Stands on model_folders, causal, adapters, gguf_files and pretrained. The lesson makes an LM of it.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ftguide.engine.adapters import base_of, with_adapter
from ftguide.engine.causal import check_causal, check_config, check_tokens
from ftguide.engine.environment import hub_is_off, quiet_libraries
from ftguide.engine.generation import say_settings
from ftguide.engine.gguf_files import gguf_in, read_gguf
from ftguide.engine.model_folders import (
    ADAPTER,
    HISTORY,
    ModelError,
    check_complete,
    check_files,
    check_sizes,
    first_line,
    read_history,
    read_origin,
)
from ftguide.engine.pretrained import PRETRAINED, at_hand, fetch, hub_answers, origin

SHIPPED = ("tiny", "tiny-small")
HUB_NAME = r"\w[\w-]*|\w[\w.-]*/\w[\w.-]*"  # gpt2, owner/name-1.7B


class Source(NamedTuple):
    "Where transformers reads a model."

    path: str  # a folder, a GGUF file, or a name of the hub
    why_local: str  # why the hub is not asked; empty when it is


def package_folder() -> Path:
    "Folder of the installed package, with what ships beside the code."
    return Path(__file__).resolve().parents[1]


def shipped_folder(name: str) -> Path:
    "Folder of a shipped model."
    return package_folder() / "checkpoints" / name


def is_own_name(name: str | Path) -> bool:
    "Does the guide give this name to a model, shipped or fetched?"
    return str(name) in SHIPPED or str(name) in PRETRAINED


def known_folder(name: str | Path) -> str | None:
    "Where a model with a name of the guide's is: its folder, or a hub name; None for another name."
    if str(name) in SHIPPED:
        return str(shipped_folder(str(name)))
    if str(name) in PRETRAINED:
        return str(at_hand(str(name)) or PRETRAINED[str(name)].hub)
    return None


def read_model(
    name: str | Path,  # as `load` takes it; ModelError says in one line what is wrong
    dtype: str = "float32",  # type of the weights; ModelError when torch has none of that name
    load_in_4bit: bool = False,  # linear layers in 4 bits; ModelError without a CUDA GPU and bitsandbytes
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[dict], str]:
    """Read a whole model: no pickles, no code that came with it, no weights made up.

    Returns the model, its tokenizer, the training log, and where the weights came from, if that is known."""
    if not isinstance(getattr(torch, str(dtype), None), torch.dtype):
        raise ModelError(f"dtype {dtype!r} is not a torch type such as float32 or bfloat16")
    in_4bit = _arguments_for_4bit() if load_in_4bit else {}
    source = resolve(name)
    quiet_libraries()
    with _errors_in_one_line(name, source):
        if (Path(source.path) / ADAPTER).exists():
            return _read_adapter(name, Path(source.path), dtype, load_in_4bit)
        if Path(source.path).is_file():
            if in_4bit:
                raise ModelError(f"load_in_4bit reads safetensors, and {source.path} is a GGUF file")
            model, tokenizer, began = read_gguf(Path(source.path), getattr(torch, str(dtype)))
            check_tokens(name, model, tokenizer)
            return model.eval(), tokenizer, [], began
        where = dict(local_files_only=bool(source.why_local), trust_remote_code=False)
        if str(name) not in SHIPPED:
            config = AutoConfig.from_pretrained(source.path, **where)
            check_config(name, config)
            if Path(source.path).is_dir():
                check_sizes(Path(source.path), config)
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
        check_complete(name, found)
        if str(name) not in SHIPPED:
            check_tokens(name, model, tokenizer)
            check_causal(name, model.eval())
            say_settings(name, model)
    folder = Path(source.path)
    began = origin(str(name)) if str(name) in PRETRAINED else read_origin(folder)
    return model.eval(), tokenizer, read_history(folder / HISTORY), began


def _read_adapter(name: str | Path, folder: Path, dtype: str, load_in_4bit: bool) -> tuple:
    "The base that an adapter's folder names, with the adapter merged into it: what `read_model` returns."
    base = base_of(folder)
    if load_in_4bit:
        raise ModelError(
            f"{name} holds an adapter, which is merged into its base; 4 bits would round it away. "
            "Load it without load_in_4bit, save it, and load that"
        )
    try:
        model, tokenizer, _, began = read_model(base, dtype)
    except ModelError as e:
        raise ModelError(
            f"{name} holds an adapter of {base!r}, which cannot be loaded: {e}. "
            f"Put the base there, or write where it is into {ADAPTER} (base_model_name_or_path)"
        ) from e
    if (folder / "tokenizer_config.json").exists():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = with_adapter(model, folder)
    check_tokens(name, model, tokenizer)
    return model.eval(), tokenizer, read_history(folder / HISTORY), read_origin(folder) or began


def resolve(name: str | Path) -> Source:
    "Where a name points to; ModelError when a folder holds no model, or one cannot be fetched."
    if str(name) in SHIPPED:
        return Source(str(shipped_folder(str(name))), "it is shipped")
    if str(name) in PRETRAINED:
        return Source(str(fetch(str(name))), "it is in the cache")
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        gguf = gguf_in(path)
        if gguf is None:
            check_files(path)
        return Source(str(gguf or path), "it is a folder")
    if path.is_file():
        if path.suffix.lower() == ".gguf":
            return Source(str(path), "it is a file")
        raise ModelError(
            f"{name} is a file; a model is a folder with config.json, .safetensors and a tokenizer, "
            "or a .gguf file"
        )
    if path.suffix.lower() == ".gguf" or not re.fullmatch(HUB_NAME, str(name)):
        what = "file" if path.suffix.lower() == ".gguf" else "folder"
        raise ModelError(f"no {what} {str(name)!r}{_did_you_mean(name)}")
    if hub_is_off():
        return Source(str(name), "it is not in the local cache")
    if hub_answers():
        return Source(str(name), "")
    return Source(str(name), "the hub cannot be reached, and it is not in the local cache")


def _did_you_mean(name: str | Path) -> str:  # a question, or nothing
    "The model of the guide's, or the folder or file beside it, whose name differs by a letter or two."
    path = Path(str(name))
    try:
        beside = [str(p) for p in path.parent.iterdir() if p.is_dir() or p.suffix == ".gguf"]
    except (OSError, ValueError):
        beside = []
    found = get_close_matches(str(path), [*SHIPPED, *PRETRAINED, *beside], 1, 0.75)
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
        if str(name) in PRETRAINED:
            raise ModelError(
                f"cannot read the model in {source.path}: {first_line(e)}. Delete that folder, and "
                f"`ftguide get {name}` fetches it anew"
            ) from e
        if Path(source.path).is_file():
            raise ModelError(
                f"cannot read {name}: {first_line(e)}. The file is damaged, cut off, or of a kind that "
                "transformers does not read"
            ) from e
        if Path(source.path).is_dir():
            raise ModelError(f"cannot read the model in {name}: {first_line(e)}") from e
        why = source.why_local or "the hub cannot be reached, or has no such model"
        raise ModelError(
            f"cannot load {str(name)!r}: {why}. Shipped models are {', '.join(SHIPPED)}; "
            f"{', '.join(PRETRAINED)} is fetched when asked for; a folder or a .gguf file also works"
            f"{_did_you_mean(name)}"
        ) from e
