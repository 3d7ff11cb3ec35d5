"DPO beside TRL and beside the formula; its reference, its pairs, its KL."

import json
import math
import sys
import tempfile
import warnings
from contextlib import nullcontext

import pytest
import torch
import trl
from stages import FEW, FEW_PAIRS, FEW_THUMBS, Poison, let_answers_end, weights

import ftguide.engine.trainers
from ftguide.dpo import KLCallback, _warn_of_length, align_dpo, align_kto, dpo_loss, make_pairs
from ftguide.engine.callbacks import silent
from ftguide.engine.generation import Answer
from ftguide.engine.run import copy_for_training, training_arguments
from ftguide.engine.trainers import DPOTrainer, TrainingError
from ftguide.engine.training_data import to_trl
from ftguide.models import LM, complete_tokenizer, encode, load, save
from ftguide.sft import finetune_sft

PAIRS = [
    dict(prompt=f"How much is {i} + 1?", chosen=str(i + 1), rejected=f"no idea about {i}") for i in range(80)
]


def test_twenty_steps_are_trls():
    start = copy_for_training("tiny-small", "plain")
    with tempfile.TemporaryDirectory() as folder:
        settings = training_arguments(
            start,
            folder,
            len(PAIRS),
            epochs=1,
            batch_size=4,
            learning_rate=1e-4,
            seed=3,
            validate=False,
            keep=False,
            config={},
        )
        theirs = silent(
            trl.DPOTrainer(
                model=start.model,
                args=trl.DPOConfig(**settings, beta=0.2, precompute_ref_log_probs=True),
                train_dataset=to_trl(PAIRS, "pairs"),
                processing_class=start.tokenizer,
            )
        )
        theirs.train()
    ours = align_dpo("tiny-small", PAIRS, beta=0.2, learning_rate=1e-4, seed=3)
    assert theirs.state.global_step == 20 and max(h["step"] for h in ours.history) == 20
    assert (weights(theirs.model) - weights(ours)).abs().max() <= 1e-5
    losses = [
        [h["loss"] for h in history if "loss" in h] for history in (theirs.state.log_history, ours.history)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_validation_loss_is_the_formula_in_float64():
    lm = align_dpo("tiny-small", PAIRS[:40], beta=0.3, epochs=2, learning_rate=1e-3, eval_data=PAIRS[40:50])

    def exact(model, x, side):  # summed log-probability, float64
        ids, labels = encode(lm.tokenizer, x["prompt"], x[side])
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        return sum(logp[t, label] for t, label in enumerate(labels[1:]) if label != -100)

    after, before = lm.copy().model.double(), load("tiny-small").copy().model.double()
    assert after.dtype == torch.float64
    loss = torch.stack(
        [
            dpo_loss(*(exact(m, x, side) for m in (after, before) for side in ("chosen", "rejected")), 0.3)
            for x in PAIRS[40:50]
        ]
    ).mean()
    assert min(h["eval_loss"] for h in lm.history if "eval_loss" in h) == pytest.approx(loss.item(), abs=1e-5)


@pytest.mark.parametrize(
    "knobs",
    [
        dict(loss_type="ipo"),
        dict(loss_type=["sigmoid", "sft"]),
        dict(loss_type="robust", label_smoothing=0.1),
        dict(use_weighting=True),
        dict(lora=True),
    ],
    ids=str,
)
def test_every_loss_is_trls_own(knobs, monkeypatch):
    fast = align_dpo("tiny-small", PAIRS[:24], learning_rate=1e-3, **knobs)
    monkeypatch.setattr(ftguide.engine.trainers, "scored_only", nullcontext)
    assert (
        weights(fast) - weights(align_dpo("tiny-small", PAIRS[:24], learning_rate=1e-3, **knobs))
    ).abs().max() <= 1e-5


@pytest.mark.parametrize(
    "stage, rows", [(align_dpo, PAIRS[:16]), (align_kto, FEW_THUMBS[:16])], ids=["dpo", "kto"]
)
def test_a_mixture_of_experts_learns_with_its_balancing_loss(stage, rows, monkeypatch):
    from transformers import MixtralConfig, MixtralForCausalLM

    tokenizer = load("tiny-small").tokenizer
    torch.manual_seed(0)
    experts = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_local_experts=2,
            max_position_embeddings=256,
        )
    )
    lm = complete_tokenizer(LM(experts, tokenizer))
    ours = stage(lm, rows, learning_rate=1e-3)
    monkeypatch.setattr(ftguide.engine.trainers, "scored_only", nullcontext)
    theirs = stage(lm, rows, learning_rate=1e-3)
    assert (
        min(h["aux_loss"] for h in ours.history if "loss" in h) > 1
        and (weights(ours) - weights(theirs)).abs().max() <= 1e-5
    )


