"""The methods of training: what each loads, adds to the model, sees of the data, and minimises.

From "Turning Dust into Gold" (arXiv 2312.12832): NAT, Negative Assistant Training; NCE, Negative Calibrated
Enhancement; and the baselines they are compared with. To add a method: an entry in METHODS. Its flags, checks, report
and model card follow from the entry.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from algorithms.lessons import View, contrasted, one_per_sample
from algorithms.losses.batch import LossBatch, LossOutput, NumItems
from algorithms.losses.contrastive import contrastive
from algorithms.losses.likelihood import likelihood, negative_training, unlikelihood
from algorithms.losses.negative_calibrated import Direction, Granularity, Teacher, negative_calibrated
from algorithms.losses.orpo import orpo
from algorithms.micro_batches import collate
from algorithms.nat import NatConfig, inject_nat, load_negative, nat_mode

# A micro-batch as the data loader makes it; see `actors.training.batches.collate` for names and shapes.
Inputs: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class AdapterPlan:
    """What is added to the base model. `negative` and `nat` are folders of earlier adapters."""

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    gate_dim: int = 128
    negative: str | None = None
    nat: str | None = None


@dataclass(frozen=True, slots=True)
class LossOptions:
    """The numbers in the losses (ORPO: arXiv 2403.07691; the others: arXiv 2312.12832 and its released code)."""

    negative_weight: float = 0.05
    """NT and UL: the weight of wrong solutions."""
    cl_temperature: float = 0.1
    likelihood_weight: float = 1.0
    """CL: the weight of the likelihood of right solutions."""
    orpo_lambda: float = 0.1
    kd_direction: Direction = "neg_nat"
    kd_granularity: Granularity = "sequence"
    kd_temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class Method:
    """One way to train.

    `equation` defines the loss and the metrics for readers of reports. The loss is a mean over what the method
    `counts`. `settings` names the flags that only some methods have, and `needs` the adapters that the method starts
    from. A view that `needs_partners` must see all solutions of a question at once. `model_class` loads the base model
    (`from_pretrained`, `from_config`), `build` adds what is trained, and `collate` makes micro-batches of examples.
    """

    what: str
    equation: str
    view: View
    build: Callable[[nn.Module, AdapterPlan], nn.Module]
    loss: Callable[[nn.Module, Inputs, LossOptions, NumItems], LossOutput]
    counts: Literal["tokens", "examples"] = "tokens"
    settings: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    needs_partners: bool = False
    model_class: Any = AutoModelForCausalLM
    collate: Callable[[Sequence[dict[str, Any]], Sequence[int], int], dict[str, Tensor]] = collate

    @property
    def own_settings(self) -> tuple[str, ...]:
        """The flags that only some methods have."""
        return (*self.needs, *self.settings)

    def num_items(self, inputs: Inputs) -> int:
        """The number of items in a micro-batch."""
        if self.counts == "tokens":
            return int(inputs["mask"].sum())
        return len(set(inputs["group"].tolist()))


def build_lora(base: nn.Module, plan: AdapterPlan) -> PeftModel:
    """The base with an ordinary LoRA."""
    config = LoraConfig(
        r=plan.r,
        lora_alpha=plan.alpha,  # type: ignore[arg-type]  # PEFT divides by r and accepts any number
        lora_dropout=plan.dropout,
        target_modules=list(plan.targets),
        task_type="CAUSAL_LM",
    )
    return _peft(base, config)


def build_nat(base: nn.Module, plan: AdapterPlan) -> PeftModel:
    """The base with NAT over a frozen negative LoRA. Without one, the negative side is zero and stays zero."""
    model = _peft(base, _nat_config(plan))
    if plan.negative is not None:
        load_negative(model, plan.negative)
    return model


def build_double(base: nn.Module, plan: AdapterPlan) -> PeftModel:
    """The base with NAT's layers. Both of its LoRAs start fresh and train on right solutions."""
    return _peft(base, _nat_config(plan, train_negative=True))


