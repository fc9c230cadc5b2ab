"""Worker processes that start before the modules of the parent process are imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from digits.prediction.pool import WorkerPool
from digits.prediction.process import WorkerProcess, early_worker
from tests.support.started_workers import count_starts


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[WorkerProcess]:
    """Return a list to which every worker that starts is added."""
    return count_starts(monkeypatch)


def test_the_pool_takes_the_early_worker_first(started: list[WorkerProcess]) -> None:
    """The pool owns it then: the end of the context leaves it alone, the end of the pool does not."""
    with WorkerPool(2) as pool:
        with early_worker():
            first, second = pool.acquire(), pool.acquire()
            assert [first, second] == started
        assert first is not None
        assert second is not None
        assert first.exit_code is None
        pool.release(first)
        pool.discard(second)
    assert first.exit_code is not None


def test_an_early_worker_that_no_pool_needs_ends_with_the_context(started: list[WorkerProcess]) -> None:
    """Also if the prediction fails before it has a pool."""
    with pytest.raises(ValueError, match="no such model"), early_worker():
        raise ValueError("no such model")
    assert [worker.exit_code is None for worker in started] == [False]
    with WorkerPool(1) as pool:
        worker = pool.acquire()
        assert worker is started[1]
        pool.discard(worker)


def test_the_early_worker_starts_before_anything_slow_is_imported(tmp_path: Path) -> None:
    """`digits predict` starts it before Typer reads the options. Other commands and `--deploy` start none."""
    program = """
import sys
from digits.prediction import process
from digits.cli import main
def start():
    slow = {"numpy", "pydantic", "rich"} & set(sys.modules)
    sys.exit(f"worker started after the import of {', '.join(slow) or 'nothing slow'}")
process.start_worker = start
main.main()
"""

    def run(*arguments: str) -> str:
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path).stderr

    assert run("predict", str(tmp_path)) == "worker started after the import of nothing slow\n"
    for other in (("predict", "--help"), ("predict", str(tmp_path), "--deploy"), ("models",)):
        assert "worker started" not in run(*other)
