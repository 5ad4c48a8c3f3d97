"""The graph under load: what it costs beside its engine, a burst, replicas that are killed.

    python -m tests.benchmarks.serve_load
    python -m tests.benchmarks.serve_load --clients 20 --seconds 15

The engine only sleeps, 2 to 4 seconds a sample; the HTTP proxy, the ingress, the router, the student's replicas and a
boosted ranker are real. All of them and the clients share this machine. A client asks, waits for its answer, and asks
again. It knows what every vote must come to, and how long the vote would take with no overhead: the samples, their
times and their scores are functions of question and seed, so it replays the vote on them. Overhead is the time of the
request beyond that.

    steady   clients at several levels; the last level is --clients for --seconds
    killed   --clients, while a replica of the student or of the ranker is killed every 20 seconds
    burst    a tenth of --clients, then --clients, then a tenth again, on a student that scales

`processor_ms_per_vote` says which process computed for how long. It hardly depends on what else the machine does, and
tells how many cores a rate of votes needs. Overhead below that rate is measured at the lower levels.
"""

import argparse
import asyncio
import functools
import heapq
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil

from actors.ranking.folder import open_ranker
from algorithms.prompts import INSTRUCTION
from algorithms.ranking.solutions import Solution
from algorithms.sampling import sample_seed
from algorithms.voting.online import Drawn, Limits, OnlineVote
from serve.policies import Policies
from serve.service import prompt_key
from tests.benchmarks.measured import write_result
from tests.fixtures.runs import ROOT, write_lines
from tests.fixtures.sleeping_engine import SleepingEngine, draw, question, right_answer, seconds

APPLICATION = "load"
MAX_SAMPLES = 16
PARALLEL = 4
NUM_PLANS = 600  # different requests
WARM_UP = 5.0  # seconds of a level that its times leave out
KILL_EVERY = 20.0
PLACES = 1024  # of a replica, where none shall wait for a place
BURST_PLACES = 64  # of a replica, where the student scales
BURST_REPLICAS = 6
ROLES = {  # part of a process's title -> its role in the graph
    ":Adaptive": "ingress",
    ":Student-": "students",
    ":Ranker": "rankers",
    "ProxyActor": "proxy",
    "ServeController": "controller",
    "multiprocessing": "answer processes",
}
SLOTS = 32  # they admit replicas and do not bind cores


@dataclass(frozen=True)
class Plan:
    """A request, what its vote must come to, and the time that its samples alone take."""

    body: dict
    answer: str
    used: int
    sample: int
    text: str
    seconds: float

    @property
    def decision(self):
        return self.answer, self.used, self.sample, self.text


@dataclass
class Tally:
    """What clients saw. `overheads` and `inner` in seconds: of the request, and of the vote inside the ingress."""

    answered: int = 0
    right: int = 0
    wrong: list = field(default_factory=list)
    lost: list = field(default_factory=list)
    refused: int = 0
    unscored: int = 0
    samples: int = 0
    overheads: list = field(default_factory=list)
    inner: list = field(default_factory=list)

    def counts(self):
        return {
            "answered": self.answered,
            "lost": len(self.lost),
            "wrong": len(self.wrong),
            "refused_429": self.refused,
            "votes_without_ranker": self.unscored,
            **({"first_lost": self.lost[0]} if self.lost else {}),
            **({"first_wrong": self.wrong[0]} if self.wrong else {}),
        }


def train_ranker(folder):
    """A boosted ranker of samples of the sleeping engine. Returns its folder."""
    chance, rows = random.Random(5), []
    for number in range(400):
        text = question(number)
        samples = [draw(text, chance.getrandbits(60))[0].text for _ in range(4)]
        rows.append({"question": text, "answer": str(right_answer(text)), "samples": samples})
    source = write_lines(folder / "samples.jsonl", rows)
    verb("jobs.grade", "--input", source, "--output", folder / "graded")
    small = ("--num-trees", 60, "--learning-rate", 0.2, "--min-leaf", 10, "--num-leaves", 7)
    verb("jobs.train", "--method", "ranker", "--data", folder / "graded", "--output", folder / "ranker", *small)
    return folder / "ranker"


