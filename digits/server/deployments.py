"""Deployments: registration of the deployments of prefect.yaml at a Prefect server, whenever they have changed."""

import os
import sys
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from digits.errors import OperationsError
from digits.server.api import read_pages
from digits.server.automations import (
    Identifiers,
    PlannedAutomation,
    apply_automations,
    automations_by_name,
    declared_automations,
    plan_automation,
)
from digits.server.deployment_record import PROJECT, DeploymentRecord, FieldDigests, read_record, write_record
from digits.server.merging import current_fields, declared_fields, merge, merged_entry, replace_job_variables
from digits.server.notifications import read_block
from digits.server.services import POOL, run_prefect
from digits.store.files import hash_file
from digits.store.records import digest_of

DEPLOYMENTS = ("train/nightly", "rollback/rollback", "predict/folder", "predict/inbox", "janitor/janitor")
"""Deployments of Digits itself, which `digits status` expects outside of a project."""
DECLARATION = Path("prefect.yaml")
"""File that declares the deployments of a project."""
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class DeclaredDeployment:
    """Deployment of a prefect.yaml.

    Args:
        name: name as `FLOW/DEPLOYMENT`.
        pool: name of its work pool; None if it has none.
        scheduled: whether one of its schedules is active.
    """

    name: str
    pool: str | None
    scheduled: bool


def declared_deployments(project: Path, file: Path = DECLARATION) -> tuple[DeclaredDeployment, ...]:
    """Return the deployments of a project's prefect.yaml, in its order. The sources of the flows are not executed.

    Args:
        project: directory of the project.
        file: file that declares the deployments; a relative path is below the project.

    Raises:
        OperationsError: if there is no prefect.yaml, or it has an error.
    """
    import yaml

    path = _require_declaration(project, file)
    try:
        entries = yaml.safe_load(path.read_text("utf-8"))["deployments"] or ()
        return tuple(_declared(project, entry) for entry in entries)
    except (OSError, ValueError, TypeError, LookupError, SyntaxError, AttributeError, yaml.YAMLError) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise OperationsError(
            f"{path}: found no readable list of deployments ({problem}), expected entries with name and entrypoint; "
            "correct it"
        ) from error


def _declared(project: Path, entry: Mapping[str, Any]) -> DeclaredDeployment:
    from prefect.flows import load_flow_arguments_from_entrypoint

    path, colon, flow = entry["entrypoint"].rpartition(":")
    # A path is relative to the project, and the name of a module has no colon.
    entrypoint = f"{project / path}:{flow}" if colon else flow
    schedules = entry.get("schedules") or [entry.get("schedule")]
    return DeclaredDeployment(
        name=f"{load_flow_arguments_from_entrypoint(entrypoint, {'name'})['name']}/{entry['name']}",
        pool=(entry.get("work_pool") or {}).get("name"),
        scheduled=any(one and one.get("active") is not False for one in schedules),
    )


@dataclass(frozen=True)
class PlannedDeployment:
    """Deployment, and what a deployment of prefect.yaml does to it.

    Args:
        name: name as `FLOW/DEPLOYMENT`.
        action: `create`, `update` or `unchanged`.
        entry: its entry in the merged prefect.yaml.
        kept: fields that were changed on the server and stay so.
        replaced: fields whose value on the server is replaced by the file's.
        schedule: its schedules, for display.
        starts: whether it begins to run on a schedule.
        record: digests of its fields in the file.
    """

    name: str
    action: str
    entry: Mapping[str, Any]
    kept: tuple[str, ...]
    replaced: tuple[str, ...]
    schedule: str
    starts: bool
    record: FieldDigests


@dataclass(frozen=True)
class DeploymentSource:
    """Files that a deployment reads.

    Args:
        project: directory with the flows.
        file: file that declares the deployments; a relative path is below the project.
        notify: whether notifications are turned on.
    """

    project: Path
    file: Path = DECLARATION
    notify: bool = False


