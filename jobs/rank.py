"""Rank graded samples: a calibrated score for each, the probability that it is right.

    python -m jobs.rank --input runs/graded --ranker runs/ranker --output runs/ranked

Each record of OUTPUT/rows is the graded record of a sample with the column `score` added. A score depends on its own
sample alone, so `jobs.evaluate` and any other reader may group them as they like.
"""

import hashlib
from typing import Annotated, Any, Final

from pydantic import Field

from actors.errors import UserError
from actors.ranker import ROWS_AT_ONCE, SampleRanker
from actors.ranking.folder import ON_GPU, RankerFolder, open_ranker
from actors.runs.record_kinds import RANKING
from actors.runs.totals import Totals
from algorithms.formats import formats_for
from jobs.driver import command, corpus_run, inputs
from jobs.driver.command import choice
from jobs.driver.corpus_run import CorpusConfig, CorpusRun, Pool, format_help

JOB: Final = "rank"


class RankConfig(CorpusConfig):
    """Flags of `jobs.rank`."""

    format: Annotated[str, choice(formats_for("rank"))] = Field(default="graded", description=format_help("rank"))
    ranker: str
    """The run of jobs.train --method ranker or ranker-encoder, or its folder `ranker`. --gpus-per-actor moves an
    encoder to a GPU."""


def main() -> None:
    """Entry point of `python -m jobs.rank`."""
    command.main(RankConfig, run, __doc__ or "")


def run(config: RankConfig) -> int:
    """Rank, or resume ranking. Returns the exit status."""
    ranker = open_ranker("--ranker", config.ranker)
    if config.gpus_per_actor and ranker.kind not in ON_GPU:
        raise UserError(f"--gpus-per-actor {config.gpus_per_actor:g} does nothing with a {ranker.kind} ranker: drop it")
    corpus = inputs.open_corpus(config.input, config.format, config.columns, None, config.id_column, config.limit)
    place = config.device, config.threads_per_actor
    pool = Pool(SampleRanker, RANKING, lambda output, session: (output, session, ranker, *place), ROWS_AT_ONCE)
    local = ((("--ranker", ranker.storage.path),) if ranker.storage.is_local else ())  # fmt: skip
    return corpus_run.run(
        CorpusRun(JOB, config, corpus, {"ranker": _identity(ranker)}, "ranking", pool, _ranked, seen_by_nodes=local)
    )


def _identity(ranker: RankerFolder) -> dict[str, Any]:
    """What decides the scores."""
    digest = hashlib.blake2b(digest_size=16)
    for file in ranker.storage.files():
        digest.update(file.base_name.encode())
        digest.update((ranker.storage / file.base_name).read_bytes())
    return {"kind": ranker.kind, "digest": digest.hexdigest()}


def _ranked(totals: Totals) -> list[str]:
    return [f"{totals.num_records - totals.statuses['quarantined']:,} samples ranked"]


if __name__ == "__main__":
    main()
