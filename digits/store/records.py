"""Sealed JSON records.

A sealed record carries the SHA-256 of its own other fields, so that a flipped bit in it is found when it is read.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from digits.errors import CorruptArtifactError
from digits.store.files import sync, sync_directory, temporary_file, write_file

Record = dict[str, Any]
SEAL = "sha256_of_record"
MAX_REPAIRED_BYTES = 2**14
"""Bytes of a record of which each bit is tried: some ten seconds."""


def canonical_json(value: object) -> bytes:
    """Give the one byte string that stands for a JSON value: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest_of(value: object) -> str:
    """Give the SHA-256 (64 hexadecimal digits) of a JSON value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


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


def repair_flipped_bit(content: bytes) -> bytes | None:
    """Give a damaged record as it was before one of its bits flipped; None where more has changed, or it is long.

    Every bit is tried: only with the right one does the record have the hash that it carries.
    """
    damaged = bytearray(content)
    for position in range(len(content) * 8 if len(content) <= MAX_REPAIRED_BYTES else 0):
        damaged[position // 8] ^= 1 << position % 8
        with suppress(CorruptArtifactError):
            decode_record(bytes(damaged), name="")
            return bytes(damaged)
        damaged[position // 8] ^= 1 << position % 8
    return None


def read_record(path: Path) -> Record:
    """Read a sealed record from a file; see `decode_record` for what it raises."""
    return decode_record(path.read_bytes(), name=str(path))


def write_record(path: Path, record: Mapping[str, Any], *, durable: bool = True) -> None:
    """Seal a record and write it, atomically."""
    write_file(path, encode_record(record), durable=durable)


def create_record(path: Path, record: Mapping[str, Any]) -> bool:
    """Seal a record and write it where nothing is yet; False when the name was taken already."""
    with temporary_file(path) as (name, file):
        file.write(encode_record(record))
        sync(file)
        try:
            os.link(name, path)
        except FileExistsError:
            return False
    sync_directory(path.parent)
    return True
