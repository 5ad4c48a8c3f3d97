"""Computes the teacher's side of NCE once, for all epochs: beta, and the teacher's most likely tokens.

NCE is Negative Calibrated Enhancement (arXiv 2312.12832). The values go into the examples. Training then runs one
forward pass less with beta, and two less with the most likely tokens.
"""

from typing import Any, Final

import pyarrow as pa
import torch

from actors.training.examples import EXAMPLE_SCHEMA
from actors.training.trainer import TrainingPlan
from algorithms.losses.negative_calibrated import calibration, top_k
from algorithms.methods import METHODS, forward
from algorithms.nat import inject_nat, nat_mode

TOKENS_PER_PASS: Final = 4096


class Teacher:
    """The callable that fills in beta and, with `num_kept`, the most likely tokens, in tables of EXAMPLE_SCHEMA."""

    def __init__(self, plan: TrainingPlan, num_kept: int) -> None:
        assert plan.adapter.nat is not None, "the command checks its flags"
        if plan.num_threads:
            torch.set_num_threads(plan.num_threads)
        self._method = METHODS[plan.method]
        base = plan.model.load(plan.dtype, self._method.model_class)
        self._model = inject_nat(base, plan.adapter.nat).to(plan.device).eval()
        self._plan = plan
        self._num_kept = num_kept
        self._pad_id = plan.model.pad_id

    def __call__(self, table: pa.Table) -> pa.Table:
        """The same table with the teacher's values."""
        rows = table.to_pylist()
        order = sorted(
            (n for n, row in enumerate(rows) if row["part"] != "unused"), key=lambda n: rows[n]["num_tokens"]
        )
        while order:
            size = max(1, TOKENS_PER_PASS // rows[order[-1]]["num_tokens"])
            order, some = order[:-size], order[-size:]
            self.teach([solution for number in some for solution in rows[number]["solutions"]])
        return pa.Table.from_pylist(rows, schema=EXAMPLE_SCHEMA)

    @torch.no_grad()
    def teach(self, solutions: list[dict[str, Any]]) -> None:
        """Fill in the teacher's values of some solutions, in one pass."""
        options = self._plan.options
        examples = [{"solutions": [solution]} for solution in solutions]
        inputs = {
            name: each.to(self._plan.device)
            for name, each in self._method.collate(examples, range(len(examples)), self._pad_id).items()
        }
        mask = inputs["mask"]
        with nat_mode(self._model, "mix"):
            nat_logits = forward(self._model, inputs)
        with nat_mode(self._model, "neg"):
            neg_logits = forward(self._model, inputs)
        beta = calibration(nat_logits, neg_logits, mask, options.kd_direction, options.kd_granularity)
        kept = top_k(nat_logits, self._num_kept, options.kd_temperature) if self._num_kept else None
        for row, solution in enumerate(solutions):
            by_token = beta[row][mask[row]] if beta.dim() == 2 else beta[row : row + 1]
            solution["beta"] = by_token.tolist()
            if kept is not None:
                for name, values in zip(("topk_ids", "topk_logprobs"), kept, strict=True):
                    solution[name] = values[row][mask[row]].flatten().tolist()
