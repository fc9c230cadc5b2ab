"""Progress: interface through which long operations report their progress."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Bar(Protocol):
    """Progress of one operation."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Report completed steps.

        Args:
            steps: number of steps.
            note: current state in a few words, such as a metric.
        """

    def close(self, note: str = "") -> None:
        """Report the end of the operation.

        Args:
            note: result in a few words.
        """


class Progress(Protocol):
    """Receiver of progress reports, such as a terminal or the Prefect log."""

    def start(self, label: str, total: int, *, part: tuple[int, int] = (0, 1)) -> Bar:
        """Report the start of an operation, and return the receiver of its progress.

        Args:
            label: name of the operation, in a few words.
            total: number of steps.
            part: position of the operation in a series, counted from 0, and length of the series. An epoch, for
                example, is part of a series of epochs.
        """


class _SilentBar:
    def advance(self, steps: int = 1, note: str = "") -> None:
        pass

    def close(self, note: str = "") -> None:
        pass


class _Silent:
    def start(self, label: str, total: int, *, part: tuple[int, int] = (0, 1)) -> Bar:  # noqa: ARG002 - reports are discarded
        return _SilentBar()


SILENT: Progress = _Silent()
"""Receiver that discards all reports."""


@contextmanager
def shown(progress: Progress, label: str, total: int = 1) -> Iterator[Bar]:
    """Show an operation as long as the block runs; its steps are complete when the block ends without an error.

    Args:
        progress: receiver of the progress.
        label: name of the operation.
        total: number of steps. The block reports all but the last.
    """
    bar = progress.start(label, total)
    try:
        yield bar
        bar.advance()
    finally:
        bar.close()


current_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)
"""Receiver of the progress of a flow's tasks; None for the Prefect UI. The command line sets it to the terminal."""
