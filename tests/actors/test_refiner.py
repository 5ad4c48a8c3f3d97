"""The refiner as the plain callable it is, without Ray Data, with a table scorer."""

import asyncio
import functools
import time
from collections import Counter

import pyarrow as pa
import pytest

from actors.errors import SessionLost, UserError
from actors.refiner import Refiner, RefinerOptions
from actors.runs import ledger
from actors.runs.corpus import CHAIN_SCHEMA
from actors.runs.folder import open_run_folder
from actors.runs.journal import Journal, read_notes
from actors.runs.records import RecordStore
from actors.runs.session import begin_session
from algorithms.chains import Chain
from algorithms.refinement.policy import Policy
from algorithms.refinement.refine import refine
from algorithms.row_errors import RowError
from tests.fixtures.rows import chain_row
from tests.fixtures.runs import records
from tests.fixtures.scripted_merger import ScriptedMerger, ScriptedMergerFactory
from tests.fixtures.table_scorer import TableScorer, look_up

POLICY = Policy(t1=1.0, unmerged="drop")
REFINING = RefinerOptions(POLICY)


def refiner(folder, scorer=TableScorer, session="s", how=REFINING):
    run = open_run_folder(str(folder))
    begin_session(run, session)
    return Refiner(scorer, how, run, session)


def table_of(rows):
    return pa.Table.from_pylist(rows, schema=CHAIN_SCHEMA)


def call(actor, *batches):
    async def all_batches():
        return await asyncio.gather(*(actor(table_of(batch)) for batch in batches))

    return asyncio.run(all_batches())


def refined_alone(given):
    generator = refine(Chain(given["question"], tuple(given["steps"]), given["answer"]), POLICY)
    request = next(generator)
    while True:
        try:
            request = generator.send([look_up(variant.text) for variant in request.variants])
        except StopIteration as stop:
            return list(stop.value.steps)


def test_many_batches_at_once_give_each_row_what_it_gets_alone(tmp_path):
    rows = [chain_row(number) for number in range(60)]
    stats = call(refiner(tmp_path), rows[:25], rows[25:26], rows[26:])
    assert [each.to_pylist() for each in stats] == [[{"num_rows": n, "num_done_before": 0}] for n in (25, 1, 34)]
    found = records(tmp_path)
    assert {row_id: record["refined_steps"] for row_id, record in found.items()} == {
        each["id"]: refined_alone(each) for each in rows
    }
    assert {record["status"] for record in found.values()} == {"refined", "unchanged"}
    for record in found.values():
        assert len(record["edits"]) == 4 - len(record["refined_steps"])
        assert (record["reason"] is None) == (record["status"] == "refined")
        assert record["tokens_naive"] >= record["tokens_scored"] > 0
    assert not list((tmp_path / "_journal").iterdir())


def test_broken_rows_are_quarantined_and_rows_done_before_are_left_out(tmp_path):
    call(
        refiner(tmp_path),
        [chain_row(1), chain_row(2, reason="invalid_json: x", steps=None, question=None, answer=None)],
    )
    assert records(tmp_path)["r2"]["reason"] == "invalid_json: x"
    [stats] = call(refiner(tmp_path), [chain_row(1), chain_row(2), chain_row(3)])
    assert stats.to_pylist() == [{"num_rows": 3, "num_done_before": 2}]
    assert set(records(tmp_path)) == {"r1", "r2", "r3"}


def test_rows_that_come_in_during_the_last_commit_are_not_forgotten(tmp_path, monkeypatch):
    actor = refiner(tmp_path)
    write = ledger.write_records
    late = []

    def slow_commit(*arguments):
        # Runs in a thread: the event loop takes in the second batch meanwhile.
        if not late:
            late.append(asyncio.run_coroutine_threadsafe(actor(table_of([chain_row(2)])), loop[0]))
            time.sleep(0.2)
        return write(*arguments)

    monkeypatch.setattr(ledger, "write_records", slow_commit)
    loop = []

    async def first_then_late():
        loop.append(asyncio.get_running_loop())
        await actor(table_of([chain_row(1)]))
        await asyncio.wait_for(asyncio.wrap_future(late[0]), timeout=20)

    asyncio.run(first_then_late())
    assert set(records(tmp_path)) == {"r1", "r2"}


