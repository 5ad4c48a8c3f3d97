"""The first stage of training: rows of all inputs -> tokenised examples in OUTPUT/examples, sorted and counted.

    files -> lessons (-> grouped by problem) -> examples (-> teacher's values) -> sorted -> written

It runs once for each run. A resumed run trains on the same files.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Final

from actors.models.source import ModelSource
from actors.runs.corpus import Corpus
from actors.runs.folder import RunFolder
from actors.training.examples import MakeExamples, read_files
from actors.training.shards import ExampleFile, count_files
from actors.training.teacher import Teacher
from algorithms.methods import METHODS
from algorithms.prompts import PromptStyle
from jobs.driver import cluster

ROWS_PER_BLOCK: Final = 2000
ROWS_PER_TAUGHT_BATCH: Final = 32
PARTITIONS_AT_MOST: Final = 200
MAKERS_AT_MOST: Final = 16


@dataclass(frozen=True)
class ExampleCounts:
    """The numbers of examples for training and validation, in all and by file, and why other rows are neither."""

    train: int
    validation: int
    tokens: int
    unused: dict[str, int]
    files: tuple[ExampleFile, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """The number of rows in each part that is not empty."""
        return {part: size for part in ("train", "validation") if (size := getattr(self, part))}

    @property
    def totals(self) -> dict[str, Any]:
        """The numbers for the manifest, which does not list files."""
        return {name: value for name, value in asdict(self).items() if name != "files"}


@dataclass(frozen=True)
class ExamplePlan:
    """Everything that decides the examples."""

    method: str
    model: ModelSource
    style: PromptStyle
    max_tokens: int
    loss_on_prompt: bool
    seed: int


def prepare(
    corpora: tuple[Corpus, ...], plan: ExamplePlan, output: RunFolder, teach: dict[str, Any] | None = None
) -> ExampleCounts:
    """Write the examples, unless they are there. `teach` holds the arguments of `map_batches` for a `Teacher`."""
    folder = output.examples
    if output.examples_done.exists():
        stored = json.loads(output.examples_done.read_bytes())
        return ExampleCounts(**stored | {"files": tuple(ExampleFile(**file) for file in stored["files"])})
    import ray.data
    from ray.data import ActorPoolStrategy

    folder.delete_folder()
    folder.make_folder()  # without rows, Ray Data writes no file
    num_files = sum(len(corpus.files) for corpus in corpora)
    with cluster.worker_errors():
        read: Any = read_files
        dataset = ray.data.range(num_files, override_num_blocks=num_files).map_batches(
            read, fn_kwargs={"corpora": corpora}, batch_size=1
        )
        arguments = (METHODS[plan.method].view, plan.model, plan.style, plan.max_tokens, plan.loss_on_prompt, plan.seed)
        pool: dict[str, Any] = {
            "fn_constructor_args": arguments,
            "batch_format": "pyarrow",
            "num_cpus": 0.5,
            "compute": ActorPoolStrategy(min_size=1, max_size=min(MAKERS_AT_MOST, num_files)),
        }
        if METHODS[plan.method].needs_partners:
            partitions = min(PARTITIONS_AT_MOST, 4 * num_files)
            grouped: Any = dataset.groupby("problem", num_partitions=partitions)
            dataset = grouped.map_groups(MakeExamples, **pool)
        else:
            dataset = dataset.map_batches(MakeExamples, batch_size=ROWS_PER_BLOCK, **pool)
        if teach is not None:
            dataset = dataset.map_batches(Teacher, batch_size=ROWS_PER_TAUGHT_BATCH, batch_format="pyarrow", **teach)
        dataset.sort("place").write_parquet(folder.path, filesystem=folder.filesystem)
    counts = _count(output)
    output.examples_done.write_bytes(json.dumps(asdict(counts), indent=2).encode())
    return counts


def _count(output: RunFolder) -> ExampleCounts:
    counted = list(count_files(output.examples))
    unused: Counter[str] = Counter()
    for each in counted:
        unused.update(each.unused)
    return ExampleCounts(
        sum(each.file.train for each in counted),
        sum(each.file.validation for each in counted),
        sum(each.tokens for each in counted),
        dict(unused.most_common()),
        tuple(each.file for each in counted),
    )
