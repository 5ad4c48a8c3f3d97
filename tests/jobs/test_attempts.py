"""Which failures of training workers are followed by another attempt."""

import pickle

import pytest
from ray.exceptions import ActorDiedError
from ray.train import WorkerGroupError
from torch.distributed import DistBackendError

from actors.errors import UserError
from actors.training.trainer import BEFORE_FIRST_STEP
from jobs.driver.attempts import Attempts

DEATH = ActorDiedError()


def failed(*errors):
    """What Ray Train raises when its workers have failed, as it reaches the driver."""
    return pickle.loads(pickle.dumps(WorkerGroupError("workers failed", dict(enumerate(errors)))))


def noted(error, note):
    error.add_note(note)
    return error


@pytest.mark.parametrize(
    "error", [ValueError("v"), TypeError("t"), KeyError("k"), noted(AssertionError("a"), BEFORE_FIRST_STEP)], ids=repr
)
def test_a_mistake_before_the_first_step_ends_the_run_at_once(error):
    with pytest.raises(UserError, match=r"training failed.*: .*Error: .*; another attempt would fail too") as told:
        Attempts(3).check(failed(DEATH, error))
    assert "\n" not in str(told.value)


def test_a_user_error_ends_the_run_at_once_wherever_it_comes():
    with pytest.raises(UserError, match="training failed in step 9: mend it; another"):
        Attempts(3).check(failed(noted(UserError("mend it"), "in step 9")))


def test_the_same_error_in_the_same_step_ends_the_run():
    attempts = Attempts(9)
    attempts.check(failed(noted(ValueError("bad"), "in step 5")))
    attempts.check(failed(noted(ValueError("bad"), "in step 6")))
    attempts.check(failed(noted(RuntimeError("bad"), "in step 6")))
    attempts.check(failed(DEATH))
    attempts.check(failed(noted(RuntimeError("bad"), "in step 6")))
    with pytest.raises(UserError, match="training failed in step 6: RuntimeError: bad; another attempt"):
        attempts.check(failed(RuntimeError("peer is gone"), noted(RuntimeError("bad"), "in step 6")))


@pytest.mark.parametrize(
    "errors",
    [
        [DEATH],
        [DEATH, noted(RuntimeError("Connection closed by peer"), "in step 4")],
        [noted(OSError("disk"), "in step 4")],
        [noted(DistBackendError("peer"), "in step 4")],
    ],
    ids=repr,
)
def test_deaths_and_failures_of_storage_and_network_are_tried_again(errors):
    attempts = Attempts(2)
    for _ in range(2):
        attempts.check(failed(*errors))
    with pytest.raises(UserError, match=r"training failed.*; repeat the command to resume from the last checkpoint"):
        attempts.check(failed(*errors))
