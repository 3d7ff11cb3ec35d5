"A real model: it answers in sentences, ten steps of each stage bring its loss down, and it is saved whole."

import math

import pytest
import torch

from ftguide.distillation import distill, make_student
from ftguide.dpo import align_dpo
from ftguide.models import completion_logps, encode, load, reply, save
from ftguide.packages import read_packages
from ftguide.sft import finetune_sft

STEPS = dict(epochs=5, batch_size=2)  # ten with four rows
PACKAGES = [p for p in read_packages("train") if len(p["synopsis"]) < 40][:4]
ROWS = [dict(prompt=f"Section of {p['name']} ({p['synopsis']})?", completion=p["section"]) for p in PACKAGES]
PAIRS = [dict(prompt=r["prompt"], chosen=r["completion"], rejected="I do not know.") for r in ROWS]
QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def real(real_folder):
    return load(real_folder)


@pytest.fixture(scope="module")
def tuned(real):
    return finetune_sft(real, ROWS, learning_rate=1e-4, **STEPS)


def nll(lm) -> float:  # nats a token
    sums, counts = completion_logps(lm, [r["prompt"] for r in ROWS], [r["completion"] for r in ROWS])
    return -(sums.sum() / counts.sum()).item()


def losses(lm) -> list[float]:
    return [step["loss"] for step in lm.history if "loss" in step]


def test_it_answers_in_a_sentence(real):
    said = reply(real, QUESTION, 32)
    assert "Paris" in said and len(said.split()) >= 4 and said.endswith(".")


def test_facts_of_the_published_model(real):
    config, tokenizer = real.model.config, real.tokenizer
    assert real.parameters == 134_515_008 and len(tokenizer) == 49_152 and config.tie_word_embeddings
    assert config.rope_parameters["rope_theta"] == 100_000 and config.max_position_embeddings == 8192
    assert math.isclose(config.rms_norm_eps, 1e-5, rel_tol=1e-6) and tokenizer.model_max_length == 8192
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 2)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    assert tokenizer.tokenize("in  2025") == ["in", "ĠĠ", "2", "0", "2", "5"]
    ids, labels = encode(tokenizer, "Hi", "Hello")
    assert tokenizer.decode([label for label in labels if label != -100]) == "Hello<|im_end|>\n"
    assert tokenizer.decode(ids).startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")


def test_sft(real, tuned):
    assert nll(tuned) < 0.6 * nll(real) and losses(tuned)[-1] < losses(tuned)[0]
    assert tuned.history[-1]["step"] == 10 and tuned.origin == real.origin


def test_dpo(real):
    lm = align_dpo(real, PAIRS, learning_rate=1e-5, logging_steps=1, **STEPS)
    found = losses(lm)
    assert (
        len(found) == 10 and found[0] == pytest.approx(math.log(2), abs=1e-3) and found[-1] < 0.5 * found[0]
    )


def test_distillation(tuned):
    student = make_student(tuned, 10)
    lm = distill(tuned, student, ROWS, learning_rate=3e-4, logging_steps=1, epochs=10, batch_size=4)
    found = losses(lm)
    assert len(found) == 10 and found[-1] < 0.7 * found[0] and nll(lm) < 0.7 * nll(student)


def test_it_comes_back_from_disk(tuned, tmp_path):
    again = load(save(tuned, tmp_path / "tuned"))
    assert all(torch.equal(a, b) for a, b in zip(tuned.model.parameters(), again.model.parameters()))
    asked = [QUESTION, ROWS[0]["prompt"]]
    assert reply(again, asked, 16) == reply(tuned, asked, 16) and again.origin == tuned.origin
