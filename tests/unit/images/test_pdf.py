"""Tests of PDF files: their pages as images, and files that are damaged, encrypted or hostile."""

import numpy as np
import pytest

from digits.images.decode import DecodeError, decode
from digits.images.pages import MAX_PAGES, NO_PAGES, list_pages, place_of
from digits.images.types import Pixels
from tests.support.pdfs import as_pdf, encrypted, one_page, pdf_of


def stroke(left: int) -> Pixels:
    """Draw a vertical stroke on a white page of 80 x 100 pixels."""
    page = np.full((100, 80), 255, np.uint8)
    page[20:80, left : left + 6] = 0
    return page


def reason(content: bytes, **options: int) -> tuple[str, str]:
    """Return status and message of the error that decoding raises."""
    with pytest.raises(DecodeError) as caught:
        decode(content, others=("PDF",), **options)
    return caught.value.status, str(caught.value)


def test_each_page_is_drawn_at_200_dots_per_inch_with_its_ink_in_its_place() -> None:
    content = as_pdf([stroke(10), stroke(60)])
    assert list_pages(content, pdf=True).places == (0, 1)
    assert [place_of(content, page) for page in (None, 1, 2)] == [None, 0, 1]
    for place, left in ((0, 10), (1, 60)):
        page = decode(content, others=("PDF",), place=place)
        assert (page.width, page.height, page.more_frames) == (223, 278, False)
        dark = np.flatnonzero((page.pixels < 128).any(axis=0))
        assert dark.min() == pytest.approx(left * 200 / 72, abs=2)
        assert dark.max() == pytest.approx((left + 6) * 200 / 72, abs=2)


def test_the_first_page_is_drawn_unless_one_is_asked_for() -> None:
    """The result says that there are more."""
    found = decode(as_pdf([stroke(10), stroke(60)]), others=("PDF",))
    assert found.more_frames
    assert (found.pixels == decode(as_pdf([stroke(10)]), others=("PDF",)).pixels).all()


def test_a_turned_page_is_drawn_upright() -> None:
    found = decode(as_pdf([stroke(10)]).replace(b"/MediaBox", b"/Rotate 90 /MediaBox"), others=("PDF",))
    assert (found.width, found.height) == (278, 223)


def test_a_pdf_is_a_file_without_pages_unless_it_is_asked_for() -> None:
    """No library is imported for it."""
    assert list_pages(as_pdf([stroke(10), stroke(60)])) == NO_PAGES


def test_an_encrypted_pdf_is_unsupported() -> None:
    """A damaged one that is read next is not taken for an encrypted one, as it is by PDFium."""
    assert list_pages(encrypted(), pdf=True) == NO_PAGES
    assert reason(encrypted()) == ("unsupported", "an encrypted PDF; save it without a password")
    nothing = pdf_of([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[]/Count 0>>"])
    assert reason(nothing) == ("unreadable", "a damaged PDF: it cannot be opened")


@pytest.mark.parametrize("end", [9, 60, 400, -40])
def test_a_truncated_pdf_is_unreadable_or_still_has_its_pages(end: int) -> None:
    """The library repairs a file whose end is missing."""
    content = as_pdf([stroke(10), stroke(60)])[:end]
    if list_pages(content, pdf=True).places:
        assert decode(content, others=("PDF",)).width == 223
    else:
        assert reason(content)[0] == "unreadable"


def test_a_damaged_pdf_costs_its_own_row() -> None:
    """Whatever is wrong with a file, the error is that of its row."""
    content, random = as_pdf([stroke(10), stroke(60)]), np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(content)
        for place in random.integers(9, len(content), 8):
            damaged[place] = random.integers(256)
        for place in (*list_pages(bytes(damaged), pdf=True).places, None):
            try:
                decode(bytes(damaged), others=("PDF",), max_pixels=1_000_000, place=place)
            except DecodeError as error:
                assert error.status in ("unreadable", "too-large", "unsupported")  # noqa: PT017


def test_a_large_page_is_refused_by_its_size_before_it_is_drawn() -> None:
    status, message = reason(one_page(size=(14_400, 14_400)))
    assert status == "too-large"
    assert message.startswith("40000 x 40000 pixels are over the limit")
    assert reason(one_page(), max_pixels=1_000_000)[0] == "too-large"


def test_more_pages_than_the_limit_are_reported() -> None:
    """A file may also have fewer pages than it claims; each missing one is damaged."""
    found = list_pages(one_page(count=100_000), pdf=True)
    assert (len(found.places), found.several) == (MAX_PAGES, True)
    assert "more than 1,000 pages" in str(found.fault)
    claimed = one_page(count=3)
    assert len(list_pages(claimed, pdf=True).places) == 3
    with pytest.raises(DecodeError, match="damaged PDF"):
        decode(claimed, others=("PDF",), place=2)
