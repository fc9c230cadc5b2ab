"""The systemd units: accepted by systemd, confined, and with the settings of a server that `digits up` starts."""

import re
import subprocess
from pathlib import Path

import pytest

from digits.server.password import VARIABLES
from tests.support.sandbox import read_settings

UNITS = sorted((Path(__file__).resolve().parents[3] / "deploy").glob("*.service"))
MAX_EXPOSURE = 3.0
"""Exposure below which systemd calls a unit OK or better; a service without any protection has 9.6."""


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze."""
    try:
        command = ["systemd-analyze", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    units = []
    for path in UNITS:
        unit = tmp_path / path.name
        unit.write_text(re.sub(r"/opt/digits/\.venv/bin/\w+", "/bin/true", path.read_text()))
        units.append(unit)
    assert len(units) == 2
    verified = analyze("verify", *units)
    assert (verified.returncode, verified.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: str(unit.stem))
def test_the_exposure_of_a_unit_is_low(unit: Path) -> None:
    """`systemd-analyze security` ends with 1 if the exposure is above the threshold, which is in tenths."""
    checked = analyze("security", "--offline=true", f"--threshold={int(MAX_EXPOSURE * 10) - 1}", unit)
    assert checked.returncode == 0, checked.stdout
    assert "Overall exposure level" in checked.stdout


def test_the_server_has_a_random_password_its_own_origins_and_a_place_for_its_ui() -> None:
    """An operator's own password, in the last file, overrides the random one."""
    text = next(unit for unit in UNITS if unit.stem == "digits-server").read_text()
    assert "ExecStartPre=/opt/digits/.venv/bin/python -m digits.server.password /var/lib/digits\n" in text
    files = re.findall("^EnvironmentFile=(.*)$", text, re.MULTILINE)
    assert files == ["-/var/lib/digits/password.env", "-/etc/digits/server.env"]
    assert "PREFECT_SERVER_CORS_ALLOWED_ORIGINS=http://127.0.0.1:4200,http://localhost:4200\n" in text
    assert "PREFECT_UI_STATIC_DIRECTORY=/var/lib/digits/" in text


def test_the_worker_has_the_password_only_as_a_client() -> None:
    worker = next(unit for unit in UNITS if unit.stem == "digits-worker")
    assert f"UnsetEnvironment={VARIABLES[1]}\n" in worker.read_text()
    assert "EnvironmentFile=-/var/lib/digits/password.env\n" in worker.read_text()
    assert read_settings(worker)["UMask"] == "0027"
