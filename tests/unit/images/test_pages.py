"""Tests of the pages of a TIFF: how they are found, decoded separately, and limited in number."""

import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from digits.images import pages as pages_module
from digits.images.decode import DecodeError, decode
from digits.images.pages import MAX_PAGES, list_pages

LEVELS = (10, 90, 170, 250)


def tiff(levels: Sequence[int] = LEVELS, **options: Any) -> bytes:
    """Return a TIFF with one page of 4 x 6 pixels per level."""
    images = [Image.new("L", (4, 6), level) for level in levels]
    file = io.BytesIO()
    images[0].save(file, "TIFF", save_all=True, append_images=images[1:], **options)
    return file.getvalue()


def chain(places: Sequence[int], *, entries: Sequence[bytes] = (b"\0" * 12,)) -> bytes:
    """Return a TIFF of directories at multiples of 64 bytes, linked in an order, each with the same entries."""
    content = bytearray(b"II*\0" + bytes(64 * (max(places) + 2)))
    content[4:8] = struct.pack("<I", 64 * places[0])
    for place, after in zip(places, [*places[1:], 0], strict=True):
        body = struct.pack("<H", len(entries)) + b"".join(entries)
        content[64 * place : 64 * place + len(body) + 4] = body + struct.pack("<I", 64 * after)
    return bytes(content)


def levels_of(content: bytes) -> list[int]:
    """Return the first pixel of each page."""
    return [int(decode(content, place=place).pixels[0, 0]) for place in list_pages(content).places]


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("big", [False, True])
def test_each_page_is_decoded(compression: str | None, big: bool) -> None:
    """Compressed or not, in a TIFF or a BigTIFF. A page has no further pages."""
    content = tiff(compression=compression, big_tiff=big)
    found = list_pages(content)
    assert (len(found.places), found.fault, found.several) == (4, None, True)
    assert levels_of(content) == list(LEVELS)
    page = decode(content, place=found.places[2])
    assert (page.width, page.height, page.more_frames) == (4, 6, False)


def test_each_page_of_a_big_endian_file_is_decoded() -> None:
    """Pillow writes none."""
    assert levels_of(_big_endian()) == [33, 99]


def _big_endian() -> bytes:
    """Return a big-endian TIFF with two uncompressed pages of one pixel."""

    def directory(pixel: int, after: int) -> bytes:
        entries = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, pixel), (277, 1), (278, 1), (279, 1)]
        packed = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in entries)
        return struct.pack(">H", len(entries)) + packed + struct.pack(">I", after)

    size = len(directory(0, 0))
    return b"MM\0*" + struct.pack(">I", 10) + bytes([33, 99]) + directory(8, 10 + size) + directory(9, 0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "F"])
def test_the_pixels_of_a_page_equal_those_of_the_page_alone(mode: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (9, 7, 4)).astype(np.uint8)
    page = Image.fromarray(values, "RGBA").convert("L" if mode == "F" else "RGB").convert(mode)
    alone, several = io.BytesIO(), io.BytesIO()
    page.save(alone, "TIFF")
    Image.new("L", (3, 3)).save(several, "TIFF", save_all=True, append_images=[page])
    found = decode(several.getvalue(), place=list_pages(several.getvalue()).places[1])
    assert np.array_equal(found.pixels, decode(alone.getvalue()).pixels)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"II*\0", b"II*\0\xff\xff\xff\xff"])
def test_other_and_damaged_files_have_at_most_one_page(content: bytes) -> None:
    assert len(list_pages(content).places) <= 1
    assert not list_pages(content).several


def test_a_file_with_one_page_is_no_file_with_several() -> None:
    assert not list_pages(tiff([7])).several


@pytest.mark.parametrize("places", [[1, 2, 3, 1], [1, 1], [1, 2, 2]])
def test_a_chain_that_returns_to_an_earlier_page_is_a_fault(places: list[int]) -> None:
    """Each page is listed once."""
    content = bytearray(chain(places[:-1]))
    content[64 * places[-2] + 14 : 64 * places[-2] + 18] = struct.pack("<I", 64 * places[-1])
    found = list_pages(bytes(content))
    assert found.places == tuple(64 * place for place in places[:-1])
    assert found.fault is not None
    assert "returns to an earlier page" in found.fault


@pytest.mark.parametrize(("count", "fault"), [(MAX_PAGES, False), (MAX_PAGES + 1, True), (30_000, True)])
def test_no_more_pages_than_the_limit_are_listed(count: int, fault: bool) -> None:
    found = list_pages(chain(range(1, count + 1)))
    assert (len(found.places), found.fault is not None) == (MAX_PAGES, fault)


@pytest.mark.parametrize(("kind", "value", "count"), [(4, 1, 1), (4, 4, 1), (4, 2, 3), (3, 1, 1), (3, 0, 3)])
def test_smaller_copies_and_masks_are_no_pages(kind: int, value: int, count: int) -> None:
    """Unless the first directory says that it is one."""
    entry = struct.pack("<HHIHH", 254, kind, 1, value, 0)
    assert len(list_pages(chain([1, 2, 3], entries=[entry])).places) == count


def test_no_more_directories_than_the_limit_are_visited() -> None:
    """A file might have no end of smaller copies."""
    entry = struct.pack("<HHII", 254, 4, 1, 1)
    found = list_pages(chain(range(1, 20_000), entries=[entry]))
    assert (len(found.places), found.several) == (1, True)


def test_a_directory_that_is_damaged_costs_its_own_page() -> None:
    """And the place of the following ones."""
    content = tiff([10, 90, 170])
    places = list_pages(content).places
    damaged = bytearray(content)
    damaged[places[1] + 2 : places[1] + 14] = b"\xff" * 12  # the first entry has the width
    assert list_pages(bytes(damaged)).places == places
    assert decode(bytes(damaged), place=places[2]).pixels[0, 0] == 170
    with pytest.raises(DecodeError, match="damaged TIFF"):
        decode(bytes(damaged), place=places[1])
    cut = content[: places[2] + 3]
    assert list_pages(cut).places == places
    with pytest.raises(DecodeError, match="damaged TIFF"):
        decode(cut, place=places[2])


def test_a_page_file_reads_as_its_bytes_with_another_first_directory() -> None:
    content = tiff()
    place = list_pages(content).places[3]
    file = pages_module.PageFile(content, place)
    expected = content[:4] + struct.pack("<I", place) + content[8:]
    assert file.read() == expected
    for start in (0, 3, 6, 8, 9):
        file.seek(start)
        assert file.read(4) == expected[start : start + 4]
    assert file.getvalue() is content
