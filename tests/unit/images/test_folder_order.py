"""Sorting of listings that are too large for memory."""

import tempfile
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from digits.images.folder import Listing
from digits.store import sorting
from digits.store.sorting import sort_records
from tests.support.faults import no_space


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit the records in memory, so that most are written to the file."""
    monkeypatch.setattr(sorting, "RECORDS_PER_RUN", 5)
    monkeypatch.setattr(sorting, "RECORDS_PER_BLOCK", 2)


@pytest.fixture
def file() -> Iterator[BinaryIO]:
    """Yield a temporary file."""
    with tempfile.TemporaryFile(buffering=0) as made:
        yield made


@given(records=st.lists(st.binary(max_size=4), max_size=40), more=st.lists(st.binary(max_size=4), max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("few")
def test_records_are_sorted(file: BinaryIO, records: list[bytes], more: list[bytes]) -> None:
    """Records are any bytes, and two sorts may share a file."""
    first, second = sort_records(records, file), sort_records(more, file)
    assert [*zip_longest(first, second)] == [*zip_longest(sorted(records), sorted(more))]


def test_a_few_records_are_sorted_in_memory() -> None:
    """The file is not written."""
    with tempfile.TemporaryFile(buffering=0) as file:
        ordered = sort_records(map(bytes, ([3], [1], [2])), file)
        assert file.tell() == 0
    assert list(ordered) == [b"\1", b"\2", b"\3"]


@pytest.mark.usefixtures("few")
def test_at_most_one_run_is_in_memory(file: BinaryIO) -> None:
    """All other records are in the file before the first is returned."""
    records = [b"%03d" % number for number in range(100)]
    ordered = sort_records(reversed(records), file)
    assert file.tell() >= sum(map(len, records))
    assert list(ordered) == records


@pytest.mark.usefixtures("few")
def test_short_writes_are_completed() -> None:
    """The kernel makes them if a disk is nearly full."""

    class Short:
        def __init__(self, real: BinaryIO) -> None:
            self._real = real

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

        def write(self, content: bytes) -> int:
            return self._real.write(content[:7])

    records = [b"%03d" % number for number in range(23)]
    with tempfile.TemporaryFile(buffering=0) as file:
        assert list(sort_records(reversed(records), Short(file))) == records  # type: ignore[arg-type]


@pytest.mark.usefixtures("few")
def test_a_folder_of_more_files_than_fit_in_memory_is_listed_in_order(tmp_path: Path) -> None:
    """So are its subfolders, and no temporary file is left."""
    names = [f"{number:02}/{inner}.png" for number in range(7) for inner in range(8)]
    names += [f"{number:02}.png" for number in range(20)] + ["odd\n.png", "odd \n.png"]
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    listing = Listing(tmp_path / "in", scratch=scratch)
    assert [entry.path for entry in listing] == sorted(name.encode() for name in names)
    assert list(scratch.iterdir()) == []


@pytest.mark.usefixtures("few")
def test_a_missing_scratch_directory_is_an_error(tmp_path: Path) -> None:
    """The listed folder is not reported as unreadable."""
    with pytest.raises(FileNotFoundError):
        list(Listing(tmp_path, scratch=tmp_path / "nowhere"))


@pytest.mark.usefixtures("few")
def test_a_full_disk_while_sorting_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is silently missing from the listing."""
    for number in range(7):
        (tmp_path / f"{number}.png").touch()
    monkeypatch.setattr(sorting, "write_block", lambda *_: no_space())
    with pytest.raises(OSError, match="No space left"):
        list(Listing(tmp_path))
