"""Files: atomic writes, temporary files, hashes, and the file lock."""

import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import BinaryIO

_POLL_SECONDS = 0.05
"""Seconds between two attempts to take a lock."""
_NAME_LENGTH = 40
"""Number of leading characters of a file's name that its temporary file's name repeats."""
TEMPORARY = re.compile(rb"\.(.+)\.[0-9a-f]{16}\.tmp", re.DOTALL)
"""Pattern of temporary files' names. Its group is the name of the file to be replaced, cut to `_NAME_LENGTH`."""


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Yield a temporary file beside `path` that replaces the file at `path` when the body ends without an error.

    If the body raises, the file at `path` stays as it is and the temporary file is removed.

    Args:
        path: file to write.
        durable: whether to sync the file to disk. Without it, a power failure can lose or damage the file.
    """
    with temporary_file(path) as (name, file):
        yield file
        if durable:
            sync(file)
        else:
            file.flush()
        name.replace(path)
    if durable:
        sync_directory(path.parent)


def write_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file atomically: readers see the old content or the new one.

    Args:
        path: file to write.
        content: new content.
        durable: whether to sync the file to disk; see `replacing`.
    """
    with replacing(path, durable=durable) as file:
        file.write(content)


@contextmanager
def temporary_file(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Create a temporary file beside `path`, and remove it at the end unless it has been renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".{path.name[:_NAME_LENGTH]}.{secrets.token_hex(8)}.tmp")
    try:
        with name.open("xb") as file:
            yield name, file
    finally:
        name.unlink(missing_ok=True)


def find_temporary_files(directory: Path) -> Iterator[Path]:
    """Return the temporary files below a directory, including those that are still being written."""
    return (
        path for path in directory.rglob(".*.tmp") if TEMPORARY.fullmatch(os.fsencode(path.name)) and path.is_file()
    )


def remove_temporary_files(*paths: Path) -> None:
    """Remove the temporary files that killed processes left beside these files.

    No process may be writing the files at the same time.
    """
    for path in paths:
        for left in path.parent.glob(f".{escape(path.name[:_NAME_LENGTH])}.{'[0-9a-f]' * 16}.tmp"):
            left.unlink(missing_ok=True)


def sync(file: BinaryIO) -> None:
    """Flush an open file and sync its content to disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Sync a directory's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Lock:
    """Open lock file.

    Args:
        descriptor: file descriptor of the open file.
        held: whether this process holds the lock; always true after waiting for it without a limit.
    """

    descriptor: int
    held: bool


@contextmanager
def locked(
    path: Path, *, wait: bool | float = True, shared: bool = False, flags: int = os.O_RDWR | os.O_CREAT
) -> Iterator[Lock]:
    """Lock a file or a directory for the duration of the context. The kernel releases the lock if the process dies.

    Args:
        path: file to lock, created if missing, or directory; the parent directory must exist.
        wait: whether to wait until the lock is free, or for how many seconds at most. `Lock.held` is false if the lock
            is still taken.
        shared: whether other processes may hold a shared lock at the same time.
        flags: flags for `os.open`.

    Raises:
        OSError: if the file cannot be opened.
    """
    descriptor = os.open(path, flags, 0o666)
    try:
        yield Lock(descriptor, _lock(descriptor, wait=wait, shared=shared))
    finally:
        with suppress(OSError):  # an error on closing loses nothing: writers sync, and the lock is released anyway
            os.close(descriptor)


def _lock(descriptor: int, *, wait: bool | float, shared: bool) -> bool:
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if wait is True:
        fcntl.flock(descriptor, operation)
        return True
    deadline = time.monotonic() + wait
    while not _try_lock(descriptor, operation):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _try_lock(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
