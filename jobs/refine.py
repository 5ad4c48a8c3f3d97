"""Refine a corpus of reasoning chains: steps whose removal does not raise perplexity go.

    python -m jobs.refine --input ../shared/data/gsm8k/train.jsonl --format gsm8k --limit 64 --output runs/gsm8k

Reads, refines and writes as a stream on Ray, on the cluster of RAY_ADDRESS or a local one. Every input row
gets one terminal record in OUTPUT/rows. A run that stops goes on with the same command. SPIRIT-FT is
described in `algorithms.refinement`.
"""

import bisect
import dataclasses
import itertools
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import Field, model_validator

from actors.corpus import Corpus
from actors.models import check_model
from actors.records import RecordStore, Totals
from actors.refiner import Refiner
from actors.scorer_protocol import Scorer
from algorithms.perplexity import Scope
from algorithms.refinement import RECIPES, Policy, Reference, Unmerged
from jobs.driver import command, inputs, pipeline
from jobs.driver.command import UserError
from jobs.driver.pipeline import Pipeline, PipelineConfig, Stream, ray_for, resolve_dtype, stream_through_actors
from jobs.driver.progress import Progress, RowsLine, clock

JOB: Final = "refine"
POLICY_FLAGS: Final = {  # flag -> field of Policy; a recipe sets the defaults of these
    "t1": "t1",
    "t2": "t2",
    "scope": "scope",
    "reference": "reference",
    "protect_answer": "protect_answer",
    "merge": "unmerged",
}


class RefineConfig(PipelineConfig):
    """Flags of `jobs.refine`."""

    format: Literal["steps", "gsm8k", "math", "chat", "text"] = "steps"
    """How to read a row. steps: question, steps, answer. gsm8k: question, answer. math: problem, solution.
    chat: messages. text: question, text and, if there, answer."""
    split: str | None = None
    """How math, chat and text are cut into steps: newline, paragraph, sentence or regex:PATTERN."""
    model: str = "smollm2"
    """Who scores: smollm2 (embedded), a model folder or a hub name. The strongest model at hand is best."""
    recipe: Literal["sluice", "digest"] = "sluice"
    """Defaults of the six flags that follow. digest: the decisions of the paper's digest."""
    t1: float = Field(default=RECIPES["sluice"].t1, gt=0)
    """A step goes if the perplexity without it is below t1 times the reference."""
    t2: float = Field(default=RECIPES["sluice"].t2, gt=0)
    """Refining ends when it is above t2 times the reference for every step."""
    scope: Scope = RECIPES["sluice"].scope
    """Which tokens count: completion (reasoning and answer), answer, full (the question too), or suffix
    (those behind the removed step, with and without it)."""
    reference: Reference = RECIPES["sluice"].reference
    """Perplexity to compare with: of the chain as it is now, or as it came."""
    protect_answer: bool = RECIPES["sluice"].protect_answer
    """Never remove the step that states the answer."""
    merge: Unmerged = RECIPES["sluice"].unmerged
    """What happens to a step between t1 and t2, which should be merged: drop it, stop refining the chain, or
    keep the step and look at the others (the same as stop while no model merges steps)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Weights and activations. auto: bfloat16 on a GPU, float32 on a CPU."""
    token_budget: int | None = Field(default=None, ge=64)
    """New tokens in one forward pass at most: 16384 on a GPU, 1024 on a CPU. Halves itself out of memory."""
    dry_run: int = Field(default=0, ge=0)
    """Refine only this many sampled rows, project time, tokens and cost of the corpus, keep nothing. 0 = off."""
    price_per_gpu_hour: float | None = Field(default=None, ge=0)
    """Dollars; with --dry-run and --gpus-per-actor the projection has a cost."""

    @model_validator(mode="after")
    def _check_together(self) -> "RefineConfig":
        self.policy()
        if self.price_per_gpu_hour is not None and not (self.dry_run and self.gpus_per_actor):
            raise ValueError("--price-per-gpu-hour needs --dry-run N and --gpus-per-actor")
        return self

    def policy(self) -> Policy:
        """The refinement policy of these flags. Raises ValueError where they contradict each other."""
        values = {part: getattr(self, flag) for flag, part in POLICY_FLAGS.items()}
        return dataclasses.replace(RECIPES[self.recipe], **values)


