"""Refine a corpus: remove the reasoning steps whose removal does not raise perplexity, or merge them.

    python -m jobs.refine --input examples/gsm8k.jsonl --format gsm8k --output runs/refined

Reads, refines and writes as a stream on Ray, on the cluster at RAY_ADDRESS or on a local one. Every input row gets one
terminal record in OUTPUT/rows. Repeat the command to resume a run. `algorithms.refinement` describes the method,
SPIRIT-FT (arXiv 2502.13260).
"""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from actors.errors import UserError
from actors.merging.build import MakeMerger
from actors.models.checks import check_model
from actors.models.source import resolve_dtype
from actors.refiner import Refiner, RefinerOptions, rows_at_once
from actors.runs.corpus import Corpus
from actors.runs.folder import RunFolder, open_run_folder
from actors.runs.record_kinds import REFINEMENT
from actors.runs.records import RecordStore
from actors.runs.session import begin_session
from actors.runs.totals import Totals
from actors.scoring.build import ForestScorerFactory, default_token_budget
from actors.scoring.protocol import Scorer
from algorithms.formats import formats_for
from algorithms.perplexity import Scope
from algorithms.refinement.policy import RECIPES, Criterion, Policy, Reference, Unmerged
from algorithms.refinement.refine import CRITERIA
from jobs.driver import cluster, command, corpus_run, inputs, reading
from jobs.driver.command import choice, listed
from jobs.driver.corpus_run import (
    CorpusConfig,
    CorpusRun,
    Pool,
    format_help,
    ray_for,
    stream,
)
from jobs.driver.merge_flags import MergeFlags
from jobs.driver.progress import Progress, RowsLine
from jobs.reports.parts import clock

JOB: Final = "refine"
DRY_RUN: Final = "dry-run"  # its session
POLICY_FLAGS: Final = (  # fields of Policy; a recipe sets their defaults
    "t1",
    "t2",
    "scope",
    "reference",
    "protect_answer",
    "keep_used",
    "unmerged",
)
THRESHOLDS: Final = ("t1", "t2")


