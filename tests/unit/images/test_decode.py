"""One picture from bytes to grey pixels: every kind rightly, or refused with a status."""

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
from digits.images import formats
from digits.images.decode import Decoded, DecodeError, decode
from digits.images.formats import FORMATS, OTHER_EXTENSIONS, OtherFormat, has_signature
from digits.status import PREDICTED, STATUSES
from tests.support import data, faults

GREY = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Give a picture's bytes in a format."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(
    depth: int, colour: int, rows: list[bytes], width: int, *chunks: tuple[bytes, bytes], filtered: bool = False
) -> bytes:
    """Give a PNG of any depth and colour type, byte by byte: Pillow can't write all of them."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(rows if filtered else [b"\0" + row for row in rows]))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in parts)


def chunk(kind: bytes, body: bytes) -> bytes:
    """Give a chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


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

    monkeypatch.setattr("digits.images.decode._to_grey", fail)
    message = str(refused(encoded(Image.fromarray(GREY), "GIF")))
    assert message.startswith("a damaged GIF: bad [0m the file xxx")
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

    monkeypatch.setattr("digits.images.decode._to_grey", fail)
    assert refused(encoded(Image.fromarray(GREY), "GIF")).status == "too-large"


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


def pillows_own(content: bytes) -> Decoded:
    """Decode as Pillow does, for modes that need no scaling."""
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
            difference = np.abs(decoded.pixels.astype(int) - pillows_own(content).pixels).max()
            assert difference <= 1, path
    return refused


def test_pngsuite_has_the_pixels_that_pillow_decodes() -> None:
    """The corrupt files are refused, and two that Pillow cannot read either."""
    refused = compared_with_pillow(data.contents("pngsuite"))
    assert len(refused) == 22
    assert [path for path in refused if not Path(path).name.startswith("x")] == [
        "bugfixes/cicp_pq.png",
        "bugfixes/issue#430.png",
    ]


def test_photographs_have_the_pixels_that_pillow_decodes() -> None:
    """In all eight EXIF orientations."""
    folder = data.larger_set("odd-images/exif-orientation")
    assert compared_with_pillow({path.name: path.read_bytes() for path in sorted(folder.glob("*.jpg"))}) == []


def by_pillow(content: bytes) -> object:
    """Decode without the short ways: what comes of it, in a form that can be compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("digits.images.decode._plain_png", lambda *_: None)
        return outcome(content)


def outcome(content: bytes, **options: Any) -> object:
    """Decode; give pixels and sizes, or the status and its reason."""
    try:
        decoded = decode(content, **options)
    except DecodeError as error:
        return error.status, str(error)
    return decoded.pixels.tolist(), decoded.width, decoded.height, decoded.more_frames


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 4, 8]), st.randoms(use_true_random=False))
def test_plain_pngs_are_decoded_to_pillows_pixels(width: int, height: int, depth: int, random: Any) -> None:
    """Every depth, every filter."""
    noise = [bytes([random.randrange(5)]) + random.randbytes((width * depth + 7) // 8) for _ in range(height)]
    content = png(depth, 0, noise, width, filtered=True)
    assert decoded_shortly(content)
    assert outcome(content) == by_pillow(content)


def decoded_shortly(content: bytes) -> bool:
    """Tell whether Pillow isn't asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("digits.images.decode._decode", None)
        return not isinstance(outcome(content)[0], str)  # type: ignore[index]


@pytest.mark.parametrize("damage", ["adler", "no-adler", "crc", "header-crc", "short", "few-rows", "filter", "width"])
def test_a_damaged_plain_png_is_judged_by_pillow(damage: str) -> None:
    """The short way never reads what Pillow refuses."""
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
    assert outcome(bytes(content)) == by_pillow(bytes(content))