def test_a_batch_that_is_delivered_twice_is_done_once(tmp_path):
    rows = [chain_row(number) for number in range(30)]
    actor = refiner(tmp_path)
    stats = call(actor, rows, rows, rows[10:])
    assert [each["num_rows"].to_pylist() for each in stats] == [[30], [30], [20]]
    assert call(actor, rows)[0]["num_done_before"].to_pylist() == [30]
    assert len(records(tmp_path)) == 30


def test_only_the_last_session_may_write(tmp_path):
    first = refiner(tmp_path, session="first")
    second = refiner(tmp_path, session="second")
    with pytest.raises(SessionLost, match="another session has taken over"):
        call(first, [chain_row(1)])
    call(second, [chain_row(2)])
    assert set(records(tmp_path)) == {"r2"}


def test_a_worker_that_cannot_see_the_run_says_so(tmp_path):
    with pytest.raises(UserError, match="cannot see output"):
        Refiner(TableScorer, RefinerOptions(POLICY), open_run_folder(str(tmp_path / "elsewhere")), "s")


def test_finished_rows_are_committed_during_a_long_pass(tmp_path):
    seen = []

    class Slow(TableScorer):
        def score(self, tasks):
            if len(tasks) == 1 and tasks[0].request.variants[0].text.startswith("q9"):
                deadline = time.monotonic() + 20
                while not records(tmp_path) and time.monotonic() < deadline:
                    time.sleep(0.05)
                seen.append(len(records(tmp_path)))
            return super().score(tasks)

    rows = [chain_row(1, reason="no_steps"), chain_row(9)]
    call(refiner(tmp_path, Slow), rows)
    assert seen[0] == 1


def test_metrics_count_what_is_committed(tmp_path, monkeypatch):
    counted = Counter()

    def inc(self, value=1.0, tags=None):
        counted[(self.info["name"], *(tags or {}).values())] += value

    monkeypatch.setattr("ray.util.metrics.Counter.inc", inc)
    call(refiner(tmp_path), [chain_row(number) for number in range(20)], [chain_row(99, reason="no_steps")])
    totals = RecordStore(open_run_folder(str(tmp_path))).totals()
    sums = {(f"sluice_{name}",): value for name, value in totals.sums.items() if value}
    assert counted == {
        **{("sluice_records", status): number for status, number in totals.statuses.items()},
        **{name: pytest.approx(value) for name, value in sums.items()},
    }
    assert {name for (name,) in sums} > {"sluice_forward_seconds", "sluice_tokens_scored"}
    assert totals.statuses["quarantined"] == 1


def test_an_empty_batch_and_one_of_broken_rows_only_return(tmp_path):
    stats = call(refiner(tmp_path), [], [chain_row(1, reason="no_steps")])
    assert [each["num_rows"].to_pylist() for each in stats] == [[0], [1]]


def test_suspects_are_tried_alone_and_a_convict_is_quarantined(tmp_path):
    folder = open_run_folder(str(tmp_path)).journal
    folder.make_folder()
    journal = Journal(folder, "s")
    for dead in (["r1"], ["r1"], *2 * [[f"r{number}" for number in range(16)]]):
        journal.begin(dead, alone=len(dead) == 1)  # a process that dies leaves its note
    seen = []

    class Watcher(TableScorer):
        def score(self, tasks):
            seen.append({task.request.variants[0].text.split()[0] for task in tasks})
            return super().score(tasks)

    call(refiner(tmp_path, Watcher), [chain_row(number) for number in range(20)])
    found = records(tmp_path)
    assert len(found) == 20
    assert found["r1"]["reason"] == "kills_the_process"
    assert max(map(len, seen[:-4])) <= 2  # 16 suspects go in groups of 2
    assert not any("q1" in texts for texts in seen)


def test_a_failing_scorer_fails_the_call_and_not_the_rows(tmp_path):
    class Broken(TableScorer):
        def score(self, tasks):
            raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        call(refiner(tmp_path, Broken), [chain_row(1), chain_row(2, reason="no_steps")])
    # What was finished is kept, and the notes of what was in flight say why the process ends.
    assert set(records(tmp_path)) == {"r2"}
    errors = {note.error for note in read_notes(open_run_folder(str(tmp_path)).journal)}
    assert errors == {"RuntimeError: device lost"}


