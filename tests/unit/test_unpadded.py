"A batch without its padding: the same states and gradients, and each row the same in any company."

import architectures
import pytest
import torch
from architectures import LLAMA
from transformers import AutoConfig, AutoModelForCausalLM

from ftguide.engine import precision, unpadded
from ftguide.engine.unpadded import can_be_unpadded, last_states

IDS = dict(vocab_size=97, bos_token_id=None)
SIZES = {**LLAMA, **IDS, "max_position_embeddings": 128}
GPT2 = {
    **architectures.GPT2,
    **IDS,
    "n_positions": 128,
    **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
}
SAME = ["llama", "qwen3", "qwen2", "phi3", "gpt2", "olmo2", "granite", "mistral"]


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch):
    monkeypatch.setattr(precision, "LARGE", 1)


def made(kind, **more):
    sizes = GPT2 if kind == "gpt2" else SIZES
    config = AutoConfig.for_model(
        kind, **{**sizes, **({"sliding_window": None} if kind == "mistral" else {}), **more}
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def batch(lengths=(5, 17, 1, 9), left=False):
    width = max(lengths)
    mask = torch.stack([(torch.arange(width) < n).long() for n in lengths])
    mask = mask.flip(1) if left else mask
    ids = torch.randint(2, 97, mask.shape, generator=torch.Generator().manual_seed(1)) * mask
    return dict(input_ids=ids, attention_mask=mask)


def padded(model, inputs):
    return model.base_model(**inputs, use_cache=False).last_hidden_state


@pytest.mark.parametrize("kind", SAME)
def test_states_and_gradients_are_those_of_the_padded_batch(kind):
    model, inputs, found = made(kind), batch(), []
    assert can_be_unpadded(model)
    for states_of in (padded, last_states):
        model.zero_grad()
        states = states_of(model, inputs)[inputs["attention_mask"].bool()]
        states.square().sum().backward()
        found.append((states.detach(), [p.grad for p in model.parameters() if p.grad is not None]))
    (a, a_grads), (b, b_grads) = found
    assert torch.allclose(a, b, atol=1e-5)
    assert all(torch.allclose(x, y, rtol=1e-3, atol=1e-4) for x, y in zip(a_grads, b_grads, strict=True))


@pytest.mark.parametrize("kind", SAME)
def test_what_two_rows_begin_with_is_computed_once(kind, monkeypatch):
    "Of three pairs one begins alike for 20 tokens, one is the same row twice, one has nothing in common."
    monkeypatch.setattr(unpadded, "SHARED", 4)
    model, found, widths = made(kind), [], []
    inputs = batch((25, 9, 12, 23, 9, 30))
    inputs["input_ids"][3, :20] = inputs["input_ids"][0, :20]
    inputs["input_ids"][4] = inputs["input_ids"][1]
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    for in_pairs in (False, True):
        model.zero_grad()
        states = last_states(model, inputs, in_pairs)
        (states * torch.arange(6.0)[:, None, None]).square().sum().backward()
        found.append((states.detach(), [p.grad for p in model.parameters() if p.grad is not None]))
    (a, a_grads), (b, b_grads) = found
    assert widths == [108, 108 - 20 - 8], "a row keeps a token of its own"
    assert torch.allclose(a, b, atol=1e-5)
    assert all((x - y).norm() <= 1e-4 * x.norm() for x, y in zip(a_grads, b_grads, strict=True))


def test_a_row_is_the_same_in_any_company():
    model, inputs = made("llama"), batch((20, 12, 30))
    together = last_states(model, inputs)
    alone = last_states(model, {k: v[:1, :20] for k, v in inputs.items()})
    assert torch.equal(together[0, :20], alone[0]) and not together[0, 20:].any()


def test_the_attention_function_is_put_back_also_after_an_error():
    model = made("llama")
    with pytest.raises(IndexError):
        last_states(model, dict(input_ids=torch.full((1, 2), 9999), attention_mask=torch.ones(1, 2).long()))
    assert model.config._attn_implementation == "sdpa"


def test_what_mixes_tokens_otherwise_is_computed_padded():
    assert not can_be_unpadded(made("gemma3_text")), "some layers see a window only"
    assert not can_be_unpadded(made("mistral", sliding_window=8))
    eager = made("llama")
    eager.config._attn_implementation = "eager"
    assert not can_be_unpadded(eager)
    checkpointed = made("llama").train()
    checkpointed.gradient_checkpointing_enable()
    assert not can_be_unpadded(checkpointed), "a second forward pass would attend across rows"
    inputs = batch(left=True)
    model = made("mistral", sliding_window=8)
    assert torch.equal(last_states(model, inputs), padded(model, inputs))


def test_a_small_model_is_computed_padded(monkeypatch):
    monkeypatch.setattr(precision, "LARGE", 10**9)
    model, inputs = made("llama"), batch()
    assert not can_be_unpadded(model) and torch.equal(last_states(model, inputs), padded(model, inputs))
