"""Models in one GGUF file, the format of llama.cpp: checked, and made an ordinary model of transformers.

Stands on model_folders. Weights of few bits are dequantised: each becomes the number it stood for.
"""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from pathlib import Path

import torch
from gguf import GGMLQuantizationType, GGUFReader
from tokenizers import Tokenizer, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ftguide.engine.model_folders import ModelError, check_complete, check_described

MAGIC = b"GGUF"
HEADER = "<4sIQ"  # magic, version, number of weights
LEAST_BITS = 1.5  # of a weight, in the smallest of the formats
PART = r"-\d{5}-of-\d{5}$"  # one of several files of a model

# Vocabularies whose merges were learnt on single digits (llama.cpp, `llama_vocab::impl::load`); transformers
# splits these as GPT-2 does, and two spaces before a digit become other tokens than in training.
SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r")


def gguf_in(folder: Path) -> Path | None:
    "The GGUF file of a folder without safetensors; None without one, ModelError when there are several."
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() == ".gguf")
    if not files or list(folder.glob("*.safetensors")):
        return None
    if len(files) > 1:
        raise ModelError(f"{folder} holds {len(files)} GGUF files; name one of them, such as {files[0]}")
    return files[0]


def read_gguf(
    file: Path,
    dtype: torch.dtype = torch.float32,  # of the weights
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:  # model, tokenizer, where the weights came from
    "Read a GGUF file of an architecture that transformers knows; ModelError when it is none, or cut off."
    weights = _weights_in(file)
    where = dict(gguf_file=str(file.absolute()), local_files_only=True, trust_remote_code=False)
    config = AutoConfig.from_pretrained(file.parent, **where)
    at_most = file.stat().st_size * 8 / LEAST_BITS
    check_described(f"{file}: its header", config, weights, at_most, f"at most {at_most:,.0f}")
    reader = GGUFReader(file)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
    _leave_out_invented(tokenizer, reader)
    _split_as_learnt(tokenizer, reader)
    if positions := getattr(config.get_text_config(), "max_position_embeddings", None):
        tokenizer.model_max_length = positions
    model, found = AutoModelForCausalLM.from_pretrained(
        file.parent,
        config=config,
        dtype=dtype,
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **where,
    )
    check_complete(file, found)
    if hasattr(model.config, "_model_name_or_path"):
        del model.config._model_name_or_path  # the file's title, which is no name of the hub
    return model, tokenizer, f"{file.name} ({weight_type(reader)})"


def _weights_in(file: Path) -> int:
    "How many weights the header announces; ModelError when the file is no GGUF file of ours to read."
    if re.search(PART, file.stem):
        raise ModelError(
            f"{file} is one of several files of a model, and they are read from one only; "
            "join them with llama.cpp's gguf-split --merge"
        )
    start = file.open("rb").read(struct.calcsize(HEADER))
    if start[:4] != MAGIC or len(start) < struct.calcsize(HEADER):
        raise ModelError(f"{file} is no GGUF file: it does not begin with the letters GGUF and a header")
    return struct.unpack(HEADER, start)[2]


def _leave_out_invented(tokenizer: PreTrainedTokenizerBase, reader: GGUFReader) -> None:
    "transformers adds <|endoftext|> to every vocabulary of GPT-2's kind; where the file has none, it goes."
    field, about = reader.get_field("tokenizer.ggml.tokens"), json.loads(tokenizer.backend_tokenizer.to_str())
    known = [token for token in about["added_tokens"] if field is None or token["id"] < len(field.data)]
    if len(known) < len(about["added_tokens"]):
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps({**about, "added_tokens": known}))


def _split_as_learnt(tokenizer: PreTrainedTokenizerBase, reader: GGUFReader) -> None:
    "Split digits one by one before anything else, where the vocabulary was learnt so."
    field = reader.get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() in SINGLE_DIGITS:
        backend = tokenizer.backend_tokenizer
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
        )


def weight_type(reader: GGUFReader) -> str:  # F16, Q8_0, Q4_1 …
    "How most of the numbers in a GGUF file are stored."
    numbers: Counter[GGMLQuantizationType] = Counter()
    for tensor in reader.tensors:
        numbers[tensor.tensor_type] += int(tensor.n_elements)
    return numbers.most_common(1)[0][0].name if numbers else "no weights"
