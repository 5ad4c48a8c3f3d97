"""Which rows of which files a worker reads: against the whole table, cut."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.runs.storage import open_storage
from actors.training.examples import EXAMPLE_SCHEMA
from actors.training.shards import ExampleFile, count_files, range_of, read_rows
from tests.fixtures.rows import solution

PARTS = ["train", "unused", "train", "validation", "train"]


@pytest.fixture
def folder(tmp_path):
    """Three files of 20, 0 and 15 rows in row groups of four, with their parts in turn."""
    number = 0
    for name, size in (("a", 20), ("b", 0), ("c", 15)):
        rows = []
        for number in range(number, number + size):  # noqa: B020  goes on through the files
            part = PARTS[number % len(PARTS)]
            rows.append(
                {"place": number, "id": str(number), "part": part, "num_tokens": number}
                | {"unused": "empty" if part == "unused" else None, "solutions": [solution([number, 1], 1)]}
            )
        number += bool(size)
        table = pa.Table.from_pylist(rows, schema=EXAMPLE_SCHEMA)
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=4)
    (tmp_path / "_whole.json").write_text("{}")
    return open_storage(str(tmp_path))


def test_files_are_counted_by_name(folder):
    counts = list(count_files(folder))
    assert [each.file for each in counts] == [
        ExampleFile("a.parquet", 12, 4), ExampleFile("b.parquet", 0, 0), ExampleFile("c.parquet", 9, 3)
    ]  # fmt: skip
    assert [each.unused for each in counts] == [{"empty": 4}, {}, {"empty": 3}]
    trained = [number for number in range(35) if PARTS[number % 5] == "train"]
    assert [each.tokens for each in counts] == [sum(trained[:12]), 0, sum(trained[12:])]


@pytest.mark.parametrize("part", ["train", "validation"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_workers_share_all_rows_in_order(folder, part, world_size):
    files = [each.file for each in count_files(folder)]
    expected = [str(number) for number in range(35) if PARTS[number % 5] == part]
    size = len(expected)
    shares = []
    for rank in range(world_size):
        first, end = range_of(rank, world_size, size)
        table = read_rows(folder, files, part, first, end)
        assert table.schema == EXAMPLE_SCHEMA
        assert table["id"].to_pylist() == expected[first:end]
        assert [row["solutions"][0]["tokens"][0] for row in table.to_pylist()] == [int(n) for n in expected[first:end]]
        shares.append((first, end))
    assert [first for first, _ in shares] + [size] == [0, *(end for _, end in shares)]


def test_a_file_without_rows_of_the_range_is_not_opened(folder):
    files = [each.file for each in count_files(folder)]
    (folder / "c.parquet").write_bytes(b"not parquet")
    assert read_rows(folder, files, "train", 0, 12).num_rows == 12


def test_files_that_have_changed_are_noticed(folder):
    files = [each.file for each in count_files(folder)]
    (folder / "c.parquet").write_bytes((folder / "b.parquet").read_bytes())
    with pytest.raises(AssertionError, match="those that were counted"):
        read_rows(folder, files, "train", 0, 21)
