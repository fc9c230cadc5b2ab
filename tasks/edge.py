"""Edge: the connection of the library to Prefect that all tasks share: store, log, progress and events."""

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event
from prefect.logging.handlers import APILogHandler

from digits.progress import SILENT, Bar, Progress, current_progress
from digits.run_log import is_part_shown
from digits.settings import artifact_root, root_name
from digits.store.artifacts import Store

SECONDS_BETWEEN_UPDATES = 2.0
library_log = logging.getLogger("digits")


class _PublishedBar:
    """Bar that updates a progress artifact in the Prefect UI, and writes lines about some of its parts to the log."""

    def __init__(self, artifact: UUID, label: str, total: int, part: tuple[int, int]) -> None:
        self._artifact, self._label, self._total, self._part = artifact, label, max(total, 1), part
        self._done = 0
        self._updated = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:  # noqa: ARG002 - a progress artifact has no text
        self._done += steps
        if time.monotonic() - self._updated > SECONDS_BETWEEN_UPDATES:
            self._update(min(self._done / self._total, 1))

    def close(self, note: str = "") -> None:
        self._update(1)
        if note and is_part_shown(*self._part):
            library_log.info("%s: %s", self._label, note)

    def _update(self, share: float) -> None:
        number, count = self._part
        update_progress_artifact(self._artifact, progress=100 * (number + share) / count)
        self._updated = time.monotonic()


class PublishedProgress:
    """Progress of a task as a progress artifact in the Prefect UI, one for all parts of the work.

    Args:
        key: key of the Prefect artifact.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._artifact: UUID | None = None

    def start(self, label: str, total: int, *, part: tuple[int, int] = (0, 1)) -> Bar:
        """Start a part of the work; see `digits.progress.Progress.start`."""
        number, count = part
        if self._artifact is None:
            self._artifact = cast(
                "UUID", create_progress_artifact(100 * number / count, key=self._key, description=label)
            )
        return _PublishedBar(self._artifact, label, total, part)


def artifact_key(kind: str, root: Path | None) -> str:
    """Return the key of a Prefect artifact: its kind and the name of the artifact root, `decision-artifacts-3f2a`."""
    return f"{kind}-{root_name(artifact_root(root))}"


def progress_for(kind: str, root: Path | None) -> Progress:
    """Return the progress to which a task reports: `current_progress` if it is set, else a progress artifact."""
    return current_progress.get() or PublishedProgress(artifact_key(kind, root))


def terminal_progress() -> Progress:
    """Return `current_progress`, which the command line sets; without it, short steps report no progress."""
    return current_progress.get() or SILENT


def log_to_run() -> None:
    """Send the log of the library to the log of the flow run; necessary once in each process that runs tasks."""
    library_log.setLevel(logging.INFO)
    if not any(isinstance(handler, APILogHandler) for handler in library_log.handlers):
        handler = APILogHandler()
        handler.addFilter(lambda _: FlowRunContext.get() is not None or TaskRunContext.get() is not None)
        library_log.addHandler(handler)


def log_lines(lines: Iterable[str]) -> None:
    """Write lines to the log of the flow run."""
    log_to_run()
    for line in lines:
        library_log.info("%s", line)


def open_store(root: Path | None) -> Store:
    """Open the artifact store at a root, None for the configured one, and send the library's log to the run."""
    log_to_run()
    return Store(artifact_root(root))


def emit(event: str, resource: str, name: str, **payload: object) -> None:
    """Emit a Prefect event; docs/operations.md lists them.

    Args:
        event: name of the event, such as `digits.model.promoted`.
        resource: identifier of its subject, such as `digits.model.7`.
        name: name of its subject, for display.
        payload: JSON values.
    """
    emit_event(event, resource={"prefect.resource.id": resource, "prefect.resource.name": name}, payload=payload)
