"""Shorten the demonstrations of a few-shot prompt: remove the same step of all of them, the least needed one first.

    python -m jobs.demos --demos demos.jsonl --calibration corpora/nbc.jsonl --target-steps 9 --output runs/demos

Scores every candidate prompt by the perplexity of calibration solutions below it, on Ray. OUTPUT holds the shortened
prompt for `jobs.sample --few-shot`, every prompt on the way there, and paths that remove steps by chance. Repeat the
command to resume a run. `algorithms.demonstrations` describes the method, SPIRIT-FS (arXiv 2502.13260).
"""

import dataclasses
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from actors.errors import UserError
from actors.merging.build import MakeMerger
from actors.models.checks import check_model
from actors.models.source import ModelSource, resolve_dtype
from actors.runs import manifest
from actors.runs.corpus import Corpus
from actors.runs.folder import RunFolder, open_run_folder
from actors.runs.replies import Replies
from actors.runs.session import begin_session, check_session
from actors.scoring.build import ForestScorerFactory
from actors.scoring.protocol import Scorer
from algorithms import demonstrations
from algorithms.demonstrations import Aggregate, DemoPolicy, PromptRequest, shorten
from algorithms.formats import formats_for
from jobs.driver import cluster, command, demo_inputs, inputs
from jobs.driver.command import JobConfig, choice, command_line
from jobs.driver.corpus_run import ActorFlags, format_help, ray_for
from jobs.driver.demo_inputs import DemoInputs
from jobs.driver.demo_paths import Desk, drive
from jobs.driver.merge_flags import MergeFlags
from jobs.driver.progress import Progress
from jobs.driver.prompt_pool import PromptPool
from jobs.driver.prompts import prompt_style
from jobs.reports import page

JOB: Final = "demos"


class DemoFlags(JobConfig):
    """What is shortened, and how."""

    demos: str
    """The demonstrations: a file, folder or glob of JSONL or Parquet, a path or URI. All must have the same number of
    steps, with step j doing the same in each."""
    calibration: str
    """Solved problems whose solutions are scored below each candidate prompt: a path or URI."""
    output: str
    """Folder of the run, a path or URI. Repeat the command to resume an unfinished run."""
    format: Annotated[str, choice(formats_for("refine"))] = Field(
        default="steps", description=format_help("refine") + " For both inputs."
    )
    columns: dict[str, str] = Field(default_factory=dict)
    """Rename the format's columns, in pairs: --columns question prompt solution rationale."""
    split: str | None = None
    """How to split texts (formats math, chat and text) into steps: newline, paragraph, sentence or regex:PATTERN."""
    calibration_rows: int = Field(default=32, ge=1)
    """Number of calibration rows, the first that can be used: with an answer, and not among the demonstrations."""
    target_steps: int | None = Field(default=None, ge=1)
    """Steps of each demonstration at the end, the one with the answer included."""
    t2: float | None = Field(default=None, gt=0)
    """Stop before perplexity exceeds t2 times that of the full prompt."""
    aggregate: Aggregate = "tokens"
    """One perplexity of all calibration rows: the exponential of the mean loss over all their tokens, or the arithmetic
    mean of the perplexities of the rows."""
    calibration_loses_step: bool = False
    """Remove step j from the calibration solutions too, which must have the steps of the demonstrations."""
    control_paths: int = Field(default=10, ge=0)
    """Paths that remove random steps, for comparison. 0: none."""
    seed: int = 0
    """Seed of the random paths."""
    template: str = demonstrations.TEMPLATE
    """Text of a question with {question} in it, or a file with such a text. A solution follows, after a space unless
    the text ends in white space."""
    model: str = "smollm2"
    """The model that scores: smollm2 (embedded), a model folder or a hub name. Stronger models score better."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of weights and activations. auto: bfloat16 on a GPU, float32 on a CPU."""
    token_budget: int | None = Field(default=None, ge=64)
    """Maximum of new tokens in a forward pass. Default: 16384 on a GPU, 1024 on a CPU. Halved if memory runs out."""


