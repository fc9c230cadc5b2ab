"""Pages: where the pages of a TIFF begin, found without decoding them.

The directories of a TIFF form a chain. Only their lengths and links are read here, so that a damaged or hostile
directory costs its own page alone. Each page is then opened as if its directory were the first of the file.
"""

import io
import struct
from typing import Literal, NamedTuple

PageChoice = Literal["all", "first"]
"""Which pages of a file are read; see `PredictionConfig.pages`."""

MAX_PAGES = 1_000
"""Largest number of pages of a file that are read."""
_MAX_DIRECTORIES = 4 * MAX_PAGES
"""Largest number of directories of a file that are visited, including those that are no pages."""
_NO_PAGE = 0b101
"""Bits of the tag NewSubfileType of a directory that is no page: a smaller copy of a page, or a mask of one."""
_SUBFILE_TYPE, _SHORT = 254, 3
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


def list_pages(content: bytes) -> PageList:
    """Return the pages of a file; the list is empty for every file but a TIFF."""
    form = _FORMS.get(content[:4])
    return NO_PAGES if form is None else _tiff_pages(content, form)


def place_of(content: bytes, page: int | None) -> int | None:
    """Return where a page of a file is, by its number; None for a file with one page."""
    return None if page is None else list_pages(content).places[page - 1]


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
