"""Attention: sentences about what needs the attention of an operator in a system.

`digits.server.status` gathers the findings from the server and the disk. This module only judges them.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from digits.errors import DigitsError
from digits.server.api import Access, hide_secrets
from digits.server.server_settings import HEARTBEAT_SECONDS, LEASE_SECONDS
from digits.server.services import POOL
from digits.status import PREDICTED
from digits.store.registry import ModelVersion
from digits.wording import choose, count

LATE = timedelta(minutes=10)
"""Delay after which a scheduled run counts as late."""
MISSED = 2
"""Number of times of a schedule that pass without a completed run until the deployment counts as stale."""
SCHEDULER_PERIOD = timedelta(minutes=2)
"""Time after which the server's scheduler has certainly seen a new deployment; it looks for them every minute."""
STARTING = timedelta(minutes=15)
"""Longest plausible time in which a run is Pending or Cancelling; meanwhile it holds a slot."""
TIME_LIMITS: Mapping[str, timedelta] = {
    "train": timedelta(hours=12),
    "tune": timedelta(days=7),
    "rollback": timedelta(minutes=10),
    "predict": timedelta(hours=24),
    "janitor": timedelta(hours=1),
}
"""Time limit of each flow; a run that is still Running afterwards has not obeyed it."""
TOLERANCE = timedelta(minutes=10)
"""Time after its limit in which a run may still be ending."""
MAX_BLOCKED = 3
"""Number of scheduled runs that were cancelled or skipped because of an active run until it counts as blocking."""
FREED = timedelta(seconds=HEARTBEAT_SECONDS + LEASE_SECONDS)
"""Longest time after which a server that `digits up` started frees the slot of a dead run."""
SILENT = timedelta(minutes=2)
"""Time after its start in which a worker has certainly registered at the server."""
RESTART = "then run `digits down` and `digits up`"
MIN_FREE_BYTES = 2 * 10**9


class Origin(StrEnum):
    """Origin of a deployment: declared in prefect.yaml, removed from it, or foreign to the project."""

    DECLARED = "declared"
    REMOVED = "removed"
    FOREIGN = "foreign"


@dataclass(frozen=True)
class Run:
    """Flow run, for display.

    Args:
        name: name of the run.
        deployment: its deployment as `FLOW/DEPLOYMENT`; empty if it has none.
        state: name of its Prefect state.
        when: start time.
        message: first line of the message of its state.
        type: type of its Prefect state, such as `CRASHED`.
        id: ID of the run.
    """

    name: str
    deployment: str
    state: str
    when: str
    message: str = ""
    type: str = ""
    id: str = ""


@dataclass(frozen=True)
class ActiveRun:
    """Flow run that is running, pending or being cancelled; it holds the slot of its deployment until its lease ends.

    Args:
        run: the run.
        flow: name of its flow.
        since: time at which it entered its state.
        dead: whether its process is gone.
        blocked: number of scheduled runs of its deployment that were cancelled or skipped meanwhile.
    """

    run: Run
    flow: str
    since: datetime
    dead: bool = False
    blocked: int = 0


@dataclass(frozen=True)
class CrashedRun:
    """On-demand run that crashed and was not repeated since, and the command that continues it, in backticks."""

    run: Run
    command: str


@dataclass(frozen=True)
class Table:
    """Latest table of a deployment.

    Args:
        path: path of the table.
        deployment: deployment that wrote it, as `FLOW/DEPLOYMENT`; empty if unknown.
        images: number of rows.
        statuses: number of rows per status.
        written: time at which it was written.
        model_version: model version that wrote it.
        drift: population stability index of each feature.
        drifted: features that drifted from the baseline of the table.
    """

    path: str
    deployment: str
    images: int
    statuses: Mapping[str, int]
    written: datetime
    model_version: int
    drift: Mapping[str, float] = field(default_factory=dict)
    drifted: Sequence[str] = ()

    @property
    def failed(self) -> dict[str, int]:
        """Number of images without a prediction, per status."""
        return {status: count for status, count in self.statuses.items() if status not in PREDICTED and count}


@dataclass(frozen=True)
class Schedule:
    """Schedule of a deployment on the server: its ID, its text for display, and whether it is active."""

    id: str
    text: str
    active: bool = True


