"""Status of a real system: each problem is named, and only while it exists."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from digits.cli.status import NEEDS_ATTENTION
from tests.support.running_system import RunningSystem, wait_for

pytestmark = pytest.mark.usefixtures("postponed_night")
HERE = Path(__file__).resolve().parents[2]
TIMEOUT = 120


def attention(system: RunningSystem, **more: str) -> str:
    """Return what needs attention, one sentence per line; check the exit code."""
    command = [str(Path(sys.executable).with_name("digits")), "status", "--quiet"]
    done = subprocess.run(
        command, env={**system.environment, **more}, capture_output=True, text=True, check=False, timeout=TIMEOUT
    )
    assert done.stderr == ""
    assert done.returncode == (NEEDS_ATTENTION if done.stdout else 0)
    return done.stdout


def prefect(system: RunningSystem, *arguments: str) -> None:
    """Run a command of Prefect against the system's server."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        env={**system.environment, **system.client},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def deployed(system: RunningSystem, flow: str, name: str, **fields: Any) -> Iterator[str]:
    """Create a deployment on the server while the context lasts; yield its ID."""
    owner = system.ask("/flows/", {"name": flow})["id"]
    made = system.ask("/deployments/", {"name": name, "flow_id": owner, "work_pool_name": "digits", **fields})
    try:
        yield str(made["id"])
    finally:
        system.ask(f"/deployments/{made['id']}", method="DELETE")


@contextmanager
def database(system: RunningSystem) -> Iterator[sqlite3.Connection]:
    """Change the server's database."""
    path = system.state / "prefect" / "prefect.db"
    with closing(sqlite3.connect(path, timeout=TIMEOUT)) as connection, connection:
        yield connection


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the project, and make it the current directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(HERE / "flows", tmp_path / "flows")
    shutil.copy(HERE / "prefect.yaml", tmp_path)
    return tmp_path


def declare(project: Path, *deployments: dict[str, Any], without: str = "") -> None:
    """Add deployments to a project's prefect.yaml, and remove one."""
    path = project / "prefect.yaml"
    content = yaml.safe_load(path.read_text())
    content["deployments"] = [one for one in content["deployments"] if one["name"] != without] + list(deployments)
    path.write_text(yaml.safe_dump(content))


def test_a_system_without_problems_prints_nothing_and_ends_with_0(system: RunningSystem) -> None:
    wait_for(lambda: attention(system) == "", "a status without attention")
    assert "nothing needs attention" in system.digits("status")
    text = system.digits("status", "--prometheus")
    metrics = {one.name: one.samples[0].value for one in text_string_to_metric_families(text)}
    assert metrics["digits_attention"] == 0
    assert metrics["digits_workers"] == metrics["digits_champion_version"] == metrics["digits_server_up"] == 1


def test_only_one_form_of_output_can_be_chosen(system: RunningSystem) -> None:
    assert "expected at most one" in system.digits("status", "--quiet", "--prometheus", code=2)


def test_a_paused_schedule_is_named_with_the_command_that_resumes_it(system: RunningSystem) -> None:
    schedule = system.ask("/deployments/name/predict/inbox")["schedules"][0]["id"]
    prefect(system, "deployment", "schedule", "pause", "predict/inbox", schedule)
    command = f"prefect deployment schedule resume predict/inbox {schedule}"
    assert (
        f"predict/inbox: its schedule is paused, so no run starts automatically; resume it with `{command}`"
        in attention(system)
    )
    assert "paused" in [one["note"] for one in system.status()["deployments"]]
    prefect(system, *command.split()[1:])
    assert "paused" not in attention(system)


def test_a_paused_deployment_is_named_with_the_command_that_resumes_it(system: RunningSystem) -> None:
    identity = system.ask("/deployments/name/predict/inbox")["id"]
    prefect(system, "api", "POST", f"/deployments/{identity}/pause_deployment")
    command = f"prefect api POST /deployments/{identity}/resume_deployment"
    assert f"predict/inbox is paused, so no run starts automatically; resume it with `{command}`" in attention(system)
    prefect(system, *command.split()[1:])
    assert "paused" not in attention(system)


def test_a_disabled_automation_is_named_with_the_command_that_enables_it(system: RunningSystem) -> None:
    name = "digits: crash runs without heartbeats"
    prefect(system, "automation", "pause", name)
    assert f"the automation {name} is disabled; enable it with `prefect automation resume '{name}'`" in attention(
        system
    )
    prefect(system, "automation", "resume", name)
    assert "automation" not in attention(system)


