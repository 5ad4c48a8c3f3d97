"""Each loss by hand, against a loop of plain Python over whole softmaxes, in micro-batches, and at the edges.

N sequences, T tokens, V vocabulary, K kept tokens.
"""

import functools
import math
import pickle

import pytest
import torch

from algorithms.losses.batch import LossBatch, log1mexp
from algorithms.losses.contrastive import contrastive
from algorithms.losses.likelihood import likelihood, negative_training, unlikelihood
from algorithms.losses.negative_calibrated import Teacher, calibration, negative_calibrated, top_k
from algorithms.losses.orpo import orpo

N, T, V = 6, 4, 5


def drawn(seed, *shape):
    return 2 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


LOGITS, NAT, NEG = (drawn(seed, N, T, V) for seed in (1, 2, 3))
# Each example has one right and one wrong sequence, so that every loss can read it; -100 where nothing is scored.
BATCH = LossBatch(
    targets=torch.tensor([[-100, 1, 2, 3], [0, 4, -100, -100], [-100, 2, -100, 2], [1, 1, 0, 0], [3, -100, -100, -100],
                          [-100, 0, 4, 2]]),
    mask=torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1], [1, 0, 0, 0], [0, 1, 1, 1]]).bool(),
    is_right=torch.tensor([True, True, False, False, False, True]),
    group=torch.tensor([5, 2, 5, 9, 2, 9]),
)  # fmt: skip


def rows_of(batch, rows):
    return LossBatch(batch.targets[rows], batch.mask[rows], batch.is_right[rows], batch.group[rows])


def nce(logits, batch, *, rows=None, nat=NAT, neg=NEG, **options):
    rows = slice(None) if rows is None else rows
    return negative_calibrated(logits, batch, Teacher(nat_logits=nat[rows], neg_logits=neg[rows]), **options)


def without_rows(loss):
    return lambda logits, batch, rows=None, **options: loss(logits, batch, **options)


LOSSES = {loss.__name__: without_rows(loss) for loss in
          (likelihood, negative_training, unlikelihood, contrastive, orpo)} | {
    "nce": nce,
    "nce_by_token": functools.partial(nce, granularity="token", temperature=2.0),
}  # fmt: skip
NUM_ITEMS = dict.fromkeys(LOSSES, 15) | {"contrastive": 3, "orpo": 3}  # scored tokens, examples
each_loss = pytest.mark.parametrize("name", LOSSES)


def one_token(probabilities, targets, is_right, group=None):
    """A sequence of one token for each row of probabilities, and its batch."""
    count = len(targets)
    batch = LossBatch(torch.tensor(targets)[:, None], torch.ones(count, 1, dtype=torch.bool), torch.tensor(is_right),
                      torch.tensor(group or [0] * count))  # fmt: skip
    return torch.tensor(probabilities, dtype=torch.float64).log()[:, None], batch


def numbers(metrics):
    assert not any(value.requires_grad or value.dim() for value in metrics.values())
    return {name: float(value) for name, value in metrics.items()}


# The independent implementation: softmaxes of lists, and loops.


def softmax(logits, temperature=1.0):
    powers = [math.exp(each / temperature) for each in logits]
    return [each / sum(powers) for each in powers]


def scored(batch, n):
    return [t for t in range(batch.mask.shape[1]) if batch.mask[n, t]]


def token_probability(logits, batch, n, t):
    return softmax(logits[n, t].tolist())[batch.targets[n, t]]


def mean_logprob(logits, batch, n):
    values = [math.log(token_probability(logits, batch, n, t)) for t in scored(batch, n)]
    return sum(values) / len(values)


def token_losses(logits, batch, right, wrong):
    """`right(p)` and `wrong(p)` of every scored token, over their count."""
    losses = []
    for n in range(len(batch.mask)):
        losses += [(right if batch.is_right[n] else wrong)(token_probability(logits, batch, n, t))
                   for t in scored(batch, n)]  # fmt: skip
    return sum(losses) / len(losses)


