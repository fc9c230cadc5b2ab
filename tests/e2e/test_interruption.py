"""Test of the interruption of `digits train` with a temporary Prefect server."""

import os
import re
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
EPOCH = re.compile(r"^epoch (\d+)/1000", re.MULTILINE)
"""Line of an epoch; it is printed after the checkpoint of the epoch is written."""


@pytest.mark.slow
def test_a_signal_ends_a_training_with_its_server_and_the_training_resumes(tmp_path: Path) -> None:
    """A service manager stops the command alone; a closed terminal ends all of its processes, and so the server."""
    assert _interrupt_training(tmp_path, lambda pid: os.kill(pid, signal.SIGTERM)) == 1
    assert _interrupt_training(tmp_path, lambda pid: os.killpg(pid, signal.SIGHUP)) > 1


def _interrupt_training(home: Path, interrupt: Callable[[int], None]) -> int:
    """Interrupt a training after an epoch, check that no process is left, and return the number of its first epoch."""
    digits = str(Path(sys.executable).with_name("digits"))
    # The tests may run in a process that ignores SIGHUP, as after `nohup`.
    command = ["env", "--default-signal=HUP", digits, "train", *OPTIONS, "--artifacts", str(home / "root")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment["PREFECT_HOME"] = str(home / "prefect")
    log = home / "stderr.txt"
    with log.open("w") as stderr:
        process = subprocess.Popen(command, env=environment, cwd=HERE, stderr=stderr, start_new_session=True)
    try:
        while not EPOCH.search(log.read_text()):
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        interrupt(process.pid)
        process.wait(timeout=MAX_SECONDS)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    errors = log.read_text()
    assert process.returncode == 130, errors
    assert errors.count(MESSAGE) == 1
    assert "Traceback" not in errors
    assert not [one for one in psutil.process_iter() if _uses(one, home)]
    return int(EPOCH.findall(errors)[0])


def _uses(process: psutil.Process, home: Path) -> bool:
    """Check whether a process is running that was started with this directory as Prefect home."""
    try:
        is_running = process.status() != psutil.STATUS_ZOMBIE
        return is_running and process.environ().get("PREFECT_HOME", "").startswith(str(home))
    except psutil.Error:
        return False
