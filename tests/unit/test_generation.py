"Batched decoding: no answer depends on its neighbours, and chance is the one transformers would draw."

import copy
import functools

import pytest
import torch
from architectures import CONFIGS, random_lm
from letters import TABLE

from ftguide.engine import generation
from ftguide.engine.generation import (
    NEUTRAL,
    CutAnswers,
    ExponentialSampling,
    QuarterEnded,
    asked_by_folder,
    can_be_padded,
    counts_positions,
    evaluation_mode,
    neutral,
    say_settings,
    shared_beginning,
    warn_of_cut,
    without_settings,
)
from ftguide.engine.model_folders import ModelError
from ftguide.engine.tokens import context_length
from ftguide.evaluation import evaluate
from ftguide.models import load, replies, reply, save, tokens_per_second
from ftguide.serving.streaming import Writer

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


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("limit", [1, 3, 8, 40])
def test_an_answer_is_cut_when_no_end_token_was_written(small, limit, temperature):
    "Compared with the same answer under a limit that it does not reach."
    whole = replies(small, PROMPTS, 120, temperature, batch_size=1, seed=3, template=False)
    found = replies(small, PROMPTS, limit, temperature, batch_size=1, seed=3, template=False)
    assert [answer.text for answer in found] == reply(
        small, PROMPTS, limit, temperature, batch_size=1, seed=3, template=False
    )
    for answer, other in zip(found, whole):
        length = len(small.tokenizer(other.text, add_special_tokens=False).input_ids) + 1  # and the end
        if abs(length - limit) > 3:  # white space around an answer is taken away
            assert answer.cut is (length > limit or other.cut)
    assert any(answer.cut for answer in found) or limit == 40


def test_an_answer_that_ends_at_the_limit_is_whole(small):
    lm, prompt = small.copy(), PROMPTS[0]
    lm.model.generation_config.eos_token_id = lm.tokenizer(reply(lm, prompt, 24, template=False)).input_ids[9]
    limits = [n for n in range(1, 25) if not replies(lm, [prompt], n, template=False)[0].cut]
    assert limits == list(range(limits[0], 25)) and limits[0] > 1  # from one length on, and not from one less
    assert len({replies(lm, [prompt], n, template=False)[0].text for n in limits}) == 1


