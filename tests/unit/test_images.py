"""One picture from bytes to grey pixels: every kind rightly, or refused with a status."""

import io
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from digits.images import FORMATS, PREDICTED, STATUSES, Decoded, DecodeError, decode

ODD = Path(__file__).parents[3] / "shared" / "data" / "odd-images"
GREY = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Give a picture's bytes in a format."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(depth: int, colour: int, rows: list[bytes], width: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Give a PNG of any depth and colour type, byte by byte: Pillow can't write all of them."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


def refused(content: bytes, **options: Any) -> DecodeError:
    """Decode what must be refused."""
    with pytest.raises(DecodeError) as caught:
        decode(content, **options)
    return caught.value


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_grey_pictures_come_back_exactly(kind: str) -> None:
    """The lossless formats."""
    decoded = decode(encoded(Image.fromarray(GREY), kind))
    assert decoded.pixels.tolist() == GREY.tolist()
    assert decoded.pixels.dtype == np.uint8
    assert (decoded.width, decoded.height, decoded.more_frames) == (6, 4, False)


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 100})])
def test_lossy_formats_are_close(kind: str, options: dict[str, Any]) -> None:
    """A smooth ramp, which they keep well."""
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    pixels = decode(encoded(Image.fromarray(ramp), kind, **options)).pixels
    assert np.abs(pixels.astype(int) - ramp).max() <= 6


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 255, 255),
        ("L", 100, 100),
        ("LA", (100, 255), 100),
        ("LA", (0, 0), 255),
        ("RGB", (100, 100, 100), 100),
        ("RGB", (255, 0, 0), 76),
        ("RGBA", (0, 0, 0, 0), 255),
        ("RGBA", (0, 0, 0, 255), 0),
        ("RGBA", (0, 0, 0, 51), 204),
        ("I;16", 65535, 255),
        ("I;16", 25700, 100),
        ("P", 7, 7),
    ],
)
def test_every_mode_of_png(mode: str, colour: Any, expected: int) -> None:
    """Depths are scaled, not clipped; what is transparent lies on white."""
    image = Image.new(mode, (3, 2), colour)
    if mode == "P":
        image.putpalette([level for index in range(256) for level in (index, index, index)])
    assert decode(encoded(image)).pixels.tolist() == [[expected] * 3] * 2


