"""Faults on purpose: processes that are killed, calls to the kernel that fail, disks that are full or read-only."""

import errno
import io
import itertools
import os
import resource
import signal
import traceback
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534
CALLS = ((os, "mkdir"), (os, "open"), (io, "open"), (os, "fsync"), (os, "rename"), (os, "replace"), (os, "link"))


class Killed(BaseException):
    """Stands in for a kill, between two ticks."""


def kill_after(ticks: int) -> Callable[[int], None]:
    """Give a tick that kills after so many."""
    left = iter(range(ticks))

    def tick(_: int) -> None:
        if next(left, None) is None:
            raise Killed

    return tick


class Fault:
    """What happens at the n-th call that has to do with files under a directory."""

    def __init__(self, root: Path, at: int, act: Callable[[], None]) -> None:
        self.happened = False
        self._root, self._at, self._act = str(root), at, act
        self._calls = itertools.count(1)

    def wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """Give the call with the fault in it."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._concerns(args[0]) and next(self._calls) == self._at:
                self.happened = True
                self._act()
            return real(*args, **kwargs)

        return call

    def _concerns(self, file: Any) -> bool:
        """Return whether a file is under the directory; images are opened by names that are bytes, and never are."""
        return isinstance(file, int) or (not isinstance(file, bytes) and os.fspath(file).startswith(self._root))


@contextmanager
def fault(root: Path, at: int, act: Callable[[], None]) -> Iterator[Fault]:
    """Have something happen at the n-th call that makes, opens, syncs, moves or links files under a directory."""
    made = Fault(root, at, act)
    with pytest.MonkeyPatch.context() as patch:
        for module, name in CALLS:
            patch.setattr(module, name, made.wrap(getattr(module, name)))
        yield made


def no_space() -> None:
    """Fail as the kernel does when the disk is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_sync(_: int) -> None:
    """Stand in for `os.fsync`, which no test can tell from a slow disk; `test_store.py` checks that it is called."""


def die() -> None:
    """Die at once, as on SIGKILL from outside."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(work: Callable[[], object]) -> int:
    """Start a process that does some work and ends with 0; give its id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: those of NumPy hold no lock that is needed
        child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException:  # noqa: BLE001 - the child must not go on as a second pytest
        traceback.print_exc()
        os._exit(1)


def wait(child: int) -> int:
    """Give the exit status of a child: 0, or the negative number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes: writes fail halfway, as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def without_root() -> Iterator[None]:
    """Be another user for a while where the tests run as root, whom no permission stops."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


class StillWaitingError(Exception):
    """The end of a wait that `at_most` limits; no `OSError`, as `TimeoutError` is, which a wait may handle."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fail instead of hanging, where a lock is not free that should be."""

    def give_up(*_: object) -> None:
        raise StillWaitingError(f"still waiting after {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """Fail when Python holds more bytes at any moment."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit
