"""Started workers: the worker processes that a test starts."""

import pytest

from digits.prediction import process
from digits.prediction.process import WorkerProcess


def count_starts(monkeypatch: pytest.MonkeyPatch) -> list[WorkerProcess]:
    """Return a list to which every worker that starts from now on is added."""
    started: list[WorkerProcess] = []
    real = process.start_worker

    def start() -> WorkerProcess:
        started.append(real())
        return started[-1]

    monkeypatch.setattr(process, "start_worker", start)
    return started