@dataclass(frozen=True)
class DeploymentFacts:
    """Facts about a deployment on the server.

    Args:
        name: name as `FLOW/DEPLOYMENT`.
        origin: origin of the deployment.
        id: ID of the deployment.
        pool: name of its work pool.
        is_scheduled: whether prefect.yaml has an active schedule for it.
        paused: whether the whole deployment is paused.
        schedules: its schedules.
        updated: time of its last change; None if unknown.
        following: time of its next scheduled run; None if there is none.
        last: its last run that has begun; None if there is none.
        started: start of its last run.
        completed: end of its last completed run; None if none has completed.
        deployed: time at which it was created.
        missed: number of times, at most `MISSED`, at which it should have run since `completed` and the last change of
            its schedules.
        active: whether one of its runs is active.
        table: its latest table; None if it has none, or it is unknown here.
    """

    name: str
    origin: Origin = Origin.DECLARED
    id: str = ""
    pool: str = POOL
    is_scheduled: bool = False
    paused: bool = False
    schedules: Sequence[Schedule] = ()
    updated: datetime | None = None
    following: datetime | None = None
    last: Run | None = None
    started: datetime | None = None
    completed: datetime | None = None
    deployed: datetime | None = None
    missed: int = 0
    active: bool = False
    table: Table | None = None

    @property
    def schedule(self) -> str:
        """Active schedules, for display; empty if there are none."""
        return "" if self.paused else ", ".join(one.text for one in self.schedules if one.active)


@dataclass(frozen=True)
class Pool:
    """Work pool of the deployments.

    Args:
        name: name of the pool.
        workers: number of workers online; None if the pool does not exist.
        paused: whether the pool is paused.
        silent: whether its worker that `digits up` started runs, but the server has not heard from it.
    """

    name: str
    workers: int | None
    paused: bool = False
    silent: bool = False


@dataclass(frozen=True)
class Queue:
    """Number of runs that are scheduled, late, pending and running."""

    scheduled: int = 0
    late: int = 0
    pending: int = 0
    running: int = 0


@dataclass(frozen=True)
class Findings:
    """Facts about a system that `list_attention` judges.

    Args:
        access: access to the Prefect API; None if there is none.
        api: address of the API.
        now: time at which the facts were gathered.
        state: state directory, with the logs of the server and the worker.
        ours: whether `digits up` started the server, and its process runs.
        lease: seconds after which the server frees the slot of a dead run; None if unknown.
        pools: work pools that the deployments use.
        missing: deployments and enabled automations of the project that do not exist on the server.
        disabled: automations that the project enables, but that are disabled on the server.
        deployments: deployments on the server.
        queue: number of runs by what they wait for.
        active: active runs.
        recent: last runs.
        crashed: on-demand runs that crashed.
        problems: errors that prevented a part of the status, as sentences.
        champion: current champion, None if there is none, or the error if the registry cannot be read.
        free: free bytes on the disk of the artifacts.
    """

    access: Access | None
    api: str | None
    now: datetime
    state: Path
    ours: bool = False
    lease: float | None = None
    pools: Sequence[Pool] = ()
    missing: Sequence[str] = ()
    disabled: Sequence[str] = ()
    deployments: Sequence[DeploymentFacts] = ()
    queue: Queue = Queue()
    active: Sequence[ActiveRun] = ()
    recent: Sequence[Run] = ()
    crashed: Sequence[CrashedRun] = ()
    problems: Sequence[str] = ()
    champion: ModelVersion | DigitsError | None = None
    free: int = MIN_FREE_BYTES

    @property
    def workers(self) -> int:
        """Number of workers online."""
        return sum(pool.workers or 0 for pool in self.pools)

    @property
    def slots(self) -> str:
        """Sentence about when the slot of a dead run is free."""
        if self.ours:
            return f"the slot of a dead run is free after at most {FREED.seconds // 60} minutes"
        after = f", after {self.lease:.0f} s" if self.lease else ""
        return (
            f"the slot of a dead run is free only when its lease ends{after}, as `digits up` did not start the server"
        )


