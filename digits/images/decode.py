"""Decoding: from the bytes of an image file to grey pixels, for training and prediction.

Only the formats of `FORMATS`, and others on request, are passed to Pillow, each directly to its own reader. A hostile
file therefore cannot start a rarely used reader or Ghostscript. `Image.open` is not used: it tries every reader in
turn, which takes a third of the time needed for a small PNG, and hides what is wrong with a damaged file.

Two kinds of files are decoded by faster libraries, if they are installed. libspng decodes a greyscale PNG without
metadata, such as MNIST's digits, to the same pixels as Pillow. libjpeg-turbo decodes a large JPEG at a half, a quarter
or an eighth of its size. If they fail, Pillow decodes the file or reports what is wrong with it.
`SmallPngs` decodes many small PNG files at once.
"""

import importlib
import io
import re
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageChops, ImageOps
from PIL.ImageFile import ImageFile

from digits.errors import DigitsError
from digits.images.contrast import find_contrast, has_clear_contrast, to_array
from digits.images.formats import (
    DEFAULT_MAX_PIXELS,
    FORMATS,
    HEAD_BYTES,
    SIGNATURE,
    OtherFormat,
    import_reader,
    matches_format,
    name_unread,
)
from digits.images.pages import EncryptedError, PageFile, PdfPage, open_pdf_page
from digits.images.types import Pixels
from digits.status import Status

MIN_SIDE = 112
"""Value of `min_side` for images that will be normalized, in pixels."""
_SCALES = (8, 4, 2)
"""Divisors of the size at which a JPEG may be decoded."""
_TOPS = (255, 1023, 4095, 16383, 65535)
"""Greatest samples of 8, 10, 12, 14 and 16 bit."""
_OTHER_BYTE = {
    f"{bands};16{order}": f"{bands};16{'L' if big else 'B'}"
    for bands in ("RGB", "RGBA")
    for order, big in (("B", True), ("L", False), ("N", sys.byteorder == "big"))
}
"""Pillow's raw modes for colours of 16 bit, of which it keeps the high bytes, with those that keep the low bytes."""
_FEW = 63
"""Largest high byte of samples of 14 bit."""
STRIP_PIXELS = 1 << 20
"""Number of pixels that are converted to grey at a time."""
_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-f]+>")
_ORIENTED_BY = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
"""Metadata from which Pillow reads the orientation."""
_ON_ITS_SIDE = range(5, 9)
"""EXIF orientations that exchange width and height."""
_MAY_HAVE_FRAMES = ("GIF", "TIFF", "WEBP", "PNG", "AVIF", "HEIF")
_EXTRAS = {"HEIF or AVIF": "heif", "PDF": "pdf"}
"""Extras that read unsupported formats, by the names of the formats."""
_TRANSPARENT_SCALE = {"L;2": 85.0, "L;4": 17.0, "RGB;16B": 1 / 256}
"""Factors from PNG depths to 8 bit. Pillow scales the pixels, but not the transparent colour in the chunk tRNS."""
_UINT = struct.Struct(">I").unpack_from
_GREY = (b"\1\0", b"\2\0", b"\4\0", b"\x08\0")
"""Depth (1, 2, 4 or 8 bit) and colour type (grey) in the header of a PNG."""
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER = struct.Struct(">IIBBBBB").pack
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_DATA_START = 41
"""Where the data begin in a PNG without metadata: after the start, the chunk of the header, and length and type."""
_ROOM = 64
"""Number of bytes that the compressed data may have beyond twice their size. So few cannot be decompressed to many."""
_FILTERS = b"\0\1\2\3\4"
"""First bytes of the rows of a PNG: how each was made from its neighbours."""
_SEGMENT = struct.Struct(">BBHBHHB")
_MARK, _SCAN, _FRAME = 0xFF, 0xDA, 0xC0
"""First byte of each JPEG marker, and the second bytes of the markers of a scan and of a baseline frame."""
_TABLES = (0xDB, 0xC4, 0xDD)
"""Second bytes of the markers of quantization tables, Huffman tables and the restart interval of a JPEG."""
_JFIF = b"\xe0\0\x10JFIF\0"
_WARNINGS_LOCK = threading.Lock()


