"""Plans of deployments: what is created, updated, kept, started and named as gone."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.schedules import CronSchedule

from digits.cli.deploy import DeployOptions, confirm_schedules, describe_plan, summarize, take_options
from digits.errors import UsageError
from digits.server.deployment_record import DeploymentRecord, read_record, variable_name, write_record
from digits.server.deployments import (
    DeploymentSource,
    describe_schedules,
    is_scheduled,
    plan_deployment,
    plan_deployments,
)

PROJECT = Path(__file__).resolve().parents[3]
SOURCE = DeploymentSource(PROJECT)
DAILY = [{"cron": "0 1 * * *"}]
API = "http://user:hidden@127.0.0.1:1/api"


class Variables:
    """Variables of a Prefect server, as a client reads and writes them."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def read_variable_by_name(self, name: str) -> Any:
        """Return a variable, or None."""
        return SimpleNamespace(value=self.values[name]) if name in self.values else None

    def create_variable(self, variable: Any) -> None:
        """Create a variable."""
        assert variable.name not in self.values
        self.values[variable.name] = variable.value

    def update_variable(self, variable: Any) -> None:
        """Update a variable."""
        assert variable.name in self.values
        self.values[variable.name] = variable.value

    def delete_variable_by_name(self, name: str) -> None:
        """Delete a variable."""
        del self.values[name]


def existing(*, active: bool = True, paused: bool = False, pool: str | None = None) -> Any:
    """Return a deployment on a server, with a daily schedule."""
    schedule = DeploymentSchedule(id=uuid4(), schedule=CronSchedule(cron="0 1 * * *"), active=active)
    return SimpleNamespace(
        paused=paused,
        schedules=[schedule],
        global_concurrency_limit=None,
        concurrency_options=None,
        parameters={},
        job_variables={"memory": "9g"},
        work_pool_name=pool,
    )


def plan(entry: Mapping[str, Any], found: Any = None, *, same: bool = False) -> Any:
    """Plan a deployment that was deployed from the same entry."""
    recorded = plan_deployment("f/x", entry, None, None, same=False).record if found else None
    return plan_deployment("f/x", entry, found, recorded, same=same)


def test_a_deployment_is_created_then_updated_only_if_something_has_changed() -> None:
    entry = {"name": "x", "schedules": DAILY}
    assert plan(entry).action == "create"
    assert plan(entry, existing()).action == "update"
    assert plan(entry, existing(), same=True).action == "unchanged"


def test_only_a_deployment_that_begins_to_run_on_a_schedule_starts() -> None:
    entry = {"name": "x", "schedules": DAILY}
    assert plan(entry).starts
    assert not plan({"name": "x"}).starts
    assert not plan({**entry, "paused": True}).starts
    assert not plan(entry, existing()).starts
    assert not plan(entry, existing(active=False)).starts, "the operator's pause is kept"
    changed = plan_deployment("f/x", entry, existing(active=False), {"schedules": "another"}, same=False)
    assert changed.starts


def test_job_variables_are_kept_as_long_as_the_work_pool_is_the_same() -> None:
    entry = {"name": "x", "work_pool": {"name": "docker", "job_variables": {"image": "7"}}}
    kept = plan_deployment("f/x", entry, existing(pool="docker"), None, same=False)
    assert kept.entry["work_pool"]["job_variables"] == {"memory": "9g"}
    moved = plan_deployment("f/x", entry, existing(pool="digits"), None, same=False)
    assert moved.entry["work_pool"] == entry["work_pool"]


def test_schedules_are_shown_as_they_are_after_the_deployment() -> None:
    assert (
        describe_schedules({"schedules": [{**DAILY[0], "timezone": "UTC", "active": False}]})
        == "0 1 * * * UTC (paused)"
    )
    assert describe_schedules({"schedules": [{"interval": 60}]}) == "60"
    assert describe_schedules({"schedules": DAILY, "paused": True}) == "paused"
    assert describe_schedules({}) == "on demand"
    assert not is_scheduled({"schedules": [{**DAILY[0], "active": False}]})


