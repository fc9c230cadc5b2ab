"""Test that the system works with the system calls and the capabilities of its systemd units."""

import json
import os
import subprocess
import sys
from pathlib import Path

import prefect
import pytest

from tests.support import sandbox
from tests.support.pictures import write_images
from tests.support.running_system import RunningSystem
from tests.support.server import free_port, unmeasured

READ_ONLY = """
mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" &&
for copy in "$0"/server/ui_build "$0"/server/ui_v2_build; do
    test ! -d "$copy" || mount -t tmpfs -o ro none "$copy" || exit
done &&
exec "$@"
"""
"""Script that runs a command with Prefect's package read-only, and without the copies of the UI in it."""
UNIT = Path(__file__).resolve().parents[2] / "deploy" / "digits-worker.service"


@pytest.mark.slow
@pytest.mark.skipif(not sandbox.is_available(), reason="libseccomp or systemd-analyze is not installed")
def test_the_worker_trains_and_predicts_in_the_sandbox_of_its_unit(tmp_path: Path) -> None:
    """The server, the worker and its runs have neither capabilities nor other system calls.

    They cannot write to Prefect's package either. Prefect's UI is there all the same.
    """
    system = RunningSystem(tmp_path / "artifacts", tmp_path / "state", tmp_path, free_port())
    write_images(tmp_path / "scans", 10)
    digits = [str(Path(sys.executable).with_name("digits")), "up", "--port", str(system.port), "--json"]
    confined = [sys.executable, "-m", "tests.support.sandbox", str(UNIT), *digits]
    if os.getuid() == 0:
        confined = ["unshare", "--mount", "sh", "-c", READ_ONLY, str(Path(prefect.__file__).parent), *confined]
    try:
        with unmeasured():
            up = subprocess.run(confined, env=system.environment, cwd=UNIT.parents[1], check=True, capture_output=True)
        assert json.loads(up.stdout)["ui"] == system.url
        for name in ("server", "worker"):
            status = Path(f"/proc/{system.process(name)}/status").read_text()
            assert "\nCapBnd:\t0000000000000000\n" in status
            assert "\nSeccomp:\t2\n" in status
        trained = system.run("train/nightly", datasets=["mnist-sample"], model={"architecture": "mlp"})
        assert system.wait_for_end(trained)["message"].startswith("model version 1: ")
        predicted = system.run("predict/folder", folder=str(tmp_path / "scans"))
        message = system.wait_for_end(predicted)["message"]
        table = Path(message.rpartition(" are in ")[2])
        assert (table.stat().st_mode & 0o777, table.read_text().count("\n")) == (0o640, 11)
    finally:
        system.down()
