"""Queries: what the API of a Prefect server knows about deployments, runs, work pools and workers."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from digits.server.api import PAGE
from digits.server.attention import LATE, MISSED, ActiveRun, Run, Table, show_time
from digits.server.crashes import REMEMBERED, Attempt
from digits.server.dead_runs import ACTIVE, FLOWS, is_dead_run
from digits.server.deployments import flow_names

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, WorkPool

DUE = (*ACTIVE, "COMPLETED", "FAILED", "CRASHED", "CANCELLED")
"""States of runs that are not only scheduled. A run that crashed may never have started."""


class Queries:
    """Queries of one server.

    Args:
        client: client of the server's API.
        deployments: deployments on the server that concern the project, by name.
    """

    def __init__(self, client: "SyncPrefectClient", deployments: Mapping[str, Any]) -> None:
        self._client = client
        self._ids = {name: one.id for name, one in deployments.items()}
        self._names = {number: name for name, number in self._ids.items()}
        self._flow_names = flow_names(client)
        self._flows = sorted({*FLOWS, *(name.partition("/")[0] for name in deployments)})

    def last_run(self, deployment: str) -> "FlowRun | None":
        """Return the last run of a deployment that is due, without cancelled ones."""
        kinds = [kind for kind in DUE if kind != "CANCELLED"]
        return self._first(deployment, "EXPECTED_START_TIME_DESC", state={"type": {"any_": kinds}})

    def last_completed(self, deployment: str) -> "FlowRun | None":
        """Return the last completed run of a deployment, without runs that were skipped."""
        wanted = {"type": {"any_": ["COMPLETED"]}, "name": {"not_any_": ["Skipped"]}}
        return self._first(deployment, "END_TIME_DESC", state=wanted)

    def next_run(self, deployment: str) -> datetime | None:
        """Return the time of the next scheduled run of a deployment."""
        found = self._first(deployment, "NEXT_SCHEDULED_START_TIME_ASC", state={"type": {"any_": ["SCHEDULED"]}})
        return found.expected_start_time if found else None

    def recent(self, count: int) -> list[Run]:
        """Return the last runs, newest first; runs of other projects' deployments are left out."""
        found = self._runs("EXPECTED_START_TIME_DESC", PAGE, state={"type": {"any_": list(DUE)}})
        return [self.show(run) for run in found if self._concerns(run) and _is_due(run)][:count]

    def count_scheduled(self) -> int:
        """Return the number of runs that are scheduled, at most `PAGE`."""
        return len(self._scheduled())

    def count_late(self, now: datetime) -> int:
        """Return the number of runs that are late, at most `PAGE`."""
        return len(self._scheduled(next_scheduled_start_time={"before_": (now - LATE).isoformat()}))

    def active(self) -> Iterator[ActiveRun]:
        """Yield the active runs."""
        for run in self._runs("START_TIME_DESC", PAGE, state={"type": {"any_": list(ACTIVE)}}):
            if run.state is not None and self._concerns(run):
                yield ActiveRun(
                    self.show(run),
                    self._flow(run),
                    since=run.state.timestamp,
                    dead=is_dead_run(run),
                    blocked=self._count_blocked(run),
                )

    def attempts(self, now: datetime, scheduled: Sequence[str]) -> list[Attempt]:
        """Return the runs of the last days that nobody repeats by schedule, newest first.

        Args:
            now: current time.
            scheduled: deployments with a schedule.
        """
        wanted = {
            "expected_start_time": {"after_": (now - REMEMBERED).isoformat()},
            "state": {"type": {"any_": list(DUE)}},
        }
        found = self._runs("EXPECTED_START_TIME_DESC", PAGE, **wanted)
        return [
            Attempt(self.show(run), self._flow(run), run.parameters)
            for run in found
            if self._concerns(run) and _is_due(run) and self._names.get(run.deployment_id) not in scheduled
        ]

    def show(self, run: "FlowRun") -> Run:
        """Return a run for display."""
        state = run.state
        return Run(
            name=run.name,
            deployment=self._names.get(run.deployment_id, ""),
            state=(state.name or "") if state else "?",
            when=show_time(run.start_time or run.expected_start_time),
            message="".join((state.message or "").splitlines()[:1]) if state else "",
            type=state.type.value if state else "",
            id=str(run.id),
        )

    def work_pool(self, name: str) -> "WorkPool | None":
        """Return a work pool; None if it does not exist."""
        from prefect.exceptions import ObjectNotFound

        with suppress(ObjectNotFound):
            return self._client.read_work_pool(name)
        return None

    def heartbeats(self, pool: str) -> dict[str, bool]:
        """Return the workers of a pool by name, and whether each is online by its last heartbeat."""
        from prefect.client.schemas.objects import WorkerStatus

        found = self._client.read_workers_for_work_pool(pool)
        return {worker.name: worker.status is WorkerStatus.ONLINE for worker in found}

    def written_table(self, deployment: str) -> Table | None:
        """Return the last table that a deployment announced by an event; None if there is no such event."""
        from prefect.events.filters import EventFilter

        related = {"id": [f"prefect.deployment.{self._ids[deployment]}"]}
        wanted = EventFilter.model_validate({"event": {"name": ["digits.predictions.written"]}, "related": related})
        with suppress(LookupError, TypeError):
            event = self._client.read_events(wanted, limit=1).events[0]
            return Table(
                path=event.resource["prefect.resource.name"],
                deployment=deployment,
                images=event.payload["images"],
                statuses=event.payload["statuses"],
                written=event.occurred,
                model_version=event.payload["model_version"],
            )
        return None

    def lease_seconds(self) -> float | None:
        """Return the seconds after which the server frees the slot of a dead run; None if it does not tell."""
        from prefect.exceptions import PrefectHTTPStatusError

        with suppress(PrefectHTTPStatusError, LookupError, TypeError, ValueError):
            settings = self._client.request("GET", "/admin/settings").json()
            return float(settings["server"]["concurrency"]["initial_deployment_lease_duration"])
        return None

    def _count_blocked(self, run: "FlowRun") -> int:
        """Return the number of scheduled runs of the same deployment that a run kept from working since it began."""
        if run.deployment_id is None or run.state is None:
            return 0
        since = {"after_": (run.start_time or run.state.timestamp).isoformat()}
        wanted = {"state": {"name": {"any_": ["Cancelled", "Skipped"]}}, "expected_start_time": since}
        found = self._runs("EXPECTED_START_TIME_DESC", PAGE, deployment_id={"any_": [run.deployment_id]}, **wanted)
        return sum(one.auto_scheduled for one in found)

    def _concerns(self, run: "FlowRun") -> bool:
        return run.deployment_id is None or run.deployment_id in self._names

    def _flow(self, run: "FlowRun") -> str:
        return self._names.get(run.deployment_id, "").partition("/")[0] or self._flow_names.get(run.flow_id, "")

    def _first(self, deployment: str, order: str, **wanted: Any) -> "FlowRun | None":
        found = self._runs(order, 1, deployment_id={"any_": [self._ids[deployment]]}, **wanted)
        return found[0] if found else None

    def _scheduled(self, **wanted: Any) -> "list[FlowRun]":
        chosen = {"deployment_id": {"any_": list(self._ids.values())}, "state": {"type": {"any_": ["SCHEDULED"]}}}
        return self._runs("NEXT_SCHEDULED_START_TIME_ASC", PAGE, **chosen, **wanted) if self._ids else []

    def _runs(self, order: str, limit: int, **wanted: Any) -> "list[FlowRun]":
        from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter
        from prefect.client.schemas.sorting import FlowRunSort

        return self._client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=self._flows)),
            flow_run_filter=FlowRunFilter.model_validate(wanted),
            sort=FlowRunSort(order),
            limit=limit,
        )


def _is_due(run: "FlowRun") -> bool:
    """Check that a run is not one that was cancelled because another one held the slot."""
    return run.start_time is not None or (run.state is not None and not run.state.is_cancelled())


def count_missed(schedules: Sequence[Any], since: datetime, until: datetime) -> int:
    """Return how often Prefect schedules came due between two times, at most `MISSED`."""
    from prefect.server.schemas import schedules as kinds

    found = 0
    for one in schedules:
        kind = getattr(kinds, type(one).__name__, None)
        if kind is not None:  # a schedule without dates
            dates = kind.model_validate(one.model_dump()).get_dates(n=MISSED, start=since, end=until)
            found += len(asyncio.run(dates))
    return min(found, MISSED)