def test_a_foreign_deployment_in_the_work_pool_is_named(system: RunningSystem) -> None:
    with deployed(system, "etl", "load"):
        assert "etl/load is not in prefect.yaml, but uses the work pool digits" in attention(system)
        assert ("etl/load", "foreign") in [(one["name"], one["note"]) for one in system.status()["deployments"]]
    assert "etl/load" not in attention(system)


def test_a_deployment_that_is_no_longer_in_prefect_yaml_is_named(system: RunningSystem, project: Path) -> None:
    assert "rollback/rollback" not in attention(system)
    declare(project, without="rollback")
    assert (
        "rollback/rollback is deployed, but no longer in prefect.yaml; remove it with `digits up --prune`"
        in attention(system)
    )


def test_deployments_of_ones_own_are_known_with_their_last_runs(
    system: RunningSystem, project: Path, tmp_path: Path
) -> None:
    scans = tmp_path / "second inbox"
    scans.mkdir()
    declare(
        project, {"name": "second", "entrypoint": "flows/prediction.py:predict_inbox", "work_pool": {"name": "digits"}}
    )
    assert "not deployed: predict/second; deploy with `digits up`" in attention(system)
    inbox = system.ask("/deployments/name/predict/inbox")
    fields = {name: inbox[name] for name in ("entrypoint", "path", "pull_steps")}
    with deployed(system, "predict", "second", **fields, parameters={"folder": str(scans)}):
        system.complete("predict/second")
        (found,) = [one for one in system.status()["deployments"] if one["name"] == "predict/second"]
        assert found["last"].startswith("Completed")
        assert found["note"] == ""
        assert any(one["deployment"] == "predict/second" for one in system.status()["tables"])
        assert "predict/second" not in attention(system)


def test_a_work_pool_without_a_worker_or_paused_or_missing_is_named(system: RunningSystem, project: Path) -> None:
    declare(
        project, {"name": "second", "entrypoint": "flows/prediction.py:predict_inbox", "work_pool": {"name": "scans"}}
    )
    assert "has no work pool scans" in attention(system)
    prefect(system, "work-pool", "create", "--type", "process", "scans")
    assert "no worker is online in the work pool scans" in attention(system)
    prefect(system, "work-pool", "pause", "scans")
    assert "resume it with `prefect work-pool resume scans`" in attention(system)
    system.ask("/work_pools/scans", method="DELETE")


