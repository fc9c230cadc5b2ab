"""Limits: time and memory that a worker process may use for an image, and a note of which image it is reading.

Python cannot interrupt a decoder that hangs or allocates without end in C code, so the kernel ends the process: by a
timer signal without a handler, and by a limit on the size of its data. The worker notes the number of the image that it
works on in a memory-mapped file. If the worker dies, its parent process reads the number there.
"""

import mmap
import os
import signal
import struct
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

MAX_MEMORY_GROWTH = 512 * 2**20
"""Number of bytes by which a worker's data may grow, counted from its first image."""

_NUMBER = struct.Struct("=q")
_NONE = -1
_PAGES = 1 << 12
"""Factor of a file's number in the position of a page; pages have smaller numbers."""
_SLACK = 0.05
"""Share of the time limit by which an image may exceed it."""
READING = -1
"""In place of the number of a page: the file is read, and its pages are not known yet."""


class Position(NamedTuple):
    """Position of an image in its shard.

    Args:
        number: number of the file.
        page: number of the page that is decoded; 0 for a file with one page, `READING` while the file is read.
    """

    number: int
    page: int = 0


class NoLimits:
    """Limits that do nothing, for predictions in the calling process."""

    def limit_memory(self) -> None:
        """Limit the growth of the process's data to `MAX_MEMORY_GROWTH` bytes."""

    def begin_image(self, number: int, seconds: float, page: int = READING) -> None:
        """Begin to read a file, or to decode a page.

        Args:
            number: number of the file in its shard.
            seconds: time limit.
            page: number of the page; `READING` for a file.
        """

    def begin_decoding(self, number: int) -> None:
        """Begin to decode a file with one page, in the time that reading it has left."""

    def end_images(self) -> None:
        """Stop the timer after the last image of a batch."""


class ImageLimits(NoLimits):
    """Limits of a worker process, which is the calling process.

    Args:
        descriptor: descriptor of the file from `open_position_file`, inherited from the parent process.
    """

    def __init__(self, descriptor: int) -> None:
        self._position = mmap.mmap(descriptor, _NUMBER.size)
        self._limited = False
        self._renewal = self._seconds = 0.0
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def limit_memory(self) -> None:
        """Limit the growth of the process's data; allocations beyond the limit raise `MemoryError`. Linux only."""
        if not self._limited and sys.platform == "linux":
            import resource

            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            limit = _data_size() + MAX_MEMORY_GROWTH
            with suppress(ValueError):  # the inherited limit is lower
                resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        self._limited = True

    def begin_image(self, number: int, seconds: float, page: int = READING) -> None:
        """Note the position of an image, and start the timer; SIGALRM ends the process when the time is over.

        A timer that was started a short while ago continues, because starting it takes longer than reading some files.
        """
        now = time.monotonic()
        if now > self._renewal or seconds != self._seconds:
            slack = seconds * _SLACK
            signal.setitimer(signal.ITIMER_REAL, seconds + slack)
            self._renewal, self._seconds = now + slack, seconds
        self._note(number, page)

    def begin_decoding(self, number: int) -> None:
        """Note that a file is decoded; the timer continues."""
        self._note(number, 0)

    def _note(self, number: int, page: int) -> None:
        _NUMBER.pack_into(self._position, 0, number * _PAGES + page - READING)

    def end_images(self) -> None:
        """Stop the timer, and note that no image is being read."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._renewal = 0.0
        _NUMBER.pack_into(self._position, 0, _NONE)


def _data_size() -> int:
    """Return the number of bytes of this process that RLIMIT_DATA counts (proc(5): `VmData`)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmData"].split()[0]) * 1024


def open_position_file() -> BinaryIO:
    """Create the file in which a worker notes the number of the image it reads."""
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - the caller closes it
    file.write(_NUMBER.pack(_NONE))
    return file


def read_position(position: BinaryIO) -> Position | None:
    """Return the position of the image that a worker works on, or did when it died; None if it works on none."""
    (noted,) = _NUMBER.unpack(os.pread(position.fileno(), _NUMBER.size, 0))
    number, page = divmod(noted, _PAGES)
    return None if noted == _NONE else Position(number, page + READING)
