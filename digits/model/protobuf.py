"""Protobuf: read the fields of a message without knowing its type, as in ONNX files."""

from collections.abc import Iterator

from digits.errors import ModelError

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf fields."""
_MAX_VARINT = 10
"""Largest length of a variable-length integer in bytes."""


def fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field of a message; a value other than an integer is a view of its bytes.

    Raises:
        ModelError: if the content is not a protobuf message.
    """
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        kind = tag & 7
        if kind == _VARINT:
            value, place = _varint(content, place)
            yield tag >> 3, value
            continue
        length, place = _length(content, place, kind)
        if place + length > len(content):
            raise ModelError("truncated content")
        yield tag >> 3, content[place : place + length]
        place += length


def _length(content: memoryview, place: int, kind: int) -> tuple[int, int]:
    """Return the number of bytes of a field's value, and the position at which the value begins."""
    if kind == _LENGTH:
        return _varint(content, place)
    if kind not in (_FIXED32, _FIXED64):
        raise ModelError("other content")
    return (4 if kind == _FIXED32 else 8), place


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    """Return the integer at a position, and the position after it."""
    value = 0
    for count, byte in enumerate(content[place : place + _MAX_VARINT]):
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:  # noqa: PLR2004 - the highest bit is set if more bytes follow
            return value, place + count + 1
    raise ModelError("other content")
