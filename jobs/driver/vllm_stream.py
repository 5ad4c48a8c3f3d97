"""A corpus of questions through `ray.data.llm`: vLLM engines, tensor parallelism and LoRA come from there.

    corpus -> requests, one a sample -> vLLM processor -> the driver gathers samples to questions and commits

Rows that are committed already, or are none, leave before the engines; prompts are encoded as the transformers
engine encodes them, so that both are asked the same. A sample is little, so that one driver gathers what many
engines generate. vLLM has batching, seeds and stop texts of its own; a row it refuses is quarantined. An engine
that dies is started again; where it dies of a prompt again and again, Ray Data ends the run after half an hour
without progress.
"""

import importlib.util
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from actors.corpus import Corpus, CorpusSource, id_hash
from actors.ledger import COMMIT_ROWS, COMMIT_SECONDS_AT_MOST, check_session
from actors.record_kinds import SAMPLING
from actors.records import RecordStore, Totals, read_ids
from actors.sampler import sampled
from actors.storage import Storage
from algorithms.prompts import PromptStyle
from algorithms.row_errors import RowError
from algorithms.sampling import Sample, SamplingParams, sample_seed
from jobs.driver import cluster
from jobs.driver.command import UserError
from jobs.driver.pipeline import PipelineConfig, Stream, begin_session

REQUESTS_PER_BLOCK: Final = 64  # Ray Data hands on what an engine made when all of a block is made
GIVEN: Final = ("id", "question", "answer", "source")
REQUEST_SCHEMA: Final = pa.schema(
    [
        ("row", pa.string()),  # the question's own columns, as JSON
        ("shard", pa.string()),
        ("index", pa.int64()),
        ("seed", pa.int64()),
        ("prompt_ids", pa.list_(pa.int64())),
    ]
)


@dataclass(frozen=True)
class VllmEngine:
    """What `ray.data.llm` is to start. `model` is a folder or a hub name, `engine_kwargs` go to vLLM as they are."""

    model: str
    adapter: str | None
    params: SamplingParams
    style: PromptStyle
    engine_kwargs: dict[str, Any]
    end_ids: frozenset[int]
    window: int
    is_seeded: bool


def check_vllm() -> None:
    """Raise UserError where vLLM is not installed."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # of what the driver imports
    if importlib.util.find_spec("vllm") is None:
        raise UserError("--engine vllm needs vLLM: uv pip install '.[cuda]', or '.[cpu]' where there is no GPU")


class Requests:
    """The callable that makes requests of rows; those it has none for it commits as quarantined."""

    def __init__(self, engine: VllmEngine, run: Storage, session: str, tally: Any) -> None:
        from transformers import AutoTokenizer

        check_session(run, session)
        self._engine = engine
        self._run = run
        self._session = session
        self._tally = tally
        (run / "rows").make_folder()
        self._store = RecordStore(run / "rows")
        self._files = self._store.files_by_shard()
        self._tokenizer = AutoTokenizer.from_pretrained(engine.model)
        self._window = engine.window

    def __call__(self, table: pa.Table) -> pa.Table:
        """The requests of a table of questions."""
        from actors.models import encode_prompt

        requests, refused = [], []
        done = {shard: read_ids(self._files.get(shard, []), "id") for shard in set(table["shard"].to_pylist())}
        for row in table.to_pylist():
            if row["id"] in done[row["shard"]]:
                continue
            ids = [] if row["reason"] else encode_prompt(self._tokenizer, self._engine.style.prompt(row["question"]))
            if not row["reason"] and len(ids) >= self._window:
                row["reason"] = str(
                    RowError("too_long", f"a prompt of {len(ids)} tokens, the window is {self._window}")
                )
            if row["reason"]:
                refused.append(row)
                continue
            given = json.dumps({name: row[name] for name in GIVEN})
            requests += [
                {
                    "row": given,
                    "shard": row["shard"],
                    "index": index,
                    "seed": sample_seed(self._engine.params.seed, row["id"], index),
                    "prompt_ids": ids,
                }
                for index in range(self._engine.params.num_samples)
            ]
        self._refuse(refused)
        import ray

        first = table["id"][0].as_py() if table.num_rows else ""
        ray.get(self._tally.add.remote(first, table.num_rows))
        return pa.Table.from_pylist(requests, schema=REQUEST_SCHEMA)

    def _refuse(self, rows: list[dict[str, Any]]) -> None:
        """Commit rows without a request. Whoever does the block again finds them committed."""
        by_shard: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            record = {name: row[name] for name in GIVEN} | {"status": "quarantined", "reason": row["reason"]}
            by_shard.setdefault(row["shard"], []).append(record)
        for shard, records in by_shard.items():
            check_session(self._run, self._session)
            totals = Totals.of(SAMPLING, len(records), records)
            self._files.setdefault(shard, []).append(self._store.commit(shard, records, SAMPLING.schema, totals))


class Tally:
    """Counts the rows of each block once, however often the block is done."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}

    def add(self, first_id: str, num_rows: int) -> None:
        """Count the block that begins with a row."""
        self._rows[first_id] = num_rows

    def total(self) -> int:
        """Rows of all blocks."""
        return sum(self._rows.values())


