"""A scorer that looks perplexities up in a table: the whole pipeline without a model."""

import os
import random
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from actors.scorer_protocol import Scored

_CHANCE = random.Random(5)
TABLE = [_CHANCE.uniform(0.7, 1.6) for _ in range(1024)]
POISON = "KILLS THE PROCESS"


def look_up(text):
    """The perplexity of a text: longer ones are likelier, a hash of the text decides the rest."""
    return 10.0 * TABLE[zlib.crc32(text.encode()) % 1024]


@dataclass
class TableTask:
    request: object
    num_new_tokens: int


class TableScorer:
    """`seconds_per_pass` sleeps; `log` is a folder that gets a line for each row begun, a file a process."""

    def __init__(self, seconds_per_pass=0.0, token_budget=1 << 16, log=None):
        self.token_budget = token_budget
        self._seconds = seconds_per_pass
        self._log = (Path(log) / f"{os.getpid()}.log").open("a", buffering=1) if log else None

    def prepare(self, request, after=None):
        text = request.variants[0].text
        if POISON in text:  # where a model tokenizes
            os._exit(1)
        if self._log and after is None:
            self._log.write(f"{text.split(maxsplit=1)[0]}\n")
        return TableTask(request, sum(len(variant.text) for variant in request.variants))

    def score(self, tasks):
        if self._seconds:
            time.sleep(self._seconds)
        return [
            Scored([look_up(variant.text) for variant in task.request.variants], task.num_new_tokens // 4,
                   task.num_new_tokens // 2)
            for task in tasks
        ]  # fmt: skip

    def num_tokens(self, text):
        return len(text) // 4
