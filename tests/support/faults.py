"""Injected faults: killed processes, failing system calls, full and read-only disks."""

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

from digits.errors import StoreError

NOBODY = 65534
CALLS = ((os, "mkdir"), (os, "open"), (io, "open"), (os, "fsync"), (os, "rename"), (os, "replace"), (os, "link"))


class Killed(BaseException):
    """Substitute for SIGKILL between two ticks."""


def kill_after(ticks: int) -> Callable[[int], None]:
    """Return a tick function that raises `Killed` after a number of ticks."""
    left = iter(range(ticks))

    def tick(_: int) -> None:
        if next(left, None) is None:
            raise Killed

    return tick


class Fault:
    """Action at the n-th system call on files below a directory."""

    def __init__(self, root: Path, at: int, act: Callable[[], None]) -> None:
        self.happened = False
        self._root, self._at, self._act = str(root), at, act
        self._calls = itertools.count(1)

    def wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with the fault in it."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._concerns(args[0]) and next(self._calls) == self._at:
                self.happened = True
                self._act()
            return real(*args, **kwargs)

        return call

    def _concerns(self, file: Any) -> bool:
        """Return whether a file is below the directory. Images are opened by byte names and do not count."""
        return isinstance(file, int) or (not isinstance(file, bytes) and os.fspath(file).startswith(self._root))


@contextmanager
def fault(root: Path, at: int, act: Callable[[], None]) -> Iterator[Fault]:
    """Run an action at the n-th call that makes, opens, syncs, moves or links files below a directory."""
    made = Fault(root, at, act)
    with pytest.MonkeyPatch.context() as patch:
        for module, name in CALLS:
            patch.setattr(module, name, made.wrap(getattr(module, name)))
        yield made


def no_space() -> None:
    """Fail as the kernel does on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_sync(_: int) -> None:
    """Do nothing, in place of `os.fsync`. `test_store.py` checks that it is called."""


def die() -> None:
    """Kill this process by SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(work: Callable[[], object]) -> int:
    """Run some work in a child process, which exits with 0, or with 1 after an exception. Return its process ID."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: those of NumPy hold no lock that is needed
        child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException:  # noqa: BLE001 - the child must not continue as a second pytest
        traceback.print_exc()
        os._exit(1)


def wait(child: int) -> int:
    """Return the exit status of a child, or the negative number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def failure_of(work: Callable[[], object]) -> str:
    """Return the message of the `StoreError` that a function raises, or an empty string."""
    try:
        work()
    except StoreError as error:
        return str(error)
    return ""


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Limit the size of files in bytes: writes fail halfway, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def without_root() -> Iterator[None]:
    """Run as another user if the tests run as root, so that file permissions apply."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


class StillWaitingError(Exception):
    """Exceeded limit of `at_most`. Not an `OSError` like `TimeoutError`, which the code under test may handle."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise an error if the block takes longer, instead of waiting forever for a lock."""

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
    """Fail if Python allocates more bytes at any moment."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit
