"""Formats: which image files are read, and how they are recognized."""

import importlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from digits.errors import UsageError
from digits.images.pages import PDF_START

Mode = Literal["auto", "mnist", "none"]
"""Mode of normalization; see `digits.images.normalize.normalize`."""

READERS = {
    "PNG": "PIL.PngImagePlugin",
    "JPEG": "PIL.JpegImagePlugin",
    "GIF": "PIL.GifImagePlugin",
    "BMP": "PIL.BmpImagePlugin",
    "WEBP": "PIL.WebPImagePlugin",
    "TIFF": "PIL.TiffImagePlugin",
}
"""Formats that are always read, with the module of Pillow that reads each."""

FORMATS = tuple(READERS)
"""Names of the formats that are always read."""

OtherFormat = Literal["AVIF", "HEIF", "ICO", "JPEG2000", "PCX", "PDF", "PPM", "QOI", "SGI", "TGA"]
"""Format that is read on request, or if an extra is installed. None of the readers starts another program."""

OTHER_READERS: Mapping[str, str] = {
    "AVIF": "PIL.AvifImagePlugin",
    "HEIF": "pillow_heif.HeifImagePlugin",
    "ICO": "PIL.IcoImagePlugin",
    "JPEG2000": "PIL.Jpeg2KImagePlugin",
    "PCX": "PIL.PcxImagePlugin",
    "PDF": "pypdfium2",
    "PPM": "PIL.PpmImagePlugin",
    "QOI": "PIL.QoiImagePlugin",
    "SGI": "PIL.SgiImagePlugin",
    "TGA": "PIL.TgaImagePlugin",
}
"""Module of Pillow, or of another library, that reads each `OtherFormat`."""

