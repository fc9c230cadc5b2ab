"""State of real processes, running and killed."""

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
    deadline = time.monotonic() + 20
    while not is_alive(place, marker="FLOW_RUN_ID=abc", since=0):
        assert time.monotonic() < deadline
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_alive(place, marker="FLOW_RUN_ID=abc", since=time.time()) is False
    child.communicate()
    assert is_alive(place, marker="FLOW_RUN_ID=abc", since=time.time()) is False


def test_the_state_is_unknown_if_the_process_cannot_be_examined(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On another machine, for an invalid number, without /proc, or without permission."""
    now = time.time()
    assert is_alive("elsewhere:1", marker="x", since=now) is None
    assert is_alive(f"{HERE}:one", marker="x", since=now) is None
    monkeypatch.setattr(processes, "PROC", tmp_path / "none")
    assert is_alive(this_process(), marker="x", since=now) is None
    (tmp_path / "12" / "environ").mkdir(parents=True)
    (tmp_path / "12" / "stat").write_text("12 (a name) S 1")
    monkeypatch.setattr(processes, "PROC", tmp_path)
    assert is_alive(f"{HERE}:12", marker="x", since=now) is None


def test_a_zombie_is_not_alive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Even if the kernel still shows its environment."""
    place = tmp_path / "12"
    place.mkdir()
    (place / "environ").write_bytes(b"PREFECT__FLOW_RUN_ID=abc")
    monkeypatch.setattr(processes, "PROC", tmp_path)
    for state, there in (("Z", False), ("X", False), ("S", True)):
        (place / "stat").write_text(f"12 (a name) {state} 1")
        assert is_alive(f"{HERE}:12", marker="FLOW_RUN_ID=abc", since=0) is there
