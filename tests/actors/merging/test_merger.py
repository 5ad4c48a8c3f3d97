"""The merger against endpoints that fail in every way, and its replies on storage."""

import asyncio
import pickle

import pytest

from actors.engines import openai as openai_engine
from actors.engines.build import OpenAIFactory
from actors.errors import UserError
from actors.merging.build import EndpointMergerFactory
from actors.merging.merger import EngineMerger
from actors.runs.folder import open_run_folder
from actors.runs.replies import Replies
from algorithms.refinement.requests import MergeReply, MergeRequest
from algorithms.sampling import Sample
from tests.fixtures.merge_endpoint import merge_endpoint

REQUEST = MergeRequest("How many?", "1 + 1 = 2.", "So there are 2.")


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(openai_engine, "FIRST_WAIT_SECONDS", 0.02)
    monkeypatch.setattr(openai_engine, "LONGEST_WAIT_SECONDS", 0.05)


def merger_of(url, folder, patience=0.3):
    factory = EndpointMergerFactory(OpenAIFactory(url, "m", "none", 4, patience, request_seconds=1.0))
    return pickle.loads(pickle.dumps(factory))(None, open_run_folder(str(folder)))


def ask(merger, *requests):
    async def all_at_once():
        return await asyncio.gather(*map(merger.merge, requests or [REQUEST]))

    return asyncio.run(all_at_once())


def test_a_reply_is_cleaned_and_kept_for_whoever_asks_next(tmp_path):
    with merge_endpoint(lambda first, second: f'Merged step: "{first}"') as server:
        assert ask(merger_of(server.url, tmp_path)) == [MergeReply("1 + 1 = 2.")]
        assert ask(merger_of(server.url, tmp_path)) == [MergeReply("1 + 1 = 2.")]
        other = MergeRequest("How many?", "1 + 1 = 2.", "So there are two.")
        ask(merger_of(server.url, tmp_path), other)
        assert [second for _, _, second in server.asked] == ["So there are 2.", "So there are two."]
    assert len(list((tmp_path / "_replies").glob("*/*.json"))) == 2


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("", MergeReply("")),  # the rules of algorithms.refinement.merging refuse it
        ("x" * 50_000, MergeReply("x" * 50_000)),
        ((200, "text/html", "<html>Please log in</html>"), MergeReply(problem="endpoint_down")),
        ((200, "application/json", '{"detail": "no"}'), MergeReply(problem="endpoint_down")),
        ((503, "text/plain", "later"), MergeReply(problem="endpoint_down")),
        ((500, "application/json", "{}"), MergeReply(problem="endpoint_down")),
        ((400, "application/json", '{"error": {"message": "too long"}}'), MergeReply(problem="refused")),
    ],
)
def test_a_bad_reply_costs_a_merge_and_no_row(tmp_path, reply, expected, monkeypatch):
    monkeypatch.setattr(openai_engine, "VERDICT_SECONDS", 0.1)
    with merge_endpoint(lambda first, second: reply) as server:
        assert ask(merger_of(server.url, tmp_path)) == [expected]


def test_an_endpoint_that_is_gone_is_not_waited_for_twice(tmp_path):
    with merge_endpoint() as server:
        url = server.url
    merger = merger_of(url, tmp_path)
    requests = [MergeRequest("q", "1 + 1 = 2.", f"So {number}.") for number in range(40)]
    assert set(ask(merger, *requests)) == {MergeReply(problem="endpoint_down")}
    assert not (tmp_path / "_replies").exists()


def test_an_endpoint_that_refuses_access_ends_the_run(tmp_path):
    with (
        merge_endpoint(lambda first, second: (401, "application/json", "{}")) as server,
        pytest.raises(UserError, match="refuses access"),
    ):
        ask(merger_of(server.url, tmp_path))


class _Cut:
    concurrency = 1

    async def sample(self, request):
        return Sample("1 + 1", 512, "length", None)


def test_a_reply_without_an_end_is_no_merge():
    assert ask(EngineMerger(_Cut(), is_chat=True)) == [MergeReply(problem="cut")]


def test_another_model_has_replies_of_its_own(tmp_path):
    replies = Replies(open_run_folder(str(tmp_path)))
    replies.save(("one", REQUEST), {"text": "half \ud83d"})
    assert replies.find(("one", REQUEST)) == {"text": "half \ud83d"}
    assert replies.find(("other", REQUEST)) is None
