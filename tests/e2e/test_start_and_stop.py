"""Tests of `digits up`, `down` and `status` with a server, a state directory or settings that cannot be used."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from digits.server.services import Service
from tests.support.networks import tiny_store
from tests.support.prefect_cases import DEEP, LONG
from tests.support.running_system import RunningSystem, wait_for
from tests.support.server import free_port, unmeasured

pytestmark = pytest.mark.campaign
WORD = "operator:first"


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[RunningSystem]:
    """Yield a system that is not running, and check in the end that none of its processes is left."""
    home = tmp_path / "home"
    home.mkdir()
    system = RunningSystem(tiny_store(tmp_path / "artifacts"), home / "system", home, free_port())
    yield system
    assert processes_of(system) == []


@pytest.fixture
def running(stopped: RunningSystem) -> Iterator[RunningSystem]:
    """Yield a system that is running."""
    try:
        with unmeasured():
            stopped.up()
        yield stopped
    finally:
        stopped.down()


def processes_of(system: RunningSystem) -> list[int]:
    """Return the processes that `digits up` has started and that still run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PREFECT_HOME") == str(system.state / "prefect"):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def up(system: RunningSystem, code: int, **more: str) -> str:
    """Run `digits up`, which fails with an exit code, and return its sentence."""
    text = str(system.digits("up", "--port", str(system.port), code=code, **more))
    (sentence,) = [line for line in text.splitlines() if line.startswith("digits: ")]
    assert text.strip().endswith(sentence)
    return sentence


def test_a_server_that_a_signal_has_stopped_is_named_and_ended(running: RunningSystem) -> None:
    server = running.process("server")
    os.killpg(server, signal.SIGSTOP)
    assert f"its process {server} is stopped: continue it with `kill -CONT {server}`" in up(running, 7)
    assert any("does not answer" in sentence for sentence in running.status()["attention"])
    done = running.down()
    assert done["server"] == "stopped"
    assert done["runs"] == "not checked, as the server does not answer"


def test_a_server_is_ended_without_its_password(stopped: RunningSystem) -> None:
    with unmeasured():
        stopped.digits("up", "--port", str(stopped.port), PREFECT_SERVER_API_AUTH_STRING=WORD)
    assert "requires another password" in up(stopped, 7, PREFECT_API_AUTH_STRING="operator:second")
    done = stopped.digits("down", "--json", PREFECT_API_AUTH_STRING="operator:second")
    assert (done["worker"], done["server"]) == ("stopped", "stopped")
    assert done["runs"] == "not checked, as the server requires another password"


def test_a_server_that_is_not_recorded_is_named_and_ended(running: RunningSystem) -> None:
    server = running.process("server")
    (running.state / "server.lock").write_text("")
    assert f"(process {server}); end it with `digits down`" in up(running, 7)
    done = running.down()
    assert (done["worker"], done["server"]) == ("stopped", "stopped")


def test_a_worker_is_ended_without_a_server(running: RunningSystem) -> None:
    """The next start finds nothing in its way."""
    os.killpg(running.process("server"), signal.SIGKILL)
    wait_for(lambda: Service(running.state, "server").record() is None, "the end of the server")
    assert running.down()["worker"] == "stopped"
    assert running.up()["server"] == "started"


def test_an_api_that_does_not_answer_is_reported_and_stops_nothing(stopped: RunningSystem) -> None:
    dead = "http://127.0.0.1:9/api"
    assert f"the Prefect server at {dead} does not answer" in up(stopped, 7, PREFECT_API_URL=dead)
    assert stopped.digits("down", "--json", PREFECT_API_URL=dead)["server"].startswith("was not started")
    assert "does not answer" in stopped.digits("status", code=8, PREFECT_API_URL=dead)
    assert "does not answer" in stopped.digits("janitor", code=7, PREFECT_API_URL=dead)


def test_a_state_directory_that_cannot_be_made_is_named(stopped: RunningSystem) -> None:
    assert "digits: /proc/nope: the state directory cannot be used" in up(stopped, 7, DIGITS_STATE="/proc/nope")
    assert stopped.digits("down", "--json", DIGITS_STATE="/proc/nope") == {"nothing": "was started from /proc/nope"}
    assert "start one with `digits up`" in stopped.digits("status", code=8, DIGITS_STATE="/proc/nope")


@pytest.mark.parametrize("content", [DEEP, LONG])
@pytest.mark.parametrize("name", ["prefect.toml", "pyproject.toml", ".prefect/profiles.toml"])
def test_settings_that_prefect_cannot_read_are_named(
    name: str, content: str, stopped: RunningSystem, tmp_path: Path
) -> None:
    """Where Prefect would fail to be imported."""
    project = tmp_path / "project"
    (project / "scans").mkdir(parents=True)
    (project / "prefect.yaml").write_text("name: digits\n")
    file = (stopped.home if "profiles" in name else project) / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(content)
    system = RunningSystem(stopped.root, stopped.state, stopped.home, stopped.port, project=project)
    for arguments in (["up"], ["status"], ["janitor"], ["train", "--config", str(file)]):
        assert f"{file}: not a readable TOML file" in system.digits(*arguments, code=2)
    assert system.digits("down", "--json") == {"nothing": f"was started from {system.state}"}
    below = RunningSystem(stopped.root, stopped.state, stopped.home, stopped.port, project=project / "scans")
    assert f"{file}: not a readable TOML file" in below.digits("up", code=2)