class Gatherer:
    """Puts samples together to questions, and commits whole ones as samples come in."""

    def __init__(self, run: Storage, session: str, params: SamplingParams) -> None:
        self._run, self._session, self._params = run, session, params
        self._store = RecordStore(run / "rows")
        self._samples: dict[str, dict[int, Sample | str]] = {}
        self._whole: dict[str, list[dict[str, Any]]] = {}
        self._gathered: set[int] = set()
        self._last_commit = self._started = time.monotonic()

    def add(self, row: dict[str, Any]) -> None:
        """One sample, or why there is none."""
        given = json.loads(row["row"])
        if id_hash(given["id"]) in self._gathered:
            return  # of a block that was done again
        samples = self._samples.setdefault(given["id"], {})
        samples[row["index"]] = row["error"] or _sample(row)
        if len(samples) < self._params.num_samples:
            return
        del self._samples[given["id"]]
        self._gathered.add(id_hash(given["id"]))
        drawn = [samples[index] for index in sorted(samples)]
        errors = [each for each in drawn if isinstance(each, str)]
        if errors:
            reason = str(RowError("engine_error", " ".join(errors[0].split())[:200]))
            record: dict[str, Any] = {"status": "quarantined", "reason": reason}
        else:
            record = sampled([each for each in drawn if isinstance(each, Sample)])
        self._whole.setdefault(row["shard"], []).append(given | record)

    def commit(self, *, at_once: bool) -> None:
        """Commit what is whole, if it is time."""
        now = time.monotonic()
        num_rows = sum(map(len, self._whole.values()))
        wait = min(COMMIT_SECONDS_AT_MOST, 2.0 + (now - self._started) / 20)
        if num_rows == 0 or not (at_once or num_rows >= COMMIT_ROWS or now - self._last_commit >= wait):
            return
        check_session(self._run, self._session)
        for shard, records in self._whole.items():
            totals = Totals.of(SAMPLING, len(records), records)
            self._store.commit(shard, records, SAMPLING.schema, totals)
        self._whole, self._last_commit = {}, now

    def check_complete(self) -> None:
        """Raise RuntimeError when samples are missing."""
        if self._samples:
            raise RuntimeError(f"{len(self._samples)} questions lack samples, the first is {next(iter(self._samples))}")


def _sample(row: dict[str, Any]) -> Sample:
    return Sample(row["text"], row["num_tokens"], row["finish_reason"], row["mean_logprob"])


