"""Evaluate votes and stopping rules on graded samples, with intervals; or compare evaluations.

    python -m jobs.evaluate --input runs/ranked --votes sc asc posterior --output runs/votes
    python -m jobs.evaluate --model smollm2 --test examples/questions.jsonl --samples 4 --output runs/eval
    python -m jobs.evaluate --compare runs/eval runs/votes

The samples are those of graded or ranked runs. Others are graded first, and with --model drawn first, by runs of their
own in OUTPUT/samples, OUTPUT/graded and OUTPUT/ranked. What a vote or a rule learns, it learns from other problems than
those it is judged on (`algorithms.voting.evaluation`).
"""

import time
from typing import Annotated, Any, Final

from pydantic import Field, model_validator

from actors.errors import UserError
from actors.ranking.folder import open_ranker
from actors.runs import manifest
from actors.runs.corpus import Corpus
from actors.runs.folder import RunFolder, open_run_folder
from algorithms.formats import formats_for
from algorithms.splits import SPLITS
from algorithms.voting.evaluation import evaluate
from algorithms.voting.stopping import RULES
from algorithms.voting.votes import METHODS
from jobs.driver import cluster, command, comparing, corpus_run, evaluation, inputs, recorded_samples
from jobs.driver.command import JobConfig, choice, command_line
from jobs.driver.corpus_run import check_range
from jobs.driver.evaluation import Wanted
from jobs.driver.sampling import SamplingFlags
from jobs.driver.stages import run_stage
from jobs.reports import page

JOB: Final = "evaluate"
GRADED: Final = "graded"
ALL: Final = "all"


class EvaluationFlags(JobConfig):
    """What is evaluated, and how."""

    input: tuple[str, ...] = ()
    """Runs of jobs.grade or jobs.rank. With --format, files of samples, which are graded first."""
    format: Annotated[str, choice((GRADED, *formats_for("grade"), *formats_for("sample")))] = GRADED
    """graded, or the format of the samples in --input (see jobs.grade) or of the questions in --test (see jobs.sample;
    default: questions)."""
    compare: tuple[str, ...] = ()
    """Runs of jobs.evaluate to compare by problem: two, or more levels of refinement against the first."""
    output: str | None = None
    """Folder of the run, a path or URI. Repeat the command to resume."""
    model: str | None = None
    """Draw samples from this model first: smollm2 (embedded), a model folder, a hub name or an endpoint's name."""
    test: str | None = None
    """With --model: questions with gold answers."""
    samples: int = Field(default=8, ge=1)
    """With --model: samples of each question."""
    limit: int | None = Field(default=None, ge=1)
    """With --model: only the first questions."""
    ranker: str | None = None
    """Score the samples first: a run of jobs.train --method ranker."""
    votes: tuple[Annotated[str, choice(METHODS)], ...] = ()
    """Votes to evaluate. Default: all that the samples allow."""
    rules: tuple[Annotated[str, choice(RULES)], ...] = ()
    """Stopping rules to replay. Default: all that the samples allow."""
    rule_vote: Annotated[str, choice(sorted(set(METHODS) - {"first", "oracle"}))] | None = None
    """The vote that decides once a rule stops. Default: posterior for samples with scores, otherwise sc."""
    tolerance: float = Field(default=0.0025, ge=0, lt=1)
    """The accuracy that a stopping rule may lose against all samples. Each rule's threshold is suggested for it."""
    split: Annotated[str, choice((*SPLITS, ALL))] | None = None
    """Evaluate problems of this split, or all. Default: held_out for samples with scores, otherwise all."""
    by: tuple[str, ...] = ("level", "type")
    """Columns of the problems whose values are shown apart."""
    budget: int | None = Field(default=None, ge=1)
    """Samples of each problem at most, the first ones. Default: the median number of samples."""
    minimum: int = Field(default=1, ge=1)
    """Samples before a rule may stop."""
    wave: int = Field(default=1, ge=1)
    """Samples that are drawn at once. A rule is asked after each wave."""
    num_folds: int = Field(default=5, ge=2)
    """Folds of the problems: posterior and gain are fitted on the other folds."""
    num_orders: int = Field(default=20, ge=1)
    """Random orders in which the samples of a problem are replayed."""
    num_actors: str = "1"
    """Actors that draw, grade and score samples: N, or MIN:MAX to scale with the load."""
    gpus_per_actor: float = Field(default=0.0, ge=0)
    """GPUs of each actor that draws samples."""
    cpus_per_actor: float | None = Field(default=None, gt=0)
    """CPU slots and threads of each actor. Default: 1 on a cluster, an equal share of the cores locally."""
    wait_for_resources: float = Field(default=0.0, ge=0, description=cluster.WAIT_HELP.format("actors"))


