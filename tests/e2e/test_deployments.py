"""Tests of the deployments in prefect.yaml on a real Prefect server."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from prefect.server.schemas.schedules import CronSchedule

from tests.support.running_system import RunningSystem
from tests.support.server import ask_api

HERE = Path(__file__).resolve().parents[2]


def prefect(*arguments: str, api: str) -> None:
    """Run a Prefect command as the guide describes."""
    environment = {**os.environ, "PREFECT_API_URL": api}
    command = [sys.executable, "-m", "prefect", *arguments]
    result = subprocess.run(
        command, env=environment, cwd=HERE, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


Ask = Callable[..., Any]


@pytest.fixture(scope="module", params=["digits up", pytest.param("prefect deploy", marks=pytest.mark.slow)])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Deploy everything by `digits up`, or twice as the guide says; return what asks the server."""
    if request.param == "digits up":
        system: RunningSystem = request.getfixturevalue("guarded_system")
        return system.ask
    server = request.getfixturevalue("server")
    prefect("work-pool", "create", "--type", "process", "digits", api=server)
    for _ in range(2):
        prefect("--no-prompt", "deploy", "--all", api=server)

    return lambda path, body=None: ask_api(f"{server}{path}", body)


@pytest.fixture(scope="module")
def deployments(ask: Ask) -> dict[str, Any]:
    """Return the deployments by name."""
    names = ("train/nightly", "rollback/rollback", "predict/folder", "predict/inbox", "janitor/janitor")
    found = [ask(f"/deployments/name/{name}") for name in names]
    return {deployment["name"]: deployment for deployment in found}


def test_the_nightly_training_has_a_schedule_and_runs_one_at_a_time(deployments: dict[str, Any]) -> None:
    """A late run is not queued behind the previous one."""
    nightly = deployments["nightly"]
    (schedule,) = nightly["schedules"]
    when = schedule["schedule"]
    assert (when["cron"], when["timezone"], schedule["active"]) == ("15 2 * * *", "Etc/UTC", True)
    assert nightly["global_concurrency_limit"]["limit"] == 1
    assert nightly["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert nightly["parameters"]["datasets"] == ["mnist", "reviewed"]


def test_parameters_have_types_bounds_and_descriptions(deployments: dict[str, Any]) -> None:
    """The Prefect UI builds its form from them."""
    schema = deployments["nightly"]["parameter_openapi_schema"]
    assert all(value.get("description") for value in schema["properties"].values())
    epochs = schema["definitions"]["TrainingConfig"]["properties"]["epochs"]
    assert {"minimum": 1, "maximum": 1000, "type": "integer"} in epochs["anyOf"]
    assert "Passes over" in epochs["description"]
    folder = deployments["folder"]["parameter_openapi_schema"]
    assert folder["required"] == ["folder"]
    positions = {name: value["position"] for name, value in folder["properties"].items()}
    assert sorted(positions, key=positions.__getitem__) == ["folder", "model", "out", "shadow", "options", "artifacts"]
    settings = folder["definitions"]["PredictionConfig"]["properties"]
    options = list(settings)
    assert options[:3] == ["recursive", "include", "exclude"]
    assert options[-4:] == ["max_pixels", "shard_size", "processes", "force"]
    assert settings["normalize"]["enum"] == ["auto", "mnist", "none"]
    assert (settings["pages"]["enum"], settings["pages"]["default"]) == (["all", "first"], "all")


def test_the_inbox_and_the_janitor_have_schedules_and_run_one_at_a_time(deployments: dict[str, Any]) -> None:
    for name, cron in (("inbox", "*/5 * * * *"), ("janitor", "40 * * * *")):
        (schedule,) = deployments[name]["schedules"]
        assert schedule["schedule"]["cron"] == cron
        assert deployments[name]["global_concurrency_limit"]["limit"] == 1
        assert deployments[name]["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert deployments["folder"]["schedules"] == deployments["rollback"]["schedules"] == []


def test_the_rollback_has_two_optional_parameters(deployments: dict[str, Any]) -> None:
    schema = deployments["rollback"]["parameter_openapi_schema"]
    assert {"version", "reason"} < set(schema["properties"])
    assert not schema.get("required")


def test_a_clock_change_skips_no_night_and_repeats_none() -> None:
    for zone, first in (
        ("Europe/Berlin", "2027-03-27"),
        ("Europe/Berlin", "2027-10-30"),
        ("America/New_York", "2027-03-13"),
    ):
        start = datetime.fromisoformat(f"{first}T00:00").replace(tzinfo=ZoneInfo(zone))
        schedule = CronSchedule(cron="15 2 * * *", timezone=zone)
        dates = asyncio.run(schedule.get_dates(n=4, start=start))
        assert [date.astimezone(ZoneInfo(zone)).date() for date in dates] == [
            start.date() + timedelta(days=number) for number in range(4)
        ]
