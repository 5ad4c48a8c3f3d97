"""Runs of `jobs.demos` on Ray with a table scorer: the path, its files, bad inputs, and what a stopped run keeps."""

import functools
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from actors.errors import UserError
from algorithms.demonstrations import prompt_style
from algorithms.formats import parse_record
from algorithms.row_errors import RowError
from jobs import demos
from jobs.driver.prompts import prompt_style as style_of_flags
from jobs.reports import demos as demos_report
from tests.fixtures import flaky
from tests.fixtures.merge_endpoint import merge_endpoint
from tests.fixtures.runs import (
    command,
    kill_all,
    report,
    shorten_with_table,
    start,
    wait_for,
    write_aligned,
    write_lines,
)
from tests.fixtures.table_scorer import TableScorer, look_up
from tests.fixtures.verbs import call

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ray_session):
    """The folder of a finished run of two actors, with its inputs beside it."""
    folder = tmp_path_factory.mktemp("demos")
    flags = write_aligned(folder)
    assert shorten_with_table(**flags, output=str(folder / "run"), target_steps=2, num_actors="2") == 0
    return folder / "run"


def path_of(run):
    return json.loads((run / "path.json").read_text())


def chains(run, name):
    lines = (run.parent / f"{name}.jsonl").read_text().splitlines()
    return [parse_record(json.loads(line), "steps", {}, None) for line in lines]


def table_perplexity(demonstrations, calibration):
    """What the table says of a prompt: exp of the mean loss, where a text has as many scored tokens as letters."""
    texts = [
        prompt_style(demonstrations, "Q: {question}\nA:").prompt(chain.question) + " " + "\n".join(chain.steps)
        for chain in calibration
    ]
    return math.exp(sum(len(text) * math.log(look_up(text)) for text in texts) / sum(map(len, texts)))


def test_the_path_follows_the_perplexities_of_the_table(finished):
    """An independent loop over the same table must take the same path."""
    demonstrations, calibration = chains(finished, "demos"), chains(finished, "calibration")[:3]
    expected = [table_perplexity(demonstrations, calibration)]
    left = [0, 1, 2, 3, 4]
    gone = []
    while len(left) > 2:
        tried = {}
        for step in left[:-1]:
            kept = [each for each in left if each != step]
            shorter = [replace(chain, steps=tuple(chain.steps[each] for each in kept)) for chain in demonstrations]
            tried[step] = table_perplexity(shorter, calibration)
        step = min(tried, key=tried.get)
        left.remove(step)
        gone.append([step])
        expected.append(tried[step])
    found = path_of(finished)
    assert [stage["origins"] for stage in found["path"][1:]] == gone
    assert [stage["perplexity"] for stage in found["path"]] == pytest.approx(expected)
    assert [each["refined_steps"] for each in found["demonstrations"]] == [
        [chain.steps[each] for each in left] for chain in demonstrations
    ]


def test_the_controls_are_seeded_paths_of_the_same_length(finished):
    found = path_of(finished)
    assert [[stage["num_steps"] for stage in path] for path in found["controls"]] == [[5, 4, 3, 2]] * 10
    assert {path[0]["perplexity"] for path in found["controls"]} == {found["path"][0]["perplexity"]}
    assert len({str([stage["origins"] for stage in path]) for path in found["controls"]}) > 3
    rows = report(finished)["control"]
    assert [(row["num_steps"], row["paths"]) for row in rows] == [(5, 10), (4, 10), (3, 10), (2, 10)]
    last = [path[-1]["perplexity"] for path in found["controls"]]
    assert (rows[-1]["mean"], rows[-1]["low"], rows[-1]["high"]) == (
        pytest.approx(sum(last) / 10),
        min(last),
        max(last),
    )


def test_the_files_hold_the_prompt_as_sampling_reads_it(finished):
    assert sorted(path.name for path in finished.iterdir()) == [
        "demonstrations.jsonl", "manifest.json", "path.json", "prompt.txt", "report.html", "report.json",
        "template.txt",
    ]  # fmt: skip
    style = style_of_flags(str(finished / "template.txt"), "", str(finished / "demonstrations.jsonl"))
    text = (finished / "prompt.txt").read_text()
    assert style.prompt("And now?") == text + "Q: And now?\nA:"
    steps = path_of(finished)["demonstrations"][1]["refined_steps"]
    assert text.split("\n\n")[1] == "Q: What of d1?\nA: " + "\n".join(steps)


def test_each_prompt_is_scored_once_and_the_cost_is_told(finished):
    facts = report(finished)
    # SPIRIT scores the full prompt, and 4 + 3 + 2 candidates. Of 5 steps with the last kept, 1 + 4 + 6 + 4 exist.
    assert 1 + 4 + 3 + 2 <= facts["scoring"]["prompts_scored"] <= 15
    assert facts["scoring"]["ratio"] == pytest.approx(
        facts["scoring"]["tokens_separate_forwards"] / facts["scoring"]["tokens_forwarded"]
    )