def test_one_row_of_a_pass_that_raises_is_quarantined_and_the_others_are_refined(tmp_path):
    class Picky(TableScorer):
        def score(self, tasks):
            if any(task.request.variants[0].text.startswith("q3\n") for task in tasks):
                raise IndexError("no\nsuch token")
            return super().score(tasks)

    rows = [chain_row(number) for number in range(12)]
    call(refiner(tmp_path, Picky), rows)
    found = records(tmp_path)
    assert found.pop("r3")["reason"] == "raised: IndexError: no such token"
    assert {row_id: record["refined_steps"] for row_id, record in found.items()} == {
        each["id"]: refined_alone(each) for each in rows if each["id"] != "r3"
    }


def test_a_device_that_breaks_does_not_quarantine_rows_that_fill_passes_of_their_own(tmp_path):
    class Breaking(TableScorer):
        scored = 0

        def score(self, tasks):
            self.scored += len(tasks)
            if self.scored > 2:
                raise RuntimeError("device lost")
            return super().score(tasks)

    with pytest.raises(RuntimeError, match="device lost"):
        call(refiner(tmp_path, functools.partial(Breaking, token_budget=1)), [chain_row(n) for n in range(9)])
    reasons = [record["reason"] for record in records(tmp_path).values() if record["status"] == "quarantined"]
    assert reasons in ([], ["raised: RuntimeError: device lost"])


def test_a_row_whose_preparation_raises_is_quarantined_alone(tmp_path):
    class Picky(TableScorer):
        async def prepare(self, request, after=None):
            text = request.variants[0].text
            if text.startswith("q3\n") and after is None:
                raise KeyError("token")
            if text.startswith("q4\n"):
                raise RowError("too_long", "9 tokens")
            return await super().prepare(request, after)

    call(refiner(tmp_path, Picky), [chain_row(number) for number in range(8)])
    found = records(tmp_path)
    assert len(found) == 8
    reasons = {row_id: each["reason"] for row_id, each in found.items() if each["status"] == "quarantined"}
    assert reasons == {"r3": "raised: KeyError: 'token'", "r4": "too_long: 9 tokens"}


def test_a_users_error_in_a_preparation_ends_the_call(tmp_path):
    class Wrong(TableScorer):
        async def prepare(self, request, after=None):
            raise UserError("no tokenizer")

    with pytest.raises(UserError, match="no tokenizer"):
        call(refiner(tmp_path, Wrong), [chain_row(number) for number in range(8)])
    assert not records(tmp_path)


def test_rows_are_taken_on_again_after_a_failure(tmp_path):
    class FailsOnce(TableScorer):
        failed = False

        def score(self, tasks):
            if not self.failed:
                self.failed = True
                raise UserError("not now")
            return super().score(tasks)

    rows = [chain_row(number) for number in range(30)]
    actor = refiner(tmp_path, functools.partial(FailsOnce, token_budget=256))

    async def again():
        with pytest.raises(UserError, match="not now"):
            await actor(table_of(rows))
        await refiner(tmp_path)(table_of(rows[:10]))
        await actor(table_of(rows[10:]))

    asyncio.run(again())
    assert len(records(tmp_path)) == 30


def test_rows_whose_preparation_is_slow_hold_up_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr("actors.runs.ledger.COMMIT_SECONDS_AT_LEAST", 0.0)
    monkeypatch.setattr("actors.runs.ledger.POLL_SECONDS", 0.01)
    slow, committed_before = ("q3\n", "q4\n"), []

    class Slow(TableScorer):
        async def prepare(self, request, after=None):
            if request.variants[0].text.startswith(slow):
                deadline = time.monotonic() + 20
                while len(records(tmp_path)) < 28 and time.monotonic() < deadline:
                    await asyncio.sleep(0.02)
                committed_before.append(len(records(tmp_path)))
            return await super().prepare(request, after)

    rows = [chain_row(number) for number in range(30)]
    call(refiner(tmp_path, functools.partial(Slow, token_budget=512)), rows)
    assert committed_before[0] == 28
    assert {row_id: record["refined_steps"] for row_id, record in records(tmp_path).items()} == {
        each["id"]: refined_alone(each) for each in rows
    }


