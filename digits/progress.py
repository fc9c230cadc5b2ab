"""How long work tells how far it is, without knowing who listens."""

from contextvars import ContextVar
from typing import Protocol


class Bar(Protocol):
    """One piece of work under way."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Tell that steps are done; the note is a few words on how it goes."""

    def close(self, note: str = "") -> None:
        """Tell that the work is over; the note is its result in a few words."""


class Progress(Protocol):
    """Who is told of long work: a terminal, the Prefect log, or nobody."""

    def start(self, label: str, total: int, *, part: tuple[int, int] = (0, 1)) -> Bar:
        """Tell that work of so many steps begins.

        Args:
            label: what it is, in a few words.
            total: the steps.
            part: which one it is, from 0, of so many alike that follow one another, as the epochs of a training do.
        """


class _SilentBar:
    def advance(self, steps: int = 1, note: str = "") -> None:
        pass

    def close(self, note: str = "") -> None:
        pass


class _Silent:
    def start(self, label: str, total: int, *, part: tuple[int, int] = (0, 1)) -> Bar:  # noqa: ARG002 - nobody listens
        return _SilentBar()


SILENT: Progress = _Silent()

current_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)
"""Where the tasks of a flow report progress instead of the Prefect UI: the command sets bars on the terminal."""
