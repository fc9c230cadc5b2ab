"""Signals: how a command that runs a flow ends on Ctrl-C, on SIGTERM, and when its terminal is closed (SIGHUP).

Prefect's own handler of SIGTERM ends the process at once, so the temporary server that it started would stay. All three
signals interrupt the command instead: the run is recorded as crashed, and Prefect stops its server. If this takes too
long, for example because the server has ended first, all processes are killed. What was finished is not lost.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from types import FrameType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

INTERRUPTED = 130
MESSAGE = "interrupted; the same command resumes from what is finished"
GRACE_SECONDS = 6.0
"""Seconds after a signal until the processes of the command are killed."""
KILL_SECONDS = 2.0
"""Seconds to wait for the end of killed processes."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Interruption:
    """State of the only interruption of the process: whether a signal came, and whether this was reported."""

    def __init__(self) -> None:
        self.has_begun = self.is_reported = False


_interruption = _Interruption()


def interrupt_on_signals() -> None:
    """Let signals interrupt the process from now on, except those that are ignored, as after `nohup`."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def interruptible(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate the function of a flow: signals interrupt the process while it runs, although Prefect handles them."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with _handlers_kept():
            interrupt_on_signals()
            return function(*args, **kwargs)

    return run


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Restore the handlers of the signals at the end."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python passes them
    """Raise `KeyboardInterrupt`, and kill the process if it has not ended after `GRACE_SECONDS`. Do nothing twice."""
    if _interruption.has_begun:
        return
    _interruption.has_begun = True
    killer = threading.Timer(GRACE_SECONDS, _kill)
    killer.daemon = True
    killer.start()
    raise KeyboardInterrupt


def is_interrupted() -> bool:
    """Return whether a signal has interrupted the process."""
    return _interruption.has_begun


def report_interruption() -> None:
    """Print that the command was interrupted, once per process."""
    if not _interruption.is_reported:
        _interruption.is_reported = True
        sys.stderr.write(f"digits: {MESSAGE}\n")
        sys.stderr.flush()


def _kill() -> None:
    """Kill the processes that this one has started, and this one."""
    import psutil

    report_interruption()
    children = psutil.Process().children(recursive=True)
    for process in children:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(children, timeout=KILL_SECONDS)
    os._exit(INTERRUPTED)
