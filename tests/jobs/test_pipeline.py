"""Pipelines: what is refused before the first stage, what runs again and what does not, failures, kills and reports."""

import json
import os
import signal
import subprocess

import psutil
import pytest
import yaml

from jobs.driver.cluster import Ask
from jobs.driver.stage_plan import make_plan, upstream
from jobs.driver.stage_room import ask_of, has_room, slots_for
from jobs.reports.pipeline import graph, lineage
from tests.fixtures.runs import EXAMPLES, command, records, report, start, wait_for
from tests.fixtures.verbs import call

CORPUS = {"verb": "make_corpus", "rows": 30, "samples": 2}
GRADED = {"verb": "grade", "input": "stage://corpus"}
VOTES = {"verb": "evaluate", "input": ["stage://graded"]}
STAGES = {"corpus": CORPUS, "graded": GRADED, "votes": VOTES}


def plan(root="runs/p", **changes):
    """The plan of STAGES with other flags for some of them, by name."""
    return {each.name: each for each in make_plan({**STAGES, **changes}, str(root))}


def fingerprints(**changes):
    return {name: each.fingerprint for name, each in plan(**changes).items()}


def write(folder, stages, **settings):
    """A config file for a pipeline whose output is `folder`/out."""
    path = folder / "p.yaml"
    path.write_text(yaml.safe_dump({"output": str(folder / "out"), "stages": stages, **settings}, sort_keys=False))
    return path


def sessions(folder):
    """The number of sessions of each stage, by the name of its output."""
    paths = sorted((folder / "out" / "_stages").glob("*.json"))
    return {path.stem: len(json.loads(path.read_text())["sessions"]) for path in paths}


def test_a_plan_has_its_stages_in_the_order_of_the_work_with_their_outputs():
    found = make_plan({"votes": VOTES, "graded": GRADED, "corpus": CORPUS}, "s3://bucket/p/")
    assert [each.name for each in found] == ["corpus", "graded", "votes"]
    assert [each.reads for each in found] == [{}, {"corpus": ("input",)}, {"graded": ("input",)}]
    assert found[0].output == f"s3://bucket/p/corpus-{found[0].fingerprint[:8]}.jsonl"
    outputs = {each.name: each.output for each in found}
    assert found[2].resolved(outputs) == {"input": [found[1].output], "output": found[2].output}
    assert upstream(found, ["graded"]) == {"graded", "corpus"}


@pytest.mark.parametrize(
    ("changes", "redone"),
    [
        ({"graded": GRADED | {"seed": 1}}, ["graded", "votes"]),
        ({"corpus": CORPUS | {"rows": 31}}, ["corpus", "graded", "votes"]),
        ({"votes": VOTES | {"tolerance": 0.01}}, ["votes"]),
        ({"graded": GRADED | {"num_actors": 2, "max_quarantined": 5}}, []),  # where the work is done, and a check of it
        ({"graded": GRADED | {"seed": 0, "splits": [0.9, 0.05, 0.05]}}, []),  # the defaults
        ({"graded": GRADED | {"seconds-per-sample": 5.0}}, []),
        ({"votes": VOTES | {"after": "corpus"}}, []),  # an order, and no input
    ],
)
def test_a_changed_flag_changes_the_fingerprints_of_what_depends_on_it(changes, redone):
    before, after = fingerprints(), fingerprints(**changes)
    assert [name for name in before if before[name] != after[name]] == redone


def test_a_fingerprint_covers_the_contents_of_files_and_not_their_place(tmp_path):
    def fingerprint(folder, text):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "c.jsonl").write_text(text)
        entry = {"graded": {"verb": "grade", "input": str(tmp_path / folder / "c.jsonl")}}
        return make_plan(entry, "runs/p")[0].fingerprint

    assert fingerprint("a", "one") == fingerprint("b", "one") != fingerprint("a", "two")


def test_a_ranker_has_the_flags_of_its_own_kind():
    entry = {"verb": "train", "method": "ranker", "data": ["stage://graded"], "min_leaf": 20}
    assert type(plan(ranker=entry)["ranker"].config).__name__ == "RankerConfig"


