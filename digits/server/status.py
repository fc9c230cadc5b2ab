"""Status of a system: its server, worker, deployments, runs, tables and champion, and what needs attention."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from digits.errors import DigitsError, MissingArtifactError
from digits.server.api import Access, check_access, hide_secrets
from digits.server.attention import DeploymentFacts, Findings, Origin, Queue, Run, Table, list_attention, show_time
from digits.server.observation import observe
from digits.server.services import ANSWER_SECONDS, System
from digits.server.tables import latest_tables
from digits.store.artifacts import Store
from digits.store.registry import ModelVersion, Registry

ON_DEMAND = "on demand"


@dataclass(frozen=True)
class Deployment:
    """Deployment, for display.

    Args:
        name: name as `FLOW/DEPLOYMENT`.
        schedule: its active schedules, or `on demand`.
        following: time of its next run.
        last: state and start of its last run; empty if there is none.
        last_type: type of the state of its last run, such as `CRASHED`.
        note: `paused`, or its origin if prefect.yaml does not declare it; empty otherwise.
        last_start: start of its last run.
        last_success: end of its last completed run.
    """

    name: str
    schedule: str
    following: str
    last: str = ""
    last_type: str = ""
    note: str = ""
    last_start: datetime | None = None
    last_success: datetime | None = None


@dataclass(frozen=True)
class SystemStatus:
    """Status of a system; what only the server knows is empty or None if the server does not answer.

    Args:
        api: address of the Prefect API.
        server: description of the server.
        worker: description of the workers.
        champion: description of the champion.
        deployments: deployments on the server that concern the project.
        runs: last runs.
        attention: what needs attention, one sentence each.
        slots: sentence about when the slot of a dead run is free.
        answers: whether the server answers.
        workers: number of workers online.
        champion_version: version of the champion.
        champion_accuracy: accuracy of the champion on its test images, in 0..1.
        queue: number of runs by what they wait for.
        tables: latest tables, newest first.
        free_bytes: free bytes on the disk of the artifacts.
    """

    api: str | None
    server: str
    worker: str
    champion: str
    deployments: Sequence[Deployment] = ()
    runs: Sequence[Run] = ()
    attention: Sequence[str] = field(default=())
    slots: str = ""
    answers: bool = False
    workers: int = 0
    champion_version: int | None = None
    champion_accuracy: float | None = None
    queue: Queue | None = None
    tables: Sequence[Table] = ()
    free_bytes: int = 0


def read_status(system: System) -> SystemStatus:
    """Read the status of a system from its server, the registry and the disk."""
    found = _observe(system)
    answers = found.access is Access.OPEN
    champion = found.champion if isinstance(found.champion, ModelVersion) else None
    return SystemStatus(
        api=hide_secrets(found.api) if found.api else None,
        server=_describe_server(found.ours) if answers else "not available",
        worker=_describe_workers(found) if answers else "running" if system.worker.record() else "not running",
        champion=_describe_champion(found.champion),
        deployments=[_describe_deployment(one) for one in found.deployments],
        runs=found.recent,
        attention=list_attention(found),
        slots=found.slots if answers else "",
        answers=answers,
        workers=found.workers,
        champion_version=champion.number if champion else None,
        champion_accuracy=champion.facts.accuracy if champion else None,
        queue=found.queue if answers else None,
        tables=latest_tables(system.root, [one.table for one in found.deployments if one.table]),
        free_bytes=found.free,
    )


def _observe(system: System) -> Findings:
    api, ours = system.api()
    access = check_access(api, system.environment(api), seconds=ANSWER_SECONDS) if api else None
    local = Findings(
        access,
        api,
        datetime.now(UTC),
        system.state,
        ours=ours,
        champion=_read_champion(system),
        free=shutil.disk_usage(next(path for path in (system.root, *system.root.parents) if path.exists())).free,
    )
    if access is not Access.OPEN:
        return local
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return observe(client, system, local)


def _describe_server(ours: bool) -> str:
    return f"{'started by digits up' if ours else 'not started by digits up'}, {_database(ours)}"


def _database(ours: bool) -> str:
    if not ours:
        return "database unknown"
    url = os.environ.get("PREFECT_SERVER_DATABASE_CONNECTION_URL") or os.environ.get(
        "PREFECT_API_DATABASE_CONNECTION_URL"
    )
    return "PostgreSQL" if url and url.startswith("postgresql") else "SQLite"


def _describe_workers(found: Findings) -> str:
    names = ", ".join(pool.name for pool in found.pools)
    return f"{found.workers} online in the pool {names}" if found.workers else "none online"


def _describe_deployment(one: DeploymentFacts) -> Deployment:
    is_paused = one.paused or any(not schedule.active for schedule in one.schedules)
    notes = {Origin.REMOVED: "not in prefect.yaml", Origin.FOREIGN: "foreign"}
    return Deployment(
        name=one.name,
        schedule=one.schedule or ON_DEMAND,
        following=show_time(one.following),
        last=f"{one.last.state} {one.last.when}" if one.last else "",
        last_type=one.last.type if one.last else "",
        note=notes.get(one.origin, "paused" if is_paused else ""),
        last_start=one.started,
        last_success=one.completed,
    )


def _read_champion(system: System) -> ModelVersion | DigitsError | None:
    store = Store(system.root)
    try:
        champion = Registry(store).champion()
        if champion and not store.has(model := champion.artifact("onnx")):
            return MissingArtifactError(
                f"the files of the champion, version {champion.number}, are not in {store.path(model)}; restore them "
                "from a backup, or run `digits rollback`"
            )
    except DigitsError as error:
        return error
    return champion


def _describe_champion(champion: ModelVersion | DigitsError | None) -> str:
    if isinstance(champion, ModelVersion):
        facts = champion.facts
        return f"version {champion.number}, {facts.accuracy:.2%} on {' + '.join(facts.datasets)}"
    return "none" if champion is None else "unknown"
