"""Merging of prefect.yaml into what was changed on the server."""

from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from prefect.client.schemas.objects import ConcurrencyOptions, DeploymentSchedule
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule

from digits.server.merging import (
    CONCURRENCY,
    PAUSED,
    SCHEDULES,
    covers,
    current_fields,
    declared_fields,
    merge,
    merged_entry,
)

ENTRY: dict[str, Any] = {
    "name": "nightly",
    "entrypoint": "flows/training.py:train",
    "work_pool": {"name": "digits", "job_variables": {"env": {"A": "1"}, "image": "{{ build.image }}"}},
    "parameters": {"datasets": ["mnist"], "since": date(2026, 1, 2)},
    "schedules": [{"cron": "15 2 * * *", "timezone": "Etc/UTC", "active": True}],
    "concurrency_limit": {"limit": 1, "collision_strategy": "CANCEL_NEW"},
}


def on_server(**changes: Any) -> Any:
    """Return the Prefect deployment of `ENTRY`, with changes by an operator."""
    return SimpleNamespace(
        **{
            "paused": False,
            "schedules": [stored(CronSchedule(cron="15 2 * * *", timezone="Etc/UTC"))],
            "global_concurrency_limit": SimpleNamespace(limit=1),
            "concurrency_options": ConcurrencyOptions.model_validate({"collision_strategy": "CANCEL_NEW"}),
            "parameters": {"datasets": ["mnist"], "since": "2026-01-02"},
            "job_variables": {"env": {"A": "1"}, "image": "digits:7"},
            **changes,
        }
    )


def stored(schedule: Any, *, active: bool = True, hour: int = 1) -> DeploymentSchedule:
    """Return a schedule as the server returns it."""
    created = datetime(2026, 1, 1, hour, tzinfo=UTC)
    return DeploymentSchedule(id=uuid4(), created=created, schedule=schedule, active=active)


def redeploy(entry: dict[str, Any], existing: Any, before: dict[str, Any] | None = ENTRY) -> Any:
    """Merge an entry into a deployment that was made from the entry `before`."""
    recorded = merge(declared_fields(before), None, None).record if before else None
    return merge(declared_fields(entry), current_fields(existing), recorded)


def test_without_changes_nothing_is_kept_or_replaced() -> None:
    merged = redeploy(ENTRY, on_server())
    assert (merged.kept, merged.replaced) == ((), ())
    assert merged.values[PAUSED] is False


def test_a_new_deployment_is_as_the_file_declares_it() -> None:
    merged = merge(declared_fields(ENTRY), None, None)
    assert merged.values == declared_fields(ENTRY)
    assert merged.values["parameters.since"] == "2026-01-02"


def test_what_the_operator_changed_is_kept() -> None:
    paused = [stored(CronSchedule(cron="15 2 * * *", timezone="Etc/UTC"), active=False)]
    changed = on_server(
        paused=True,
        schedules=paused,
        global_concurrency_limit=SimpleNamespace(limit=3),
        parameters={"datasets": ["reviewed"], "since": "2026-01-02", "epochs": 4},
        job_variables={"env": {"A": "2"}, "image": "digits:7"},
    )
    merged = redeploy(ENTRY, changed)
    assert set(merged.kept) == {
        PAUSED,
        SCHEDULES,
        CONCURRENCY,
        "parameters.datasets",
        "parameters.epochs",
        "job variables.env",
    }
    entry = merged_entry(ENTRY, merged.values)
    assert entry["paused"] is True
    assert [schedule["active"] for schedule in entry["schedules"]] == [False]
    assert entry["concurrency_limit"]["limit"] == 3
    assert entry["parameters"] == {"datasets": ["reviewed"], "since": "2026-01-02", "epochs": 4}
    assert entry["work_pool"] == {"name": "digits", "job_variables": {"env": {"A": "2"}, "image": "{{ build.image }}"}}
    assert (entry["name"], entry["entrypoint"]) == ("nightly", "flows/training.py:train")


def test_what_the_file_changed_replaces_what_the_operator_changed_there_only() -> None:
    file = {
        **ENTRY,
        "schedules": [{"cron": "0 3 * * *", "timezone": "Etc/UTC"}],
        "parameters": {"datasets": ["mnist", "reviewed"]},
    }
    changed = on_server(paused=True, parameters={"datasets": ["reviewed"], "since": "2026-02-02"})
    merged = redeploy(file, changed)
    assert merged.kept == (PAUSED,)
    assert merged.replaced == (SCHEDULES, "parameters.datasets", "parameters.since")
    entry = merged_entry(file, merged.values)
    assert entry["paused"] is True
    assert [schedule["cron"] for schedule in entry["schedules"]] == ["0 3 * * *"]
    assert entry["parameters"] == {"datasets": ["mnist", "reviewed"]}


def test_a_parameter_that_the_operator_removed_stays_removed() -> None:
    merged = redeploy(ENTRY, on_server(parameters={"since": "2026-01-02"}))
    assert merged.kept == ("parameters.datasets",)
    assert merged_entry(ENTRY, merged.values)["parameters"] == {"since": "2026-01-02"}


def test_without_a_record_the_server_s_values_are_kept() -> None:
    merged = redeploy({**ENTRY, "parameters": {"datasets": ["x"]}}, on_server(paused=True), before=None)
    assert set(merged.kept) == {PAUSED, "parameters.datasets", "parameters.since"}
    assert merged.replaced == ()


def test_what_was_kept_once_is_kept_again() -> None:
    first = redeploy(ENTRY, on_server(paused=True))
    second = merge(declared_fields(ENTRY), current_fields(on_server(paused=True)), first.record)
    assert second.kept == first.kept == (PAUSED,)


def test_schedules_of_each_kind_are_written_as_prefect_yaml_declares_them() -> None:
    schedules = [
        stored(RRuleSchedule(rrule="FREQ=DAILY"), hour=3),
        stored(IntervalSchedule(interval=timedelta(minutes=5), timezone="Europe/Berlin"), hour=2),
        stored(CronSchedule(cron="* * * * *"), active=False),
    ]
    found = current_fields(on_server(schedules=schedules))[SCHEDULES]
    assert [(one.get("cron"), one.get("interval"), one.get("rrule"), one["active"]) for one in found] == [
        ("* * * * *", None, None, False),
        (None, 300, None, True),
        (None, None, "FREQ=DAILY", True),
    ]
    assert found[1]["timezone"] == "Europe/Berlin"


def test_a_limit_may_be_a_number_and_a_schedule_stand_alone() -> None:
    declared = declared_fields({"name": "x", "concurrency_limit": 2, "schedule": {"cron": "* * * * *"}})
    assert declared[CONCURRENCY] == {"limit": 2}
    assert declared[SCHEDULES][0]["active"] is True
    assert "schedule" not in merged_entry({"name": "x", "schedule": {}}, declared)


def test_a_value_covers_one_with_more_details_of_the_server() -> None:
    assert covers({"a": [{"b": 1}]}, {"a": [{"b": 1, "c": 2}], "d": 3})
    assert not covers({"a": [1]}, {"a": [1, 2]})
    assert not covers({"a": 1}, None)