class DemosConfig(MergeFlags, ActorFlags, DemoFlags):
    """Flags of `jobs.demos`."""

    @model_validator(mode="after")
    def _check_together(self) -> "DemosConfig":
        if self.target_steps is None and self.t2 is None:
            raise ValueError("--target-steps or --t2 is needed: they say when to stop")
        if self.gpus_per_actor > 1:
            raise ValueError(
                f"--gpus-per-actor {self.gpus_per_actor:g}: a scorer computes on one GPU. "
                "For more GPUs, raise --num-actors"
            )
        return self

    def policy(self) -> DemoPolicy:
        """The policy of these flags. Raises UserError for an unusable template."""
        template = prompt_style(self.template, "").template
        assert template is not None, "a template was given"
        return DemoPolicy(
            self.target_steps,
            self.t2,
            self.aggregate,
            self.calibration_loses_step,
            self.merge != "none",
            template,
        )


def main() -> None:
    """Entry point of `python -m jobs.demos`."""
    command.main(DemosConfig, run, __doc__ or "")


def run(
    config: DemosConfig,
    make_scorer: Callable[[], Scorer] | None = None,
    make_merger: MakeMerger | None = None,
) -> int:
    """Shorten, or resume shortening. Returns the exit status.

    `make_scorer` replaces the model's scorer, and `make_merger` the merger that the flags name.
    """
    corpora = {
        flag: inputs.open_corpus(uri, config.format, config.columns, config.split, None, None, flag=f"--{flag}")
        for flag, uri in (("demos", config.demos), ("calibration", config.calibration))
    }
    given = demo_inputs.read(
        corpora["demos"],
        corpora["calibration"],
        config.calibration_rows,
        align_calibration=config.calibration_loses_step,
    )
    policy = config.policy()
    full = _full_prompt(given, policy)
    dtype = resolve_dtype(config.dtype, config.device)
    checked = None
    if make_scorer is None:
        checked = check_model(config.model, offsets=True)
        _check_window(checked.source, full)
        model = checked.identity
        make_scorer = ForestScorerFactory(
            checked.source, config.device, dtype, config.token_budget, config.threads_per_actor
        )
    else:
        model = {"model": repr(make_scorer)}
    merger, merger_identity = config.merger(checked, config.device, dtype, config.threads_per_actor)
    identity = _identity(config, corpora, policy) | {"model": {**model, "dtype": dtype}, "merger": merger_identity}
    output = open_run_folder(config.output)
    record = manifest.open_run(output, JOB, identity, config.model_dump(mode="json"), command_line())
    if record.status == "finished":
        output.replies.delete_folder()  # a run that was killed here left it behind
        print(f"{config.output} is already finished")
        return _close(config, output, record)
    _tell(config, given, model["model"])
    at_work = output.patient()
    session = record.sessions[-1].name
    begin_session(at_work, session)
    with ray_for(config):
        _check_visible(config, output)
        desk = Desk(Replies(at_work), PromptPool(config, make_scorer, at_work, make_merger or merger))
        with Progress(desk.line, lambda: _shortage(config)):
            paths = _paths(config, given, policy, desk)
    check_session(at_work, session)
    record.totals = desk.totals() | {"calibration_left_out": given.left_out}
    _write(at_work, given, policy, paths)
    record.status = "finished"
    record.sessions[-1].finished_at = time.time()
    record.save(at_work)
    at_work.session.delete_file()
    at_work.replies.delete_folder()
    return _close(config, output, record)


def _full_prompt(given: DemoInputs, policy: DemoPolicy) -> PromptRequest:
    """The request for the full prompt. Raises UserError if these demonstrations cannot be shortened to the target."""
    num_steps, target = len(given.demonstrations[0].steps), policy.target_steps
    if target is not None and target >= num_steps:
        raise UserError(f"--target-steps {target}: the demonstrations have {num_steps} steps, so it must be lower")
    try:
        [full, *_] = next(shorten(given.demonstrations, given.calibration, policy))
    except ValueError as error:
        raise UserError(f"--target-steps {target}: {error}") from None
    assert isinstance(full, PromptRequest), "a path begins with the full prompt"
    return full