class Decoded(NamedTuple):
    """Decoded image: its first frame or one page, upright, with white where it is transparent.

    Args:
        pixels: grey levels, (H, W) uint8; 0 is black. A large JPEG may have been reduced.
        width: width of the upright image in the file, in pixels.
        height: height of the upright image in the file, in pixels.
        more_frames: whether the file has more frames or pages than the first one; False for a page of a list.
    """

    pixels: Pixels
    width: int
    height: int
    more_frames: bool = False


class DecodeError(DigitsError):
    """Error for a file that is not a readable image.

    Args:
        status: status of its row in the table.
        message: description of the error for the table.
        width: width of the image in pixels, if known.
        height: height of the image in pixels, if known.
    """

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
    place: int | None = None,
) -> Decoded:
    """Decode the first frame or one page of an image file to grey pixels.

    Every depth is scaled to 8 bit, not clipped. Samples of 16 bit are scaled from the smallest of the ranges of 8, 10,
    12, 14 and 16 bit that holds all values. Formats without a fixed range (32 bit, float) are scaled likewise, or from
    0 to 1. If no range holds all values, they are scaled from the least value to the greatest.

    Args:
        content: content of the file.
        max_pixels: largest number of pixels, width times height.
        min_side: least number of pixels of the shorter side. A JPEG is decoded at the smallest of 1, 1/2, 1/4 and 1/8
            of its size at which it has that many; None for the full size. Other formats always have the full size.
        others: formats to read besides `FORMATS`.
        place: where the page is, from `digits.images.pages.list_pages`; None for the first frame or page.

    Raises:
        DecodeError: if the file is in another format or damaged, or has more than `max_pixels` pixels.
    """
    kind = _format_of(content, others)
    try:
        if kind == "PNG" and (plain := decode_plain_png(content, max_pixels)) is not None:
            return plain
        if kind == "JPEG" and min_side and (plain := decode_plain_jpeg(content, max_pixels, min_side)) is not None:
            return plain
        if kind == "PDF":
            return decode_pdf(content, max_pixels, place)
        with _silence_warnings():
            return decode_with_pillow(content, kind, max_pixels, min_side, place)
    except DecodeError:
        raise
    except EncryptedError as error:
        raise DecodeError("unsupported", "an encrypted PDF; save it without a password") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise DecodeError("too-large", f"this {kind} needs more memory than is allowed; shrink the image") from error
    except Exception as error:  # Pillow's readers raise many kinds of errors on damaged files
        raise DecodeError("unreadable", f"a damaged {kind}: {_describe(error)}") from error


def _format_of(content: bytes, others: Sequence[OtherFormat]) -> str:
    match = SIGNATURE.match(content)
    if match is not None and match.lastgroup is not None:
        return match.lastgroup
    if not content:
        raise DecodeError("not-an-image", "the file is empty")
    asked_for = next((kind for kind in others if matches_format(content[:HEAD_BYTES], kind) is not False), None)
    if asked_for is not None:
        return asked_for
    if name := name_unread(content):
        raise _unsupported(name)
    raise DecodeError("not-an-image", f"it does not begin like any of {', '.join(FORMATS)}")


def _unsupported(name: str) -> DecodeError:
    """Return the error for a file in a known format that is not read."""
    if "archive" in name:
        return DecodeError("not-an-image", f"found {name}, but no image; unpack it")
    if extra := _EXTRAS.get(name):
        remedy = "install this extra or convert the file"
        return DecodeError("unsupported", f"found {name}, which needs digits[{extra}]; {remedy}")
    return DecodeError("unsupported", f"found {name}, but only {', '.join(FORMATS)} are read; convert the file")


