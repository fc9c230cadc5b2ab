"""Decoding: image files to grey pixels, or an error with a status."""

import io
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from digits.images import decode as decode_module
from digits.images.decode import Decoded, DecodeError, SmallPngs, decode
from digits.images.formats import FORMATS, HEAD_BYTES, OTHER_EXTENSIONS, OTHER_READERS, OtherFormat, has_signature
from digits.status import PREDICTED, STATUSES
from tests.support import data, faults

GREY = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return an image's bytes in a format."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(
    depth: int, colour: int, rows: list[bytes], width: int, *chunks: tuple[bytes, bytes], filtered: bool = False
) -> bytes:
    """Return a PNG of any depth and colour type, of which Pillow cannot write all."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(rows if filtered else [b"\0" + row for row in rows]))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in parts)


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def refused(content: bytes, **options: Any) -> DecodeError:
    """Return the error that a file is refused with."""
    with pytest.raises(DecodeError) as caught:
        decode(content, **options)
    return caught.value


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_lossless_formats_are_decoded_exactly(kind: str) -> None:
    """The image is grey."""
    decoded = decode(encoded(Image.fromarray(GREY), kind))
    assert decoded.pixels.tolist() == GREY.tolist()
    assert decoded.pixels.dtype == np.uint8
    assert (decoded.width, decoded.height, decoded.more_frames) == (6, 4, False)


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 100})])
def test_lossy_formats_are_decoded_closely(kind: str, options: dict[str, Any]) -> None:
    """The image is a smooth ramp, which they preserve well."""
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
def test_each_mode_of_png_is_converted_to_grey(mode: str, colour: Any, expected: int) -> None:
    """Depths are scaled, not clipped, and transparent pixels are on white."""
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
        ("I", "TIFF", 3212, 200),
        ("F", "TIFF", 802.0, 200),
        ("I;16", "TIFF", 51400, 200),
        ("RGB", "BMP", (9, 9, 9), 9),
        ("RGBA", "WEBP", (0, 0, 0, 0), 255),
    ],
)
def test_modes_of_other_formats_are_converted_to_grey(mode: str, kind: str, colour: Any, expected: int) -> None:
    """Numbers without a fixed range have the range 0 to 1, or that of 8, 10, 12, 14 or 16 bit."""
    options = {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    pixels = decode(encoded(Image.new(mode, (8, 8), colour), kind, **options)).pixels
    assert np.abs(pixels.astype(int) - expected).max() <= 1


DEPTHS = [(255, 8), (1023, 10), (4095, 12), (16383, 14), (65535, 16)]
RAMP = np.linspace(0, 1, 24).reshape(4, 6)


@pytest.mark.parametrize(("top", "bits"), DEPTHS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_samples_of_16_bit_are_scaled_from_the_depth_that_they_use(kind: str, top: int, bits: int) -> None:
    """Cameras and scanners store 10 to 14 bit in 16; the greatest sample need not be the greatest possible one."""
    for share in (1, 0.6):
        samples = np.rint(RAMP * top * share).astype(np.uint16)
        assert 2 ** (bits - 1) <= samples.max() < 2**bits
        pixels = decode(encoded(Image.fromarray(samples), kind)).pixels
        assert np.abs(pixels - RAMP * 255 * share).max() < 1


@pytest.mark.parametrize(("top", "level"), [(0, 0), (40, 0), (255, 255), (1023, 255), (4095, 255), (65535, 255)])
def test_a_blank_page_of_any_depth_has_one_level(top: int, level: int) -> None:
    """A few counts of noise in an otherwise black image are not scaled to white."""
    noise = np.random.default_rng(0).integers(0, 3, (20, 20))
    pixels = decode(encoded(Image.fromarray((max(top, 2) - noise).astype(np.uint16)))).pixels
    assert np.abs(pixels.astype(int) - level).max() <= 3


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("form", [("png", []), *(("tif", [259, compression]) for compression in (1, 5, 8))])
@pytest.mark.parametrize("opaque", [False, True])
def test_colours_of_16_bit_are_scaled_from_the_depth_that_they_use(
    form: tuple[str, list[int]], opaque: bool, depth: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are converted a few rows at a time, and the opacity has all bits. A TIFF may be compressed."""
    import cv2

    monkeypatch.setattr("digits.images.decode.STRIP_PIXELS", 7)
    samples = np.rint(np.dstack([RAMP] * 3) * depth[0]).astype(np.uint16)
    if opaque:
        samples = np.dstack([samples, np.full(RAMP.shape, 65535, np.uint16)])
    _, content = cv2.imencode(f".{form[0]}", samples, form[1])
    pixels = decode(content.tobytes()).pixels
    assert np.abs(pixels - RAMP * 255).max() < 2