def slow_contrastive(logits, batch, temperature, likelihood_weight):
    total = 0.0
    ids = set(batch.group.tolist())
    for question in ids:
        members = [n for n in range(len(batch.group)) if batch.group[n] == question]
        scores = {n: mean_logprob(logits, batch, n) for n in members}
        wrong = sum(math.exp(scores[n] / temperature) for n in members if not batch.is_right[n])
        terms = []
        for n in members:
            if batch.is_right[n]:
                power = math.exp(scores[n] / temperature)
                terms.append(-temperature * math.log(power / (power + wrong)) - likelihood_weight * scores[n])
        total += sum(terms) / len(terms)
    return total / len(ids)


def slow_orpo(logits, batch, odds_weight):
    total = 0.0
    ids = set(batch.group.tolist())
    for pair in ids:
        (chosen,) = [n for n in range(len(batch.group)) if batch.group[n] == pair and batch.is_right[n]]
        (rejected,) = [n for n in range(len(batch.group)) if batch.group[n] == pair and not batch.is_right[n]]
        p, r = (math.exp(mean_logprob(logits, batch, n)) for n in (chosen, rejected))
        ratio = (p / (1 - p)) / (r / (1 - r))
        total += -math.log(p) - odds_weight * math.log(1 / (1 + math.exp(-math.log(ratio))))
    return total / len(ids)


def slow_nce(logits, batch, nat, neg, direction, granularity, temperature, ce_weight, kd_weight):
    total, count = 0.0, 0
    for n in range(len(batch.mask)):
        divergences = {}
        for t in scored(batch, n):
            p, m = softmax(nat[n, t].tolist()), softmax(neg[n, t].tolist())
            a, b = (m, p) if direction == "neg_nat" else (p, m)
            divergences[t] = sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))
        for t in scored(batch, n):
            mean = sum(divergences.values()) / len(divergences)
            beta = math.tanh(mean if granularity == "sequence" else divergences[t])
            p, q = softmax(nat[n, t].tolist(), temperature), softmax(logits[n, t].tolist(), temperature)
            kd = -sum(x * math.log(y) for x, y in zip(p, q, strict=True)) * (0.5 + beta) * temperature**2
            total += ce_weight * -math.log(token_probability(logits, batch, n, t)) + kd_weight * kd
            count += 1
    return total / count


# Each loss: by hand, and against the loops.


def test_likelihood():
    logits, batch = one_token([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]], [0, 0], [True, False])
    loss, metrics = likelihood(logits, batch)
    assert loss.item() == pytest.approx(2 * math.log(2), abs=1e-12)  # (ln 2 + ln 8) / 2 = (1 + 3) / 2 ln 2
    assert numbers(metrics) == {"accuracy": 0.5}  # the second token's likeliest is 1
    slow = token_losses(LOGITS, BATCH, right=lambda p: -math.log(p), wrong=lambda p: -math.log(p))
    assert likelihood(LOGITS, BATCH)[0].item() == pytest.approx(slow, abs=1e-12)


def test_negative_training():
    logits, batch = one_token([[0.5, 0.5], [0.25, 0.75]], [0, 0], [True, False])
    loss, metrics = negative_training(logits, batch, weight=0.05)
    assert loss.item() == pytest.approx(0.45 * math.log(2), abs=1e-12)  # (ln 2 - 0.05 * 2 ln 2) / 2
    assert numbers(metrics) == pytest.approx(
        {"nll_right": math.log(2) / 2, "nll_wrong": math.log(2), "right_tokens": 0.5}
    )
    slow = token_losses(LOGITS, BATCH, right=lambda p: -math.log(p), wrong=lambda p: 0.3 * math.log(p))
    assert negative_training(LOGITS, BATCH, weight=0.3)[0].item() == pytest.approx(slow, abs=1e-12)


