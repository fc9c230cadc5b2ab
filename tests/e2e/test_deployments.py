"""The deployments of prefect.yaml, deployed to a real Prefect server with no question asked."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client

HERE = Path(__file__).resolve().parents[2]


def prefect(*arguments: str, api: str) -> None:
    """Run a Prefect command as the guide gives it."""
    environment = {**os.environ, "PREFECT_API_URL": api}
    command = [sys.executable, "-m", "prefect", *arguments]
    result = subprocess.run(
        command, env=environment, cwd=HERE, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def deployments(server: str) -> dict[str, Any]:
    """Deploy everything, twice; give the deployments by name."""
    prefect("work-pool", "create", "--type", "process", "digits", api=server)
    for _ in range(2):
        prefect("--no-prompt", "deploy", "--all", api=server)
    with get_client(sync_client=True) as client:
        found = [client.read_deployment_by_name(name) for name in ("train/nightly-retrain", "predict/predict-folder")]
    return {deployment.name: deployment for deployment in found}


def test_the_nightly_retraining_runs_one_at_a_time(deployments: dict[str, Any]) -> None:
    """It has a schedule with a time zone, and a late night is not queued behind the one before."""
    nightly = deployments["nightly-retrain"]
    (schedule,) = nightly.schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone, schedule.active) == ("15 2 * * *", "Etc/UTC", True)
    assert nightly.global_concurrency_limit.limit == 1
    assert nightly.concurrency_options.collision_strategy == "CANCEL_NEW"
    assert nightly.parameters["datasets"] == ["mnist"]


def test_the_form_knows_types_bounds_and_meanings(deployments: dict[str, Any]) -> None:
    """What the Prefect UI makes a form of: each parameter with its description, each number with its bounds."""
    schema = deployments["nightly-retrain"].parameter_openapi_schema
    assert all(value.get("description") for value in schema["properties"].values())
    epochs = schema["definitions"]["TrainingConfig"]["properties"]["epochs"]
    assert {"minimum": 1, "maximum": 1000, "type": "integer"} in epochs["anyOf"]
    assert "Passes over" in epochs["description"]
    folder = deployments["predict-folder"].parameter_openapi_schema
    assert folder["required"] == ["folder"]
    assert folder["definitions"]["PredictionConfig"]["properties"]["normalize"]["enum"] == ["auto", "mnist", "none"]