def build_student(base: nn.Module, plan: AdapterPlan) -> PeftModel:
    """The base with a fresh LoRA for the student over a frozen NAT for the teacher: one base for all."""
    assert plan.nat is not None, "the command checks its flags"
    return build_lora(inject_nat(base, plan.nat), plan)


def _nat_config(plan: AdapterPlan, train_negative: bool = False) -> NatConfig:
    return NatConfig(
        r=plan.r,
        lora_alpha=plan.alpha,
        lora_dropout=plan.dropout,
        target_modules=list(plan.targets),
        gate_dim=plan.gate_dim,
        train_negative=train_negative,
        task_type="CAUSAL_LM",
    )


def _peft(base: Any, config: Any) -> PeftModel:
    model = get_peft_model(base, config)
    assert isinstance(model, PeftModel), "PEFT mixes types only when told to"
    return model


def forward(model: nn.Module, inputs: Inputs) -> Tensor:
    """Logits [N, T, V] of a micro-batch."""
    logits: Tensor = model(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
    ).logits
    return logits


def loss_batch(inputs: Inputs) -> LossBatch:
    """The part of a micro-batch that the losses read."""
    return LossBatch(inputs["targets"], inputs["mask"], inputs["is_right"], inputs["group"])


def _likelihood(model: nn.Module, inputs: Inputs, options: LossOptions, num_items: NumItems) -> LossOutput:
    return likelihood(forward(model, inputs), loss_batch(inputs), num_items=num_items)


def _negative_training(model: nn.Module, inputs: Inputs, options: LossOptions, num_items: NumItems) -> LossOutput:
    return negative_training(
        forward(model, inputs), loss_batch(inputs), weight=options.negative_weight, num_items=num_items
    )


def _unlikelihood(model: nn.Module, inputs: Inputs, options: LossOptions, num_items: NumItems) -> LossOutput:
    return unlikelihood(forward(model, inputs), loss_batch(inputs), weight=options.negative_weight, num_items=num_items)


def _contrastive(model: nn.Module, inputs: Inputs, options: LossOptions, num_items: NumItems) -> LossOutput:
    return contrastive(
        forward(model, inputs),
        loss_batch(inputs),
        temperature=options.cl_temperature,
        likelihood_weight=options.likelihood_weight,
        num_items=num_items,
    )


def _orpo(model: nn.Module, inputs: Inputs, options: LossOptions, num_items: NumItems) -> LossOutput:
    return orpo(forward(model, inputs), loss_batch(inputs), odds_weight=options.orpo_lambda, num_items=num_items)


def _negative_calibrated(model: nn.Module, inputs: Inputs, options: LossOptions, num_items: NumItems) -> LossOutput:
    logits = forward(model, inputs)
    return negative_calibrated(
        logits,
        loss_batch(inputs),
        teach(model, inputs, options),
        direction=options.kd_direction,
        granularity=options.kd_granularity,
        temperature=options.kd_temperature,
        num_items=num_items,
    )


@torch.no_grad()
def teach(model: nn.Module, inputs: Inputs, options: LossOptions) -> Teacher:
    """The teacher's side of NCE: precomputed values, and forward passes over the same base model for the rest.

    The model is in eval mode during these passes. With dropout, p and m would differ by noise, and beta would measure
    that noise.
    """
    peft_model: Any = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    disabled = peft_model.disable_adapter() if isinstance(peft_model, PeftModel) else nullcontext()
    beta, topk_ids = inputs.get("beta"), inputs.get("topk_ids")
    nat_logits = neg_logits = None
    with disabled, _eval_mode(peft_model):
        if topk_ids is None:
            with nat_mode(peft_model, "mix"):
                nat_logits = forward(peft_model, inputs)
        if beta is None:
            with nat_mode(peft_model, "neg"):
                neg_logits = forward(peft_model, inputs)
    return Teacher(
        nat_logits=nat_logits,
        neg_logits=neg_logits,
        beta=beta,
        topk_ids=topk_ids,
        topk_logprobs=inputs.get("topk_logprobs"),
        topk_temperature=options.kd_temperature,
    )


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module into eval mode, then restore each module's previous mode."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training


