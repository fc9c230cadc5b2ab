"""Tests of the files that users name: only those that Digits wrote, as it wrote them, are overwritten."""

import os
from functools import partial
from pathlib import Path

import pytest

from digits.errors import UsageError
from digits.store.artifacts import Store
from digits.store.written import require_own_file, write_own_file
from tests.support import faults


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an empty store."""
    return Store(tmp_path / "artifacts")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a path at which there is no file."""
    return tmp_path / "out" / "file.txt"


def refused(store: Store, path: Path, reason: str) -> None:
    """Check that a file is not overwritten without `force`."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(UsageError, match=f"^{path} {reason}, so nothing was written; move it away, name another"):
        require_own_file(store, path)
    with pytest.raises(UsageError, match=reason):
        write_own_file(store, path, b"new")
    assert before == (path.read_bytes() if path.is_file() else None)


def test_a_file_of_digits_is_overwritten_until_somebody_changes_it(store: Store, path: Path) -> None:
    """Whatever the way to write its path. With `force` it is one of Digits again."""
    write_own_file(store, path, b"first")
    write_own_file(store, path.parent / ".." / "out" / path.name, b"second")
    require_own_file(store, path)
    path.write_bytes(b"edited")
    refused(store, path, "was changed after Digits wrote it")
    write_own_file(store, path, b"third", force=True)
    write_own_file(store, path, b"fourth")
    path.unlink()
    write_own_file(store, path, b"fifth")
    assert path.read_bytes() == b"fifth"


def test_other_files_are_not_overwritten(store: Store, path: Path) -> None:
    """Nor are links, folders, and files whose record is gone or damaged. `force` replaces a link, not its target."""
    path.parent.mkdir()
    path.write_bytes(b"somebody's")
    refused(store, path, "was not written by Digits")
    link = path.with_name("link")
    link.symlink_to(path)
    refused(store, link, "is a link")
    refused(store, path.parent, "is no file")
    write_own_file(store, link, b"new", force=True)
    assert (link.read_bytes(), path.read_bytes()) == (b"new", b"somebody's")
    for record in store.written.iterdir():
        record.write_bytes(b"")
    refused(store, link, "was not written by Digits")


def test_a_file_is_written_without_a_record_if_there_can_be_none(store: Store, path: Path) -> None:
    """As in an artifact root that is read-only. Then it is not overwritten."""
    store.root.write_bytes(b"no folder")
    write_own_file(store, path, b"first")
    refused(store, path, "was not written by Digits")


def test_a_kill_leaves_a_file_that_is_overwritten(store: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each call that writes a file."""
    monkeypatch.setattr(os, "fsync", faults.no_sync)
    write_own_file(store, path, b"first")
    at, status = 0, -1
    while status:
        at += 1
        with faults.fault(path.parents[1], at, faults.die):
            status = faults.wait(faults.in_child(partial(write_own_file, store, path, b"%d" % at)))
        require_own_file(store, path)
    assert at > 5
    assert path.read_bytes() == b"%d" % at
