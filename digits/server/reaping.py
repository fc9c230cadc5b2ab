"""Reaping: detection of runs that are Running although their process is gone, which are set to Crashed.

If a worker is killed together with its runs, nobody reports the end of the runs. They stay Running and block further
runs of their deployment. Therefore each run records its process in a label, so that others on the same machine can
check it.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING

from digits.maintenance.processes import is_alive, this_process

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

FLOWS = ("train", "tune", "rollback", "predict", "janitor")
LABEL = "digits.process"
UNLABELLED_SECONDS = 15 * 60
"""Seconds after which a run without the label counts as dead; a run sets its label as soon as it starts."""
_PAGE = 200
_ACTIVE = ("RUNNING", "PENDING", "CANCELLING")
logger = logging.getLogger(__name__)


class Verdict(Enum):
    """Verdict on an active run; its value is the reason."""

    LEAVE = "its process is running"
    CRASH = "its process is gone"
    UNKNOWN = "its process is on another machine, so it cannot be checked from here"


@dataclass(frozen=True)
class ReapedRun:
    """Flow run that was set to Crashed, or left as it is because its process is on another machine.

    Args:
        name: name of the flow run.
        crashed: whether it was set to Crashed.
        reason: reason why it was set to Crashed, or left.
    """

    name: str
    crashed: bool
    reason: str


def judge(state: str, age: float, *, labelled: bool, alive: bool | None) -> Verdict:
    """Return the verdict on a run.

    Args:
        state: Prefect's type of the state, such as `RUNNING`.
        age: seconds since the run entered that state.
        labelled: whether the run has recorded its process.
        alive: whether that process is running; None if this is unknown on this machine.
    """
    if state not in _ACTIVE or alive:
        return Verdict.LEAVE
    if not labelled:
        return Verdict.CRASH if age > UNLABELLED_SECONDS else Verdict.LEAVE
    return Verdict.UNKNOWN if alive is None else Verdict.CRASH


def label_run() -> None:
    """Record the process of the current flow run in a label, so that `reap_runs` can check it."""
    from prefect.client.orchestration import get_client
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    if context and context.flow_run:
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(context.flow_run.id, {LABEL: this_process()})


def reap_runs() -> list[ReapedRun]:
    """Set runs whose process is gone to Crashed; return them, and the runs whose process is on another machine."""
    from prefect.client.orchestration import get_client

    reaped = []
    with get_client(sync_client=True) as client:
        for run in list(active_runs(client)):
            verdict = judge_run(run)
            if verdict is Verdict.CRASH and (crashed := _crash(client, run)):
                reaped.append(crashed)
            elif verdict is Verdict.UNKNOWN:
                reaped.append(ReapedRun(run.name, crashed=False, reason=verdict.value))
    return reaped


def active_runs(client: "SyncPrefectClient") -> Iterator["FlowRun"]:
    """Yield the runs of the project's flows that are running, pending or being cancelled."""
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter

    chosen = FlowRunFilter.model_validate({"state": {"type": {"any_": list(_ACTIVE)}}})
    offset = 0
    while page := client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=list(FLOWS))),
        flow_run_filter=chosen,
        limit=_PAGE,
        offset=offset,
    ):
        yield from page
        offset += len(page)


def judge_run(run: "FlowRun") -> Verdict:
    """Look for the process of a run, and return the verdict on the run."""
    if run.state is None:
        return Verdict.LEAVE
    process = run.labels.get(LABEL)
    began = run.start_time or run.state.timestamp
    alive = process and is_alive(str(process), marker=f"FLOW_RUN_ID={run.id}", since=began.timestamp())
    age = (datetime.now(UTC) - run.state.timestamp).total_seconds()
    return judge(run.state.type.value, age, labelled=bool(process), alive=alive if isinstance(alive, bool) else None)


def ended_badly(run: "FlowRun") -> bool:
    """Check whether a run failed or crashed."""
    return run.state is not None and run.state.type.value in ("FAILED", "CRASHED")


def _crash(client: "SyncPrefectClient", run: "FlowRun") -> ReapedRun | None:
    """Read the run again, and set it to Crashed if its state is unchanged and its process is still gone."""
    from prefect.states import Crashed

    now = client.read_flow_run(run.id)
    if now.state is None or run.state is None or now.state.id != run.state.id or judge_run(now) is not Verdict.CRASH:
        return None
    process = now.labels.get(LABEL, "never started")
    reason = f"the process of this run ({process}) is gone; the next run resumes its work"
    client.set_flow_run_state(run.id, Crashed(message=reason))
    logger.warning("%s: set to Crashed: %s", now.name, reason)
    return ReapedRun(now.name, crashed=True, reason=reason)
