"""The folder of a run: where each thing lies. Every other module asks here.

    manifest.json      what the run is and how it went
    rows/              terminal records, shard by shard of the input; _whole.json is there once all of them are
    commits.jsonl      what was committed when
    report.html, report.json

Only while the run is at work:

    _rows/SHARD/       terminal records as they were committed
    _commits/          logs of the commits
    _journal/          notes of rows in flight
    _replies/          replies of scorers and mergers that are kept
    _session           the session that may write
    _probe             written to see whether the storage takes files

A training run has these as well:

    examples/          tokenised examples; _whole.json is there once all of them are
    metrics.jsonl      what was logged
    adapter/           the result, with its model card
    tensorboard/       the metrics as event files
    _train/            checkpoints of Ray Train; only while the run is at work
    _stopped           why training stopped early, if it did

An evaluation has these as well:

    samples/ graded/ ranked/   runs of the stages before it, if it has any
    problems.parquet   one row for each problem: its votes, cost and groups
    evaluation.json    all numbers
    policies.json      the fitted votes and stopping rules, for use

A run over demonstrations has these as well:

    demonstrations.jsonl  prompt.txt  template.txt   the shortened prompt
    path.json          every prompt on the way there

A pipeline has these as well:

    NAME-FINGERPRINT/  the output of a stage
    _stages/           a record, a log and a config for each of them
    pipeline.json      the stages as they are now
"""

from dataclasses import dataclass
from typing import Final

from actors.runs.storage import Storage, open_storage

MANIFEST: Final = "manifest.json"
ROWS: Final = "rows"
ADAPTER: Final = "adapter"
ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
RANKER: Final = "ranker"
TRAIN_STATE: Final = "_train"


@dataclass(frozen=True)
class RunFolder:
    """A run's folder on any storage. Picklable, so that it can travel to workers."""

    root: Storage

    def patient(self) -> "RunFolder":
        """The folder for a run at work, which waits for its storage."""
        return RunFolder(self.root.patient())

    def hasty(self) -> "RunFolder":
        """The folder for a person who waits for the answer."""
        return RunFolder(self.root.hasty())

    @property
    def path(self) -> str:
        """The folder's path on its file system, for messages."""
        return self.root.path

    @property
    def manifest(self) -> Storage:
        """What the run is: `actors.runs.manifest`."""
        return self.root / MANIFEST

    @property
    def rows(self) -> Storage:
        """Terminal records: `actors.runs.records`."""
        return self.root / ROWS

    @property
    def rows_done(self) -> Storage:
        """The totals of the records in `rows`, written last. The leading underscore hides it from pyarrow."""
        return self.rows / "_whole.json"

    @property
    def committed(self) -> Storage:
        """Terminal records as they were committed, a folder for each shard of the input: `actors.runs.records`."""
        return self.root / "_rows"

    @property
    def commit_logs(self) -> Storage:
        """What was committed when, by worker: `actors.runs.commits`."""
        return self.root / "_commits"

    @property
    def commit_history(self) -> Storage:
        """What was committed when, once the run is finished."""
        return self.root / "commits.jsonl"

    @property
    def journal(self) -> Storage:
        """Notes of rows in flight: `actors.runs.journal`."""
        return self.root / "_journal"

    @property
    def session(self) -> Storage:
        """The name of the session that may write: `actors.runs.session`."""
        return self.root / "_session"

    @property
    def probe(self) -> Storage:
        """Written now and then to see whether the storage still takes files."""
        return self.root / "_probe"

    @property
    def report_html(self) -> Storage:
        """The report for people."""
        return self.root / "report.html"

    @property
    def report_json(self) -> Storage:
        """The report's facts for programs."""
        return self.root / "report.json"

    @property
    def examples(self) -> Storage:
        """Tokenised examples: `actors.training.examples`."""
        return self.root / "examples"

    @property
    def examples_done(self) -> Storage:
        """The counts of the examples, written last. The leading underscore hides it from pyarrow."""
        return self.examples / "_whole.json"

    @property
    def metrics(self) -> Storage:
        """Logged metrics, one JSON object a line: `actors.runs.metrics`."""
        return self.root / "metrics.jsonl"

    @property
    def adapter(self) -> Storage:
        """The trained adapter, as PEFT loads it."""
        return self.root / ADAPTER

    @property
    def ranker(self) -> Storage:
        """The trained ranker: `actors.ranking.folder`."""
        return self.root / RANKER

    @property
    def problems(self) -> Storage:
        """One row for each evaluated problem."""
        return self.root / "problems.parquet"

    @property
    def evaluation(self) -> Storage:
        """The numbers of an evaluation: `algorithms.voting.summaries`."""
        return self.root / "evaluation.json"

    @property
    def policies(self) -> Storage:
        """Fitted votes and stopping rules: `algorithms.voting.policy`."""
        return self.root / "policies.json"

    @property
    def replies(self) -> Storage:
        """Replies of scorers and mergers: `actors.runs.replies`."""
        return self.root / "_replies"

    @property
    def path_json(self) -> Storage:
        """The prompts on the path of a run over demonstrations."""
        return self.root / "path.json"

    @property
    def pipeline(self) -> Storage:
        """The stages of a pipeline as they are now: `jobs.driver.pipeline_state`."""
        return self.root / "pipeline.json"

    @property
    def events(self) -> Storage:
        """TensorBoard event files."""
        return self.root / "tensorboard"

    @property
    def train_state(self) -> Storage:
        """Checkpoints of Ray Train."""
        return self.root / TRAIN_STATE

    @property
    def stopped(self) -> Storage:
        """Why training stopped before its last step."""
        return self.root / "_stopped"


def open_run_folder(uri: str) -> RunFolder:
    """The run folder at a path or URI, whether or not there is a run. Raises UserError for an unknown scheme."""
    return RunFolder(open_storage(uri))
