"""Durable files: written whole or not at all, hashed, locked, and with errors that say what to do."""

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import BinaryIO

_NAME_LENGTH = 40
"""Leading characters of a file's name that the name of its temporary file repeats."""
TEMPORARY = re.compile(rb"\.(.+)\.[0-9a-f]{16}\.tmp", re.DOTALL)
"""The name of a file that is being written; its group is the name, or its beginning, of the file to be replaced."""


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` for writing; on a clean exit it is synced and replaces the file at `path`.

    When the body raises, the file at `path` is untouched and the temporary file is removed. A file that can be made
    again need not be durable: without the wait for the disk, only a power failure can lose or damage it.
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
    """Write a whole file, atomically: readers see the old content or the new one."""
    with replacing(path, durable=durable) as file:
        file.write(content)


@contextmanager
def temporary_file(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Create a temporary file beside `path`, which is removed at the end unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".{path.name[:_NAME_LENGTH]}.{secrets.token_hex(8)}.tmp")
    try:
        with name.open("xb") as file:
            yield name, file
    finally:
        name.unlink(missing_ok=True)


def find_temporary_files(directory: Path) -> Iterator[Path]:
    """Return the temporary files below a directory, whether their writers are still at work or were killed."""
    return (
        path for path in directory.rglob(".*.tmp") if TEMPORARY.fullmatch(os.fsencode(path.name)) and path.is_file()
    )


def remove_temporary_files(*paths: Path) -> None:
    """Remove the temporary files that killed writers of these files left; no writer may be at work."""
    for path in paths:
        for left in path.parent.glob(f".{escape(path.name[:_NAME_LENGTH])}.{'[0-9a-f]' * 16}.tmp"):
            left.unlink(missing_ok=True)


def sync(file: BinaryIO) -> None:
    """Make the content of an open file durable."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make a directory's entries durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Lock:
    """An open lock file.

    Args:
        descriptor: the open file.
        held: whether the lock is ours; always true where we wait for it.
    """

    descriptor: int
    held: bool


@contextmanager
def locked(
    path: Path, *, wait: bool = True, shared: bool = False, flags: int = os.O_RDWR | os.O_CREAT
) -> Iterator[Lock]:
    """Lock a file, or a directory, while the context lasts; the kernel drops the lock when its holder dies.

    Args:
        path: the file; its directory must exist.
        wait: whether to wait until nobody else holds the lock; if not, `Lock.held` says whether it is ours.
        shared: whether others may hold a shared lock at the same time.
        flags: how to open the file, as in `os.open`.

    Raises:
        OSError: the file can't be opened.
    """
    descriptor = os.open(path, flags, 0o666)
    try:
        yield Lock(descriptor, _lock(descriptor, wait=wait, shared=shared))
    finally:
        with suppress(OSError):  # what is written through it is synced, and the lock is released all the same
            os.close(descriptor)


def _lock(descriptor: int, *, wait: bool, shared: bool) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