def test_the_next_pass_is_prepared_while_one_runs_and_not_many_more(tmp_path):
    ahead = []

    class Watched(TableScorer):
        prepared = scored = 0

        async def prepare(self, request, after=None):
            task = await super().prepare(request, after)
            self.prepared += task.num_new_tokens
            return task

        def score(self, tasks):
            self.scored += sum(task.num_new_tokens for task in tasks)
            time.sleep(0.02)
            ahead.append(self.prepared - self.scored)
            return super().score(tasks)

    budget = 4000
    call(refiner(tmp_path, functools.partial(Watched, token_budget=budget)), [chain_row(n) for n in range(200)])
    middle = ahead[2:-10]
    assert min(middle) > 0
    # Two passes, and what was begun before it was known how large it is.
    assert max(middle) < 4 * budget


def test_finished_rows_are_committed_while_slow_ones_are_at_work(tmp_path, monkeypatch):
    monkeypatch.setattr("actors.runs.ledger.COMMIT_SECONDS_AT_LEAST", 0.0)
    monkeypatch.setattr("actors.runs.ledger.POLL_SECONDS", 0.01)
    committed = []

    class Slow(TableScorer):
        def score(self, tasks):
            time.sleep(0.05)
            committed.append(len(records(tmp_path)))
            return super().score(tasks)

    call(refiner(tmp_path, functools.partial(Slow, token_budget=256)), [chain_row(number) for number in range(40)])
    assert committed[-1] > 20


def merging(make_merger, rows=40, **policy):
    return RefinerOptions(Policy(t1=0.01, t2=9.0, ask_merger=True, **policy), 0.0, make_merger, rows)


def merge_rows(count):
    """Rows whose steps share words, so that the longer of two steps is a faithful merge."""
    steps = ["Look at the numbers.", "Look at the numbers once more.", "So it is done."]
    return [chain_row(number, steps=[*steps, f"The answer is {number}."]) for number in range(count)]


def test_rows_wait_for_merges_together_and_each_attempt_is_recorded(tmp_path):
    merger = ScriptedMerger(0.05)
    actor = refiner(tmp_path, how=merging(lambda scorer, run: merger))
    rows = merge_rows(30)
    call(actor, rows)
    found = records(tmp_path)
    assert len(found) == 30
    assert merger.most_waiting >= 20  # all the others are scored, or wait as well
    assert merger.num_asked == sum(len(record["merges"]) for record in found.values())
    for record in found.values():
        accepted = [merge for merge in record["merges"] if merge["outcome"] == "accepted"]
        assert [merge["text"] for merge in accepted] == [
            edit["after"] for edit in record["edits"] if edit["action"] == "merge"
        ]
        assert record["refined_steps"][-1] == record["steps"][-1]
    assert {merge["outcome"] for record in found.values() for merge in record["merges"]} >= {"accepted"}


def test_an_endpoint_that_is_down_leaves_rows_to_the_policy(tmp_path):
    for unmerged, left in (("keep", 4), ("drop", 1), ("stop", 4)):
        folder = tmp_path / unmerged
        how = merging(ScriptedMergerFactory(problem="endpoint_down"), unmerged=unmerged)
        call(refiner(folder, how=how), merge_rows(5))
        found = records(folder)
        assert [len(record["refined_steps"]) for record in found.values()] == [left] * 5
        assert {merge["outcome"] for record in found.values() for merge in record["merges"]} == {"endpoint_down"}


def test_a_merger_that_must_end_the_run_ends_it(tmp_path):
    class Refused(ScriptedMerger):
        async def merge(self, request):
            raise UserError("the endpoint refuses access")

    actor = refiner(tmp_path, how=merging(lambda scorer, run: Refused()))
    with pytest.raises(UserError, match="refuses access"):
        call(actor, merge_rows(3))


def test_the_control_is_a_share_of_the_rows_that_every_session_agrees_on(tmp_path):
    how = RefinerOptions(POLICY, 0.4)
    rows = [chain_row(number) for number in range(200)]
    call(refiner(tmp_path, how=how), rows)
    found = records(tmp_path)
    chosen = {row_id for row_id, record in found.items() if record["control_steps"] is not None}
    assert 50 < len(chosen) < 110
    assert chosen == {row["id"] for row in rows if how.has_control(row["id"])}
    for row_id in chosen:
        record = found[row_id]
        assert len(record["control_steps"]) == len(record["refined_steps"])
        assert record["control_ppl"] > 0
        assert set(record["control_steps"]) <= set(record["steps"])
    assert {found[row["id"]]["control_ppl"] for row in rows if row["id"] not in chosen} == {None}
