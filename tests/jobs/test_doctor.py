"""The doctor: bad facts become one finding with its mend, good ones none; a probe of a real node; an exit status."""

import dataclasses
import re

import pytest

from actors import diagnosis
from actors.diagnosis import Disk, Gpu, ModelFacts, NodeFacts, Sighting, StorageFacts
from jobs.driver import cluster, command, surveying
from jobs.driver.findings import GIB, Finding, findings
from jobs.driver.fitting import Needs, Supply, fit, needs_of
from jobs.driver.surveying import Survey, Trial
from tests.fixtures.verbs import call

PACKAGES = {"ray": "2.60.0", "torch": "2.13.0", "transformers": "5.19.0", "vllm": "0.29.0"}
H100 = Gpu("NVIDIA H100 80GB HBM3", "570.86", 80 * GIB)
DISK = Disk("Ray's files", "/tmp", 200 * GIB, 150 * GIB)
GOOD = NodeFacts(
    host="a",
    python="3.12.11",
    packages=PACKAGES,
    num_cores=16,
    memory_bytes=64 * GIB,
    free_memory_bytes=50 * GIB,
    shm_bytes=32 * GIB,
    open_files=65536,
    disks=(DISK,),
    gpus=(),
    unreachable=(),
    object_store_bytes=18 * GIB,
)
GPU_NODE = dataclasses.replace(GOOD, host="g", gpus=(H100, H100), ray_gpus=2.0)


def of(*nodes, **facts):
    here = {name: version for name, version in PACKAGES.items() if name != "vllm"}
    return Survey(nodes, facts.pop("silent", {}), "3.12.11", here, **facts)


def wrong(survey):
    return [(each.level, each.subject, each.text) for each in findings(survey) if each.level != "ok"]


