"""Password of the server that Digits starts, and its file."""

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from digits.server.password import USER, VARIABLES, ensure_password, password_file, read_password
from digits.server.services import System, client_environment


def test_a_password_is_created_once_in_a_file_for_its_owner_only(tmp_path: Path) -> None:
    assert read_password(tmp_path) is None
    password = ensure_password(tmp_path)
    name, _, word = password.partition(":")
    assert (name, len(word) > 40) == (USER, True)
    assert ensure_password(tmp_path) == read_password(tmp_path) == password
    assert stat.S_IMODE(password_file(tmp_path).stat().st_mode) == 0o600
    assert ensure_password(tmp_path / "other") != password


def test_an_empty_file_gets_a_password_and_a_readable_one_becomes_private(tmp_path: Path) -> None:
    password_file(tmp_path).touch()
    password = ensure_password(tmp_path)
    assert password.startswith(f"{USER}:")
    password_file(tmp_path).chmod(0o644)
    assert ensure_password(tmp_path) == password
    assert stat.S_IMODE(password_file(tmp_path).stat().st_mode) == 0o600


def test_systemd_gets_the_same_password_in_an_environment_file(tmp_path: Path) -> None:
    for _ in range(2):
        subprocess.run([sys.executable, "-m", "digits.server.password", tmp_path], check=True)
        password = read_password(tmp_path)
        file = tmp_path / "password.env"
        assert file.read_text() == "".join(f"{name}={password}\n" for name in VARIABLES)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    shell = f"set -a; . {shlex.quote(str(file))}; printenv {VARIABLES[0]}"
    printed = subprocess.run(["/bin/sh", "-c", shell], env={}, check=True, capture_output=True, text=True).stdout
    assert printed.strip() == password


def test_the_password_in_the_file_is_used_only_for_the_server_of_that_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "me:of another server")
    system = System(tmp_path, tmp_path)
    password = ensure_password(tmp_path)
    assert system.environment("http://x")["PREFECT_API_AUTH_STRING"] == "me:of another server"
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    process = system.server.start(sleep, os.environ, directory=tmp_path, api="http://x")
    try:
        assert system.environment("http://x")["PREFECT_API_AUTH_STRING"] == password
        assert system.environment("http://y")["PREFECT_API_AUTH_STRING"] == "me:of another server"
    finally:
        system.server.stop()
        process.wait()
    assert client_environment("u", {"PREFECT_API_AUTH_STRING": "c:d"}, "e:f")["PREFECT_API_AUTH_STRING"] == "e:f"
