"""Durable files: atomic writes, temporary names and hashes."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from digits.store.files import hash_file, replacing, write_file
from digits.store.records import create_record
from tests.support import faults

pytestmark = pytest.mark.usefixtures("without_sync")


def test_an_exception_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    """The temporary file is removed."""
    path = tmp_path / "predictions.csv"
    write_file(path, b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"new %d" % (1 // 0))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_wholly_old_or_wholly_new_whichever_write_fails(tmp_path: Path) -> None:
    """If any system call finds the disk full, no partial file and no temporary file is left."""
    path = tmp_path / "report.html"
    for at in range(1, 20):
        write_file(path, b"old" * 9000)
        with faults.fault(tmp_path, at, faults.no_space) as fault:
            try:
                write_file(path, b"new" * 9000)
                done = True
            except OSError:
                done = False
        assert path.read_bytes() in ([b"new" * 9000] if done else [b"old" * 9000, b"new" * 9000])
        assert list(tmp_path.iterdir()) == [path]
        if not fault.happened:
            break
    assert done
    assert at > 4, "the file was opened, synced and moved, and its directory opened and synced"


def test_a_file_is_wholly_old_or_wholly_new_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    """After a SIGKILL before any system call, readers see the old content or the new one."""
    path = tmp_path / "champion.json"
    seen = []
    for at in range(1, 20):
        write_file(path, b"old")
        with faults.fault(tmp_path, at, faults.die):
            status = faults.wait(faults.in_child(lambda: write_file(path, b"new")))
        seen.append(path.read_bytes())
        if status == 0:
            break
    assert status == 0
    assert set(seen) == {b"old", b"new"}
    assert seen == sorted(seen, reverse=True), "old up to some call, new after it"


@pytest.mark.parametrize("write", [write_file, lambda path, content: create_record(path, {"is": content.decode()})])
def test_content_is_synced_before_the_file_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes], object]
) -> None:
    """The file is synced, then renamed, then the directory is synced: a power failure leaves no partial file."""
    events: list[tuple[str, int]] = []

    def note(word: str) -> Callable[..., None]:
        real = getattr(os, word)

        def call(*args: Any) -> None:
            events.append((word, os.stat(args[0]).st_ino))  # noqa: PTH116 - a path or a descriptor
            real(*args)

        return call

    for word in ("fsync", "replace", "link"):
        monkeypatch.setattr(os, word, note(word))
    write(tmp_path / "f", b"content")
    file, directory = (tmp_path / "f").stat().st_ino, tmp_path.stat().st_ino
    assert [events[0], events[1][1], events[2]] == [("fsync", file), file, ("fsync", directory)]


def test_a_write_that_a_full_disk_cuts_off_changes_nothing(tmp_path: Path) -> None:
    """Here the kernel makes the write fail halfway; the other tests simulate the failure."""
    path = tmp_path / "dataset.json"
    write_file(path, b"old")
    with faults.full_disk(4096), pytest.raises(OSError, match="too large"):
        write_file(path, b"new" * 9000)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x" * 251 + ".csv", "数" * 83 + ".csv", "💡" * 62 + ".csv"])
def test_a_file_with_the_longest_possible_name_can_be_written(tmp_path: Path, name: str) -> None:
    """The name of its temporary file, in any script, is not too long."""
    write_file(tmp_path / name, b"content")
    assert (tmp_path / name).read_bytes() == b"content"


def test_the_hash_of_a_file_is_the_sha256_of_its_content(tmp_path: Path) -> None:
    """It is the hash that `sha256sum` prints."""
    path = tmp_path / "f"
    path.write_bytes(b"content" * 100_000)
    assert hash_file(path) == hashlib.sha256(b"content" * 100_000).hexdigest()