def list_attention(found: Findings) -> list[str]:
    """Return what needs attention, one sentence each, the most serious first."""
    return [*_judge_server(found), *found.problems, *_judge_root(found)]


def _judge_server(found: Findings) -> Iterator[str]:
    if found.api is None:
        yield "no Prefect server runs here, and none is configured; start one with `digits up`"
    elif found.access is Access.DENIED:
        server = hide_secrets(found.api)
        yield f"the Prefect server at {server} requires another password: set PREFECT_API_AUTH_STRING"
    elif found.access is not Access.OPEN:
        yield _describe_silence(found)
    else:
        yield from _judge_parts(found)


def _describe_silence(found: Findings) -> str:
    server = f"the Prefect server at {hide_secrets(found.api or '')}"
    if found.ours:
        log = found.state / "server.log"
        return f"{server} runs, but does not answer; see {log}, {RESTART}"
    return f"{server} does not answer; start it"


def _judge_parts(found: Findings) -> Iterator[str]:
    """Yield sentences about pools, deployments and runs."""
    for pool in found.pools:
        yield from _judge_pool(pool, found.state)
    if found.missing:
        yield f"not deployed: {', '.join(found.missing)}; deploy with `digits up`"
    for name in found.disabled:
        yield (
            f"the automation {name} is disabled; enable it with `prefect automation resume {shlex.quote(name)}`, or "
            "set `enabled: false` in deploy/automations.yaml"
        )
    for run in found.active:
        yield from _judge_active(run, found)
    reported = {one.run.id for one in found.crashed}
    for one in found.deployments:
        yield from _judge_origin(one)
        if one.origin is not Origin.FOREIGN:
            yield from _judge_schedules(one, found.now)
            yield from _judge_results(one, reported, can_predict=found.champion is not None)
    if found.queue.late:
        runs = count(found.queue.late, "run is", "runs are")
        yield f"{runs} more than {LATE.seconds // 60} minutes late; check the load of the worker"
    for crashed in found.crashed:
        yield f"{crashed.run.name} crashed at {crashed.run.when}; continue it with {crashed.command}"


def _judge_pool(pool: Pool, state: Path) -> Iterator[str]:
    name = shlex.quote(pool.name)
    ours = pool.name == POOL
    if pool.workers is None:
        remedy = "digits up" if ours else f"prefect work-pool create --type process {name}"
        yield f"the server has no work pool {pool.name}, so no run of it starts; create it with `{remedy}`"
        return
    if pool.paused:
        yield (
            f"the work pool {pool.name} is paused, so no run of it starts; resume it with "
            f"`prefect work-pool resume {name}`"
        )
    if not pool.workers:
        remedy = "digits up" if ours else f"prefect worker start --pool {name}"
        yield f"no worker is online in the work pool {pool.name}, so no run of it starts; start one with `{remedy}`"
    if pool.silent:
        log = state / "worker.log"
        yield f"the worker runs, but the server has not heard from it; see {log}, {RESTART}"


def _judge_active(active: ActiveRun, found: Findings) -> Iterator[str]:
    run, since, age = active.run, show_time(active.since), found.now - active.since
    lost = found.ours and run.type == "PENDING" and age > FREED
    holds = f" and holds the slot of {run.deployment}" if run.deployment and not lost else ""
    cancel = f"cancel it with `prefect flow-run cancel {run.id}`"
    if active.dead:
        lease = f"; {found.slots}" if run.deployment and not found.ours else ""
        yield f"{run.name} is {run.state}{holds}, but its process is gone; end it with `digits janitor`{lease}"
    elif run.type in ("PENDING", "CANCELLING") and age > STARTING:
        what = "no worker starts it" if run.type == "PENDING" else "no worker ends it"
        yield (
            f"{run.name} has been {run.state} since {since}{holds}, so {what}; delete it with "
            f"`prefect flow-run delete {run.id}`"
        )
    elif run.type == "RUNNING" and age > TIME_LIMITS.get(active.flow, age) + TOLERANCE:
        limit = TIME_LIMITS[active.flow] / timedelta(hours=1)
        yield f"{run.name} has been {run.state} since {since}{holds}, longer than its limit of {limit:.3g} h; {cancel}"
    elif active.blocked >= MAX_BLOCKED and not lost:
        yield (
            f"{run.name} has been {run.state} since {since}{holds}: {active.blocked} scheduled runs were cancelled or "
            f"skipped meanwhile; wait for its end, or {cancel}"
        )