class RefineConfig(MergeFlags, CorpusConfig):
    """Flags of `jobs.refine`."""

    format: Annotated[str, choice(formats_for("refine"))] = Field(default="steps", description=format_help("refine"))
    split: str | None = None
    """How to split texts (formats math, chat and text) into steps: newline, paragraph, sentence or regex:PATTERN. No
    split cuts through formulas, code, tables or lists that form one sentence."""
    model: str = "smollm2"
    """The model that scores: smollm2 (embedded), a model folder or a hub name. Stronger models score better."""
    criterion: Criterion = Field(
        default="spirit",
        description=listed(
            "What decides which step goes.", {name: each.description for name, each in CRITERIA.items()}
        ),
    )
    recipe: Literal["sluice", "digest"] = "sluice"
    """Defaults of the next seven flags. digest makes the decisions of the paper's published digest."""
    t1: float = Field(default=RECIPES["sluice"].t1, gt=0)
    """Remove a step if the perplexity without it is below t1 times the reference."""
    t2: float = Field(default=RECIPES["sluice"].t2, gt=0)
    """Stop refining a chain if, for every step, the perplexity without it is above t2 times the reference."""
    scope: Scope = RECIPES["sluice"].scope
    """Tokens that perplexity counts: completion (reasoning and answer), suffix (those after the removed step, with and
    without it), answer (the step that states it), or full (the question too)."""
    reference: Reference = RECIPES["sluice"].reference
    """Compare with the perplexity of the current chain, or of the original one."""
    protect_answer: bool = RECIPES["sluice"].protect_answer
    """Never remove the step that states the answer."""
    keep_used: bool = RECIPES["sluice"].keep_used
    """Never remove a step that first states a number, name or symbol that a later step uses. Default: on with criterion
    spirit, off with its rivals."""
    unmerged: Unmerged = RECIPES["sluice"].unmerged
    """What to do with a step between t1 and t2, which should be merged, if no model merges it: drop the step, stop
    refining the chain, or keep the step and go on with the others."""
    remove_ratio: float | None = None
    """Remove this share of the steps of each chain, those that the criterion rates lowest, instead of comparing with t1
    and t2."""
    control: int = Field(default=0, ge=0)
    """Refine about this many of the rows a second time, removing as many steps at random, and report both. 0: off."""
    seed: int = 0
    """Of what is random: criterion random, and the control."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of weights and activations. auto: bfloat16 on a GPU, float32 on a CPU."""
    token_budget: int | None = Field(default=None, ge=64)
    """Maximum of new tokens in a forward pass. Default: 16384 on a GPU, 1024 on a CPU. Halved if memory runs out."""
    dry_run: int = Field(default=0, ge=0)
    """Refine only this many random rows, project time, tokens and cost of the whole corpus, keep nothing. 0: off."""
    price_per_gpu_hour: float | None = Field(default=None, ge=0)
    """Dollars. With --dry-run and --gpus-per-actor, the projection includes the cost."""

    @model_validator(mode="after")
    def _check_together(self) -> "RefineConfig":
        self._check_criterion()
        self.policy()
        if self.gpus_per_actor > 1:
            raise ValueError(
                f"--gpus-per-actor {self.gpus_per_actor:g}: a scorer computes on one GPU. "
                "For more GPUs, raise --num-actors"
            )
        if self.price_per_gpu_hour is not None and not (self.dry_run and self.gpus_per_actor):
            raise ValueError("--price-per-gpu-hour needs --dry-run N and --gpus-per-actor")
        return self

    def _check_criterion(self) -> None:
        given = [name for name in THRESHOLDS if getattr(self, name) != getattr(RECIPES[self.recipe], name)]
        if self.remove_ratio is not None and given:
            raise ValueError(f"--remove-ratio takes the place of thresholds: leave out --{given[0]}")
        if self.criterion != "spirit" and self.recipe != "sluice":
            raise ValueError(f"--recipe {self.recipe} belongs to --criterion spirit, not {self.criterion}")
        if self.control and self.criterion == "random":
            raise ValueError("--control compares with --criterion random: use another criterion")

    def policy(self) -> Policy:
        """The refinement policy of these flags. Raises ValueError if they contradict each other."""
        values = {name: getattr(self, name) for name in POLICY_FLAGS}
        return dataclasses.replace(
            RECIPES[self.recipe],
            criterion=self.criterion,
            remove_ratio=self.remove_ratio,
            ask_merger=self.merge != "none",
            seed=self.seed,
            **values,
        )


