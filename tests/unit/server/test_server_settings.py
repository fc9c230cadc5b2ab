"""Settings of the Prefect servers that Digits starts, in the code and in deploy/."""

from pathlib import Path

import pytest
import yaml
from prefect.settings.models.flows import FlowsSettings
from prefect.settings.models.server.concurrency import ServerConcurrencySettings
from prefect.settings.models.server.services import ServerServicesDBVacuumSettings

from digits.server.server_settings import (
    DEFAULT_SETTINGS,
    HEARTBEAT_SECONDS,
    LEASE_SECONDS,
    REQUIRED_SETTINGS,
    RETENTION_DAYS,
    server_environment,
)

PROJECT = Path(__file__).resolve().parents[3]
ALL_SETTINGS = {**REQUIRED_SETTINGS, **DEFAULT_SETTINGS}


def test_variables_of_the_environment_override_the_defaults_only() -> None:
    period = "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD"
    storage = "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"
    found = server_environment({period: "3660", storage: "memory", "HOME": "/h"})
    assert found == {**ALL_SETTINGS, period: "3660", "HOME": "/h"}


def test_prefect_understands_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server_environment({}).items():
        monkeypatch.setenv(name, value)
    vacuum, concurrency = ServerServicesDBVacuumSettings(), ServerConcurrencySettings()
    assert vacuum.enabled_vacuum_types == {"events", "flow_runs", "orphans"}
    assert vacuum.retention_period.days == RETENTION_DAYS
    assert concurrency.initial_deployment_lease_duration == LEASE_SECONDS
    assert concurrency.lease_storage.endswith("filesystem")


def test_the_unit_and_the_compose_file_have_the_same_settings() -> None:
    lines = (PROJECT / "deploy" / "digits-server.service").read_text().splitlines()
    unit = dict(line.removeprefix("Environment=").split("=", 1) for line in lines if line.startswith("Environment="))
    composed = yaml.safe_load((PROJECT / "deploy" / "compose.yaml").read_text())["services"]["server"]["environment"]
    for found in (unit, composed):
        assert {name: found.get(name) for name in ALL_SETTINGS} == ALL_SETTINGS


def test_each_deployment_sends_heartbeats_and_frees_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    for deployment in yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]:
        for name, value in deployment["work_pool"]["job_variables"]["env"].items():
            monkeypatch.setenv(name, value)
        assert FlowsSettings().heartbeat_frequency == HEARTBEAT_SECONDS
        assert deployment.get("concurrency_limit", {}).get("grace_period_seconds", LEASE_SECONDS) == LEASE_SECONDS
