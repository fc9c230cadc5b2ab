"""Trees of processes: who is in one, what memory it holds, and its end."""

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
"""Seconds between two looks at a tree's memory."""


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent dies, so that none is lost sight of."""
    if ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "this kernel lets no process adopt orphans")


class Process(Protocol):
    """What `subprocess.Popen` and `Forked` have in common."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """Give the exit status, or None while it runs."""

    def wait(self) -> int:
        """Wait for its end, and give the exit status."""


class Forked:
    """A copy of this process, as the leader of a session, that does some work and ends with the status it gives.

    It is what a fresh interpreter would be, without the time to import what this process has imported already.
    """

    def __init__(self, work: Callable[[], int]) -> None:
        self.returncode: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            _lead(work)

    def poll(self) -> int | None:
        """Give the exit status, or None while it runs."""
        return self._status(os.WNOHANG)

    def wait(self) -> int:
        """Wait for its end, and give the exit status."""
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
    except BaseException:  # noqa: BLE001 - the copy must not go on as this process
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def kill_tree(process: Process) -> None:
    """Kill a process that leads a session, and all below it; return when none of them is left.

    The caller has adopted orphans, and has no other children.
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


def memory_of(root: int) -> int:
    """Give the bytes that a process and all below it hold: a page that several share counts once (PSS)."""
    return sum(map(_proportional_bytes, [root, *descendants(root)]))


def _proportional_bytes(pid: int) -> int:
    with suppress(OSError):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


class MemoryWatch:
    """Looks at a tree's memory in a thread of its own while the block runs; `peak` is the most bytes that it saw."""

    def __init__(self, root: int) -> None:
        self.peak = 0
        self._root = root
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(INTERVAL):
            self.peak = max(self.peak, memory_of(self._root))
