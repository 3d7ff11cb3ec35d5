"The losses and log-probabilities, beside numbers computed by hand."

import math
import re
import warnings
from math import log

import pytest
import torch
from formulas import plain_distillation_loss
from letters import IDS, LABELS, TABLE, Bigram
from trl.trainer.utils import FusedCausalLMOutput

from ftguide.distillation import (
    ChunkedLoss,
    dense_targets,
    distillation_loss,
    divergence_beta,
    log_softmax,
    scaled_jsd,
    sparse_targets,
)
from ftguide.dpo import _check_smoothing, _warn_of_length, dpo_loss, kl_per_token
from ftguide.engine.cache import likely_and_drawn_tokens
from ftguide.engine.forwards import scored_only
from ftguide.models import encode, load, reply
from ftguide.sft import completion_loss

close = lambda wanted: pytest.approx(wanted, abs=1e-6)
LOGPS = [log(0.3), log(0.25), log(0.7)]


# chapter 5: the loss of answers


def test_completion_loss_is_the_mean_over_scored_tokens():
    hidden, shapes = torch.tensor(TABLE).log()[IDS], []
    hidden[0, 0] = hidden[:, 3] = hidden[1, 1:] = float("nan")  # nothing of what is not scored is looked at

    def head(x):
        shapes.append(tuple(x.shape))
        return x + 5

    assert completion_loss(hidden, LABELS, head).item() == close(-sum(LOGPS) / 3) and shapes == [(3, 4)]
    assert completion_loss(hidden, LABELS, head, count=10).item() == close(-sum(LOGPS) / 10)
    assert completion_loss(hidden, LABELS, head, count=torch.tensor(5)).item() == close(-sum(LOGPS) / 5)
    assert completion_loss(hidden[1:], LABELS[1:], head).item() == close(-log(0.7))
    assert completion_loss(hidden, torch.full((2, 4), -100), head).item() == 0
    half = completion_loss(hidden, LABELS, lambda x: x.bfloat16())
    assert half.dtype == torch.float32 and half.item() == pytest.approx(-sum(LOGPS) / 3, rel=0.01)


# chapter 6: preferences


def test_dpo_loss_is_minus_log_sigmoid_of_the_margin():
    chosen, rejected, ref_chosen, ref_rejected = (
        torch.tensor([x, y]) for x, y in ((-1.0, -5.0), (-4.0, -1.0), (-2.5, -1.0), (-3.0, -2.0))
    )
    margins = (-1 + 2.5) - (-4 + 3), (-5 + 1) - (-1 + 2)  # 2.5 and -5
    assert dpo_loss(chosen, rejected, ref_chosen, ref_rejected).tolist() == close(
        [log(1 + math.exp(-0.1 * m)) for m in margins]
    )
    assert dpo_loss(chosen, rejected, ref_chosen, ref_rejected, 2.0).tolist() == close(
        [log(1 + math.exp(-2 * m)) for m in margins]
    )
    assert dpo_loss(*[torch.zeros(1)] * 4).item() == close(log(2))


def test_scored_only_gives_trl_what_its_own_forward_gives():
    model = Bigram(TABLE)
    model.forward, asked = (lambda *args, **how: (args, how)), model.asked
    theirs = model.forward
    with scored_only(model):
        ours = model.forward
    assert model.forward is theirs is not ours
    mask = torch.ones_like(IDS)
    out = ours(input_ids=IDS, attention_mask=mask, fused_lm_head=True, labels=LABELS, use_cache=True)
    assert isinstance(out, FusedCausalLMOutput) and asked == [dict(attention_mask=mask, use_cache=False)]
    place = lambda a, b, c, none=0: torch.tensor([[none, a, b], [c, none, none]])
    entropy = [-sum(p * log(p) for p in TABLE[i]) for i in (1, 2, 3)]
    for got, wanted in (
        (out.log_probs, place(*LOGPS)),
        (out.entropy, place(*entropy)),
        (out.log_sum_sq_probs, place(*(log(sum(p * p for p in TABLE[i])) for i in (1, 2, 3)))),
        (out.mean_logits, place(*(sum(map(log, TABLE[i])) / 4 for i in (1, 2, 3)))),
        (out.is_top1, place(False, False, True, False)),
        (out.label_mask, place(True, True, True, False)),
        (out.loss, torch.tensor(-sum(LOGPS) / 3)),
    ):
        torch.testing.assert_close(got.detach(), wanted, check_dtype=wanted.dtype == torch.bool)
    assert out.log_probs.requires_grad and not any(
        x.requires_grad for x in (out.loss, out.entropy, out.log_sum_sq_probs, out.mean_logits)
    )
    assert ours(IDS, fused_lm_head=True, labels=LABELS).log_probs.tolist() == out.log_probs.tolist()
    one = ours(input_ids=IDS[1:], fused_lm_head=True, labels=LABELS[1:])
    assert (
        one.loss.item() == close(-log(0.7))
        and ours(input_ids=IDS, fused_lm_head=True, labels=torch.full((2, 4), -100)).loss.item() == 0
    )
    model.lm_head.bfloat16()
    model.embed.bfloat16()
    assert ours(input_ids=IDS, fused_lm_head=True, labels=LABELS).log_probs.dtype == torch.float32