MISTAKES = {
    "circle": ({"a": GRADED | {"input": "stage://b"}, "b": GRADED | {"input": "stage://a"}},
               "stages in a circle: a -> b -> a, each needs the next"),
    "itself": ({"a": GRADED | {"input": "stage://a"}}, "stages in a circle: a -> a, each needs the next"),
    "no such stage": ({"graded": GRADED},
                      "stage graded: --input stage://corpus: there is no stage 'corpus'; the stages are graded"),
    "no such stage after": ({"corpus": CORPUS | {"after": ["x"]}},
                            "stage corpus: after x: there is no stage 'x'; the stages are corpus"),
    "a reference in a text": ({"graded": GRADED | {"input": "a/stage://b"}},
                              "stage graded: --input 'a/stage://b': an input is stage://NAME or stage://NAME/PATH"),
    "flag": (STAGES | {"graded": GRADED | {"split": 1}},
             "stage graded: grade has no flag --split: did you mean --splits?"),
    "far flag": ({"corpus": CORPUS | {"zzz": 1}},
                 "stage corpus: make_corpus has no flag --zzz: python -m jobs.make_corpus --help lists all flags"),
    "value": ({"corpus": CORPUS | {"rows": 0}},
              "stage corpus: --rows 0: Input should be greater than or equal to 1"),
    "together": (STAGES | {"votes": VOTES | {"temperature": 0.1}}, "stage votes: --temperature"),
    "missing": ({"graded": {"verb": "grade"}}, "stage graded: grade needs --input"),
    "no verb": ({"graded": {"input": "x"}}, "stage graded: no verb, write for example `verb: refine`"),
    "unknown verb": ({"a": {"verb": "polish"}}, "stage a: there is no verb 'polish'; the verbs are make_corpus"),
    "no stage of its own": ({"a": {"verb": "report", "run": "x"}},
                            "stage a: report cannot be a stage: it leaves no output that another stage could read"),
    "no mapping": ({"a": "grade"}, "stage a: 'grade' must be a mapping with a verb and its flags"),
    "name": ({"a/b": CORPUS}, "stage 'a/b': a name has letters, digits, - and _, and begins with a letter"),
    "no file": ({"a": {"verb": "grade", "input": "no/such.jsonl"}},
                "stage a: --input no/such.jsonl: no such file or folder"),
    "dry run": ({"a": {"verb": "refine", "input": "x", "dry_run": 5}}, "stage a: --dry-run keeps nothing"),
    "no stages": ({}, "there is no stage: write some under `stages:`"),
    "one output": ({"a": CORPUS | {"output": "runs/x.jsonl"}, "b": CORPUS | {"output": "runs/../runs/x.jsonl"}},
                   "stages a and b have one output, runs/../runs/x.jsonl: choose another"),
    "output in output": ({"corpus": CORPUS, "a": GRADED | {"output": "runs/x"}, "b": GRADED | {"output": "runs/x/y"}},
                         "stages a and b have one output, runs/x/y: choose another"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_one_line_and_exit_status_2_before_the_first_stage(tmp_path, capsys, kind):
    stages, complaint = MISTAKES[kind]
    assert call("pipeline", "--config", write(tmp_path, stages)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"pipeline: error: {complaint}")
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("output: [", "is not YAML"),
        ("stages: {a: {}, a: {}}", "the key 'a' is there twice"),
        ("output: x\nstagse: {}", "has unknown key 'stagse'; known are output, stages"),
        ("- a", "must hold a mapping of flags to values"),
    ],
)
def test_a_file_that_is_no_pipeline_is_one_line_and_exit_status_2(tmp_path, capsys, text, complaint):
    (tmp_path / "p.yaml").write_text(text)
    assert call("pipeline", "--config", tmp_path / "p.yaml") == 2
    shown = capsys.readouterr().err
    assert complaint in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--set", "graded.seed"], "--set 'graded.seed' must be STAGE.FLAG=VALUE"),
        (["--set", "x.seed=1"], "--set x.seed: there is no stage 'x'; the stages are corpus, graded, votes"),
        (["--set", "graded.seed=one"], "stage graded: --seed 'one': Input should be a valid integer"),
        (["--until", "x"], "--until x: there is no such stage; the stages are corpus, graded, votes"),
        (["--only", "graded"], "--only graded needs corpus, which is not finished: use --until graded"),
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_status_2(tmp_path, capsys, flags, complaint):
    assert call("pipeline", "--config", write(tmp_path, STAGES), *flags) == 2
    assert capsys.readouterr().err.startswith(f"pipeline: error: {complaint}")
    assert not (tmp_path / "out").exists()


