"""Sealed JSON records and files that appear whole or not at all.

A sealed record carries the SHA-256 of its own other fields, so that a flipped bit in it is found when it is read.
"""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any, BinaryIO

from digits.errors import CorruptArtifactError

Record = dict[str, Any]
SEAL = "sha256_of_record"
MOST_MENDED = 2**14
"""Bytes of a record of which each bit is tried: some ten seconds."""
_NAMED = 40
"""Characters of a file's name that are in that of its temporary one."""
TEMPORARY = re.compile(rb"\.(.+)\.[0-9a-f]{16}\.tmp", re.DOTALL)
"""The name of a file that is being written, with that of the file whose place it takes, or its first characters."""


def canonical_json(value: object) -> bytes:
    """Give the one byte string that stands for a JSON value: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest_of(value: object) -> str:
    """Give the SHA-256 (64 hexadecimal digits) of a JSON value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def hash_file(path: Path) -> str:
    """Give the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(record: Mapping[str, Any]) -> Record:
    """Give a copy of the record with its own hash added."""
    body = {key: value for key, value in record.items() if key != SEAL}
    return {**body, SEAL: digest_of(body)}


def encode_record(record: Mapping[str, Any]) -> bytes:
    """Give the sealed record as indented JSON, with a newline at its end."""
    return _indented(sealed(record)) + b"\n"


def _indented(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, indent=1, sort_keys=True, allow_nan=False).encode("ascii")


def decode_record(content: bytes, *, name: str) -> Record:
    """Read a sealed record back.

    Raises:
        CorruptArtifactError: it is no JSON object, its hash is not the one it carries, or it is not written as we do,
            so that a changed byte is found even where it changes no value.
    """
    try:
        record = json.loads(content)
        whole = sealed(record) if isinstance(record, dict) else {}
        intact = record == whole and content in (_indented(whole) + b"\n", canonical_json(whole))
    except ValueError:
        intact = False
    if not intact:
        raise CorruptArtifactError(
            f"{name}: the record's hash does not match its content, so it was damaged after it was written; "
            "restore it from a backup, or delete it to have it made again"
        )
    return {key: value for key, value in record.items() if key != SEAL}


def mended(content: bytes) -> bytes | None:
    """Give a damaged record as it was before one of its bits flipped; None where more has changed, or it is long.

    Every bit is tried: only with the right one does the record have the hash that it carries.
    """
    damaged = bytearray(content)
    for position in range(len(content) * 8 if len(content) <= MOST_MENDED else 0):
        damaged[position // 8] ^= 1 << position % 8
        with suppress(CorruptArtifactError):
            decode_record(bytes(damaged), name="")
            return bytes(damaged)
        damaged[position // 8] ^= 1 << position % 8
    return None


def read_record(path: Path) -> Record:
    """Read a sealed record from a file; see `decode_record` for what it raises."""
    return decode_record(path.read_bytes(), name=str(path))


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` for writing; on a clean exit it is synced and takes the path's place.

    When the body raises, the path is untouched and the temporary file is removed. What can be made again need not be
    durable: without the wait for the disk, only a power failure can lose it, or leave it damaged.
    """
    with _temporary(path) as (name, file):
        yield file
        if durable:
            _sync(file)
        else:
            file.flush()
        name.replace(path)
    if durable:
        sync_directory(path.parent)


def write_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a whole file, atomically: readers see the old content or the new one."""
    with replacing(path, durable=durable) as file:
        file.write(content)


def write_record(path: Path, record: Mapping[str, Any], *, durable: bool = True) -> None:
    """Seal a record and write it, atomically."""
    write_file(path, encode_record(record), durable=durable)


def create_record(path: Path, record: Mapping[str, Any]) -> bool:
    """Seal a record and write it where nothing is yet; False when the name was taken already."""
    with _temporary(path) as (name, file):
        file.write(encode_record(record))
        _sync(file)
        try:
            os.link(name, path)
        except FileExistsError:
            return False
    sync_directory(path.parent)
    return True


def leftovers(directory: Path) -> Iterator[Path]:
    """Give the temporary files below a directory: those of writers at work, and of writers that were killed."""
    return (
        path for path in directory.rglob(".*.tmp") if TEMPORARY.fullmatch(os.fsencode(path.name)) and path.is_file()
    )


def remove_leftovers_of(*paths: Path) -> None:
    """Remove the temporary files of writers of these files that were killed; no writer may be at work."""
    for path in paths:
        for left in path.parent.glob(f".{escape(path.name[:_NAMED])}.{'[0-9a-f]' * 16}.tmp"):
            left.unlink(missing_ok=True)


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".{path.name[:_NAMED]}.{secrets.token_hex(8)}.tmp")
    try:
        with name.open("xb") as file:
            yield name, file
    finally:
        name.unlink(missing_ok=True)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make a directory's entries durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
