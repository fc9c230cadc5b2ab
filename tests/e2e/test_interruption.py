"""Tests of the interruption of `digits train` with a temporary Prefect server, by each signal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).parents[2]
EPOCHS = 8
MAX_SECONDS = 10
MESSAGE = "digits: interrupted; the same command resumes from what is finished"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "whole_group"),
    [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGINT, True), (signal.SIGHUP, True)],
    ids=["SIGTERM", "SIGTERM to all", "SIGINT to all", "SIGHUP to all"],
)
def test_a_signal_ends_a_training_with_its_server_and_the_training_resumes(
    tmp_path: Path, number: signal.Signals, whole_group: bool
) -> None:
    """The signal comes in the second epoch or later; a terminal or a service manager sends it to all processes."""
    digits = str(Path(sys.executable).with_name("digits"))
    options = ["--dataset", "mnist-sample", "--architecture", "cnn", "--epochs", str(EPOCHS)]
    command = [digits, "train", *options, "--artifacts", str(tmp_path / "root")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment["PREFECT_HOME"] = str(tmp_path / "prefect")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    process = subprocess.Popen(command, env=environment, cwd=HERE, stderr=subprocess.PIPE, start_new_session=True)
    signal.signal(signal.SIGINT, before)
    while not list(tmp_path.glob("root/work/train-*.npz")):
        assert process.poll() is None
        time.sleep(0.02)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=MAX_SECONDS)
    assert process.returncode == 130, errors
    assert errors.decode().count(MESSAGE) == 1
    assert b"Traceback" not in errors
    assert not [one for one in psutil.process_iter() if _uses(one, tmp_path)]
    again = subprocess.run(command, env=environment, cwd=HERE, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert f"epoch {EPOCHS}/{EPOCHS}" in again.stderr
    assert f"epoch 1/{EPOCHS}" not in again.stderr


def _uses(process: psutil.Process, home: Path) -> bool:
    """Check whether a process is running that was started with this directory as Prefect home."""
    try:
        is_running = process.status() != psutil.STATUS_ZOMBIE
        return is_running and process.environ().get("PREFECT_HOME", "").startswith(str(home))
    except psutil.Error:
        return False
