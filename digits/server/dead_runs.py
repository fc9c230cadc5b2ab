"""Dead runs: runs that are not ended although nobody works on them, which are set to Crashed.

An automation of deploy/automations.yaml does this for runs of deployments that send no heartbeats, on any machine. This
module adds what it cannot do: it finds runs that died before they started and, at once, dead runs of this machine.
Therefore each run records its process in a label.
"""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from digits.maintenance.processes import is_alive, this_process
from digits.server.api import read_pages

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

FLOWS = ("train", "tune", "rollback", "predict", "janitor")
LABEL = "digits.process"
TAG = "digits"
"""Tag of the deployments of Digits, and of their runs."""
UNSTARTED_SECONDS = 3600
"""Seconds after which a run of a deployment counts as dead if it has not started. Its slot is free earlier."""
ACTIVE = ("RUNNING", "PENDING", "CANCELLING")
"""Prefect's types of the states of a run that is neither scheduled nor ended."""
logger = logging.getLogger(__name__)


def is_dead(state: str, age: float, *, alive: bool | None, tagged: bool, labelled: bool) -> bool:
    """Check whether nobody works on a run.

    Args:
        state: Prefect's type of its state, such as `RUNNING`.
        age: seconds since it entered that state.
        alive: whether its process is running; None if this is unknown on this machine.
        tagged: whether it is a run of a deployment of Digits.
        labelled: whether it has recorded its process.
    """
    if state not in ACTIVE:
        return False
    if labelled:
        return alive is False
    return tagged and state != "RUNNING" and age > UNSTARTED_SECONDS


def label_run() -> None:
    """Record the process of the current flow run in a label, so that others on this machine can look for it."""
    from prefect.client.orchestration import get_client
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    if context and context.flow_run:
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(context.flow_run.id, {LABEL: this_process()})


def sweep_dead_runs() -> list[str]:
    """Set dead runs to Crashed, or to Cancelled if they were being cancelled; return their names."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return [run.name for run in list(_active_runs(client)) if is_dead_run(run) and _end(client, run)]


def is_dead_run(run: "FlowRun") -> bool:
    """Look for the process of a run, and check whether nobody works on the run."""
    if run.state is None:
        return False
    process = run.labels.get(LABEL)
    began = run.start_time or run.state.timestamp
    alive = is_alive(str(process), marker=f"FLOW_RUN_ID={run.id}", since=began.timestamp()) if process else None
    age = (datetime.now(UTC) - run.state.timestamp).total_seconds()
    return is_dead(run.state.type.value, age, alive=alive, tagged=TAG in run.tags, labelled=bool(process))


def ended_badly(run: "FlowRun") -> bool:
    """Check whether a run failed or crashed."""
    return run.state is not None and run.state.type.value in ("FAILED", "CRASHED")


def _active_runs(client: "SyncPrefectClient") -> Iterator["FlowRun"]:
    """Return the runs that are running, pending or being cancelled."""
    from prefect.client.schemas.filters import FlowRunFilter

    chosen = FlowRunFilter.model_validate({"state": {"type": {"any_": list(ACTIVE)}}})
    return read_pages(client.read_flow_runs, flow_run_filter=chosen)


def _end(client: "SyncPrefectClient", run: "FlowRun") -> bool:
    """Read the run again, and end it if its state is unchanged and it is still dead; return whether it was ended.

    Prefect allows no state but Cancelled after Cancelling.
    """
    from prefect.states import Cancelled, Crashed

    now = client.read_flow_run(run.id)
    if now.state is None or run.state is None or now.state.id != run.state.id or not is_dead_run(now):
        return False
    process = now.labels.get(LABEL, "which never started")
    reason = f"the process of this run ({process}) is gone; the next run resumes its work"
    end = Cancelled if now.state.is_cancelling() else Crashed
    client.set_flow_run_state(run.id, end(message=reason))
    logger.warning("%s: %s", now.name, reason)
    return True
