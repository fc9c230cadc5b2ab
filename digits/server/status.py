"""How a running system is: server, worker, deployments, runs, champion, and what needs a person."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from digits.errors import DigitsError
from digits.server.api import Access, access, shown
from digits.server.attention import (
    MOST_AHEAD,
    ON_DEMAND,
    RUNS_SHOWN,
    Deployment,
    Findings,
    Run,
    attention,
    is_late,
    is_old,
)
from digits.server.deployments import DEPLOYMENTS
from digits.server.services import POOL, System
from digits.store.artifacts import Store
from digits.store.registry import ModelVersion, Registry


@dataclass(frozen=True)
class Status:
    """The state of a system; what is None could not be asked for."""

    api: str | None
    server: str
    worker: str
    champion: str
    deployments: Sequence[Deployment] = ()
    runs: Sequence[Run] = ()
    attention: Sequence[str] = field(default=())


def read_status(system: System) -> Status:
    """Ask the server, the registry and the disk."""
    api, ours = system.api()
    found = access(api) if api else None
    champion = _champion(system)
    free = shutil.disk_usage(next(path for path in (system.root, *system.root.parents) if path.exists())).free
    if found is not Access.OPEN or api is None:
        seen = Findings(found, api, champion=champion, free=free)
        worker = "running" if system.worker.record() else "not running"
        return Status(shown(api) if api else None, "not there", worker, _told(champion), attention=attention(seen))
    return _ask(api, ours, champion, free)


def _ask(api: str, ours: bool, champion: "ModelVersion | DigitsError | None", free: int) -> Status:
    from prefect.client.orchestration import get_client

    from digits.server.deployments import deployments_by_name
    from digits.server.reaping import FLOWS, Verdict, is_bad, runs_at_work, verdict_on
    from digits.server.services import online_workers

    with get_client(sync_client=True) as client:
        named = deployments_by_name(client)
        known = {one.id: one for one in named.values()}
        deployments = {one.id: name for name, one in named.items()}
        ours_only = {key: name for key, name in deployments.items() if name in DEPLOYMENTS}
        begun = {"start_time": {"is_null_": False}}
        recent = _runs(client, FLOWS, begun, "START_TIME_DESC", RUNS_SHOWN)
        last = [
            run
            for key in ours_only
            for run in _runs(client, FLOWS, {**begun, "deployment_id": {"any_": [key]}}, "START_TIME_DESC", 1)
        ]
        waiting = _runs(
            client, FLOWS, {"state": {"type": {"any_": ["SCHEDULED"]}}}, "NEXT_SCHEDULED_START_TIME_ASC", MOST_AHEAD
        )
        gone = [run.name for run in runs_at_work(client) if verdict_on(run) is Verdict.CRASH]
        workers = online_workers()
    rows = [
        Deployment(name, _schedule(known[key].schedules), _following(key, waiting))
        for key, name in sorted(ours_only.items(), key=lambda item: DEPLOYMENTS.index(item[1]))
    ]
    made = {deployment.name: deployment for deployment in rows}
    seen = Findings(
        Access.OPEN,
        api,
        workers=workers,
        missing=sorted(set(DEPLOYMENTS) - set(made)),
        bad=[_run(run, deployments) for run in last if is_bad(run)],
        late=sum(is_late(run) for run in waiting),
        unscheduled=[
            deployments[key]
            for key in ours_only
            if _schedule(known[key].schedules) != ON_DEMAND and not _following(key, waiting) and is_old(known[key])
        ],
        gone=gone,
        champion=champion,
        free=free,
    )
    return Status(
        shown(api),
        f"{'started by digits up' if ours else 'not ours'}, {_database(ours)}",
        f"{workers} online in the pool {POOL}" if workers else "none online",
        _told(champion),
        rows,
        [_run(run, deployments) for run in recent],
        attention(seen),
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


def _following(key: Any, waiting: Sequence[Any]) -> str:
    times = [run.expected_start_time for run in waiting if run.deployment_id == key and run.expected_start_time]
    return _time(min(times)) if times else ""


def _database(ours: bool) -> str:
    if not ours:
        return "a database of its own"
    url = os.environ.get("PREFECT_SERVER_DATABASE_CONNECTION_URL") or os.environ.get(
        "PREFECT_API_DATABASE_CONNECTION_URL"
    )
    return "PostgreSQL" if url and url.startswith("postgresql") else "SQLite"


def _champion(system: System) -> "ModelVersion | DigitsError | None":
    try:
        return Registry(Store(system.root)).champion()
    except DigitsError as error:
        return error


def _told(champion: "ModelVersion | DigitsError | None") -> str:
    if isinstance(champion, ModelVersion):
        facts = champion.facts
        return f"version {champion.number}, {facts.accuracy:.2%} on {' + '.join(facts.datasets)}"
    return "none" if champion is None else "can't be told"