def test_the_reference_is_computed_once_for_a_sweep(tmp_path, monkeypatch):
    "Another beta reads what the first run wrote; other pairs or another model do not."
    asked, real = [], DPOTrainer.compute_ref_log_probs
    monkeypatch.setattr(
        DPOTrainer,
        "compute_ref_log_probs",
        lambda self, *a, **k: (asked.append(1), real(self, *a, **k))[1],
    )
    first = align_dpo("tiny-small", PAIRS[:24], cache=tmp_path, eval_data=PAIRS[40:44])
    once = len(asked)
    assert once == 2 and len(list(tmp_path.iterdir())) == 2
    again, other = (
        align_dpo("tiny-small", PAIRS[:24], cache=tmp_path, eval_data=PAIRS[40:44]),
        align_dpo("tiny-small", PAIRS[:24], cache=tmp_path, beta=0.5),
    )
    assert (
        len(asked) == once
        and torch.equal(weights(first), weights(again))
        and not torch.equal(weights(first), weights(other))
    )
    align_dpo("tiny-small", PAIRS[:23], cache=tmp_path)
    align_dpo(first, PAIRS[:24], cache=tmp_path)
    assert len(asked) == once + 2
    save(load("tiny-small"), tmp_path / "moved")
    align_dpo(tmp_path / "moved", PAIRS[:24], cache=tmp_path)
    assert len(asked) == once + 2  # the same model in another folder
    assert torch.equal(
        weights(first), weights(align_dpo("tiny-small", PAIRS[:24], eval_data=PAIRS[40:44]))
    )  # and without a cache it is the same run


