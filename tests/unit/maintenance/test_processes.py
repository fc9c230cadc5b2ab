"""Whether a process is there: real processes, looked at and killed."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from digits.maintenance import processes
from digits.maintenance.processes import is_alive, this_process

HERE = socket.gethostname()


def test_this_process_is_there_and_began_before_now() -> None:
    """A run at a terminal: its process was there before the run."""
    assert this_process() == f"{HERE}:{os.getpid()}"
    assert is_alive(this_process(), marker="no such thing", since=time.time()) is True


def test_a_process_that_began_later_is_another_one() -> None:
    """Numbers are given again."""
    assert is_alive(this_process(), marker="no such thing", since=time.time() - 10**6) is False


def test_a_process_of_the_run_is_known_by_its_environment() -> None:
    """However early the run claims to have begun; killed, it is gone even before its parent has asked for it."""
    environment = {**os.environ, "PREFECT__FLOW_RUN_ID": "abc"}
    child = subprocess.Popen([sys.executable, "-c", "input()"], env=environment, stdin=subprocess.PIPE)
    place = f"{HERE}:{child.pid}"
    deadline = time.monotonic() + 20
    while not is_alive(place, marker="FLOW_RUN_ID=abc", since=0):
        assert time.monotonic() < deadline
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_alive(place, marker="FLOW_RUN_ID=abc", since=time.time()) is False
    child.communicate()
    assert is_alive(place, marker="FLOW_RUN_ID=abc", since=time.time()) is False


def test_what_can_not_be_seen_is_not_judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another machine's process, no process, a machine without /proc, a process that may not be looked at."""
    now = time.time()
    assert is_alive("elsewhere:1", marker="x", since=now) is None
    assert is_alive(f"{HERE}:one", marker="x", since=now) is None
    monkeypatch.setattr(processes, "PROC", tmp_path / "none")
    assert is_alive(this_process(), marker="x", since=now) is None
    (tmp_path / "12" / "environ").mkdir(parents=True)
    (tmp_path / "12" / "stat").write_text("12 (a name) S 1")
    monkeypatch.setattr(processes, "PROC", tmp_path)
    assert is_alive(f"{HERE}:12", marker="x", since=now) is None


def test_a_process_that_only_waits_to_be_asked_for_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Some kernels still show an environment of it."""
    place = tmp_path / "12"
    place.mkdir()
    (place / "environ").write_bytes(b"PREFECT__FLOW_RUN_ID=abc")
    monkeypatch.setattr(processes, "PROC", tmp_path)
    for state, there in (("Z", False), ("X", False), ("S", True)):
        (place / "stat").write_text(f"12 (a name) {state} 1")
        assert is_alive(f"{HERE}:12", marker="FLOW_RUN_ID=abc", since=0) is there
