"""The running graph against offline replays, and adaptive against fixed voting with a real model.

    python -m tests.benchmarks.serve_votes

Recorded: a student plays back both teachers' samples of MATH. A ranker is trained on one part of the problems, rules
are fitted on the second by `jobs.evaluate`, and the graph answers the third through its HTTP endpoint, scoring each
sample anew. The same samples are replayed offline, by one loop over samples, and each decision is compared.

Embedded: the embedded model answers GSM8K questions through the graph, four at a time, with adaptive voting and with
eight samples for every question. The questions and seeds are the same.

With --folder FOLDER the graded and ranked runs are kept there, and the command, repeated, makes none again.
"""

import argparse
import asyncio
import functools
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openai
import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.engines.protocol import Piece, SampleRequest
from algorithms.answers.classes import answer_classes
from algorithms.grading import grade
from algorithms.sampling import Sample, sample_seed
from algorithms.voting.intervals import bootstrap_difference, bootstrap_mean
from algorithms.voting.policy import Policy
from algorithms.voting.tally import Candidates, Count
from algorithms.voting.votes import class_totals
from serve.service import prompt_key
from tests.benchmarks.grade_corpora import CORPORA
from tests.benchmarks.measured import SHARED_DATA, write_result
from tests.benchmarks.votes import verb

TEACHERS = ("gpt-3.5-turbo", "gpt-4")
SEED = 7
COLUMNS = ("question", "rationale", "answer", "answer_class", "correct", "score", "split", "sample_index", "num_tokens")
FIXED = 8
CONCURRENCY = 4


