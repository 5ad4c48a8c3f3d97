"""The endpoint decides on recorded samples what an offline replay of them decides."""

import asyncio

import httpx
import pytest

from algorithms.voting.policy import Policy
from algorithms.voting.pools import prefix_tally
from algorithms.voting.recorded import pools_of
from algorithms.voting.replay import first_stops, fit_gain, fit_posterior_on_prefixes
from algorithms.voting.stopping import Beta, BetaWeighted, Gain
from algorithms.voting.sweeps import Sweep
from algorithms.voting.tally import Candidates
from algorithms.voting.votes import winners
from serve.api.routes import create_api
from serve.policies import Policies
from serve.reading import AnswerReader
from tests.algorithms.voting.worlds import ranked_world
from tests.fixtures.serving import ScriptedEngine, TableRanker, make_service

BUDGET = 8
TRAINING = pools_of(ranked_world(300, BUDGET, seed=1))
POSTERIOR = fit_posterior_on_prefixes(TRAINING, [2, 4, 8])
GAIN = fit_gain(TRAINING, method="posterior", posterior=POSTERIOR, num_orders=2)
PROBLEMS = ranked_world(40, BUDGET, seed=3)
POLICIES = {
    "gain": Policy("posterior", Gain(0.01, maximum=BUDGET, model=GAIN, posterior=POSTERIOR), POSTERIOR),
    "beta-weighted": Policy("asc", BetaWeighted(0.8, maximum=BUDGET)),
    "beta": Policy("sc", Beta(0.9, maximum=BUDGET)),
}


def text(number, index):
    answer = PROBLEMS[number].candidates.classes[index]
    return f"Problem {number}, sample {index}" + ("." if answer is None else f": \\boxed{{{answer + 10}}}")


@pytest.mark.parametrize("name", POLICIES)
def test_the_endpoint_decides_as_the_replay_does(name):
    policy, pools = POLICIES[name], pools_of(PROBLEMS)
    sweep = Sweep(policy.rule, (policy.rule.threshold,))
    stops = first_stops(sweep, policy.rule.statistic(prefix_tally(pools)), pools.sizes)[:, 0] + 1
    script = {f"problem {number}": [text(number, index) for index in range(BUDGET)] for number in range(len(PROBLEMS))}
    scores = {
        text(number, index): problem.candidates.scores[index]
        for number, problem in enumerate(PROBLEMS)
        for index in range(BUDGET)
    }
    reader = AnswerReader(1)
    service = make_service(
        ScriptedEngine(script),
        TableRanker(scores),
        reader=reader,
        policies=Policies(policy, policy),
        adaptive={"max_samples": BUDGET},
    )

    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(create_api(service)), base_url="http://t") as client:
            bodies = [
                {"model": "sluice", "messages": [{"role": "user", "content": question}], "seed": 7}
                for question in script
            ]
            replies = await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for body in bodies))
        await reader.close()
        return [reply.json()["adaptive"] for reply in replies]

    for number, (report, problem) in enumerate(zip(asyncio.run(ask()), PROBLEMS, strict=True)):
        used = int(stops[number])
        assert report["samples"]["used"] == used
        seen = Candidates(problem.candidates.classes[:used], problem.candidates.scores[:used])
        found = winners(policy.vote, seen, policy.posterior)
        assert report["answer"] == (str(found[0] + 10) if found else None)
        if policy.posterior is not None and found:
            assert 0 < report["confidence"] <= 1
    assert 1 < stops.mean() < BUDGET
