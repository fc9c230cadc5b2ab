"""What every task needs at the edge between Prefect and the library: the store, the log, the progress."""

import logging
from contextvars import ContextVar
from pathlib import Path

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler

from digits.config import artifact_root
from digits.progress import Bar, Progress
from digits.store import Store

library_log = logging.getLogger("digits")


class _LoggedBar:
    def __init__(self, label: str) -> None:
        self._label = label

    def advance(self, steps: int = 1, note: str = "") -> None:
        pass

    def close(self, note: str = "") -> None:
        library_log.info("%s: %s", self._label, note or "done")


class LoggedProgress:
    """One line in the log for each piece of work that is over."""

    def start(self, label: str, total: int) -> Bar:  # noqa: ARG002 - only a drawn bar needs the total
        """Begin a piece of work."""
        return _LoggedBar(label)


progress: ContextVar[Progress] = ContextVar("progress", default=LoggedProgress())  # noqa: B039 - it has no state
"""Who is told of the long work of tasks; the console command sets one that draws bars."""


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