def test_a_dry_run_tells_the_plan_and_writes_nothing(tmp_path, capsys):
    assert call("pipeline", "--config", write(tmp_path, STAGES), "--dry-run", "--until", "graded") == 0
    assert capsys.readouterr().out.splitlines() == [
        "corpus  make_corpus  to run: new",
        "graded  grade        to run: new",
        "votes   evaluate     left out",
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["pipeline", "dust-into-gold", "spirit"])
def test_the_examples_are_good(name, tmp_path, capsys):
    assert call("pipeline", "--config", EXAMPLES / f"{name}.yaml", "--output", tmp_path / "out", "--dry-run") == 0
    assert "finished" not in capsys.readouterr().out


def test_stages_run_side_by_side_where_there_is_room():
    config = plan(graded=GRADED | {"num_actors": "2:4", "cpus_per_actor": 3})["graded"].config
    assert ask_of(config, cores=None) == Ask(7, 0.0)  # two actors of 3 CPUs, and one CPU to read
    assert ask_of(plan()["graded"].config, cores=8) == Ask(8, 0.0)  # a single actor takes all cores
    assert ask_of(plan()["corpus"].config, cores=8) == Ask(1, 0.0)
    assert has_room(Ask(7, 1.0), [], {"CPU": 2.0})  # alone it always starts, and waits for a cluster that grows
    assert has_room(Ask(1, 1.0), [Ask(1, 1.0)], {"CPU": 2.0, "GPU": 2.0})
    assert not has_room(Ask(1, 1.0), [Ask(1, 1.0)], {"CPU": 2.0, "GPU": 1.0})
    assert not has_room(Ask(1, 0.0), [Ask(2, 0.0)], {"CPU": 2.0})
    assert slots_for([Ask(2, 0.0), Ask(2, 0.0)], cores=2, parallel=None) == 5
    assert slots_for([Ask(1, 0.0), Ask(1, 0.0)], cores=2, parallel=None) == 10
    assert slots_for([Ask(1, 0.0), Ask(1, 0.0)], cores=2, parallel=1) == 5


def test_the_lineage_of_a_ranker_and_of_an_evaluation():
    facts = [
        {"name": name, "verb": verb, "method": method, "output": name, "fingerprint": name, "reads": reads, "after": []}
        for name, verb, method, reads in (
            ("corpus", "make_corpus", None, {}),
            ("graded", "grade", None, {"corpus": ["input"]}),
            ("nat", "train", "nat", {"graded": ["data"]}),
            ("ranker", "train", "ranker", {"graded": ["data"]}),
            ("votes", "evaluate", None, {"nat": ["adapter"], "ranker": ["ranker"]}),
        )
    ]
    assert [(each["product"], each["stage"], each["made_from"]) for each in lineage(facts)] == [
        ("adapter", "nat", ["corpus", "graded"]),
        ("ranker", "ranker", ["corpus", "graded"]),
        ("evaluation", "votes", ["corpus", "graded", "nat", "ranker"]),
    ]
    drawn = graph(facts)
    assert [(box["x"], box["y"]) for box in drawn["boxes"]] == [(1, 1), (1, 87), (1, 173), (261, 173), (1, 259)]
    assert len(drawn["arrows"]) == 5


