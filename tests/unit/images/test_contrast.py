"""Tests of ink that shows in the alpha channel or in a colour only."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from digits.images.decode import decode
from digits.images.types import Pixels

RED, GREEN = (225, 60, 50), (60, 150, 60)
"""Colours of nearly the same brightness."""


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return an image's bytes in a format."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def grey_of(image: Image.Image, kind: str = "PNG", **options: Any) -> Pixels:
    return decode(encoded(image, kind, **options), min_side=112).pixels


def drawing(mode: str, paper: Any, ink: Any, *, side: int = 60, width: int = 5) -> Image.Image:
    """Draw a seven."""
    image = Image.new(mode, (side, side), paper)
    points = [(0.25 * side, 0.2 * side), (0.7 * side, 0.2 * side), (0.4 * side, 0.8 * side)]
    ImageDraw.Draw(image).line(points, fill=ink, width=width)
    return image


def shows_ink(grey: Pixels) -> bool:
    return int(grey.max()) - int(grey.min()) > 60


@pytest.mark.parametrize("ink", [(255, 255, 255, 255), (245, 245, 245, 255), (255, 255, 240, 200)])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_opacity_is_ink_if_the_ink_is_white(ink: tuple[int, ...], kind: str) -> None:
    """Full opacity is black. The colour of what is fully transparent does not matter."""
    options = {"lossless": True} if kind == "WEBP" else {}
    for behind in ((0, 0, 0, 0), (255, 255, 255, 0)):
        image = drawing("RGBA", behind, ink)
        expected = 255 - np.asarray(image.getchannel("A"))
        assert np.array_equal(grey_of(image, kind, **options), expected)


@pytest.mark.parametrize("mode", ["LA", "L", "P", "RGB"])
def test_opacity_is_ink_in_every_mode(mode: str) -> None:
    """A colour that is transparent makes an opacity, too."""
    if mode == "LA":
        grey = grey_of(drawing("LA", (0, 0), (255, 255)))
    else:
        image = drawing("L", 0, 1 if mode == "P" else 255).convert(mode) if mode != "P" else drawing("P", 0, 1)
        if mode == "P":
            image.putpalette([0, 0, 0, 255, 255, 255])
        grey = grey_of(image, transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert set(np.unique(grey)) == {0, 255}
    assert (grey == 0).mean() < 0.2


def test_opacity_is_not_ink_if_the_ink_is_visible_on_white() -> None:
    """Dark ink, pale ink, and ink on an opaque sheet with transparent corners are read on white."""
    for ink, level in (((0, 0, 0, 255), 0), ((200, 200, 200, 255), 200)):
        assert grey_of(drawing("RGBA", (255, 255, 255, 0), ink)).min() == level
    sheet = drawing("RGBA", (250, 250, 250, 255), (0, 0, 0, 255))
    ImageDraw.Draw(sheet).polygon([(0, 0), (20, 0), (0, 20)], fill=(0, 0, 0, 0))
    assert grey_of(sheet)[0, 0] == 255


def test_a_blank_sheet_with_transparent_corners_stays_blank() -> None:
    sheet = Image.new("RGBA", (60, 60), (252, 252, 252, 255))
    ImageDraw.Draw(sheet).polygon([(0, 0), (20, 0), (0, 20)], fill=(0, 0, 0, 0))
    assert grey_of(sheet).min() == 252


@pytest.mark.parametrize(("paper", "ink"), [(GREEN, RED), (RED, GREEN), ((70, 70, 220), (110, 67, 120))])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "JPEG", "TIFF"])
def test_ink_as_bright_as_the_paper_is_read_in_a_colour(
    paper: tuple[int, ...], ink: tuple[int, ...], kind: str
) -> None:
    """It is the colour in which ink and paper differ most."""
    image = drawing("RGB", paper, ink)
    assert not shows_ink(np.asarray(image.convert("L")))
    most = int(np.argmax(np.abs(np.subtract(paper, ink))))
    options = {"quality": 95} if kind == "JPEG" else {}
    difference = grey_of(image, kind, **options).astype(int) - np.asarray(image.getchannel(most))
    assert np.abs(difference).mean() < (12 if kind == "JPEG" else 1e-9)


@pytest.mark.parametrize("mode", ["P", "CMYK", "RGBA"])
def test_ink_as_bright_as_the_paper_is_read_in_every_mode(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is converted a few rows at a time."""
    monkeypatch.setattr("digits.images.contrast._STRIP_PIXELS", 7 * 60)
    image = drawing("RGB", GREEN, RED)
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    red = np.asarray(image.convert("RGB").getchannel("R"), int)
    assert np.abs(grey_of(image, "TIFF") - red).max() <= 1


def test_a_large_photo_is_read_in_a_colour_at_its_reduced_size() -> None:
    """Both of its paths are tested, that without metadata and that with."""
    image = drawing("RGB", GREEN, RED, side=480, width=30)
    plain = grey_of(image, "JPEG", quality=90)
    commented = grey_of(image, "JPEG", quality=90, comment="x")
    assert plain.shape == commented.shape == (120, 120)
    assert np.array_equal(plain, commented)
    assert shows_ink(plain)


def test_noise_and_uneven_light_do_not_hide_that_brightness_is_equal() -> None:
    random = np.random.default_rng(1)
    pixels = np.asarray(drawing("RGB", GREEN, RED, side=200, width=14), float)
    lit = pixels * np.linspace(0.75, 1, 200)[:, np.newaxis, np.newaxis] + random.normal(0, 4, pixels.shape)
    grey = grey_of(Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8)))
    assert abs(float(grey[40, 60:130].mean()) - float(grey[50:60, 20:60].mean())) > 60


@pytest.mark.parametrize(
    ("paper", "ink"),
    [((255, 255, 255), (255, 255, 0)), ((0, 0, 0), (0, 0, 255)), ((255, 255, 255), (200, 200, 220))],
    ids=["yellow on white", "blue on black", "pencil"],
)
def test_ink_with_some_contrast_is_read_in_grey(paper: tuple[int, ...], ink: tuple[int, ...]) -> None:
    image = drawing("RGB", paper, ink)
    assert np.array_equal(grey_of(image), np.asarray(image.convert("L")))


@pytest.mark.parametrize("colour", [(255, 255, 255), (120, 140, 90), (30, 30, 40)])
def test_a_blank_page_with_coloured_noise_is_read_in_grey(colour: tuple[int, ...]) -> None:
    noise = np.random.default_rng(2).normal(0, 5, (80, 80, 3))
    image = Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))
    assert np.array_equal(grey_of(image), np.asarray(image.convert("L")))


def test_an_image_of_a_few_pixels_is_read_in_grey() -> None:
    image = drawing("RGB", GREEN, RED, side=7, width=2)
    assert np.array_equal(grey_of(image), np.asarray(image.convert("L")))