def test_unlikelihood():
    logits, batch = one_token([[0.5, 0.5], [0.75, 0.25]], [0, 0], [True, False])
    loss, metrics = unlikelihood(logits, batch, weight=0.05)
    assert loss.item() == pytest.approx(0.55 * math.log(2), abs=1e-12)  # (ln 2 + 0.05 * -ln(1 - 3/4)) / 2
    assert numbers(metrics) == pytest.approx(
        {"nll_right": math.log(2) / 2, "unlikelihood_wrong": math.log(2), "right_tokens": 0.5}
    )
    slow = token_losses(LOGITS, BATCH, right=lambda p: -math.log(p), wrong=lambda p: -0.3 * math.log(1 - p))
    assert unlikelihood(LOGITS, BATCH, weight=0.3)[0].item() == pytest.approx(slow, abs=1e-12)


def test_contrastive():
    # Likelihoods 1/2 and 1/4 right, 1/4 and 1/4 wrong. InfoNCE: (-ln(2/4) - ln(1/3)) / 2; likelihood: (1 + 2) / 2 ln 2.
    logits, batch = one_token([[0.5, 0.5], [0.25, 0.75], [0.25, 0.75], [0.25, 0.75]], [0] * 4,
                              [True, True, False, False])  # fmt: skip
    loss, metrics = contrastive(logits, batch, temperature=1.0)
    info_nce, nll = math.log(6) / 2, 1.5 * math.log(2)
    assert loss.item() == pytest.approx(info_nce + nll, abs=1e-12)
    assert numbers(metrics) == pytest.approx({"info_nce": info_nce, "nll": nll, "accuracy": 0.5})
    # Another partition: two rights and one wrong, one and two.
    batch = LossBatch(
        BATCH.targets, BATCH.mask, torch.tensor([1, 0, 0, 1, 0, 1]).bool(), torch.tensor([4, 0, 0, 4, 4, 0])
    )
    for temperature, weight in ((1.0, 1.0), (0.1, 0.0), (2.0, 0.7)):
        loss, _ = contrastive(LOGITS, batch, temperature=temperature, likelihood_weight=weight)
        assert loss.item() == pytest.approx(slow_contrastive(LOGITS, batch, temperature, weight), abs=1e-10)


def test_contrastive_with_one_wrong_sequence_is_simpo():
    # -log sigmoid(beta l_r - beta l_w) with l_r = ln 3/4, l_w = ln 1/4, beta = 2: sigmoid(2 ln 3) = 9/10.
    logits, batch = one_token([[0.75, 0.25], [0.25, 0.75]], [0, 0], [True, False])
    loss, _ = contrastive(logits, batch, temperature=0.5, likelihood_weight=0.0)
    assert loss.item() == pytest.approx(-0.5 * math.log(0.9), abs=1e-12)


def test_contrastive_near_temperature_zero_is_the_gap_to_the_likeliest_wrong_sequence():
    # ln 1/2 and ln 1/4 are wrong, ln 1/8 is right: the gap is ln 4. The other way round it is met.
    logits, batch = one_token([[0.5, 0.5], [0.25, 0.75], [0.125, 0.875]], [0] * 3, [False, False, True])
    loss, _ = contrastive(logits, batch, temperature=1e-3, likelihood_weight=0.0)
    assert loss.item() == pytest.approx(math.log(4), abs=1e-9)
    met = LossBatch(batch.targets, batch.mask, torch.tensor([True, False, False]), batch.group)
    assert contrastive(logits, met, temperature=1e-3, likelihood_weight=0.0)[0].item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_a_low_temperature_stops_pushing_at_a_smaller_gap(temperature, weight):
    # l_r = ln 3/4, l_w = ln 1/4. The gradient of temp InfoNCE is -+sigmoid(-ln 3 / temp), and sigmoid(-x ln 3) is
    # 1 / (1 + 3^x). The gradient of l = ln p with respect to the target's logit is 1 - p.
    logits, batch = one_token([[0.75, 0.25], [0.25, 0.75]], [0, 0], [True, False])
    logits.requires_grad_()
    contrastive(logits, batch, temperature=temperature, likelihood_weight=weight)[0].backward()
    force = 1 / (1 + 3 ** (1 / temperature))  # 1/4 at 1, 1/10 at 1/2, 1/59050 at 1/10
    pull, push = logits.grad[:, 0, 0].tolist()
    assert pull == pytest.approx(-(force + weight) * 0.25, abs=1e-12)
    assert push == pytest.approx(force * 0.75, abs=1e-12)