@pytest.mark.usefixtures("ray_session")
def test_nothing_is_done_twice_and_a_changed_flag_redoes_what_depends_on_it(tmp_path, capsys):
    other = {"verb": "make_corpus", "rows": 3}
    stages = {"corpus": CORPUS, "graded": GRADED, "other": other}
    path = write(tmp_path, stages)
    corpus, graded, other_key = (each.key for each in make_plan(stages, str(tmp_path / "out")))
    assert call("pipeline", "--config", path) == 0
    assert "3 finished" in capsys.readouterr().out
    assert sessions(tmp_path) == {corpus: 1, graded: 1, other_key: 1}
    assert len(records(tmp_path / "out" / graded)) == 60
    facts = report(tmp_path / "out")
    assert facts["statuses"] == {"finished": 3}
    assert [(each["number"], each["counted"]) for each in facts["stages"]] == [(None, ""), (60, "samples"), (None, "")]
    assert f'href="{graded}/report.html"' in (tmp_path / "out" / "report.html").read_text()

    assert call("pipeline", "--config", path) == 0
    assert "started" not in capsys.readouterr().out
    assert sessions(tmp_path) == {corpus: 1, graded: 1, other_key: 1}

    assert call("pipeline", "--config", path, "--set", "graded.seed=1") == 0
    shown = capsys.readouterr().out
    assert "graded  grade        to run: seed was the default, is 1" in shown
    assert shown.count("started") == 1
    again = make_plan(stages | {"graded": GRADED | {"seed": 1}}, str(tmp_path / "out"))[1].key
    assert sessions(tmp_path) == {corpus: 1, graded: 1, again: 1, other_key: 1}
    assert len(records(tmp_path / "out" / graded)) == 60, "the older result stays"

    assert call("pipeline", "--config", path) == 0
    assert "started" not in capsys.readouterr().out, "and is found again"

    assert call("report", tmp_path / "out") == 0
    assert "3 finished" in capsys.readouterr().out


@pytest.mark.usefixtures("ray_session")
def test_a_stage_that_fails_stops_what_depends_on_it_and_nothing_else(tmp_path, capsys):
    stages = {
        "corpus": CORPUS,
        "broken": {"verb": "export", "run": "stage://corpus"},
        "below": {"verb": "make_corpus", "rows": 2, "after": ["broken"]},
        "beside": {"verb": "make_corpus", "rows": 3, "after": ["corpus"]},
    }
    path = write(tmp_path, stages)
    for _ in range(2):  # what failed is tried again, what is finished is not
        assert call("pipeline", "--config", path) == 2
        shown = capsys.readouterr()
        assert "stage broken failed with exit status 2 (export: error: no run in" in shown.err
        assert shown.err.endswith("; not started: below\n")
        assert [line for line in shown.err.splitlines() if "Traceback" in line] == []
    found = {each["name"]: (each["status"], each["sessions"]) for each in report(tmp_path / "out")["stages"]}
    assert found == {
        "corpus": ("finished", 1), "broken": ("failed", 2), "below": ("not started", 0), "beside": ("finished", 1),
    }  # fmt: skip
    assert "1 finished" not in shown.out
    assert "2 finished, 1 failed, 1 not started" in shown.out


def test_an_output_of_the_user_is_not_overwritten(tmp_path, capsys):
    chosen = CORPUS | {"output": str(tmp_path / "mine.jsonl")}
    path = write(tmp_path, {"corpus": chosen})
    assert call("pipeline", "--config", path) == 0
    before = (tmp_path / "mine.jsonl").read_text()
    assert call("pipeline", "--config", path, "--set", "corpus.rows=5") == 2
    assert "holds another result (rows was 30, is 5): choose another folder" in capsys.readouterr().err
    assert (tmp_path / "mine.jsonl").read_text() == before