def test_images_without_a_prediction_are_counted_by_status(system: RunningSystem, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    system.complete("predict/folder", folder=str(folder), out=str(out))
    images = len(list(folder.iterdir()))
    sentence = f"predict/folder: 1 of {images} images in {out} has no prediction (1 not-an-image)"
    assert sentence in attention(system)
    (table,) = [one for one in system.status()["tables"] if one["path"] == str(out)]
    assert table["statuses"]["not-an-image"] == 1
    out.with_name("table.summary.json").unlink()  # as on another machine: the event of the run has the counts
    assert sentence in attention(system)
    sound = tmp_path / "sound"
    sound.mkdir()
    shutil.copy(folder / "000.png", sound)
    system.complete("predict/folder", folder=str(sound))
    assert "no prediction" not in attention(system)


def test_a_crashed_on_demand_run_is_named_with_the_command_that_continues_it(
    system: RunningSystem, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "table.csv"
    deployment = system.ask("/deployments/name/predict/folder")
    parameters = {"folder": str(folder), "out": str(out), "options": {"top_k": 2}}
    # A run without a scheduled state is started by no worker.
    run = system.ask(
        f"/deployments/{deployment['id']}/create_flow_run",
        {"parameters": parameters, "state": {"type": "PENDING", "message": "submitting"}},
    )["id"]
    system.ask(f"/flow_runs/{run}/set_state", {"state": {"type": "CRASHED", "message": "killed"}, "force": True})
    command = f"digits predict '{folder}' --out {out} --top-k 2 --deploy"
    found = attention(system)
    assert f"continue it with `{command}`" in found
    assert "killed" not in found
    system.complete("predict/folder", **parameters)
    assert "continue it with" not in attention(system)


def test_a_run_that_keeps_its_schedule_from_working_is_named(system: RunningSystem) -> None:
    deployment = system.ask("/deployments/name/predict/inbox")["id"]
    path = f"/deployments/{deployment}/create_flow_run"
    active = system.ask(path, {"state": {"type": "PENDING"}})["id"]
    system.ask(f"/flow_runs/{active}/set_state", {"state": {"type": "RUNNING"}, "force": True})
    blocked = [system.ask(path, {"state": {"type": "CANCELLED", "name": "Cancelled"}})["id"] for _ in range(3)]
    with database(system) as connection:
        connection.execute("UPDATE flow_run SET auto_scheduled = 1 WHERE state_type = 'CANCELLED'")
    found = attention(system)
    assert "and holds the slot of predict/inbox: 3 scheduled runs were cancelled or skipped meanwhile; wait" in found
    prefect(system, "--no-prompt", "flow-run", "delete", active)
    assert "holds the slot" not in attention(system)
    for run in blocked:
        system.ask(f"/flow_runs/{run}", method="DELETE")


@contextmanager
def no_scheduled_run(system: RunningSystem, deployment: str) -> Iterator[None]:
    """Pause the work pool, and wait until no run of a deployment is active."""
    identity = system.ask(f"/deployments/name/{deployment}")["id"]
    active = {"deployment_id": {"any_": [identity]}, "state": {"type": {"any_": ["PENDING", "RUNNING"]}}}
    system.ask("/work_pools/digits", {"is_paused": True}, method="PATCH")
    try:
        wait_for(lambda: not system.ask("/flow_runs/filter", {"flow_runs": active}), "the end of active runs")
        yield
    finally:
        system.ask("/work_pools/digits", {"is_paused": False}, method="PATCH")


def test_a_table_that_is_older_than_its_schedule_is_named(system: RunningSystem) -> None:
    system.complete("predict/inbox")
    past = "2026-01-01 11:00:00.000000"  # the same day in every time zone
    with no_scheduled_run(system, "predict/inbox"):
        with database(system) as connection:
            inbox = "(SELECT id FROM deployment WHERE name = 'inbox')"
            connection.execute(f"UPDATE flow_run SET end_time = ? WHERE deployment_id = {inbox}", [past])  # noqa: S608
            connection.execute(
                f"UPDATE deployment_schedule SET updated = ?, created = ? WHERE deployment_id = {inbox}",  # noqa: S608
                [past, past],
            )
            connection.execute(f"UPDATE deployment SET created = ? WHERE id = {inbox}", [past])  # noqa: S608
        found = attention(system)
    assert "predictions.csv was not refreshed since 2026-01-01 " in found
    assert "although its schedule (*/5 * * * * Etc/UTC) came due; start a run with `prefect deployment run" in found
    system.complete("predict/inbox")
    assert "not refreshed" not in attention(system)


def test_a_killed_worker_is_missing_at_once(system: RunningSystem) -> None:
    """The server counts it as online until its heartbeats have been missing for a minute."""
    os.kill(system.process("worker"), signal.SIGKILL)
    wait_for(lambda: "no worker is online in the work pool digits" in attention(system), "the end of the worker")
    assert system.status()["workers"] == 0
    system.up()
    assert "no worker" not in attention(system)


def test_a_server_that_hangs_is_named_with_its_log(system: RunningSystem) -> None:
    server = system.process("server")
    os.kill(server, signal.SIGSTOP)
    try:
        found = attention(system)
    finally:
        os.kill(server, signal.SIGCONT)
    assert f"runs, but does not answer; see {system.state / 'server.log'}" in found
    wait_for(lambda: "does not answer" not in attention(system), "the server")


def test_a_server_without_the_work_pool_has_a_sentence_and_no_traceback(
    system: RunningSystem, server: str, tmp_path: Path
) -> None:
    """On a server that Digits did not start, the status names the time of its leases."""
    requests.delete(f"{server}/work_pools/digits", timeout=TIMEOUT)
    other = replace(system, state=tmp_path / "state")
    found = attention(other, PREFECT_API_URL=server)
    assert "the server has no work pool digits, so no run of it starts; create it with `digits up`" in found
    assert "not deployed: train/nightly" in found
    slots = other.digits("status", "--json", code=NEEDS_ATTENTION, PREFECT_API_URL=server)["slots"]
    assert "only when its lease ends, after 300 s, as `digits up` did not start the server" in slots
