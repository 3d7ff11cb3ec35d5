"Models: what a text is to them, how probable an answer is, and which positions are scored."

import copy
from math import log
from types import SimpleNamespace

import pytest
import torch
from letters import IDS, LABELS, TABLE, Bigram, Letters

import ftguide.models
from ftguide.engine.model_folders import ModelError
from ftguide.engine.rows import as_messages
from ftguide.models import (
    LM,
    PLAIN_TEMPLATE,
    collate,
    complete_tokenizer,
    completion_logps,
    encode,
    load,
    perplexity,
    plain_head,
    prompt_text,
    scored_logits,
    scored_states,
    token_logps,
    tokens_per_second,
)

close = lambda wanted: pytest.approx(wanted, abs=1e-6)


@pytest.fixture(scope="module")
def small():
    return load("tiny-small")


def test_a_copy_shares_nothing(small):
    other = small.copy("other")
    with torch.no_grad():
        next(other.model.parameters()).add_(1)
    other.tokenizer.pad_token, other.history = "x", [dict(loss=1.0)]
    assert (other.name, small.name) == ("other", "tiny-small") and small.copy().name == "tiny-small"
    assert not torch.equal(next(other.model.parameters()), next(small.model.parameters()))
    assert small.tokenizer.pad_token != "x" and small.history == load("tiny-small").history
    assert (
        repr(small) == f"LM(tiny-small: LlamaForCausalLM, {small.parameters:,} parameters, vocabulary 1,024)"
    )
    assert load(small) is small


# ---- the tokenizer and its template


def test_a_tokenizer_is_completed(small):
    lm = small.copy()
    lm.tokenizer.chat_template = lm.tokenizer.pad_token = None
    lm.model.generation_config.eos_token_id = [5, lm.tokenizer.eos_token_id, 5]
    assert complete_tokenizer(lm) is lm and lm.tokenizer.chat_template == PLAIN_TEMPLATE
    assert lm.tokenizer.pad_token is not None
    assert lm.model.generation_config.pad_token_id == lm.tokenizer.pad_token_id
    assert lm.model.generation_config.eos_token_id == [lm.tokenizer.eos_token_id, 5]
    lm.tokenizer.chat_template = "mine"
    assert complete_tokenizer(lm).tokenizer.chat_template == "mine"
    lm.tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-text token, so the model could never learn to stop"):
        complete_tokenizer(lm)


def test_the_plain_template_is_the_prompt_a_line_break_and_the_answer(small):
    tokenizer = copy.deepcopy(small.tokenizer)
    tokenizer.chat_template = PLAIN_TEMPLATE
    start = tokenizer.bos_token or ""
    assert prompt_text(tokenizer, " Hi ") == f"{start}Hi\n" == prompt_text(tokenizer, as_messages("Hi"))
    ids, labels = encode(tokenizer, "Hi", "Yes.")
    assert tokenizer.decode(ids) == f"{start}Hi\nYes.{tokenizer.eos_token}"
    assert tokenizer.decode([i for i in labels if i != -100]) == f"Yes.{tokenizer.eos_token}"


def test_half_a_character_is_refused(small):
    with pytest.raises(ModelError, match="half a character"):
        prompt_text(small.tokenizer, "\ud83d")


# ---- log-probabilities


def test_token_logps_are_those_of_the_token_before():
    logits = torch.tensor(TABLE).log()[IDS]
    found = token_logps(logits + 3, LABELS)  # a constant changes nothing
    assert found.shape == (2, 3)
    torch.testing.assert_close(found, torch.tensor([[0, log(0.3), log(0.25)], [log(0.7), 0, 0]]))
    assert token_logps(logits.bfloat16(), LABELS).dtype == torch.float32
    torch.testing.assert_close(token_logps(logits, torch.full((2, 4), -100)), torch.zeros(2, 3))
    assert token_logps(logits, torch.tensor([[9, 0, 1, -100]] * 2))[0].tolist() == close(
        [log(0.5), log(0.2), 0]
    )


def test_encode_labels_the_answer_and_its_end():
    letters = Letters()
    ids, labels = encode(letters, "hi", "yo")
    assert "".join(map(chr, ids)) == "u:hi.a:yo." and labels == [-100] * 7 + [ord(c) for c in "yo."]
    assert encode(letters, [dict(role="user", content="hi")], [dict(role="assistant", content="yo")]) == (
        ids,
        labels,
    )
    letters.asks = "a: "  # the prompt's last token is another once the answer stands there
    assert encode(letters, "hi", "yo") == (ids, labels)
    letters.asks = "a:yo.and"  # the prompt holds the whole answer: nothing is left to score
    assert encode(letters, "hi", "yo")[1] == [-100] * 10
    with pytest.raises(ModelError, match="no judges"):
        encode(letters, [dict(role="judge", content="hi")], "yo")


def test_collate_pads_on_the_right_and_labels_no_padding():
    batch = collate([([5, 6, 7], [-100, 6, 7]), ([8], [8])], 3)
    assert {k: v.tolist() for k, v in batch.items()} == dict(
        input_ids=[[5, 6, 7], [8, 3, 3]],
        attention_mask=[[1, 1, 1], [1, 0, 0]],
        labels=[[-100, 6, 7], [8, -100, -100]],
    )


