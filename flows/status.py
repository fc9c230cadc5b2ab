"""How a running system is: server, worker, deployments, runs, champion, and what needs a person."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from digits.errors import DigitsError
from digits.registry import ModelVersion, Registry
from digits.store import Store
from flows.api import Access, access, shown
from flows.operations import DEPLOYMENTS, POOL, System

RUNS_SHOWN = 8
MOST_AHEAD = 200
"""The server makes at most a hundred runs ahead of each schedule; the next night is among so many."""
ON_DEMAND = "on demand"
LATE = timedelta(minutes=10)
SCHEDULER = timedelta(minutes=2)
LEAST_FREE_BYTES = 2 * 10**9


@dataclass(frozen=True)
class Run:
    """A flow run, as people know it."""

    name: str
    deployment: str
    state: str
    when: str
    message: str = ""


@dataclass(frozen=True)
class Deployment:
    """A deployment: its schedule, and when it runs next."""

    name: str
    schedule: str
    following: str


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


@dataclass(frozen=True)
class Findings:
    """What was seen, for `attention` to judge.

    Args:
        access: to the API; None where none is known.
        api: its address.
        workers: online.
        missing: deployments that are not there.
        bad: the deployments' last runs that failed or crashed.
        late: the number of runs that should have begun.
        unscheduled: deployments with a schedule whose next run the server has not made.
        gone: runs that claim to be at work while their process is gone.
        champion: the version, or what is wrong with the registry.
        free: bytes on the disk of the artifacts.
    """

    access: Access | None
    api: str | None
    workers: int = 0
    missing: Sequence[str] = ()
    bad: Sequence[Run] = ()
    late: int = 0
    unscheduled: Sequence[str] = ()
    gone: Sequence[str] = ()
    champion: "ModelVersion | DigitsError | None" = None
    free: int = LEAST_FREE_BYTES


def attention(seen: Findings) -> list[str]:
    """Say what needs a person, a sentence each, the worst first."""
    sentences = []
    if seen.access is not Access.OPEN:
        sentences.append(_no_api(seen))
    else:
        if not seen.workers:
            sentences.append("no worker is online, so nothing runs; `digits up` starts one")
        if seen.missing:
            sentences.append(f"not deployed: {', '.join(seen.missing)}; `digits up` deploys them")
        sentences += [f"{run.deployment}: the last run, {run.name}, is {run.state}: {run.message}" for run in seen.bad]
        if seen.late:
            sentences.append(f"{seen.late} runs are late by more than {LATE.seconds // 60} minutes")
        sentences += [
            f"{name} has a schedule, but no run ahead: see whether the server's scheduler works"
            for name in seen.unscheduled
        ]
        sentences += [f"{name} claims to run, but its process is gone; `digits janitor` ends it" for name in seen.gone]
    if isinstance(seen.champion, DigitsError):
        sentences.append(str(seen.champion))
    elif seen.champion is None:
        sentences.append("there is no champion, so nothing can be predicted; `digits train` makes one")
    if seen.free < LEAST_FREE_BYTES:
        sentences.append(f"only {seen.free / 1e9:.1f} GB are free where the artifacts are")
    return sentences


def _no_api(seen: Findings) -> str:
    if seen.api is None:
        return "no Prefect server runs here, and none is configured; `digits up` starts one"
    if seen.access is Access.DENIED:
        return f"the Prefect server at {shown(seen.api)} wants another password: set PREFECT_API_AUTH_STRING"
    return f"the Prefect server at {shown(seen.api)} does not answer"


def look(system: System) -> Status:
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

    from flows.operations import deployments_by_name, online_workers
    from flows.runs import is_bad
    from tasks.reaping import FLOWS, Verdict, runs_at_work, verdict_on

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
        late=sum(_is_late(run) for run in waiting),
        unscheduled=[
            deployments[key]
            for key in ours_only
            if _schedule(known[key].schedules) != ON_DEMAND and not _following(key, waiting) and _is_old(known[key])
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


def _is_old(deployment: Any) -> bool:
    """Tell whether the scheduler has had the time to see a deployment: it looks every minute."""
    return deployment.updated is not None and bool(deployment.updated < datetime.now(UTC) - SCHEDULER)


def _is_late(run: Any) -> bool:
    return run.expected_start_time is not None and bool(run.expected_start_time < datetime.now(UTC) - LATE)


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
