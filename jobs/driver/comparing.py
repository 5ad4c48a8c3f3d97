"""`jobs.evaluate --compare`: evaluations of the same problems, paired by problem."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.errors import UserError
from actors.runs import manifest
from actors.runs.folder import RunFolder, open_run_folder
from algorithms.voting.comparison import compare, correlation
from jobs.driver.command import command_line
from jobs.reports import compare as report
from jobs.reports import page

JOB: Final = "compare"
ACCURACY: Final = "accuracy_"


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation: its facts, and a row for each of its problems."""

    uri: str
    facts: dict[str, Any]
    problems: pa.Table

    @property
    def votes(self) -> list[str]:
        """The votes that it evaluated."""
        return [name.removeprefix(ACCURACY) for name in self.problems.column_names if name.startswith(ACCURACY)]


def run(uris: Sequence[str], output: str | None) -> int:
    """Compare each evaluation with the first. Prints the result and, with an output, writes a report of it."""
    evaluated = [_load(uri) for uri in uris]
    facts = _facts(evaluated)
    if output is None:
        print("\n".join(report.summary(facts)))
        return 0
    folder = open_run_folder(output)
    identity = {"compared": list(uris), "facts": facts}
    record = manifest.open_run(folder, JOB, identity, {"compare": list(uris), "output": output}, command_line())
    folder.evaluation.write_bytes(json.dumps(facts, indent=2).encode())
    record.status = "finished"
    record.sessions[-1].finished_at = time.time()
    record.save(folder)
    print(page.summary(page.write_report(folder, record), output, record))
    return 0


def _load(uri: str) -> Evaluated:
    folder: RunFolder = open_run_folder(uri)
    record = manifest.load(folder)
    if record is None or record.job != "evaluate":
        raise UserError(f"--compare {uri} is no run of jobs.evaluate")
    if record.status != "finished":
        raise UserError(f"--compare: the run in {uri} is not finished; repeat its command to finish it")
    with folder.problems.filesystem.open_input_file(folder.problems.path) as source:
        return Evaluated(uri, json.loads(folder.evaluation.read_bytes()), pq.read_table(source))


def _facts(evaluated: Sequence[Evaluated]) -> dict[str, Any]:
    common = evaluated[0].problems["problem"].to_numpy()
    for each in evaluated[1:]:
        common = np.intersect1d(common, each.problems["problem"].to_numpy())
    if not len(common):
        raise UserError(f"--compare: {' and '.join(each.uri for each in evaluated)} have no problem in common")
    votes = [vote for vote in evaluated[0].votes if all(vote in each.votes for each in evaluated)]
    if not votes:
        raise UserError("--compare: the runs have no vote in common: name it in --votes of each")
    rows = [_rows_of(each, common) for each in evaluated]
    first = rows[0]
    return {
        "runs": [_run(each, mine, votes) for each, mine in zip(evaluated, rows, strict=True)],
        "problems": len(common),
        "votes": votes,
        "comparisons": [
            {
                "run": each.uri,
                "against": evaluated[0].uri,
                "votes": {vote: asdict(compare(_accuracy(first, vote), _accuracy(mine, vote))) for vote in votes},
            }
            for each, mine in zip(evaluated[1:], rows[1:], strict=True)
        ],
        "correlation": _correlation(rows, votes[0]),
    }


def _rows_of(evaluated: Evaluated, common: Any) -> pa.Table:
    """The rows of the common problems. Both are in the order of the hashes."""
    return evaluated.problems.filter(pa.array(np.isin(evaluated.problems["problem"].to_numpy(), common)))


def _accuracy(rows: pa.Table, vote: str) -> Any:
    return rows[ACCURACY + vote].to_numpy()


def _run(evaluated: Evaluated, rows: pa.Table, votes: Sequence[str]) -> dict[str, Any]:
    unit = evaluated.facts["unit"]
    perplexity = _perplexity(rows)
    return {
        "run": evaluated.uri,
        "problems": evaluated.facts["problems"],
        "samples_per_problem": float(np.mean(rows["num_samples"].to_numpy())),
        "unit": unit,
        "cost_per_problem": float(np.mean(rows[unit].to_numpy())),
        "perplexity": None if np.isnan(perplexity) else perplexity,
        "accuracy": {vote: float(_accuracy(rows, vote).mean()) for vote in votes},
    }


def _perplexity(rows: pa.Table) -> float:
    """The geometric mean of the perplexities of the problems; NaN if one is unknown."""
    values = rows["perplexity"]
    return float("nan") if values.null_count else float(np.exp(np.log(values.to_numpy()).mean()))


def _correlation(rows: Sequence[pa.Table], vote: str) -> dict[str, Any] | None:
    perplexity = np.array([_perplexity(each) for each in rows])
    if np.isnan(perplexity).any():
        return None
    return correlation(perplexity, np.array([_accuracy(each, vote).mean() for each in rows]))