def test_the_page_shows_the_path_and_strikes_through_what_went(finished):
    page = (finished / "report.html").read_text()
    assert (page.count("<article>"), page.count("<svg"), page.count("<del>")) == (2, 1, 6)
    assert "mean and range of 10 random paths" in page
    assert "2 demonstrations, from 5 to 2 steps" in page


def test_the_report_is_written_again(finished, capsys):
    before = (finished / "report.html").read_text()
    (finished / "report.html").unlink()
    assert call("report", finished) == 0
    assert (finished / "report.html").read_text() == before
    steps, ppl, chance, prompt, scoring, page = capsys.readouterr().out.splitlines()
    assert steps.startswith("steps       5 -> 2 (target): remove ")
    assert [ppl[:10], chance[:9], prompt[:6], scoring[:7], page[:6]] == [
        "perplexity", "by chance", "prompt", "scoring", "report",
    ]  # fmt: skip


def test_a_finished_run_is_not_done_again_and_another_is_refused(finished, capsys):
    flags = {name: str(finished.parent / f"{name}.jsonl") for name in ("demos", "calibration")}
    again = functools.partial(shorten_with_table, **flags, output=str(finished))
    assert again(target_steps=2, num_actors="1") == 0
    assert "is already finished" in capsys.readouterr().out
    for changes in ({"target_steps": 3}, {"target_steps": 2, "calibration_rows": 2}, {"target_steps": 2, "seed": 1}):
        with pytest.raises(UserError, match=f"belongs to another run: .*{list(changes)[-1]} was"):
            again(**changes)


def test_a_threshold_alone_ends_the_path_and_no_control_is_drawn_without_a_removal(tmp_path):
    flags = write_aligned(tmp_path)
    assert shorten_with_table(**flags, output=str(tmp_path / "run"), t2=0.001) == 0
    facts = report(tmp_path / "run")
    assert (facts["stopped"], facts["steps"], facts["control"]) == ("threshold", {"original": 5, "refined": 5}, [])
    assert shorten_with_table(**flags, output=str(tmp_path / "all"), t2=1000.0, control_paths=0) == 0
    facts = report(tmp_path / "all")
    assert (facts["stopped"], facts["steps"]["refined"], facts["control_paths"]) == ("nothing_removable", 1, 0)


def test_an_endpoint_merges_where_that_beats_removal(tmp_path, capsys):
    flags = write_aligned(tmp_path, num_demos=3)
    flags |= {"output": str(tmp_path / "run"), "target_steps": 2, "control_paths": 2}
    with merge_endpoint(lambda first, second: f"{first[:-1]}; {second.split()[2]};") as server:
        flags |= {"merge": "openai", "merge_url": server.url, "merge_model": "m"}
        assert shorten_with_table(**flags) == 0
        assert len(server.asked) == len(set(server.asked)) > 0
    found = path_of(tmp_path / "run")
    actions = [stage["action"] for stage in found["path"][1:]]
    assert "merge" in actions, "choose other texts: in this table no merge wins"
    assert len(found["merges"]) % 3 == 0
    assert "<ins>" in (tmp_path / "run" / "report.html").read_text()
    assert all(stage["action"] != "merge" for path in found["controls"] for stage in path)
    assert "merge " in capsys.readouterr().out


def test_rows_without_an_answer_and_repeated_questions_are_left_out_and_counted(tmp_path, capsys):
    flags = write_aligned(tmp_path, num_calibration=3)
    good = [json.loads(line) for line in Path(flags["calibration"]).read_text().splitlines()]
    demo = json.loads(Path(flags["demos"]).read_text().splitlines()[0])
    rows = [good[0] | {"answer": ""}, good[0] | {"steps": []}, demo, *good, good[0] | {"answer": None}]
    write_lines(flags["calibration"], rows)
    assert shorten_with_table(**flags, output=str(tmp_path / "run"), target_steps=4, control_paths=1) == 0
    left_out = {"empty_field": 1, "no_steps": 1, "is_a_demonstration": 1}
    assert report(tmp_path / "run")["calibration_left_out"] == left_out
    told = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    assert f"left out of --calibration: {told}" in capsys.readouterr().out


