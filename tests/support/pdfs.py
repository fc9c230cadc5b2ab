"""PDF files for tests: digits as pages, and files of hostile objects."""

import io
import zlib
from collections.abc import Sequence

from PIL import Image

from digits.images.types import Pixels

A4 = (595, 842)
"""Width and height of a page in points."""


def as_pdf(pages: Sequence[Pixels]) -> bytes:
    """Return a PDF with one image per page, at 72 dots per inch."""
    first, *others = map(Image.fromarray, pages)
    file = io.BytesIO()
    first.save(file, "PDF", save_all=True, append_images=others)
    return file.getvalue()


def pdf_of(objects: Sequence[bytes], trailer: bytes = b"") -> bytes:
    """Return a PDF of objects, of which the first is its catalogue."""
    content, offsets = b"%PDF-1.4\n", list[int]()
    for number, value in enumerate(objects, 1):
        offsets.append(len(content))
        content += b"%d 0 obj\n%b\nendobj\n" % (number, value)
    rows = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    count = len(objects) + 1
    table = b"xref\n0 %d\n0000000000 65535 f \n%b" % (count, rows)
    end = b"trailer\n<</Size %d/Root 1 0 R%b>>\nstartxref\n%d\n%%%%EOF" % (count, trailer, len(content))
    return content + table + end


def stream(content: bytes, entries: bytes = b"") -> bytes:
    """Return a stream with the entries of its dictionary."""
    return b"<<%b/Length %d>>stream\n%b\nendstream" % (entries, len(content), content)


def one_page(  # noqa: PLR0913 - the parts of a page and of its file
    content: bytes = stream(b""),
    *,
    size: tuple[float, float] = A4,
    resources: bytes = b"",
    more: Sequence[bytes] = (),
    trailer: bytes = b"",
    count: int = 1,
) -> bytes:
    """Return a PDF with one page.

    Args:
        content: stream of the page; object 4.
        size: width and height in points.
        resources: entries of the resources of the page.
        more: further objects, from number 5 on.
        trailer: entries of the trailer.
        count: number of pages that the file claims to have.
    """
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 %g %g]/Contents 4 0 R/Resources<<%b>>>>" % (*size, resources)
    pages = b"<</Type/Pages/Kids[3 0 R]/Count %d>>" % count
    return pdf_of([b"<</Type/Catalog/Pages 2 0 R>>", pages, page, content, *more], trailer)


def encrypted() -> bytes:
    """Return a PDF that needs a password."""
    handler = b"<</Filter/Standard/V 1/R 2/P -4/O<%b>/U<%b>>>" % (b"00" * 32, b"11" * 32)
    return one_page(more=[handler], trailer=b"/Encrypt 5 0 R/ID[<00><00>]")


def slow() -> bytes:
    """Return a PDF that takes minutes to draw: each pixel has the result of a long program."""
    program = stream(
        b"{ %b pop pop 0.5 }" % (b"dup mul sqrt " * 5000), b"/FunctionType 4/Domain[0 595 0 842]/Range[0 1]"
    )
    shading = b"<</ShadingType 1/Domain[0 595 0 842]/ColorSpace/DeviceGray/Function 6 0 R>>"
    return one_page(stream(b"/S sh"), resources=b"/Shading<</S 5 0 R>>", more=[shading, program])


def inflating() -> bytes:
    """Return a PDF of 2 MB whose page has 770 MB of drawing instructions."""
    packer = zlib.compressobj(9)
    part = b"0 0 1 1 re f " * 80_000
    packed = b"".join(packer.compress(part) for _ in range(740)) + packer.flush()
    return one_page(stream(packed, b"/Filter/FlateDecode"))
