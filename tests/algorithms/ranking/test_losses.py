"""Losses of pairs, with the arithmetic by hand."""

import math

import pytest
import torch

from algorithms.ranking.losses import LOSSES

# sigmoid(log 3) = 3/4, sigmoid(-log 3) = 1/4, sigmoid(0) = 1/2.
LOG3 = math.log(3)


@pytest.mark.parametrize(
    ("name", "k", "expected"),
    [
        # Pair 1: s_right 3/4, s_wrong 1/2. Pair 2: s_right 1/4, s_wrong 1/4.
        ("power", 3.0, (1 / 64 + 1 / 8) + (27 / 64 + 1 / 64)),
        ("power", 1.0, (1 / 4 + 1 / 2) + (3 / 4 + 1 / 4)),
        # z_right - z_wrong: log 3 and 0.
        ("bradley-terry", 3.0, math.log(4 / 3) + math.log(2)),
        ("bce", 3.0, (math.log(4 / 3) + math.log(2)) + (math.log(4) + math.log(4 / 3))),
    ],
)
def test_the_loss_is_the_sum_over_the_pairs(name, k, expected):
    loss, metrics = LOSSES[name](torch.tensor([LOG3, -LOG3]), torch.tensor([0.0, -LOG3]), k)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    # The first pair is in the right order, and the second is a tie.
    assert {key: value.item() for key, value in metrics.items()} == pytest.approx(
        {"pair_accuracy": 1.5, "score_right": 1.0, "score_wrong": 0.75}
    )


def test_the_gradient_of_power_is_that_of_its_equation():
    right, wrong = torch.tensor([LOG3], requires_grad=True), torch.tensor([0.0], requires_grad=True)
    LOSSES["power"](right, wrong, 3.0)[0].backward()
    # d/dz (1 - s)^3 = -3 (1 - s)^2 s (1 - s), and d/dz s^3 = 3 s^2 s (1 - s).
    assert right.grad.item() == pytest.approx(-3 * (1 / 4) ** 3 * (3 / 4))
    assert wrong.grad.item() == pytest.approx(3 * (1 / 2) ** 3 * (1 / 2))


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_have_finite_losses_and_gradients(name):
    right, wrong = torch.tensor([-200.0, 200.0], requires_grad=True), torch.tensor([200.0, -200.0], requires_grad=True)
    loss, _ = LOSSES[name](right, wrong, 3.0)
    loss.backward()
    assert loss.isfinite()
    assert right.grad.isfinite().all()
    assert wrong.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_batches_add_up(name):
    right, wrong = torch.randn(7, generator=torch.manual_seed(0)), torch.randn(7, generator=torch.manual_seed(1))
    whole, metrics = LOSSES[name](right, wrong, 3.0)
    parts = [LOSSES[name](right[part], wrong[part], 3.0) for part in (slice(0, 3), slice(3, 7))]
    assert sum(loss for loss, _ in parts).item() == pytest.approx(whole.item(), rel=1e-6)
    for key, value in metrics.items():
        assert sum(each[key] for _, each in parts).item() == pytest.approx(value.item())