OTHER_EXTENSIONS: Mapping[OtherFormat, tuple[str, ...]] = {
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif", ".heics", ".heifs"),
    "ICO": (".ico",),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "PCX": (".pcx",),
    "PDF": (".pdf",),
    "PPM": (".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
    "QOI": (".qoi",),
    "SGI": (".bw", ".rgb", ".rgba", ".sgi"),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
}
"""Extensions of the files in each `OtherFormat`."""


class Extra(NamedTuple):
    """Extra of the package (`pip install 'digits[NAME]'`) with a library that reads more formats.

    Args:
        library: module of the library.
        formats: formats that are read by default while the library is installed.
    """

    library: str
    formats: tuple[OtherFormat, ...]


EXTRAS: Mapping[str, Extra] = {
    "heif": Extra("pillow_heif", ("HEIF", "AVIF")),
    "pdf": Extra("pypdfium2", ("PDF",)),
}
"""Extras that read more formats, by name."""

UNREAD_KINDS: Mapping[str, tuple[str, ...]] = {
    "heic-file": OTHER_EXTENSIONS["HEIF"],
    "avif-file": OTHER_EXTENSIONS["AVIF"],
    "pdf-file": OTHER_EXTENSIONS["PDF"],
    "7z-archive": (".7z",),
    "rar-archive": (".rar",),
    "zip-archive": (".zip",),
    "tar-archive": (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz"),
}
"""Extensions of files that people take for readable, by the reason with which they are counted if they are not read."""

EXTENSIONS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".webp", ".tif", ".tiff")
"""Extensions of the files in `FORMATS`."""

HEAD_BYTES = 64
"""Number of first bytes by which the format of a file is recognized."""

NAMING_BYTES = 1024
"""Number of first bytes by which a format that is not read is named."""

DEFAULT_MAX_PIXELS = 50_000_000
"""Default limit of width times height of an image."""

DEFAULT_MAX_BYTES = 256 * 2**20
"""Default limit of the size of an image file in bytes."""

SIGNATURE = re.compile(
    rb"(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<JPEG>\xff\xd8\xff)|(?P<GIF>GIF8[79]a)|(?P<BMP>BM)"
    rb"|(?P<WEBP>RIFF....WEBP)|(?P<TIFF>II[*+]\0|MM\0[*+])",
    re.DOTALL,
)
"""First bytes of the files in `FORMATS`."""

OTHER_SIGNATURE = re.compile(
    rb"(?P<HEIF_or_AVIF>....ftyp(?:heic|heix|heim|hevc|mif1|msf1|avif|avis))|(?P<PDF>%PDF-)"
    rb"|(?P<a_7z_archive>7z\xbc\xaf\x27\x1c)|(?P<a_RAR_archive>Rar!\x1a\x07)|(?P<a_zip_archive>PK\x03\x04|PK\x05\x06)"
    rb"|(?P<a_compressed_archive_or_file>\x1f\x8b|BZh|\xfd7zXZ\0|\x28\xb5\x2f\xfd)|(?P<a_tar_archive>.{257}ustar)"
    rb"|(?P<PostScript>%!PS|\xc5\xd0\xd3\xc6)|(?P<Photoshop>8BPS)|(?P<ICO>\0\0[\1\2]\0)|(?P<QOI>qoif)"
    rb"|(?P<JPEG_2000>\0\0\0\x0cjP  |\xff\x4f\xff\x51)|(?P<JPEG_XL>\0\0\0\x0cJXL |\xff\x0a)|(?P<DDS>DDS )"
    rb"|(?P<SVG>\s*(?:<\?xml[^>]*>\s*)?<svg)|(?P<PNM>P[1-7]\s)|(?P<OpenEXR>v/1\x01)|(?P<GIMP>gimp xcf)",
    re.DOTALL,
)
"""First bytes of files in other formats. An error message names the format of such a file."""


def has_signature(head: bytes, others: Sequence[OtherFormat] = ()) -> bool:
    """Return whether a file's first bytes are the signature of an image format. TGA files have no signature.

    Args:
        head: first bytes of the file.
        others: formats to recognize besides `FORMATS`.
    """
    return SIGNATURE.match(head) is not None or any(matches_format(head, kind) is True for kind in others)


def matches_format(head: bytes, kind: OtherFormat) -> bool | None:
    """Return whether the reader of a format accepts the first bytes of a file; None if it has no signature.

    A file may only say that it is a container of images, of either HEIF or AVIF. Then its other brands decide. If the
    library of the format is not installed, no file is accepted.
    """
    from PIL import Image

    if not is_installed(kind):
        return False
    if kind in _BRANDS:
        return _has_brand(head, kind)
    if kind == "PDF":
        return head.startswith(PDF_START)
    import_reader(kind)
    _, accepts = Image.OPEN[kind]
    return None if accepts is None else accepts(head) is True


def _has_brand(head: bytes, kind: OtherFormat) -> bool:
    """Return whether a file contains images of a kind, by the brands in its first box (ISO/IEC 23008-12)."""
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if brand in _CONTAINER_BRANDS:
        return (b"avi" in head[16:]) == (kind == "AVIF")
    return brand in _BRANDS[kind]


def import_reader(kind: str) -> None:
    """Import the module that reads a format.

    HEIF and AVIF are decoded by one thread each, because the memory of threads counts as that of the image, and without
    the thumbnails and depth maps that a file may contain.
    """
    module = importlib.import_module(READERS.get(kind) or OTHER_READERS[kind])
    if kind == "AVIF":
        vars(module)["DEFAULT_MAX_THREADS"] = 1
    if kind == "HEIF":
        options = vars(importlib.import_module("pillow_heif.options"))
        options.update(DECODE_THREADS=1, THUMBNAILS=False, DEPTH_IMAGES=False, AUX_IMAGES=False)


def is_installed(kind: OtherFormat) -> bool:
    """Return whether the library that reads a format is installed."""
    return importlib.util.find_spec(OTHER_READERS[kind].partition(".")[0]) is not None


def extra_of(reason: str) -> str | None:
    """Return the extra with which files are read that were skipped for a reason of `UNREAD_KINDS`; None if none is."""
    return _EXTRAS_OF_REASONS.get(reason)


def formats_to_read(asked_for: Sequence[OtherFormat]) -> tuple[OtherFormat, ...]:
    """Return the formats to read besides `FORMATS`: those that were asked for, then those of installed extras.

    Raises:
        UsageError: if the library of a format that was asked for is not installed.
    """
    for kind in asked_for:
        if not is_installed(kind):
            extra = next(name for name, extra in EXTRAS.items() if kind in extra.formats)
            raise UsageError(
                f"other_formats: {kind} needs a library that is not installed: pip install 'digits[{extra}]'"
            )
    installed = (extra for extra in EXTRAS.values() if importlib.util.find_spec(extra.library))
    return tuple(dict.fromkeys([*asked_for, *(kind for extra in installed for kind in extra.formats)]))


def reason_of(path: bytes) -> str:
    """Return the reason with which a file is counted that is not read: one of `UNREAD_KINDS`, or `other-file`.

    Args:
        path: path of the file; only its extension matters.
    """
    name = path.lower()
    return next((kind for kind, endings in _ENDINGS.items() if name.endswith(endings)), "other-file")


def name_unread(content: bytes) -> str | None:
    """Return the name of a known format that is none of `FORMATS`, such as `HEIF or AVIF` or `a RAR archive`.

    Args:
        content: first bytes of the file, at least `NAMING_BYTES` if it has so many.
    """
    match = OTHER_SIGNATURE.match(content[:NAMING_BYTES])
    return match.lastgroup.replace("_", " ") if match and match.lastgroup else None


_EXTRAS_OF_REASONS = {"heic-file": "heif", "avif-file": "heif", "pdf-file": "pdf"}
_BRANDS: Mapping[str, tuple[bytes, ...]] = {
    "HEIF": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"),
    "AVIF": (b"avif", b"avis"),
}
_CONTAINER_BRANDS = (b"mif1", b"msf1")
_ENDINGS = {kind: tuple(ending.encode() for ending in endings) for kind, endings in UNREAD_KINDS.items()}
