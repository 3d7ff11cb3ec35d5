"Models in one GGUF file: the same numbers and answers; and files that are damaged, foreign or too large."

import shutil

import gguf
import pytest
import torch
from ggufs import write_gguf
from stages import weights

from ftguide.engine import loading
from ftguide.engine.gguf_files import gguf_in
from ftguide.engine.model_folders import ModelError
from ftguide.models import encode, load, reply, save, token_logps

Q4_1 = gguf.GGMLQuantizationType.Q4_1


@pytest.fixture(scope="module")
def small():
    return load("tiny-small")


@pytest.fixture(scope="module")
def exact(small, tmp_path_factory):
    return write_gguf(small, tmp_path_factory.mktemp("gguf") / "small.gguf")


@pytest.fixture(scope="module")
def rounded(small, tmp_path_factory):
    return write_gguf(small, tmp_path_factory.mktemp("gguf") / "small.Q4_1.gguf", Q4_1)


# ---- what is read


def test_float32_is_read_to_the_last_bit(small, exact):
    lm = load(exact)
    assert torch.equal(weights(lm), weights(small)) and lm.model.dtype == torch.float32
    ids = torch.tensor([encode(small.tokenizer, "How much is 12 + 3?", "15")[0]])
    assert torch.equal(token_logps(lm.model(ids).logits, ids), token_logps(small.model(ids).logits, ids))
    assert lm.name == "small.gguf" and lm.origin == "small.gguf (F32)" and lm.history == []


def test_four_bits_become_the_numbers_they_stood_for(small, rounded):
    lm = load(rounded)
    assert lm.origin == "small.Q4_1.gguf (Q4_1)"
    here, there = lm.model.state_dict(), small.model.state_dict()
    key = "model.layers.0.mlp.up_proj.weight"
    blocks = there[key].reshape(-1, 32)
    step = (blocks.amax(1) - blocks.amin(1)) / 15
    wrong = (here[key].reshape(-1, 32) - blocks).abs().amax(1)
    assert (wrong <= 0.51 * step + 1e-3).all() and wrong.max() > 0.1 * step.max()
    values = here[key].reshape(-1, 32)[0]
    assert len(values.unique()) <= 16


def test_the_model_is_an_ordinary_one(rounded, tmp_path):
    lm = load(rounded)
    assert not getattr(lm.model, "is_quantized", False)
    again = load(save(lm, tmp_path / "saved"))
    assert torch.equal(weights(again), weights(lm)) and again.origin == lm.origin
    assert lm.origin in (tmp_path / "saved/README.md").read_text()
    assert reply(again, "How much is 1 + 1?", 4) == reply(lm, "How much is 1 + 1?", 4)


def test_tokenizer_facts_come_from_the_file(small, exact):
    tokenizer = load(exact).tokenizer
    assert tokenizer.eos_token == small.tokenizer.eos_token and tokenizer.pad_token == "<|pad|>"
    assert tokenizer.chat_template == small.tokenizer.chat_template
    assert tokenizer.model_max_length == small.model.config.max_position_embeddings
    assert len(tokenizer) == len(small.tokenizer)  # transformers would add a token of GPT-2