def test_orpo():
    # Odds 3/4 : 1/4 = 3 and 1/3, ratio 9, sigmoid(ln 9) = 9/10.
    logits, batch = one_token([[0.25, 0.75], [0.75, 0.25]], [0, 0], [False, True])
    loss, metrics = orpo(logits, batch, odds_weight=0.1)
    assert loss.item() == pytest.approx(-math.log(0.75) - 0.1 * math.log(0.9), abs=1e-12)
    assert numbers(metrics) == pytest.approx(
        {"nll_chosen": math.log(4 / 3), "nll_rejected": math.log(4), "log_odds_ratio": math.log(9), "accuracy": 1.0}
    )
    for weight in (0.1, 2.0):
        assert orpo(LOGITS, BATCH, odds_weight=weight)[0].item() == pytest.approx(
            slow_orpo(LOGITS, BATCH, weight), abs=1e-12
        )


def test_orpo_is_that_of_trl():
    # TRL 1.16.0, float32: -c - ORPOTrainer.odds_ratio_loss(SimpleNamespace(beta=0.1, accelerator=..), c, r)[0]
    chosen, rejected = [-0.5, -2.0, -0.001], [-1.0, -0.25, -3.0]
    expected = [0.5320299863815308, 2.3156774044036865, 0.0010052421130239964]
    p = [math.exp(each) for pair in zip(chosen, rejected, strict=True) for each in pair]
    logits, batch = one_token([[each, 1 - each] for each in p], [0] * 6, [True, False] * 3, [0, 0, 1, 1, 2, 2])
    loss, metrics = orpo(logits, batch)
    assert loss.item() == pytest.approx(sum(expected) / 3, abs=1e-6)
    assert metrics["log_odds_ratio"].item() == pytest.approx(2.5723, abs=1e-4)


def test_negative_calibrated():
    # m = (1/2, 1/2), p = (3/4, 1/4): KL(m || p) = 1/2 ln(2/3) + 1/2 ln 2 = 1/2 ln(4/3).
    # tanh(1/2 ln x) = (x - 1) / (x + 1) = 1/7.
    student, batch = one_token([[0.5, 0.5]], [0], [True])
    nat, neg = (one_token([row], [0], [True])[0] for row in ([0.75, 0.25], [0.5, 0.5]))
    loss, metrics = negative_calibrated(student, batch, Teacher(nat_logits=nat, neg_logits=neg))
    kd = math.log(2) * (0.5 + 1 / 7)  # -(3/4 ln 1/2 + 1/4 ln 1/2) = ln 2
    assert loss.item() == pytest.approx(0.5 * math.log(2) + 0.5 * kd, abs=1e-12)
    assert numbers(metrics) == pytest.approx({"nll": math.log(2), "kd": kd, "beta": 1 / 7})


@pytest.mark.parametrize("direction", ["neg_nat", "nat_neg"])
@pytest.mark.parametrize("granularity", ["sequence", "token"])
@pytest.mark.parametrize(("temperature", "ce_weight", "kd_weight"), [(1.0, 0.5, 0.5), (2.0, 0.3, 1.0)])
def test_negative_calibrated_is_the_loop(direction, granularity, temperature, ce_weight, kd_weight):
    options = {"direction": direction, "granularity": granularity, "temperature": temperature, "ce_weight": ce_weight,
               "kd_weight": kd_weight}  # fmt: skip
    slow = slow_nce(LOGITS, BATCH, NAT, NEG, **options)
    assert nce(LOGITS, BATCH, **options)[0].item() == pytest.approx(slow, abs=1e-8)
    # The same from what is kept: beta, and all of p as its V likeliest tokens.
    beta = calibration(NAT, NEG, BATCH.mask, direction, granularity)
    assert beta.shape == ((N,) if granularity == "sequence" else (N, T))
    ids, logprobs = top_k(NAT, V, temperature)
    kept = Teacher(beta=beta, topk_ids=ids, topk_logprobs=logprobs, topk_temperature=temperature)
    for teacher in (kept, Teacher(beta=beta, nat_logits=NAT)):
        loss, _ = negative_calibrated(LOGITS, BATCH, teacher, temperature=temperature, ce_weight=ce_weight,
                                      kd_weight=kd_weight)  # fmt: skip
        assert loss.item() == pytest.approx(slow, abs=1e-8)


