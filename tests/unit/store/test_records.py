"""Sealed records and atomic files."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digits.errors import CorruptArtifactError
from digits.store.files import hash_file, replacing, write_file
from digits.store.records import (
    MAX_REPAIRED_BYTES,
    SEAL,
    canonical_json,
    create_record,
    decode_record,
    digest_of,
    encode_record,
    read_record,
    repair_flipped_bit,
    write_record,
)
from tests.support import faults

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.dictionaries(st.text().filter(lambda key: key != SEAL), VALUES, max_size=4)
RECORD = {"kind": "arrays", "files": {"a.npy": {"bytes": 12, "sha256": "00ff"}}, "share": 0.25, "name": "Zürich \n"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the disk."""
    monkeypatch.setattr(os, "fsync", faults.no_sync)


@settings(max_examples=50)
@given(RECORDS)
def test_a_record_is_read_back_as_it_was_written(record: dict[str, object]) -> None:
    """Sealing changes nothing of what is in a record."""
    assert decode_record(encode_record(record), name="x") == record


@settings(max_examples=50)
@given(RECORDS)
def test_the_digest_of_a_value_does_not_depend_on_the_order_of_its_keys(record: dict[str, object]) -> None:
    """The same recipe, written down in another order, is the same recipe."""
    assert digest_of(dict(reversed(record.items()))) == digest_of(record)


def test_canonical_json_is_what_others_would_compute() -> None:
    """The hashed form is plain: sorted, without spaces, ASCII; so other programs can check it."""
    assert canonical_json({"b": [1, None], "a": "é"}) == b'{"a":"\\u00e9","b":[1,null]}'
    assert digest_of({}) == hashlib.sha256(b"{}").hexdigest()


def test_what_json_has_no_word_for_is_refused() -> None:
    """NaN would be written in a way that other readers refuse."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"loss": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_record({"loss": float("inf")})


def test_every_flipped_bit_of_a_record_is_found() -> None:
    """Whichever it is, also where it changes no value: the case of an escape or of an exponent."""
    content = encode_record({**RECORD, "loss": 1e-05})
    for position in range(len(content) * 8):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(CorruptArtifactError):
            decode_record(bytes(damaged), name="x")


def test_a_flipped_bit_of_a_record_is_put_back() -> None:
    """Whichever it was; two of them can't be."""
    content = encode_record(RECORD)
    for position in range(0, len(content) * 8, 37):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        assert repair_flipped_bit(bytes(damaged)) == content
    damaged[0] ^= 1
    assert repair_flipped_bit(bytes(damaged)) is None
    assert repair_flipped_bit(b"x" * (MAX_REPAIRED_BYTES + 1)) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"\xff\xfe", b'{"a": 1}', b'{"a": NaN}', b"{"])
def test_what_is_no_sealed_record_is_refused(content: bytes) -> None:
    """Other JSON, cut-off JSON and no JSON at all are all called damaged, by name."""
    with pytest.raises(CorruptArtifactError, match=r"^the-name: .* does not match"):
        decode_record(content, name="the-name")


def test_a_damaged_record_is_named_by_its_path(tmp_path: Path) -> None:
    """The message says which file to restore."""
    path = tmp_path / "000001.json"
    write_record(path, RECORD)
    assert read_record(path) == RECORD
    path.write_bytes(path.read_bytes().replace(b"arrays", b"errays"))
    with pytest.raises(CorruptArtifactError, match=str(path)):
        read_record(path)


def test_a_file_keeps_its_content_when_its_new_content_can_not_be_made(tmp_path: Path) -> None:
    """An exception while writing leaves the old file and nothing beside it."""
    path = tmp_path / "predictions.csv"
    write_file(path, b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"new %d" % (1 // 0))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_wholly_old_or_wholly_new_whatever_fails(tmp_path: Path) -> None:
    """Every call to the kernel may fail for want of space: no half file, nothing left beside it."""
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
    """SIGKILL before every call to the kernel: readers see the old content or the new one."""
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
    assert seen == sorted(seen, reverse=True), "old until some call, new from there on"


@pytest.mark.parametrize("write", [write_file, lambda path, content: create_record(path, {"is": content.decode()})])
def test_content_is_on_disk_before_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes], object]
) -> None:
    """The file is synced, whole, then gets its name, then the directory is synced: a power cut loses all or nothing."""
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
    """A real write that fails halfway, not only a simulated one."""
    path = tmp_path / "dataset.json"
    write_file(path, b"old")
    with faults.full_disk(4096), pytest.raises(OSError, match="too large"):
        write_file(path, b"new" * 9000)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_record_is_created_once(tmp_path: Path) -> None:
    """A number that is taken stays with its first owner."""
    path = tmp_path / "log" / "000001.json"
    assert create_record(path, {"version": 1})
    assert not create_record(path, {"version": 2})
    assert read_record(path) == {"version": 1}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x" * 251 + ".csv", "数" * 83 + ".csv", "💡" * 62 + ".csv"])
def test_the_longest_names_a_file_system_takes_can_be_written(tmp_path: Path, name: str) -> None:
    """The temporary name beside a long one, in any script, is not too long itself."""
    write_file(tmp_path / name, b"content")
    assert (tmp_path / name).read_bytes() == b"content"


def test_a_file_is_hashed_by_its_content(tmp_path: Path) -> None:
    """The hash is the one that `sha256sum` prints."""
    path = tmp_path / "f"
    path.write_bytes(b"content" * 100_000)
    assert hash_file(path) == hashlib.sha256(b"content" * 100_000).hexdigest()


def test_a_sealed_record_is_json_that_people_can_read() -> None:
    """One field a line, sorted, with the seal among them."""
    content = encode_record({"b": 1, "a": "x"})
    assert list(json.loads(content)) == ["a", "b", SEAL]
    assert content.startswith(b'{\n "a": "x",\n "b": 1,\n')
    assert content.endswith(b"}\n")
