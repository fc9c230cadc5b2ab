"""Choice of the deployments and workers that a status is about, and the times at which a schedule came due."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, NoSchedule, RRuleSchedule

from digits.server.attention import MISSED, Origin
from digits.server.automations import declared_automations
from digits.server.deployments import DeclaredDeployment
from digits.server.observation import choose_deployments, count_workers, enabled_automations, pools_of
from digits.server.queries import count_missed

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
OWN = DeclaredDeployment("predict/second inbox", "scans", scheduled=True)
NIGHTLY = DeclaredDeployment("train/nightly", "digits", scheduled=True)


def test_deployments_are_declared_removed_or_foreign() -> None:
    on_server = {
        "etl/load": "digits",
        "etl/other": "scans",
        "predict/gone": "scans",
        "predict/second inbox": "scans",
        "etl/served": None,
    }
    assert choose_deployments([OWN, NIGHTLY], {"predict/gone", "predict/deleted", OWN.name}, on_server) == {
        "predict/second inbox": Origin.DECLARED,
        "etl/load": Origin.FOREIGN,
        "predict/gone": Origin.REMOVED,
    }


def test_the_pools_are_those_of_the_deployments_on_the_server_else_those_of_prefect_yaml() -> None:
    served = DeclaredDeployment("a/served", None, scheduled=False)
    assert pools_of([OWN, NIGHTLY, OWN, served], {}) == ["digits", "scans"]
    assert pools_of([OWN, NIGHTLY], {OWN.name: "k8s", NIGHTLY.name: None}) == ["k8s"]
    assert pools_of([], {}) == ["digits"]


def test_a_server_should_have_the_enabled_automations_without_notifications() -> None:
    declared = declared_automations(Path(__file__).resolve().parents[3])
    assert enabled_automations(declared) == [
        "digits: crash runs without heartbeats",
        "digits: end cancelled runs",
        "digits: predict the inbox with a new champion",
    ]


@pytest.mark.parametrize(
    ("online", "alive", "count"),
    [
        (True, True, 2),
        (False, True, 2),  # alive by its lock, whatever the server has heard
        (True, False, 1),  # dead by its lock, although its last heartbeat is recent
        (True, None, 2),  # not started here: the heartbeat decides
        (False, None, 1),
    ],
)
def test_the_worker_of_this_machine_is_alive_by_its_lock(online: bool, alive: bool | None, count: int) -> None:
    assert count_workers({"mine": online, "other": True, "gone": False}, "mine", alive=alive) == count


@pytest.mark.parametrize(
    ("schedule", "minutes", "missed"),
    [
        (CronSchedule(cron="*/5 * * * *", timezone="Etc/UTC"), 4, 0),
        (CronSchedule(cron="*/5 * * * *", timezone="Etc/UTC"), 6, 1),
        (CronSchedule(cron="*/5 * * * *", timezone="Etc/UTC"), 600, MISSED),
        (CronSchedule(cron="15 2 * * *", timezone="Europe/Berlin"), 24 * 60, 1),
        (IntervalSchedule(interval=timedelta(hours=1), anchor_date=NOW - timedelta(minutes=30)), 60, 1),
        (RRuleSchedule(rrule="FREQ=DAILY;COUNT=1"), 60, 0),
        (NoSchedule(), 600, 0),
    ],
)
def test_times_of_a_schedule_are_counted(
    schedule: CronSchedule | IntervalSchedule | RRuleSchedule | NoSchedule, minutes: int, missed: int
) -> None:
    assert count_missed([schedule], NOW - timedelta(minutes=minutes, seconds=-1), NOW - timedelta(seconds=1)) == missed


def test_several_schedules_count_together() -> None:
    hourly = CronSchedule(cron="30 * * * *", timezone="Etc/UTC")
    assert count_missed([hourly, hourly], NOW - timedelta(hours=1), NOW) == MISSED
    assert count_missed([], NOW - timedelta(hours=1), NOW) == 0
