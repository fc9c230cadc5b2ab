"""Pages: where the pages of a TIFF or PDF are, found without decoding them, and one page of a PDF as an image.

The directories of a TIFF form a chain. Only their lengths and links are read here, so that a damaged or hostile
directory costs its own page alone. Each page is then opened as if its directory were the first of the file.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import ceil
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from PIL import Image

PageChoice = Literal["all", "first"]
"""Which pages of a file are read; see `PredictionConfig.pages`."""

MAX_PAGES = 1_000
"""Largest number of pages of a file that are read."""
_MAX_DIRECTORIES = 4 * MAX_PAGES
"""Largest number of directories of a file that are visited, including those that are no pages."""
_NO_PAGE = 0b101
"""Bits of the tag NewSubfileType of a directory that is no page: a smaller copy of a page, or a mask of one."""
_SUBFILE_TYPE, _SHORT = 254, 3
PDF_START = b"%PDF-"
"""First bytes of a PDF."""
PDF_DPI = 200
"""Resolution at which the pages of a PDF are drawn, in dots per inch: 1654 x 2339 pixels for A4."""
_POINTS_PER_INCH = 72
_ENCRYPTION = b"/Encrypt"
"""Entry of each encrypted PDF. PDFium's own reason for a failure may be that of an earlier file."""
_PDFIUM_LOCK = Lock()
_TOO_MANY = f"it has more than {MAX_PAGES:,} pages, and only so many are read; split the file"
_LOOP = "its list of pages returns to an earlier page, so its end cannot be found; write the file again"


class PageList(NamedTuple):
    """Pages of a file.

    Args:
        places: where each page is, as `digits.images.decode.decode` takes it; empty if the file is not of a kind with
            pages.
        fault: reason why there are pages that are not in the list; None if the list is complete.
    """

    places: tuple[int, ...] = ()
    fault: str | None = None

    @property
    def several(self) -> bool:
        """Whether the file has more than one page."""
        return len(self.places) > 1 or self.fault is not None


NO_PAGES = PageList()


class _Form(NamedTuple):
    """Form of a TIFF: formats of its numbers, and sizes of an entry and of the value in it, in bytes."""

    order: str
    size: str
    offset: str
    entry: int
    value: int

    def unpack(self, kind: str, content: bytes, place: int) -> int:
        return int(struct.unpack_from(self.order + kind, content, place)[0])


_FORMS = {
    order + magic: _Form(sign, *sizes)
    for order, sign in ((b"II", "<"), (b"MM", ">"))
    for magic, sizes in (
        (struct.pack(sign + "H", 42), ("H", "I", 12, 4)),
        (struct.pack(sign + "H", 43), ("Q", "Q", 20, 8)),
    )
}
"""Forms by the first four bytes of a file: TIFF and BigTIFF, in either byte order."""


def list_pages(content: bytes, *, pdf: bool = False) -> PageList:
    """Return the pages of a file; the list is empty for every file but a TIFF and a readable PDF.

    Args:
        content: content of the file.
        pdf: whether PDF is one of the formats to read.
    """
    form = _FORMS.get(content[:4])
    if form is not None:
        return _tiff_pages(content, form)
    return _pdf_pages(content) if pdf and content.startswith(PDF_START) else NO_PAGES


def place_of(content: bytes, page: int | None) -> int | None:
    """Return where a page of a file is, by its number; None for a file with one page, or that cannot be read here."""
    places = () if page is None else list_pages(content, pdf=True).places
    return places[page - 1] if page and page <= len(places) else None


def _tiff_pages(content: bytes, form: _Form) -> PageList:
    places, seen = list[int](), set[int]()
    place = _number(form, form.offset, content, form.value)
    while place:
        if place in seen:
            return PageList(tuple(places), _LOOP)
        if len(places) == MAX_PAGES or len(seen) == _MAX_DIRECTORIES:
            return PageList(tuple(places), _TOO_MANY)
        if not seen or _is_page(form, content, place):
            places.append(place)
        seen.add(place)
        place = _next(form, content, place)
    return PageList(tuple(places))


def _number(form: _Form, kind: str, content: bytes, place: int) -> int:
    """Return a number of the file, or 0 if it is beyond the end of the file."""
    try:
        return form.unpack(kind, content, place)
    except (struct.error, OverflowError):
        return 0


def _next(form: _Form, content: bytes, place: int) -> int:
    """Return where the directory after the one at a place begins; 0 if it is the last, or damaged."""
    count = _number(form, form.size, content, place)
    return count and _number(form, form.offset, content, place + struct.calcsize("=" + form.size) + count * form.entry)


def _is_page(form: _Form, content: bytes, place: int) -> bool:
    """Return whether a directory is a page, by its first entry: the entries are sorted by their tags."""
    entry = place + struct.calcsize("=" + form.size)
    if _number(form, "H", content, entry) != _SUBFILE_TYPE:
        return True
    kind = "H" if _number(form, "H", content, entry + 2) == _SHORT else "I"
    return not _number(form, kind, content, entry + 4 + form.value) & _NO_PAGE


class PageFile(io.BytesIO):
    """TIFF in memory of which readers see one page first; the content is not copied.

    Args:
        content: content of the file.
        place: where the directory of the page begins.
    """

    def __init__(self, content: bytes, place: int) -> None:
        super().__init__(content)
        form = _FORMS[content[:4]]
        self._header = content[: form.value] + struct.pack(form.order + form.offset, place)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes, those of the header with the place of the page."""
        start = self.tell()
        found = super().read(size)
        return self._header[start : start + len(found)] + found[max(len(self._header) - start, 0) :]


class EncryptedError(Exception):
    """Error for a PDF that needs a password."""


class PdfPage(NamedTuple):
    """Page of an open PDF.

    Args:
        size: width and height at `PDF_DPI`, in pixels.
        pages: number of pages of the PDF.
        page: page of the library.
    """

    size: tuple[int, int]
    pages: int
    page: Any

    def draw(self) -> "Image.Image":
        """Draw the page on white."""
        image: Image.Image = self.page.render(scale=PDF_DPI / _POINTS_PER_INCH, rev_byteorder=True).to_pil()
        return image


def _pdf_pages(content: bytes) -> PageList:
    """Return the pages of a PDF; none if it cannot be opened, which decoding it will report."""
    with suppress(Exception), _open_pdf(content) as document:
        places = tuple(range(min(len(document), MAX_PAGES)))
        return PageList(places, _TOO_MANY if len(document) > MAX_PAGES else None)
    return NO_PAGES


@contextmanager
def open_pdf_page(content: bytes, place: int) -> Iterator[PdfPage]:
    """Open a page of a PDF.

    Raises:
        EncryptedError: if the PDF cannot be opened, and is encrypted.
        Exception: one of the library, or `ValueError`, if the PDF is damaged.
    """
    with _open_pdf(content) as document:
        page = document[place]
        width, height = (ceil(side * PDF_DPI / _POINTS_PER_INCH) for side in page.get_size())
        yield PdfPage((width, height), len(document), page)


@contextmanager
def _open_pdf(content: bytes) -> Iterator[Any]:
    """Open a PDF with PDFium, which only one thread may use at a time."""
    import pypdfium2

    with _PDFIUM_LOCK:
        try:
            document = pypdfium2.PdfDocument(content)
        except pypdfium2.PdfiumError as error:
            raise (EncryptedError() if _ENCRYPTION in content else ValueError("it cannot be opened")) from error
        try:
            yield document
        finally:
            document.close()
