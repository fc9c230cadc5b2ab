"""Record of the files that any process opens in a directory, as reported by the kernel (inotify)."""

import ctypes
import os
import struct
from pathlib import Path
from typing import Self

_OPEN, _OVERFLOW, _DIRECTORY = 0x20, 0x4000, 0x40000000
_HEADER = struct.Struct("iIII")
_BUFFER_SIZE = 1 << 20


class OpenedFiles:
    """Names of the files in some directories that any process opens while the block runs.

    The kernel keeps the last 16,384 events (`/proc/sys/fs/inotify/max_queued_events`) until `names` is called.
    """

    def __init__(self, *directories: Path) -> None:
        self._directories = directories
        self._names: list[bytes] = []

    def __enter__(self) -> Self:
        libc = ctypes.CDLL(None, use_errno=True)
        self._queue = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for directory in self._directories:
            if libc.inotify_add_watch(self._queue, os.fsencode(directory), _OPEN) < 0:
                raise OSError(ctypes.get_errno(), "the directory cannot be watched", str(directory))
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._queue)

    def names(self) -> list[bytes]:
        """Return the names so far, one for each time a file was opened.

        Raises:
            OverflowError: if there were more events than the kernel keeps.
        """
        while True:
            try:
                events = os.read(self._queue, _BUFFER_SIZE)
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
