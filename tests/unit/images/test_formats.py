"""Tests of formats that are read on request or by an extra, and of those that are only named."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from digits.errors import UsageError
from digits.images.decode import DecodeError, decode
from digits.images.folder import Listing
from digits.images.formats import EXTRAS, OtherFormat, extra_of, formats_to_read, matches_format, reason_of
from digits.images.pages import NO_PAGES, list_pages, place_of
from digits.images.patterns import Selection
from digits.images.types import Pixels

CONTAINER = b"\0\0\0\x20ftypmif1\0\0\0\0mif1"


def without(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """Hide an installed library."""
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == library else object())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.HEIC", "heic-file"),
        ("x/a.heif", "heic-file"),
        ("a.avif", "avif-file"),
        ("a.pdf", "pdf-file"),
        ("a.7z", "7z-archive"),
        ("a.rar", "rar-archive"),
        ("a.png.zip", "zip-archive"),
        ("a.tar.gz", "tar-archive"),
        ("a.gz", "other-file"),
        ("zip", "other-file"),
        ("a.txt", "other-file"),
    ],
)
def test_files_that_are_not_read_are_named_as_what_they_are(tmp_path: Path, name: str, reason: str) -> None:
    """Their extensions decide, so no file is opened."""
    assert reason_of(name.encode()) == reason
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    listing = Listing(tmp_path)
    assert not list(listing)
    assert listing.skipped == {reason: 1}


def test_an_extra_is_read_by_default_while_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Formats that were asked for come first. What an extra reads is an image like any other."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    assert formats_to_read(("TGA", "AVIF")) == ("TGA", "AVIF", "HEIF", "PDF")
    selection = Selection(others=formats_to_read(()))
    assert [selection.reason_to_skip(name, lambda: None) for name in (b"a.heic", b"a.PDF")] == [None, None]
    without(monkeypatch, "pillow_heif")
    assert formats_to_read(("TGA", "AVIF")) == ("TGA", "AVIF", "PDF")


@pytest.mark.parametrize(
    ("library", "kind", "content"),
    [("pillow_heif", "HEIF", b"\0\0\0\x20ftypheic"), ("pypdfium2", "PDF", b"%PDF-1.7\n")],
)
def test_a_format_without_its_library_accepts_no_file_and_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, library: str, kind: OtherFormat, content: bytes
) -> None:
    """The images of a review are tried with every reader."""
    without(monkeypatch, library)
    extra = kind.lower()
    with pytest.raises(UsageError, match=rf"{kind} needs a library .*: pip install 'digits\[{extra}\]'"):
        formats_to_read((kind,))
    assert matches_format(content, kind) is False
    assert list_pages(content, pdf=True) == NO_PAGES
    assert place_of(content, 2) is None
    with pytest.raises(DecodeError, match=rf"which needs digits\[{extra}\]"):
        decode(content, others=(kind,))


def test_the_brands_of_a_container_decide_between_heif_and_avif(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first brand may only say that there are images."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    for brand, kind in ((b"heic", "HEIF"), (b"avif", "AVIF"), (b"miaf", "HEIF")):
        accepted = [other for other in EXTRAS["heif"].formats if matches_format(CONTAINER + brand, other)]
        assert accepted == [kind]


def test_reasons_name_their_extras() -> None:
    """Archives need none."""
    reasons = ("heic-file", "avif-file", "pdf-file", "zip-archive")
    assert [extra_of(reason) for reason in reasons] == ["heif", "heif", "pdf", None]


def encoded(pixels: Pixels, kind: str, **options: object) -> bytes:
    """Encode an image as HEIF or AVIF; the test is skipped where the library is missing."""
    if kind == "HEIF":
        reason = "needs pillow-heif, which is in requirements-formats.lock only; CONTRIBUTING.md says how to run this"
        pytest.importorskip("pillow_heif", reason=reason).register_heif_opener()
    file = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(file, kind, quality=90, **options)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_heif_and_avif_are_decoded_upright(kind: str) -> None:
    """Size and orientation are those that a viewer shows; the pixels are close to the original."""
    pixels = np.full((48, 64), 230, np.uint8)
    pixels[8:40, 40:48] = 20
    found = decode(encoded(pixels, kind), others=("HEIF", "AVIF"))
    assert (found.width, found.height, found.more_frames) == (64, 48, False)
    assert np.abs(found.pixels.astype(int) - pixels).mean() < 4
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode(encoded(pixels, kind, exif=exif.tobytes()), others=("HEIF", "AVIF"))
    assert (turned.width, turned.height) == (48, 64)
    assert np.abs(turned.pixels.astype(int) - np.rot90(pixels, -1)).mean() < 4


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_damaged_heif_and_avif_cost_their_own_row(kind: str) -> None:
    """Whatever is wrong with a file, the error is that of its row."""
    content = encoded(np.full((48, 64), 230, np.uint8), kind)
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for place in random.integers(12, len(content), 3):
            damaged[place] = random.integers(256)
        try:
            decode(bytes(damaged[: random.integers(20, len(content) + 1)]), others=("HEIF", "AVIF"), max_pixels=10_000)
        except DecodeError as error:
            assert error.status in ("unreadable", "too-large", "unsupported", "not-an-image")  # noqa: PT017
