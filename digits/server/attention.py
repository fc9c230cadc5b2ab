"""Attention: sentences about what needs the attention of an operator in a system."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from digits.errors import DigitsError
from digits.server.api import Access, hide_secrets
from digits.store.registry import ModelVersion

LATE = timedelta(minutes=10)
"""Delay after which a scheduled run counts as late."""
SCHEDULER_PERIOD = timedelta(minutes=2)
"""Time after which the server's scheduler has certainly seen a new deployment; it looks for them every minute."""
MIN_FREE_BYTES = 2 * 10**9


@dataclass(frozen=True)
class Run:
    """Flow run, for display.

    Args:
        name: name of the run.
        deployment: its deployment as `FLOW/DEPLOYMENT`; empty if it has none.
        state: name of its Prefect state.
        when: start time.
        message: first line of the message of its state.
    """

    name: str
    deployment: str
    state: str
    when: str
    message: str = ""


@dataclass(frozen=True)
class Findings:
    """Facts about a system that `list_attention` judges.

    Args:
        access: access to the Prefect API; None if there is none.
        api: address of the API.
        workers: number of workers online.
        missing: deployments of prefect.yaml that do not exist on the server.
        failed: last run of each deployment whose last run failed or crashed.
        late: number of scheduled runs that are late.
        unscheduled: deployments with a schedule whose next run the server has not created.
        dead: names of runs that are Running although their process is gone.
        champion: current champion, None if there is none, or the error if the registry cannot be read.
        free: free bytes on the disk of the artifacts.
    """

    access: Access | None
    api: str | None
    workers: int = 0
    missing: Sequence[str] = ()
    failed: Sequence[Run] = ()
    late: int = 0
    unscheduled: Sequence[str] = ()
    dead: Sequence[str] = ()
    champion: "ModelVersion | DigitsError | None" = None
    free: int = MIN_FREE_BYTES


def list_attention(found: Findings) -> list[str]:
    """Return what needs attention, one sentence each, the most serious first."""
    sentences = _api_attention(found)
    if isinstance(found.champion, DigitsError):
        sentences.append(str(found.champion))
    elif found.champion is None:
        sentences.append("there is no champion, so nothing can be predicted; train one with `digits train`")
    if found.free < MIN_FREE_BYTES:
        sentences.append(f"only {found.free / 1e9:.1f} GB are free on the disk of the artifacts; free some space")
    return sentences


def _api_attention(found: Findings) -> list[str]:
    if found.api is None:
        return ["no Prefect server runs here, and none is configured; start one with `digits up`"]
    if found.access is Access.DENIED:
        server = hide_secrets(found.api)
        return [f"the Prefect server at {server} requires another password: set PREFECT_API_AUTH_STRING"]
    if found.access is not Access.OPEN:
        return [f"the Prefect server at {hide_secrets(found.api)} does not answer; start it"]
    sentences = []
    if not found.workers:
        sentences.append("no worker is online, so no run starts; start one with `digits up`")
    if found.missing:
        sentences.append(f"not deployed: {', '.join(found.missing)}; deploy with `digits up`")
    sentences += [f"{run.deployment}: the last run, {run.name}, is {run.state}: {run.message}" for run in found.failed]
    if found.late:
        sentences.append(
            f"{found.late} runs are more than {LATE.seconds // 60} minutes late; check the load of the worker"
        )
    sentences += [
        f"{name} has a schedule, but no scheduled run; check whether the server's scheduler works"
        for name in found.unscheduled
    ]
    sentences += [f"{name} is Running, but its process is gone; end it with `digits janitor`" for name in found.dead]
    return sentences


def is_known_to_scheduler(deployment: Any) -> bool:
    """Check whether the server's scheduler has seen a Prefect deployment since its last change."""
    return deployment.updated is not None and bool(deployment.updated < datetime.now(UTC) - SCHEDULER_PERIOD)


def is_late(run: Any) -> bool:
    """Check whether a scheduled Prefect flow run should have started more than `LATE` ago."""
    return run.expected_start_time is not None and bool(run.expected_start_time < datetime.now(UTC) - LATE)