@pytest.fixture
def spelt(monkeypatch):
    "A bigram model whose rows are written down, so that no tokenizer is needed."
    rows = dict(a=([0, 1, 2, 3], [-100, -100, 2, 3]), b=([3, 0], [-100, 0]), c=([1, 3, 3], [-100, 3, -100]))
    monkeypatch.setattr(ftguide.models, "encode", lambda tokenizer, prompt, completion: rows[prompt])
    return LM(Bigram(TABLE), SimpleNamespace(pad_token_id=0), "bigram")


@pytest.mark.parametrize("size", [1, 2, 3, 32])
def test_completion_logps_are_sums_in_the_order_of_the_prompts(size, spelt):
    sums, counts = completion_logps(spelt, list("abc"), ["x"] * 3, size)
    assert sums.tolist() == close([log(0.3) + log(0.25), log(0.7), log(0.4)]) and counts.tolist() == [2, 1, 1]
    assert [how["attention_mask"].shape for how in spelt.model.asked] == {
        1: [(1, 2), (1, 3), (1, 4)],
        2: [(2, 3), (1, 4)],
    }.get(size, [(3, 4)])  # short ones together
    assert not sums.requires_grad and counts.dtype == torch.long
    assert completion_logps(spelt, ["b"] * 40, ["x"] * 40)[0].tolist() == close([log(0.7)] * 40)


def test_perplexity_is_per_token(spelt):
    assert perplexity(spelt, list("abc"), ["x"] * 3) == close((0.3 * 0.25 * 0.7 * 0.4) ** (-1 / 4))
    spelt.model.asked.clear()
    perplexity(spelt, list("abc"), ["x"] * 3, 2)
    assert len(spelt.model.asked) == 2


def test_a_plain_head_only_multiplies():
    assert (
        plain_head(Bigram(TABLE)) is True
        and plain_head(Bigram(TABLE, logit_scale=None, output_router_logits=False)) is True
    )
    for special in ("logit_scale", "output_router_logits"):
        assert plain_head(Bigram(TABLE, **{special: 2.0})) is False, special
    for name in ("peft_config", "unshard"):
        model = Bigram(TABLE)
        setattr(model, name, 1)
        assert plain_head(model) is False
    model = Bigram(TABLE)
    del model.lm_head
    assert plain_head(model) is False and plain_head(torch.nn.Linear(1, 1)) is False
    model = Bigram(TABLE)
    model.config = object()
    assert plain_head(model) is False


@pytest.mark.parametrize("config", [{}, dict(logit_scale=2.0)], ids=["plain", "special"])
def test_scores_of_scored_tokens(config):
    model = Bigram(TABLE, **config)
    mask = torch.ones(2, 4)
    states, head, targets = scored_states(model, dict(input_ids=IDS, attention_mask=mask, labels=LABELS))
    assert (
        targets.tolist() == [2, 3, 0] and (head is model.lm_head) == (not config) and states.shape == (3, 4)
    )
    how = model.asked[0][1] if config else model.asked[0]
    assert (
        len(model.asked) == 1
        and how.keys() == {"attention_mask", "use_cache"}
        and how["use_cache"] is False
        and how["attention_mask"] is mask
    )
    scores, targets = scored_logits(model, dict(input_ids=IDS, attention_mask=mask, labels=LABELS))
    wanted = torch.tensor([TABLE[1], TABLE[2], TABLE[3]]) ** config.get("logit_scale", 1)
    torch.testing.assert_close(scores.softmax(-1), wanted / wanted.sum(-1, keepdim=True))
    assert targets.tolist() == [2, 3, 0]


def test_every_prompt_has_its_completion(small):
    with pytest.raises(ValueError, match="2 prompts, 1 completions"):
        completion_logps(small, ["a", "b"], ["x"])


def test_speed_is_counted_in_tokens_of_whole_answers(small, monkeypatch):
    asked, clock = [], iter([10.0, 14.0])
    monkeypatch.setattr(small.model, "generate", lambda **how: asked.append(how))
    monkeypatch.setattr(ftguide.models.time, "perf_counter", lambda: next(clock))
    assert tokens_per_second(small, ["a", "bb", "ccc"], batch_size=2, new_tokens=8) == 3 * 8 / 4
    assert [len(how["input_ids"]) for how in asked] == [2, 2, 1]  # the first is not counted
    assert all(how["min_new_tokens"] == how["max_new_tokens"] == 8 for how in asked)


def test_scoring_projects_scored_positions_alone_and_not_all_at_once():
    lm, seen = load("tiny-small"), []
    assert plain_head(lm.model)  # which is found by trying the layer, once
    hook = lm.model.lm_head.register_forward_hook(lambda layer, given, scores: seen.append(len(given[0])))
    _, counts = completion_logps(lm, ["How much is 1 + 1?"] * 40, ["two " * 20] * 40, batch_size=40)
    hook.remove()
    assert sum(seen) == counts.sum() and max(seen) <= 256 and len(seen) > 1
