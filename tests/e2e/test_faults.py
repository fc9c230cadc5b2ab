"""What becomes of runs when their process, their worker, their server or the database is taken away from them."""

import os
import signal
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from digits.maintenance.processes import is_alive
from digits.store.artifacts import Store
from digits.store.registry import Registry
from tests.support.running_system import RunningSystem, wait_for

pytestmark = pytest.mark.campaign

NIGHT: dict[str, Any] = {"datasets": ["mnist-sample"], "model": {"architecture": "mlp"}}
COPIES = 60
"""Of each image, as hard links: enough for a run of some seconds."""


@pytest.fixture(scope="module")
def many(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of some thousand images."""
    many = tmp_path_factory.mktemp("many")
    for path in folder.glob("*.png"):
        for number in range(COPIES):
            os.link(path, many / f"{path.stem}-{number:03}.png")
    return many


def check_table(message: str, folder: Path) -> None:
    """See that the table that a run says it has written has each image once."""
    paths = list(pd.read_csv(message.rpartition(" are in ")[2], dtype=str, keep_default_na=False).path)
    assert paths == sorted(path.name for path in folder.iterdir())


def stopped(process: int) -> None:
    """Hold a process where it is, so that what happens next happens in the middle of its work."""
    os.kill(process, signal.SIGSTOP)


def test_a_flow_that_is_killed_has_crashed(system: RunningSystem, many: Path) -> None:
    """The worker sees it, and the next run has every row once."""
    run = system.run("predict/folder", folder=str(many), options={"processes": 1})
    os.kill(system.wait_until_running(run), signal.SIGKILL)
    state = system.wait_for_end(run, "CRASHED")
    assert state["name"] == "Crashed"
    again = system.run("predict/folder", folder=str(many), options={"processes": 1})
    check_table(system.wait_for_end(again)["message"], many)
    assert wait_for(lambda: system.events("digits.run.recovered"), "the recovery")[0]["payload"]["run"]


def test_a_worker_that_is_killed_with_its_run(system: RunningSystem) -> None:
    """The run claims to be at work until `up` or the janitor looks; then the next night proceeds, champion intact."""
    champion = Registry(Store(system.root)).champion()
    run = system.run("train/nightly", **NIGHT, training={"epochs": 900})
    flow = system.wait_until_running(run)
    worker = system.process("worker")
    os.kill(worker, signal.SIGKILL)
    os.kill(flow, signal.SIGKILL)
    time.sleep(1)
    assert system.state_of(run)["type"] == "RUNNING"
    assert any("process is gone" in sentence for sentence in system.status()["attention"])
    assert "crashed" in system.up()
    assert system.wait_for_end(run, "CRASHED")["message"].endswith("the next run continues its work")
    assert Registry(Store(system.root)).champion() == champion
    system.wait_for_end(system.run("train/nightly", **NIGHT, training={"epochs": 2}))


def test_the_janitor_ends_what_is_gone_and_nothing_else(system: RunningSystem) -> None:
    """A run at a terminal that was killed is one nobody reports; one at work is left alone."""
    gone = system.run("train/nightly", **NIGHT, training={"epochs": 900, "seed": 5})
    flow, worker = system.wait_until_running(gone), system.process("worker")
    stopped(worker)
    os.kill(flow, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    told = system.digits("janitor", "--json")
    assert "epochs" in told["runs set to crashed"]
    system.wait_for_end(gone, "CRASHED")
    system.up()
    alive = system.run("train/nightly", **NIGHT, training={"epochs": 900, "seed": 6})
    process = system.wait_until_running(alive)
    assert system.digits("janitor", "--json")["runs set to crashed"] == "none"
    cleaned = system.wait_for_end(system.run("janitor/janitor"))["message"]
    assert cleaned.startswith("0 runs set to Crashed")
    assert system.state_of(alive)["type"] == "RUNNING"
    second = system.run("train/nightly", **NIGHT, training={"epochs": 1})
    assert system.wait_for_end(second, "CANCELLED"), "one night at a time"
    os.kill(process, signal.SIGKILL)
    system.wait_for_end(alive, "CRASHED")


def test_down_ends_what_is_at_work_and_says_so(system: RunningSystem) -> None:
    """Nothing of it goes on, the run is told to have crashed, and the system comes back."""
    run = system.run("train/nightly", **NIGHT, training={"epochs": 900, "seed": 8})
    process = system.wait_until_running(run)
    assert "900 epochs" in system.down()["interrupted"]
    assert not is_alive(f"{socket.gethostname()}:{process}", marker=run, since=0)
    assert system.up()["worker"] == "started"
    system.wait_for_end(run, "CRASHED")


def test_runs_that_are_late_do_not_pile_up(system: RunningSystem) -> None:
    """What came due while no worker was there is one run when it comes back, not one for each night."""
    os.kill(system.process("worker"), signal.SIGKILL)
    late = [system.run("train/nightly", **NIGHT, training={"epochs": 60, "seed": number}) for number in range(5)]
    system.up()
    ends = [system.wait_for_end(run, "COMPLETED", "CANCELLED")["type"] for run in late]
    assert sorted(ends) == [*["CANCELLED"] * 4, "COMPLETED"]


def test_a_server_that_is_restarted_in_mid_run(system: RunningSystem, many: Path) -> None:
    """The run ends, and the next one proceeds with no hand laid on but the server's start."""
    run = system.run("predict/folder", folder=str(many), options={"processes": 1})
    system.wait_until_running(run)
    os.killpg(system.process("server"), signal.SIGKILL)
    time.sleep(2)
    system.up()
    state = system.wait_for_end(run, "COMPLETED", "FAILED", "CRASHED")
    if state["type"] == "COMPLETED":
        check_table(state["message"], many)
    again = system.run("predict/folder", folder=str(many), options={"processes": 1})
    check_table(system.wait_for_end(again)["message"], many)


def test_a_database_that_is_locked_for_a_while(system: RunningSystem, many: Path) -> None:
    """Somebody else's transaction delays a run, and harms none."""
    database = sqlite3.connect(system.state / "prefect" / "prefect.db", isolation_level=None, timeout=30)
    run = system.run("predict/folder", folder=str(many))
    system.wait_until_running(run)
    database.execute("BEGIN EXCLUSIVE")
    time.sleep(8)
    database.execute("ROLLBACK")
    database.close()
    state = system.wait_for_end(run, "COMPLETED", "FAILED", "CRASHED")
    if state["type"] == "COMPLETED":
        check_table(state["message"], many)
    again = system.run("predict/folder", folder=str(many))
    check_table(system.wait_for_end(again)["message"], many)
    assert system.status()["worker"].startswith("1 online")
