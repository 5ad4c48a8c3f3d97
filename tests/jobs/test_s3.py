"""Every verb on an object store: moto's S3 server on this machine, reached as users reach theirs, through variables."""

import contextlib
import json
import os
import socket
import subprocess
import sys

import boto3
import pytest

from actors.runs.folder import open_run_folder
from actors.runs.records import RecordStore
from tests.fixtures.runs import EXAMPLES, command, kill_all, start, wait_for, write_lines, write_problems

BUCKET = "sluice-test"


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """The environment of commands that use the server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    log = (tmp_path_factory.mktemp("s3") / "log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log
    )
    try:
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, server)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            from pyarrow import fs

            filesystem = fs.S3FileSystem(
                endpoint_override=f"127.0.0.1:{port}", scheme="http", allow_bucket_creation=True,
                access_key="test", secret_key="test", region="us-east-1",
            )  # fmt: skip
            filesystem.create_dir(BUCKET)
            yield f"s3://{BUCKET}"
    finally:
        server.terminate()
        server.wait()


def upload(s3, source, name):
    """Copy a local file into the bucket. Returns its URI."""
    from actors.runs.storage import open_storage

    open_storage(f"{s3}/{name}").write_bytes(source.read_bytes())
    return f"{s3}/{name}"


def client():
    """A client of the server, for what no run does itself."""
    return boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])


@contextlib.contextmanager
def refusing_writes(folder):
    """A bucket policy against writes below a folder, as when the key may only read, or has expired."""
    refused = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject",
               "Resource": f"arn:aws:s3:::{BUCKET}/{folder}/*"}  # fmt: skip
    policy = {"Version": "2012-10-17", "Statement": [refused]}
    client().put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(policy))
    try:
        yield
    finally:
        client().delete_bucket_policy(Bucket=BUCKET)


def names(uri):
    """The names of the files below a URI."""
    folder = open_run_folder(uri).root
    return sorted(info.path.removeprefix(f"{folder.path}/") for info in folder.files(recursive=True))


def records(uri):
    found = [row for batch in RecordStore(open_run_folder(uri)).batches() for row in batch.to_pylist()]
    assert len({row["id"] for row in found}) == len(found), "an id has two records"
    return {row["id"]: row for row in found}


def done(*args):
    result = command(*args)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_verb_works_on_an_object_store(s3, tmp_path, byte_model):
    corpus = upload(s3, write_problems(tmp_path / "c.jsonl", 40), "c.jsonl")
    table = ["tests.fixtures.table_refine", tmp_path, 0]
    done(*table, "--input", corpus, "--output", f"{s3}/refined", "--t1", 1.0, "--unmerged", "drop")
    assert names(f"{s3}/refined") == [
        "commits.jsonl", "manifest.json", "report.html", "report.json", "rows/_whole.json", "rows/part-00000.parquet",
    ]  # fmt: skip
    assert len(records(f"{s3}/refined")) == 40
    for file_format in ("parquet", "jsonl"):
        said = done("jobs.export", f"{s3}/refined", "--to", "sft-chat", "--file-format", file_format,
                    "--output", f"{s3}/{file_format}")  # fmt: skip
        assert "wrote 40 rows" in said
        assert names(f"{s3}/{file_format}") == [f"part-00000.{file_format}"]
    done("jobs.report", f"{s3}/refined")
    questions = upload(s3, EXAMPLES / "questions.jsonl", "q.jsonl")
    done("jobs.sample", "--input", questions, "--model", byte_model, "--template", "Q: {question}\nA:", "--limit", 6,
         "--num-samples", 2, "--max-tokens", 8, "--output", f"{s3}/samples")  # fmt: skip
    done("jobs.grade", "--input", f"{s3}/samples", "--output", f"{s3}/graded")
    assert len(records(f"{s3}/graded")) == 12
    done("jobs.train", "--method", "sft", "--data", f"{s3}/refined", "--model", byte_model, "--max-steps", 2,
         "--batch-size", 2, "--template", "Q: {question}\nA:", "--output", f"{s3}/student")  # fmt: skip
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "metrics.jsonl"} <= set(
        names(f"{s3}/student")
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_ranker_lives_on_an_object_store(s3, tmp_path):
    rows = [
        {"question": f"What is {number} + 1?", "answer": str(number + 1),
         "samples": [f"${number} + 1 = {stated}$, so \\boxed{{{stated}}}" for stated in (number + 1, number + 2)]}
        for number in range(60)
    ]  # fmt: skip
    samples = upload(s3, write_lines(tmp_path / "s.jsonl", rows), "s.jsonl")
    done("jobs.grade", "--input", samples, "--output", f"{s3}/sums", "--splits", 0.6, 0.2, 0.2)
    done("jobs.train", "--method", "ranker", "--data", f"{s3}/sums", "--num-trees", 5, "--min-leaf", 5, "--output",
         f"{s3}/ranker")  # fmt: skip
    assert names(f"{s3}/ranker") == [
        "manifest.json", "ranker/model.txt", "ranker/ranker.json", "report.html", "report.json",
    ]  # fmt: skip
    done("jobs.rank", "--input", f"{s3}/sums", "--ranker", f"{s3}/ranker", "--output", f"{s3}/ranked")
    scores = {row_id: record["score"] for row_id, record in records(f"{s3}/ranked").items()}
    assert len(scores) == 120
    assert all(scores[f"s.jsonl:{number}#0"] > scores[f"s.jsonl:{number}#1"] for number in range(60))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_run_on_an_object_store_resumes(s3, tmp_path):
    corpus = upload(s3, write_problems(tmp_path / "k.jsonl", 300), "k.jsonl")
    args = ["tests.fixtures.table_refine", tmp_path, 0.05, "--input", corpus, "--output", f"{s3}/killed",
            "--t1", 1.0, "--unmerged", "drop"]  # fmt: skip
    job = start(*args)
    wait_for(lambda: any(name.startswith("_rows/") for name in names(f"{s3}/killed")), job)
    kill_all(job)
    before = len(records(f"{s3}/killed"))
    assert 0 < before < 300
    done(*args)
    assert set(records(f"{s3}/killed")) == {f"k.jsonl:{number}" for number in range(300)}
    report = json.loads((open_run_folder(f"{s3}/killed").report_json).read_bytes())
    assert report["sessions"] == 2


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_bucket_that_may_not_be_written_is_refused_in_one_line(s3, tmp_path):
    corpus = upload(s3, write_problems(tmp_path / "r.jsonl", 3), "r.jsonl")
    with refusing_writes("refused"):
        result = command("tests.fixtures.table_refine", tmp_path, 0, "--input", corpus, "--output", f"{s3}/refused",
                         "--unmerged", "drop")  # fmt: skip
    assert result.returncode == 2
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"table_refine: error: cannot write to output {BUCKET}/refused")
    assert "ACCESS_DENIED" in line


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_waits_for_credentials_and_says_so_and_resumes_if_they_came_too_late(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("SLUICE_STORAGE_PATIENCE", "45")
    corpus = upload(s3, write_problems(tmp_path / "e.jsonl", 300), "e.jsonl")
    args = ["tests.fixtures.table_refine", tmp_path, 0.05, "--input", corpus, "--output", f"{s3}/expired",
            "--t1", 1.0, "--unmerged", "drop"]  # fmt: skip
    job = start(*args, stderr=subprocess.PIPE)
    wait_for(lambda: any(name.startswith("_rows/") for name in names(f"{s3}/expired")), job)
    with refusing_writes("expired"):
        errors = job.communicate()[1]
    assert job.returncode == 1
    assert f"cannot write to {BUCKET}/expired, waiting: " in errors
    assert errors.splitlines()[-1].endswith("; repeat the command to resume")
    assert 0 < len(records(f"{s3}/expired")) < 300
    done(*args)
    assert set(records(f"{s3}/expired")) == {f"e.jsonl:{number}" for number in range(300)}
