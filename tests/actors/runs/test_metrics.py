"""The metrics file: appended to where that is possible, resumed, read from its end."""

import json

import pytest

from actors.runs import metrics
from actors.runs.metrics import MetricsLog, read_last_metrics, read_metrics
from actors.runs.storage import open_storage


@pytest.fixture(params=["local", "memory"])
def file(request, tmp_path):
    """A metrics file on a local disk, and on a store that cannot append."""
    uri = str(tmp_path) if request.param == "local" else f"memory://{tmp_path}"
    return open_storage(uri) / "metrics.jsonl"


def steps(file):
    return [line["step"] for line in read_metrics(file)]


def logged(file, *numbers, after=0):
    """A log that has resumed at step `after`, and logged some more."""
    log = MetricsLog(file)
    log.resume_at(after)
    for step in numbers:
        log.add(step, {"loss": step / 2})
    return log


def test_a_line_is_there_at_once_or_with_the_checkpoint(file):
    log = logged(file, 1, 2)
    assert steps(file) == ([1, 2] if file.is_local else [])
    log.flush()
    log.add(3, {"eval_loss": 1.0})
    log.flush()
    lines = read_metrics(file)
    assert [{name: line[name] for name in line if name != "time"} for line in lines] == [
        {"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}, {"step": 3, "eval_loss": 1.0}
    ]  # fmt: skip


def test_resuming_drops_what_will_be_logged_again(file):
    logged(file, 1, 2, 3).flush()
    logged(file, 3, 4, after=2).flush()
    assert steps(file) == [1, 2, 3, 4]
    logged(file, 1).flush()
    assert steps(file) == [1]


def test_a_log_that_has_been_replaced_writes_no_more(tmp_path):
    file = open_storage(str(tmp_path)) / "metrics.jsonl"
    old = logged(file, 1, 2)
    logged(file, 2, after=1)
    old.add(3, {"loss": 0.0})
    assert steps(file) == [1, 2]


def test_a_line_that_was_cut_off_is_left_out(file):
    file.write_bytes(b'{"step": 1, "time": 0, "loss": 2}\n{"step": 2, "lo')
    assert steps(file) == [1]
    assert read_last_metrics(file, "loss")["step"] == 1
    logged(file, 2, after=1).flush()
    assert steps(file) == [1, 2]


def test_the_last_line_with_a_metric_is_read_from_the_end(file, monkeypatch):
    assert read_last_metrics(file, "loss") is None
    monkeypatch.setattr(metrics, "TAIL_BYTES", 200)
    log = logged(file, *range(1, 50))
    log.add(50, {"eval_loss": 1.0})
    log.flush()
    assert read_last_metrics(file, "loss")["step"] == 49
    assert read_last_metrics(file, "step")["step"] == 50
    assert read_last_metrics(file, "nothing") is None
    # the first line that the tail holds is half a line
    assert len(json.dumps(read_metrics(file)[0])) > 40
