"""Processes: whether a process of this machine is still running, and the processes that it started.

The kernel reuses the numbers of processes that have ended. Therefore a process must also have an expected text in its
environment, or must have started before its work did; otherwise it is another process.
"""

import os
import socket
from contextlib import suppress
from pathlib import Path

import psutil

CLOCK_SECONDS = 2.0
"""Largest difference between the clock of the server and that of the kernel on the same machine, in seconds."""


def is_alive(process: str, *, marker: str, since: float) -> bool | None:
    """Return whether the process that started some work is still running.

    Args:
        process: process as `HOST:PID`, as `this_process` returns it.
        marker: text that the environment of the process contains if it was started for this work.
        since: start of the work, in seconds since the epoch.

    Returns:
        None if this is unknown: for a process on another host or of another user, or if `process` is not `HOST:PID`.
    """
    host, _, number = process.rpartition(":")
    if host != socket.gethostname() or not number.isdecimal():
        return None
    try:
        found = psutil.Process(int(number))
        is_older = bool(found.create_time() <= since + CLOCK_SECONDS)
        return not _is_zombie(found) and (_has_marker(found, marker) or is_older)
    except psutil.AccessDenied:
        return None
    except psutil.NoSuchProcess:
        return False


def is_running(number: int) -> bool:
    """Return whether a process of this machine is running."""
    with suppress(psutil.NoSuchProcess):
        return not _is_zombie(psutil.Process(number))
    return False


def is_stopped(number: int) -> bool:
    """Return whether a process of this machine is stopped by a signal, and so does nothing."""
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(number).status() == psutil.STATUS_STOPPED)
    return False


def processes_with(file: Path) -> list[int]:
    """Return the numbers of the processes, other than this one, that have a file open and that you may examine."""
    path, found = str(file.resolve()), []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and any(opened.path == path for opened in process.open_files()):
                found.append(process.pid)
    return found


def descendants(number: int) -> list[int]:
    """Return the numbers of all processes that a process started, directly or indirectly."""
    with suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(number).children(recursive=True)]
    return []


def this_process() -> str:
    """Return this process as `HOST:PID`."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _is_zombie(process: psutil.Process) -> bool:
    return bool(process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD))


def _has_marker(process: psutil.Process, marker: str) -> bool:
    return any(marker in f"{name}={value}" for name, value in process.environ().items())
