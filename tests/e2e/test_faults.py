"""Tests of runs whose process, worker, server or database fails."""

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
from tests.support.held_shards import held_shard
from tests.support.running_system import RunningSystem, wait_for

pytestmark = [pytest.mark.campaign, pytest.mark.usefixtures("postponed_night")]

NIGHT: dict[str, Any] = {"datasets": ["mnist-sample"], "model": {"architecture": "mlp"}}
COPIES = 60
"""Number of hard links per image: enough for several shards."""


@pytest.fixture(scope="module")
def many(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of some thousand images."""
    many = tmp_path_factory.mktemp("many")
    for path in folder.glob("*.png"):
        for number in range(COPIES):
            os.link(path, many / f"{path.stem}-{number:03}.png")
    return many


def check_table(message: str, folder: Path) -> None:
    """Check that the table that a run reports has each image once."""
    paths = list(pd.read_csv(message.rpartition(" are in ")[2], dtype=str, keep_default_na=False).path)
    assert paths == sorted(path.name for path in folder.iterdir())


def suspend(process: int) -> None:
    """Suspend a process in the middle of its work."""
    os.kill(process, signal.SIGSTOP)


def test_a_killed_run_crashes_and_the_next_one_recovers(system: RunningSystem, many: Path) -> None:
    with held_shard(system.root, many):
        run = system.run("predict/folder", folder=str(many), options={"processes": 1})
        os.kill(system.wait_until_running(run), signal.SIGKILL)
        state = system.wait_for_end(run, "CRASHED")
    assert state["name"] == "Crashed"
    again = system.run("predict/folder", folder=str(many), options={"processes": 1})
    check_table(system.wait_for_end(again)["message"], many)
    assert wait_for(lambda: system.events("digits.run.recovered"), "the recovery")[0]["payload"]["run"]


def test_a_run_killed_with_its_worker_crashes_at_the_next_up(system: RunningSystem) -> None:
    """Until then it appears to be running. The champion stays."""
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
    assert system.wait_for_end(run, "CRASHED")["message"].endswith("the next run resumes its work")
    assert Registry(Store(system.root)).champion() == champion
    system.wait_for_end(system.run("train/nightly", **NIGHT, training={"epochs": 2}))


def test_the_janitor_crashes_dead_runs_and_leaves_live_ones(system: RunningSystem) -> None:
    gone = system.run("train/nightly", **NIGHT, training={"epochs": 900, "seed": 5})
    flow, worker = system.wait_until_running(gone), system.process("worker")
    suspend(worker)
    os.kill(flow, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    report = system.digits("janitor", "--json")
    assert "epochs" in report["runs set to crashed"]
    system.wait_for_end(gone, "CRASHED")
    system.up()
    alive = system.run("train/nightly", **NIGHT, training={"epochs": 900, "seed": 6})
    process = system.wait_until_running(alive)
    assert system.digits("janitor", "--json")["runs set to crashed"] == "none"
    cleaned = system.complete("janitor/janitor")["message"]
    assert cleaned.startswith("0 runs set to Crashed")
    assert system.state_of(alive)["type"] == "RUNNING"
    second = system.run("train/nightly", **NIGHT, training={"epochs": 1})
    assert system.wait_for_end(second, "CANCELLED"), "one night at a time"
    os.kill(process, signal.SIGKILL)
    system.wait_for_end(alive, "CRASHED")


def test_down_stops_a_run_and_reports_it(system: RunningSystem) -> None:
    """The run crashes, and the system can be started again."""
    run = system.run("train/nightly", **NIGHT, training={"epochs": 900, "seed": 8})
    process = system.wait_until_running(run)
    assert "900 epochs" in system.down()["interrupted"]
    assert not is_alive(f"{socket.gethostname()}:{process}", marker=run, since=0)
    assert system.up()["worker"] == "started"
    system.wait_for_end(run, "CRASHED")


def test_only_one_of_several_late_runs_is_executed(system: RunningSystem) -> None:
    os.kill(system.process("worker"), signal.SIGKILL)
    late = [system.run("train/nightly", **NIGHT, training={"epochs": 60, "seed": number}) for number in range(5)]
    system.up()
    ends = [system.wait_for_end(run, "COMPLETED", "CANCELLED")["type"] for run in late]
    assert sorted(ends) == [*["CANCELLED"] * 4, "COMPLETED"]


def test_a_run_ends_and_the_next_one_proceeds_after_a_server_restart(system: RunningSystem, many: Path) -> None:
    with held_shard(system.root, many):
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


def test_a_locked_database_delays_a_run_without_harm(system: RunningSystem, many: Path) -> None:
    database = sqlite3.connect(system.state / "prefect" / "prefect.db", isolation_level=None, timeout=120)
    with held_shard(system.root, many):
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
