"""Losses of the head against cross entropy over whole logits, in float32 whatever the head's type."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from actors.scoring import head
from actors.scoring.head import LossHead, join_rows, want_losses
from algorithms.prefix_forest import build_forest

ROWS = [0, 0, 1, 3, 3, 3, 4]
TOKENS = [0, 39, 12, 5, 6, 20, 39]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("logit_bytes", "weight_bytes"), [(1 << 20, 1 << 20), (4 * 40 * 2, 4 * 8 * 7)])
def test_losses_are_those_of_float32_logits(monkeypatch, dtype, bias, logit_bytes, weight_bytes):
    monkeypatch.setitem(head.LOGIT_BYTES, "cpu", logit_bytes)  # the small ones: 2 rows, 7 tokens at once
    monkeypatch.setattr(head, "WEIGHT_BYTES", weight_bytes)
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 40, bias=bias).to(dtype)
    hidden = (30 * torch.randn(5, 8)).to(dtype)
    rows, tokens = np.array(ROWS), torch.tensor(TOKENS)
    with torch.inference_mode():
        found = LossHead(layer, 40).losses(hidden, rows, torch.from_numpy(rows), tokens)
        own_bias = layer.bias.double() if bias else 0
        logits = hidden.double() @ layer.weight.double().T + own_bias
        expected = functional.cross_entropy(logits[rows], tokens, reduction="none")
        rounded = functional.cross_entropy(layer(hidden).float()[rows], tokens, reduction="none")
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-4)
    assert found.dtype == torch.float32
    if dtype == torch.bfloat16:  # the head's own output would not have been enough
        assert (rounded - expected).abs().max() > 0.01


def test_another_kind_of_head_computes_its_own_logits():
    class Doubled(torch.nn.Linear):
        def forward(self, hidden):
            return 2 * super().forward(hidden)

    layer, hidden = Doubled(8, 40), torch.randn(5, 8)
    with torch.inference_mode():
        found = LossHead(layer, 40).losses(hidden, np.array(ROWS), torch.tensor(ROWS), torch.tensor(TOKENS))
        expected = functional.cross_entropy(layer(hidden)[ROWS], torch.tensor(TOKENS), reduction="none")
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-4)


def test_children_of_one_node_share_a_row():
    # Nodes 0 to 4 are the tokens 1, 2, 3, 4, 5: 1-2-3, 1-2-4 and 1-5.
    forest = build_forest([[1, 2, 3], [1, 2, 4], [1, 5]])
    wanted = want_losses(forest, kept=np.array([1, 0, 4]), nodes=np.array([2, 3, 4]))
    assert wanted.slots.tolist() == [1, 0]  # the places of the parents 0 and 1
    assert (wanted.nodes.tolist(), wanted.tokens.tolist()) == ([4, 2, 3], [5, 3, 4])
    assert wanted.rows.tolist() == [0, 1, 1]
    assert join_rows([wanted, wanted]).tolist() == [0, 1, 1, 2, 3, 3]
