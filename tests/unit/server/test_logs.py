"""Rotation of the logs of server and worker."""

import subprocess
import sys
from pathlib import Path

import pytest

from digits.server import logs
from digits.server.logs import KEPT, rotate_logs
from digits.server.services import wait_until
from digits.store.files import locked
from tests.support import faults


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotate logs of more than ten bytes."""
    monkeypatch.setattr(logs, "MAX_BYTES", 10)


def test_large_logs_are_rotated_and_the_oldest_is_removed(tmp_path: Path) -> None:
    """Only the owner can read the copies, as the logs."""
    log = tmp_path / "server.log"
    for number in range(KEPT + 2):
        log.write_text(f"{number}" * 11)
        assert rotate_logs(tmp_path) == [log]
        assert log.read_bytes() == b""
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["logs.lock", "server.log", *(f"server.log.{number}" for number in range(1, KEPT + 1))]
    assert (tmp_path / "server.log.1").read_text() == f"{KEPT + 1}" * 11
    assert (tmp_path / f"server.log.{KEPT}").read_text() == "2" * 11
    assert (tmp_path / "server.log.1").stat().st_mode & 0o777 == 0o600


def test_small_logs_and_missing_directories_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_text("1234567890")
    assert rotate_logs(tmp_path) == []
    assert rotate_logs(tmp_path / "missing") == []
    assert [path.name for path in tmp_path.iterdir()] == ["worker.log"]


def test_a_process_goes_on_writing_to_the_rotated_log(tmp_path: Path) -> None:
    """It keeps the file open for appending, as the server and the worker do."""
    log = tmp_path / "worker.log"
    command = [sys.executable, "-c", "for _ in range(2): print('x' * 20, flush=True); input()"]
    with log.open("ab") as out, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out) as process:
        assert process.stdin
        assert wait_until(lambda: log.stat().st_size > 0, 120)
        assert rotate_logs(tmp_path) == [log]
        process.stdin.write(b"\n\n")
        process.stdin.close()
    assert log.read_text() == "x" * 20 + "\n"


def test_a_log_is_left_as_it_is_if_it_cannot_be_rotated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On a full disk at any step, or while another process rotates it."""
    log = tmp_path / "server.log"
    for at in range(1, 10):
        log.write_text("x" * 20)
        with faults.fault(tmp_path, at, faults.no_space) as fault:
            rotated = rotate_logs(tmp_path)
        copies = "".join(path.read_text() for path in tmp_path.glob("server.log*"))
        assert "x" * 20 in copies
        assert rotated or fault.happened
        if not fault.happened:
            break
    assert at > 3
    assert "free disk space" in caplog.text
    log.write_text("x" * 20)
    with locked(tmp_path / "logs.lock"):
        assert rotate_logs(tmp_path) == []
    assert log.read_text() == "x" * 20