@contextmanager
def _silence_warnings() -> Iterator[None]:
    """Suppress Pillow's warnings, except that of a decompression bomb, which becomes an error.

    The lock is necessary since Python's warning filters belong to the process: threads decode one after another, which
    is faster for small images anyway.
    """
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode_plain_png(content: bytes, max_pixels: int) -> Decoded | None:
    """Decode a greyscale PNG of at most 8 bit with one intact data chunk and no metadata; return None for any other.

    The checksums are verified here, since libspng does not verify them.
    """
    if content[24:26] not in _GREY or content[37:41] != b"IDAT" or (reader := _faster_library("pyspng")) is None:
        return None
    width, height, length = _UINT(content, 16)[0], _UINT(content, 20)[0], _UINT(content, 33)[0]
    end = 41 + length
    if len(content) != end + 16 or content[end + 4 :] != _PNG_END or width * height > max_pixels:
        return None
    try:
        _check(content[12:29], content[29:33])
        _check(content[37:end], content[end : end + 4])
        data = zlib.decompressobj()
        # The limit is more than the rows with their filter bytes take, also when interlaced.
        data.decompress(content[41:end], 2 * (width + 8) * (height + 8))
        pixels: Pixels = reader.load(content)
    except (ValueError, RuntimeError, zlib.error):
        return None
    return Decoded(pixels, width, height) if data.eof else None


class SmallPngs:
    """Plain PNG files of 8 bit and one size that are decoded together, which takes half the time.

    Each file is decompressed and checked alone. Then libspng decodes one tall image of the rows of all of them. A black
    row is above each image, as the format assumes, so that no pixel depends on the other images. No file is accepted
    if pyspng is not installed.

    Args:
        shape: height and width of the images.
        most: largest number of images.
    """

    def __init__(self, shape: tuple[int, int], most: int) -> None:
        height, width = shape
        self._start = _PNG_START + _chunk(b"IHDR", _PNG_HEADER(width, height, 8, 0, 0, 0, 0))
        self._reader = _faster_library("pyspng")
        self._shape, self._most = (height, width + 1), most if self._reader else 0
        self._rows = list[bytes]()
        self._pixels = np.zeros((most, height, width), np.uint8)

    def add(self, content: bytes) -> Pixels | None:
        """Add a file, and return the array in which `decode` will put its pixels; return None for any other file."""
        if not content.startswith(self._start) or len(self._rows) == self._most:
            return None
        rows = _read_rows(content, self._shape)
        if rows is None:
            return None
        self._rows.append(rows)
        pixels: Pixels = self._pixels[len(self._rows) - 1]
        return pixels

    def decode(self) -> None:
        """Decode the files that were added, and forget them."""
        count, (height, width) = len(self._rows), self._shape
        if not count:
            return
        tall = np.zeros((count, height + 1, width), np.uint8)
        tall[:, 1:] = np.frombuffer(b"".join(self._rows), np.uint8).reshape(count, height, width)
        header = _PNG_HEADER(width - 1, count * (height + 1), 8, 0, 0, 0, 0)
        chunks = _chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(tall.tobytes(), 0))
        found = self._reader.load(b"".join((_PNG_START, *chunks, _PNG_END)))
        self._pixels[:count] = found.reshape(count, height + 1, width - 1)[:, 1:]
        self._rows, self._pixels = [], np.zeros_like(self._pixels)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))))


def _read_rows(content: bytes, shape: tuple[int, int]) -> bytes | None:
    """Return the rows of an intact plain PNG as they are before unfiltering; None for any other file.

    Args:
        content: content of a file with the header of a PNG.
        shape: number of rows, and of bytes per row, with the one that names its filter.
    """
    height, width = shape
    size, end = height * width, len(content) - 16
    data = content[_DATA_START - 4 : end]
    if len(data) > 2 * size + _ROOM or not data.startswith(b"IDAT") or not content.endswith(_PNG_END):
        return None
    if _UINT(content, 33)[0] != len(data) - 4 or _UINT(content, end)[0] != zlib.crc32(data):
        return None
    try:
        rows = zlib.decompress(data[4:], bufsize=size)
    except zlib.error:
        return None
    return rows if len(rows) == size and not rows[::width].translate(None, _FILTERS) else None