def test_scored_only_leaves_the_rest_to_trl():
    model = Bigram(TABLE)
    model.forward = lambda *args, **how: (args, how)
    with scored_only(model):
        assert model.forward(1, labels=2, x=3) == ((1,), dict(labels=2, x=3))
        assert model.forward(1, x=3) == ((1,), dict(x=3))
        assert model.forward(1, fused_lm_head=True, labels=2, shift_labels=4) == (
            (1,),
            dict(fused_lm_head=True, labels=2, shift_labels=4),
        )
    special = Bigram(TABLE, logit_scale=2.0)
    theirs = special.forward = lambda: 0
    with scored_only(special):
        assert special.forward is theirs


def test_kl_is_a_mean_over_positions_also_of_cut_answers():
    policy, reference = load("tiny-small"), load("tiny-small")
    with torch.no_grad():
        reference.model.lm_head.weight *= 1.1
    prompts = ["How much is 12 + 30?", "Positive or negative?"]
    assert kl_per_token(policy, policy, prompts, 3) == close(0)
    found, positions = 0.0, 0
    for prompt, answer in zip(prompts, reply(policy, prompts, 3, temperature=1.0, seed=5)):
        ids, labels = encode(policy.tokenizer, prompt, answer)
        begins = next(i for i, label in enumerate(labels) if label != -100)
        p, q = (
            lm.model(torch.tensor([ids])).logits[0, begins - 1 : -1].double().softmax(-1)
            for lm in (policy, reference)
        )
        found += (p * (p / q).log()).sum().item()
        positions += len(p)
    assert kl_per_token(policy, reference, prompts, 3, seed=5) == pytest.approx(found / positions, rel=1e-3)


@pytest.mark.parametrize(
    "chosen, rejected, n, says",
    [
        ("longer", "short", 20, "in each of 20 pairs .* where the shorter answer is better"),
        (
            "short",
            "longer",
            20,
            "in each of 20 pairs the chosen answer is the shorter one.* where the longer answer is better",
        ),
        ("same", "size", 20, None),
        ("longer", "short", 19, None),
        ("short", "longer", 19, None),
    ],
)
def test_one_sided_lengths(chosen, rejected, n, says):
    said = lambda x: [
        dict(role="assistant", content="a question of any length"),
        dict(role="assistant", content=x),
    ]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for rows in (
            [dict(chosen=chosen, rejected=rejected)] * n,
            [dict(chosen=said(chosen), rejected=said(rejected))] * n,
        ):
            _warn_of_length(rows)
        _warn_of_length(
            [dict(chosen="longer", rejected="short")] * 15 + [dict(chosen="short", rejected="longer")] * 15
        )
    assert len(found) == (2 if says else 0)
    for w in found:
        assert re.search(says, str(w.message))


def test_smoothing_belongs_to_four_losses():
    for config in (
        {},
        dict(label_smoothing=0.0),
        dict(loss_type="ipo"),
        *(
            dict(label_smoothing=0.1, loss_type=kind)
            for kind in ("robust", "exo_pair", "aot", "aot_unpaired", ["sft", "aot"])
        ),
    ):
        _check_smoothing(config)
    for config, names in (
        (dict(), "sigmoid"),
        (dict(loss_type=None), "sigmoid"),
        (dict(loss_type="ipo"), "ipo"),
        (dict(loss_type=["ipo", "sft"]), "ipo, sft"),
    ):
        with pytest.raises(ValueError, match=f"loss_type {names}; use"):
            _check_smoothing(dict(config, label_smoothing=0.1))


