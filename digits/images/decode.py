"""One picture from bytes to grey pixels, rightly or refused; and the closed list of statuses of a row.

One decoder for training and prediction. Only the formats of `FORMATS` are ever handed to Pillow, each straight to its
own reader, so that no rarely used one (or Ghostscript) is started by a hostile file. `Image.open` would ask every
reader in turn, which costs a third of the time of a small PNG and hides what was wrong with a damaged one.

Two kinds of files have a shorter way: a greyscale PNG that is nothing but pixels (as MNIST's digits are) is decoded by
libspng, to the pixels that Pillow gives; a photo in JPEG, by libjpeg-turbo at a half, a quarter or an eighth of its
size. Where they fail, Pillow decides, and says what is wrong.
"""

import importlib
import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps
from PIL.ImageFile import ImageFile

from digits.errors import DigitsError
from digits.images.formats import (
    DEFAULT_MAX_PIXELS,
    FORMATS,
    OTHER_READERS,
    OTHER_SIGNATURE,
    READERS,
    SIGNATURE,
    OtherFormat,
    matches_format,
)
from digits.images.types import Pixels
from digits.status import Status

MIN_SIDE = 112
"""What `decode` is to leave of the shorter side of a large JPEG when the picture is about to be normalised."""
_SCALES = (8, 4, 2)
_STRIP = 1 << 20
_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-f]+>")
_ORIENTED_BY = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
_ON_ITS_SIDE = range(5, 9)
_MAY_HAVE_FRAMES = ("GIF", "TIFF", "WEBP", "PNG")
# What a sample of these PNG depths is multiplied by to be 8 bit; Pillow scales the pixels, but not the tRNS colour.
_TRANSPARENT_SCALE = {"L;2": 85.0, "L;4": 17.0, "RGB;16B": 1 / 256}
_UINT = struct.Struct(">I").unpack_from
_GREY = (b"\1\0", b"\2\0", b"\4\0", b"\x08\0")
_SEGMENT = struct.Struct(">BBHBHHB")
_MARK, _SCAN, _FRAME = 0xFF, 0xDA, 0xC0
_TABLES = (0xDB, 0xC4, 0xDD)
_JFIF = b"\xe0\0\x10JFIF\0"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_WARNINGS_LOCK = threading.Lock()


@dataclass(frozen=True, eq=False, slots=True)
class Decoded:
    """A picture as it is meant to be seen.

    Args:
        pixels: (H, W) uint8, 0 is black; upright, and on white where it is transparent; a large JPEG may be reduced.
        width: of the picture itself, in pixels, upright.
        height: of the picture itself, in pixels, upright.
        more_frames: it has other frames or pages than this first one.
    """

    pixels: Pixels
    width: int
    height: int
    more_frames: bool = False


class DecodeError(DigitsError):
    """A file that is no readable image: the status of its row, a sentence, and its size in pixels where it is known."""

    def __init__(self, status: Status, message: str, *, width: int | None = None, height: int | None = None) -> None:
        super().__init__(message)
        self.status: Status = status
        self.width = width
        self.height = height


def decode(
    content: bytes,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    min_side: int | None = None,
    others: Sequence[OtherFormat] = (),
) -> Decoded:
    """Decode the first frame of a picture to grey pixels.

    Every depth is scaled to 8 bit, not clipped; numbers without a stated range (32 bit, float) are taken as 0..1,
    0..255 or 0..65535 where they fit, else from their least to their greatest.

    Args:
        content: the file's bytes.
        max_pixels: of the picture's width times its height.
        least_side: a JPEG is decoded at the smallest of 1, 1/2, 1/4 and 1/8 of its size that leaves the shorter side
            so many pixels; None: whole, as any other picture.
        others: formats that are to be read besides `FORMATS`.

    Raises:
        DecodeError: it is not one of our formats, damaged, or has more than `max_pixels`.
    """
    kind = _format_of(content, others)
    try:
        if kind == "PNG" and (plain := _plain_png(content, max_pixels)) is not None:
            return plain
        if kind == "JPEG" and min_side and (plain := _plain_jpeg(content, max_pixels, min_side)) is not None:
            return plain
        with _quiet():
            return _decode(content, kind, max_pixels, min_side)
    except DecodeError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise DecodeError("too-large", f"this {kind} needs more memory than is allowed; shrink the image") from error
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise DecodeError("unreadable", f"a damaged {kind}: {_sentence(error)}") from error