def bad(folder, **changes):
    """A command line with one thing wrong: the words after the verb."""
    flags = write_aligned(folder) | {"output": str(folder / "run"), "target_steps": 3, "calibration_rows": 3}
    return [word for name, value in (flags | changes).items() for word in (f"--{name.replace('_', '-')}", value)]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"target_steps": 5}, "--target-steps 5: the demonstrations have 5 steps, so it must be lower"),
        ({"target_steps": 0}, "--target-steps 0: Input should be greater than or equal to 1"),
        (
            {"calibration_rows": 9},
            "--calibration has 4 usable rows; --calibration-rows asks for 9: lower it, or give more rows",
        ),
        ({"template": "Q:"}, "--template 'Q:' has no {question} in it and is not a readable file"),
        ({"demos": "nowhere.jsonl"}, "--demos: no such file or folder: nowhere.jsonl"),
        ({"gpus_per_actor": 2}, "--gpus-per-actor 2: a scorer computes on one GPU. For more GPUs, raise --num-actors"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_flag_is_one_line_and_exit_status_2(changes, complaint, tmp_path, capsys):
    assert call("demos", *bad(tmp_path, **changes)) == 2
    assert capsys.readouterr() == ("", f"demos: error: {complaint}\n")
    assert not (tmp_path / "run").exists()


def test_neither_a_target_nor_a_threshold_is_refused(tmp_path, capsys):
    words = bad(tmp_path)
    at = words.index("--target-steps")
    assert call("demos", *words[:at], *words[at + 2 :]) == 2
    assert capsys.readouterr().err == "demos: error: --target-steps or --t2 is needed: they say when to stop\n"


def test_unaligned_demonstrations_are_named_with_their_steps(tmp_path, capsys):
    words = bad(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "demos.jsonl").read_text().splitlines()]
    write_lines(tmp_path / "demos.jsonl", [*rows, rows[0] | {"steps": ["The answer is 99."]}])
    assert call("demos", *words) == 2
    assert capsys.readouterr().err == (
        "demos: error: --demos must be aligned, with step j doing the same in each: 2 of 3 have 5 steps, "
        "but demos.jsonl:2 has 1\n"
    )


def test_a_broken_demonstration_is_named(tmp_path, capsys):
    words = bad(tmp_path)
    with (tmp_path / "demos.jsonl").open("a") as lines:
        lines.write('{"question": "half')
    assert call("demos", *words) == 2
    [complaint] = capsys.readouterr().err.splitlines()
    assert complaint.startswith("demos: error: --demos: demos.jsonl:2 cannot be used (invalid_json: ")


def test_unaligned_calibration_chains_are_named_where_they_must_lose_steps(tmp_path):
    flags = write_aligned(tmp_path)
    rows = [json.loads(line) for line in Path(flags["calibration"]).read_text().splitlines()]
    write_lines(flags["calibration"], [rows[0], rows[1] | {"steps": rows[1]["steps"][1:]}, *rows[2:]])
    complaint = "needs calibration chains of 5 steps like the demonstrations, but calibration.jsonl:1 has 4"
    with pytest.raises(UserError, match=complaint):
        shorten_with_table(**flags, output=str(tmp_path / "run"), target_steps=3, calibration_loses_step=True)


def test_a_prompt_that_is_longer_than_the_window_is_one_line(tmp_path, byte_model, capsys):
    words = bad(tmp_path, model=byte_model)
    demo = json.loads((tmp_path / "demos.jsonl").read_text().splitlines()[0])
    write_lines(tmp_path / "demos.jsonl", [demo | {"question": "Why? " * 1000}])
    assert call("demos", *words) == 2
    [complaint] = capsys.readouterr().err.splitlines()
    assert complaint.startswith("demos: error: --demos: the prompt and its longest calibration row have 5,")
    assert complaint.endswith("sees 4,096 at most: give fewer or shorter demonstrations")
    assert not (tmp_path / "run").exists()


def no_prompt_fits():
    scorer = TableScorer()
    scorer.prepare = too_long
    return scorer


async def too_long(request, after=None):
    raise RowError("too_long", "9 tokens, the model's window is 8")


def test_a_prompt_that_the_scorer_refuses_is_one_line(tmp_path):
    flags = write_aligned(tmp_path) | {"output": str(tmp_path / "run"), "target_steps": 2, "calibration_rows": 3}
    with pytest.raises(UserError, match="a prompt with a calibration row cannot be scored: too_long: 9 tokens"):
        demos.run(demos.DemosConfig.model_validate(flags), no_prompt_fits)


def test_a_whole_corpus_is_no_list_of_demonstrations(tmp_path, capsys):
    words = bad(tmp_path)
    write_lines(tmp_path / "demos.jsonl", [{"question": "q", "steps": ["a", "b"], "answer": "b"}] * 1001)
    assert call("demos", *words) == 2
    assert "--demos has more than 1000 rows: give it the demonstrations of one prompt" in capsys.readouterr().err


