"""Tests that secrets in the environment, in addresses and in configurations are written nowhere."""

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

from digits.cli.status import NEEDS_ATTENTION
from tests.support.canaries import CANARIES, ESCAPED, leaking_files, leaks
from tests.support.running_system import RunningSystem
from tests.support.server import free_port

HERE = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def system(guarded_system: RunningSystem) -> RunningSystem:
    """Return the system that has canaries in its environment."""
    return guarded_system


def run_command(system: RunningSystem, *arguments: str, **more: str) -> tuple[int, bytes]:
    """Run a command; return its exit code and its output, which must not contain a canary."""
    command = [str(Path(sys.executable).with_name("digits")), *arguments]
    done = subprocess.run(
        command, env={**system.environment, **more}, capture_output=True, check=False, timeout=300, cwd=HERE
    )
    output = done.stdout + done.stderr
    assert not leaks(output), output.decode()
    assert b"Traceback" not in output, output.decode()
    return done.returncode, output


def test_canaries_are_found_in_every_form() -> None:
    for name, canary in CANARIES.items():
        for lead in ("", "a", "ab", "operator:"):
            assert leaks(base64.b64encode(f"{lead}{canary}".encode())) == [name]
        assert leaks(ESCAPED[name].encode()) == leaks(canary.encode()) == [name]


def test_predictions_by_the_worker_and_tracked_ones_write_no_secret(
    system: RunningSystem, folder: Path, tmp_path: Path
) -> None:
    """Search logs, database, artifacts, tables and command lines; one of the runs fails."""
    failed = system.run("predict/folder", folder=str(tmp_path / "absent"))
    assert system.wait_for_end(failed, "FAILED")
    for number, way in enumerate(("--deploy", "--track")):
        api = {
            "PREFECT_API_URL": f"{system.url}/api",
            "PREFECT_API_AUTH_STRING": system.environment["PREFECT_SERVER_API_AUTH_STRING"],
        }
        code, output = run_command(system, "predict", str(folder), "--out", str(tmp_path / f"{number}.csv"), way, **api)
        assert code == 0, output
    assert run_command(system, "status", "--json")[0] in (0, NEEDS_ATTENTION)
    assert not leaking_files(system.state, system.root, tmp_path, system.home)
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if leaks(_read_own_command_line(path))]
    environment = Path(f"/proc/{system.process('worker')}/environ").read_bytes()
    assert b"PREFECT_SERVER_" not in environment


@pytest.mark.slow
def test_a_training_writes_no_secret(system: RunningSystem, tmp_path: Path) -> None:
    """The temporary server must not be reached through the proxy."""
    file = tmp_path / "night.toml"
    file.write_text('[model]\narchitecture = "mlp"\nhidden = [16]\n[training]\nepochs = 1\n')
    options = ("--config", str(file), "--dataset", "mnist-sample", "--artifacts", str(tmp_path))
    code, output = run_command(system, "train", *options)
    assert code == 0, output
    assert not leaking_files(tmp_path, system.home)


def _read_own_command_line(path: Path) -> bytes:
    """Return a command line; empty for a process of another user, and for one that has ended."""
    try:
        return path.read_bytes() if path.parent.stat().st_uid == os.getuid() else b""
    except OSError:
        return b""


@pytest.mark.slow
def test_errors_contain_no_secret(system: RunningSystem, folder: Path, tmp_path: Path) -> None:
    """Use a wrong password, and addresses with a password whose server answers or does not."""
    userinfo = f"user:{ESCAPED['address']}@127.0.0.1"
    wrong = {"PREFECT_API_URL": f"{system.url}/api", "PREFECT_API_AUTH_STRING": f"operator:{CANARIES['client']}"}
    addresses = [f"http://{userinfo}:{port}/api?token={ESCAPED['query']}" for port in (system.port, free_port())]
    for given in (wrong, *({"PREFECT_API_URL": address} for address in addresses)):
        elsewhere = {**given, "DIGITS_STATE": str(tmp_path / "state")}
        commands = [("up",), ("train",), *(("predict", str(folder), way) for way in ("--track", "--deploy"))]
        for arguments in commands:
            code, output = run_command(system, *arguments, **elsewhere)
            assert code, output
        run_command(system, "status", "--json", **elsewhere)
        run_command(system, "down", **elsewhere)
    assert not leaking_files(tmp_path, system.state)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["postgresql+asyncpg", "postgresql+psycopg2", "postgres"])
def test_an_unreachable_or_unsupported_database_is_named_without_its_password(
    system: RunningSystem, tmp_path: Path, scheme: str
) -> None:
    database = f"{scheme}://user:{ESCAPED['database']}@127.0.0.1:{free_port()}/digits"
    more = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database, "DIGITS_STATE": str(tmp_path / "state")}
    code, output = run_command(system, "up", "--port", str(free_port()), **more)
    assert code == 7, output
    assert not leaking_files(tmp_path)


def test_the_value_of_an_unknown_setting_is_not_printed(system: RunningSystem, tmp_path: Path) -> None:
    file = tmp_path / "night.toml"
    file.write_text(f'[training]\npassword = "{CANARIES["setting"]}"\n')
    code, output = run_command(system, "train", "--config", str(file))
    assert code == 2, output
    assert b"training.password" in output
