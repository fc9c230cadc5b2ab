"""Tests of the lock of an inbox."""

from pathlib import Path

import pytest

from digits.errors import UsageError
from digits.prediction.service import inbox_lock
from digits.store.artifacts import Store


def test_only_one_run_at_a_time_holds_the_lock_of_an_inbox(tmp_path: Path) -> None:
    """Inboxes do not lock each other. A missing folder is created."""
    store = Store(tmp_path / "artifacts")
    with inbox_lock(store, tmp_path / "in" / "box") as first, inbox_lock(store, tmp_path / "in" / "box") as second:
        assert (first, second) == (True, False)
        with inbox_lock(store, tmp_path / "other") as third:
            assert third
    assert (tmp_path / "in" / "box").is_dir()
    with inbox_lock(store, tmp_path / "in" / "box") as again:
        assert again


def test_an_inbox_must_be_a_folder(tmp_path: Path) -> None:
    """A file in its place is an error."""
    (tmp_path / "in").write_bytes(b"")
    with (
        pytest.raises(UsageError, match="choose another folder as inbox"),
        inbox_lock(Store(tmp_path), tmp_path / "in"),
    ):
        pass
