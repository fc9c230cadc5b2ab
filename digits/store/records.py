"""Sealed records: JSON objects with a seal, the SHA-256 of their other fields, so that damage is found on reading."""

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
"""Key of the seal in a record."""
MAX_REPAIRED_BYTES = 2**14
"""Largest record, in bytes, for which `repair_flipped_bit` tries every bit; this takes about ten seconds."""


def canonical_json(value: object) -> bytes:
    """Return the canonical encoding of a JSON value: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest_of(value: object) -> str:
    """Return the SHA-256 of a JSON value's canonical encoding, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sealed(record: Mapping[str, Any]) -> Record:
    """Return a copy of a record with its seal, which replaces any earlier one."""
    body = {key: value for key, value in record.items() if key != SEAL}
    return {**body, SEAL: digest_of(body)}


def encode_record(record: Mapping[str, Any]) -> bytes:
    """Return the sealed record as indented JSON with a final newline."""
    return _indented(sealed(record)) + b"\n"


def _indented(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, indent=1, sort_keys=True, allow_nan=False).encode("ascii")


def decode_record(content: bytes, *, name: str) -> Record:
    """Verify a sealed record, and return it without its seal.

    Args:
        content: encoded record, from `encode_record` or in the canonical encoding.
        name: name of the record in error messages.

    Raises:
        CorruptArtifactError: if the content is not a JSON object, does not match its seal, or has neither of the two
            encodings, so that even a changed byte that changes no value is found.
    """
    try:
        record = json.loads(content)
        whole = sealed(record) if isinstance(record, dict) else {}
        intact = record == whole and content in (_indented(whole) + b"\n", canonical_json(whole))
    except ValueError:
        intact = False
    if not intact:
        raise CorruptArtifactError(
            f"{name}: the record's hash does not match its content, so the record was damaged after it was written; "
            "restore it from a backup, or delete it to have it made again"
        )
    return {key: value for key, value in record.items() if key != SEAL}


def repair_flipped_bit(content: bytes) -> bytes | None:
    """Repair a damaged record that has one flipped bit, and return it; return None if it cannot be repaired.

    Every bit is flipped in turn, until the record matches its seal.

    Args:
        content: encoded record; not repaired if it is longer than `MAX_REPAIRED_BYTES`.
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
    """Read a sealed record from a file, and return it without its seal.

    Raises:
        CorruptArtifactError: if the record is damaged; see `decode_record`.
        OSError: if the file cannot be read.
    """
    return decode_record(path.read_bytes(), name=str(path))


def write_record(path: Path, record: Mapping[str, Any], *, durable: bool = True) -> None:
    """Seal a record and write it atomically; see `digits.store.files.write_file`."""
    write_file(path, encode_record(record), durable=durable)


def create_record(path: Path, record: Mapping[str, Any]) -> bool:
    """Seal a record and write it to a new file. Return False, without writing, if the file exists."""
    with temporary_file(path) as (name, file):
        file.write(encode_record(record))
        sync(file)
        try:
            os.link(name, path)
        except FileExistsError:
            return False
    sync_directory(path.parent)
    return True
