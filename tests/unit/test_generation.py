"Batched decoding: no answer depends on its neighbours, and chance is the one transformers would draw."

import copy
import functools

import pytest
import torch
from letters import TABLE

from ftguide.engine.generation import ExponentialSampling, QuarterEnded, evaluation_mode, shared_beginning
from ftguide.engine.model_folders import ModelError
from ftguide.engine.tokens import context_length
from ftguide.models import load, reply

PROMPTS = ["product: mug\nbrand:", "product: lamp\ncolour: green\nbrand:", "mug", "a blue chair of wood\n"]


@pytest.fixture(scope="module")
def small():
    return load("tiny-small")


def test_a_long_prompt_ends_no_other_answer(small):
    ids = small.tokenizer("product: mug\ncolour: green, size: 300 ml\n" * 99).input_ids
    long, short = small.tokenizer.decode(ids[: context_length(small) - 5]), "product: mug\nbrand:"
    counted = []
    together = reply(
        small, [long, short, long, short], 40, template=False, batch_size=2, progress=counted.append
    )
    assert together == [reply(small, p, 40, template=False) for p in (long, short, long, short)]
    assert len(small.tokenizer(together[1]).input_ids) > 5
    assert counted == [2, 3, 4]


def test_a_prompt_that_fills_the_context_is_refused(small):
    text = "mug " * context_length(small)
    with pytest.raises(ModelError, match=f"does not fit the context of {context_length(small)}; shorten it"):
        reply(small, text, 4, template=False)


@pytest.mark.parametrize(
    "knobs, says", [(dict(temperature=-1), "temperature"), (dict(max_new_tokens=0), "max_new")]
)
def test_impossible_numbers_are_refused(small, knobs, says):
    with pytest.raises(ValueError, match=says):
        reply(small, "Hi", **knobs)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_greedy_answers_do_not_depend_on_the_batch(small, batch_size):
    alone = [reply(small, p, 24, template=False) for p in PROMPTS]
    assert reply(small, PROMPTS, 24, template=False, batch_size=batch_size) == alone


def test_sampled_answers_are_those_of_transformers(small):
    texts = sorted(PROMPTS * 4, key=len)
    encoded = small.tokenizer(
        texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        theirs = small.model.generate(
            input_ids=encoded.input_ids,
            attention_mask=encoded.attention_mask,
            do_sample=True,
            temperature=0.7,
            top_k=0,
            top_p=1.0,
            max_new_tokens=40,
        )[:, encoded.input_ids.shape[1] :]
    wanted = [text.strip() for text in small.tokenizer.batch_decode(theirs, skip_special_tokens=True)]
    assert reply(small, texts, 40, temperature=0.7, seed=5, template=False) == wanted
    assert len(set(wanted)) > 4  # chance was at work


def test_chance_is_given_back_as_it_was(small):
    small.model.train()
    try:
        torch.manual_seed(3)
        wanted = torch.rand(4)
        torch.manual_seed(3)
        one, two = (reply(small, "mug", 8, temperature=1.0, seed=1, template=False) for _ in range(2))
        assert torch.equal(torch.rand(4), wanted) and one == two and small.model.training
        with pytest.raises(KeyError), evaluation_mode(small.model, 0):
            assert not small.model.training and not torch.is_grad_enabled()
            raise KeyError
        assert small.model.training and torch.is_grad_enabled()
    finally:
        small.model.eval()


def test_tokens_are_drawn_with_their_probabilities():
    scores = torch.tensor(TABLE[1]).log().repeat(20_000, 1)
    torch.manual_seed(0)
    drawn = ExponentialSampling(1.0, 20_000, torch.arange(20_000))(None, scores).argmax(-1)
    torch.testing.assert_close(drawn.bincount() / 20_000, torch.tensor(TABLE[1]), atol=0.015, rtol=0)


def test_an_answer_keeps_its_draws_when_others_have_ended():
    scores = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([1, 4])
    torch.manual_seed(2)
    whole = ExponentialSampling(0.5, 6, torch.arange(6))(None, scores)
    torch.manual_seed(2)
    assert torch.equal(ExponentialSampling(0.5, 6, rows)(None, scores[rows]), whole[rows])


def test_a_batch_stops_when_a_quarter_has_ended():
    stop = QuarterEnded(ends=torch.tensor([7, 8]), start=2)
    ids = torch.ones(8, 5, dtype=torch.long)
    ids[0, 1] = 7  # in the prompt
    ids[3, 4] = 7
    assert stop.ended(ids).nonzero().tolist() == [[3]] and stop(ids, None).nonzero().tolist() == [[3]]
    ids[6, 2] = 8
    assert stop.ended(ids).sum() == 2 and stop(ids, None).all()


# ---- texts that begin alike

BEGINNING = "product: mug\ncolour: green, size: 300 ml\nbrand: Tulo\n" * 12
ALIKE = [
    BEGINNING + end for end in ("product: lamp\n", "a", "product: chair of wood, with arms\ncolour:", "b\n\n")
]


@pytest.mark.parametrize("batch_size", [2, 64])
def test_what_texts_begin_with_is_read_once(small, batch_size, monkeypatch):
    alone = [reply(small, text, 16, template=False) for text in ALIKE + PROMPTS]
    read = []
    forward = type(small.model).forward

    @functools.wraps(forward)  # generation looks at its signature
    def counted(self, *args, **kw):
        read.append(kw["input_ids"].numel())
        return forward(self, *args, **kw)

    monkeypatch.setattr(type(small.model), "forward", counted)
    assert reply(small, ALIKE + PROMPTS, 16, template=False, batch_size=batch_size) == alone
    whole = len(small.tokenizer(BEGINNING).input_ids)
    assert sum(read) < (4 / batch_size if batch_size < 4 else 1) * whole + 1200


def test_only_a_long_beginning_counts(small):
    encode = lambda texts: small.tokenizer(
        texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    )
    shared = lambda texts: shared_beginning(small.model, *encode(texts).values())
    ours = shared(ALIKE)
    same = [small.tokenizer(text, add_special_tokens=False).input_ids[:ours] for text in ALIKE]
    assert ours >= 64 and all(ids == same[0] for ids in same)
    assert shared(ALIKE[:1]) == shared(PROMPTS) == 0
    assert (
        shared([BEGINNING, BEGINNING]) == len(small.tokenizer(BEGINNING).input_ids) - 1
    )  # one is left to read


def test_a_window_of_attention_reads_every_text_whole(small):
    ids = torch.ones(2, 200, dtype=torch.long)
    window = copy.deepcopy(small.model)
    assert shared_beginning(window, ids, ids) == 199
    window.config.sliding_window = 64
    assert shared_beginning(window, ids, ids) == 0
