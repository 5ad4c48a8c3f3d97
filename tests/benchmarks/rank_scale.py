"""Ranks 108,144 samples on this machine, through a run that is killed once.

    python -m tests.benchmarks.rank_scale

Grades GPT-3.5's samples, trains a boosted ranker on them, and ranks them twice over (two copies of the records). Every
process of the run is killed with SIGKILL when 40% of the samples are committed, and the command is repeated. Measures
samples per second after start-up, the memory of the actors, and the time to the next commit.
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from actors.runs.folder import open_run_folder
from actors.runs.records import RecordStore
from tests.benchmarks.measured import SHARED_DATA, write_result
from tests.fixtures.runs import ROOT, kill_all, start

CORPUS = SHARED_DATA / "math_teacher" / "gpt-3.5-turbo.parquet"
COPIES = 2
KILL_AT = 0.4
NUM_ACTORS = 2


def verb(*args):
    subprocess.run([sys.executable, "-m", *map(str, args)], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


class Watch(threading.Thread):
    """Once a second: how many samples are committed, and the unique memory of the actors in MB."""

    def __init__(self, job, output):
        super().__init__(daemon=True)
        self.points = []
        self._job = job
        self._store = RecordStore(open_run_folder(str(output)).hasty())

    def run(self):
        while self._job.poll() is None:
            try:
                rows = self._store.totals().num_rows
                actors = [each for each in psutil.Process(self._job.pid).children(recursive=True) if is_actor(each)]
                memory = sum(each.memory_full_info().uss for each in actors) / 2**20
            except (OSError, ValueError, psutil.Error):
                continue
            self.points.append((time.monotonic(), rows, memory))
            time.sleep(1)

    @property
    def num_rows(self):
        return self.points[-1][1] if self.points else 0


def is_actor(process):
    return "RowWorker" in " ".join(process.cmdline()) or "MapWorker" in process.name()


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        verb("jobs.grade", "--input", CORPUS, "--format", "tdg", "--output", folder / "graded")
        verb("jobs.train", "--method", "ranker", "--data", folder / "graded", "--output", folder / "ranker")
        samples = folder / "samples"
        samples.mkdir()
        for copy in range(COPIES):
            for file in sorted((folder / "graded" / "rows").glob("*.parquet")):
                shutil.copy(file, samples / f"{copy}-{file.name}")
        total = sum(pq.read_metadata(file).num_rows for file in samples.iterdir())
        output = folder / "ranked"
        flags = ("--input", samples, "--ranker", folder / "ranker", "--output", output, "--num-actors", NUM_ACTORS)
        job = start("jobs.rank", *flags)
        before = Watch(job, output)
        before.start()
        while before.num_rows < KILL_AT * total:
            assert job.poll() is None, "the run ended before it could be killed"
            time.sleep(0.2)
        kill_all(job)
        before.join()
        committed = RecordStore(open_run_folder(str(output))).totals().num_rows
        restarted = time.monotonic()
        job = start("jobs.rank", *flags)
        after = Watch(job, output)
        after.start()
        assert job.wait() == 0
        after.join()
        ids = pq.read_table(output / "rows", columns=["id", "score"])
        assert len(set(ids["id"].to_pylist())) == ids.num_rows == total
        at_work = [point for point in after.points if committed < point[1] < total]
        memory = [point[2] for point in at_work]
        third = len(memory) // 3
        results = {
            "samples": total,
            "actors": NUM_ACTORS,
            "samples_per_second": round((at_work[-1][1] - at_work[0][1]) / (at_work[-1][0] - at_work[0][0])),
            "memory_mb_first_third": round(statistics.median(memory[:third])),
            "memory_mb_last_third": round(statistics.median(memory[-third:])),
            "committed_when_killed": committed,
            "seconds_to_next_commit": round(at_work[0][0] - restarted),
        }
    print(write_result("rank_scale", results).read_text())


if __name__ == "__main__":
    main()
