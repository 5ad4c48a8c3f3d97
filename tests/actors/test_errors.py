"""What an error says after its way from a worker to the driver."""

import pickle

import pytest

from actors.errors import SluiceError, StorageLost, UserError


@pytest.mark.parametrize("kind", [SluiceError, StorageLost, UserError])
def test_advice_that_ray_data_appends_to_an_error_is_not_shown(kind):
    error = kind("the disk is full")
    for _ in range(2):  # as Ray Data does, once for each call in flight
        error.args = (f"{error.args[0]}\nTo change retry attempts, configure `DataContext`", *error.args[1:])
    arrived = pickle.loads(pickle.dumps(error))
    assert (type(arrived), str(arrived)) == (kind, "the disk is full")
