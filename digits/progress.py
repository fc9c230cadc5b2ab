"""How long work tells how far it is, without knowing who listens."""

from typing import Protocol


class Bar(Protocol):
    """One piece of work under way."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Tell that steps are done; the note is a few words on how it goes."""

    def close(self, note: str = "") -> None:
        """Tell that the work is over; the note is its result in a few words."""


class Progress(Protocol):
    """Who is told of long work: a terminal, the Prefect log, or nobody."""

    def start(self, label: str, total: int) -> Bar:
        """Tell that work of so many steps begins."""


class _SilentBar:
    def advance(self, steps: int = 1, note: str = "") -> None:
        pass

    def close(self, note: str = "") -> None:
        pass


class _Silent:
    def start(self, label: str, total: int) -> Bar:  # noqa: ARG002 - nobody listens
        return _SilentBar()


SILENT: Progress = _Silent()
