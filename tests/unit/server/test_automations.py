"""The automations of deploy/automations.yaml, and what a deployment does to them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.events.schemas.automations import AutomationCore
from prefect.server.events.schemas.automations import AutomationCreate

from digits.errors import OperationsError
from digits.server.automations import (
    FILE,
    Identifiers,
    declared_automations,
    is_notification,
    plan_automation,
)
from digits.server.server_settings import HEARTBEAT_SECONDS

PROJECT = Path(__file__).resolve().parents[3]
DECLARED = {one["name"]: one for one in declared_automations(PROJECT)}
CRASH, CANCEL, INBOX, TRAIN = (
    "digits: crash runs without heartbeats",
    "digits: end cancelled runs",
    "digits: predict the inbox with a new champion",
    "digits: train after drift",
)
NOTIFY = [name for name, one in DECLARED.items() if is_notification(one)]
KNOWN = Identifiers({"predict/inbox": str(uuid4()), "train/nightly": str(uuid4())}, str(uuid4()))


def plan(declared: dict[str, Any], current: Any = None, recorded: Any = None, **changes: Any) -> Any:
    """Plan an automation."""
    known = Identifiers(**{**vars(KNOWN), **{key: value for key, value in changes.items() if key != "notify"}})
    return plan_automation(declared, current, recorded, known, notify=changes.get("notify", False))


def test_the_file_has_named_automations_of_which_three_run_without_being_asked() -> None:
    planned = [plan(one, block=None) for one in DECLARED.values()]
    assert [one.name for one in planned if one.enabled] == [CRASH, CANCEL, INBOX]
    assert [one.name for one in planned if one.action == "off"] == NOTIFY
    assert len(NOTIFY) == 5
    assert all(one["name"].startswith("digits: ") and one["description"].endswith(".") for one in DECLARED.values())


@pytest.mark.parametrize("name", DECLARED)
def test_prefect_accepts_each_automation(name: str) -> None:
    """The client checks its form, and the server its templates."""
    value = AutomationCore.model_validate(plan(DECLARED[name]).value).model_dump(mode="json")
    AutomationCreate.model_validate(value)


def test_runs_are_crashed_after_more_than_two_missed_heartbeats() -> None:
    trigger = DECLARED[CRASH]["trigger"]
    assert 2 * HEARTBEAT_SECONDS < trigger["within"] <= 3 * HEARTBEAT_SECONDS
    assert trigger["match_related"][0] == {
        "prefect.resource.role": "tag",
        "prefect.resource.id": "prefect.tag.digits",
    }


def test_an_unchanged_automation_stays_as_the_operator_set_it() -> None:
    recorded = plan(DECLARED[CRASH]).record
    paused = plan(DECLARED[CRASH], SimpleNamespace(enabled=False), recorded)
    assert (paused.action, paused.enabled) == ("unchanged", False)
    on = plan(DECLARED[TRAIN], SimpleNamespace(enabled=True), plan(DECLARED[TRAIN]).record)
    assert (on.action, on.enabled) == ("unchanged", True)


def test_a_changed_definition_is_written_and_a_pause_is_kept() -> None:
    recorded = plan(DECLARED[CRASH]).record
    planned = plan({**DECLARED[CRASH], "description": "New."}, SimpleNamespace(enabled=False), recorded)
    assert (planned.action, planned.enabled, planned.value["description"]) == ("update", False, "New.")


def test_a_switch_that_the_file_changed_is_set() -> None:
    recorded = plan(DECLARED[TRAIN]).record
    planned = plan({**DECLARED[TRAIN], "enabled": True}, SimpleNamespace(enabled=False), recorded)
    assert (planned.action, planned.enabled) == ("update", True)


def test_an_automation_follows_a_deployment_that_was_made_again() -> None:
    recorded = plan(DECLARED[INBOX]).record
    again = {"predict/inbox": str(uuid4())}
    planned = plan(DECLARED[INBOX], SimpleNamespace(enabled=True), recorded, deployments=again)
    assert planned.action == "update"
    assert planned.value["actions"][0] == {
        "type": "run-deployment",
        "source": "selected",
        "deployment_id": again["predict/inbox"],
    }


def test_notifications_are_turned_on_by_an_address_and_stay_on() -> None:
    declared = DECLARED[NOTIFY[0]]
    created = plan(declared, notify=True)
    assert (created.action, created.enabled) == ("create", True)
    assert created.value["actions"][0]["block_document_id"] == KNOWN.block
    kept = plan(declared, SimpleNamespace(enabled=False), created.record)
    assert (kept.action, kept.enabled) == ("unchanged", False)
    again = plan(declared, SimpleNamespace(enabled=False), created.record, notify=True)
    assert (again.action, again.enabled) == ("update", True)


def test_an_unknown_deployment_is_an_error_with_the_known_ones() -> None:
    declared = {"name": "x", "actions": [{"type": "run-deployment", "deployment": "predict/outbox"}]}
    with pytest.raises(OperationsError, match=r"predict/outbox, expected one of predict/inbox, train/nightly"):
        plan(declared)


@pytest.mark.parametrize("content", ["automations: [", "x: 1", "automations: [{name: x}]", "automations: [text]"])
def test_an_error_in_the_file_is_one_sentence_with_a_remedy(tmp_path: Path, content: str) -> None:
    path = tmp_path / FILE
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(OperationsError, match=r"automations\.yaml: found no readable list.*; correct it$"):
        declared_automations(tmp_path)


def test_a_project_without_the_file_has_no_automations(tmp_path: Path) -> None:
    assert declared_automations(tmp_path) == ()