@pytest.mark.parametrize(
    "knobs",
    [
        dict(ld_alpha=0.3),
        dict(max_length=16),
        dict(max_length=16, truncation_mode="keep_end"),
        dict(bf16=True),
        dict(turned=True),
    ],
    ids=str,
)
def test_the_cache_is_not_read_where_other_numbers_are_asked_for(knobs, tmp_path):
    "The first loss is ln 2, although numbers of whole answers, and of answers cut at the end, were kept."
    base, knobs = tmp_path / "base", dict(knobs)
    save(load("tiny-small"), base)
    assert {len(encode(load(base).tokenizer, p["prompt"], p["rejected"])[0]) > 16 for p in PAIRS[:24]} == {
        True
    }
    first = lambda **how: next(
        h["loss"]
        for h in align_dpo(base, PAIRS[:24], cache=tmp_path / "kept", max_steps=1, force=True, **how).history
        if "loss" in h
    )
    assert first() == pytest.approx(math.log(2), abs=1e-6)
    if "truncation_mode" in knobs:
        first(**dict(knobs, truncation_mode="keep_start"))
    if knobs.pop("turned", None):  # the same weights, other positions
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        config["rope_parameters"]["rope_theta"] = 100.0
        (base / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert first(**knobs) == pytest.approx(math.log(2), abs=1e-6)


def test_slices_are_given_the_model_itself_as_their_reference(monkeypatch):
    "With FSDP, TRL scores with a second model; without, and with an adapter, it needs none."
    lm = load("tiny-small").copy("other")
    torch.nn.init.ones_(lm.model.model.norm.weight)
    given = []

    class Stop(Exception):
        pass

    def trainer(self, **knobs):
        given.append(knobs["ref_model"])
        raise Stop

    monkeypatch.setattr(trl.DPOTrainer, "__init__", trainer)

    def started(**knobs):
        with pytest.raises(Stop):
            align_dpo(lm, PAIRS[:8], **knobs)
        return given[-1]

    assert started() is None
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert torch.equal(weights(started()), weights(lm)) and not torch.equal(
        weights(lm), weights(load("tiny-small"))
    )
    assert started(lora=True) is None


def test_kl_is_in_the_history_and_looking_changes_nothing():
    knobs = dict(beta=0.05, learning_rate=1e-3, epochs=2)
    lm = align_dpo(
        "tiny-small",
        PAIRS,
        callbacks=(KLCallback("tiny-small", [p["prompt"] for p in PAIRS[:8]], every=10, max_new_tokens=8),),
        **knobs,
    )
    found = [(h["step"], h["kl"]) for h in lm.history if "kl" in h]
    assert [step for step, _ in found] == [10, 20, 30, 40] and found[-1][1] > found[0][1] > -0.05
    assert torch.equal(weights(lm), weights(align_dpo("tiny-small", PAIRS, **knobs)))
    with pytest.raises(ValueError, match="every must be 1 step or more"):
        KLCallback("tiny-small", ["Hi"], every=0)


def test_pairs_are_kept_once_with_their_margin(monkeypatch):
    let_answers_end(monkeypatch)
    rows = [dict(prompt=p) for p in ("How much is 1 + 1?", "How much is 1 + 1?", "How much is 3 + 1?")]
    pairs = make_pairs(
        load("tiny-small"), rows, lambda row, a, b, n: len(a) - len(b), samples=4, max_new_tokens=12
    )
    assert pairs and all(len(p["chosen"]) - len(p["rejected"]) == p["margin"] > 0 for p in pairs)
    assert len({(p["prompt"], p["chosen"], p["rejected"]) for p in pairs}) == len(pairs)
    same = make_pairs(
        load("tiny-small"),
        rows[:1] * 3,
        lambda row, a, b, n: 1,
        samples=2,
        max_new_tokens=1,
        temperature=0.01,
    )
    assert len(same) <= 1


def test_a_cut_answer_makes_no_pair(monkeypatch):
    said = [Answer("a", False), Answer("b", True), Answer("c", False), Answer("d", False)]
    seen = []
    monkeypatch.setattr(sys.modules["ftguide.dpo"], "replies", lambda *a, **k: said)
    rows = [dict(prompt="1?"), dict(prompt="2?")]
    with pytest.warns(UserWarning, match="1 of 4 answers were cut at max_new_tokens=96, and make no pair"):
        pairs = make_pairs(load("tiny-small"), rows, lambda row, a, b, n: seen.append((a, b)) or 1)
    assert [(p["chosen"], p["rejected"]) for p in pairs] == [("c", "d")] == seen


def test_preferences_for_length_alone_are_warned_of():
    with pytest.warns(
        UserWarning,
        match="the chosen answer is the shorter one: .* learn to write shorter.* where the longer answer is",
    ):
        align_dpo("tiny-small", PAIRS[:40])
    with pytest.warns(
        UserWarning,
        match="the chosen answer is the longer one: .* learn to write longer.* where the shorter answer is",
    ):
        align_dpo("tiny-small", [dict(p, chosen=p["rejected"], rejected=p["chosen"]) for p in PAIRS[:40]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for words in (["positive"], ["positive", "good"], ["positive", "very positive"]):
            _warn_of_length(
                [dict(chosen=words[i % len(words)], rejected="negative") for i in range(40)]
            )  # equal; equal or shorter; equal or longer


def test_a_policy_that_collapses_is_stopped_and_keeps_its_last_good_checkpoint(tmp_path):
    "Weights spoilt after step 25 give nan at step 26; the checkpoint of step 20 is there to go on from."
    with pytest.raises(TrainingError, match="step 26: the loss is nan"):
        align_dpo("tiny-small", PAIRS, epochs=2, output_dir=tmp_path, callbacks=(Poison(25),))
    assert sorted(p.parent.name for p in tmp_path.glob("checkpoint-*/whole.json"))[-1] == "checkpoint-20"


def test_smoothing_that_does_nothing_is_refused():
    with pytest.raises(ValueError, match='does nothing with loss_type sigmoid; use loss_type="robust"'):
        align_dpo("tiny-small", PAIRS, label_smoothing=0.1)
    with pytest.raises(ValueError, match="does nothing"):
        align_dpo("tiny-small", PAIRS, label_smoothing=0.1, loss_type=["ipo", "sft"])


def test_first_dpo_loss_is_ln2_also_from_a_folder(tmp_path):
    sft = finetune_sft("tiny-small", FEW, epochs=1)
    for base in (sft, str(save(sft, tmp_path / "sft"))):
        first = next(h["loss"] for h in align_dpo(base, FEW_PAIRS).history if "loss" in h)
        assert first == pytest.approx(0.693147, abs=1e-3)


def test_pairs_that_choose_the_model_and_are_trained_on_are_told():
    scored = [dict(pair, score_chosen=1, score_rejected=n) for n, pair in enumerate(PAIRS[:4])]
    with pytest.warns(UserWarning) as said:
        align_dpo("tiny-small", scored, eval_data=PAIRS[2:8], max_steps=1)
    assert [
        n
        for n in ("2 of 6 validation rows", "of 4 rows score_chosen")
        if n in " ".join(str(w.message) for w in said)
    ] == [
        "2 of 6 validation rows",
        "of 4 rows score_chosen",
    ]


def test_answers_that_look_alike_make_no_pair(monkeypatch):
    answers = [
        Answer(text, False) for text in ("Four.", "four.\u200b", "4", "four", "\u200b", "5", "Six", "six ")
    ]
    monkeypatch.setattr("ftguide.dpo.replies", lambda *args, **how: answers)
    rows = [dict(prompt=f"How much is {i} + 1?") for i in range(4)]
    pairs = make_pairs(load("tiny-small"), rows, lambda row, a, b, n: 1)
    assert [(p["chosen"], p["rejected"]) for p in pairs] == [("4", "four")]
