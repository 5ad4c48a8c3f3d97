"""The shell that Ray Data calls, and errors that travel."""

import asyncio
import inspect
import pickle

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from actors import errors
from actors.errors import UserError
from actors.runs.worker import RowWorker

TREE = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, errors.SluiceError)]


class Doubler:
    def __init__(self, factor):
        if factor < 0:
            raise UserError(f"factor {factor} is negative")
        self.factor = factor

    async def __call__(self, table):
        return pa.table({"x": pc.multiply(table["x"], self.factor)})


def call(worker):
    return asyncio.run(worker(pa.table({"x": [1, 2]})))


def test_a_worker_gets_its_arguments_and_batches():
    assert call(RowWorker(Doubler, 2))["x"].to_pylist() == [2, 4]


def test_a_mistake_that_the_constructor_finds_is_raised_by_the_first_call():
    worker = RowWorker(Doubler, -1)  # raising here would reach the driver as text only
    with pytest.raises(UserError, match="factor -1 is negative"):
        call(worker)


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_travels_with_its_message(kind):
    sent = pickle.loads(pickle.dumps(kind("what went wrong")))
    assert type(sent) is kind
    assert str(sent) == "what went wrong"
