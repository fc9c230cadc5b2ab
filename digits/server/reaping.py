"""Runs that claim to be at work while their process is gone: found, looked at once more, and set to Crashed.

A worker that is killed with its runs can't report them: they stay Running, and hold the slot of their deployment.
"""

import logging
from collections.abc import Iterator
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
"""After which a run that has not said which process it is will not any more: its first act is to say so."""
_PAGE = 200
_AT_WORK = ("RUNNING", "PENDING", "CANCELLING")
logger = logging.getLogger(__name__)


class Verdict(Enum):
    """What is to be done about a run that claims to be at work."""

    LEAVE = "its process is there"
    CRASH = "its process is gone"
    UNKNOWN = "its process can't be seen from here"


def judge(state: str, age: float, *, labelled: bool, alive: bool | None) -> Verdict:
    """Decide about a run.

    Args:
        state: that it claims.
        age: seconds for which it has.
        labelled: whether it has said which process it is.
        alive: whether that process is there; None: it can't be seen.
    """
    if state not in _AT_WORK or alive:
        return Verdict.LEAVE
    if not labelled:
        return Verdict.CRASH if age > UNLABELLED_SECONDS else Verdict.LEAVE
    return Verdict.UNKNOWN if alive is None else Verdict.CRASH


def label_run() -> None:
    """Say which process the flow run is, so that others can tell whether it is there."""
    from prefect.client.orchestration import get_client
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    if context and context.flow_run:
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(context.flow_run.id, {LABEL: this_process()})


def reap() -> list[dict[str, object]]:
    """Set the runs to Crashed whose process is gone; give a row for each, and for each that can't be judged."""
    from prefect.client.orchestration import get_client

    rows: list[dict[str, object]] = []
    with get_client(sync_client=True) as client:
        for run in list(runs_at_work(client)):
            verdict = verdict_on(run)
            if verdict is Verdict.CRASH and (row := _crash(client, run)):
                rows.append(row)
            elif verdict is Verdict.UNKNOWN:
                rows.append({"what": "left", "which": run.name, "why": verdict.value})
    return rows


def runs_at_work(client: "SyncPrefectClient") -> Iterator["FlowRun"]:
    """Give the runs of our flows that claim to be at work."""
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter

    chosen = FlowRunFilter.model_validate({"state": {"type": {"any_": list(_AT_WORK)}}})
    offset = 0
    while page := client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=list(FLOWS))),
        flow_run_filter=chosen,
        limit=_PAGE,
        offset=offset,
    ):
        yield from page
        offset += len(page)


def verdict_on(run: "FlowRun") -> Verdict:
    """Look for a run's process, and decide."""
    if run.state is None:
        return Verdict.LEAVE
    process = run.labels.get(LABEL)
    began = run.start_time or run.state.timestamp
    alive = process and is_alive(str(process), marker=f"FLOW_RUN_ID={run.id}", since=began.timestamp())
    age = (datetime.now(UTC) - run.state.timestamp).total_seconds()
    return judge(run.state.type.value, age, labelled=bool(process), alive=alive if isinstance(alive, bool) else None)


def _crash(client: "SyncPrefectClient", run: "FlowRun") -> dict[str, object] | None:
    """Read the run again, and set it to Crashed if it still is where it was and its process still gone."""
    from prefect.states import Crashed

    now = client.read_flow_run(run.id)
    if now.state is None or run.state is None or now.state.id != run.state.id or verdict_on(now) is not Verdict.CRASH:
        return None
    why = f"the process of this run ({now.labels.get(LABEL, 'which never began')}) is gone; the next run goes on"
    client.set_flow_run_state(run.id, Crashed(message=why))
    logger.warning("%s: set to Crashed, since %s", now.name, why)
    return {"what": "crashed", "which": now.name, "why": why}


def is_bad(run: "FlowRun") -> bool:
    """Tell whether a run ended as none should."""
    return run.state is not None and run.state.type.value in ("FAILED", "CRASHED")
