"""An engine that answers from a hash of prompt and seed: sampling without a model."""

import asyncio
import hashlib
import os
from dataclasses import dataclass

from algorithms.row_errors import RowError
from algorithms.sampling import Sample

POISON = "KILLS THE PROCESS"
REFUSED = "IS REFUSED"


@dataclass
class TableEngine:
    """`seconds` is how long a sample takes."""

    seconds: float = 0.0
    concurrency: int = 8
    forward_seconds: float = 0.0

    async def sample(self, request):
        question = request.prompt if isinstance(request.prompt, str) else request.prompt[-1][1]
        if POISON in question:
            os._exit(1)
        await asyncio.sleep(self.seconds)
        self.forward_seconds += self.seconds
        if REFUSED in question:
            raise RowError("refused", "by the table")
        return answer(question, request.seed)


def answer(question, seed):
    """What the engine answers, computed apart from it."""
    number = int.from_bytes(hashlib.blake2b(f"{question}{seed}".encode(), digest_size=4).digest(), "little") % 5
    return Sample(f"So it is \\boxed{{{number}}}.", 7, "length" if number == 4 else "stop", -0.5 - number)
