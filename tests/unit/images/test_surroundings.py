"""Normalization of digits with something around them: strips, frames, sheets, lines, pieces, and other digits."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from digits.images.ink.paper import border_of, denoise
from digits.images.normalize import find_ink, normalize
from digits.images.screening import NOT_A_DIGIT, screen
from digits.images.types import Pixels
from tests.support.pictures import sample_digits

Values = npt.NDArray[np.float64]
SIDE = 200


def page_of(digit: Pixels, *, side: int = 110, top: int = 45, left: int = 50) -> Values:
    """Return a page of white paper with a dark digit, (200, 200) float64 of grey levels."""
    page = np.full((SIDE, SIDE), 235.0)
    ink = np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)) / 255
    page[top : top + side, left : left + side] -= 195 * ink
    return page


def with_strip(page: Values) -> Values:
    page[:, :26] = 60
    return page


def with_border(page: Values) -> Values:
    page[:5] = page[-5:] = page[:, :5] = page[:, -5:] = 30
    return page


def with_scanner_border(page: Values) -> Values:
    page[:14] = page[:, :20] = 6
    return page


def with_frame(page: Values) -> Values:
    frame = Image.fromarray(page.astype(np.uint8))
    ImageDraw.Draw(frame).rectangle((12, 10, 185, 190), outline=50, width=7)
    return np.asarray(frame).astype(np.float64)


def with_circle(page: Values) -> Values:
    ring = Image.fromarray(page.astype(np.uint8))
    ImageDraw.Draw(ring).ellipse((18, 14, 188, 184), outline=40, width=6)
    return np.asarray(ring).astype(np.float64)


def on_table(page: Values) -> Values:
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).polygon([(24, 18), (180, 26), (176, 182), (20, 174)], fill=1)
    return np.where(np.asarray(mask) == 1, page, 70.0)


def with_pen(page: Values) -> Values:
    pen = Image.fromarray(page.astype(np.uint8))
    ImageDraw.Draw(pen).line((168, 12, 192, 190), fill=70, width=9)
    return np.asarray(pen).astype(np.float64)


def with_remnants(page: Values) -> Values:
    page[60:150, :9] = page[50:130, 193:] = 40
    return page


SURROUNDINGS = (
    *(with_strip, with_border, with_scanner_border, with_frame, with_circle),
    *(on_table, with_pen, with_remnants),
)


def grainy(page: Values) -> Pixels:
    """Return a page with the noise of a camera."""
    return np.clip(page + np.random.default_rng(31).normal(0, 2, page.shape), 0, 255).astype(np.uint8)


def inverted(page: Values) -> Pixels:
    return (255 - page).astype(np.uint8)


@pytest.mark.parametrize("finish", [grainy, inverted, lambda page: page.astype(np.uint8)])
@pytest.mark.parametrize("surround", SURROUNDINGS)
def test_only_the_digit_is_read(surround: Callable[[Values], Values], finish: Callable[[Values], Pixels]) -> None:
    """The result is about the same as without the surroundings, and nothing is taken for a second digit."""
    digits = sample_digits()[100:115]
    expected = [normalize(page_of(digit).astype(np.uint8)).astype(int) for digit in digits]
    screened = [screen(finish(surround(page_of(digit)))) for digit in digits]
    differences = [np.abs(one.pixels - other).mean() for one, other in zip(screened, expected, strict=True)]
    assert np.median(differences) < 6
    assert sorted(differences)[-2] < 20
    assert sum(one.screening_score >= NOT_A_DIGIT for one in screened) <= 1


@pytest.mark.parametrize("finish", [grainy, lambda page: page.astype(np.uint8)])
def test_an_empty_frame_is_blank(finish: Callable[[Values], Pixels]) -> None:
    """Its lines are no digit."""
    cell = finish(with_frame(np.full((SIDE, SIDE), 235.0)))
    assert find_ink(cell) is None
    assert screen(cell).screening_score == NOT_A_DIGIT


def test_a_zero_that_fills_the_image_is_no_frame() -> None:
    """It is a closed line along the edges, too, but round."""
    page = Image.new("L", (100, 120), 255)
    ImageDraw.Draw(page).ellipse((8, 6, 92, 114), outline=0, width=9)
    assert find_ink(np.asarray(page)) is not None


def dotted(*, underlined: bool = False) -> Pixels:
    """Return a dotted 7, with a dotted line to both edges below it."""
    page = Image.new("L", (120, 140), 255)
    draw = ImageDraw.Draw(page)
    corners = [(30 + step, 25) for step in range(0, 56, 9)] + [(85 - step / 2, 25 + step) for step in range(9, 90, 9)]
    for across, down in corners + [(step, 127) for step in range(3, 120, 9) if underlined]:
        draw.ellipse((across - 3, down - 3, across + 3, down + 3), fill=0)
    return np.asarray(page)


def test_the_dots_of_a_dotted_digit_are_joined() -> None:
    """Their gaps are smaller than their widths."""
    ink = find_ink(dotted())
    assert ink is not None
    assert ink.box == pytest.approx((22, 27, 110, 88), abs=3)
    assert not ink.others


def test_a_dotted_line_below_a_digit_is_not_joined() -> None:
    """It reaches the edges of the image."""
    solid = np.full((140, 120), 255, np.uint8)
    solid[20:118, 55:63] = 0
    solid[124:131] = dotted(underlined=True)[124:131]
    ink = find_ink(solid)
    assert ink is not None
    assert ink.box[2] <= 120


def test_a_five_with_a_detached_bar_is_one_digit() -> None:
    """The pieces are above each other, less than two stroke widths apart."""
    page = Image.new("L", (120, 140), 255)
    draw = ImageDraw.Draw(page)
    draw.line((45, 20, 90, 20), fill=0, width=9)
    draw.arc((30, 38, 85, 120), 200, 520, fill=0, width=9)
    ink = find_ink(np.asarray(page))
    assert ink is not None
    assert ink.box[0] <= 18
    assert not ink.others


def test_two_digits_above_the_same_line_are_several() -> None:
    """They stand beside each other."""
    first, second = (sample_digits()[number] for number in (3, 8))
    pair = np.hstack([255 - np.asarray(Image.fromarray(digit).resize((90, 90))) for digit in (first, second)])
    ink = find_ink(pair)
    assert ink is not None
    assert ink.others


def test_the_gaps_of_a_dotted_digit_are_filled() -> None:
    """The network sees strokes, not dots."""
    normalized = normalize(dotted())
    rows = normalized[np.flatnonzero(normalized.any(axis=1))]
    assert (rows.max(axis=1) > 100).all()


def test_an_image_of_nothing_but_noise_keeps_its_grain() -> None:
    """Without its grain, it looks like a scribble, of which networks are more certain."""
    page = np.random.default_rng(1).integers(0, 256, (28, 28), np.uint8)
    assert denoise(page, border_of(page)) is page


@pytest.mark.parametrize("size", [28, 48])
def test_a_small_noisy_image_is_denoised(size: int) -> None:
    """Without that, the noise makes holes and specks."""
    random, differences = np.random.default_rng(5), []
    for digit in sample_digits()[200:220]:
        ink = np.asarray(Image.fromarray(digit).resize((size, size), Image.Resampling.BICUBIC)) / 255
        noisy = np.pad(150 - 60 * ink, 3, constant_values=150) + random.normal(0, 9, (size + 6, size + 6))
        differences.append(np.abs(normalize(noisy.clip(0, 255).astype(np.uint8)).astype(int) - digit).mean())
    assert np.median(differences) < 17


def test_a_stroke_of_a_neighbour_at_the_edge_is_not_joined() -> None:
    """It stands beside the digit, less than a tenth of its height away."""
    alone = np.full((100, 90), 255, np.uint8)
    alone[15:85, 70:78] = alone[15:23, 45:78] = 0
    beside = alone.copy()
    beside[20:60, 83:] = 0
    assert np.abs(normalize(beside).astype(int) - normalize(alone)).mean() < 1


def boxed(digit: Pixels) -> Pixels:
    """Return a digit that crosses the upper line of a box."""
    page = page_of(digit)
    box = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(box).rectangle((30, 72, 172, 182), outline=1, width=3)
    return np.where(np.asarray(box) == 1, np.minimum(page, 90), page).astype(np.uint8)


def test_the_lines_of_a_box_that_a_digit_crosses_are_taken_away() -> None:
    """They are joined to the digit."""
    digits = sample_digits()[100:130]
    expected = [normalize(page_of(digit).astype(np.uint8)).astype(int) for digit in digits]
    found = [np.abs(normalize(boxed(digit)) - one).mean() for digit, one in zip(digits, expected, strict=True)]
    assert np.median(found) < 16


def test_a_hollow_stroke_is_filled() -> None:
    """Only its outline is drawn."""
    page = Image.new("L", (150, 200), 255)
    corners = [(30, 20), (120, 20), (120, 44), (76, 180), (52, 180), (92, 44), (30, 44)]
    ImageDraw.Draw(page).polygon(corners, outline=0, width=3)
    full = Image.new("L", (150, 200), 255)
    ImageDraw.Draw(full).polygon(corners, fill=0)
    assert np.abs(normalize(np.asarray(page)).astype(int) - normalize(np.asarray(full))).mean() < 5


def test_a_thin_zero_is_not_filled() -> None:
    """Its inside is too wide for a stroke."""
    page = Image.new("L", (150, 200), 255)
    ImageDraw.Draw(page).ellipse((30, 20, 120, 180), outline=0, width=5)
    assert normalize(np.asarray(page))[14, 14] == 0


@pytest.mark.parametrize("strips", [(slice(0, 9),), (slice(0, 9), slice(193, None))])
def test_strips_along_edges_without_a_digit_are_blank(strips: tuple[slice, ...]) -> None:
    """What runs along a whole edge is no digit, also if there is nothing else."""
    page = np.full((SIDE, SIDE), 235, np.uint8)
    for strip in strips:
        page[:, strip] = 40
    assert find_ink(page) is None


def test_the_detached_stem_of_a_small_digit_is_no_pen() -> None:
    """In an image of this size, a stroke is as long as a line beside a digit would be."""
    page = np.full((28, 28), 250, np.uint8)
    page[4, 8:13] = page[5:13, 7] = 200
    page[4:25, 14] = 160
    ink = find_ink(page)
    assert ink is not None
    assert ink.box[1] <= 8
    assert ink.box[3] >= 15
