"""Observation: the facts that a Prefect server, its worker's lock and the tables on the disk tell about a system."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digits.errors import DigitsError
from digits.server.attention import (
    LATE,
    SILENT,
    ActiveRun,
    DeploymentFacts,
    Findings,
    Origin,
    Pool,
    Queue,
    Schedule,
    Table,
)
from digits.server.automations import automations_by_name, declared_automations, is_notification
from digits.server.crashes import find_crashed
from digits.server.deployment_record import read_record
from digits.server.deployments import DEPLOYMENTS, DeclaredDeployment, declared_deployments, deployments_by_name
from digits.server.queries import Queries, count_missed
from digits.server.services import POOL, System, worker_name
from digits.server.tables import read_table, table_of_run

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

RUNS_SHOWN = 8


def observe(client: "SyncPrefectClient", system: System, local: Findings) -> Findings:
    """Return the findings about a system whose server answers.

    Args:
        client: client of its API.
        system: the system.
        local: findings that need no server.
    """
    declared, automations, problems = _read_declared()
    running = automations_by_name(client, automations)
    on_server = deployments_by_name(client)
    pools = {name: one.work_pool_name for name, one in on_server.items()}
    chosen = choose_deployments(declared, read_record(client).deployments, pools)
    ask = Queries(client, {name: on_server[name] for name in chosen})
    active = list(ask.active())
    deployments = [
        _read_deployment(ask, on_server[name], _facts(name, origin, declared, active), system.root, local.now)
        for name, origin in chosen.items()
    ]
    scheduled = [one.name for one in deployments if one.schedule]
    return replace(
        local,
        lease=ask.lease_seconds(),
        pools=[pool for name in pools_of(declared, pools) if (pool := _read_pool(ask, name, system, local))],
        missing=[
            *(one.name for one in declared if one.name not in on_server),
            *(name for name in automations if name not in running),
        ],
        disabled=[one.name for one in running.values() if not one.enabled],
        deployments=deployments,
        queue=Queue(
            ask.count_scheduled(), ask.count_late(local.now), _count(active, "PENDING"), _count(active, "RUNNING")
        ),
        active=active,
        recent=ask.recent(RUNS_SHOWN),
        crashed=find_crashed(ask.attempts(local.now, scheduled)),
        problems=problems,
    )


def choose_deployments(
    declared: Sequence[DeclaredDeployment], recorded: Container[str], on_server: Mapping[str, str | None]
) -> dict[str, Origin]:
    """Return the deployments on a server that concern the project, with their origins, the declared ones first.

    A deployment that prefect.yaml does not declare concerns the project if an earlier prefect.yaml declared it, or if
    it uses the work pool `digits`. Other work pools may be shared with other projects.

    Args:
        declared: deployments of the project's prefect.yaml.
        recorded: names of the deployments that `digits up` has deployed and not removed.
        on_server: work pool of each deployment on the server.
    """
    known = {one.name: Origin.DECLARED for one in declared if one.name in on_server}
    others = {
        name: Origin.REMOVED if name in recorded else Origin.FOREIGN
        for name, pool in sorted(on_server.items())
        if name not in known and (name in recorded or pool == POOL)
    }
    return {**known, **others}


def pools_of(declared: Sequence[DeclaredDeployment], on_server: Mapping[str, str | None]) -> list[str]:
    """Return the work pools of the declared deployments: those on the server, else those in prefect.yaml.

    They differ if the deployments come from another file, such as deploy/prefect.kubernetes.yaml.
    """
    return sorted(filter(None, {on_server.get(one.name, one.pool) for one in declared})) or [POOL]


def find_pools(project: Path) -> list[str]:
    """Return the work pools of a project's deployments, see `pools_of`.

    Args:
        project: directory of the project. It has been deployed to the server that this process uses.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        on_server = {name: one.work_pool_name for name, one in deployments_by_name(client).items()}
    return pools_of(declared_deployments(project), on_server)


def count_workers(heartbeats: Mapping[str, bool], own: str, *, alive: bool | None) -> int:
    """Return the number of workers online in a pool.

    The worker that `digits up` started on this machine is alive as long as it holds its lock. The server still counts
    it as online for a minute after its death.

    Args:
        heartbeats: whether each worker is online by its last heartbeat.
        own: name of the worker that `digits up` starts on this machine.
        alive: whether that worker runs; None if `digits up` has not started one from this state directory.
    """
    if alive is None:
        return sum(heartbeats.values())
    return alive + sum(online for name, online in heartbeats.items() if name != own)