@pytest.mark.parametrize(
    ("mode", "kind", "colour", "expected"),
    [
        ("CMYK", "JPEG", (0, 0, 0, 255), 0),
        ("CMYK", "TIFF", (0, 0, 0, 0), 255),
        ("LAB", "TIFF", (100, 128, 128), 100),
        ("F", "TIFF", 0.5, 128),
        ("F", "TIFF", 100.0, 100),
        ("I", "TIFF", 51400, 200),
        ("I;16", "TIFF", 51400, 200),
        ("RGB", "BMP", (9, 9, 9), 9),
        ("RGBA", "WEBP", (0, 0, 0, 0), 255),
    ],
)
def test_other_formats_and_modes(mode: str, kind: str, colour: Any, expected: int) -> None:
    """Numbers without a stated range are taken as 0..1, 0..255 or 0..65535."""
    options = {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    pixels = decode(encoded(Image.new(mode, (8, 8), colour), kind, **options)).pixels
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_numbers_out_of_every_range_are_stretched() -> None:
    """From the least to the greatest; what is no number counts as the least."""
    values = np.array([[-10.0, 0.0, 10.0, np.nan]], np.float32)
    assert decode(encoded(Image.fromarray(values), "TIFF")).pixels.tolist() == [[0, 128, 255, 0]]


def test_a_picture_without_a_number_is_refused() -> None:
    """Nothing but NaN."""
    error = refused(encoded(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"))
    assert (error.status, str(error)) == ("unreadable", "it holds no finite number")


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_of_any_depth_is_white(depth: int) -> None:
    """The colour in tRNS is in the file's own depth, whatever Pillow makes of the pixels."""
    rows = {1: b"\x40", 2: b"\x10", 4: b"\x01", 8: b"\x00\x01", 16: b"\x00\x00\x00\x01"}
    transparent = (b"tRNS", b"\x00\x00")
    pixels = decode(png(depth, 0, [rows[depth]], 2, transparent)).pixels
    assert pixels[0, 0] == 255
    assert pixels[0, 1] == {1: 255, 2: 85, 4: 17, 8: 1, 16: 0}[depth]


def test_a_transparent_colour_of_16_bit_is_white() -> None:
    """Pillow keeps eight bits of the pixels, but all sixteen of the colour."""
    row = struct.pack(">6H", 256, 512, 768, 0, 0, 0)
    pixels = decode(png(16, 2, [row], 2, (b"tRNS", struct.pack(">3H", 256, 512, 768)))).pixels
    assert pixels.tolist() == [[255, 0]]


def test_transparency_of_a_palette() -> None:
    """One alpha an entry."""
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 50, 50, 50])
    image.putpixel((1, 0), 1)
    assert decode(encoded(image, transparency=b"\x00\xff")).pixels.tolist() == [[255, 50]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied(kind: str, orientation: int) -> None:
    """All eight of EXIF, in every format that has it."""
    image = Image.fromarray(np.kron(np.array([[0, 90], [180, 255]], np.uint8), np.ones((8, 16), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    decoded = decode(encoded(image, kind, exif=exif, **options))
    turned = orientation >= 5
    assert (decoded.width, decoded.height) == ((16, 32) if turned else (32, 16))
    corners = decoded.pixels[:: decoded.height - 1, :: decoded.width - 1].astype(int)
    plain = Image.fromarray(np.array([[0, 90], [180, 255]], np.uint8))
    plain.getexif()[0x0112] = orientation
    assert np.abs(corners - np.asarray(ImageOps.exif_transpose(plain)).astype(int)).max() <= 3


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_the_first_frame_counts_and_others_are_noted(kind: str) -> None:
    """Animations and pages."""
    first, second = Image.new("L", (4, 4), 10), Image.new("L", (4, 4), 200)
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode(encoded(first, kind, save_all=True, append_images=[second], **options))
    assert decoded.more_frames
    assert decoded.pixels.tolist() == [[10] * 4] * 4


def test_a_damaged_second_frame_does_no_harm() -> None:
    """Only the first is looked at."""
    frames = [Image.fromarray(np.full((4, 4), level, np.uint8)) for level in (10, 200)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(content[:-12]).pixels.tolist() == [[10] * 4] * 4


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"", "not-an-image", "empty"),
        (b"hello", "not-an-image", "does not begin like any of PNG"),
        (b"\0\0\0\x20ftypheic", "unsupported", "HEIF or AVIF"),
        (b"%PDF-1.7", "unsupported", "PDF"),
        (b"%!PS-Adobe", "unsupported", "PostScript"),
        (b'<?xml version="1.0"?><svg>', "unsupported", "SVG"),
        (b"\x89PNG\r\n\x1a\n", "unreadable", "damaged PNG"),
        (b"BM", "unreadable", "damaged BMP"),
        (b"GIF89a\0", "unreadable", "damaged GIF"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "unreadable", "damaged WEBP"),
        (b"II*\0\xff\xff\xff\xff", "unreadable", "damaged TIFF"),
        (b"\xff\xd8\xff", "unreadable", "damaged JPEG"),
    ],
)
def test_what_is_no_picture_of_ours(content: bytes, status: str, says: str) -> None:
    """Each with the status that tells the user what to do."""
    error = refused(content)
    assert error.status == status
    assert says in str(error)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_cut_off_file_is_unreadable(kind: str) -> None:
    """The message is the same each time: no address of an object is in it."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), kind)[:-600]
    first, second = refused(content), refused(content)
    assert (first.status, str(first)) == ("unreadable", str(second))
    assert "0x" not in str(first)
    assert str(first).isprintable()


def test_errors_are_one_plain_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a reader says: no address, no line break, not too long."""

    def fail(*_: object) -> None:
        raise ValueError("bad\n\x1b[0m <Chunk object at 0x7f0a> " + "x" * 999)

    monkeypatch.setattr("digits.images._to_grey", fail)
    message = str(refused(encoded(Image.fromarray(GREY))))
    assert message.startswith("a damaged PNG: bad [0m the file xxx")
    assert len(message) < 250


def test_a_wrong_checksum_is_unreadable() -> None:
    """A bit flipped in the header."""
    content = bytearray(encoded(Image.fromarray(GREY)))
    content[17] ^= 1
    assert refused(bytes(content)).status == "unreadable"


def test_too_many_pixels_are_not_decoded() -> None:
    """The limit is on what the header says; the size is known all the same."""
    content = png(8, 0, [b""] * 30_000, 30_000)
    error = refused(content)
    assert (error.status, error.width, error.height) == ("too-large", 30_000, 30_000)
    assert "limit of 50000000" in str(error)
    assert decode(encoded(Image.fromarray(GREY)), max_pixels=24).width == 6
    assert refused(encoded(Image.fromarray(GREY)), max_pixels=23).status == "too-large"


@pytest.mark.parametrize("error", [MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning])
def test_running_out_of_memory_is_the_pictures_fault(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets a row; others go on."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("digits.images._to_grey", fail)
    assert refused(encoded(Image.fromarray(GREY))).status == "too-large"


def test_the_statuses_are_a_closed_list() -> None:
    """Those with a prediction are among them."""
    assert set(PREDICTED) < set(STATUSES)
    assert len(STATUSES) == 12


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Have threads take turns all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_warning_filters_survive_threads() -> None:
    """They belong to the process: concurrent decoding must leave them as they were."""
    content, before = encoded(Image.fromarray(GREY)), list(warnings.filters)
    threads = [threading.Thread(target=lambda: [decode(content) for _ in range(30)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(FORMATS),
    changes=st.lists(st.tuples(st.integers(8, 400), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_mutated_files_are_decoded_or_refused(kind: str, changes: list[tuple[int, int]]) -> None:
    """Nothing but a picture or a DecodeError comes of them."""
    noise = np.random.default_rng(1).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    content = bytearray(encoded(Image.fromarray(noise), kind))
    for place, value in changes:
        content[place % len(content)] = value
    with suppress(DecodeError):
        decoded = decode(bytes(content), max_pixels=1_000_000)
        assert decoded.pixels.shape == (decoded.height, decoded.width)


def pillows_own(path: Path) -> Decoded:
    """Decode as Pillow does, for modes that need no scaling."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGBA")
    canvas = Image.new("RGBA", image.size, "white")
    canvas.alpha_composite(image)
    return Decoded(np.asarray(canvas.convert("L")), *image.size)


@pytest.mark.skipif(not ODD.is_dir(), reason="needs the shared odd images")
def test_odd_pictures_have_the_pixels_that_pillow_gives() -> None:
    """PngSuite and the EXIF set; the corrupt ones are refused."""
    refusals = []
    for path in sorted(path for path in ODD.rglob("*.*") if path.suffix in (".png", ".jpg")):
        try:
            decoded = decode(path.read_bytes())
        except DecodeError:
            refusals.append(path.name)
            continue
        with Image.open(path) as opened:
            scaled = opened.mode.startswith("I") or "transparency" in opened.info
        if not scaled:
            difference = np.abs(decoded.pixels.astype(int) - pillows_own(path).pixels).max()
            assert difference <= 1, path.name
    assert [name for name in refusals if not name.startswith("x")] == ["cicp_pq.png", "issue#430.png"]
    assert len(refusals) == 22
