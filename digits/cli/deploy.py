"""Command `deploy`: the deployments and automations of the project at a Prefect server; also a part of `up`."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from digits.cli import runtime
from digits.cli.app import NOTIFY_VARIABLE, Artifacts, AsJson, DryRun, File, Notify, Prune, State, Yes
from digits.cli.connection import open_system, require_api

if TYPE_CHECKING:
    from digits.server.automations import PlannedAutomation
    from digits.server.deployments import DeploymentPlan, DeploymentSource
    from digits.server.services import System

Facts = dict[str, object]


@dataclass(frozen=True)
class DeployOptions:
    """Options of a deployment.

    Args:
        prune: whether to remove what the project's files no longer declare.
        yes: whether to deploy schedules to any server without asking.
        notify: address of notifications, `off`, or None to leave them as they are.
        file: file that declares the deployments; None for prefect.yaml.
    """

    prune: bool = False
    yes: bool = False
    notify: str | None = None
    file: Path | None = None


def take_options(*, prune: bool, yes: bool, notify: str | None, file: Path | None = None) -> DeployOptions:
    """Return the options of a deployment.

    The address of notifications is removed from the environment, so that no process that is started later has it.
    """
    os.environ.pop(NOTIFY_VARIABLE, None)
    return DeployOptions(prune, yes, notify, file.absolute() if file else None)


def deploy(
    file: File = None,
    dry_run: DryRun = False,
    prune: Prune = False,
    yes: Yes = False,
    notify: Notify = None,
    state: State = None,
    artifacts: Artifacts = None,
    json: AsJson = False,
) -> None:
    """Deploy prefect.yaml and deploy/automations.yaml to the Prefect server, and keep what was changed in its UI."""
    from digits.cli.output import print_facts

    project = runtime.require_flows()
    system = open_system(state, artifacts)
    options = take_options(prune=prune, yes=yes, notify=notify, file=file)
    if dry_run:
        print_facts("Would deploy", preview(system, project, options), json=json)
        return
    api = require_api(system)
    print_facts("Deployed", deploy_project(api, project, options, ours=system.api()[1]), json=json)


def preview(system: "System", project: Path, options: DeployOptions) -> Facts:
    """Return what a deployment would do, by name; change nothing.

    Args:
        system: system whose Prefect API is compared; if it has none, a server would be started first.
        project: directory of the project.
        options: options of the deployment.
    """
    from digits.server.api import hide_secrets
    from digits.server.deployments import plan_deployments

    api = require_api(system) if system.api()[0] else None
    source = _source(project, options)
    if api is None:
        return {"server": "none yet; `digits up` starts one", **describe_plan(plan_deployments(None, source))}
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return {"server": hide_secrets(api), **describe_plan(plan_deployments(client, source))}


def _source(project: Path, options: DeployOptions) -> "DeploymentSource":
    from digits.server.deployments import DECLARATION, DeploymentSource
    from digits.server.notifications import is_address

    return DeploymentSource(project, options.file or DECLARATION, is_address(options.notify))


def describe_plan(plan: "DeploymentPlan") -> Facts:
    """Return a plan as facts by name."""
    return {
        **{one.name: _describe(one.action, one.schedule, one.kept, one.replaced) for one in plan.deployments},
        **{one.name: _describe_automation(one) for one in plan.automations},
        **dict.fromkeys((*plan.removed, *plan.removed_automations), "no longer declared; --prune removes it"),
    }


def _describe(action: str, state: str, kept: tuple[str, ...], replaced: tuple[str, ...]) -> str:
    parts = [action, state]
    if kept:
        parts.append(f"keeps from the server: {', '.join(kept)}")
    if replaced:
        parts.append(f"takes from the file: {', '.join(replaced)}")
    return "; ".join(part for part in parts if part)


def _describe_automation(planned: "PlannedAutomation") -> str:
    if planned.action == "off":
        return "off; --notify turns it on"
    return _describe(planned.action, "on" if planned.enabled else "off", (), ())


def deploy_project(api: str, project: Path, options: DeployOptions, *, ours: bool) -> Facts:
    """Deploy the project, unless nothing has changed; return the facts by name.

    Args:
        api: address of the Prefect API of this process.
        project: directory of the project.
        options: options of the deployment.
        ours: whether `digits up` started the server.

    Raises:
        UsageError: if the deployment of schedules is not confirmed, or the address of notifications is invalid.
        OperationsError: if a file of the project has an error.
    """
    from prefect.client.orchestration import get_client

    from digits.server.deployments import apply_deployments, plan_deployments, prune_deployments
    from digits.server.notifications import set_notifications

    source = _source(project, options)
    with get_client(sync_client=True) as client:
        plan = plan_deployments(client, source)
        if not (ours or options.yes):
            confirm_schedules(plan, api)
        if options.notify:
            set_notifications(client, options.notify, plan.notifications)
            plan = plan_deployments(client, source)
        apply_deployments(plan, client, api)
        if options.prune:
            prune_deployments(plan, client)
    return summarize(plan, pruned=options.prune)


def confirm_schedules(plan: "DeploymentPlan", api: str) -> None:
    """Ask before deployments begin to run on a schedule at a server that `digits up` did not start.

    Raises:
        UsageError: if the answer is no, or nobody can answer.
    """
    from digits.errors import UsageError
    from digits.server.api import hide_secrets

    if not plan.starting:
        return
    server = f"the Prefect server at {hide_secrets(api)}, which `digits up` did not start"
    names = ", ".join(plan.starting)
    if not sys.stdin.isatty():
        raise UsageError(f"{names} would run on a schedule at {server}; confirm that with --yes")
    if not typer.confirm(f"Run {names} on a schedule at {server}?", err=True):
        raise UsageError(f"nothing was deployed to {server}; to look at the deployment first, use --dry-run")


def summarize(plan: "DeploymentPlan", *, pruned: bool) -> Facts:
    """Return what a deployment did, by name."""
    kept = [f"{one.name}: {', '.join(one.kept)}" for one in plan.deployments if one.kept]
    replaced = [f"{one.name}: {', '.join(one.replaced)}" for one in plan.deployments if one.replaced]
    gone = ", ".join((*plan.removed, *plan.removed_automations))
    facts: dict[str, Any] = {
        "deployments": "deployed" if plan.changes else "as they were",
        "kept from the server": "; ".join(kept),
        "taken from the file": "; ".join(replaced),
        "removed" if pruned else "no longer declared (--prune removes them)": gone,
    }
    return {name: value for name, value in facts.items() if value}