def test_cut_answers_are_counted_in_a_line():
    with pytest.warns(CutAnswers, match="3 of 1,000 answers were cut at max_new_tokens=7, and make no pair"):
        warn_of_cut(3, 1000, 7, "make no pair")
    warn_of_cut(0, 1000, 7, "make no pair")


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
ENDS = (
    "product: lamp\n",
    "a",
    "product: chair of wood, with arms\ncolour:",
    "b\n\n",
    "10",
    "mug",
    "x y\n",
    "size:",
)
ALIKE = [BEGINNING + end for end in ENDS]


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
    assert sum(read) < max(len(ALIKE) // batch_size, 1) * whole + 500


def test_samples_of_long_prompts_are_written_together(small, monkeypatch):
    "Two answers to each of many prompts: no batches of two."
    texts = [f"{n} {BEGINNING}" for n in range(20) for _ in range(2)]
    sizes, batch = [], generation.generate_batch
    counted = lambda model, tokenizer, some, *how: (
        sizes.append(len(some)),
        batch(model, tokenizer, some, *how),
    )[1]
    monkeypatch.setattr(generation, "generate_batch", counted)
    reply(small, texts, 2, template=False)
    assert sizes == [40]


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


# ---- what a folder asks for beside the likeliest token

ASKED = {
    "penalty": dict(repetition_penalty=1.3),
    "beams": dict(num_beams=4),
    "beams and several": dict(num_beams=4, num_return_sequences=2),
    "ngrams": dict(no_repeat_ngram_size=2),
    "suppressed": dict(suppress_tokens=list(range(2, 900))),
    "sampling": dict(do_sample=True, temperature=0.6, top_k=3, top_p=0.5, min_p=0.2),
    "at least": dict(min_new_tokens=20, min_length=300),
    "stop strings": dict(stop_strings=["e"]),
    "forced end": dict(forced_eos_token_id=7),
    "contrastive": dict(penalty_alpha=0.6, top_k=4),
    "bias": dict(sequence_bias=[[[9], 100.0]]),
}


@pytest.fixture(scope="module")
def plain(small):
    return reply(small, PROMPTS, 24, template=False), reply(small, PROMPTS, 24, 0.9, template=False)


@pytest.mark.parametrize("kind", ASKED)
def test_greedy_is_greedy_whatever_the_folder_asks_for(small, plain, kind, capsys):
    lm = small.copy("asks")
    for name, value in ASKED[kind].items():
        setattr(lm.model.generation_config, name, value)
    greedy, drawn = plain
    assert reply(lm, PROMPTS, 24, template=False) == greedy
    assert reply(lm, PROMPTS, 24, 0.9, template=False) == drawn
    written = [list(Writer(lm, 24)([dict(role="user", content="mug")]))[-1] for _ in range(2)]
    assert written == [reply(small, "mug", 24)] * 2
    assert tokens_per_second(lm, PROMPTS, 4, 3, template=False) > 0
    assert all(getattr(lm.model.generation_config, k) == v for k, v in ASKED[kind].items())  # it keeps them
    with without_settings(lm.model):
        assert asked_by_folder(lm.model.generation_config) == {}
    assert asked_by_folder(lm.model.generation_config) == {
        k: v for k, v in ASKED[kind].items() if v != NEUTRAL[k]
    }
    say_settings(f"asks for {kind}", lm.model)
    say_settings(f"asks for {kind}", lm.model)
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and all(name in said[0] for name in ASKED[kind])


def test_a_folder_says_once_what_it_asks_for(small, tmp_path, capsys):
    lm = small.copy("asks")
    lm.model.generation_config.repetition_penalty = 1.3
    folder = save(lm, tmp_path / "asks")
    again = load(folder)
    assert load(folder).model.generation_config.repetition_penalty == 1.3
    assert capsys.readouterr().err.count("repetition_penalty=1.3") == 1
    assert reply(again, PROMPTS[0], 12, template=False) == reply(small, PROMPTS[0], 12, template=False)
    load(save(small, tmp_path / "plain"))
    assert neutral(small.model.generation_config) == {} and capsys.readouterr().err == ""


# ---- every architecture

ASKS = [
    "product: mug\nbrand:",
    "mug",
    "product: lamp\ncolour: green\nbrand:",
    "a blue chair of wood\n",
    "two",
]


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_architecture_replies_and_no_answer_depends_on_the_batch(kind):
    lm = random_lm(kind)
    alone = [reply(lm, p, 16, template=False) for p in ASKS]
    assert reply(lm, ASKS, 16, template=False) == alone
    assert len(reply(lm, ASKS, 4, 0.8, template=False)) == len(ASKS)
    assert can_be_padded(lm.model) or not counts_positions(lm.model)


@pytest.mark.parametrize("kind", ["gpt2", "opt", "mpt", "bert", "roberta", "bart", "xglm", "ctrl"])
def test_positions_are_not_run_past(kind):
    lm = random_lm(kind)
    limit = context_length(lm)
    assert limit == (95 if kind == "roberta" else 96)
    lm.model.generation_config.eos_token_id = [lm.tokenizer.eos_token_id]
    ids = lm.tokenizer("product: mug\ncolour: green, size: 300 ml\n" * 19).input_ids
    long = lm.tokenizer.decode(ids[: limit - 5])
    reply(lm, [long, "mug"], 500, template=False)
    with pytest.raises(ModelError, match="does not fit the context"):
        reply(lm, lm.tokenizer.decode(ids), 4, template=False)
    assert tokens_per_second(lm, [long] * 2, 2, 8, template=False, warm_up=False) > 0


@pytest.mark.parametrize("kind", ["gpt2", "mamba", "rwkv", "recurrent_gemma", "lfm2", "mixtral", "roberta"])
def test_every_kind_is_evaluated(kind):
    rows = [dict(prompt=f"product: mug {i}", completion="brand: Tulo") for i in range(6)]
    report = evaluate(random_lm(kind), rows, max_new_tokens=6, samples=0, latency_answers=2)
    assert len(report.answers) == 6 and report.perplexity > 1


@pytest.mark.parametrize("kind", ["mamba", "lfm2", "bloom", "mpt", "gpt2", "llama"])
def test_texts_that_begin_alike_are_continued_as_alone(kind):
    lm = random_lm(kind, **(dict(n_positions=512) if kind == "gpt2" else {}))
    if kind == "mpt":
        lm = random_lm(kind, max_seq_len=512)
    beginning = "product: mug\ncolour: green, size: 300 ml\nbrand: Tulo\n" * 7
    texts = [beginning[:520] + end for end in ("product: lamp\n", "a", "two chairs\ncolour:")]
    together = reply(lm, texts, 8, template=False)
    assert together == [reply(lm, text, 8, template=False) for text in texts]
