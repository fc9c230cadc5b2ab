"""Tests of the lock of an inbox."""

from pathlib import Path

import pytest

from digits.errors import UsageError
from digits.prediction.service import inbox_lock
from digits.store.artifacts import Store


def test_only_one_run_at_a_time_holds_the_lock_of_an_inbox(tmp_path: Path) -> None:
    """Inboxes do not lock each other."""
    store, inbox = Store(tmp_path / "artifacts"), tmp_path / "in"
    inbox.mkdir()
    with inbox_lock(store, inbox) as first, inbox_lock(store, inbox) as second:
        assert (first, second) == (True, False)
        with inbox_lock(store, store.inbox) as third:
            assert third
    with inbox_lock(store, inbox) as again:
        assert again


def test_only_the_default_inbox_is_created(tmp_path: Path) -> None:
    """Another one that is missing may be on a disk that is not mounted. A file in its place is an error too."""
    store = Store(tmp_path / "artifacts")
    with inbox_lock(store, store.inbox) as free:
        assert free
    assert store.inbox.is_dir()
    (tmp_path / "file").write_bytes(b"")
    for name in ("missing", "file"):
        with (
            pytest.raises(UsageError, match=f"/{name}: found no such folder, expected the inbox; mount or create it"),
            inbox_lock(store, tmp_path / name),
        ):
            pass
    assert not (tmp_path / "missing").exists()
    store.inbox.rmdir()
    store.inbox.write_bytes(b"")
    with pytest.raises(UsageError, match="choose another folder as inbox"), inbox_lock(store, store.inbox):
        pass