@pytest.mark.parametrize(("size", "scale"), [((895, 900), 4), ((896, 900), 8), ((640, 480), 4), ((224, 300), 2)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_large_photos_are_decoded_reduced(size: tuple[int, int], scale: int, orientation: int) -> None:
    """At the smallest scale that leaves the shorter side 112 pixels; upright, and with the sizes of the whole."""
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
    """Give a slope of light, with grain that reduced decoding has to average as well."""
    columns, rows = np.meshgrid(np.linspace(0, 110, size[0]), np.linspace(20, 120, size[1]))
    grain = np.random.default_rng(5).integers(0, 6, (size[1], size[0]))
    return Image.fromarray((columns + rows + grain).astype(np.uint8)).convert(mode)


def asked_pillow(content: bytes, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Decode a file, and tell whether Pillow had a part in it."""
    asked = []
    long_way = decode_module._decode
    with monkeypatch.context() as patch:
        patch.setattr(decode_module, "_decode", lambda *given: asked.append(True) or long_way(*given))
        decode(content, min_side=112)
    return bool(asked)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(640, 480), (641, 479), (300, 224), (1200, 1001)])
def test_a_jpeg_without_metadata_is_decoded_the_short_way(
    size: tuple[int, int], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Pillow, to what the long way gives, which is within two levels of Pillow's at full size, averaged."""
    content = encoded(photo_of(size, mode), "JPEG", quality=90)
    assert not asked_pillow(content, monkeypatch)
    short = decode(content, min_side=112)
    monkeypatch.setattr(decode_module, "_plain_jpeg", lambda *_: None)
    long = decode(content, min_side=112)
    assert np.array_equal(short.pixels, long.pixels)
    assert (short.width, short.height) == (long.width, long.height) == size
    scale = round(size[0] / short.pixels.shape[1])
    whole = np.asarray(Image.fromarray(decode(content).pixels).reduce(scale)).astype(int)
    inside = (slice(0, size[1] // scale), slice(0, size[0] // scale))  # at the rim libjpeg repeats pixels, Pillow cuts
    assert np.abs(short.pixels.astype(int) - whole)[inside].max() <= 2


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
def test_a_jpeg_with_anything_else_in_it_is_shown_to_pillow(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orientation and kind are Pillow's to say; the pixels are the same where it says nothing of them."""
    content = encoded(photo_of((640, 480)), "JPEG", quality=90, **options)
    assert asked_pillow(content, monkeypatch)
    plain = encoded(photo_of((640, 480)), "JPEG", quality=90)
    assert np.array_equal(decode(content, min_side=112).pixels, decode(plain, min_side=112).pixels)


def test_a_jpeg_that_is_cut_off_in_its_header_is_shown_to_pillow() -> None:
    """Wherever: what is said of it is what Pillow says."""
    content = encoded(photo_of((640, 480)), "JPEG")
    for length in range(3, content.index(b"\xff\xda"), 40):
        assert outcome(content[:length], min_side=112) == outcome(content[:length])


def test_a_plain_png_that_is_a_bomb() -> None:
    """Its data is not unpacked beyond what the picture's size may need."""
    bomb = chunk(b"IDAT", zlib.compress(bytes(100_000_000)))
    header = struct.pack(">IIBBBBB", 9, 9, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + bomb + chunk(b"IEND", b"")
    with faults.memory_below(10_000_000):
        assert outcome(content) == by_pillow(content)


def test_other_photos_are_decoded_whole() -> None:
    """Small ones, those of a rare kind, and those that are damaged; all of them when nothing else is asked for."""
    small = encoded(Image.linear_gradient("L").resize((223, 400)).convert("RGB"), "JPEG")
    rare = encoded(Image.new("CMYK", (300, 300)), "JPEG")
    cut_off = encoded(Image.linear_gradient("L").resize((600, 600)), "JPEG")[:-3000]
    for content in (small, rare, cut_off):
        assert outcome(content, min_side=112) == outcome(content)
    assert decode(encoded(Image.new("RGB", (500, 400)), "JPEG")).pixels.shape == (400, 500)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_large_pictures_of_numbers_are_made_grey_in_strips(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pixels, in whatever pieces."""
    values = np.random.default_rng(0).integers(0, 65536, (30, 20)).astype({"I;16": "<u2", "I": "<i4", "F": "<f4"}[mode])
    content = encoded(Image.fromarray(values), "TIFF")
    whole = decode(content).pixels
    monkeypatch.setattr("digits.images.decode._STRIP", 70)
    assert decode(content).pixels.tolist() == whole.tolist()
    assert np.abs(whole - values / 257).max() <= 0.51


@pytest.mark.parametrize("kind", sorted(OTHER_EXTENSIONS))
def test_other_formats_are_read_where_they_are_asked_for(kind: OtherFormat) -> None:
    """Else they are refused; and what is asked for changes nothing for the rest."""
    image = Image.fromarray(np.kron(GREY, np.ones((8, 8), np.uint8)))
    image = image.convert({"AVIF": "RGB", "ICO": "RGBA", "QOI": "RGB"}.get(kind, "L"))
    options = {"AVIF": {"quality": 100, "subsampling": "4:4:4"}, "ICO": {"sizes": [image.size]}}.get(kind, {})
    content = encoded(image, kind, **options)
    assert refused(content).status in ("unsupported", "not-an-image")
    pixels = decode(content, others=(kind,)).pixels
    assert np.abs(pixels.astype(int) - np.asarray(image.convert("L"))).max() <= 2
    assert has_signature(content[:16], (kind,)) == (kind != "TGA")
    assert not has_signature(content[:16])
    assert refused(b"nothing of the kind", others=(kind,)).status == ("unreadable" if kind == "TGA" else "not-an-image")
    assert outcome(encoded(image.convert("L")), others=(kind,)) == outcome(encoded(image.convert("L")))


def test_the_lists_of_other_formats_agree() -> None:
    """The configuration has one of its own, so as not to load Pillow."""
    assert get_args(formats.OtherFormat) == get_args(OtherFormat) == tuple(OTHER_EXTENSIONS)
