"Training is right for every kind of model: its own losses, its settings as they were, no padding counted."

import json
from math import log

import pytest
import torch
from architectures import random_lm

from ftguide import align_dpo, distill, finetune_sft, load
from ftguide.models import LM, collate, completion_logps, encode, save

QUICK = dict(max_steps=1, warmup_steps=0, learning_rate=1e-6, force=True, logging_steps=1, bf16=False)
ROWS = [
    dict(prompt=f"product: mug {i}", completion=f"brand: Tulo {i}, {'blue ' * (i % 3)}and 300 ml")
    for i in range(8)
]
PAIRS = [
    dict(prompt=r["prompt"], chosen=r["completion"], rejected="nothing" + " at all" * (i % 4))
    for i, r in enumerate(ROWS)
]


def first(lm: LM, name: str = "loss") -> float:
    return next(step[name] for step in lm.history if name in step)


def own_loss(lm: LM) -> float:
    "What the model itself says of the answers."
    rows = [encode(lm.tokenizer, row["prompt"], row["completion"]) for row in ROWS]
    batch = collate(rows, 0)
    with torch.no_grad():
        logits = lm.model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten()
    ).item()


KINDS = ["gemma2", "cohere", "granite", "recurrent_gemma", "roberta", "gpt_neox", "mamba", "lfm2"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_sft_is_the_models_own(kind):
    lm = random_lm(kind)
    trained = finetune_sft(lm, ROWS, batch_size=8, epochs=1, **QUICK)
    assert first(trained) == pytest.approx(own_loss(lm), rel=1e-3)
    assert trained.model.forward.__func__ is type(lm.model).forward


@pytest.mark.parametrize("kind", ["gemma2", "recurrent_gemma", "roberta", "cohere"])
@pytest.mark.parametrize("lora", [False, True])
def test_the_scores_of_dpo_are_the_models_own(kind, lora):
    lm = random_lm(kind)
    trained = align_dpo(lm, PAIRS, batch_size=8, epochs=1, lora=lora, **QUICK)
    prompts, chosen = [r["prompt"] for r in PAIRS], [r["chosen"] for r in PAIRS]
    assert first(trained) == pytest.approx(log(2), abs=1e-3)
    assert first(trained, "logps/chosen") == pytest.approx(
        completion_logps(lm, prompts, chosen)[0].mean().item(), rel=1e-3
    )


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe"])
def test_a_mixture_is_afterwards_what_it_was(kind, tmp_path, capsys):
    lm = random_lm(kind, router_aux_loss_coef=0.5)
    before = lm.model.config.to_dict()
    trained = finetune_sft(lm, ROWS, batch_size=8, epochs=1, **QUICK)
    assert "also holds how evenly they are used, times 0.5" in capsys.readouterr().err
    assert first(trained) > own_loss(lm) + 0.1 and first(trained, "aux_loss") > 0.5
    after = json.loads((save(trained, tmp_path / "mixture") / "config.json").read_text())
    for name in ("output_router_logits", "router_aux_loss_coef"):
        assert after.get(name, before[name]) == before[name] == getattr(trained.model.config, name), name
    without = finetune_sft(lm, ROWS, batch_size=8, epochs=1, router_aux_loss_coef=0.0, **QUICK)
    assert first(without) == pytest.approx(own_loss(lm), rel=1e-3)
    assert "mixture of experts" not in capsys.readouterr().err
    assert without.model.config.router_aux_loss_coef == 0.5 and not any(
        "aux_loss" in step for step in without.history
    )
    align_dpo(lm, PAIRS, batch_size=8, epochs=1, **QUICK)
    assert "mixture of experts" in capsys.readouterr().err


def widened(name: str, rows: int) -> LM:
    lm = load(name).copy(f"{name} {rows}")
    lm.model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():  # whoever counts these, counts much
        lm.model.get_input_embeddings().weight[1024:] = 3 * torch.randn(rows - 1024, 1)
    return lm


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_ids_that_only_one_of_both_scores_count_nothing(divergence, capsys):
    how = dict(alpha=1.0, divergence=divergence, batch_size=8, epochs=1, max_new_tokens=12, **QUICK)
    plain = first(distill("tiny", "tiny-small", ROWS, **how))
    assert capsys.readouterr().err.count("scores") == 0
    for teacher, student in ((1088, 1024), (1024, 1088), (1152, 1088)):
        found = distill(widened("tiny", teacher), widened("tiny-small", student), ROWS, **how)
        assert first(found) == pytest.approx(plain, rel=1e-4), (teacher, student)
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and "over the 1,024 that both have" in said[0]
        assert found.model.get_input_embeddings().num_embeddings == student


def test_a_cache_holds_no_padding(tmp_path):
    how = dict(alpha=1.0, batch_size=8, epochs=1, max_new_tokens=12, **QUICK)
    one = distill(widened("tiny", 1088), "tiny-small", ROWS, cache=tmp_path / "one", **how)
    two = distill("tiny", "tiny-small", ROWS, cache=tmp_path / "two", **how)
    assert first(one) == pytest.approx(first(two), rel=1e-3)


def test_on_policy_refuses_what_its_loss_would_leave_out():
    prompts = [dict(prompt=row["prompt"]) for row in ROWS]
    how = dict(on_policy=True, batch_size=8, epochs=1, max_new_tokens=4, **QUICK)
    with pytest.raises(ValueError, match="scores 1,088 ids, .* 1,024. Leave on_policy out"):
        distill(widened("tiny", 1088), "tiny-small", prompts, **how)
    lm = random_lm("recurrent_gemma")
    with pytest.raises(ValueError, match="RecurrentGemmaForCausalLM"):
        distill(lm, lm.copy("student"), prompts, **how)


def test_on_policy_writes_without_the_folders_penalty():
    prompts = [dict(prompt=row["prompt"]) for row in ROWS]
    how = dict(on_policy=True, batch_size=8, epochs=1, max_new_tokens=6, **QUICK)
    asks = load("tiny-small").copy("asks")
    asks.model.generation_config.suppress_tokens = list(range(2, 1000))
    asks.model.generation_config.num_beams = 3
    plain, found = (distill("tiny", student, prompts, **how) for student in ("tiny-small", asks))
    assert first(found) == pytest.approx(first(plain), rel=1e-4)
    assert found.model.generation_config.num_beams == 3