@dataclass(frozen=True)
class DeploymentPlan:
    """Plan of a deployment of prefect.yaml and deploy/automations.yaml.

    Args:
        source: files of the project.
        content: content of prefect.yaml, without the deployments.
        deployments: deployments of prefect.yaml.
        automations: automations of deploy/automations.yaml.
        removed: deployments that an earlier prefect.yaml declared, and that still exist.
        removed_automations: automations of which the same is true.
        record: record to be written after the deployment.
    """

    source: DeploymentSource
    content: Mapping[str, Any]
    deployments: tuple[PlannedDeployment, ...]
    automations: tuple[PlannedAutomation, ...]
    removed: tuple[str, ...]
    removed_automations: tuple[str, ...]
    record: DeploymentRecord

    @property
    def project(self) -> str:
        """Name of the project."""
        return str(self.content["name"])

    @property
    def deploys(self) -> bool:
        """Whether prefect.yaml is deployed."""
        return any(one.action != "unchanged" for one in self.deployments)

    @property
    def changes(self) -> bool:
        """Whether anything is created or updated."""
        return self.deploys or any(one.action in ("create", "update") for one in self.automations)

    @property
    def notifications(self) -> tuple[str, ...]:
        """Names of the automations that send notifications."""
        return tuple(one.name for one in self.automations if one.notifies)

    @property
    def starting(self) -> tuple[str, ...]:
        """Deployments that begin to run on a schedule."""
        return tuple(one.name for one in self.deployments if one.starts)


def plan_deployments(client: Any, source: DeploymentSource) -> DeploymentPlan:
    """Compare prefect.yaml and deploy/automations.yaml with a Prefect server; change nothing.

    Args:
        client: client of the server; None if there is none yet.
        source: files of the project.

    Raises:
        OperationsError: if there is no prefect.yaml, or a file has an error.
    """
    content, declared = _read_declaration(source)
    automations = declared_automations(source.project)
    if client is None:
        recorded, existing, running, block = DeploymentRecord(), dict[str, Any](), dict[str, Any](), None
    else:
        recorded, existing, block = (
            read_record(client, content["name"]),
            deployments_by_name(client),
            read_block(client),
        )
        names = {*recorded.automations, *(one["name"] for one in automations)}
        running = automations_by_name(client, sorted(names))
    fingerprint = _fingerprint(source)
    same = recorded.fingerprint == fingerprint and existing.keys() >= declared.keys()
    planned = tuple(
        plan_deployment(name, entry, existing.get(name), recorded.deployments.get(name), same=same)
        for name, entry in declared.items()
    )
    identifiers = {**dict.fromkeys(declared, ""), **{name: str(one.id) for name, one in existing.items()}}
    known = Identifiers(identifiers, block or ("" if source.notify else None))
    planned_automations = tuple(
        plan_automation(
            one, running.get(one["name"]), recorded.automations.get(one["name"]), known, notify=source.notify
        )
        for one in automations
    )
    gone = _gone(recorded.deployments, declared, existing)
    gone_automations = _gone(recorded.automations, {one["name"] for one in automations}, running)
    return DeploymentPlan(
        source,
        content,
        planned,
        planned_automations,
        gone,
        gone_automations,
        DeploymentRecord(
            fingerprint,
            {**{name: recorded.deployments[name] for name in gone}, **{one.name: one.record for one in planned}},
            {
                **{name: recorded.automations[name] for name in gone_automations},
                **{one.name: one.record for one in planned_automations if one.record},
            },
        ),
    )


def plan_deployment(
    name: str, entry: Mapping[str, Any], existing: Any, recorded: FieldDigests | None, *, same: bool
) -> PlannedDeployment:
    """Plan what a deployment of prefect.yaml does to one deployment.

    Args:
        name: name as `FLOW/DEPLOYMENT`.
        entry: its entry in prefect.yaml.
        existing: Prefect deployment on the server; None if there is none.
        recorded: field digests of the last deployment; None if there was none.
        same: whether everything that deployments depend on is as at the last deployment.
    """
    declared = declared_fields(entry)
    current = current_fields(existing) if existing else None
    if current is not None and existing.work_pool_name != (entry.get("work_pool") or {}).get("name"):
        current = replace_job_variables(current, declared)
    merged = merge(declared, current, recorded)
    planned = merged_entry(entry, merged.values)
    return PlannedDeployment(
        name,
        "create" if existing is None else "unchanged" if same else "update",
        planned,
        merged.kept,
        merged.replaced,
        schedule=describe_schedules(planned),
        starts=is_scheduled(planned) and not (existing and is_scheduled(merged_entry(entry, current_fields(existing)))),
        record=merged.record,
    )


def is_scheduled(entry: Mapping[str, Any]) -> bool:
    """Check whether a deployment of prefect.yaml runs on a schedule."""
    return not entry.get("paused") and any(schedule.get("active", True) for schedule in entry.get("schedules") or ())


def describe_schedules(entry: Mapping[str, Any]) -> str:
    """Return the schedules of a deployment of prefect.yaml, for display."""
    if entry.get("paused"):
        return "paused"
    schedules = entry.get("schedules") or ()
    return ", ".join(map(_describe_schedule, schedules)) or "on demand"