def _check(data: bytes, checksum: bytes) -> None:
    if zlib.crc32(data) != _UINT(checksum)[0]:
        raise ValueError


@cache
def _faster_library(name: str) -> Any:
    """Import a library that decodes some files faster than Pillow; return None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def decode_plain_jpeg(content: bytes, max_pixels: int, min_side: int) -> Decoded | None:
    """Decode a large baseline JPEG without metadata at a fraction of its size; return None for any other file."""
    size = _size_of_plain_jpeg(content) if _faster_library("simplejpeg") else None
    if size is None or size[0] * size[1] > min(max_pixels, DEFAULT_MAX_PIXELS):
        return None
    pixels = _reduced(content, size, min_side)
    return None if pixels is None else Decoded(pixels, *size)


def _size_of_plain_jpeg(content: bytes) -> tuple[int, int] | None:
    """Return width and height of a baseline JPEG with one or three components and without metadata, None for any other.

    Such a file has only tables, a JFIF header and a frame header before its pixels; no EXIF data, profile or comment.
    Source: ITU-T T.81, annex B. Pillow handles a file with any irregularity.
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


def decode_with_pillow(
    content: bytes, kind: str, max_pixels: int, min_side: int | None, place: int | None = None
) -> Decoded:
    """Decode an image of any supported kind with Pillow, upright and in grey."""
    image = _open(content, kind, place)
    _check_size(image, max_pixels)
    if kind == "JPEG" and min_side and image.mode in ("L", "RGB"):
        small = _reduced(content, image.size, min_side)
        if small is not None:
            return _upright_reduced(small, image)
    _scale_transparent_colour(image)
    _load(image, lambda: _open(content, kind, place))
    pixels = to_grey(_oriented(image))
    height, width = pixels.shape
    more_frames = place is None and kind in _MAY_HAVE_FRAMES and _has_more_frames(image)
    return Decoded(pixels, width, height, more_frames=more_frames)


def decode_pdf(content: bytes, max_pixels: int, place: int | None) -> Decoded:
    """Draw a page of a PDF and convert it to grey."""
    with open_pdf_page(content, place or 0) as page:
        _check_size(page, max_pixels)
        pixels = to_grey(page.draw())
    height, width = pixels.shape
    return Decoded(pixels, width, height, more_frames=place is None and page.pages > 1)


def _reduced(content: bytes, size: tuple[int, int], min_side: int) -> Pixels | None:
    """Decode a large JPEG at a fraction of its size; return None if it is not large or cannot be decoded."""
    scale = next((scale for scale in _SCALES if min(size) >= min_side * scale), 1)
    if scale == 1:
        return None
    try:
        pixels = _read_reduced(content, "L", size, scale)
        if has_clear_contrast(pixels) or _is_grey_jpeg(content):
            return pixels
        return find_contrast(Image.fromarray(pixels), Image.fromarray(_read_reduced(content, "RGB", size, scale)))
    except (ValueError, OSError):
        return None