def test_what_the_teacher_keeps_bounds_the_cross_entropy_from_below():
    # p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4). K = 1: 1/2 ln 4 + 1/2 ln(4/3); whole: 1/2 ln 4 + 1/4 ln 2 + 1/4 ln 4.
    student, batch = one_token([[0.25, 0.5, 0.25]], [0], [True])
    nat = one_token([[0.5, 0.25, 0.25]], [0], [True])[0]
    kds = []
    for k in (1, 2, 3):
        ids, logprobs = top_k(nat, k)
        teacher = Teacher(beta=torch.tensor([0.5]), topk_ids=ids, topk_logprobs=logprobs)
        kds.append(negative_calibrated(student, batch, teacher)[1]["kd"].item())
    assert kds[0] == pytest.approx(math.log(2) + 0.5 * math.log(4 / 3), abs=1e-12)
    assert kds[2] == pytest.approx(1.75 * math.log(2), abs=1e-12)
    assert kds[0] < kds[1] <= kds[2] + 1e-12


def test_top_k_gives_the_likeliest_tokens_of_the_softened_distribution():
    ids, logprobs = top_k(torch.tensor([[[0.1, 0.6, 0.3]]]).log(), 2, temperature=0.5)
    assert ids.tolist() == [[[1, 2]]]
    # Squared: 0.01, 0.36, 0.09, of 0.46.
    assert logprobs.exp().flatten().tolist() == pytest.approx([0.36 / 0.46, 0.09 / 0.46])


def test_calibration_of_equal_models_is_zero_and_unscored_tokens_count_nothing():
    assert calibration(NAT, NAT, BATCH.mask).tolist() == [0.0] * N
    disturbed = NEG.masked_fill(~BATCH.mask[..., None], math.nan)
    for granularity in ("sequence", "token"):
        beta = calibration(NAT, NEG, BATCH.mask, granularity=granularity)
        assert torch.equal(calibration(NAT, disturbed, BATCH.mask, granularity=granularity), beta)
    assert beta[~BATCH.mask].tolist() == [0.0] * 9


def test_no_gradient_reaches_the_teacher():
    nat, neg = NAT.clone().requires_grad_(), NEG.clone().requires_grad_()
    logits = LOGITS.clone().requires_grad_()
    ids, logprobs = top_k(nat, 3)
    kept = logprobs.clone().requires_grad_()
    beta = torch.full((N,), 0.5, dtype=torch.float64, requires_grad=True)
    for teacher in (Teacher(nat, neg), Teacher(beta=beta, topk_ids=ids, topk_logprobs=kept)):
        negative_calibrated(logits, BATCH, teacher)[0].backward()
    assert nat.grad is neg.grad is kept.grad is beta.grad is None
    assert logits.grad.abs().sum() > 0


# What holds for every loss.


@each_loss
def test_micro_batches_add_up_to_the_whole_batch(name):
    whole_logits = LOGITS.clone().requires_grad_()
    whole, whole_metrics = LOSSES[name](whole_logits, BATCH)
    whole.backward()
    logits = LOGITS.clone().requires_grad_()
    total, totals = 0.0, dict.fromkeys(whole_metrics, 0.0)
    for rows in ([2, 0], [5, 1, 4, 3], []):  # the last one has no sequences
        rows = torch.tensor(rows, dtype=torch.int64)
        loss, metrics = LOSSES[name](logits[rows], rows_of(BATCH, rows), rows=rows,
                                     num_items=torch.tensor(NUM_ITEMS[name]))  # fmt: skip
        loss.backward()
        total += loss.item()
        totals = {key: totals[key] + value for key, value in numbers(metrics).items()}
    assert total == pytest.approx(whole.item(), abs=1e-12)
    assert totals == pytest.approx(numbers(whole_metrics), abs=1e-12)
    torch.testing.assert_close(logits.grad, whole_logits.grad, atol=1e-12, rtol=0)


