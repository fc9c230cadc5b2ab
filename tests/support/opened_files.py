"""Which files of a directory anybody opens, as the kernel tells it (inotify): nothing is missed, by name."""

import ctypes
import os
import struct
from pathlib import Path
from typing import Self

_OPEN, _OVERFLOW, _DIRECTORY = 0x20, 0x4000, 0x40000000
_HEADER = struct.Struct("iIII")
_ENOUGH = 1 << 20


class Opened:
    """Collects the names of the files of directories that are opened by any process while the block runs.

    The kernel keeps the last 16,384 events (`/proc/sys/fs/inotify/max_queued_events`) until `names` is asked for.
    """

    def __init__(self, *directories: Path) -> None:
        self._directories = directories
        self._names: list[bytes] = []

    def __enter__(self) -> Self:
        libc = ctypes.CDLL(None, use_errno=True)
        self._queue = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for directory in self._directories:
            if libc.inotify_add_watch(self._queue, os.fsencode(directory), _OPEN) < 0:
                raise OSError(ctypes.get_errno(), "the directory can't be watched", str(directory))
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._queue)

    def names(self) -> list[bytes]:
        """Give the names so far, one for each time that a file was opened.

        Raises:
            OverflowError: there were more than the kernel kept.
        """
        while True:
            try:
                events = os.read(self._queue, _ENOUGH)
            except BlockingIOError:
                return self._names
            self._take(events)

    def _take(self, events: bytes) -> None:
        while events:
            _, mask, _, length = _HEADER.unpack_from(events)
            if mask & _OVERFLOW:
                raise OverflowError("more files were opened than the kernel keeps events of")
            if not mask & _DIRECTORY:
                self._names.append(events[_HEADER.size : _HEADER.size + length].rstrip(b"\0"))
            events = events[_HEADER.size + length :]