def verb(*args):
    subprocess.run([sys.executable, "-m", *map(str, args)], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def make_plans(ranker, count):
    """Requests with their replayed votes."""
    scorer = open_ranker("ranker", str(ranker)).load("cpu", 1)
    return [make_plan(scorer, number) for number in range(count)]


def make_plan(scorer, number):
    text, seed = question(number), number * 7 + 1
    key = prompt_key((("user", f"{text}\n\n{INSTRUCTION}"),))
    drawn = [draw(text, sample_seed(seed, key, index)) for index in range(MAX_SAMPLES)]
    scores = scorer.score([Solution(text, sample.text, str(stated)) for sample, stated in drawn])
    policies = Policies.default(0.95).chosen(MAX_SAMPLES, None, None)
    vote = OnlineVote(policies.scored, Limits(MAX_SAMPLES, PARALLEL, 512), policies.counted)
    now, counted, running, finished = 0.0, 0, [], set()
    while True:
        for index in vote.start():
            heapq.heappush(running, (now + seconds(drawn[index][0]), index))
        if vote.stop_reason is not None:
            break
        now, index = heapq.heappop(running)
        finished.add(index)
        while counted in finished and vote.stop_reason is None:
            sample, stated = drawn[counted]
            equal = [str(stated)] if str(stated) in vote.answers else []
            vote.count(Drawn(counted, sample.num_tokens, str(stated), equal, scores[counted], sample.mean_logprob))
            counted += 1
    winner = vote.standings()[0]
    best = vote.best(winner.indices)
    body = {
        "model": "sluice",
        "messages": [{"role": "user", "content": text}],
        "seed": seed,
        "adaptive": {"max_samples": MAX_SAMPLES, "parallel": PARALLEL, "confidence": 0.95},
    }
    return Plan(body, winner.answer, vote.num_counted, best, drawn[best][0].text, now)


@dataclass
class Graph:
    """A running graph. `student` and `ranker`: numbers of replicas, from and to."""

    url: str

    @classmethod
    def start(cls, port, ranker, student, places, num_rankers, num_ingress):
        from ray import serve

        from serve.app import PreparedStudent, assemble
        from serve.settings import Settings

        light = {"num_cpus": 0.1, "downscale_delay_seconds": 15}
        settings = Settings.model_validate(
            {
                "students": {
                    "sluice": {
                        "student": "sleeping",
                        "max_batch": places,
                        "replicas": {"min_replicas": student[0], "max_replicas": student[1], **light},
                    }
                },
                "ranker": str(ranker),
                "ranker_replicas": {"min_replicas": num_rankers, "max_replicas": num_rankers, **light},
                "ingress": {"min_replicas": num_ingress, "max_replicas": num_ingress, **light},
                "limits": {"max_concurrent_per_key": 256},
            }
        )
        prepared = PreparedStudent(functools.partial(SleepingEngine, places), {"engine": "sleeping"}, {})
        serve.run(assemble(settings, {"sluice": prepared}), name=APPLICATION, route_prefix="/")
        return cls(f"http://127.0.0.1:{port}")

    @staticmethod
    def stop():
        from ray import serve

        serve.delete(APPLICATION)

    @staticmethod
    def num_students():
        from ray import serve

        deployments = serve.status().applications[APPLICATION].deployments
        return deployments["Student-sluice"].replica_states.get("RUNNING", 0)

    @staticmethod
    def kill(deployment):
        """Kill one of a deployment's replicas."""
        import ray

        prefix = f"SERVE_REPLICA::{APPLICATION}#{deployment}#"
        actors = [each for each in ray.util.list_named_actors(all_namespaces=True) if each["name"].startswith(prefix)]
        victim = random.choice(actors)
        ray.kill(ray.get_actor(victim["name"], namespace=victim["namespace"]), no_restart=True)


class Clients:
    """Closed-loop clients of a graph."""

    def __init__(self, graph, plans):
        self._url = f"{graph.url}/v1/chat/completions"
        self._plans = itertools.cycle(plans)

    async def work(self, num_clients, duration):
        """Ask for so many seconds. What was asked is waited for."""
        tally = Tally()
        began = time.monotonic()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        client = httpx.AsyncClient(limits=limits, timeout=120, trust_env=False)
        async with client as http, asyncio.TaskGroup() as group:
            for _ in range(num_clients):
                group.create_task(self._client(http, tally, began, began + duration))
        return tally

    async def _client(self, http, tally, began, until):
        await asyncio.sleep(random.uniform(0, min(4.0, (until - began) / 4)))  # not in step
        while time.monotonic() < until:
            await self._ask(http, next(self._plans), tally, began)

    async def _ask(self, http, plan, tally, began):
        """One request. While the server is full, ask again when it says so."""
        while True:
            started = time.monotonic()
            try:
                reply = await http.post(self._url, json=plan.body)
            except httpx.HTTPError as error:
                tally.lost.append(repr(error))
                return
            took = time.monotonic() - started
            if reply.status_code != 429:
                break
            tally.refused += 1
            if "retry-after" not in reply.headers:
                tally.lost.append("429 without Retry-After")
                return
            await asyncio.sleep(float(reply.headers["retry-after"]) * random.uniform(1, 1.5))
        if reply.status_code != 200:
            tally.lost.append(f"{reply.status_code} {reply.text[:200]}")
            return
        body = reply.json()
        report, text = body["adaptive"], body["choices"][0]["message"]["content"]
        tally.answered += 1
        tally.samples += report["samples"]["used"] + report["samples"]["cancelled"]
        if report["ranker"] != "used":
            tally.unscored += 1
        elif (report["answer"], report["samples"]["used"], report["sample"], text) != plan.decision:
            tally.wrong.append(json.dumps({"body": plan.body, "expected": plan.answer, "report": report}))
        if started - began > WARM_UP:
            tally.overheads.append(took - plan.seconds)
            tally.inner.append(report["seconds"] - plan.seconds)


def processor_seconds():
    """Processor time of the graph so far, by role. The clients are this process."""
    found = Counter()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            title, times = " ".join(process.cmdline()), process.cpu_times()
            role = next((role for part, role in ROLES.items() if part in title), "rest of Ray")
            found[role] += times.user + times.system
    times = psutil.Process().cpu_times()
    found["clients"] = times.user + times.system
    return found


def steady(graph, plans, num_clients, duration):
    load, _ = os.getloadavg()[0], psutil.cpu_percent()
    began, before = time.monotonic(), processor_seconds()
    tally = asyncio.run(Clients(graph, plans).work(num_clients, duration))
    took = time.monotonic() - began
    used = processor_seconds()
    per_vote = {role: round((used[role] - before[role]) * 1000 / max(tally.answered, 1), 1) for role in used}
    return {
        "clients": num_clients,
        "seconds": round(duration),
        **tally.counts(),
        "votes_per_second": round(tally.answered / took, 1),
        "samples_per_second": round(tally.samples / took, 1),
        "overhead_ms": percentiles(tally.overheads),
        "overhead_inside_the_ingress_ms": percentiles(tally.inner),
        "processor_ms_per_vote": {**per_vote, "all": round(sum(per_vote.values()), 1)},
        "processor_percent": round(psutil.cpu_percent()),
        "load_before": round(load, 1),
    }


def percentiles(values):
    if not values:
        return None
    return {f"p{each}": round(float(np.percentile(values, each)) * 1000, 1) for each in (50, 95, 99)}


def killed(graph, plans, num_clients, duration):
    kills = Counter()
    over = threading.Event()

    def killer():
        for deployment in itertools.cycle(("Student-sluice", "Ranker")):
            if over.wait(KILL_EVERY if kills else KILL_EVERY / 2):
                return
            graph.kill(deployment)
            kills[deployment] += 1

    thread = threading.Thread(target=killer, daemon=True)
    thread.start()

    async def work():
        tally = await Clients(graph, plans).work(num_clients, duration)
        over.set()
        return tally

    tally = asyncio.run(work())
    thread.join()
    return {
        "clients": num_clients,
        "seconds": round(duration),
        "replicas_killed": dict(kills),
        **tally.counts(),
        "overhead_ms": percentiles(tally.overheads),
    }


class Replicas(threading.Thread):
    """Watches how many replicas of the student run."""

    def __init__(self, graph):
        super().__init__(daemon=True)
        self._graph = graph
        self._began = time.monotonic()
        self._over = threading.Event()
        self.changes = []  # (second, replicas)

    def run(self):
        while not self._over.wait(0.5):
            count = self._graph.num_students()
            if not self.changes or self.changes[-1][1] != count:
                self.changes.append((round(time.monotonic() - self._began), count))

    def stop(self):
        self._over.set()
        self.join()


def burst(graph, plans, num_clients, duration):
    """A tenth of the clients, all of them, a tenth again until the student is as small as before."""
    few = max(1, num_clients // 10)
    watch = Replicas(graph)
    watch.start()
    phases = {}
    began = time.monotonic()
    for name, count, length in (
        ("before", few, duration / 3),
        ("burst", num_clients, duration),
        ("after", few, duration),
    ):
        started = round(time.monotonic() - began)
        tally = asyncio.run(Clients(graph, plans).work(count, length))
        phases[name] = {"clients": count, "from_second": started, **tally.counts()}
    limit = time.monotonic() + 120
    while graph.num_students() > 1 and time.monotonic() < limit:
        time.sleep(1)
    time.sleep(1)
    watch.stop()
    return {"places_of_a_replica": BURST_PLACES, **phases, "replicas_at_second": watch.changes}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--ingress", type=int, default=1, help="replicas of the ingress")
    parser.add_argument("--phases", nargs="+", default=["steady", "killed", "burst"])
    flags = parser.parse_args()
    results = run(flags.clients, flags.seconds, flags.ingress, flags.phases)
    print(write_result("serve_load", results).read_text())


def run(num_clients, duration, num_ingress, phases):
    """All phases. Returns their numbers."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's replicas give way to every other process otherwise
    import ray
    from ray import serve

    results = {"ingress_replicas": num_ingress}
    with tempfile.TemporaryDirectory() as name:
        ranker = train_ranker(Path(name))
        plans = make_plans(ranker, NUM_PLANS)
        results["ideal_seconds_of_a_vote"] = round(float(np.mean([plan.seconds for plan in plans])), 2)
        results["samples_of_a_vote"] = round(float(np.mean([plan.used for plan in plans])), 2)
        ray.init(num_cpus=SLOTS, include_dashboard=False, log_to_driver=False)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            if {"steady", "killed"} & set(phases):
                graph = Graph.start(port, ranker, (2, 2), PLACES, 2, num_ingress)
                if "steady" in phases:
                    levels = sorted({max(1, num_clients // 20), max(1, num_clients // 4)})
                    results["steady"] = [steady(graph, plans, count, duration / 4) for count in levels]
                    results["steady"].append(steady(graph, plans, num_clients, duration))
                if "killed" in phases:
                    results["killed"] = killed(graph, plans, num_clients, duration * 2 / 3)
                graph.stop()
            if "burst" in phases:
                graph = Graph.start(port, ranker, (1, BURST_REPLICAS), BURST_PLACES, 1, num_ingress)
                results["burst"] = burst(graph, plans, num_clients, duration / 2)
        finally:
            serve.shutdown()
            ray.shutdown()
    return results


if __name__ == "__main__":
    main()