@each_loss
def test_the_gradient_is_that_of_the_loss(name):
    assert torch.autograd.gradcheck(lambda logits: LOSSES[name](logits, BATCH)[0], LOGITS.clone().requires_grad_())


@pytest.mark.parametrize("k", [1, 3, V])
def test_the_gradient_is_that_of_the_loss_with_kept_tokens(k):
    ids, logprobs = top_k(NAT, k)
    teacher = Teacher(beta=calibration(NAT, NEG, BATCH.mask), topk_ids=ids, topk_logprobs=logprobs)
    assert torch.autograd.gradcheck(
        lambda logits: negative_calibrated(logits, BATCH, teacher)[0], LOGITS.clone().requires_grad_()
    )


@each_loss
def test_unscored_positions_change_nothing(name):
    expected = LOSSES[name](LOGITS, BATCH)[0]
    disturbed = LOGITS.masked_fill(~BATCH.mask[..., None], math.nan).requires_grad_()
    loss, _ = LOSSES[name](disturbed, BATCH)
    assert torch.equal(loss, expected)
    loss.backward()
    assert torch.equal(disturbed.grad.abs().sum(-1) > 0, BATCH.mask)


@each_loss
def test_a_batch_with_nothing_scored_is_zero_and_keeps_its_graph(name):
    logits = LOGITS.clone().requires_grad_()
    nothing = LossBatch(BATCH.targets, torch.zeros_like(BATCH.mask), BATCH.is_right, BATCH.group)
    for num_items in (None, 0, 7):
        loss, metrics = LOSSES[name](logits, nothing, num_items=num_items)
        loss.backward()
        assert loss.item() == 0
        assert set(numbers(metrics).values()) == {0.0}
        assert torch.equal(logits.grad, torch.zeros_like(LOGITS))


@each_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_logits_are_summed_in_float32(name, dtype):
    narrow = LOGITS.to(dtype).requires_grad_()
    loss, _ = LOSSES[name](narrow, BATCH)
    assert loss.dtype == (torch.float64 if name.startswith("nce") else torch.float32)  # NCE: the wider, its teacher's
    # The logits are rounded, their sums are not.
    assert loss.item() == pytest.approx(LOSSES[name](narrow.detach().double(), BATCH)[0].item(), rel=2e-6)
    loss.backward()
    assert narrow.grad.dtype == dtype
    assert narrow.grad.isfinite().all()


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["certain", "excluded"])
def test_huge_logits_stay_finite(name, dtype, kind):
    """Targets of p = 1 exactly, then of e^-10000; an infinite logit for a token that a padded vocabulary excludes."""
    logits = torch.zeros(N, T, V + 1, dtype=dtype)
    at = BATCH.targets.clamp(min=0)[..., None]
    logits = logits.scatter(-1, at, 1e4 if kind == "certain" else -1e4)
    logits[..., V] = -math.inf
    logits.requires_grad_()
    options = {"nat": logits.detach(), "neg": logits.detach().flip(0)} if name.startswith("nce") else {}
    loss, metrics = LOSSES[name](logits, BATCH, **options)
    loss.backward()
    assert loss.isfinite()
    assert all(math.isfinite(value) for value in numbers(metrics).values())
    assert logits.grad.isfinite().all()