RIGHT: Final = one_per_sample(True)
BOTH: Final = one_per_sample(True, False)
NUM_WRONG: Final = 3

LIKELIHOOD: Final = "loss = mean over tokens of -log p; accuracy: the share of tokens that are the most likely ones"

METHODS: Final = MappingProxyType(
    {
        "sft": Method(
            "likelihood of right solutions; on graded samples: CoT KD", LIKELIHOOD, RIGHT, build_lora, _likelihood
        ),
        "orpo": Method(
            "chosen against rejected, or right against wrong, by odds ratio",
            "loss = nll_chosen - orpo_lambda * log sigmoid(log_odds_ratio), mean over pairs; nll per token; "
            "accuracy: the share of pairs in which the chosen one is more likely",
            contrasted(1, use_rejected=True),
            build_lora,
            _orpo,
            "examples",
            settings=("orpo_lambda",),
            needs_partners=True,
        ),
        "negative": Method(
            "likelihood of wrong solutions: LoRA_neg", LIKELIHOOD, one_per_sample(False), build_lora, _likelihood
        ),
        "nat": Method(
            "right solutions over a frozen LoRA_neg",
            LIKELIHOOD,
            RIGHT,
            build_nat,
            _likelihood,
            settings=("gate_dim",),
            needs=("negative",),
        ),
        "nce": Method(
            "NAT distilled into a LoRA",
            "loss = 0.5 nll + 0.5 kd, mean over tokens; kd: cross-entropy with the teacher, both at kd_temperature, "
            "times its square and 0.5 + beta",
            RIGHT,
            build_student,
            _negative_calibrated,
            settings=("kd_direction", "kd_granularity", "kd_temperature", "precompute", "top_k"),
            needs=("nat",),
        ),
        "mix": Method("likelihood of right and wrong solutions", LIKELIHOOD, BOTH, build_lora, _likelihood),
        "nt": Method(
            "likelihood of right solutions minus that of wrong ones",
            "loss = nll_right - negative_weight * nll_wrong, sums over the tokens of both, over their number; "
            "right_tokens: the share of tokens of right solutions",
            BOTH,
            build_lora,
            _negative_training,
            settings=("negative_weight",),
        ),
        "ul": Method(
            "likelihood of right solutions, unlikelihood of wrong ones",
            "loss = nll_right + negative_weight * unlikelihood_wrong, sums over the tokens of both, over their number; "
            "right_tokens: the share of tokens of right solutions",
            BOTH,
            build_lora,
            _unlikelihood,
            settings=("negative_weight",),
        ),
        "cl": Method(
            "a right solution against wrong ones, by InfoNCE",
            "loss = cl_temperature * info_nce + likelihood_weight * nll, mean over right solutions; info_nce of "
            "log-likelihoods per token over cl_temperature; accuracy: the share that is likelier than every wrong one",
            contrasted(NUM_WRONG),
            build_lora,
            _contrastive,
            "examples",
            settings=("cl_temperature", "likelihood_weight"),
            needs_partners=True,
        ),
        "nat-zero": Method(
            "control: NAT with a negative side of zero",
            LIKELIHOOD,
            RIGHT,
            build_nat,
            _likelihood,
            settings=("gate_dim",),
        ),
        "nat-double": Method(
            "control: NAT with two LoRAs on right solutions",
            LIKELIHOOD,
            RIGHT,
            build_double,
            _likelihood,
            settings=("gate_dim",),
        ),
    }
)
OWN_SETTINGS: Final = frozenset(name for method in METHODS.values() for name in method.own_settings)
