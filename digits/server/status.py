"""Status of a system: its server, worker, deployments, runs and champion, and what needs attention."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from digits.errors import DigitsError
from digits.server.api import Access, check_access, hide_secrets
from digits.server.attention import Findings, Run, is_known_to_scheduler, is_late, list_attention
from digits.server.deployments import DEPLOYMENTS, deployments_by_name
from digits.server.reaping import FLOWS, Verdict, active_runs, ended_badly, judge_run
from digits.server.services import POOL, System, online_workers
from digits.store.artifacts import Store
from digits.store.registry import ModelVersion, Registry

RUNS_SHOWN = 8
MAX_SCHEDULED_RUNS = 200
"""Number of scheduled runs to read. The server creates at most 100 per schedule, so the next run of each schedule of
prefect.yaml is among them."""
ON_DEMAND = "on demand"


@dataclass(frozen=True)
class Deployment:
    """Deployment, for display: its name, its schedule, and the time of the next run (`following`)."""

    name: str
    schedule: str
    following: str


@dataclass(frozen=True)
class SystemStatus:
    """Status of a system; deployments and runs are empty if its server does not answer."""

    api: str | None
    server: str
    worker: str
    champion: str
    deployments: Sequence[Deployment] = ()
    runs: Sequence[Run] = ()
    attention: Sequence[str] = field(default=())


def read_status(system: System) -> SystemStatus:
    """Read the status of a system from its server, the registry and the disk."""
    api, ours = system.api()
    access = check_access(api, system.environment(api)) if api else None
    champion = _read_champion(system)
    free = shutil.disk_usage(next(path for path in (system.root, *system.root.parents) if path.exists())).free
    if access is Access.OPEN and api:
        return _ask_server(api, ours, champion, free)
    return SystemStatus(
        api=hide_secrets(api) if api else None,
        server="not available",
        worker="running" if system.worker.record() else "not running",
        champion=_describe_champion(champion),
        attention=list_attention(Findings(access, api, champion=champion, free=free)),
    )


def _ask_server(api: str, ours: bool, champion: ModelVersion | DigitsError | None, free: int) -> SystemStatus:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        by_name = deployments_by_name(client)
        names = {one.id: name for name, one in by_name.items()}
        known = {name: by_name[name] for name in DEPLOYMENTS if name in by_name}
        begun = {"start_time": {"is_null_": False}}
        recent = _runs(client, FLOWS, begun, "START_TIME_DESC", RUNS_SHOWN)
        last = [
            run
            for one in known.values()
            for run in _runs(client, FLOWS, {**begun, "deployment_id": {"any_": [one.id]}}, "START_TIME_DESC", 1)
        ]
        scheduled = _runs(
            client,
            FLOWS,
            {"state": {"type": {"any_": ["SCHEDULED"]}}},
            "NEXT_SCHEDULED_START_TIME_ASC",
            MAX_SCHEDULED_RUNS,
        )
        dead = [run.name for run in active_runs(client) if judge_run(run) is Verdict.CRASH]
        workers = online_workers()
    found = Findings(
        Access.OPEN,
        api,
        workers=workers,
        missing=sorted(set(DEPLOYMENTS) - set(known)),
        failed=[_run(run, names) for run in last if ended_badly(run)],
        late=sum(is_late(run) for run in scheduled),
        unscheduled=[
            name
            for name, one in known.items()
            if _schedule(one.schedules) != ON_DEMAND and not _next_run(one.id, scheduled) and is_known_to_scheduler(one)
        ],
        dead=dead,
        champion=champion,
        free=free,
    )
    return SystemStatus(
        api=hide_secrets(api),
        server=f"{'started by digits up' if ours else 'not started by digits up'}, {_database(ours)}",
        worker=f"{workers} online in the pool {POOL}" if workers else "none online",
        champion=_describe_champion(champion),
        deployments=[
            Deployment(name, _schedule(one.schedules), _next_run(one.id, scheduled)) for name, one in known.items()
        ],
        runs=[_run(run, names) for run in recent],
        attention=list_attention(found),
    )


def _runs(client: Any, flows: Sequence[str], wanted: dict[str, Any], order: str, limit: int) -> list[Any]:
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    return list(
        client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=list(flows))),
            flow_run_filter=FlowRunFilter.model_validate(wanted),
            sort=FlowRunSort(order),
            limit=limit,
        )
    )


def _run(run: Any, deployments: dict[Any, str]) -> Run:
    state = run.state.name if run.state else "?"
    message = (run.state.message or "").splitlines()[:1] if run.state else []
    return Run(run.name, deployments.get(run.deployment_id, ""), state, _time(run.start_time), "".join(message))


def _time(moment: datetime | None) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M") if moment else ""


def _schedule(schedules: Sequence[Any]) -> str:
    active = [one.schedule for one in schedules if one.active]
    return ", ".join(f"{getattr(one, 'cron', one)} {getattr(one, 'timezone', '')}" for one in active) or ON_DEMAND


def _next_run(deployment: Any, scheduled: Sequence[Any]) -> str:
    times = [
        run.expected_start_time for run in scheduled if run.deployment_id == deployment and run.expected_start_time
    ]
    return _time(min(times)) if times else ""


def _database(ours: bool) -> str:
    if not ours:
        return "database unknown"
    url = os.environ.get("PREFECT_SERVER_DATABASE_CONNECTION_URL") or os.environ.get(
        "PREFECT_API_DATABASE_CONNECTION_URL"
    )
    return "PostgreSQL" if url and url.startswith("postgresql") else "SQLite"


def _read_champion(system: System) -> ModelVersion | DigitsError | None:
    try:
        return Registry(Store(system.root)).champion()
    except DigitsError as error:
        return error


def _describe_champion(champion: ModelVersion | DigitsError | None) -> str:
    if isinstance(champion, ModelVersion):
        facts = champion.facts
        return f"version {champion.number}, {facts.accuracy:.2%} on {' + '.join(facts.datasets)}"
    return "none" if champion is None else "unknown"
