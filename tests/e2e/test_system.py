"""`digits up` to a running system behind a password, seen as its operator sees it."""

import socket
import stat
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.running_system import RunningSystem, wait_for
from tests.support.server import free_port

IMAGES = 40


@pytest.fixture(scope="module")
def system(guarded_system: RunningSystem) -> RunningSystem:
    """Return the system behind a password."""
    return guarded_system


def listening(port: int) -> set[str]:
    """Give the IPv4 addresses, as hexadecimal, at which the kernel has somebody listen at a port."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    places = [line[1].split(":") for line in lines if line[3] == "0A"]
    return {address for address, number in places if int(number, 16) == port}


def test_up_again_changes_nothing(system: RunningSystem) -> None:
    """Server, worker and deployments are found; the state is for its owner only, and on loopback."""
    before = system.process("server"), system.process("worker")
    found = system.up()
    assert (found["server"], found["worker"], found["deployments"]) == (
        "running already",
        "running already",
        "as they were",
    )
    assert (system.process("server"), system.process("worker")) == before
    assert stat.S_IMODE(system.state.stat().st_mode) == 0o700
    assert stat.S_IMODE((system.state / "prefect" / "prefect.db").stat().st_mode) & 0o077 == 0
    assert listening(system.port) == {"0100007F"}  # 127.0.0.1, the last byte first


def test_status_is_quiet_when_all_is_well(system: RunningSystem) -> None:
    """It knows the deployments, when each runs next, and the champion."""

    def scheduled() -> Any:
        found = system.status()
        return all(one["following"] for one in found["deployments"] if "cron" in one["schedule"]) and found

    status = wait_for(scheduled, "the next runs")
    assert status["deployments"][0]["following"]
    assert status["attention"] == []
    assert [one["name"] for one in status["deployments"]] == [
        "train/nightly",
        "rollback/rollback",
        "predict/folder",
        "predict/inbox",
        "janitor/janitor",
    ]
    assert status["champion"].startswith("version 1, ")
    assert "1 online" in status["worker"]


def test_a_folder_by_command(system: RunningSystem, folder: Path, tmp_path: Path) -> None:
    """`digits predict --deploy` waits for the worker, and says where the table is."""
    out = tmp_path / "table.csv"
    ended = system.digits("predict", str(folder), "--out", str(out), "--deploy", "--top-k", "2", "--json")
    assert (ended["state"], ended["message"]) == ("Completed", f"{IMAGES + 1} images are in {out}")
    assert "top2" in pd.read_csv(out).columns


def test_a_failure_is_one_sentence(system: RunningSystem) -> None:
    """What the run's page says can be acted on; the traceback is in the log, and an event tells of it."""
    run = system.run("predict/folder", folder="/no/such/folder")
    state = system.wait_for_end(run, "FAILED")
    assert "/no/such/folder" in state["message"]
    assert "\n" not in state["message"]
    assert not state["message"].startswith("Flow run encountered")
    wanted = {"logs": {"flow_run_id": {"any_": [run]}, "level": {"ge_": 40}}}
    wait_for(lambda: any("Traceback" in one["message"] for one in system.ask("/logs/filter", wanted)), "the traceback")
    assert (
        wait_for(lambda: system.events("digits.run.failed"), "the event")[0]["payload"]["message"] == state["message"]
    )
    assert any("the last run" in sentence for sentence in system.status()["attention"])


def test_clear_words_where_it_can_not_start(system: RunningSystem, tmp_path: Path) -> None:
    """A port that is taken, a server of somebody else's, one that does not answer."""
    other = RunningSystem(system.root, tmp_path / "state", system.home, free_port(), system.secrets)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", other.port))
        taken.listen()
        assert "choose another --port" in other.digits("up", "--port", str(other.port), code=7)
    assert "did not start" in other.digits("up", "--port", str(system.port), code=7)
    gone = f"http://127.0.0.1:{free_port()}/api"
    assert "does not answer" in other.digits("up", code=7, PREFECT_API_URL=gone)
    assert "was not running" in other.digits("down")
    assert any("digits up" in sentence for sentence in other.status()["attention"])
    assert "digits up" in other.digits("predict", str(tmp_path), "--deploy", code=7)


def test_a_foreign_server_is_used_and_left_alone(system: RunningSystem, tmp_path: Path) -> None:
    """With PREFECT_API_URL, `up` starts only a worker, and `down` stops only that."""
    other = RunningSystem(system.root, tmp_path / "state", system.home, system.port, system.secrets)
    found = other.up(PREFECT_API_URL=f"{system.url}/api")
    assert (found["server"], found["worker"]) == ("running already, not by digits", "started")
    assert other.down()["server"].startswith("was not started by digits up")
    assert system.status()["attention"] is not None
    assert system.ask("/health") is True