# chapter 7: distillation

P, Q = [0.5, 0.5], [0.25, 0.75]
KL = lambda p, q: sum(a * log(a / b) for a, b in zip(p, q))
MIX = lambda beta: [beta * a + (1 - beta) * b for a, b in zip(P, Q)]


@pytest.mark.parametrize(
    "beta, wanted",
    [
        (0, KL(P, Q)),
        (1, KL(Q, P)),
        (0.5, 2 * KL(P, MIX(0.5)) + 2 * KL(Q, MIX(0.5))),
        (0.2, KL(P, MIX(0.2)) / 0.8 + KL(Q, MIX(0.2)) / 0.2),
    ],
)
def test_divergences_of_two_coins(beta, wanted):
    teacher, student = (torch.tensor([x, [0.5, 0.5]]).log() for x in (P, Q))
    assert scaled_jsd(teacher, student, beta)[0].item() == close(wanted) and scaled_jsd(
        teacher, student, beta
    ).shape == (2,)
    if beta == 0.5:
        assert scaled_jsd(teacher, student)[0].item() == close(wanted)


def test_divergences_by_name_and_number():
    assert [divergence_beta(x) for x in ("forward_kl", "jsd", "reverse_kl", 0, 1, 0.3, 1.0)] == [
        0.0,
        0.5,
        1.0,
        0,
        1,
        0.3,
        1.0,
    ]
    for wrong in (True, False, -0.1, 1.1, "kl", None):
        with pytest.raises(
            ValueError, match="divergence must be forward_kl, jsd, reverse_kl or a number.*not"
        ):
            divergence_beta(wrong)


def test_soft_labels():
    scores = torch.tensor([[0.0, log(9)], [0.0, 0.0], [log(3), 0.0]], requires_grad=True)
    found, ids, weights = dense_targets(scores)(slice(0, 2), 2.0)
    assert (
        found.exp()[0].tolist() == close([0.25, 0.75])
        and found.shape == (2, 2)
        and ids is weights is None
        and not found.requires_grad
    )
    assert dense_targets(scores, lambda x: -x)(slice(0, 1), 2.0)[0].exp()[0].tolist() == close([0.75, 0.25])
    ids, logps, rest = (
        torch.tensor([[4, 2, 7, 7]] * 2),
        torch.tensor([[0.5, 0.3, 0.05, 0.05]] * 2).log().half(),
        torch.tensor([log(0.2), log(0.3)]).half(),
    )
    theirs, tokens, weights = sparse_targets(ids.int(), logps, rest, 2)(slice(1, 2), 1.0)
    assert (
        tokens.tolist() == [[4, 2, 7, 7]]
        and tokens.dtype == torch.long
        and theirs.dtype == torch.float32
        and theirs.shape == (1, 4)
    )
    assert weights[0].tolist() == pytest.approx(
        [0.5, 0.3, 0.15, 0.15], abs=1e-3
    )  # the others weigh 0.3, in two draws
    assert sparse_targets(ids, logps, rest, 3)(slice(0, 1), 1.0)[2][0].tolist() == pytest.approx(
        [0.5, 0.3, 0.05, 0.2], abs=1e-3
    )
    assert sparse_targets(ids, logps, rest, 4)(slice(0, 2), 1.0)[2].shape == (2, 4)  # none drawn
    assert log_softmax(torch.zeros(1, 2, dtype=torch.double)).dtype == torch.double
    assert [log_softmax(torch.zeros(1, 2, dtype=d)).dtype for d in (torch.half, torch.float)] == [
        torch.float
    ] * 2
    assert log_softmax(torch.tensor([[0.0, 2 * log(3)], [0.0, 0.0]]), 2.0).exp()[0].tolist() == close(
        [0.25, 0.75]
    )


def coins(alpha=0.7, temperature=1.0, **how):
    "Teacher and student toss other coins; the written token is the second."
    states = torch.tensor([Q, Q]).log()
    return distillation_loss(
        states,
        None,
        torch.tensor([1, 1]),
        dense_targets(torch.tensor([P, P]).log()),
        alpha=alpha,
        temperature=temperature,
        **how,
    )