def test_numbers_outside_all_ranges_are_scaled_from_least_to_greatest() -> None:
    """NaN counts as the least."""
    values = np.array([[-10.0, 0.0, 10.0, np.nan]], np.float32)
    assert decode(encoded(Image.fromarray(values), "TIFF")).pixels.tolist() == [[0, 128, 255, 0]]


def test_an_image_without_a_finite_number_is_unreadable() -> None:
    """Each of its pixels is NaN."""
    error = refused(encoded(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"))
    assert (error.status, str(error)) == ("unreadable", "it holds no finite number")


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_of_any_depth_is_white(depth: int) -> None:
    """The colour in tRNS has the depth of the file, not that of Pillow's pixels."""
    rows = {1: b"\x40", 2: b"\x10", 4: b"\x01", 8: b"\x00\x01", 16: b"\x00\x00\x00\x01"}
    transparent = (b"tRNS", b"\x00\x00")
    pixels = decode(png(depth, 0, [rows[depth]], 2, transparent)).pixels
    assert pixels[0, 0] == 255
    assert pixels[0, 1] == {1: 255, 2: 85, 4: 17, 8: 1, 16: 0}[depth]


def test_a_transparent_colour_of_16_bit_is_white() -> None:
    """Pillow reduces the pixels to 8 bit, but not the colour in tRNS."""
    row = struct.pack(">6H", 256, 512, 768, 0, 0, 0)
    pixels = decode(png(16, 2, [row], 2, (b"tRNS", struct.pack(">3H", 256, 512, 768)))).pixels
    assert pixels.tolist() == [[255, 0]]


def test_transparent_colours_of_a_palette_are_white() -> None:
    """The palette has an alpha value per entry."""
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 50, 50, 50])
    image.putpixel((1, 0), 1)
    assert decode(encoded(image, transparency=b"\x00\xff")).pixels.tolist() == [[255, 50]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    """All eight orientations, in each format with EXIF data."""
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
def test_the_first_frame_is_decoded_and_others_are_reported(kind: str) -> None:
    """Frames are those of an animation or pages."""
    first, second = Image.new("L", (4, 4), 10), Image.new("L", (4, 4), 200)
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode(encoded(first, kind, save_all=True, append_images=[second], **options))
    assert decoded.more_frames
    assert decoded.pixels.tolist() == [[10] * 4] * 4


def test_a_damaged_second_frame_is_ignored() -> None:
    """Only the first frame is decoded."""
    frames = [Image.fromarray(np.full((4, 4), level, np.uint8)) for level in (10, 200)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(content[:-12]).pixels.tolist() == [[10] * 4] * 4


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"", "not-an-image", "empty"),
        (b"hello", "not-an-image", "does not begin like any of PNG"),
        (b"\0\0\0\x20ftypheic", "unsupported", "HEIF or AVIF, which needs digits[heif]; install this extra or"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "not-an-image", "found a 7z archive, but no image; unpack it"),
        (b"Rar!\x1a\7\1\0", "not-an-image", "a RAR archive"),
        (b"PK\3\4\x14\0", "not-an-image", "a zip archive"),
        (b"\x1f\x8b\x08\0", "not-an-image", "image; unpack it"),
        (b"a.png".ljust(257, b"\0") + b"ustar\x0000", "not-an-image", "a tar archive"),
        (b"%PDF-1.7", "unsupported", "PDF, which needs digits[pdf]; install this extra or"),
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
def test_a_file_in_no_supported_format_is_refused(content: bytes, status: str, says: str) -> None:
    """The status and the message tell the user what to do."""
    error = refused(content)
    assert error.status == status
    assert says in str(error)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_file_is_unreadable(kind: str) -> None:
    """The message is the same each time, without the address of an object."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), kind)[:-600]
    first, second = refused(content), refused(content)
    assert (first.status, str(first)) == ("unreadable", str(second))
    assert "0x" not in str(first)
    assert str(first).isprintable()


def test_an_error_message_is_one_short_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no memory address and no line break, whatever Pillow's message is."""

    def fail(*_: object) -> None:
        raise ValueError("bad\n\x1b[0m <Chunk object at 0x7f0a> " + "x" * 999)

    monkeypatch.setattr("digits.images.decode.to_grey", fail)
    message = str(refused(encoded(Image.fromarray(GREY), "GIF")))
    assert message.startswith("a damaged GIF: bad [0m the file xxx")
    assert len(message) < 250


def test_a_wrong_checksum_is_unreadable() -> None:
    """A bit in the header is flipped."""
    content = bytearray(encoded(Image.fromarray(GREY)))
    content[17] ^= 1
    assert refused(bytes(content)).status == "unreadable"


def test_too_many_pixels_are_not_decoded() -> None:
    """The number is that of the header, and the error holds width and height."""
    content = png(8, 0, [b""] * 30_000, 30_000)
    error = refused(content)
    assert (error.status, error.width, error.height) == ("too-large", 30_000, 30_000)
    assert "limit of 50000000" in str(error)
    assert decode(encoded(Image.fromarray(GREY)), max_pixels=24).width == 6
    assert refused(encoded(Image.fromarray(GREY)), max_pixels=23).status == "too-large"


@pytest.mark.parametrize("error", [MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning])
def test_an_image_that_exhausts_the_memory_is_too_large(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is that of the image and does not end the run."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("digits.images.decode.to_grey", fail)
    assert refused(encoded(Image.fromarray(GREY), "GIF")).status == "too-large"


def test_the_statuses_are_a_closed_list() -> None:
    """The list includes the statuses with a prediction."""
    assert set(PREDICTED) < set(STATUSES)
    assert len(STATUSES) == 13


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Make threads switch as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_concurrent_decoding_keeps_the_warning_filters() -> None:
    """The filters belong to the process, so threads could overwrite each other's."""
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
    """The outcome is an image or a `DecodeError`."""
    noise = np.random.default_rng(1).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    content = bytearray(encoded(Image.fromarray(noise), kind))
    for position, value in changes:
        content[position % len(content)] = value
    with suppress(DecodeError):
        decoded = decode(bytes(content), max_pixels=1_000_000)
        assert decoded.pixels.shape == (decoded.height, decoded.width)


def decoded_by_pillow(content: bytes) -> Decoded:
    """Return an image as Pillow decodes it, for modes that need no scaling."""
    with Image.open(io.BytesIO(content)) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGBA")
    canvas = Image.new("RGBA", image.size, "white")
    canvas.alpha_composite(image)
    return Decoded(np.asarray(canvas.convert("L")), *image.size)


def compared_with_pillow(files: Mapping[str, bytes]) -> list[str]:
    """Compare the pixels of files with those that Pillow decodes, and return the paths of files that are refused."""
    refused = []
    for path, content in files.items():
        try:
            decoded = decode(content)
        except DecodeError:
            refused.append(path)
            continue
        with Image.open(io.BytesIO(content)) as opened:
            scaled = opened.mode.startswith("I") or "transparency" in opened.info
        if not scaled:
            difference = np.abs(decoded.pixels.astype(int) - decoded_by_pillow(content).pixels).max()
            assert difference <= 1, path
    return refused


def test_pngsuite_has_the_pixels_that_pillow_decodes() -> None:
    """The corrupt files are refused, and two files that Pillow cannot read."""
    refused = compared_with_pillow(data.contents("pngsuite"))
    assert len(refused) == 22
    assert [path for path in refused if not Path(path).name.startswith("x")] == [
        "bugfixes/cicp_pq.png",
        "bugfixes/issue#430.png",
    ]


def test_photographs_have_the_pixels_that_pillow_decodes() -> None:
    """The photographs have all eight EXIF orientations."""
    folder = data.larger_set("odd-images/exif-orientation")
    assert compared_with_pillow({path.name: path.read_bytes() for path in sorted(folder.glob("*.jpg"))}) == []


def outcome_with_pillow(content: bytes) -> object:
    """Return the outcome of decoding a PNG with Pillow instead of libspng."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("digits.images.decode.decode_plain_png", lambda *_: None)
        return outcome(content)


def outcome(content: bytes, **options: Any) -> object:
    """Return the pixels and sizes of a decoded file, or the status and message of its error."""
    try:
        decoded = decode(content, **options)
    except DecodeError as error:
        return error.status, str(error)
    return decoded.pixels.tolist(), decoded.width, decoded.height, decoded.more_frames


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 4, 8]), st.randoms(use_true_random=False))
def test_plain_pngs_are_decoded_to_pillows_pixels(width: int, height: int, depth: int, random: Any) -> None:
    """Libspng decodes each depth and each filter as Pillow does."""
    noise = [bytes([random.randrange(5)]) + random.randbytes((width * depth + 7) // 8) for _ in range(height)]
    content = png(depth, 0, noise, width, filtered=True)
    assert is_decoded_without_pillow(content)
    assert outcome(content) == outcome_with_pillow(content)


def is_decoded_without_pillow(content: bytes) -> bool:
    """Return whether a file is decoded without Pillow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("digits.images.decode.decode_with_pillow", None)
        return not isinstance(outcome(content)[0], str)  # type: ignore[index]


DAMAGES = ["adler", "no-adler", "crc", "header-crc", "short", "few-rows", "filter", "width"]


def damaged_png(damage: str) -> bytes:
    """Return a grey PNG of 9 by 9 pixels with a kind of damage; it is intact if there is no such kind."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 9), dtype=np.uint8)
    rows = [b"\0" + row.tobytes() for row in noise]
    data = zlib.compress(b"".join(rows))
    changed = {
        "adler": data[:-1] + bytes([data[-1] ^ 1]),
        "no-adler": data[:-4],
        "short": data[:-40],
        "few-rows": zlib.compress(b"".join(rows[:-1])),
        "filter": zlib.compress(b"\7" + b"".join(rows)[1:]),
    }.get(damage, data)
    header = struct.pack(">IIBBBBB", 0 if damage == "width" else 9, 9, 8, 0, 0, 0, 0)
    content = bytearray(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", changed) + chunk(b"IEND", b""))
    if damage.endswith("crc"):
        content[30 if damage == "header-crc" else -14] ^= 1
    return bytes(content)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_plain_png_is_refused_as_by_pillow(damage: str) -> None:
    """Libspng alone would read some of the damaged files."""
    content = damaged_png(damage)
    assert outcome(content) == outcome_with_pillow(content)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.randoms(use_true_random=False))
def test_small_pngs_have_the_same_pixels_when_decoded_together(
    width: int, height: int, count: int, random: Any
) -> None:
    """Each filter is among them. More files than there is room for are left to `decode`."""
    pngs = SmallPngs((height, width), most=count)
    for _ in range(2):
        files = [
            png(
                8,
                0,
                [bytes([random.randrange(5)]) + random.randbytes(width) for _ in range(height)],
                width,
                filtered=True,
            )
            for _ in range(count)
        ]
        pixels = [pngs.add(content) for content in files]
        assert pngs.add(files[0]) is None
        pngs.decode()
        assert [found.tolist() for found in pixels if found is not None] == [decode(f).pixels.tolist() for f in files]


def test_a_png_of_another_kind_is_not_decoded_together_with_others() -> None:
    """It has another size, depth, order of rows or form, metadata, or more data than rows."""
    rows = [bytes(9)] * 9
    others = [
        png(8, 0, rows[:8], 9),
        png(4, 0, rows, 9),
        png(8, 3, rows, 9, (b"PLTE", bytes(768))),
        png(8, 0, rows, 9, (b"tEXt", b"a\0b")),
        png(8, 0, [*rows[:8], bytes(500)], 9),
        png(8, 0, rows, 9) + b" ",
        encoded(Image.new("L", (9, 9)), "GIF"),
        b"",
    ]
    pngs = SmallPngs((9, 9), most=9)
    assert [pngs.add(content) for content in others] == [None] * len(others)
    assert pngs.add(png(8, 0, rows, 9)) is not None
    pngs.decode()
    pngs.decode()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_png_is_not_decoded_together_with_others(damage: str) -> None:
    pngs = SmallPngs((9, 9), most=2)
    assert pngs.add(damaged_png(damage)) is None
    assert pngs.add(damaged_png("none")) is not None


def test_a_small_png_is_not_decompressed_beyond_its_size() -> None:
    content = damaged_png("none")
    bomb = content.replace(content[33:-12], chunk(b"IDAT", zlib.compress(bytes(100_000_000))))
    with faults.memory_below(10_000_000):
        assert SmallPngs((9, 9), most=2).add(bomb) is None


@pytest.mark.parametrize(("size", "scale"), [((895, 900), 4), ((896, 900), 8), ((640, 480), 4), ((224, 300), 2)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_large_photos_are_decoded_at_a_reduced_scale(size: tuple[int, int], scale: int, orientation: int) -> None:
    """The scale is the smallest at which the shorter side has 112 pixels. The image is upright, its sizes are whole."""
    columns, rows = np.meshgrid(np.linspace(0, 120, size[0]), np.linspace(0, 120, size[1]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray((columns + rows).astype(np.uint8)).convert("RGB"), "JPEG", exif=exif)
    decoded = decode(content, min_side=112)
    width, height = reversed(size) if orientation == 6 else size
    assert (decoded.width, decoded.height) == (width, height)
    assert decoded.pixels.shape == (-(-height // scale), -(-width // scale))
    expected = np.asarray(Image.fromarray(decode(content).pixels).reduce(scale)).astype(int)
    assert np.abs(decoded.pixels.astype(int) - expected).max() <= 2


def photo_of(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """Return a photo of a gradient with noise, which decoding at a reduced scale averages."""
    columns, rows = np.meshgrid(np.linspace(0, 110, size[0]), np.linspace(20, 120, size[1]))
    grain = np.random.default_rng(5).integers(0, 6, (size[1], size[0]))
    return Image.fromarray((columns + rows + grain).astype(np.uint8)).convert(mode)


def uses_pillow(content: bytes, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Decode a file, and return whether Pillow was used."""
    calls = []
    real = decode_module.decode_with_pillow
    with monkeypatch.context() as patch:
        patch.setattr(decode_module, "decode_with_pillow", lambda *given: calls.append(True) or real(*given))
        decode(content, min_side=112)
    return bool(calls)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(640, 480), (641, 479), (300, 224), (1200, 1001)])
