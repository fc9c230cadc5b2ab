"""Canaries planted where secrets are, in the environment, in addresses and in configuration, are nowhere afterwards."""

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.canaries import CANARIES, ESCAPED, leaking_files, leaks
from tests.support.running_system import RunningSystem
from tests.support.server import free_port


@pytest.fixture(scope="module")
def system(guarded_system: RunningSystem) -> RunningSystem:
    """Return the system that has canaries planted in its environment."""
    return guarded_system


def said(system: RunningSystem, *arguments: str, **more: str) -> tuple[int, bytes]:
    """Run a command; give its exit code and all it said, in which there is no canary."""
    command = [str(Path(sys.executable).with_name("digits")), *arguments]
    done = subprocess.run(
        command, env={**system.environment, **more}, capture_output=True, check=False, timeout=300, cwd=system.home
    )
    words = done.stdout + done.stderr
    assert not leaks(words), words.decode()
    assert b"Traceback" not in words, words.decode()
    return done.returncode, words


def test_the_search_finds_what_it_looks_for() -> None:
    """In each of its forms."""
    for name, canary in CANARIES.items():
        for lead in ("", "a", "ab", "operator:"):
            assert leaks(base64.b64encode(f"{lead}{canary}".encode())) == [name]
        assert leaks(ESCAPED[name].encode()) == leaks(canary.encode()) == [name]


def test_work_writes_no_secret(system: RunningSystem, folder: Path, tmp_path: Path) -> None:
    """A prediction by the worker, one that is tracked, one that fails: logs, database, artifacts, tables, processes."""
    failed = system.run("predict/folder", folder=str(tmp_path / "absent"))
    assert system.wait_for_end(failed, "FAILED")
    for number, way in enumerate(("--deploy", "--track")):
        api = {
            "PREFECT_API_URL": f"{system.url}/api",
            "PREFECT_API_AUTH_STRING": system.environment["PREFECT_SERVER_API_AUTH_STRING"],
        }
        code, words = said(system, "predict", str(folder), "--out", str(tmp_path / f"{number}.csv"), way, **api)
        assert code == 0, words
    assert said(system, "status", "--json")[0] in (0, 1)
    assert not leaking_files(system.state, system.root, tmp_path, system.home)
    lines = [path for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.stat().st_uid == os.getuid()]
    assert not [path for path in lines if leaks(_line(path))]
    environment = Path(f"/proc/{system.process('worker')}/environ").read_bytes()
    assert b"PREFECT_SERVER_" not in environment


@pytest.mark.slow
def test_a_training_writes_no_secret(system: RunningSystem, tmp_path: Path) -> None:
    """Kept by a temporary server, which no proxy stands before."""
    file = tmp_path / "night.toml"
    file.write_text('[model]\narchitecture = "mlp"\nhidden = [16]\n[training]\nepochs = 1\n')
    options = ("--config", str(file), "--dataset", "mnist-sample", "--artifacts", str(tmp_path))
    code, words = said(system, "train", *options)
    assert code == 0, words
    assert not leaking_files(tmp_path, system.home)


def _line(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


@pytest.mark.slow
def test_what_goes_wrong_says_no_secret(system: RunningSystem, folder: Path, tmp_path: Path) -> None:
    """A wrong password, an address with one in it that answers or doesn't, a database that can't be had."""
    userinfo = f"user:{ESCAPED['address']}@127.0.0.1"
    wrong = {"PREFECT_API_URL": f"{system.url}/api", "PREFECT_API_AUTH_STRING": f"operator:{CANARIES['client']}"}
    addresses = [f"http://{userinfo}:{port}/api?token={ESCAPED['query']}" for port in (system.port, free_port())]
    for given in (wrong, *({"PREFECT_API_URL": address} for address in addresses)):
        elsewhere = {**given, "DIGITS_STATE": str(tmp_path / "state")}
        commands = [("up",), ("train",), *(("predict", str(folder), way) for way in ("--track", "--deploy"))]
        for arguments in commands:
            code, words = said(system, *arguments, **elsewhere)
            assert code, words
        said(system, "status", "--json", **elsewhere)
        said(system, "down", **elsewhere)
    assert not leaking_files(tmp_path, system.state)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["postgresql+asyncpg", "postgresql+psycopg2", "postgres"])
def test_a_database_that_is_not_there_or_not_meant_is_named_without_its_password(
    system: RunningSystem, tmp_path: Path, scheme: str
) -> None:
    """Neither in the message nor in the log of the server that could not start."""
    database = f"{scheme}://user:{ESCAPED['database']}@127.0.0.1:{free_port()}/digits"
    more = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database, "DIGITS_STATE": str(tmp_path / "state")}
    code, words = said(system, "up", "--port", str(free_port()), **more)
    assert code == 7, words
    assert not leaking_files(tmp_path)


def test_a_secret_in_the_configuration_is_not_repeated(system: RunningSystem, tmp_path: Path) -> None:
    """A setting that there is not may hold anything."""
    file = tmp_path / "night.toml"
    file.write_text(f'[training]\npassword = "{CANARIES["setting"]}"\n')
    code, words = said(system, "train", "--config", str(file))
    assert code == 2, words
    assert b"training.password" in words