def test_unlikelihood_near_and_at_one():
    # p = 1 - 1e-12 would be 1 in float32. In float64: -log(1 - p) = 27.631, its gradient to the target's logit is p.
    logits = torch.tensor([[[math.log(1e12 - 1), 0.0]]], dtype=torch.float64, requires_grad=True)
    batch = one_token([[0.5, 0.5]], [0], [False])[1]
    loss, _ = unlikelihood(logits, batch, weight=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(12 * math.log(10), rel=1e-4)
    assert logits.grad.flatten().tolist() == pytest.approx([1, -1], rel=1e-3)
    certain = torch.tensor([[[100.0, 0.0]]], requires_grad=True)
    loss, _ = unlikelihood(certain, batch, weight=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(2**-23))  # the bound of float32
    assert certain.grad.flatten().tolist() == [0, 0]


def test_log1mexp():
    values = [-50.0, -1.0, -math.log(2), -0.1, -1e-9]
    # Of -50: 1 - e^-50 is 1 in float64, its logarithm is -e^-50.
    expected = [-math.exp(-50), math.log(1 - math.exp(-1)), math.log(0.5), math.log(-math.expm1(-0.1)), math.log(1e-9)]
    result = log1mexp(torch.tensor(values, dtype=torch.float64))
    assert result.tolist() == pytest.approx(expected, rel=1e-9, abs=0)


def test_long_batches_are_worked_on_in_chunks_and_give_the_same():
    # 1,100 scored rows are three chunks; the loops see rows in threes only.
    count, length = 11, 100
    logits, nat, neg = (drawn(seed, count, length, 3) for seed in (4, 5, 6))
    batch = LossBatch(torch.arange(count * length).view(count, length) % 3, torch.ones(count, length, dtype=torch.bool),
                      torch.ones(count, dtype=torch.bool), torch.zeros(count, dtype=torch.int64))  # fmt: skip
    options = {
        "direction": "neg_nat",
        "granularity": "sequence",
        "temperature": 1.0,
        "ce_weight": 0.5,
        "kd_weight": 0.5,
    }
    expected = slow_nce(logits, batch, nat, neg, **options)
    assert negative_calibrated(logits, batch, Teacher(nat, neg), **options)[0].item() == pytest.approx(
        expected, abs=1e-8
    )
    slow = token_losses(logits, batch, right=lambda p: -math.log(p), wrong=None)
    assert likelihood(logits, batch)[0].item() == pytest.approx(slow, abs=1e-12)
    assert torch.equal(top_k(nat, 3)[1], nat.log_softmax(-1).sort(-1, descending=True).values)


def test_batches_and_teachers_cross_processes():
    again = pickle.loads(pickle.dumps((BATCH, Teacher(NAT, NEG))))
    assert torch.equal(again[0].mask, BATCH.mask)
    assert torch.equal(again[1].neg_logits, NEG)


# What cannot be right.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": BATCH.mask[:, 1:]}, r"targets \[6, 4\] and mask \[6, 3\]"),
        ({"mask": BATCH.mask.long()}, "mask must be torch.bool, got torch.int64"),
        ({"is_right": BATCH.is_right[:2]}, r"is_right \[2\] must hold one value for each of the 6"),
        ({"is_right": BATCH.is_right.long()}, "is_right must be torch.bool, got torch.int64"),
        ({"group": BATCH.group[:, None]}, r"group \[6, 1\]"),
    ],
)
def test_a_batch_that_contradicts_itself_is_refused(change, message):
    fields = {name: getattr(BATCH, name) for name in ("targets", "mask", "is_right", "group")}
    with pytest.raises(ValueError, match=message):
        LossBatch(**fields | change)


@each_loss
def test_logits_and_counts_that_do_not_fit_are_refused(name):
    loss = LOSSES[name]
    with pytest.raises(ValueError, match=r"logits \[6, 3, 5\] must be .* targets \[6, 4\]"):
        loss(LOGITS[:, 1:], BATCH)
    with pytest.raises(ValueError, match="targets holds 4 at a scored position, outside the vocabulary of 4"):
        loss(LOGITS[..., 1:], BATCH)
    with pytest.raises(ValueError, match="targets holds -100 at a scored position"):
        loss(LOGITS, LossBatch(BATCH.targets, torch.ones_like(BATCH.mask), BATCH.is_right, BATCH.group))
    for number in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"num_items={float(number)} with"):
            loss(LOGITS, BATCH, num_items=number)