def _read_declared() -> tuple[Sequence[DeclaredDeployment], list[str], list[str]]:
    """Return the deployments and the enabled automations that the project declares, and the errors in its files.

    Without a readable prefect.yaml, the deployments are those of Digits itself. Notifications are left out.
    """
    from digits.settings import find_project

    usual = [DeclaredDeployment(name, POOL, scheduled=False) for name in DEPLOYMENTS]
    project = find_project()
    if project is None:
        return usual, [], []
    problems, deployments, automations = list[str](), None, list[str]()
    try:
        deployments = declared_deployments(project)
        automations = enabled_automations(declared_automations(project))
    except DigitsError as error:
        problems.append(str(error))
    return usual if deployments is None else deployments, automations, problems


def enabled_automations(declared: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of the automations that every server should have, which are those without notifications."""
    return [one["name"] for one in declared if one.get("enabled", True) and not is_notification(one)]


def _facts(
    name: str, origin: Origin, declared: Sequence[DeclaredDeployment], active: Sequence[ActiveRun]
) -> DeploymentFacts:
    scheduled = any(one.scheduled for one in declared if one.name == name)
    return DeploymentFacts(
        name, origin, is_scheduled=scheduled, active=any(one.run.deployment == name for one in active)
    )


def _read_deployment(ask: Queries, one: Any, facts: DeploymentFacts, root: Path, now: datetime) -> DeploymentFacts:
    last, completed = ask.last_run(facts.name), ask.last_completed(facts.name)
    schedules = [Schedule(str(each.id), _show_schedule(each.schedule), each.active) for each in one.schedules]
    changes = [each.updated for each in one.schedules if each.updated]
    ended = completed.end_time if completed else None
    since = max(moment for moment in (ended, one.created, *changes, datetime.min.replace(tzinfo=UTC)) if moment)
    return replace(
        facts,
        id=str(one.id),
        pool=one.work_pool_name or "",
        paused=one.paused,
        schedules=schedules,
        updated=one.updated,
        following=ask.next_run(facts.name),
        last=ask.show(last) if last else None,
        started=last.start_time if last else None,
        completed=ended,
        deployed=one.created,
        missed=count_missed([each.schedule for each in one.schedules if each.active], since, now - LATE),
        table=_read_table(ask, facts.name, {**one.parameters, **completed.parameters}, root) if completed else None,
    )


def _read_table(ask: Queries, deployment: str, parameters: Mapping[str, Any], root: Path) -> Table | None:
    """Return the latest table of a deployment: from the disk if it is there, else as its last event describes it."""
    is_prediction = deployment.startswith("predict/")
    found = read_table(table_of_run(parameters, root), deployment) if is_prediction else None
    return found or ask.written_table(deployment)


def _read_pool(ask: Queries, name: str, system: System, local: Findings) -> Pool | None:
    """Return a work pool with its workers; None if it needs no worker."""
    found = ask.work_pool(name)
    if found is None:
        return Pool(name, None)
    if found.is_push_pool or found.is_managed_pool:
        return None
    heartbeats, alive = ask.heartbeats(name), _is_alive(system, local.api) if name == POOL else None
    is_new = alive and datetime.fromtimestamp(system.worker.lock.stat().st_mtime, UTC) > local.now - SILENT
    return Pool(
        name,
        count_workers(heartbeats, worker_name(), alive=alive),
        paused=found.is_paused,
        silent=bool(alive and not is_new and not heartbeats.get(worker_name())),
    )


def _is_alive(system: System, api: str | None) -> bool | None:
    """Return whether the worker that `digits up` started runs; None if it started none, or one of another server."""
    record = system.worker.record()
    if record:
        return True if record.api == api else None
    return False if system.worker.lock.exists() else None


def _count(active: Sequence[ActiveRun], kind: str) -> int:
    return sum(one.run.type == kind for one in active)


def _show_schedule(schedule: Any) -> str:
    return f"{getattr(schedule, 'cron', schedule)} {getattr(schedule, 'timezone', '')}".strip()