def _format_of(content: bytes, others: Sequence[OtherFormat]) -> str:
    match = SIGNATURE.match(content)
    if match is not None and match.lastgroup is not None:
        return match.lastgroup
    if not content:
        raise DecodeError("not-an-image", "the file is empty")
    asked_for = next((kind for kind in others if matches_format(content[:16], kind) is not False), None)
    if asked_for is not None:
        return asked_for
    other = OTHER_SIGNATURE.match(content[:1024])
    if other is not None and other.lastgroup is not None:
        name = other.lastgroup.replace("_", " ")
        raise DecodeError("unsupported", f"found {name}, but only {', '.join(FORMATS)} are read; convert the file")
    raise DecodeError("not-an-image", f"it does not begin like any of {', '.join(FORMATS)}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings, but make that of a decompression bomb an error.

    Python's warning filters belong to the whole process, hence the lock: threads decode one after the other, which
    for small images is faster anyway.
    """
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _plain_png(content: bytes, max_pixels: int) -> Decoded | None:
    """Decode a greyscale PNG of at most 8 bit that has one intact chunk of data and nothing else, else None.

    libspng does not insist on the checksums, hence the tests here.
    """
    if content[24:26] not in _GREY or content[37:41] != b"IDAT":
        return None
    width, height, length = _UINT(content, 16)[0], _UINT(content, 20)[0], _UINT(content, 33)[0]
    end = 41 + length
    if len(content) != end + 16 or content[end + 4 :] != _PNG_END or width * height > max_pixels:
        return None
    try:
        _check(content[12:29], content[29:33])
        _check(content[37:end], content[end : end + 4])
        data = zlib.decompressobj()
        data.decompress(content[41:end], 2 * (width + 8) * (height + 8))  # more than rows, filters, interlacing take
        pixels: Pixels = _png_reader()(content)
    except (ValueError, RuntimeError, zlib.error):
        return None
    return Decoded(pixels, width, height) if data.eof else None


def _check(data: bytes, checksum: bytes) -> None:
    if zlib.crc32(data) != _UINT(checksum)[0]:
        raise ValueError


@cache
def _png_reader() -> Callable[[bytes], Pixels]:
    import pyspng

    read: Callable[[bytes], Pixels] = pyspng.load
    return read


def _plain_jpeg(content: bytes, max_pixels: int, min_side: int) -> Decoded | None:
    """Decode a large baseline JPEG that holds nothing but pixels, at a part of its size, else None."""
    size = _size_of_plain_jpeg(content)
    if size is None or size[0] * size[1] > min(max_pixels, DEFAULT_MAX_PIXELS):
        return None
    pixels = _reduced(content, size, min_side)
    return None if pixels is None else Decoded(pixels, *size)


def _size_of_plain_jpeg(content: bytes) -> tuple[int, int] | None:
    """Give width and height of a baseline JPEG, grey or of three components, without metadata; None for any other.

    Before its pixels it has tables, a JFIF header and a frame header, and no EXIF, profile or comment (ITU-T T.81,
    annex B). The least irregularity is left to Pillow to judge.
    """
    size, place = None, 2
    while place + _SEGMENT.size <= len(content):
        mark, marker, length, depth, height, width, components = _SEGMENT.unpack_from(content, place)
        if mark != _MARK:
            return None
        if marker == _SCAN:
            return size
        if marker == _FRAME:
            if size is not None or depth != 8 or components not in (1, 3) or not width * height:  # noqa: PLR2004 - bits
                return None
            size = width, height
        elif marker not in _TABLES and not content.startswith(_JFIF, place + 1):
            return None
        place += 2 + length
    return None


def _decode(content: bytes, kind: str, max_pixels: int, min_side: int | None) -> Decoded:
    image = _open(content, kind)
    _check_size(image, max_pixels)
    if kind == "JPEG" and min_side and image.mode in ("L", "RGB"):
        small = _reduced(content, image.size, min_side)
        if small is not None:
            return _upright_reduced(small, image)
    _mend_transparency(image)
    pixels = _to_grey(_upright(image))
    height, width = pixels.shape
    return Decoded(pixels, width, height, more_frames=kind in _MAY_HAVE_FRAMES and _has_more_frames(image))


def _reduced(content: bytes, size: tuple[int, int], min_side: int) -> Pixels | None:
    """Decode a large JPEG at a part of its size, else None."""
    scale = next((scale for scale in _SCALES if min(size) >= min_side * scale), 1)
    if scale == 1:
        return None
    import simplejpeg

    width, height = (-(-side // scale) for side in size)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(content, "GRAY", fastdct=True, min_width=width, min_height=height)
    except ValueError:
        return None
    return pixels[:, :, 0]


def _upright_reduced(pixels: Pixels, image: ImageFile) -> Decoded:
    small = Image.fromarray(pixels)
    small.info = image.info
    turned = small.getexif().get(ExifTags.Base.Orientation, 1) in _ON_ITS_SIDE
    width, height = reversed(image.size) if turned else image.size
    return Decoded(_bytes_of(_oriented(small)), width, height)


def _open(content: bytes, kind: str) -> ImageFile:
    importlib.import_module(READERS.get(kind) or OTHER_READERS[kind])
    read, _ = Image.OPEN[kind]
    image: ImageFile = read(io.BytesIO(content), "")
    return image


def _check_size(image: ImageFile, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise DecodeError(
            "too-large",
            f"{width} x {height} pixels are over the limit of {max_pixels}; raise max_pixels or shrink the image",
            width=width,
            height=height,
        )


def _mend_transparency(image: ImageFile) -> None:
    """Bring the transparent colour of a PNG of few or many bits to the 8 bit that its pixels will have."""
    colour = image.info.get("transparency")
    if colour is None or image.format != "PNG" or not image.tile:
        return
    scale = _TRANSPARENT_SCALE.get(str(image.tile[0].args))
    if scale is not None:
        scaled = tuple(int(part * scale) for part in np.atleast_1d(colour).tolist())
        image.info["transparency"] = scaled if isinstance(colour, tuple) else scaled[0]


def _upright(image: ImageFile) -> Image.Image:
    """Apply the EXIF orientation, where Pillow's reader has not done so by itself (that of TIFF has)."""
    image.load()
    return _oriented(image)


def _oriented(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) if any(key in image.info for key in _ORIENTED_BY) else image


def _has_more_frames(image: ImageFile) -> bool:
    with suppress(Exception):  # a damaged second frame is no fault of the first
        return bool(getattr(image, "is_animated", False))
    return True


def _to_grey(image: Image.Image) -> Pixels:
    if image.mode.startswith("I;16"):
        return _grey_of_16_bit(image)
    if image.mode in ("I", "F"):
        return _grey_of_numbers(np.asarray(image))
    if image.mode == "LAB":
        return _bytes_of(image.getchannel("L"))
    if image.has_transparency_data:
        return _bytes_of(_on_white(image))
    return _bytes_of(image if image.mode == "L" else image.convert("L"))


def _bytes_of(image: Image.Image) -> Pixels:
    width, height = image.size
    return np.frombuffer(image.tobytes(), np.uint8).reshape(height, width)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode not in ("RGBA", "LA"):
        image = image.convert("RGBA")
    canvas = Image.new("L", image.size, 255)
    canvas.paste(image.convert("L"), mask=image.getchannel("A"))
    return canvas


def _grey_of_16_bit(image: Image.Image) -> Pixels:
    values = np.asarray(image)
    transparent = image.info.get("transparency")
    grey = np.empty(values.shape, np.uint8)
    for strip, result in _strips(values, grey):
        result[:] = (strip.astype(np.uint32) + 128) // 257
        if transparent is not None:
            result[strip == transparent] = 255
    return grey


def _strips(values: npt.NDArray[Any], grey: Pixels) -> Iterator[tuple[npt.NDArray[Any], Pixels]]:
    """Go through a picture and its result a few rows at a time: what is made on the way must not be large."""
    rows = max(1, _STRIP // values.shape[1])
    for top in range(0, len(values), rows):
        yield values[top : top + rows], grey[top : top + rows]


def _grey_of_numbers(values: npt.NDArray[Any]) -> Pixels:
    grey = np.empty(values.shape, np.uint8)
    ends = [ends for strip, _ in _strips(values, grey) if (ends := _ends_of(strip))]
    if not ends:
        raise DecodeError("unreadable", "it holds no finite number")
    low, high = _range_of(min(least for least, _ in ends), max(greatest for _, greatest in ends))
    for strip, result in _strips(values, grey):
        finite = np.nan_to_num(strip.astype(np.float64), nan=low, posinf=high, neginf=low)
        result[:] = np.rint((finite - low) * (255 / (high - low)))
    return grey


def _ends_of(values: npt.NDArray[Any]) -> tuple[float, float] | None:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else None


def _range_of(least: float, greatest: float) -> tuple[float, float]:
    if least >= 0:
        for top in (1.0, 255.0, 65535.0):
            if greatest <= top:
                return 0.0, top
    return least, max(greatest, least + 1)


def _sentence(error: Exception) -> str:
    """Say what Pillow said, without what differs from run to run."""
    words = _ADDRESS.sub("the file", str(error) or type(error).__name__)
    return " ".join("".join(c if c.isprintable() else " " for c in words).split())[:200]