@dataclass
class Playback:
    """An engine that plays back recorded samples: question -> texts, in the file at `path`."""

    path: str
    concurrency: int = 256
    forward_seconds: float = 0.0

    def __post_init__(self):
        self.texts = json.loads(Path(self.path).read_text())

    async def stream(self, request: SampleRequest) -> AsyncIterator[Piece]:
        texts = self.texts[request.prompt[-1][1]]
        key = prompt_key(request.prompt)
        seeds = [sample_seed(SEED, key, index) for index in range(len(texts))]
        text = texts[seeds.index(request.params.seed)]
        num_tokens = max(len(text) // 4, 1)  # of no tokenizer: only their sums are compared
        yield Piece("", num_tokens, Sample(text, num_tokens, "stop", -0.5, None, 1))

    async def sample(self, request):
        raise NotImplementedError("the graph streams")

    def close(self):
        pass


# --- recorded samples


def prepared_runs(folder):
    """Graded and ranked runs of both teachers, and evaluations on the validation problems with 8 and 16 samples."""
    graded, ranked = ({teacher: folder / f"{kind}-{teacher}" for teacher in TEACHERS} for kind in ("graded", "ranked"))
    for teacher in TEACHERS:
        path, corpus_format = CORPORA[teacher]
        verb("jobs.grade", "--input", SHARED_DATA / path, "--format", corpus_format, "--output", graded[teacher])
    verb("jobs.train", "--method", "ranker", "--data", *graded.values(), "--output", folder / "ranker")
    for teacher in TEACHERS:
        verb("jobs.rank", "--input", graded[teacher], "--ranker", folder / "ranker", "--output", ranked[teacher])
    flags = ("--split", "validation", "--rule-vote", "posterior", "--rules", "gain")
    verb("jobs.evaluate", "--input", ranked[TEACHERS[0]], *flags, "--output", folder / "votes-8")
    verb("jobs.evaluate", "--input", *ranked.values(), *flags, "--output", folder / "votes-16")
    return ranked


def held_out(runs, num_problems):
    """question -> recorded samples of the problems of the split `held_out`, the teachers' samples in turn."""
    by_question = {}
    for run in runs:
        table = pq.read_table(run / "rows", columns=list(COLUMNS))
        table = table.filter(pc.equal(table["split"], "held_out"))
        for row in table.sort_by([("question", "ascending"), ("sample_index", "ascending")]).to_pylist():
            if row["rationale"] is not None:
                by_question.setdefault(row["question"], []).append(row)
    whole = 8 * len(runs)
    complete = {question: rows[:whole] for question, rows in by_question.items() if len(rows) >= whole}
    return dict(sorted(complete.items(), key=lambda item: prompt_key(item[0]))[:num_problems])


def replayed(policy, rows):
    """One loop over recorded samples with their recorded classes and scores: number used, and the winner's class."""
    count = Count()
    for number, row in enumerate(rows, start=1):
        count.add(row["answer_class"], row["score"], -0.5)
        if number == len(rows) or policy.rule(count.tally()):
            break
    used = rows[: count.num_seen]
    totals = totals_of(policy, used)
    winner = max(totals, key=totals.__getitem__) if totals else None
    return len(used), winner


def totals_of(policy, rows):
    candidates = Candidates([row["answer_class"] for row in rows], [row["score"] for row in rows])
    return class_totals(policy.vote, candidates, policy.posterior)


def is_right(rows, winner):
    """Whether most of the graded samples of the winning class are right."""
    grades = [row["correct"] for row in rows if row["answer_class"] == winner and row["correct"] is not None]
    return winner is not None and sum(grades) * 2 >= len(grades) > 0


def class_of(rows, answer):
    """The recorded class of an answer."""
    same = (row["answer_class"] for row in rows if row["answer"] is not None and row["answer"].strip() == answer)
    return next(same, None)


def joined(problems, num_runs):
    """Classes of several runs as one numbering for each question: equal answers share one."""
    if num_runs == 1:
        return problems
    for rows in problems.values():
        for row, number in zip(rows, answer_classes([row["answer"] for row in rows]), strict=True):
            row["answer_class"] = number
    return problems


def online(problems, folder, name, ranker, policy):
    """Each problem through the running graph: its block `adaptive`, and the seconds it took."""
    texts = {question: [row["rationale"] for row in rows] for question, rows in problems.items()}
    path = folder / f"playback-{name}.json"
    path.write_text(json.dumps(texts))
    settings = {
        "student": "recorded",
        "ranker": str(ranker),
        "policy": str(policy),
        "max_batch": 256,
        "limits": {"max_concurrent": 64},
        "adaptive": {"max_samples": len(next(iter(texts.values())))},
    }
    return asyncio.run(asked(settings, list(texts), {}, 16, Playback(str(path))))


def recorded(folder, ranked, num_samples, num_problems):
    """Online against offline, at 8 samples of one teacher or 16 of both."""
    runs = list(ranked.values())[: num_samples // 8]
    problems = joined(held_out(runs, num_problems), len(runs))
    policies = folder / f"votes-{num_samples}"
    policy = Policy.from_json(json.loads((policies / "policies.json").read_text())["gain"])
    replies, seconds = online(problems, folder, str(num_samples), folder / "ranker", policies)
    found = {"online": [], "offline": [], "all": []}
    used = {"online": [], "offline": []}
    differing = 0
    for reply, rows in zip(replies, problems.values(), strict=True):
        number, winner = replayed(policy, rows)
        mine = class_of(rows, reply["answer"])
        differing += (reply["samples"]["used"], mine) != (number, winner)
        used["online"].append(reply["samples"]["used"])
        used["offline"].append(number)
        found["online"].append(is_right(rows, mine))
        found["offline"].append(is_right(rows, winner))
        totals = totals_of(policy, rows)
        found["all"].append(is_right(rows, max(totals, key=totals.__getitem__) if totals else None))
    accuracy = {name: np.array(values, dtype=float) for name, values in found.items()}
    return {
        "problems": len(problems),
        "pool": num_samples,
        "accuracy_online": mean_of(accuracy["online"]),
        "accuracy_offline": mean_of(accuracy["offline"]),
        "accuracy_all_samples": mean_of(accuracy["all"]),
        "online_minus_all_samples": asdict_of(bootstrap_difference(accuracy["online"], accuracy["all"])),
        "samples_online": float(np.mean(used["online"])),
        "samples_offline": float(np.mean(used["offline"])),
        "decisions_that_differ": differing,
        "samples_per_second": round(sum(used["online"]) / seconds, 1),
    }


# --- the embedded model


def embedded(num_questions):
    """GSM8K questions with adaptive and with fixed voting."""
    lines = (SHARED_DATA / "gsm8k/test.jsonl").read_text().splitlines()[:num_questions]
    rows = [json.loads(line) for line in lines]
    questions = [row["question"] for row in rows]
    golds = [row["answer"].rsplit("####", 1)[1].strip() for row in rows]
    settings = {"student": "smollm2", "max_batch": 32, "threads": os.cpu_count()}
    number = {"answer": {"kind": "number"}, "max_samples": FIXED}
    ways = {
        "adaptive": {"max_samples": FIXED, **number},
        "fixed": {"min_samples": FIXED, "parallel": FIXED, **number},
    }
    facts, right = {}, {}
    for name, adaptive in ways.items():
        replies, seconds = asyncio.run(
            asked(settings, questions, {"adaptive": adaptive, "max_tokens": 256}, CONCURRENCY)
        )
        right[name] = np.array(
            [
                float(answers_equal(question, gold, reply["answer"]))
                for question, gold, reply in zip(questions, golds, replies, strict=True)
            ]
        )
        latencies = [reply["latency"] for reply in replies]
        facts[name] = {
            "accuracy": mean_of(right[name]),
            "samples": float(np.mean([reply["samples"]["used"] for reply in replies])),
            "samples_cancelled": float(np.mean([reply["samples"]["cancelled"] for reply in replies])),
            "tokens": float(np.mean([reply["tokens"] for reply in replies])),
            "seconds_p50": round(float(np.quantile(latencies, 0.5)), 2),
            "seconds_p95": round(float(np.quantile(latencies, 0.95)), 2),
            "seconds_in_all": round(seconds, 1),
            "stop_reasons": dict(sorted({reply["stop_reason"]: 0 for reply in replies}.items())),
        }
        for reply in replies:
            facts[name]["stop_reasons"][reply["stop_reason"]] += 1
    difference = asdict_of(bootstrap_difference(right["adaptive"], right["fixed"]))
    return {"questions": len(questions), "concurrency": CONCURRENCY, **facts, "adaptive_minus_fixed": difference}


def answers_equal(question, gold, answer):
    return answer is not None and grade(question, gold, f"\\boxed{{{answer}}}", last_number=False).correct is True


# --- both


async def asked(settings, questions, fields, concurrency, engine=None):
    """Serve a graph, ask all questions, and take the graph down. Each reply's block `adaptive` with its latency."""
    from ray import serve

    from serve.app import PreparedStudent, assemble, build
    from serve.settings import Settings

    checked = Settings.model_validate(settings)
    if engine is None:
        application = build(checked)
    else:
        prepared = PreparedStudent(functools.partial(type(engine), engine.path), {}, {"instruction": ""})
        application = assemble(checked, {"sluice": prepared})
    serve.run(application, name="benchmark", route_prefix="/")
    places = asyncio.Semaphore(concurrency)
    client = openai.AsyncOpenAI(base_url="http://127.0.0.1:8000/v1", api_key="any", max_retries=0, timeout=600)

    async def ask(question):
        async with places:
            started = time.perf_counter()
            reply = await client.chat.completions.create(
                model="sluice",
                messages=[{"role": "user", "content": question}],
                seed=SEED,
                max_tokens=fields.get("max_tokens", 512),
                extra_body={name: value for name, value in fields.items() if name != "max_tokens"},
            )
            return {**reply.adaptive, "latency": time.perf_counter() - started}

    started = time.perf_counter()
    replies = await asyncio.gather(*(ask(question) for question in questions))
    seconds = time.perf_counter() - started
    await client.close()
    serve.delete("benchmark")
    return replies, seconds


def mean_of(values):
    return asdict_of(bootstrap_mean(values))


def asdict_of(interval):
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where to keep the runs; without it, a temporary folder")
    parser.add_argument("--problems", type=int, default=400, help="held-out problems")
    parser.add_argument("--questions", type=int, default=100, help="GSM8K questions for the embedded model")
    args = parser.parse_args()
    import ray

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        ranked = prepared_runs(folder)
        ray.init(address="local", num_cpus=16, include_dashboard=False, log_to_driver=False)
        facts = {f"recorded_{size}": recorded(folder, ranked, size, args.problems) for size in (8, 16)}
        facts["embedded"] = embedded(args.questions)
        ray.shutdown()
    print(json.dumps(facts, indent=2))
    print(write_result("serve_votes", facts))


if __name__ == "__main__":
    main()
