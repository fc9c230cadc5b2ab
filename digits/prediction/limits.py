"""The limits of time and memory under which a worker process decodes, and how its parent learns which image broke them.

Nothing can interrupt a decoder that hangs or runs wild in C, so the kernel ends the process: a timer that nobody
handles, a limit on its data. The number of the image that it was at stays behind in a file that both have mapped.
"""

import mmap
import os
import signal
import struct
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

MAX_MEMORY_GROWTH = 512 * 2**20
"""Bytes by which a worker's data may grow over what it holds when it is about to read its first image."""

_NUMBER = struct.Struct("=q")
_NONE = -1


class NoLimits:
    """No limits, and nobody is told."""

    def limit_memory(self) -> None:
        """Keep the process's data from growing further than `MAX_MEMORY_GROWTH`."""

    def enter(self, number: int, seconds: float) -> None:
        """Begin with an image, for which there are so many seconds."""

    def leave(self) -> None:
        """End with the last image."""


class ImageLimits(NoLimits):
    """The limits of this process, for the parent that gave it the descriptor of `open_position_file`."""

    def __init__(self, descriptor: int) -> None:
        self._mark = mmap.mmap(descriptor, _NUMBER.size)
        self._limited = False
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def limit_memory(self) -> None:
        """Keep the process's data from growing further than `MAX_MEMORY_GROWTH`: what wants more gets a `MemoryError`."""
        if not self._limited and sys.platform == "linux":
            import resource

            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            limit = _data_size() + MAX_MEMORY_GROWTH
            with suppress(ValueError):  # the limit that was set for us is lower
                resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        self._limited = True

    def enter(self, number: int, seconds: float) -> None:
        """Begin with an image; the process ends by SIGALRM when it takes longer."""
        signal.setitimer(signal.ITIMER_REAL, seconds)
        _NUMBER.pack_into(self._mark, 0, number)

    def leave(self) -> None:
        """End with the last image."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        _NUMBER.pack_into(self._mark, 0, _NONE)


def _data_size() -> int:
    """Give the bytes of this process that RLIMIT_DATA counts (proc(5): `VmData`)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmData"].split()[0]) * 1024


def open_position_file() -> BinaryIO:
    """Make the file in which a worker marks the image that it is at."""
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - whoever asked for it closes it
    file.write(_NUMBER.pack(_NONE))
    return file


def read_position(mark: BinaryIO) -> int | None:
    """Give the number of the image that a worker is at, or was when it died."""
    (number,) = _NUMBER.unpack(os.pread(mark.fileno(), _NUMBER.size, 0))
    return None if number == _NONE else int(number)
