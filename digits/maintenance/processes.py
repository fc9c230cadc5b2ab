"""Whether the process behind something that claims to be at work is still there, as Linux tells it in /proc.

A process is known by its number, which is given again after it has ended; so its environment is looked at, or when it
began: one that began after the work did is another one.
"""

import os
import socket
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
_PARENT_FIELD, _BEGAN_FIELD = 1, 19
"""Of /proc/PID/stat (proc(5)), counted from behind the name: the parent; ticks since the machine was started."""
CLOCK_SECONDS = 2.0
"""By which a time of the server's and one of this machine's kernel may be off when both are the same machine's."""


def is_alive(process: str, *, marker: str, since: float) -> bool | None:
    """Tell whether a process that began some work is there.

    Args:
        process: `HOST:PID`, from `this_process`.
        marker: is in its environment, if it was started for this work.
        since: when the work began, as seconds since the epoch.

    Returns:
        None when it can't be told from here: another host, no /proc, not a process.
    """
    host, _, number = process.rpartition(":")
    if host != socket.gethostname() or not number.isdigit() or not PROC.is_dir():
        return None
    place = PROC / number
    try:
        if _is_zombie(place):
            return False
        ours = marker.encode() in (place / "environ").read_bytes()
        return ours or _began(place) <= since + CLOCK_SECONDS
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:  # another user's process
        return None


def is_running(number: int) -> bool:
    """Tell whether a process of this machine is there and has not ended; False where there is no /proc."""
    try:
        return not _is_zombie(PROC / str(number))
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(number: int) -> list[int]:
    """Give the processes that a process has started, and those that these have; none where there is no /proc."""
    children = defaultdict[int, list[int]](list)
    for place in PROC.glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            children[int(_fields(place)[_PARENT_FIELD])].append(int(place.name))
    found = list(children[number])
    for one in found:
        found += children[one]
    return found


def this_process() -> str:
    """Give this process as `is_alive` takes it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _fields(place: Path) -> list[str]:
    return (place / "stat").read_text(errors="replace").rpartition(")")[2].split()


def _is_zombie(place: Path) -> bool:
    return _fields(place)[0] in "ZX"


def _began(place: Path) -> float:
    """Give when a process began, as seconds since the epoch."""
    up = time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time() - up + int(_fields(place)[_BEGAN_FIELD]) / os.sysconf("SC_CLK_TCK")
