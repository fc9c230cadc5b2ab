"""Formats: which image files are read, and how they are recognized."""

import importlib
import re
from collections.abc import Mapping, Sequence
from typing import Literal

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

OtherFormat = Literal["AVIF", "ICO", "JPEG2000", "PCX", "PPM", "QOI", "SGI", "TGA"]
"""Format that is read on request. None of the readers starts another program."""

OTHER_READERS: Mapping[str, str] = {
    "AVIF": "PIL.AvifImagePlugin",
    "ICO": "PIL.IcoImagePlugin",
    "JPEG2000": "PIL.Jpeg2KImagePlugin",
    "PCX": "PIL.PcxImagePlugin",
    "PPM": "PIL.PpmImagePlugin",
    "QOI": "PIL.QoiImagePlugin",
    "SGI": "PIL.SgiImagePlugin",
    "TGA": "PIL.TgaImagePlugin",
}
"""Module of Pillow that reads each `OtherFormat`."""

OTHER_EXTENSIONS: Mapping[OtherFormat, tuple[str, ...]] = {
    "AVIF": (".avif", ".avifs"),
    "ICO": (".ico",),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "PCX": (".pcx",),
    "PPM": (".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
    "QOI": (".qoi",),
    "SGI": (".bw", ".rgb", ".rgba", ".sgi"),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
}
"""Extensions of the files in each `OtherFormat`."""

EXTENSIONS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".webp", ".tif", ".tiff")
"""Extensions of the files in `FORMATS`."""

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
    """Return whether Pillow's reader of a format accepts the first bytes of a file; None if it has no signature."""
    from PIL import Image

    importlib.import_module(OTHER_READERS[kind])
    _, accepts = Image.OPEN[kind]
    return None if accepts is None else accepts(head) is True