def test_a_good_cluster_has_a_line_for_each_check_and_nothing_wrong():
    shared = tuple(StorageFacts(host, None, 900 * GIB, 0.08, 0.04) for host in "abg")
    model = ModelFacts("llama", "g", None, "cuda", 16 * GIB, 21.0, 48_000.0, 8)
    survey = of(GOOD, dataclasses.replace(GOOD, host="b"), GPU_NODE, output="/shared", storage=shared,
                sightings=(Sighting("a"), Sighting("b"), Sighting("g")), model=model)  # fmt: skip
    assert findings(survey) == [
        Finding("ok", "nodes", "3 nodes with 48 cores"),
        Finding("ok", "versions", "Python 3.12.11, Ray 2.60.0, torch 2.13.0, vllm 0.29.0, the same everywhere"),
        Finding("ok", "GPUs", "2 x NVIDIA H100 80GB HBM3 (80 GiB) on 1 of 3 nodes, driver 570.86"),
        Finding("ok", "memory", "at least 50 GiB of 64 GiB free"),
        Finding("ok", "object store", "at least 18 GiB, in /dev/shm"),
        Finding("ok", "disk", "at least 150 GiB free (/tmp on a)"),
        Finding("ok", "open files", "at least 65,536 at once"),
        Finding("ok", "clocks", "all within 2 s"),
        Finding("ok", "ports", "nodes reach each other's raylets and object stores"),
        # 16 MiB in 0.08 s and in 0.04 s.
        Finding("ok", "storage", "all 3 nodes see /shared; writes 210 MB/s, reads 419 MB/s"),
        Finding("ok", "model", "llama loads in 21 s (16 GiB) and reads 48,000 tokens/s on a GPU of g"),
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"packages": PACKAGES | {"ray": "2.59.0"}},
            ("problem", "versions", "ray: 2.60.0 here, 2.59.0 on b"),
        ),
        ({"python": "3.11.9"}, ("problem", "versions", "python: 3.12.11 here, 3.11.9 on b")),
        (
            {"packages": PACKAGES | {"transformers": "5.11.0"}},
            ("warning", "versions", "transformers: 5.19.0 here, 5.11.0 on b"),
        ),
        (
            {"packages": {name: PACKAGES[name] for name in ("ray", "transformers")}},
            ("problem", "versions", "torch: 2.13.0 here, none on b"),
        ),
        ({"ray_gpus": 1.0}, ("problem", "GPUs", "b: Ray offers 1 GPU, and nvidia-smi shows none")),
        ({"gpus": (H100,)}, ("warning", "GPUs", "b: 1 GPU, of which Ray offers 0")),
        (
            {"gpus": (H100,), "ray_gpus": 1.0, "packages": PACKAGES | {"torch": "2.13.0+cpu"}},
            ("problem", "GPUs", "b: torch 2.13.0+cpu is a build for CPUs"),
        ),
        ({"free_memory_bytes": 3 * GIB}, ("warning", "memory", "free: 3.0 GiB of 64 GiB on b")),
        ({"object_store_bytes": GIB // 4}, ("warning", "object store", "0.2 GiB on b")),
        ({"shm_bytes": GIB // 16}, ("warning", "object store", "/dev/shm has 0.1 GiB for a store of 18 GiB on b")),
        (
            {"disks": (Disk("models", "/home", 200 * GIB, 4 * GIB),)},
            ("problem", "disk", "b: 98% of /home (models) is used, 4.0 GiB free"),
        ),
        (
            {"disks": (Disk("models", "/home", 200 * GIB, 16 * GIB),)},
            ("warning", "disk", "b: 92% of /home (models) is used, 16 GiB free"),
        ),
        ({"open_files": 1024}, ("warning", "open files", "at most 1024 on b")),
        ({"skew_seconds": -7.26}, ("warning", "clocks", "off by at least -7.3 s on b")),
        ({"skew_seconds": 1800.0}, ("problem", "clocks", "off by at least +1,800.0 s on b")),
        ({"unreachable": ("a:6379", "g:8076")}, ("problem", "ports", "b cannot reach a:6379, g:8076")),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_bad_fact_is_one_finding_that_names_the_node_and_the_mend(change, expected):
    survey = of(GOOD, dataclasses.replace(GOOD, host="b", **change))
    found = [each for each in findings(survey) if each.level != "ok"]
    assert [(each.level, each.subject, each.text) for each in found] == [expected]
    assert found[0].mend


def test_a_node_that_hangs_is_one_line():
    survey = of(GOOD, silent={"b": "did not answer within 120 s"})
    assert wrong(survey) == [("problem", "nodes", "b did not answer within 120 s")]


def test_different_drivers_are_told():
    old = dataclasses.replace(GPU_NODE, host="h", gpus=(dataclasses.replace(H100, driver="535.1"),), ray_gpus=1.0)
    assert wrong(of(GPU_NODE, old)) == [("warning", "GPUs", "drivers differ: 535.1, 570.86")]


@pytest.mark.parametrize(
    ("storage", "expected"),
    [
        (
            [
                StorageFacts("a", None, 9 * GIB, 0.1, 0.1, ("b", "c")),
                StorageFacts("b", None, 9 * GIB, 0.1, 0.1, ("a",)),
            ],
            [("problem", "storage", "/data is not shared: a does not see what b, c wrote, and so for 1 more")],
        ),
        (
            [StorageFacts("a", None, 9 * GIB, 0.1, 0.1), StorageFacts("b", "[Errno 13] Permission denied")],
            [("problem", "storage", "b cannot use /data: [Errno 13] Permission denied")],
        ),
        (
            [StorageFacts("a", None, 2 * GIB, 0.1, 0.1)],
            [("warning", "storage", "one node sees /data; writes 168 MB/s, reads 168 MB/s; 2.0 GiB free")],
        ),
        (
            [StorageFacts("a", None, None, 4.0, 0.1)],
            [("warning", "storage", "one node sees /data; writes 4 MB/s, reads 168 MB/s")],
        ),
    ],
    ids=["not shared", "not writable", "full", "slow"],
)
def test_storage(storage, expected):
    assert wrong(of(GOOD, output="/data", storage=tuple(storage))) == expected


def test_a_model_that_nodes_do_not_find_or_load():
    lost = of(GOOD, sightings=(Sighting("a"), Sighting("b", "model folder '/m' does not exist")))
    assert wrong(lost) == [("problem", "model", "b: model folder '/m' does not exist")]
    failed = of(GOOD, model=ModelFacts("llama", "a", "CUDA out of memory", "cuda"))
    assert wrong(failed) == [("problem", "model", "llama does not load on a (cuda): CUDA out of memory")]


NEEDS = Needs("refine", 2, 8, cluster.Ask(1, 1), 1, "llama", "bfloat16", ("in",), "/shared/run")
SUPPLY = Supply(8, 80 * GIB, 42_000_000, None, None)
MODEL = ModelFacts("llama", "g", None, "cuda", 16 * GIB, 20.0, 50_000.0, 8)


def fitted(needs=NEEDS, supply=SUPPLY, survey=None, **changes):
    survey = survey or of(GPU_NODE, model=MODEL)
    return [
        (each.level, each.subject, each.text) for each in fit(needs, dataclasses.replace(supply, **changes), survey)
    ]


def test_a_run_that_fits_and_what_it_takes():
    assert fitted() == [
        ("ok", "room", "2 to 8 actors, each with 1 CPU and 1 GPU"),
        ("ok", "run", "/shared/run is free"),
        # 42 MB are 10.5 million tokens, of which each is forwarded 7 times, on 8 GPUs of 50,000 tokens/s.
        ("ok", "takes", "42.0 MB of input: roughly 3:04 with 8 actor(s) at this speed; --dry-run 50 measures it"),
    ]


def test_what_does_not_fit():
    short = "2 actor(s) ask for 1 CPU and 1 GPU each"
    assert ("problem", "room", short) in fitted(shortage=short, num_placeable=0)
    few = ("warning", "room", "3 of 2 to 8 actors fit now, each with 1 CPU and 1 GPU")
    assert few in fitted(num_placeable=3)
    assert ("problem", "run", "/shared/run holds a run of grade") in fitted(run_status="running", run_verb="grade")
    resumes = ("ok", "run", "/shared/run is unfinished: the command resumes it")
    assert resumes in fitted(run_status="running", run_verb="refine")
    small = ("problem", "model size", "the model needs about 20.8 GiB of a GPU, and an actor has 16.0 GiB")
    assert small in fitted(largest_gpu_bytes=16 * GIB)
    full = of(GPU_NODE, model=MODEL, storage=(StorageFacts("g", None, GIB // 10, 0.1, 0.1),))
    assert ("problem", "room", "the run may write 0.2 GiB, and 0.1 GiB are free at /shared/run") in fitted(survey=full)
    with_vllm = dataclasses.replace(NEEDS, engine="vllm")
    bare = of(dataclasses.replace(GPU_NODE, packages={}), GOOD, model=MODEL)
    assert ("problem", "engine", "no vLLM on g") in fitted(needs=with_vllm, survey=bare)
    assert not [each for each in fitted(needs=with_vllm) if each[1] == "engine"]
    on_cpus = dataclasses.replace(NEEDS, ask=cluster.Ask(1, 0))
    # 8 actors of 16 GiB x 1.3 + 2 GiB each.
    crowded = ("warning", "model size", "g: up to 8 actors need about 182.4 GiB, 50.0 GiB are free")
    assert crowded in fitted(needs=on_cpus)


def test_what_a_verb_needs_is_read_from_its_own_flags():
    line = ["--input", "x", "--output", "/y", "--num-actors", "2:6", "--gpus-per-actor", "0.5"]
    needs = needs_of("refine", command.config_of("refine", line))
    assert needs == Needs("refine", 2, 6, cluster.Ask(1, 0.5), 1, "smollm2", "bfloat16", ("x",), "/y")
    assert needs.trial == Trial("smollm2", "bfloat16", cluster.Ask(1, 0.5), 1)
    line = ["--method", "sft", "--data", "a", "b", "--output", "/y", "--num-workers", "4", "--cpus-per-worker", "2"]
    needs = needs_of("train", command.config_of("train", line))
    assert needs == Needs("train", 4, 4, cluster.Ask(2, 0), 2, "smollm2", "float32", ("a", "b"), "/y")
    line = ["--input", "x", "--output", "/y", "--engine", "openai", "--url", "http://h/v1", "--model", "m"]
    assert needs_of("sample", command.config_of("sample", line)).trial is None


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("--for improve", "doctor: error: --for improve: no such verb; the verbs are make_corpus"),
        ("--for report /run", "doctor: error: --for report: it runs in one process and asks the cluster for nothing"),
        ("--for refine --input x", "doctor: error: refine: missing --output; --help lists all flags"),
        ("--seconds-per-check 0", "doctor: error: --seconds-per-check 0.0: Input should be greater than 0"),
        ("--output", "doctor: error: Missing value for argument '--output'"),
    ],
)
def test_a_wrong_command_line_is_told_before_ray_starts(line, complaint, capsys):
    assert call("doctor", *line.split()) == 2
    out, error = capsys.readouterr()
    assert (out, len(error.splitlines())) == ("", 1)
    assert error.startswith(complaint)


def test_facts_of_this_machine():
    facts = diagnosis.look("/tmp/ray", [("nobody", "127.0.0.1", 9)])
    assert facts.unreachable == ("nobody",)
    assert facts.packages["ray"] == PACKAGES["ray"]
    assert 0 < facts.free_memory_bytes < facts.memory_bytes
    assert facts.disks[0].total_bytes > 0


def test_a_folder_that_cannot_be_written_is_a_fact(tmp_path):
    from actors.runs.storage import open_storage

    (tmp_path / "file").touch()
    facts = diagnosis.write_marker(open_storage(str(tmp_path / "file")), "probe")
    assert facts.error


def test_a_model_that_is_not_there_is_a_fact(tmp_path):
    assert "does not exist" in diagnosis.find_model(str(tmp_path / "none")).error
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in diagnosis.try_model(str(tmp_path / "empty"), "float32", "cpu", 1).error


@pytest.mark.usefixtures("ray_session")
def test_a_survey_of_this_ray(tmp_path, byte_model):
    output = tmp_path / "new" / "run"
    found = surveying.survey(str(output), Trial(byte_model, "float32", cluster.Ask(1, 0), 1), 120)
    [node], [storage], [sighting] = found.nodes, found.storage, found.sightings
    assert (found.silent, sighting.error, storage.error, storage.missing) == ({}, None, None, ())
    assert node.object_store_bytes > 0
    assert node.skew_seconds == 0.0
    assert storage.write_seconds > 0
    assert (found.model.error, found.model.device, found.model.num_threads) == (None, "cpu", 1)
    assert found.model.tokens_per_second > 0
    assert list((tmp_path / "new").iterdir()) == []  # what was not there before is gone again


@pytest.mark.usefixtures("ray_session")
def test_it_prints_a_line_for_each_check_and_fails_with_a_problem(tmp_path, byte_model, capsys):
    source = tmp_path / "c.jsonl"
    assert call("make_corpus", "--rows", 4, "--output", source) == 0
    capsys.readouterr()
    line = ["--for", "refine", "--input", source, "--output", tmp_path / "run", "--model"]
    call("doctor", *line, byte_model)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "asking a local Ray ..."
    assert all(len(each) <= 100 for each in out)
    levels = [each.split()[0] for each in out[1:-1] if not each.startswith(" ")]
    assert set(levels) <= {"ok", "warning", "problem"}
    assert any(re.match(r"ok       room           1 actors?, each with 1 CPU$", each) for each in out)
    assert re.fullmatch(r"\d+ problems?, \d+ warnings?", out[-1])
    assert call("doctor", *line, tmp_path / "none") == 1
    assert "problem  model" in capsys.readouterr().out