def stream_through_vllm(config: PipelineConfig, engine: VllmEngine) -> Stream:
    """A stream that hands the corpus to vLLM engines, `config.num_actors` of them."""

    def stream(corpus: Corpus, num_rows: int, output: Storage, session: str) -> int:
        import ray.data
        from ray.data import ActorPoolStrategy
        from ray.data.llm import build_processor

        begin_session(output, session)
        with cluster.told_by_actors(), _engine_deaths_told():
            logging.disable(logging.INFO)  # it tells the driver's screen what it is about to do
            try:
                config_of_stage = _processor_config(config, engine)
                processor = build_processor(
                    config_of_stage, preprocess=_Preprocess(engine), postprocess=_Postprocess(engine)
                )
            finally:
                logging.disable(logging.NOTSET)
            cluster.quieten_data()
            rows_per_block = max(1, REQUESTS_PER_BLOCK // engine.params.num_samples)
            tally: Any = ray.remote(Tally).options(num_cpus=0).remote()
            dataset = ray.data.read_datasource(CorpusSource(corpus, rows_per_block)).map_batches(
                Requests,
                fn_constructor_args=(engine, output, session, tally),
                batch_size=rows_per_block,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=1),
                num_cpus=0.5,
            )
            gatherer = Gatherer(output, session, engine.params)
            batches: Any = processor(dataset).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
            for batch in batches:
                for row in batch.to_pylist():
                    gatherer.add(row | {"error": row.get("__inference_error__") or ""})
                gatherer.commit(at_once=False)
            gatherer.check_complete()
            gatherer.commit(at_once=True)
            num_read: int = ray.get(tally.total.remote())
            return num_read

    return stream


@contextmanager
def _engine_deaths_told() -> Iterator[None]:
    """An engine that does not start says why in its own log only."""
    import ray

    try:
        yield
    except ray.exceptions.RayActorError as error:
        if "Engine core initialization failed" not in str(error):
            raise
        raise UserError(
            "the vLLM engine does not start; why stands in the worker-*.out files of Ray's logs (look for ValueError). "
            "Often it is memory: --engine-kwargs gpu_memory_utilization 0.5, or a smaller --max-model-len"
        ) from None


def _processor_config(config: PipelineConfig, engine: VllmEngine) -> Any:
    from ray.data.llm import vLLMEngineProcessorConfig

    on_gpu = config.gpus_per_actor > 0
    bundle = {"CPU": config.cpus_per_actor or 1, **({"GPU": 1} if on_gpu else {})}
    parallel = int(engine.engine_kwargs.get("tensor_parallel_size", 1))
    return vLLMEngineProcessorConfig(
        model_source=engine.model,
        engine_kwargs=engine.engine_kwargs,
        concurrency=config.actor_range,
        batch_size=REQUESTS_PER_BLOCK,
        placement_group_config={"bundles": [bundle] * parallel},
        should_continue_on_error=True,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        log_engine_metrics=on_gpu,
        # On a CPU vLLM would keep a core free for others, of however few there are.
        runtime_env=None if on_gpu else {"env_vars": {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}},
    )


@dataclass(frozen=True)
class _Preprocess:
    """A request as the vLLM stage wants it."""

    engine: VllmEngine

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        params = self.engine.params
        return {
            **{name: row[name] for name in ("row", "shard", "index")},
            "prompt": "",
            "tokenized_prompt": row["prompt_ids"],
            "model": self.engine.adapter or self.engine.model,
            "sampling_params": {
                "temperature": params.temperature,
                "top_p": params.top_p,
                "max_tokens": params.max_tokens,
                "stop": list(params.stop),
                # vLLM 0.29 on a CPU dies of a request's own seed when a prompt comes in chunks.
                **({"seed": int(row["seed"])} if self.engine.is_seeded else {}),
                "logprobs": 0,  # of the chosen tokens, before temperature
            },
        }


@dataclass(frozen=True)
class _Postprocess:
    """What the vLLM stage gives, as a sample."""

    engine: VllmEngine

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        tokens = [int(token) for token in row["generated_tokens"]]
        chosen = [_logprob(position, token) for position, token in zip(row["logprobs"], tokens, strict=True)]
        return {
            **{name: row[name] for name in ("row", "shard", "index")},
            "text": row["generated_text"],
            "num_tokens": len(tokens),
            # The stage does not say why a sample ended.
            "finish_reason": "length" if self._is_cut(row, tokens) else "stop",
            "mean_logprob": sum(chosen) / len(chosen) if chosen else None,
        }

    def _is_cut(self, row: dict[str, Any], tokens: list[int]) -> bool:
        params = self.engine.params
        full = len(tokens) >= params.max_tokens or row["num_input_tokens"] + len(tokens) >= self.engine.window
        return full and tokens[-1] not in self.engine.end_ids


def _logprob(position: Any, token: int) -> float:
    entries = dict(position) if not isinstance(position, dict) else position
    entry: Any = entries.get(token, entries.get(str(token)))
    return float(entry["logprob"])