def _read_reduced(content: bytes, mode: Literal["L", "RGB"], size: tuple[int, int], scale: int) -> Pixels:
    """Decode a JPEG at a fraction of its size: (H, W) uint8 in grey, (H, W, 3) uint8 in colour."""
    faster = _faster_library("simplejpeg")
    if faster is None:
        image = _open(content, "JPEG", None)
        image.draft(mode, (size[0] // scale, size[1] // scale))
        return np.asarray(image.convert(mode))
    width, height = (-(-side // scale) for side in size)
    space = "GRAY" if mode == "L" else mode
    pixels: Pixels = faster.decode_jpeg(content, space, fastdct=True, min_width=width, min_height=height)
    return pixels[:, :, 0] if mode == "L" else pixels


def _is_grey_jpeg(content: bytes) -> bool:
    faster = _faster_library("simplejpeg")
    if faster is None:
        return _open(content, "JPEG", None).mode == "L"
    return bool(faster.decode_jpeg_header(content)[2] == "Gray")


def _upright_reduced(pixels: Pixels, image: ImageFile) -> Decoded:
    small = Image.fromarray(pixels)
    small.info = image.info
    turned = small.getexif().get(ExifTags.Base.Orientation, 1) in _ON_ITS_SIDE
    width, height = reversed(image.size) if turned else image.size
    return Decoded(to_array(_oriented(small)), width, height)


def _open(content: bytes, kind: str, place: int | None) -> ImageFile:
    import_reader(kind)
    read, _ = Image.OPEN[kind]
    image: ImageFile = read(io.BytesIO(content) if place is None else PageFile(content, place), "")
    return image


def _check_size(image: ImageFile | PdfPage, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise DecodeError(
            "too-large",
            f"{width} x {height} pixels are over the limit of {max_pixels}; raise max_pixels or shrink the image",
            width=width,
            height=height,
        )


def _scale_transparent_colour(image: ImageFile) -> None:
    """Scale the transparent colour of a PNG with another depth to 8 bit, as Pillow scales the pixels."""
    colour = image.info.get("transparency")
    if colour is None or image.format != "PNG" or not image.tile:
        return
    scale = _TRANSPARENT_SCALE.get(str(image.tile[0].args))
    if scale is not None:
        scaled = tuple(int(part * scale) for part in np.atleast_1d(colour).tolist())
        image.info["transparency"] = scaled if isinstance(colour, tuple) else scaled[0]


def _load(image: ImageFile, open_again: Callable[[], ImageFile]) -> None:
    """Load an image. Scale colours of 10 to 14 bit in samples of 16 bit, of which Pillow keeps the high bytes only."""
    low_bytes = _OTHER_BYTE.get(_raw_mode(image))
    image.load()
    if low_bytes is None or (greatest := _greatest_colour(image)) > _FEW:
        return
    low = open_again()
    low.tile = [tile._replace(args=_replaced(tile.args, low_bytes)) for tile in low.tile]
    low.load()
    _add_low_bytes(image, low, greatest)


def _greatest_colour(image: Image.Image) -> int:
    """Return the greatest level of red, green and blue."""
    return int(np.max(image.getextrema()[:3]))


def _raw_mode(image: ImageFile) -> str:
    args = image.tile[0].args if image.tile else ""
    return str(args if isinstance(args, str) or not args else args[0])


def _replaced(args: Any, raw_mode: str) -> Any:
    return raw_mode if isinstance(args, str) else (raw_mode, *args[1:])


def _add_low_bytes(image: Image.Image, low: Image.Image, greatest: int) -> None:
    """Scale an image of the high bytes of its samples to 8 bit, in place, with its transparent colour.

    Args:
        image: image of the high bytes.
        low: image of the low bytes.
        greatest: greatest high byte of the colours. The opacity may have more bits.
    """
    top = _highest_sample(greatest * 256 + (255 if greatest else _greatest_colour(low)))
    high_levels, low_levels = ([min(255, round(byte * unit * 255 / top)) for byte in range(256)] for unit in (256, 1))
    bands, (width, height) = len(image.getbands()), image.size
    rows = max(1, STRIP_PIXELS // width)
    for start in range(0, height, rows):
        box = (0, start, width, min(start + rows, height))
        high_strip, low_strip = image.crop(box).point(high_levels * bands), low.crop(box).point(low_levels * bands)
        image.paste(ImageChops.add(high_strip, low_strip), box)
    if "transparency" in low.info:
        colour = low.info["transparency"]
        image.info["transparency"] = tuple(min(255, high_levels[v >> 8] + low_levels[v & 255]) for v in colour)


def _oriented(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation of a loaded image, unless Pillow's reader has done so, as that of TIFF does."""
    return ImageOps.exif_transpose(image) if any(key in image.info for key in _ORIENTED_BY) else image


def _has_more_frames(image: ImageFile) -> bool:
    with suppress(Exception):  # a damaged second frame does not affect the first
        return bool(getattr(image, "is_animated", False))
    return True


def to_grey(image: Image.Image) -> Pixels:
    """Convert an image of any mode to grey on a white background: (height, width) uint8.

    If the grey levels have no contrast, it is the channel that has: the opacity, or one of the colours.
    """
    if image.mode.startswith("I;16"):
        return _grey_of_16_bit(image)
    if image.mode in ("I", "F"):
        return _grey_of_numbers(np.asarray(image))
    if image.mode == "LAB":
        return to_array(image.getchannel("L"))
    if image.has_transparency_data:
        return find_contrast(_on_white(image), image)
    return find_contrast(image if image.mode == "L" else image.convert("L"), image)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode not in ("RGBA", "LA"):
        image = image.convert("RGBA")
    canvas = Image.new("L", image.size, 255)
    canvas.paste(image.convert("L"), mask=image.getchannel("A"))
    return canvas


def _grey_of_16_bit(image: Image.Image) -> Pixels:
    values = np.asarray(image)
    transparent, top = image.info.get("transparency"), _highest_sample(int(values.max()))
    grey = np.empty(values.shape, np.uint8)
    for strip, result in _strips(values, grey):
        result[:] = _scaled(strip, top)
        if transparent is not None:
            result[strip == transparent] = 255
    return grey


def _highest_sample(greatest: int) -> int:
    """Return the sample of white in an image with samples of 16 bit, of which a camera or scanner may use fewer.

    Args:
        greatest: greatest sample of the image. If it is less than a quarter of 255, the image is black.
    """
    return next((top for top in _TOPS if greatest <= top), _TOPS[-1]) if greatest > _TOPS[0] // 4 else _TOPS[-1]


def _scaled(samples: npt.NDArray[np.uint16], top: int) -> Pixels:
    return ((samples.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)


def _strips(values: npt.NDArray[Any], grey: Pixels) -> Iterator[tuple[npt.NDArray[Any], Pixels]]:
    """Yield a few rows of an image and of its result at a time, so that intermediate arrays are small."""
    rows = max(1, STRIP_PIXELS // values.shape[1])
    for top in range(0, len(values), rows):
        yield values[top : top + rows], grey[top : top + rows]


def _grey_of_numbers(values: npt.NDArray[Any]) -> Pixels:
    grey = np.empty(values.shape, np.uint8)
    limits = [limits for strip, _ in _strips(values, grey) if (limits := _finite_limits(strip))]
    if not limits:
        raise DecodeError("unreadable", "it holds no finite number")
    low, high = _assumed_range(min(least for least, _ in limits), max(greatest for _, greatest in limits))
    for strip, result in _strips(values, grey):
        finite = np.nan_to_num(strip.astype(np.float64), nan=low, posinf=high, neginf=low)
        result[:] = np.rint((finite - low) * (255 / (high - low)))
    return grey


def _finite_limits(values: npt.NDArray[Any]) -> tuple[float, float] | None:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else None


def _assumed_range(least: float, greatest: float) -> tuple[float, float]:
    if least >= 0:
        for top in (1, *_TOPS):
            if greatest <= top:
                return 0.0, float(top)
    return least, max(greatest, least + 1)


def _describe(error: Exception) -> str:
    """Return Pillow's error message in one line.

    Memory addresses, which differ from run to run, are left out. Semicolons, which some spreadsheets take for
    separators, are replaced: the message may contain bytes of the file.
    """
    words = _ADDRESS.sub("the file", str(error) or type(error).__name__).replace(";", ",")
    return " ".join("".join(c if c.isprintable() else " " for c in words).split())[:200]