def test_an_output_that_is_gone_is_made_again(tmp_path, capsys):
    path = write(tmp_path, {"corpus": CORPUS})
    assert call("pipeline", "--config", path) == 0
    (made,) = (tmp_path / "out").glob("corpus-*.jsonl")
    text = made.read_text()
    made.unlink()
    capsys.readouterr()
    assert call("pipeline", "--config", path) == 0
    assert "to run: its output is gone" in capsys.readouterr().out
    assert made.read_text() == text


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    assert call("pipeline", "--config", write(tmp_path, {"corpus": CORPUS})) == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def killable(tmp_path):
    """A pipeline whose second stage takes some seconds, and the command that runs it."""
    stages = {"corpus": CORPUS | {"rows": 400, "samples": 4}, "graded": GRADED, "again": GRADED | {"seed": 1}}
    path = write(tmp_path, stages | {"votes": VOTES})
    return ["jobs.pipeline", "--config", path]


def state(tmp_path):
    path = tmp_path / "out" / "pipeline.json"
    if not path.exists():
        return {}
    return {each["name"]: each["status"] for each in json.loads(path.read_text())["stages"]}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_pipeline_leaves_no_process_and_resumes(tmp_path):
    args = killable(tmp_path)
    job = start(*args)
    wait_for(lambda: state(tmp_path).get("again") == "running", job)
    children = psutil.Process(job.pid).children(recursive=True)
    stages = [each for each in children if "jobs.grade" in " ".join(each.cmdline())]
    assert stages
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    gone, alive = psutil.wait_procs(stages, timeout=60)
    assert not alive
    assert gone
    last = command(*args, env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"})
    assert last.returncode == 0, last.stderr
    assert "again   grade        to run: was interrupted, resumes" in last.stdout
    assert set(state(tmp_path).values()) == {"finished"}
    assert sorted(sessions(tmp_path).values()) == [1, 1, 1, 2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stopped_pipeline_stops_its_stages_and_exits_with_130(tmp_path):
    args = killable(tmp_path)
    job = start(*args, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: state(tmp_path).get("graded") == "running", job)
    job.send_signal(signal.SIGTERM)
    out, errors = job.communicate(timeout=120)
    assert job.returncode == 130
    assert errors.strip().splitlines()[-1] == "pipeline: interrupted; repeat the command to resume"
    assert "Traceback" not in errors
    assert "graded  stopped" in out
    assert state(tmp_path)["graded"] == "stopped"
    assert report(tmp_path / "out")["statuses"] == {"finished": 1, "stopped": 1, "not started": 2}


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is room for one stage only")
@pytest.mark.usefixtures("ray_session")
def test_stages_that_do_not_depend_on_each_other_overlap(tmp_path):
    graded = GRADED | {"cpus_per_actor": 1}
    path = write(tmp_path, {"corpus": CORPUS, "graded": graded, "again": graded | {"seed": 1}})
    assert call("pipeline", "--config", path) == 0
    found = [json.loads(each.read_text()) for each in (tmp_path / "out" / "_stages").glob("*.json")]
    (first, second) = (each["sessions"][0] for each in found if each["verb"] == "grade")
    assert max(first[0], second[0]) < min(first[1], second[1])


@pytest.mark.usefixtures("ray_session")
def test_a_pipeline_that_is_started_twice_goes_on_in_the_later_command(tmp_path, capsys, monkeypatch):
    def taken_over(*arguments):
        (tmp_path / "out" / "_session").write_text("another")
        return True

    monkeypatch.setattr("jobs.driver.stage_runs.has_room", taken_over)
    assert call("pipeline", "--config", write(tmp_path, {"corpus": CORPUS})) == 2
    assert "another session has taken over" in capsys.readouterr().err
    assert sessions(tmp_path) == {}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_smallest_pipeline_runs_from_end_to_end_and_nothing_runs_twice(tmp_path):
    args = ["jobs.pipeline", "--config", EXAMPLES / "pipeline.yaml", "--output", tmp_path / "out"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = command(*args, env=environment)
    assert done.returncode == 0, done.stderr
    found = report(tmp_path / "out")
    assert found["statuses"] == {"finished": 5}
    assert {each["stage"]: each["product"] for each in found["lineage"]} == {"ranker": "ranker", "votes": "evaluation"}
    again = command(*args, env=environment)
    assert again.returncode == 0
    assert "started" not in again.stdout