def _describe_schedule(schedule: Mapping[str, Any]) -> str:
    when = next((f"{schedule[kind]}" for kind in ("cron", "interval", "rrule") if schedule.get(kind)), "?")
    return f"{when} {schedule.get('timezone', '')}".strip() + ("" if schedule.get("active", True) else " (paused)")


def apply_deployments(plan: DeploymentPlan, client: Any, api: str) -> None:
    """Carry out a plan: create the work pools, deployments and automations, and record them on the server.

    Args:
        plan: plan of the same server and project.
        client: client of the server.
        api: address of the Prefect API.

    Raises:
        OperationsError: if Prefect reports an error in prefect.yaml.
    """
    if plan.deploys:
        entries = [one.entry for one in plan.deployments]
        if any((entry.get("work_pool") or {}).get("name") == POOL for entry in entries):
            _ensure_pool(client)
        _deploy({**plan.content, "deployments": entries}, api, plan.source.project)
        write_record(
            client, plan.project, replace(plan.record, automations=read_record(client, plan.project).automations)
        )
        plan = plan_deployments(client, plan.source)  # the deployments have identifiers now
    names = [one.name for one in plan.automations]
    apply_automations(client, plan.automations, automations_by_name(client, names))
    if read_record(client, plan.project) != plan.record:
        write_record(client, plan.project, plan.record)


def prune_deployments(plan: DeploymentPlan, client: Any) -> None:
    """Remove the deployments and automations that prefect.yaml and deploy/automations.yaml no longer declare."""
    existing = deployments_by_name(client)
    for name in plan.removed:
        client.delete_deployment(existing[name].id)
    for automation in automations_by_name(client, plan.removed_automations).values():
        client.delete_automation(automation.id)
    record = read_record(client, plan.project)
    write_record(
        client,
        plan.project,
        replace(
            record,
            deployments=_without(record.deployments, plan.removed),
            automations=_without(record.automations, plan.removed_automations),
        ),
    )


def deployments_by_name(client: Any) -> dict[str, Any]:
    """Return the Prefect deployments, by `FLOW/DEPLOYMENT`."""
    flows = flow_names(client)
    return {f"{flows.get(one.flow_id, '?')}/{one.name}": one for one in read_pages(client.read_deployments)}


def flow_names(client: Any) -> dict[Any, str]:
    """Return the names of the flows on a server, by their IDs."""
    return {flow.id: flow.name for flow in read_pages(client.read_flows)}


def _gone(recorded: Iterable[str], declared: Container[str], existing: Container[str]) -> tuple[str, ...]:
    return tuple(name for name in recorded if name not in declared and name in existing)


def _without(values: Mapping[str, Any], names: Container[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _read_declaration(source: DeploymentSource) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the content of prefect.yaml without its deployments, and its deployments by name.

    Values of the environment are filled in.
    """
    import yaml
    from prefect.utilities.templating import apply_values

    names = [one.name for one in declared_deployments(source.project, source.file)]
    content = {"name": PROJECT, **yaml.safe_load((source.project / source.file).read_text("utf-8"))}
    entries: Any = apply_values(content.pop("deployments") or [], dict(os.environ), remove_notset=False)
    return content, dict(zip(names, entries, strict=True))


def _ensure_pool(client: Any) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound

    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))


def _deploy(content: Mapping[str, Any], api: str, project: Path) -> None:
    """Deploy the content of a prefect.yaml in the project."""
    import yaml

    with TemporaryDirectory(prefix="digits-deploy-") as folder:
        merged = Path(folder) / "prefect.yaml"
        merged.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
        run_prefect(["--no-prompt", "deploy", "--all", "--prefect-file", str(merged)], api, project)


def _fingerprint(source: DeploymentSource) -> str:
    """Return a digest of all that a deployment depends on: prefect.yaml, flows, settings, project and Python."""
    project, declaration = source.project, _require_declaration(source.project, source.file)
    settings = [*_PACKAGE.glob("*/config.py"), _PACKAGE / "maintenance" / "retention.py"]
    sources = [declaration, *sorted((project / "flows").glob("*.py")), *sorted(settings)]
    return digest_of([str(project), sys.executable, *map(hash_file, sources)])


def _require_declaration(project: Path, file: Path) -> Path:
    path = project / file
    if not path.is_file():
        raise OperationsError(f"{path}: there is no such file, expected the declaration of the deployments; restore it")
    return path