class EvaluateConfig(SamplingFlags, EvaluationFlags):
    """Flags of `jobs.evaluate`."""

    seed: int = 0
    """Seed of the samples, the folds and the orders."""

    @model_validator(mode="after")
    def _check_together(self) -> "EvaluateConfig":
        check_range(self.num_actors)
        given = [name for name in ("input", "model", "compare") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError("one of --input, --model and --compare is needed, and only one")
        if not self.compare and self.output is None:
            raise ValueError("--output is needed: the folder of the run")
        if len(self.compare) == 1:
            raise ValueError("--compare needs two runs or more")
        if (self.model is None) != (self.test is None):
            raise ValueError("--model and --test belong together: the model answers the questions of --test")
        for mode, flag, known in (("input", "test", formats_for("grade")), ("model", "input", formats_for("sample"))):
            if given[0] == mode and self.format not in (GRADED, *known):
                raise ValueError(f"--format {self.format} is for --{flag}")
        self._check_idle_flags(given[0])
        return self

    def _check_idle_flags(self, mode: str) -> None:
        """Refuse flags that would do nothing."""
        drawing = {*SamplingFlags.model_fields, "samples", "limit", "gpus_per_actor"} - {"seed"}
        if mode == "model":
            idle: set[str] = set()
        elif mode == "input":
            idle = drawing
        else:
            idle = set(type(self).model_fields) - {"compare", "output", "seed"}
        for name in sorted(idle):
            default = type(self).model_fields[name].get_default(call_default_factory=True)
            if getattr(self, name) != default:
                why = "without --model" if mode == "input" else "with --compare"
                raise ValueError(f"--{name.replace('_', '-')} does nothing {why}")

    @property
    def wanted(self) -> Wanted:
        """What is asked of the evaluation."""
        return Wanted(
            self.votes, self.rules, self.rule_vote, self.minimum, self.wave, self.num_folds, self.num_orders, self.seed
        )

    @property
    def actors(self) -> dict[str, Any]:
        """The flags of every stage's actors."""
        shared = ("num_actors", "cpus_per_actor", "wait_for_resources")
        return {name: getattr(self, name) for name in shared}

    @property
    def samples_format(self) -> str:
        """The format of the samples that are graded first."""
        return "samples" if self.model else self.format


def main() -> None:
    """Entry point of `python -m jobs.evaluate`."""
    command.main(EvaluateConfig, run, __doc__ or "")


def run(config: EvaluateConfig) -> int:
    """Evaluate or compare. Returns the exit status."""
    if config.compare:
        return comparing.run(config.compare, config.output)
    assert config.output is not None, "the config checks it"
    output = open_run_folder(config.output)
    record = manifest.open_run(output, JOB, _identity(config), config.model_dump(mode="json"), command_line())
    if record.status == "finished":
        print(f"{config.output} is already finished")
        return _close(config.output, output, record)
    least, most = corpus_run.range_of(config.num_actors)
    ask = cluster.Ask(config.cpus_per_actor or 1, config.gpus_per_actor)
    with corpus_run.ray_with(least, most, ask, config.wait_for_resources):
        graded, status = _stages(config, config.output)
        if status:
            return status
        _evaluate(config, [_open(uri) for uri in graded], output)
    record.status = "finished"
    record.sessions[-1].finished_at = time.time()
    record.save(output)
    return _close(config.output, output, record)


def _stages(config: EvaluateConfig, output: str) -> tuple[list[str], int]:
    """Draw, grade and score what is not there yet. Returns the runs to evaluate, and the exit status of a failure."""
    root = output.rstrip("/")
    sources = list(config.input)
    if config.model is not None:
        flags = {name: getattr(config, name) for name in SamplingFlags.model_fields}
        asked = {"input": config.test, "format": "questions" if config.format == GRADED else config.format}
        drawn = {"model": config.model, "num_samples": config.samples, "limit": config.limit}
        hardware = config.actors | {"gpus_per_actor": config.gpus_per_actor}
        if status := run_stage("sample", **flags, **asked, **drawn, **hardware, output=f"{root}/samples"):
            return [], status
        sources = [f"{root}/samples"]
    if config.model is not None or config.format != GRADED:
        sources, status = _each("grade", sources, f"{root}/graded", config, format=config.samples_format)
        if status:
            return [], status
    if config.ranker is not None:
        return _each("rank", sources, f"{root}/ranked", config, ranker=config.ranker)
    return sources, 0


def _each(verb: str, sources: list[str], folder: str, config: EvaluateConfig, **flags: Any) -> tuple[list[str], int]:
    """A stage for each source. Returns the runs, and the exit status of the first that failed."""
    done = []
    for number, source in enumerate(sources):
        output = folder if len(sources) == 1 else f"{folder}/{number}"
        if status := run_stage(verb, input=source, output=output, **flags, **config.actors):
            return [], status
        done.append(output)
    return done, 0


def _open(uri: str) -> Corpus:
    corpus = inputs.open_corpus(uri, GRADED, {}, None, None, None)
    if "answer_class" not in inputs.columns_of(corpus):
        raise UserError(f"--input {uri} was graded by an older version, without classes of answers: grade it again")
    return corpus


def _evaluate(config: EvaluateConfig, corpora: list[Corpus], output: RunFolder) -> None:
    split = config.split
    if split is None:
        split = "held_out" if all("score" in inputs.columns_of(corpus) for corpus in corpora) else ALL
    which = "all problems" if split == ALL else f"problems of the split {split}"
    print(f"evaluating {which}", flush=True)
    samples = recorded_samples.read(corpora, None if split == ALL else split, config.by, config.budget)
    plan = evaluation.plan_for(config.wanted, samples.pools)
    for line in evaluation.left_out(plan, samples.pools):
        print(line, flush=True)
    try:
        found = evaluate(samples.pools, plan)
    except ValueError as error:
        raise UserError(f"--input: {error}") from None
    evaluation.save(output, samples, found, plan, config.tolerance)


def _identity(config: EvaluateConfig) -> dict[str, Any]:
    """What decides the numbers. The stages check what decides theirs."""
    hardware = {"num_actors", "gpus_per_actor", "cpus_per_actor", "wait_for_resources"}
    idle = {"output", "concurrency", "patience_hours", *hardware}
    flags = config.model_dump(mode="json", exclude=idle)
    identity: dict[str, Any] = {"evaluation": flags}
    if config.input:
        listed = [_listed(config, uri) for uri in config.input]
        identity["input"] = [inputs.fingerprint(corpus) for corpus in listed]
    if config.ranker is not None:
        open_ranker("--ranker", config.ranker)
    return identity


def _listed(config: EvaluateConfig, uri: str) -> Corpus:
    return _open(uri) if config.format == GRADED else inputs.list_corpus("--input", uri)


def _close(shown: str, output: RunFolder, record: manifest.Manifest) -> int:
    facts = page.write_report(output, record)
    print(page.summary(facts, shown, record))
    return 0


if __name__ == "__main__":
    main()
