"""What a library has started ends with the process that used the library, however that ends."""

import subprocess
import sys
import time

import psutil

from tests.fixtures.runs import ROOT, wait_for

PROGRAM = """
import subprocess, sys, time
from actors.processes.guard import DeathGuard

guard = DeathGuard()
with guard.adopting():
    started = subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=subprocess.DEVNULL)
print(started.pid, flush=True)
if sys.argv[1] == "close":
    guard.close()
else:
    time.sleep(600)
"""


def begin(how):
    """A process that guards another. Returns it with the other's id."""
    owner = subprocess.Popen([sys.executable, "-c", PROGRAM, how], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return owner, int(owner.stdout.readline())


def is_running(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_kill_9_of_the_owner_ends_what_it_guards():
    owner, pid = begin("wait")
    assert is_running(pid)
    owner.kill()
    owner.communicate()
    wait_for(lambda: not is_running(pid), seconds=10)


def test_a_guard_that_is_closed_ends_nothing():
    owner, pid = begin("close")
    owner.communicate()
    time.sleep(0.3)
    assert is_running(pid)
    psutil.Process(pid).kill()
