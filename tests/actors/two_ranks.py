"""One of two processes that train together; the test that starts them reads what they print.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=... MASTER_PORT=... python -m tests.actors.two_ranks PLAN EXAMPLES VALIDATION FOLDER
"""

import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from actors.adapter_trainer import AdapterTrainer, NotFinite
from actors.examples import EXAMPLE_SCHEMA


def main():
    plan, examples, validation = pickle.loads(Path(sys.argv[1]).read_bytes()), *map(pq.read_table, sys.argv[2:4])
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    half = examples.num_rows // 2
    own = examples.slice(rank * half, half)
    for sharding in ("none", "fsdp"):
        logs = []
        AdapterTrainer(
            replace(plan, sharding=sharding),
            own,
            Path(sys.argv[4]) / f"{sharding}-{rank}",
            validation=validation.slice(rank * validation.num_rows),  # rank 1 has none
            world_size=2,
            on_log=lambda step, metrics, to=logs: to.append(metrics),
        ).train()
        if rank == 0:
            print(json.dumps(logs))
    rows = own.to_pylist()
    if rank == 1:
        rows[0]["solutions"][0]["tokens"][-2] = 200  # a token that no text has
    table = pa.Table.from_pylist(rows, schema=EXAMPLE_SCHEMA)
    trainer = AdapterTrainer(plan, table, Path(sys.argv[4]) / f"poisoned-{rank}", world_size=2)
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight[200] = torch.nan
    try:
        trainer.train()
    except NotFinite as error:
        print(error)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
