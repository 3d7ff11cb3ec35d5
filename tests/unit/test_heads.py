"What a model does after its last hidden states is found by trying it; our losses are then its own."

import pytest
import torch
from architectures import CONFIGS, random_model

from ftguide.engine.forwards import scored_only
from ftguide.engine.heads import MULTIPLIES, OWN, SCALES, head_kind
from ftguide.models import plain_head, scored_logits

SCALED = ["gemma2", "cohere", "granite", "granite_hybrid"]
ELSE = ["recurrent_gemma", "bert", "roberta"]  # a cap of its own; a layer before the output layer
KINDS = {kind: MULTIPLIES for kind in CONFIGS} | dict.fromkeys(SCALED, SCALES) | dict.fromkeys(ELSE, OWN)


def batch():
    chance = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 1024, (3, 12), generator=chance)
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    labels = ids.masked_fill(torch.rand(ids.shape, generator=chance) < 0.4, -100).masked_fill(mask == 0, -100)
    return dict(input_ids=ids, attention_mask=mask, labels=labels)


@pytest.mark.parametrize("kind", CONFIGS)
def test_scores_and_loss_are_the_models_own(kind):
    model, rows = random_model(kind), batch()
    assert head_kind(model) == KINDS[kind]
    assert plain_head(model) == (KINDS[kind] == MULTIPLIES and hasattr(model, "lm_head"))
    inputs = {k: v for k, v in rows.items() if k != "labels"}
    keep = rows["labels"][:, 1:] != -100
    with torch.no_grad():
        true = model(**inputs).logits[:, :-1][keep]
        ours, targets = scored_logits(model, rows)
    torch.testing.assert_close(ours, true, atol=1e-4, rtol=1e-4)
    if kind == "bart":  # it wants labels one place further left
        return
    own = model(**rows).loss
    mine = torch.nn.functional.cross_entropy(ours.float(), targets)
    torch.testing.assert_close(mine, own.detach(), atol=1e-4, rtol=1e-4)


def test_a_cap_is_seen_whatever_the_weights_are():
    "The scores of a fresh model are so small that a cap does nothing to them."
    model = random_model("recurrent_gemma", logits_soft_cap=30.0)
    model.lm_head.weight.data.mul_(1e-3)
    assert head_kind(model) == OWN
    assert head_kind(random_model("gemma2", final_logit_softcapping=None)) == MULTIPLIES
    assert head_kind(random_model("cohere", logit_scale=1.0)) == MULTIPLIES
    assert head_kind(torch.nn.Linear(1, 1)) == OWN


def test_trying_leaves_nothing_behind():
    model = random_model("gpt2").train()
    model.transformer.wte.eval()
    state = torch.random.get_rng_state()
    head_kind(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training and not model.transformer.wte.training
    assert not model.lm_head._forward_pre_hooks


@pytest.mark.parametrize(
    "kind", ["llama", "gemma2", "cohere", "granite", "recurrent_gemma", "roberta", "gpt_neox"]
)
def test_trls_fused_forward_gives_the_models_log_probabilities(kind):
    "Inside `scored_only`, whatever the head does."
    from trl.trainer.utils import add_fused_lm_head

    model, rows = random_model(kind), batch()
    with torch.no_grad():
        whole = model(**{k: v for k, v in rows.items() if k != "labels"}).logits[:, :-1].log_softmax(-1)
    targets = rows["labels"][:, 1:]
    true = whole.gather(-1, targets.clamp(min=0)[..., None])[..., 0] * (targets != -100)
    add_fused_lm_head(model)
    before = model.forward
    with scored_only(model):
        out = model(**rows, fused_lm_head=True)
        again = model(**{k: v for k, v in rows.items() if k != "labels"}).logits
    torch.testing.assert_close(out.log_probs, true, atol=1e-4, rtol=1e-4)
    assert again.shape[-1] == 1024 and model.forward is before
