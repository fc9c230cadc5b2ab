"""Attention: what in a system's state needs a person, as sentences."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from digits.errors import DigitsError
from digits.server.api import Access, shown
from digits.store.registry import ModelVersion

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


def is_old(deployment: Any) -> bool:
    """Tell whether the scheduler has had the time to see a deployment: it looks every minute."""
    return deployment.updated is not None and bool(deployment.updated < datetime.now(UTC) - SCHEDULER)


def is_late(run: Any) -> bool:
    """Check whether a run that has not started should have started more than `LATE` ago."""
    return run.expected_start_time is not None and bool(run.expected_start_time < datetime.now(UTC) - LATE)
