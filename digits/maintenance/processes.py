"""Processes: whether a process of this machine is still running, read from /proc of Linux.

The kernel reuses the numbers of processes that have ended. Therefore a process must also have an expected text in its
environment, or must have started before its work did; otherwise it is another process.
"""

import os
import socket
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
_PARENT_FIELD, _START_FIELD = 1, 19
"""Fields of /proc/PID/stat (proc(5)), counted after the name: number of the parent, and start in ticks since boot."""
CLOCK_SECONDS = 2.0
"""Largest difference between the clock of the server and that of the kernel on the same machine, in seconds."""


def is_alive(process: str, *, marker: str, since: float) -> bool | None:
    """Return whether the process that started some work is still running.

    Args:
        process: process as `HOST:PID`, as `this_process` returns it.
        marker: text that the environment of the process contains if it was started for this work.
        since: start of the work, in seconds since the epoch.

    Returns:
        None if this is unknown: for a process on another host, without /proc, or if `process` is not `HOST:PID`.
    """
    host, _, number = process.rpartition(":")
    if host != socket.gethostname() or not number.isdigit() or not PROC.is_dir():
        return None
    place = PROC / number
    try:
        if _is_zombie(place):
            return False
        is_marked = marker.encode() in (place / "environ").read_bytes()
        return is_marked or _start_time(place) <= since + CLOCK_SECONDS
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:  # another user's process
        return None


def is_running(number: int) -> bool:
    """Return whether a process of this machine is running; False without /proc."""
    try:
        return not _is_zombie(PROC / str(number))
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(number: int) -> list[int]:
    """Return the numbers of all processes that a process started, directly or indirectly; empty without /proc."""
    children = defaultdict[int, list[int]](list)
    for place in PROC.glob("[0-9]*"):
        with suppress(OSError):  # the process has ended meanwhile
            children[int(_fields(place)[_PARENT_FIELD])].append(int(place.name))
    found = list(children[number])
    for one in found:
        found += children[one]
    return found


def this_process() -> str:
    """Return this process as `HOST:PID`."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _fields(place: Path) -> list[str]:
    return (place / "stat").read_text(errors="replace").rpartition(")")[2].split()


def _is_zombie(place: Path) -> bool:
    return _fields(place)[0] in "ZX"


def _start_time(place: Path) -> float:
    """Return the start of a process in seconds since the epoch."""
    seconds_since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time() - seconds_since_boot + int(_fields(place)[_START_FIELD]) / os.sysconf("SC_CLK_TCK")
