"""Process: one worker process, which may be started before the modules of the parent process are imported.

This module must not import modules that are slow to load.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from digits.errors import StoreError, os_errors_as
from digits.prediction.limits import Position, open_position_file, read_position

if TYPE_CHECKING:
    from digits.model.onnx_model import OnnxModel
    from digits.prediction.plan import Plan

WORKER_PROGRAM = (
    "import gc, sys; gc.disable(); sys.path.append(sys.argv[1]); from digits.prediction.worker import main; "
    "gc.enable(); sys.exit(main(sys.argv[2:]))"
)
"""Program of a worker process; its arguments are the directory of the package and a file descriptor."""
_early: deque["WorkerProcess"] = deque()


class WorkerProcess:
    """Worker process: an interpreter that predicts one shard after another until its standard input is closed."""

    def __init__(self) -> None:
        self.shard = -1
        with ExitStack() as files:
            self._position = files.enter_context(open_position_file())
            self._errors = files.enter_context(tempfile.TemporaryFile())
            position = self._position.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", WORKER_PROGRAM, Path(__file__).parents[2], str(position)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                pass_fds=(position,),
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
            self._files = files.pop_all()

    def fileno(self) -> int:
        """Return the descriptor of the pipe on which the worker reports its progress."""
        return self._process.stdout.fileno()  # type: ignore[union-attr]

    def start_shard(self, plan: "Plan", shard: int) -> None:
        """Send the worker a shard to predict. If the worker has died, the next read from its pipe shows it."""
        self.shard = shard
        self._send({"plan": str(plan.path), "shard": shard})

    def preload(self, model: "OnnxModel", *, photos: bool) -> None:
        """Send the worker a model to load before there is a plan.

        Args:
            model: exported model.
            photos: whether to load the libraries that photos need, too.
        """
        self._send({"model": [str(model.directory), model.version, model.digest], "photos": photos})

    def _send(self, request: Mapping[str, object]) -> None:
        with suppress(BrokenPipeError):
            os.write(self._process.stdin.fileno(), json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]

    def collect_exit(self) -> tuple[int, Position | None, str]:
        """Return the exit code of a dead worker, the position of its image, and the end of its stderr."""
        code, position = self._process.wait(), read_position(self._position)
        self._errors.seek(0)
        output = self._errors.read().decode(errors="replace").strip()[-2000:]
        return code, position, output

    @property
    def exit_code(self) -> int | None:
        """Exit code of the process; None while it runs, the negative number of the signal that killed it."""
        return self._process.poll()

    def kill(self) -> None:
        """Kill the process; the thread that reads from its pipe notices."""
        self._process.kill()

    def close(self) -> None:
        """Kill the process, wait for its end and close its files."""
        self._process.kill()
        self._process.communicate()
        self._files.close()


def start_worker() -> WorkerProcess:
    """Start a worker process.

    Raises:
        StoreError: if no process can be started.
    """
    remedy = "fix that and run the same command again to resume the prediction"
    with os_errors_as(StoreError, "worker process", "could not be started", remedy):
        return WorkerProcess()


@contextmanager
def early_worker() -> Iterator[None]:
    """Start a worker process now; the pool that needs one next takes it, otherwise it ends with the context.

    Its interpreter loads its modules while this process imports its own.

    Raises:
        StoreError: if no process can be started.
    """
    _early.append(start_worker())
    try:
        yield
    finally:
        while _early:
            _early.pop().close()


def take_worker() -> WorkerProcess:
    """Return the worker process that `early_worker` has started, else a new one.

    Raises:
        StoreError: if no process can be started.
    """
    with suppress(IndexError):
        return _early.popleft()
    return start_worker()