def test_examples_that_cannot_be_compared_are_refused():
    three = rows_of(BATCH, torch.tensor([0, 1, 2]))
    for loss, message in ((orpo, "example 2 has 1 right and 0 wrong sequences; ORPO needs"),
                          (contrastive, "example 2 has 1 right and 0 wrong sequences; CL needs")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            loss(LOGITS[:3], three)
    with pytest.raises(ValueError, match="example 2 has 0 right and 1 wrong"):
        contrastive(LOGITS[[4]], rows_of(BATCH, torch.tensor([4])))
    twice = rows_of(BATCH, torch.tensor([0, 0, 2]))
    contrastive(LOGITS[[0, 0, 2]], twice)
    with pytest.raises(ValueError, match="example 5 has 2 right and 1 wrong"):
        orpo(LOGITS[[0, 0, 2]], twice)
    mask = BATCH.mask.clone()
    mask[3] = False
    for loss in (orpo, contrastive):
        with pytest.raises(ValueError, match=r"sequences \[3\] have no scored token"):
            loss(LOGITS, LossBatch(BATCH.targets, mask, BATCH.is_right, BATCH.group))


@pytest.mark.parametrize("loss", [contrastive, nce])
def test_a_temperature_of_zero_is_refused(loss):
    with pytest.raises(ValueError, match="temperature=0 must be above 0"):
        loss(LOGITS, BATCH, temperature=0)


IDS, LOGPROBS = top_k(NAT, 2)
BETA = torch.full((N,), 0.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beta": BETA}, "needs nat_logits or topk_ids"),
        ({"nat_logits": NAT}, "needs neg_logits or beta"),
        ({"nat_logits": NAT, "neg_logits": NEG, "beta": BETA}, "neg_logits or beta, but not both"),
        ({"nat_logits": NAT, "beta": BETA, "topk_ids": IDS, "topk_logprobs": LOGPROBS}, "but not both"),
        ({"beta": BETA, "topk_ids": IDS}, "belong together"),
        ({"neg_logits": NEG, "topk_ids": IDS, "topk_logprobs": LOGPROBS}, "pass nat_logits too"),
        (
            {"nat_logits": NAT[..., :4], "beta": BETA},
            r"nat_logits \[6, 4, 4\] must have the student's shape \[6, 4, 5\]",
        ),
        ({"nat_logits": NAT, "neg_logits": NEG[:3]}, r"neg_logits \[3, 4, 5\]"),
        ({"nat_logits": NAT, "beta": BETA[:3]}, r"beta \[3\]"),
        ({"nat_logits": NAT, "beta": 3 * BETA}, "beta ranges from 1.5 to 1.5"),
        ({"beta": BETA, "topk_ids": IDS[:3], "topk_logprobs": LOGPROBS}, r"topk_ids \[3, 4, 2\]"),
        ({"beta": BETA, "topk_ids": IDS + 4, "topk_logprobs": LOGPROBS}, "topk_ids holds . at a scored position"),
        ({"beta": BETA, "topk_ids": IDS, "topk_logprobs": LOGPROBS.exp()}, "pass natural logarithms"),
        (
            {"beta": BETA, "topk_ids": IDS, "topk_logprobs": LOGPROBS, "topk_temperature": 2.0},
            "top_k ran at temperature 2.0",
        ),
    ],
)
def test_a_teacher_that_cannot_be_right_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        negative_calibrated(LOGITS, BATCH, Teacher(**fields))


def test_a_teacher_that_is_not_finite_makes_the_loss_so():
    for fields in (
        {"nat_logits": NAT, "neg_logits": NEG * math.nan},
        {"nat_logits": NAT * math.nan, "neg_logits": NEG},
        {"nat_logits": NAT, "beta": BETA * math.nan},
    ):
        assert negative_calibrated(LOGITS, BATCH, Teacher(**fields))[0].isnan()


def test_options_of_the_calibration_are_checked():
    with pytest.raises(ValueError, match="direction='pos_neg'"):
        calibration(NAT, NEG, BATCH.mask, direction="pos_neg")
    with pytest.raises(ValueError, match="granularity='word'"):
        calibration(NAT, NEG, BATCH.mask, granularity="word")
    with pytest.raises(ValueError, match=r"nat_logits \[6, 4, 5\] and neg_logits \[6, 4, 4\]"):
        calibration(NAT, NEG[..., :4], BATCH.mask)
    for k in (0, V + 1):
        with pytest.raises(ValueError, match=f"k={k} must be from 1"):
            top_k(NAT, k)
