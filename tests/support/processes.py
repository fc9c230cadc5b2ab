"""Process trees: their members, their memory, and how to kill them."""

import ctypes
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Protocol, Self

from digits.maintenance.processes import descendants

_SUBREAPER = 36
_PROC = Path("/proc")
INTERVAL = 0.05
"""Seconds between two measurements of a tree's memory."""


def adopt_orphans() -> None:
    """Become the parent of each descendant whose own parent dies, so that `descendants` still finds it."""
    if ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "this kernel does not let a process adopt orphans")


class Process(Protocol):
    """Interface that `subprocess.Popen` and `Forked` share."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs."""

    def wait(self) -> int:
        """Wait for the end of the process and return its exit status."""


class Forked:
    """Copy of this process that leads a session, does some work and exits with the status that the work returns.

    It behaves like a new interpreter, but needs no time for modules that this process has already imported.
    """

    def __init__(self, work: Callable[[], int]) -> None:
        self.returncode: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            _lead(work)

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs."""
        return self._status(os.WNOHANG)

    def wait(self) -> int:
        """Wait for the end of the process and return its exit status."""
        status = self._status(0)
        return -1 if status is None else status

    def _status(self, flags: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, flags)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


def _lead(work: Callable[[], int]) -> NoReturn:
    status = 1
    try:
        os.setsid()
        status = work()
    except BaseException:  # noqa: BLE001 - the copy must not continue as this process
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def kill_tree(process: Process) -> None:
    """Kill a process that leads a session and all its descendants, and wait until all are gone.

    The caller has adopted orphans and has no other children.
    """
    below = descendants(process.pid)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pid in below:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    while left := descendants(os.getpid()):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def measure_memory(root: int) -> int:
    """Return the memory of a process and its descendants in bytes. A page shared by several counts once (PSS)."""
    return sum(map(_proportional_bytes, [root, *descendants(root)]))


def _proportional_bytes(pid: int) -> int:
    with suppress(OSError):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


class MemoryWatch:
    """Thread that measures a tree's memory while the block runs; `peak` is the maximum in bytes."""

    def __init__(self, root: int) -> None:
        self.peak = 0
        self._root = root
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(INTERVAL):
            self.peak = max(self.peak, measure_memory(self._root))