def test_distillation_loss_of_two_coins():
    soft, hard = KL(P, Q), -log(0.75)
    assert [x.item() for x in coins()] == close([0.7 * soft + 0.3 * hard, 0.7 * soft, 0.3 * hard])
    assert [x.item() for x in coins(count=8)] == close(
        [(0.7 * soft + 0.3 * hard) / 4, 0.7 * soft / 4, 0.3 * hard / 4]
    )
    assert [x.item() for x in coins(0.0)] == close([hard, 0, hard]) and [
        x.item() for x in coins(1.0)
    ] == close([soft, soft, 0])
    assert coins(1.0, divergence="reverse_kl")[0].item() == close(KL(Q, P)) and coins(1.0, divergence=0.2)[
        0
    ].item() == close(KL(P, MIX(0.2)) / 0.8 + KL(Q, MIX(0.2)) / 0.2)
    warm = lambda x: [math.sqrt(a) / sum(map(math.sqrt, x)) for a in x]
    assert coins(1.0, 2.0)[0].item() == close(4 * KL(warm(P), warm(Q)))
    default = distillation_loss(
        torch.tensor([Q]).log(), None, torch.tensor([1]), dense_targets(torch.tensor([P]).log())
    )
    assert default[0].item() == close(0.7 * 4 * KL(warm(P), warm(Q)) + 0.3 * hard)
    assert distillation_loss(torch.tensor([Q]).log(), None, torch.tensor([1]), None, alpha=0)[
        0
    ].item() == close(hard)  # the teacher is not asked
    assert (
        distillation_loss(
            torch.zeros(0, 2), None, torch.zeros(0, dtype=torch.long), dense_targets(torch.zeros(0, 2))
        )[0].item()
        == 0
    )
    few = sparse_targets(
        torch.tensor([[1, 0]]), torch.tensor([[0.5, 0.5]]).log(), torch.tensor([log(0.5)]), 1
    )
    assert distillation_loss(
        torch.tensor([Q]).log(), None, torch.tensor([1]), few, alpha=1.0, temperature=1.0
    )[0].item() == close(KL(P, Q))
    with pytest.raises(ValueError, match="a cache holds the tokens"):
        distillation_loss(torch.tensor([Q]).log(), None, torch.tensor([1]), few, divergence="jsd")


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_the_formula(bias):
    "Of states and of the output layer; three times the loss has three times the gradient."
    torch.manual_seed(0)
    states, head, teacher, targets = (
        torch.randn(3, 2, requires_grad=True),
        torch.nn.Linear(2, 4, bias=bias),
        torch.randn(3, 4),
        torch.tensor([0, 3, 1]),
    )
    scores = head(states)
    plain = 0.6 * 4 * torch.nn.functional.kl_div(
        (scores / 2).log_softmax(-1), (teacher / 2).softmax(-1), reduction="batchmean"
    ) + 0.4 * torch.nn.functional.cross_entropy(scores, targets)
    loss, soft, hard = distillation_loss(
        states, head, targets, dense_targets(teacher), temperature=2.0, alpha=0.6
    )
    assert (
        loss.item() == close(plain.item())
        and loss.requires_grad
        and not soft.requires_grad
        and not hard.requires_grad
    )
    for a, b in zip(*(torch.autograd.grad(3 * x, [states, *head.parameters()]) for x in (loss, plain))):
        torch.testing.assert_close(a, b)
    head.requires_grad_(False)
    torch.testing.assert_close(
        *(
            torch.autograd.grad(x, states)[0]
            for x in (
                distillation_loss(states, head, targets, dense_targets(teacher), alpha=0)[0],
                torch.nn.functional.cross_entropy(head(states), targets),
            )
        )
    )
    head.requires_grad_(True)
    fixed = states.detach()
    torch.testing.assert_close(
        *(
            torch.autograd.grad(x, head.weight)[0]
            for x in (
                distillation_loss(fixed, head, targets, dense_targets(teacher), alpha=0)[0],
                torch.nn.functional.cross_entropy(head(fixed), targets),
            )
        )
    )
    torch.testing.assert_close(
        *(
            torch.autograd.grad(x, states)[0]
            for x in (
                distillation_loss(states, lambda s: s.tanh(), targets % 2, None, alpha=0)[0],
                torch.nn.functional.cross_entropy(states.tanh(), targets % 2),
            )
        )
    )  # a head that does more than multiply
    with torch.no_grad():
        assert not distillation_loss(states, head, targets, dense_targets(teacher))[0].requires_grad


