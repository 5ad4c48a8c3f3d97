"""Pooling over a solution's tokens, and the head, with the arithmetic by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from algorithms.ranking.encoder_head import EncoderHead, EncoderNetwork, pooled_mean


class Lookup(nn.Module):
    """A trunk without context: the hidden state of token n is (n, 10 n)."""

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(last_hidden_state=torch.stack([input_ids, 10 * input_ids], dim=-1).float())


def test_the_mean_is_over_the_solution_alone_and_has_its_first_token():
    hidden = torch.tensor([[[1.0], [2.0], [4.0], [100.0]], [[7.0], [8.0], [50.0], [50.0]]])
    mask = torch.tensor([[False, True, True, False], [True, False, False, False]])
    assert pooled_mean(hidden, mask).tolist() == [[3.0], [7.0]]  # (2 + 4) / 2, and 7 / 1


def test_a_solution_without_tokens_has_the_mean_zero():
    assert pooled_mean(torch.ones(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool)).tolist() == [[0.0, 0.0]]


def test_bfloat16_is_pooled_in_float32():
    hidden = torch.tensor([[[256.0], [1.0]]], dtype=torch.bfloat16)  # bfloat16 has no 257
    assert pooled_mean(hidden, torch.ones(1, 2, dtype=torch.bool)).item() == 128.5


def test_the_head_has_two_residual_elu_layers_and_a_logit():
    head = EncoderHead(2)
    with torch.no_grad():
        head.layers[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        head.layers[1].weight.copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        head.logit.weight.copy_(torch.tensor([[1.0, 2.0]]))
        for layer in (*head.layers, head.logit):
            layer.bias.fill_(0.5)
    # x = (1, 2). Layer 1: x + elu(1.5, -1.5) = (2.5, 1 + exp(-1.5)). Layer 2: + elu(1.5 + exp(-1.5), 0.5).
    decay = torch.tensor(-1.5).exp().item()
    first, second = 2.5 + 1.5 + decay, 1 + decay + 0.5
    assert head(torch.tensor([[1.0, 2.0]])).item() == pytest.approx(first + 2 * second + 0.5)


def test_padding_does_not_change_a_logit():
    torch.manual_seed(0)
    network = EncoderNetwork(Lookup(), 2)
    alone = network(torch.tensor([[5, 6, 7]]), torch.ones(1, 3), torch.tensor([[False, True, True]]))
    padded = network(
        torch.tensor([[5, 6, 7, 0, 0], [1, 2, 3, 4, 5]]),
        torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]),
        torch.tensor([[False, True, True, False, False], [False, False, False, True, True]]),
    )
    assert padded[0].item() == pytest.approx(alone[0].item(), abs=1e-6)


def test_the_first_token_of_the_solution_counts():
    torch.manual_seed(0)
    network = EncoderNetwork(Lookup(), 2)
    mask = torch.tensor([[False, True, True]])
    one, other = (network(torch.tensor([[5, first, 7]]), torch.ones(1, 3), mask).item() for first in (6, 9))
    assert one != pytest.approx(other, abs=1e-3)
    ignored = network(torch.tensor([[8, 6, 7]]), torch.ones(1, 3), mask).item()  # a trunk without context: the question
    assert ignored == pytest.approx(one, abs=1e-6)