def test_a_jpeg_without_metadata_is_decoded_without_pillow(
    size: tuple[int, int], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pixels are the same as with Pillow, and within 2 levels of the average of the whole image."""
    content = encoded(photo_of(size, mode), "JPEG", quality=90)
    assert not uses_pillow(content, monkeypatch)
    without = decode(content, min_side=112)
    monkeypatch.setattr(decode_module, "decode_plain_jpeg", lambda *_: None)
    with_pillow = decode(content, min_side=112)
    assert np.array_equal(without.pixels, with_pillow.pixels)
    assert (without.width, without.height) == (with_pillow.width, with_pillow.height) == size
    scale = round(size[0] / without.pixels.shape[1])
    whole = np.asarray(Image.fromarray(decode(content).pixels).reduce(scale)).astype(int)
    inside = (slice(0, size[1] // scale), slice(0, size[0] // scale))  # libjpeg repeats pixels at the rim, Pillow cuts
    assert np.abs(without.pixels.astype(int) - whole)[inside].max() <= 2


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}, id="exif"),
        pytest.param({"icc_profile": b"a profile"}, id="profile"),
        pytest.param({"comment": b"a comment"}, id="comment"),
        pytest.param({"xmp": b"<x/>"}, id="xmp"),
        pytest.param({"progressive": True}, id="progressive"),
    ],
)
def test_a_jpeg_with_metadata_is_read_by_pillow(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow reads the orientation and the kind of the file. The pixels are the same as without metadata."""
    content = encoded(photo_of((640, 480)), "JPEG", quality=90, **options)
    assert uses_pillow(content, monkeypatch)
    plain = encoded(photo_of((640, 480)), "JPEG", quality=90)
    assert np.array_equal(decode(content, min_side=112).pixels, decode(plain, min_side=112).pixels)


def test_a_jpeg_with_a_truncated_header_has_pillows_error() -> None:
    """The header is truncated at various lengths."""
    content = encoded(photo_of((640, 480)), "JPEG")
    for length in range(3, content.index(b"\xff\xda"), 40):
        assert outcome(content[:length], min_side=112) == outcome(content[:length])


def test_a_decompression_bomb_in_a_plain_png_is_refused() -> None:
    """Its data is not decompressed beyond what an image of its size can need."""
    bomb = chunk(b"IDAT", zlib.compress(bytes(100_000_000)))
    header = struct.pack(">IIBBBBB", 9, 9, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + bomb + chunk(b"IEND", b"")
    with faults.memory_below(10_000_000):
        assert outcome(content) == outcome_with_pillow(content)


def test_small_rare_and_damaged_photos_are_decoded_whole() -> None:
    """Without `min_side`, so is any photo."""
    small = encoded(Image.linear_gradient("L").resize((223, 400)).convert("RGB"), "JPEG")
    rare = encoded(Image.new("CMYK", (300, 300)), "JPEG")
    truncated = encoded(Image.linear_gradient("L").resize((600, 600)), "JPEG")[:-3000]
    for content in (small, rare, truncated):
        assert outcome(content, min_side=112) == outcome(content)
    assert decode(encoded(Image.new("RGB", (500, 400)), "JPEG")).pixels.shape == (400, 500)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_large_images_of_numbers_are_converted_in_strips(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pixels do not depend on the size of the strips."""
    values = np.random.default_rng(0).integers(0, 65536, (30, 20)).astype({"I;16": "<u2", "I": "<i4", "F": "<f4"}[mode])
    content = encoded(Image.fromarray(values), "TIFF")
    whole = decode(content).pixels
    monkeypatch.setattr("digits.images.decode.STRIP_PIXELS", 70)
    assert decode(content).pixels.tolist() == whole.tolist()
    assert np.abs(whole - values / 257).max() <= 0.51


@pytest.mark.parametrize("kind", sorted(set(OTHER_EXTENSIONS) - {"HEIF", "PDF"}))
def test_other_formats_are_read_on_request(kind: OtherFormat) -> None:
    """Otherwise they are refused. A request does not affect files in the usual formats."""
    image = Image.fromarray(np.kron(GREY, np.ones((8, 8), np.uint8)))
    image = image.convert({"AVIF": "RGB", "ICO": "RGBA", "QOI": "RGB"}.get(kind, "L"))
    options = {"AVIF": {"quality": 100, "subsampling": "4:4:4"}, "ICO": {"sizes": [image.size]}}.get(kind, {})
    content = encoded(image, kind, **options)
    assert refused(content).status in ("unsupported", "not-an-image")
    pixels = decode(content, others=(kind,)).pixels
    assert np.abs(pixels.astype(int) - np.asarray(image.convert("L"))).max() <= 2
    assert has_signature(content[:HEAD_BYTES], (kind,)) == (kind != "TGA")
    assert not has_signature(content[:HEAD_BYTES])
    assert refused(b"nothing of the kind", others=(kind,)).status == ("unreadable" if kind == "TGA" else "not-an-image")
    assert outcome(encoded(image.convert("L")), others=(kind,)) == outcome(encoded(image.convert("L")))


def test_each_other_format_has_a_reader_and_extensions() -> None:
    """The type and the two tables have the same formats in the same order."""
    assert get_args(OtherFormat) == tuple(OTHER_EXTENSIONS) == tuple(OTHER_READERS)