@pytest.mark.parametrize(
    "rows, width, parts",
    [
        (3, 2**20, [(0, 2), (2, 4)]),
        (2, 2**20, [(0, 2)]),
        (2, 2**21 + 2, [(0, 1), (1, 2)]),
        (5, 2**20 - 1, [(0, 2), (2, 4), (4, 6)]),
    ],
)
@pytest.mark.parametrize("layer", [True, False])
def test_a_chunk_holds_two_million_scores(rows, width, parts, layer):
    seen = []

    def terms(part, scores):
        assert scores.shape == (len(range(rows)[part]), width) and scores.requires_grad
        seen.append((part.start, part.stop))
        return scores[:, :2].sum(), 2 * scores[:, 1].sum()

    states = (
        torch.ones(rows, 1) * torch.arange(1, rows + 1)[:, None]
        if layer
        else torch.ones(1, 1).expand(rows, width).clone()
    )
    states.requires_grad_()
    loss, one, other = ChunkedLoss.apply(states, torch.ones(width, 1) if layer else None, None, terms)
    total = rows * (rows + 1) / 2 if layer else rows
    assert seen == parts and (loss.item(), one.item(), other.item()) == (4 * total, 2 * total, 2 * total)
    (found,) = torch.autograd.grad(loss, states)
    assert found[:, 0].tolist() == [4.0 if layer else 1.0] * rows and (
        layer or found[:, 1].tolist() == [3.0] * rows
    )


def test_a_layer_of_another_precision():
    "Scores are float32, and each gradient has its own tensor's type."
    states, weight, bias = (
        torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True),
        torch.ones(4, 3, dtype=torch.bfloat16, requires_grad=True),
        torch.zeros(4, dtype=torch.bfloat16, requires_grad=True),
    )
    loss, _, _ = ChunkedLoss.apply(
        states, weight, bias, lambda part, scores: (scores.float().sum(), scores.float()[:, 0].sum())
    )
    assert [(g.dtype, g.tolist()) for g in torch.autograd.grad(loss, (states, weight, bias))] == [
        (torch.bfloat16, x) for x in ([[5.0] * 3] * 2, [[4.0] * 3] + [[2.0] * 3] * 3, [4.0, 2.0, 2.0, 2.0])
    ]


def test_gradients_under_autocast_have_the_type_of_the_weights():
    states, head = torch.tensor([[0.5, 1.0], [1.0, 0.25]], requires_grad=True), torch.nn.Linear(2, 4)
    teacher, targets = torch.zeros(2, 4), torch.tensor([0, 3])
    whole = torch.autograd.grad(
        distillation_loss(states, head, targets, dense_targets(teacher))[0], [states, *head.parameters()]
    )
    with torch.autocast("cpu", torch.bfloat16):
        half = torch.autograd.grad(
            distillation_loss(states, head, targets, dense_targets(teacher))[0], [states, *head.parameters()]
        )
    for a, b in zip(half, whole):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.01)
        assert a.dtype == torch.float32


SETTINGS = [
    (d, t, a)
    for d in ("forward_kl", "reverse_kl", "jsd", 0.1)
    for t, a in ((1.0, 1.0), (2.0, 0.7), (4.0, 0.0))
]


def case(n=7, h=5, v=11, seed=0, dtype=torch.double):
    torch.manual_seed(seed)
    head = torch.nn.Linear(h, v, bias=True).to(dtype)
    return (
        torch.randn(n, h, dtype=dtype, requires_grad=True),
        head,
        torch.randint(0, v, (n,)),
        torch.randn(n, v, dtype=dtype),
    )