def test_without_a_server_everything_would_be_created() -> None:
    planned = plan_deployments(None, SOURCE)
    assert {one.action for one in planned.deployments} == {"create"}
    assert planned.starting == ("train/nightly", "predict/inbox", "janitor/janitor")
    assert planned.changes
    facts = describe_plan(planned)
    assert facts["train/nightly"] == "create; 15 2 * * * Etc/UTC"
    assert facts["digits: train after drift"] == "create; off"
    assert facts["digits: notify of drift"] == "off; --notify turns it on"
    assert planned.notifications
    on = describe_plan(plan_deployments(None, DeploymentSource(PROJECT, notify=True)))
    assert on["digits: notify of drift"] == "create; on"


def test_a_file_for_another_work_pool_is_planned_in_the_same_way() -> None:
    docker = plan_deployments(None, DeploymentSource(PROJECT, Path("deploy/prefect.docker.yaml")))
    assert [one.name for one in docker.deployments] == [one.name for one in plan_deployments(None, SOURCE).deployments]
    assert docker.record.fingerprint != plan_deployments(None, SOURCE).record.fingerprint
    assert {one.entry["work_pool"]["name"] for one in docker.deployments} == {"digits-docker"}


def test_the_summary_names_what_was_kept_replaced_and_is_no_longer_declared() -> None:
    planned = SimpleNamespace(
        changes=True,
        deployments=[SimpleNamespace(name="f/x", kept=("paused", "schedules"), replaced=("parameters.a",))],
        removed=("f/y",),
        removed_automations=("z",),
    )
    assert summarize(planned, pruned=False) == {  # type: ignore[arg-type]
        "deployments": "deployed",
        "kept from the server": "f/x: paused, schedules",
        "taken from the file": "f/x: parameters.a",
        "no longer declared (--prune removes them)": "f/y, z",
    }
    assert summarize(planned, pruned=True)["removed"] == "f/y, z"  # type: ignore[arg-type]


def test_schedules_are_deployed_to_a_foreign_server_after_a_confirmation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The question goes to a terminal; without one, the error names the option."""
    planned = plan_deployments(None, SOURCE)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(
        UsageError, match=r"train/nightly, .* would run on a schedule at .*; confirm that with --yes"
    ) as error:
        confirm_schedules(planned, API)
    assert "hidden" not in str(error.value)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    asked: list[str] = []
    answers = iter((False, True))
    monkeypatch.setattr("typer.confirm", lambda text, **_: asked.append(text) or next(answers))
    with pytest.raises(UsageError, match="nothing was deployed"):
        confirm_schedules(planned, API)
    confirm_schedules(planned, API)
    assert asked[0].startswith("Run train/nightly, predict/inbox, janitor/janitor on a schedule at the Prefect server")
    confirm_schedules(SimpleNamespace(starting=()), API)  # type: ignore[arg-type]
    assert len(asked) == 2


def test_the_address_of_notifications_is_removed_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the worker and its runs would inherit it."""
    monkeypatch.setenv("DIGITS_NOTIFY", "https://example.com/hidden")
    options = take_options(prune=True, yes=False, notify="https://example.com/hidden")
    assert options == DeployOptions(prune=True, notify="https://example.com/hidden")
    assert "DIGITS_NOTIFY" not in os.environ


def test_the_record_is_read_as_it_was_written() -> None:
    client = Variables()
    assert read_record(client, "digits") == DeploymentRecord()
    record = DeploymentRecord("f", {"f/x": {"paused": "1234abcd"}}, {"a": {"enabled": "00000000"}})
    for _ in range(2):
        write_record(client, "digits", record)
        assert read_record(client, "digits") == record
    assert read_record(client, "Digits of Lab-2") == DeploymentRecord()
    assert variable_name("Digits of Lab-2") == "digits_of_lab_2_deployed"


def test_a_long_record_continues_in_further_variables() -> None:
    client = Variables()
    many = {f"predict/inbox-{number}": {"paused": "1234abcd"} for number in range(200)}
    write_record(client, "digits", DeploymentRecord("f", many))
    assert read_record(client, "digits").deployments == many
    assert set(client.values) == {"digits_deployed", "digits_deployed_2", "digits_deployed_3"}
    write_record(client, "digits", DeploymentRecord("f"))
    assert read_record(client, "digits") == DeploymentRecord("f")
    assert set(client.values) == {"digits_deployed"}


@pytest.mark.parametrize("value", ["text", '{"unknown": 1}', "[]", "7", {"fingerprint": "f"}, ""])
def test_a_record_of_another_form_counts_as_none(value: Any) -> None:
    assert read_record(Variables(digits_deployed=value), "digits") == DeploymentRecord()