def _judge_origin(one: DeploymentFacts) -> Iterator[str]:
    if one.origin is Origin.REMOVED:
        yield (
            f"{one.name} is deployed, but no longer in prefect.yaml; remove it with `digits up --prune`, or add it to "
            "prefect.yaml again"
        )
    elif one.origin is Origin.FOREIGN:
        yield (
            f"{one.name} is not in prefect.yaml, but uses the work pool {one.pool}, so its code runs in the worker of "
            f"Digits; add it to prefect.yaml, or delete it with `prefect deployment delete {shlex.quote(one.name)}`"
        )


def _judge_schedules(one: DeploymentFacts, now: datetime) -> Iterator[str]:
    name = shlex.quote(one.name)
    paused = [schedule for schedule in one.schedules if not schedule.active]
    if one.paused:
        yield (
            f"{one.name} is paused, so no run starts automatically; resume it with "
            f"`prefect api POST /deployments/{one.id}/resume_deployment`"
        )
    elif one.is_scheduled and not one.schedules:
        yield f"{one.name} has a schedule in prefect.yaml, but none on the server; deploy it with `digits up`"
    elif one.is_scheduled and paused:
        yield (
            f"{one.name}: its schedule is paused, so no run starts automatically; resume it with "
            f"`prefect deployment schedule resume {name} {paused[0].id}`, or set `active: false` in prefect.yaml"
        )
    elif one.schedule and not one.following and _is_known_to_scheduler(one, now):
        yield f"{one.name} has a schedule, but no scheduled run; check whether the server's scheduler works"


def _judge_results(one: DeploymentFacts, reported: set[str], *, can_predict: bool) -> Iterator[str]:
    """Yield sentences about the last run of a deployment and its table.

    Args:
        one: deployment.
        reported: IDs of the runs that have a sentence of their own.
        can_predict: whether there is a champion; without one, predictions are skipped, which has its own sentence.
    """
    is_stale = one.missed >= MISSED and bool(one.schedule) and not one.active
    if one.last and one.last.type in ("FAILED", "CRASHED"):
        if one.last.id not in reported:
            yield f"{one.name}: the last run, {one.last.name}, is {one.last.state}: {one.last.message}"
    elif is_stale and (can_predict or not one.name.startswith("predict/")):
        yield _describe_age(one)
    if one.table and one.table.failed:
        yield _describe_failures(one.name, one.table)


def _describe_age(one: DeploymentFacts) -> str:
    since = show_time(one.completed or one.deployed)
    what = f"the table {one.table.path} was not refreshed" if one.table else "no run has completed"
    return (
        f"{one.name}: {what} since {since}, although its schedule ({one.schedule}) came due; start a run with "
        f"`prefect deployment run {shlex.quote(one.name)}`, and read its log"
    )


def _describe_failures(name: str, table: Table) -> str:
    counts = ", ".join(f"{count:,} {status}" for status, count in table.failed.items())
    total = sum(table.failed.values())
    return (
        f"{name}: {total:,} of {count(table.images, 'image')} in {table.path} {choose(total, 'has', 'have')} no "
        f"prediction ({counts}); its column `error` has the reasons"
    )


def _judge_root(found: Findings) -> Iterator[str]:
    if isinstance(found.champion, DigitsError):
        yield str(found.champion)
    elif found.champion is None:
        yield "there is no champion, so nothing can be predicted; train one with `digits train`"
    if found.free < MIN_FREE_BYTES:
        yield f"only {found.free / 1e9:.1f} GB are free on the disk of the artifacts; free some space"


def _is_known_to_scheduler(one: DeploymentFacts, now: datetime) -> bool:
    """Check whether the server's scheduler has seen a deployment since its last change."""
    return one.updated is not None and one.updated < now - SCHEDULER_PERIOD


def show_time(moment: datetime | None) -> str:
    """Return a time for display, in the local time zone; empty if there is none."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M") if moment else ""
