"""Locks: waiting for a lock for a limited time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from digits.errors import StoreError
from digits.store.files import locked

LOCK_SECONDS = 600
"""Time to wait for a lock; whoever holds it longer has probably stopped working."""


@contextmanager
def wait_for(path: Path, *, shared: bool = False, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[None]:
    """Hold a lock, after waiting for it for at most `LOCK_SECONDS`.

    Args:
        path: file or directory to lock.
        shared: whether other processes may hold a shared lock at the same time.
        flags: flags for `os.open`.

    Raises:
        StoreError: if another process does not release it.
    """
    with locked(path, wait=LOCK_SECONDS, shared=shared, flags=flags) as lock:
        if not lock.held:
            raise StoreError(f"{path}: another process holds this lock; end it (`fuser` names it), and run again")
        yield