@pytest.mark.parametrize("divergence,temperature,alpha", SETTINGS)
def test_loss_and_gradients_are_the_formula(divergence, temperature, alpha):
    states, head, targets, teacher = case()
    loss, soft, hard = distillation_loss(
        states,
        head,
        targets,
        dense_targets(teacher),
        divergence=divergence,
        temperature=temperature,
        alpha=alpha,
    )
    beta = dict(forward_kl=0, reverse_kl=1, jsd=0.5).get(divergence, divergence)
    wanted = plain_distillation_loss(head(states), teacher, targets, beta, temperature, alpha)
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-12) and (soft + hard).item() == pytest.approx(
        loss.item(), abs=1e-12
    )
    got, expected = (torch.autograd.grad(x, (states, head.weight, head.bias)) for x in (3 * loss, 3 * wanted))
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_gradcheck_also_in_many_chunks(divergence):
    states, head, targets, teacher = case(n=5, h=3, v=4)
    weight = head.weight.detach().clone().requires_grad_()

    def loss(s, w):
        layer = torch.nn.Linear(3, 4, bias=False, dtype=torch.double)
        del layer.weight
        layer.weight = w
        return distillation_loss(s, layer, targets, dense_targets(teacher), divergence=divergence)[0]

    assert torch.autograd.gradcheck(loss, (states, weight))
    assert torch.autograd.gradcheck(
        lambda s: distillation_loss(s, None, targets, dense_targets(teacher), divergence=divergence)[0],
        (torch.randn(5, 4, dtype=torch.double, requires_grad=True),),
    )
    big = case(n=9, h=2, v=2**19, dtype=torch.float)  # four positions a chunk
    one = distillation_loss(big[0], big[1], big[2], dense_targets(big[3]), divergence=divergence)[0]
    assert one.item() == pytest.approx(
        plain_distillation_loss(
            big[1](big[0]), big[3], big[2], dict(forward_kl=0, reverse_kl=1, jsd=0.5)[divergence], 2.0, 0.7
        ).item(),
        rel=1e-4,
    )


def test_autocast_to_bfloat16_stays_close():
    "As on a GPU: half precision inside, float32 weights and gradients."
    states, head, targets, teacher = case(n=40, h=32, v=64, dtype=torch.float)

    def run():
        loss, _, _ = distillation_loss(states, head, targets, dense_targets(teacher))
        return loss.item(), torch.autograd.grad(loss, (states, head.weight))

    whole, grads = run()
    with torch.autocast("cpu", torch.bfloat16):
        half, rough = run()
    assert half == pytest.approx(whole, rel=0.02) and all(g.dtype == torch.float for g in rough)
    for a, b in zip(rough, grads):
        assert (a - b).norm() / b.norm() < 0.05


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_trl_has_the_same_divergence(beta):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.gkd import GKDTrainer
    _, _, _, s = case(seed=1)
    _, _, targets, t = case(seed=2)
    ours = scaled_jsd(t.log_softmax(-1), s.log_softmax(-1), beta).mean().item() * (beta * (1 - beta) or 1)
    assert ours == pytest.approx(
        GKDTrainer.generalized_jsd_loss(
            s[None], t[None], labels=targets[None], beta=beta, temperature=1.0
        ).item(),
        abs=1e-6,
    )


def test_every_beta_has_one_scale():
    "Near 0 and 1 the usual formula vanishes; divided by beta (1 - beta) it becomes the two KLs."
    _, _, _, s = case(seed=1)
    t = s + 0.01 * case(seed=2)[3]
    values = [
        scaled_jsd(t.log_softmax(-1), s.log_softmax(-1), b).mean().item()
        for b in (0.0, 0.01, 0.3, 0.5, 0.99, 1.0)
    ]
    assert max(values) / min(values) < 1.05 and min(values) > 0


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_few_tokens_have_the_right_mean(temperature):
    "The average over many draws is the exact loss and gradient; with the k likeliest alone it would not be."
    states, head, targets, teacher = case(n=3)
    many = lambda x, n=4000: x.repeat(n, *[1] * (x.dim() - 1))
    torch.manual_seed(0)
    ids, logps, rest = likely_and_drawn_tokens(many(teacher), 3, 2, temperature)
    a, b = (
        distillation_loss(s, head, t, soft, temperature=temperature, alpha=1.0)[0]
        for s, t, soft in (
            (states, targets, dense_targets(teacher)),
            (many(states), many(targets), sparse_targets(ids, logps, rest, 3)),
        )
    )
    assert b.item() == pytest.approx(a.item(), rel=0.02)
    for x, y in zip(*(torch.autograd.grad(loss, (head.weight, states)) for loss in (a, b))):
        torch.testing.assert_close(x, y, rtol=0.1, atol=0.01)
    with pytest.raises(ValueError, match="the student likes"):
        distillation_loss(states, head, targets, sparse_targets(ids, logps, rest, 3), divergence="jsd")
