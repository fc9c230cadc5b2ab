"""Test of the interruption of `digits train` with a temporary Prefect server."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).parents[2]
OPTIONS = ["--dataset", "mnist-sample", "--architecture", "mlp", "--epochs", "1000"]
MAX_SECONDS = 10
MESSAGE = "digits: interrupted; the same command resumes from what is finished"
FIRST_EPOCH = "epoch 1/1000"


@pytest.mark.slow
def test_a_signal_ends_a_training_with_its_server_and_the_training_resumes(tmp_path: Path) -> None:
    """A service manager stops the command alone; a closed terminal ends all of its processes, and so the server."""
    assert FIRST_EPOCH in _interrupt_training(tmp_path, lambda pid: os.kill(pid, signal.SIGTERM))
    assert FIRST_EPOCH not in _interrupt_training(tmp_path, lambda pid: os.killpg(pid, signal.SIGHUP))


def _interrupt_training(home: Path, interrupt: Callable[[int], None]) -> str:
    """Interrupt a training after an epoch, check that no process is left, and return its standard error."""
    digits = str(Path(sys.executable).with_name("digits"))
    # The tests may run in a process that ignores SIGHUP, as after `nohup`.
    command = ["env", "--default-signal=HUP", digits, "train", *OPTIONS, "--artifacts", str(home / "root")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment["PREFECT_HOME"] = str(home / "prefect")
    before = _checkpoints(home)
    process = subprocess.Popen(
        command, env=environment, cwd=HERE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        while _checkpoints(home) <= before:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        interrupt(process.pid)
        _, errors = process.communicate(timeout=MAX_SECONDS)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 130, errors
    assert errors.count(MESSAGE) == 1
    assert "Traceback" not in errors
    assert not [one for one in psutil.process_iter() if _uses(one, home)]
    return errors


def _checkpoints(home: Path) -> list[int]:
    """Return the times at which the checkpoints were written; a new epoch makes the list greater."""
    return [file.stat().st_mtime_ns for file in home.glob("root/work/train-*.npz")]


def _uses(process: psutil.Process, home: Path) -> bool:
    """Check whether a process is running that was started with this directory as Prefect home."""
    try:
        is_running = process.status() != psutil.STATUS_ZOMBIE
        return is_running and process.environ().get("PREFECT_HOME", "").startswith(str(home))
    except psutil.Error:
        return False
