"""Damaged images: files of every supported format, changed at random but reproducibly."""

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from tests.support.data import contents

_SIZES = ((28, 28), (61, 47))
_PNG = b"\x89PNG\r\n\x1a\n"
_HEADER = 33
"""Bytes of a PNG up to the end of its first chunk, about the size of other headers. Most mutations spare them."""

_MARKER = 0xFF
_MOSTLY = 0.9
_LENGTHS = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
_MODES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "png": [(mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")],
    "jpg": [
        ("L", {}),
        ("RGB", {"quality": 90}),
        ("RGB", {"progressive": True}),
        ("RGB", {"subsampling": 0, "restart_marker_rows": 1}),
        ("CMYK", {}),
    ],
    "gif": [("P", {}), ("L", {"interlace": 1}), ("1", {})],
    "bmp": [(mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA")],
    "webp": [("RGB", {}), ("RGBA", {}), ("RGB", {"lossless": True}), ("RGBA", {"lossless": True})],
    "tif": [
        *((mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I", "F")),
        *(("RGB", {"compression": name}) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
        ("1", {"compression": "group4"}),
        ("1", {"compression": "group3"}),
    ],
}


def seed_files() -> list[tuple[str, bytes]]:
    """Return undamaged files with their extensions: all formats in many modes, multiple frames, EXIF, PngSuite."""
    made = [
        (extension, _encoded(_picture(size, mode), extension, **options))
        for size in _SIZES
        for extension, modes in _MODES.items()
        for mode, options in modes
    ]
    return [*made, *_special(), *(("png", content) for content in contents("pngsuite").values())]


def _special() -> Iterator[tuple[str, bytes]]:
    frames = [_picture(_SIZES[0], "RGB").rotate(angle) for angle in (0, 90, 180)]
    for extension in ("gif", "png", "webp", "tif"):
        yield extension, _encoded(frames[0], extension, save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 6
    for extension in ("jpg", "png", "webp"):
        yield extension, _encoded(_picture(_SIZES[1], "RGB"), extension, exif=exif)
    yield "png", _encoded(_picture(_SIZES[1], "P"), "png", transparency=0)
    yield "gif", _encoded(_picture(_SIZES[1], "P"), "gif", transparency=0)


def _picture(size: tuple[int, int], mode: str) -> Image.Image:
    """Draw a gradient with noise and a stroke."""
    width, height = size
    random_numbers = np.random.default_rng(width)
    pixels = np.add.outer(np.arange(height) * 2, np.arange(width) * 2) % 256 + random_numbers.integers(
        0, 20, (height, width)
    )
    pixels[height // 4 : -height // 4, width // 2 - 2 : width // 2 + 2] = 255
    grey = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint16) * 257)
    return grey.convert(mode)


def _encoded(image: Image.Image, extension: str, **options: Any) -> bytes:
    file = io.BytesIO()
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(extension, extension.upper())
    image.save(file, kind, **options)
    return file.getvalue()


def mutate(content: bytes, draws: random.Random) -> bytes:
    """Change a file one to three times at random. Half of the PNG files get correct checksums again."""
    for _ in range(draws.randint(1, 3)):
        content = draws.choice(_MUTATIONS)(content, draws)
    return fix_checksums(content) if content.startswith(_PNG) and draws.random() < 0.5 else content


def _choose_position(content: bytes, draws: random.Random) -> int:
    """Choose the position of a byte, mostly behind the header."""
    first = _HEADER if draws.random() < _MOSTLY and len(content) > _HEADER else 0
    return draws.randrange(first, max(len(content), first + 1))


def _flip_bits(content: bytes, draws: random.Random) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(draws.choice((1, 1, 2, 8))):
        changed[_choose_position(content, draws) % len(changed)] ^= 1 << draws.randrange(8)
    return bytes(changed)


def _set_bytes(content: bytes, draws: random.Random) -> bytes:
    place, length = _choose_position(content, draws), draws.choice((1, 2, 4, 16))
    return content[:place] + draws.randbytes(length) + content[place + length :]


def _truncate(content: bytes, draws: random.Random) -> bytes:
    return content[: _choose_position(content, draws)]


def _edit_length(content: bytes, draws: random.Random) -> bytes:
    """Replace a possible length field, of a chunk or anywhere, by a number that is often a limit."""
    chunks = _chunks(content)
    place = draws.choice(chunks).start if len(chunks) > 1 else _choose_position(content, draws)
    form = ">I" if content.startswith(_PNG) else draws.choice((">H", "<H", ">I", "<I"))
    value = struct.pack(form, draws.choice(_LENGTHS) & (0xFFFF if form.endswith("H") else 0xFFFFFFFF))
    return content[:place] + value + content[place + len(value) :]


def _duplicate(content: bytes, draws: random.Random) -> bytes:
    chunk = draws.choice(_chunks(content))
    return content[: chunk.stop] + content[chunk.start :]


def _delete(content: bytes, draws: random.Random) -> bytes:
    chunk = draws.choice(_chunks(content))
    return content[: chunk.start] + content[chunk.stop :]


def _swap(content: bytes, draws: random.Random) -> bytes:
    first, second = sorted((draws.choice(_chunks(content)) for _ in range(2)), key=lambda chunk: chunk.start)
    if first.stop > second.start:
        return content
    between = content[first.stop : second.start]
    return (
        content[: first.start]
        + content[second.start : second.stop]
        + between
        + content[first.start : first.stop]
        + content[second.stop :]
    )


_MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip_bits,
    _set_bytes,
    _truncate,
    _edit_length,
    _duplicate,
    _delete,
    _swap,
)


def _chunks(content: bytes) -> list[slice]:
    """Divide a file behind its header into parts: chunks of a PNG, segments of a JPEG, sixteenths of others."""
    if content.startswith(_PNG):
        return _png_chunks(content)[1:] or [slice(len(content), len(content))]
    if content.startswith(b"\xff\xd8"):
        return _jpeg_segments(content)
    step = max(1, (len(content) - _HEADER) // 16)
    return [slice(start, start + step) for start in range(_HEADER, max(len(content), _HEADER + 1), step)]


def _png_chunks(content: bytes) -> list[slice]:
    chunks, start = [], len(_PNG)
    while start + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, start)
        chunks.append(slice(start, min(start + 12 + length, len(content))))
        start += 12 + length
    return chunks


def _jpeg_segments(content: bytes) -> list[slice]:
    segments, start = [], 2
    while start + 4 <= len(content) and content[start] == _MARKER:
        (length,) = struct.unpack_from(">H", content, start + 2)
        segments.append(slice(start, min(start + 2 + length, len(content))))
        start += 2 + length
    return segments or [slice(2, len(content))]


def fix_checksums(content: bytes) -> bytes:
    """Return a PNG with the correct checksum in each chunk."""
    parts, end = [content[: len(_PNG)]], len(_PNG)
    for chunk in _png_chunks(content):
        body = content[chunk.start : max(chunk.stop - 4, chunk.start)]
        parts.append(body + struct.pack(">I", zlib.crc32(body[4:])))
        end = chunk.stop
    return b"".join([*parts, content[end:]])
