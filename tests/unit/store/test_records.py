"""Sealed records: encoding, damage and repair."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digits.errors import CorruptArtifactError
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

pytestmark = pytest.mark.usefixtures("without_sync")

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.dictionaries(st.text().filter(lambda key: key != SEAL), VALUES, max_size=4)
RECORD = {"kind": "arrays", "files": {"a.npy": {"bytes": 12, "sha256": "00ff"}}, "share": 0.25, "name": "Zürich \n"}


@settings(max_examples=50)
@given(RECORDS)
def test_a_record_is_read_back_as_it_was_written(record: dict[str, object]) -> None:
    """Sealing does not change the record's content."""
    assert decode_record(encode_record(record), name="x") == record


@settings(max_examples=50)
@given(RECORDS)
def test_the_digest_of_a_value_does_not_depend_on_the_order_of_its_keys(record: dict[str, object]) -> None:
    """A recipe with its keys in another order is the same recipe."""
    assert digest_of(dict(reversed(record.items()))) == digest_of(record)


def test_canonical_json_is_sorted_ascii_without_spaces() -> None:
    """Other programs can therefore compute the hash."""
    assert canonical_json({"b": [1, None], "a": "é"}) == b'{"a":"\\u00e9","b":[1,null]}'
    assert digest_of({}) == hashlib.sha256(b"{}").hexdigest()


def test_nan_and_infinity_are_refused() -> None:
    """JSON cannot express them, and other readers would refuse the record."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"loss": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_record({"loss": float("inf")})


def test_any_flipped_bit_of_a_record_is_detected() -> None:
    """This includes bits that change no value, such as the case of an escape or an exponent."""
    content = encode_record({**RECORD, "loss": 1e-05})
    for position in range(len(content) * 8):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(CorruptArtifactError):
            decode_record(bytes(damaged), name="x")


def test_a_single_flipped_bit_of_a_record_is_repaired() -> None:
    """Two flipped bits are not, nor is a record above the size limit."""
    content = encode_record(RECORD)
    for position in range(0, len(content) * 8, 37):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        assert repair_flipped_bit(bytes(damaged)) == content
    damaged[0] ^= 1
    assert repair_flipped_bit(bytes(damaged)) is None
    assert repair_flipped_bit(b"x" * (MAX_REPAIRED_BYTES + 1)) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"\xff\xfe", b'{"a": 1}', b'{"a": NaN}', b"{"])
def test_content_that_is_not_a_sealed_record_is_refused(content: bytes) -> None:
    """Other JSON, truncated JSON and other bytes are reported as damaged, with the record's name."""
    with pytest.raises(CorruptArtifactError, match=r"^the-name: .* does not match"):
        decode_record(content, name="the-name")


def test_the_error_for_a_damaged_record_names_its_file(tmp_path: Path) -> None:
    """It is the file to restore."""
    path = tmp_path / "000001.json"
    write_record(path, RECORD)
    assert read_record(path) == RECORD
    path.write_bytes(path.read_bytes().replace(b"arrays", b"errays"))
    with pytest.raises(CorruptArtifactError, match=str(path)):
        read_record(path)


def test_an_existing_record_is_not_created_again(tmp_path: Path) -> None:
    """The first writer's record stays."""
    path = tmp_path / "log" / "000001.json"
    assert create_record(path, {"version": 1})
    assert not create_record(path, {"version": 2})
    assert read_record(path) == {"version": 1}
    assert list(path.parent.iterdir()) == [path]


def test_a_sealed_record_is_indented_json() -> None:
    """It has one field per line, sorted, including the seal."""
    content = encode_record({"b": 1, "a": "x"})
    assert list(json.loads(content)) == ["a", "b", SEAL]
    assert content.startswith(b'{\n "a": "x",\n "b": 1,\n')
    assert content.endswith(b"}\n")
