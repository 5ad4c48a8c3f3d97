"""Which errors of storage pass, and that calls are repeated until they do."""

import itertools

import pytest

from actors.errors import StorageLost
from actors.runs.retries import Resumed, may_pass
from actors.runs.storage import open_storage
from tests.fixtures import flaky


@pytest.fixture(autouse=True)
def short_patience(monkeypatch):
    monkeypatch.setattr("actors.runs.retries.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("actors.runs.retries.HASTY_SECONDS", 0.3)
    monkeypatch.setenv("SLUICE_STORAGE_PATIENCE", "0.3")


@pytest.mark.parametrize(
    ("error", "hasty", "patient"),
    [
        (OSError("AWS Error SLOW_DOWN"), True, True),
        (TimeoutError("read"), True, True),
        (OSError(28, "No space left on device"), True, True),
        (PermissionError("the token has expired"), False, True),
        (FileNotFoundError("gone"), False, False),
        (NotADirectoryError("a file"), False, False),
        (ValueError("not storage"), False, False),
        (OSError("Corrupt snappy compressed data."), False, False),
        (OSError("zlib inflate failed: invalid block type"), False, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_what_may_pass(error, hasty, patient):
    assert (may_pass(error, is_patient=False), may_pass(error, is_patient=True)) == (hasty, patient)


def test_a_storage_that_fails_now_and_then_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(flaky, "EVERY", 7)
    flaky.register()
    folder = open_storage(f"flaky://{tmp_path}/runs").patient()
    for number in range(20):
        (folder / f"{number:02d}").write_bytes(b"%d" % number)
    assert folder.names() == [f"{number:02d}" for number in range(20)]
    assert [(folder / name).read_bytes() for name in folder.names()] == [b"%d" % number for number in range(20)]
    (folder / "00").delete_file()
    assert not (folder / "00").exists()
    folder.delete_folder()
    assert not folder.exists()


def test_nothing_exists_below_a_file(tmp_path):
    flaky.register()
    (tmp_path / "file").touch()
    assert not open_storage(f"flaky://{tmp_path}/file/manifest.json").exists()


def test_a_storage_that_does_not_come_back_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(flaky, "EVERY", 1)
    flaky.register()
    file = open_storage(f"flaky://{tmp_path}/x")
    with pytest.raises(StorageLost, match=r"has failed for 0.3 s: AWS Error SLOW_DOWN"):
        file.patient().write_bytes(b"")
    with pytest.raises(OSError, match="SLOW_DOWN"):
        file.write_bytes(b"")


def test_reading_goes_on_where_it_failed():
    made = itertools.count(1)

    def items():
        number = next(made)
        for item in range(10):
            if item == 3 * number:
                raise OSError("reset by peer")
            yield item

    assert list(Resumed(items, "x")) == list(range(10))
    assert next(made) == 5