def recipe_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the chosen recipe sets where no flag does."""
    policy = RECIPES.get(given["recipe"], Policy())
    return {flag: getattr(policy, part) for flag, part in POLICY_FLAGS.items()}


@dataclass(frozen=True)
class ModelScorer:
    """Makes the scorer inside an actor, where torch is imported."""

    model: str
    device: str
    dtype: str
    token_budget: int | None
    num_threads: int | None

    def __call__(self) -> Scorer:
        """Load the model."""
        from actors.scorer import ForestScorer

        return ForestScorer(
            self.model,
            device=self.device,
            dtype=self.dtype,
            token_budget=self.token_budget,
            num_threads=self.num_threads,
        )


def main() -> None:
    """Entry point of `python -m jobs.refine`."""
    command.main(RefineConfig, run, __doc__ or "", recipe_defaults)


def run(config: RefineConfig, make_scorer: Callable[[], Scorer] | None = None) -> int:
    """Refine, or go on refining; the exit status. `make_scorer` replaces the model (tests, other scorers)."""
    corpus = inputs.open_corpus(
        config.input, config.format, config.columns, config.split, config.id_column, config.limit
    )
    dtype = resolve_dtype(config.dtype, config.device)
    try:
        model = check_model(config.model, offsets=True) if make_scorer is None else {"model": repr(make_scorer)}
    except ValueError as error:
        raise UserError(str(error)) from None
    if make_scorer is None:
        make_scorer = ModelScorer(config.model, config.device, dtype, config.token_budget, config.threads_per_actor)
    policy = config.policy()
    stream = stream_through_actors(config, Refiner, lambda output, session: (make_scorer, policy, output, session))
    if config.dry_run:
        return _dry_run(config, corpus, stream)
    identity = {"model": {**model, "dtype": dtype}, "policy": dataclasses.asdict(policy)}
    doing = f"refining with {model['model']}"
    return pipeline.run(Pipeline(JOB, config, corpus, identity, doing, stream, _tokens_saved))


def _tokens_saved(totals: Totals) -> list[str]:
    original, refined = (totals.sums[name] for name in ("tokens_original", "tokens_refined"))
    return [f"{original - refined:,} tokens saved ({(original - refined) / original:.1%})"] if original else []


def _dry_run(config: RefineConfig, corpus: Corpus, stream: Stream) -> int:
    """Refine a sample into a folder that is thrown away, and project it onto the corpus."""
    output = pipeline.open_output(config.output)
    counts = inputs.count_rows_by_file(corpus)
    rows = counts.total
    sample = _sample(corpus, counts, config.dry_run)
    scratch = output.parent / f".{output.name}.dry-run-{os.getpid()}"
    try:
        scratch.make_folder()
    except OSError as error:
        raise UserError(f"cannot write beside output {config.output}: {error.strerror or error}") from None
    store = RecordStore(scratch / "rows")
    try:
        with ray_for(config), Progress(RowsLine(store, inputs.RowCount(config.dry_run, is_exact=True), _tokens_saved)):
            started = time.time()
            stream(sample, config.dry_run, scratch, "dry-run")
            seconds = time.time() - started
        print(_projection(config, rows, store.totals(), seconds))
    finally:
        scratch.delete_folder()
    return 0


def _sample(corpus: Corpus, counts: inputs.FileCounts, size: int) -> Corpus:
    """The corpus with only `size` rows of it, chosen evenly at random with a fixed seed."""
    num_rows = counts.total.num_rows
    positions = random.Random(0).sample(range(num_rows), min(size, num_rows))
    chosen: dict[int, set[int]] = {}
    starts = list(itertools.accumulate(counts.num_rows, initial=0))
    for position in positions:
        file = bisect.bisect_right(starts, position) - 1
        chosen.setdefault(file, set()).add(position - starts[file])
    frozen = {file: frozenset(rows) for file, rows in chosen.items()}
    return dataclasses.replace(corpus, chosen=frozen, limit=None)


def _projection(config: RefineConfig, rows: inputs.RowCount, totals: Totals, seconds: float) -> str:
    """What the whole corpus would take, from the model seconds of a sample."""
    seconds_forward = totals.sums["forward_seconds"]
    sampled = max(1, totals.num_rows)
    scale = rows.num_rows / sampled
    actors = config.actor_range[1]
    # Start-up happens once: project the time models computed, not the time that passed.
    projected = seconds_forward * scale / actors
    start_up = max(0.0, seconds - seconds_forward / actors)
    original = totals.sums["tokens_original"]
    saved = original - totals.sums["tokens_refined"]
    about = "" if rows.is_exact else "about "
    lines = [
        f"dry run: {totals.num_rows:,} of {about}{rows.num_rows:,} rows in {seconds:.1f} s "
        f"({totals.statuses['refined']} refined, {totals.statuses['quarantined']} quarantined)",
        f"projected time      {clock(projected + start_up)} with {actors} actor(s), "
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
