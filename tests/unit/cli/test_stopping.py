"""Interrupted runs at `digits down` without a usable Prefect API, and without a Prefect server."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from digits.cli import system as commands
from digits.cli.system import stop_system
from digits.server.services import System
from tests.support.server import api_with


@pytest.fixture(autouse=True)
def _no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setattr(commands, "REAP_SECONDS", 600)  # importing Prefect takes longer than usual on a busy machine


@pytest.fixture
def denying() -> Iterator[str]:
    """Yield the address of an API that requires a password."""
    with api_with(401) as api:
        yield api


def test_runs_are_not_checked_if_the_server_cannot_be_asked(tmp_path: Path, denying: str) -> None:
    system = System(tmp_path / "state", tmp_path)
    dead = commands._reap_briefly(system, "http://127.0.0.1:9/api")
    assert dead == {"runs": "not checked, as the server does not answer"}
    denied = commands._reap_briefly(system, denying)
    assert denied == {"runs": "not checked, as the server requires another password"}


def test_runs_are_not_checked_if_prefect_cannot_read_its_settings(tmp_path: Path) -> None:
    (tmp_path / "prefect.toml").write_text("a = " + "[" * 5000)
    found = commands._reap_briefly(System(tmp_path / "state", tmp_path), "http://127.0.0.1:9/api")
    assert str(found["runs"]).startswith("not checked: ")
    assert "nested too deeply" in str(found["runs"])


def test_a_check_of_the_runs_that_takes_too_long_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server accepts connections and does not answer."""
    monkeypatch.setattr(commands, "REAP_SECONDS", 0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        api = f"http://127.0.0.1:{server.getsockname()[1]}/api"
        found = commands._reap_briefly(System(tmp_path / "state", tmp_path), api)
    assert found == {"runs": "not checked, as the server did not answer within 0 s"}


def test_nothing_is_stopped_where_nothing_was_started(tmp_path: Path) -> None:
    assert stop_system(System(tmp_path / "state", tmp_path)) == {"nothing": f"was started from {tmp_path / 'state'}"}