def test_digits_are_split_as_the_vocabulary_was_learnt(small, exact, tmp_path):
    "SmolLM2's vocabulary knows only single digits, and spaces before one are one token."
    pieces = lambda lm: [p for p, _ in lm.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")]
    assert pieces(load(exact)) == ["a", "ĠĠ", "1", "2"]
    as_gpt2 = write_gguf(small, tmp_path / "gpt2.gguf", tokenizer_pre="gpt-2")
    assert pieces(load(as_gpt2)) == ["a", "Ġ", "Ġ12"]


def test_another_type_of_weights(exact):
    assert load(exact, dtype="bfloat16").model.dtype == torch.bfloat16


# ---- where it is


def test_a_folder_with_one_file(small, exact, tmp_path):
    (tmp_path / "one").mkdir()
    shutil.copy(exact, tmp_path / "one/a.gguf")
    assert torch.equal(weights(load(tmp_path / "one")), weights(small))
    shutil.copy(exact, tmp_path / "one/b.GGUF")
    with pytest.raises(ModelError, match=r"holds 2 GGUF files; name one of them, such as .*a\.gguf"):
        load(tmp_path / "one")
    assert load(tmp_path / "one/b.GGUF").origin == "b.GGUF (F32)"
    save(small, tmp_path / "both")
    shutil.copy(exact, tmp_path / "both/a.gguf")
    assert gguf_in(tmp_path / "both") is None and load(tmp_path / "both").origin == ""


def test_a_relative_path_is_not_looked_for_elsewhere(small, exact, tmp_path, monkeypatch):
    "transformers takes a file of that name in the working folder first."
    (tmp_path / "models").mkdir()
    shutil.copy(exact, tmp_path / "models/same.gguf")
    (tmp_path / "same.gguf").write_bytes(b"another")
    monkeypatch.chdir(tmp_path)
    assert torch.equal(weights(load("models/same.gguf")), weights(small))


def test_a_file_that_is_not_there(exact):
    with pytest.raises(ModelError, match=r"no file .*smal\.gguf'; did you mean '.*small\.gguf'"):
        load(exact.with_name("smal.gguf"))


# ---- damage


def fails(file):
    with pytest.raises(ModelError) as e:
        load(file)
    said = str(e.value)
    assert "\n" not in said and len(said) < 500
    return said


@pytest.mark.parametrize("share", [0.999, 0.5, 0.1, 0.02, 0.001])
def test_a_file_that_was_cut_off(exact, tmp_path, share):
    data = exact.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: int(len(data) * share)])
    assert "cut.gguf" in fails(tmp_path / "cut.gguf")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"\xff" * 4000, b"GGUF" + b"\xff" * 4000, b"{}" * 50])
def test_a_file_of_something_else(tmp_path, content):
    (tmp_path / "other.gguf").write_bytes(content)
    assert "other.gguf" in fails(tmp_path / "other.gguf")


@pytest.mark.parametrize("at", range(0, 2000, 97))
def test_wrong_bytes_in_the_header(exact, tmp_path, at):
    "Either the model is whole, or there is one line."
    data = bytearray(exact.read_bytes())
    data[at : at + 8] = b"\xff" * 8
    (tmp_path / "wrong.gguf").write_bytes(data)
    try:
        load(tmp_path / "wrong.gguf")
    except ModelError as e:
        assert "\n" not in str(e) and "wrong.gguf" in str(e)


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(architecture="unheard-of"), "unheard-of"),
        (dict(block_count=10**6), "its header speaks of 1,000,000 layers"),
        (dict(block_count=4), "not complete"),
        (dict(embedding_length=10**6, head_count=10), "numbers, and the files hold at most"),
        (dict(feed_forward_length=100), "does not fit the weights"),
        (dict(tokenizer_model=None), "tokenizer"),
        (dict(eos_token_id=None), "no end-of-text token"),
    ],
)
def test_headers_that_do_not_fit(small, tmp_path, change, says):
    assert says in fails(write_gguf(small, tmp_path / "odd.gguf", **change))


def test_one_of_several_files(exact, tmp_path):
    shutil.copy(exact, tmp_path / "big-00001-of-00002.gguf")
    assert "one of several files" in fails(tmp_path / "big-00001-of-00002.gguf")


def test_four_bits_of_another_kind_are_not_added(exact, monkeypatch):
    monkeypatch.setattr(loading, "_arguments_for_4bit", lambda: dict(quantization_config=1))
    with pytest.raises(ModelError, match=r"load_in_4bit reads safetensors, and .*small\.gguf is a GGUF file"):
        load(exact, load_in_4bit=True)