def _check_window(source: ModelSource, full: PromptRequest) -> None:
    """Raise UserError if the model cannot see the longest text at once. Every other prompt is shorter."""
    texts = [variant.text for variant in full.request.variants]
    longest = max(len(ids) for ids in source.tokenizer(texts, verbose=False)["input_ids"])
    if longest > source.window:
        raise UserError(
            f"--demos: the prompt and its longest calibration row have {longest:,} tokens, and model {source.name!r} "
            f"sees {source.window:,} at most: give fewer or shorter demonstrations"
        )


def _identity(config: DemosConfig, corpora: dict[str, Corpus], policy: DemoPolicy) -> dict[str, Any]:
    """What decides the results, but the model."""
    return {
        "input": {name: inputs.fingerprint(corpus) for name, corpus in corpora.items()},
        "read": {"format": config.format, "columns": config.columns, "split": corpora["demos"].split},
        "calibration_rows": config.calibration_rows,
        "policy": dataclasses.asdict(policy),
        "control": {"paths": config.control_paths, "seed": config.seed},
    }


def _tell(config: DemosConfig, given: DemoInputs, model: str) -> None:
    left_out = ", ".join(f"{count} {reason}" for reason, count in given.left_out.items())
    if left_out:
        print(f"left out of --calibration: {left_out}", flush=True)
    print(
        f"shortening {len(given.demonstrations)} demonstrations of {len(given.demonstrations[0].steps)} steps with "
        f"{model} and {len(given.calibration)} calibration rows -> {config.output}",
        flush=True,
    )


def _check_visible(config: DemosConfig, output: RunFolder) -> None:
    if output.root.is_local:
        cluster.check_visible("--output", [output.path])
    folder = Path(config.model).expanduser()
    if folder.is_dir():
        cluster.check_visible("--model", [str(folder.resolve())])


def _shortage(config: DemosConfig) -> str | None:
    short = cluster.shortage(config.ask, config.actor_range[0])
    return f"waiting: {short}" if short else None


def _paths(
    config: DemosConfig, given: DemoInputs, policy: DemoPolicy, desk: Desk
) -> tuple[demonstrations.Path, list[demonstrations.Path]]:
    """SPIRIT's path, and the paths of the random control to as many steps."""
    [path] = drive([shorten(given.demonstrations, given.calibration, policy)], desk)
    num_steps = path.stages[-1].num_steps
    if len(path.stages) == 1:
        return path, []
    blind = dataclasses.replace(policy, target_steps=num_steps, t2=None, ask_merger=False)
    chances = [random.Random(f"{config.seed}:{number}") for number in range(config.control_paths)]
    return path, drive([shorten(given.demonstrations, given.calibration, blind, each) for each in chances], desk)


def _write(
    output: RunFolder,
    given: DemoInputs,
    policy: DemoPolicy,
    paths: tuple[demonstrations.Path, list[demonstrations.Path]],
) -> None:
    """Write the shortened prompt and the paths."""
    path, controls = paths
    style = demonstrations.prompt_style(path.demonstrations, policy.template)
    lines = [
        json.dumps(
            {"question": question, "solution": solution, "steps": chain.steps, "answer": chain.answer},
            ensure_ascii=False,
        )
        for chain, (question, solution) in zip(path.demonstrations, style.shots, strict=True)
    ]
    facts = {
        "stopped": path.stopped,
        "path": [dataclasses.asdict(stage) for stage in path.stages],
        "merges": [dataclasses.asdict(attempt) for attempt in path.merges],
        "controls": [[dataclasses.asdict(stage) for stage in each.stages] for each in controls],
        "demonstrations": [
            {"question": before.question, "steps": before.steps, "refined_steps": after.steps}
            for before, after in zip(given.demonstrations, path.demonstrations, strict=True)
        ],
    }
    for name, text in (
        ("demonstrations.jsonl", "\n".join(lines) + "\n"),
        ("prompt.txt", style.worked_examples),
        ("template.txt", policy.template),
        ("path.json", json.dumps(facts, indent=2, ensure_ascii=False)),
    ):
        (output.root / name).write_bytes(text.encode("utf-8", "backslashreplace"))


def _close(config: DemosConfig, output: RunFolder, record: manifest.Manifest) -> int:
    facts = page.write_report(output, record)
    print(page.summary(facts, config.output, record))
    return 0


if __name__ == "__main__":
    main()
