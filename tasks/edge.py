"""What every task needs at the edge between Prefect and the library: the store, the log, the progress, the events."""

import logging
import time
from pathlib import Path
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event
from prefect.logging.handlers import APILogHandler

from digits.progress import Bar, Progress, current_progress
from digits.settings import artifact_root
from digits.store.artifacts import Store

SECONDS_BETWEEN_UPDATES = 2.0
library_log = logging.getLogger("digits")


class _PublishedBar:
    """A bar in the UI's progress artifact, and a line in the log when it is over."""

    def __init__(self, artifact: UUID, label: str, total: int, part: tuple[int, int]) -> None:
        self._artifact, self._label, self._total, self._part = artifact, label, max(total, 1), part
        self._done = 0
        self._told = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:  # noqa: ARG002 - a progress artifact shows a share only
        self._done += steps
        if time.monotonic() - self._told > SECONDS_BETWEEN_UPDATES:
            self._tell(min(self._done / self._total, 1))

    def close(self, note: str = "") -> None:
        self._tell(1)
        library_log.info("%s: %s", self._label, note or "done")

    def _tell(self, share: float) -> None:
        number, count = self._part
        update_progress_artifact(self._artifact, progress=100 * (number + share) / count)
        self._told = time.monotonic()


class PublishedProgress:
    """A live progress artifact in the Prefect UI for a task's work, all its parts together.

    Args:
        key: of the Prefect artifact.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._artifact: UUID | None = None

    def start(self, label: str, total: int, *, part: tuple[int, int] = (0, 1)) -> Bar:
        """Begin a piece of work."""
        number, count = part
        if self._artifact is None:
            self._artifact = cast(
                "UUID", create_progress_artifact(100 * number / count, key=self._key, description=label)
            )
        return _PublishedBar(self._artifact, label, total, part)


def progress_for(key: str) -> Progress:
    """Return where a task reports its progress: `current_progress`, or a Prefect artifact of this key."""
    return current_progress.get() or PublishedProgress(key)


def log_to_run() -> None:
    """Have the library's log go to the run's log; in each process that runs tasks."""
    library_log.setLevel(logging.INFO)
    if not any(isinstance(handler, APILogHandler) for handler in library_log.handlers):
        handler = APILogHandler()
        handler.addFilter(lambda _: FlowRunContext.get() is not None or TaskRunContext.get() is not None)
        library_log.addHandler(handler)


def open_store(root: Path | None) -> Store:
    """Open the artifact store at a root, or at the configured one, with the library's log going to the run's log."""
    log_to_run()
    return Store(artifact_root(root))


def tell(event: str, resource: str, name: str, **payload: object) -> None:
    """Emit a Prefect event; docs/operations.md lists them.

    Args:
        event: such as `digits.model.promoted`.
        resource: the identifier of what it is about, such as `digits.model.7`.
        name: of the resource, for people.
        payload: JSON values.
    """
    emit_event(event, resource={"prefect.resource.id": resource, "prefect.resource.name": name}, payload=payload)
