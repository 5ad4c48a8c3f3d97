"""Computes the teacher's side of NCE once, for all epochs: how strongly to teach, and the likeliest tokens.

NCE is Negative Calibrated Enhancement (arXiv 2312.12832). The numbers go into the examples, so that training runs one
forward less for beta, two less with the likeliest tokens.
"""

from typing import Any, Final

import pyarrow as pa
import torch
from transformers import AutoModelForCausalLM

from actors.adapter_trainer import TrainingPlan, pad_id
from actors.batches import collate
from actors.examples import EXAMPLE_SCHEMA
from actors.models import resolve_model
from algorithms.losses.negative_calibrated import calibration, top_k
from algorithms.methods import forward
from algorithms.nat import inject_nat, nat_mode

TOKENS_PER_PASS: Final = 4096


class Teacher:
    """The callable over tables of EXAMPLE_SCHEMA that fills in beta and, with `num_kept`, the likeliest tokens."""

    def __init__(self, plan: TrainingPlan, num_kept: int) -> None:
        assert plan.adapter.nat is not None, "checked with the flags"
        if plan.num_threads:
            torch.set_num_threads(plan.num_threads)
        base: Any = AutoModelForCausalLM.from_pretrained(resolve_model(plan.model), dtype=getattr(torch, plan.dtype))
        self._model = inject_nat(base, plan.adapter.nat).to(plan.device).eval()
        self._plan = plan
        self._num_kept = num_kept
        self._pad_id = pad_id(plan.model)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The same table, taught."""
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
        """Fill in what the teacher says of some solutions, in one pass."""
        options = self._plan.options
        examples = [{"solutions": [solution]} for solution in solutions]
        inputs = {
            name: each.to(self._plan.device)
            for name, each in collate(examples, range(len(examples)), self._pad_id).items()
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
