"""One of two processes that train together; the test that starts them compares what rank 0 prints.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=... MASTER_PORT=... python -m tests.actors.two_ranks PLAN EXAMPLES VALIDATION FOLDER
"""

import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import torch

from actors.adapter_trainer import AdapterTrainer


def main():
    plan, examples, validation = pickle.loads(Path(sys.argv[1]).read_bytes()), *map(pq.read_table, sys.argv[2:4])
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    half = examples.num_rows // 2
    for sharding in ("none", "fsdp"):
        logs = []
        AdapterTrainer(
            replace(plan, sharding=sharding),
            examples.slice(rank * half, half),
            Path(sys.argv[4]) / f"{sharding}-{rank}",
            validation=validation.slice(rank * validation.num_rows),  # rank 1 has none
            world_size=2,
            on_log=lambda step, metrics, to=logs: to.append(metrics),
        ).train()
        if rank == 0:
            print(json.dumps(logs))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