def recipe_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that the chosen recipe and criterion set."""
    policy = RECIPES.get(given["recipe"], Policy())
    defaults = {name: getattr(policy, name) for name in POLICY_FLAGS}
    if given["criterion"] != "spirit":
        defaults |= {"keep_used": False, "scope": "answer" if given["criterion"] == "pir" else "completion"}
    return defaults


def main() -> None:
    """Entry point of `python -m jobs.refine`."""
    command.main(RefineConfig, run, __doc__ or "", recipe_defaults)


def run(
    config: RefineConfig,
    make_scorer: Callable[[], Scorer] | None = None,
    make_merger: MakeMerger | None = None,
) -> int:
    """Refine, or resume refining. Returns the exit status.

    `make_scorer` replaces the model's scorer, and `make_merger` the merger that the flags name.
    """
    corpus = inputs.open_corpus(
        config.input, config.format, config.columns, config.split, config.id_column, config.limit
    )
    dtype = resolve_dtype(config.dtype, config.device)
    checked = None
    if make_scorer is None:
        checked = check_model(config.model, offsets=True)
        model = checked.identity
        make_scorer = ForestScorerFactory(
            checked.source, config.device, dtype, config.token_budget, config.threads_per_actor
        )
    else:
        model = {"model": repr(make_scorer)}
    policy = config.policy()
    merger, merger_identity = config.merger(checked, config.device, dtype, config.threads_per_actor)
    token_budget = config.token_budget or default_token_budget(config.device)
    share = min(1.0, config.control / max(1, inputs.estimate_rows(corpus).num_rows))
    how = RefinerOptions(policy, share, make_merger or merger, config.num_merging)
    pool = Pool(
        Refiner,
        REFINEMENT,
        lambda output, session: (make_scorer, how, output, session),
        rows_at_once(token_budget, config.num_merging),
    )
    if config.dry_run:
        return _dry_run(config, config.dry_run, corpus, pool)
    identity = {
        "model": {**model, "dtype": dtype},
        "policy": dataclasses.asdict(policy),
        "control": config.control,
        "merger": merger_identity,
    }
    doing = f"refining with {model['model']}"
    folder = Path(config.model).expanduser()
    seen = (("--model", str(folder.resolve())),) if folder.is_dir() else ()
    return corpus_run.run(CorpusRun(JOB, config, corpus, identity, doing, pool, _tokens_saved, seen))


def _tokens_saved(totals: Totals) -> list[str]:
    original, refined = (totals.sums[name] for name in ("tokens_original", "tokens_refined"))
    return [f"{original - refined:,} tokens saved ({(original - refined) / original:.1%})"] if original else []


def _dry_run(config: RefineConfig, size: int, corpus: Corpus, pool: Pool) -> int:
    """Refine a sample of `size` rows into a temporary folder, and project the result onto the corpus."""
    output = open_run_folder(config.output).root
    rows = inputs.estimate_rows(corpus)
    scratch = RunFolder(output.parent / f".{output.name}.dry-run-{os.getpid()}")
    try:
        scratch.root.make_folder()
    except OSError as error:
        raise UserError(f"cannot write beside output {config.output}: {error.strerror or error}") from None
    store = RecordStore(scratch)
    begin_session(scratch, DRY_RUN)
    try:
        with ray_for(config) as ask:
            started = time.time()
            parts = reading.plan_reading(corpus)
            if all(part.num_rows is not None for part in parts):
                rows = inputs.RowCount(sum(part.num_rows or 0 for part in parts), is_exact=True)
            sample = reading.sample_rows(parts, rows.num_rows, size)
            line = RowsLine(store, inputs.RowCount(size, is_exact=True), DRY_RUN, _tokens_saved)
            with Progress(line):
                stream(config, pool, corpus, sample, size, scratch, DRY_RUN)
            seconds = time.time() - started
            actors = min(config.actor_range[1], max(config.actor_range[0], cluster.num_placeable(ask)))
        print(_projection(config, rows, store.totals(), seconds, actors))
    finally:
        scratch.root.delete_folder()
    return 0


def _projection(config: RefineConfig, rows: inputs.RowCount, totals: Totals, seconds: float, actors: int) -> str:
    """The cost of the whole corpus on `actors` actors, from the model seconds of a sample."""
    seconds_forward = totals.sums["forward_seconds"]
    sampled = max(1, totals.num_rows)
    scale = rows.num_rows / sampled
    # Start-up happens once, so project the models' computing time, not the elapsed time.
    projected = seconds_forward * scale / actors
    start_up = max(0.0, seconds - seconds_forward / actors)
    original = totals.sums["tokens_original"]
    saved = original - totals.sums["tokens_refined"]
    about = "" if rows.is_exact else "about "
    most = config.actor_range[1]
    fewer = f", as many of {most} as the cluster has room for now" if actors < most else ""
    lines = [
        f"dry run: {totals.num_rows:,} of {about}{rows.num_rows:,} rows in {seconds:.1f} s "
        f"({totals.statuses['refined']} refined, {totals.statuses['quarantined']} quarantined)",
        f"projected time      {clock(projected + start_up)} with {actors} actor(s){fewer}, "
        f"of which start-up {clock(start_up)}",
        f"tokens to score     {totals.sums['tokens_scored'] * scale:,.0f}",
        f"tokens to save      {saved * scale:,.0f} ({saved / max(1, original):.1%} of the reasoning)",
    ]
    if config.price_per_gpu_hour is not None:
        hours = (projected + start_up) / 3600 * actors * config.gpus_per_actor
        lines.append(f"projected cost      ${hours * config.price_per_gpu_hour:,.2f} for {hours:,.2f} GPU hours")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
