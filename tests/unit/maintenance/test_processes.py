"""State of real processes, running and killed."""

import os
import socket
import subprocess
import sys
import time

from digits.maintenance.processes import descendants, is_alive, is_running, this_process
from tests.support.faults import without_root

HERE = socket.gethostname()


def test_this_process_is_alive() -> None:
    """A process that started before the work is the one that does it."""
    assert this_process() == f"{HERE}:{os.getpid()}"
    assert is_alive(this_process(), marker="no such thing", since=time.time()) is True


def test_a_process_that_started_after_the_work_is_another_one() -> None:
    """The kernel reuses process numbers."""
    assert is_alive(this_process(), marker="no such thing", since=time.time() - 10**6) is False


def test_a_process_is_recognized_by_its_environment() -> None:
    """Whenever the work started; a killed process is not alive even before its parent waits for it."""
    environment = {**os.environ, "PREFECT__FLOW_RUN_ID": "abc"}
    child = subprocess.Popen([sys.executable, "-c", "input()"], env=environment, stdin=subprocess.PIPE)
    place = f"{HERE}:{child.pid}"
    deadline = time.monotonic() + 120
    while not is_alive(place, marker="FLOW_RUN_ID=abc", since=0):
        assert time.monotonic() < deadline
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_alive(place, marker="FLOW_RUN_ID=abc", since=time.time()) is False
    child.communicate()
    assert is_alive(place, marker="FLOW_RUN_ID=abc", since=time.time()) is False


def test_the_state_is_unknown_if_the_process_cannot_be_examined() -> None:
    """On another machine, for an invalid number, or for a process of another user."""
    now = time.time()
    assert is_alive("elsewhere:1", marker="x", since=now) is None
    assert is_alive(f"{HERE}:one", marker="x", since=now) is None
    with without_root():
        assert is_alive(f"{HERE}:1", marker="x", since=0) is None


def test_descendants_are_found_below_running_processes_only() -> None:
    command = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    child = subprocess.Popen([sys.executable, "-c", command], stdin=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (below := descendants(child.pid)):
        assert time.monotonic() < deadline
    assert is_running(child.pid)
    assert is_running(below[0])
    child.communicate()
    assert not is_running(child.pid)
    assert descendants(child.pid) == []