class Stumbling(TableScorer):
    """Counts in a folder what it scores, and does something instead of scoring a prompt for the fourth time."""

    def __init__(self, folder, stumble):
        super().__init__()
        self._folder, self._stumble = Path(folder), stumble

    def score(self, tasks):
        number = len(list(self._folder.iterdir()))
        if number == 3 and not (self._folder.parent / "stumbled").exists():
            (self._folder.parent / "stumbled").touch()
            self._stumble()
        (self._folder / f"{number}-{os.getpid()}").touch()
        return super().score(tasks)


def complain():
    raise UserError("the scorer has had enough")


def die():
    os._exit(1)


def stumbling_run(folder, stumble):
    (folder / "scored").mkdir(exist_ok=True)
    flags = write_aligned(folder) | {"output": str(folder / "run"), "target_steps": 2, "calibration_rows": 3}
    config = demos.DemosConfig.model_validate(flags)
    return demos.run(config, functools.partial(Stumbling, str(folder / "scored"), stumble))


def test_a_run_that_stopped_resumes_and_scores_no_prompt_twice(tmp_path):
    with pytest.raises(UserError, match="the scorer has had enough"):
        stumbling_run(tmp_path, complain)
    assert len(list((tmp_path / "run" / "_replies").glob("*/*.json"))) >= 3
    with pytest.raises(UserError, match=r"has no path yet: repeat the run's command to finish it"):
        demos_report.build(demos.open_run_folder(str(tmp_path / "run")))
    assert stumbling_run(tmp_path, complain) == 0
    assert len(list((tmp_path / "scored").iterdir())) == report(tmp_path / "run")["scoring"]["prompts_scored"]
    assert report(tmp_path / "run")["sessions"] == 2


def test_an_actor_that_dies_is_replaced(tmp_path):
    assert stumbling_run(tmp_path, die) == 0
    assert (tmp_path / "stumbled").exists()
    scored, wanted = len(list((tmp_path / "scored").iterdir())), report(tmp_path / "run")["scoring"]["prompts_scored"]
    assert wanted <= scored <= wanted + 1  # at most the prompt whose reply was being written is scored again


def test_actors_that_always_die_end_the_run_with_one_line(tmp_path):
    flags = write_aligned(tmp_path) | {"output": str(tmp_path / "run"), "target_steps": 2, "calibration_rows": 3}
    with pytest.raises(UserError, match="the actors that score have died, each after 3 restarts"):
        demos.run(demos.DemosConfig.model_validate(flags), functools.partial(Dying))


def test_storage_that_fails_now_and_then_loses_nothing(tmp_path):
    flaky.register()
    flags = {name: f"flaky://{path}" for name, path in write_aligned(tmp_path).items()}
    assert shorten_with_table(**flags, output=f"flaky://{tmp_path}/run", target_steps=3) == 0
    assert report(tmp_path / "run")["steps"]["refined"] == 3
    assert not (tmp_path / "run" / "_replies").exists()


class Dying(TableScorer):
    def score(self, tasks):
        os._exit(1)


@pytest.mark.slow
def test_a_command_that_is_killed_resumes_and_pays_for_no_prompt_twice(tmp_path):
    log = tmp_path / "log"
    log.mkdir()
    flags = write_aligned(tmp_path, num_steps=7) | {"output": str(tmp_path / "run")}
    words = ["--target-steps=3", "--calibration-rows=3", *(f"--{name}={value}" for name, value in flags.items())]
    job = start("tests.fixtures.table_demos", log, 0.3, *words)
    replies = tmp_path / "run" / "_replies"
    wait_for(lambda: replies.exists() and len(list(replies.glob("*/*.json"))) >= 8, job)
    kill_all(job)
    kept = len(list(replies.glob("*/*.json")))
    done = command("tests.fixtures.table_demos", log, 0.3, *words)
    assert done.returncode == 0, done.stderr
    prepared = sum(len(path.read_text().splitlines()) for path in log.iterdir())
    wanted = report(tmp_path / "run")["scoring"]["prompts_scored"]
    assert kept >= 8
    assert wanted <= prepared <= wanted + 2  # the two that were in flight


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_embedded_model_reads_the_demonstrations_once_per_prompt(tmp_path):
    flags = write_aligned(tmp_path, num_demos=2, num_steps=4, num_calibration=3)
    words = [f"--{name}={value}" for name, value in flags.items()]
    done = command(
        "jobs.demos", *words, "--calibration-rows=3", "--target-steps=2", "--control-paths=2",
        f"--output={tmp_path / 'run'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    scoring = report(tmp_path / "run")["scoring"]
    # With D tokens of demonstrations and c of a calibration row, 3 (D + c) / (D + 3 c) is 3 * 3 / 5 for D = 2 c.
    assert 1.5 < scoring["ratio"] < 2.2
    assert all(1 < stage["perplexity"] < 50 for stage in path_of(tmp_path / "run")["path"])
