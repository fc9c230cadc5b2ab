"""Automations: creation of the automations of deploy/automations.yaml at a Prefect server, by name."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digits.errors import OperationsError
from digits.server.deployment_record import FieldDigests
from digits.server.merging import as_json, merge

FILE = Path("deploy") / "automations.yaml"
"""File of the automations in the project; a project without it has none."""
ENABLED, DEFINITION = "enabled", "definition"
"""Fields of an automation that a redeployment merges."""


@dataclass(frozen=True)
class PlannedAutomation:
    """Automation, and what a deployment does to it.

    Args:
        name: name of the automation.
        action: `create`, `update`, `unchanged`, or `off` if it awaits `--notify`.
        enabled: whether it is enabled afterwards.
        value: automation to write, in Prefect's format.
        record: digests of its fields in the file; empty if it is off.
        notifies: whether it sends notifications.
    """

    name: str
    action: str
    enabled: bool
    value: Mapping[str, Any]
    record: FieldDigests
    notifies: bool = False


@dataclass(frozen=True)
class Identifiers:
    """Identifiers of the objects that automations name.

    Args:
        deployments: identifiers of the deployments, by name; empty for those that are deployed later.
        block: identifier of the block that sends notifications; None if there is none, empty if it is created later.
    """

    deployments: Mapping[str, str]
    block: str | None = None


def declared_automations(project: Path) -> tuple[dict[str, Any], ...]:
    """Return the automations of a project's file.

    Raises:
        OperationsError: if the file has an error.
    """
    import yaml

    path = project / FILE
    if not path.is_file():
        return ()
    try:
        found = as_json(yaml.safe_load(path.read_text("utf-8"))["automations"])
        return tuple({**one, "name": str(one["name"]), "actions": list(one["actions"])} for one in found)
    except (OSError, ValueError, TypeError, LookupError, yaml.YAMLError) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise OperationsError(
            f"{path}: found no readable list of automations ({problem}), expected entries with name, trigger and "
            "actions; correct it"
        ) from error


def is_notification(automation: Mapping[str, Any]) -> bool:
    """Check whether an automation of the file sends notifications."""
    return any(action.get("notification") for action in automation["actions"])


def plan_automation(
    declared: Mapping[str, Any], current: Any, recorded: FieldDigests | None, known: Identifiers, *, notify: bool
) -> PlannedAutomation:
    """Plan what a deployment does to an automation.

    Args:
        declared: automation of the file.
        current: automation of that name on the server; None if there is none.
        recorded: field digests of the last deployment; None if there was none.
        known: identifiers of what it names.
        notify: whether notifications are turned on now.
    """
    name = declared["name"]
    if is_notification(declared) and known.block is None:
        return PlannedAutomation(name, "off", enabled=False, value={}, record={}, notifies=True)
    definition = {key: value for key, value in declared.items() if key != ENABLED}
    definition["actions"] = [_resolve(action, known) for action in declared["actions"]]
    fields = {ENABLED: declared.get(ENABLED, True), DEFINITION: definition}
    existing = {ENABLED: current.enabled, DEFINITION: None} if current else None
    merged = merge(fields, existing, recorded)
    enabled = (notify and is_notification(declared)) or merged.values[ENABLED]
    updated = current and (
        enabled != current.enabled or (recorded or merged.record)[DEFINITION] != merged.record[DEFINITION]
    )
    action = "create" if not current else "update" if updated else "unchanged"
    value = {**definition, ENABLED: enabled}
    return PlannedAutomation(name, action, enabled, value, merged.record, notifies=is_notification(declared))


def apply_automations(client: Any, planned: Sequence[PlannedAutomation], existing: Mapping[str, Any]) -> None:
    """Create and update automations.

    Args:
        client: client of the Prefect server.
        planned: automations of the file.
        existing: automations on the server, by name.
    """
    from prefect.events.schemas.automations import AutomationCore

    for one in planned:
        if one.action == "create":
            client.create_automation(AutomationCore.model_validate(one.value))
        elif one.action == "update":
            client.update_automation(existing[one.name].id, AutomationCore.model_validate(one.value))


def automations_by_name(client: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return the automations of a Prefect server that have one of these names, by name."""
    return {one.name: one for name in names for one in client.read_automations_by_name(name)}


def _resolve(action: Mapping[str, Any], known: Identifiers) -> dict[str, Any]:
    """Return an action with identifiers instead of names.

    Raises:
        OperationsError: if it names an unknown deployment.
    """
    resolved = {key: value for key, value in action.items() if key not in ("deployment", "notification")}
    if name := action.get("deployment"):
        if name not in known.deployments:
            raise OperationsError(
                f"{FILE}: found an action with the deployment {name}, expected one of {', '.join(known.deployments)}; "
                "correct the name, or remove the automation"
            )
        resolved |= {"source": "selected", "deployment_id": known.deployments[name]}
    if action.get("notification"):
        resolved["block_document_id"] = known.block
    return resolved
