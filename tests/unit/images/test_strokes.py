"""Normalization of strokes that are thin, hollow, broken, or interrupted by a reflection."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from digits.images.ink.paper import shrink
from digits.images.ink.parts import choose
from digits.images.ink.reflections import find_reflection
from digits.images.normalize import find_ink, normalize
from digits.images.screening import NOT_A_DIGIT, screen
from digits.images.types import Pixels

HOOKED_ONE = [(105, 90), (150, 45), (160, 255)]


def drawn(lines: list[list[tuple[int, int]]], width: int, size: tuple[int, int] = (300, 300)) -> Pixels:
    page = Image.new("L", size, 255)
    for line in lines:
        ImageDraw.Draw(page).line(line, fill=0, width=width, joint="curve")
    return np.asarray(page)


def difference(first: Pixels, second: Pixels) -> float:
    return float(np.abs(normalize(first).astype(int) - normalize(second)).mean())


def test_a_line_of_one_pixel_becomes_as_broad_as_a_pen() -> None:
    """It is broadened before it is scaled down, so that the box has room for it, and the flag of a 1 stays short."""
    assert difference(drawn([HOOKED_ONE], 1), drawn([HOOKED_ONE], 34)) < 8


def test_a_line_as_broad_as_a_pen_is_not_broadened() -> None:
    """Its strokes keep their width."""
    widths = [np.count_nonzero(normalize(drawn([HOOKED_ONE], width)) > 128) for width in (18, 34)]
    assert widths[0] < 0.75 * widths[1]


def ring(*gaps: tuple[int, int]) -> Pixels:
    """Return a thick ring with gaps, which are given by their angles in degrees."""
    page = Image.new("L", (160, 200), 255)
    draw = ImageDraw.Draw(page)
    draw.ellipse((30, 20, 130, 180), outline=0, width=16)
    for start, end in gaps:
        draw.pieslice((0, 0, 160, 200), start, end, fill=255)
    return np.asarray(page)


def test_all_gaps_of_a_broken_zero_are_bridged() -> None:
    """It is closed again, and its hole stays open."""
    broken = ring((-50, -32), (60, 74), (150, 164))
    assert difference(broken, ring()) < 6
    assert normalize(broken)[14, 14] == 0


def test_a_dot_in_a_zero_is_not_joined_to_it() -> None:
    """A dotted zero would become an 8."""
    page = Image.fromarray(ring())
    ImageDraw.Draw(page).rectangle((68, 88, 92, 112), fill=0)
    normalized = normalize(np.asarray(page))
    assert normalized[14, 14] > 200
    assert np.count_nonzero(np.diff((normalized[14] > 100).astype(int)) == 1) == 3


@pytest.mark.parametrize("line", [2, 3])
def test_a_narrow_hollow_stroke_is_filled(line: int) -> None:
    """Its inside is as narrow as the lines around it."""
    corners = [(40, 20), (100, 20), (100, 30), (62, 180), (52, 180), (88, 30), (40, 30)]
    hollow, full = Image.new("L", (150, 200), 255), Image.new("L", (150, 200), 255)
    ImageDraw.Draw(hollow).polygon(corners, outline=0, width=line)
    ImageDraw.Draw(full).polygon(corners, fill=0, outline=0)
    assert difference(np.asarray(hollow), np.asarray(full)) < 6


def test_the_space_between_a_zero_and_a_circle_around_it_is_not_filled() -> None:
    """It is as even as a hollow stroke, but the line around it is convex."""
    page = Image.new("L", (200, 200), 255)
    draw = ImageDraw.Draw(page)
    draw.ellipse((58, 52, 142, 148), outline=0, width=8)
    alone = np.asarray(page.copy())
    draw.ellipse((28, 22, 172, 178), outline=0, width=6)
    assert difference(np.asarray(page), alone) < 4


def outlined_eight() -> Pixels:
    page = Image.new("L", (160, 240), 255)
    draw = ImageDraw.Draw(page)
    for box in ((32, 20, 128, 120), (20, 100, 140, 225)):
        draw.ellipse(box, fill=0)
    for box in ((35, 23, 125, 117), (23, 103, 137, 222)):
        draw.ellipse(box, fill=255)
    for box in ((64, 55, 96, 85), (58, 140, 102, 190)):
        draw.ellipse(box, outline=0, width=3)
    return np.asarray(page)


def test_the_outline_of_an_eight_is_filled() -> None:
    """It is not convex, and so no circle around a digit."""
    ink = find_ink(outlined_eight())
    assert ink is not None
    assert ink.box == pytest.approx((10, 10, 113, 71), abs=2)


def test_the_outline_of_an_eight_is_no_frame() -> None:
    """Otherwise one of its holes would be taken for the digit where it is not filled."""
    mask = (shrink(outlined_eight(), 64) < 200).astype(np.uint8)
    choice = choose(mask, 255 * mask, may_have_frame=False)
    assert choice is not None
    assert choice.left_out is None or not choice.left_out.any()


def test_no_seam_is_left_between_a_filled_stroke_and_its_outline() -> None:
    """The outline is found at a coarse scale, and drawn at a finer one."""
    corners = [(60, 40), (240, 40), (240, 88), (152, 360), (104, 360), (184, 88), (60, 88)]
    hollow, full = Image.new("L", (300, 400), 255), Image.new("L", (300, 400), 255)
    ImageDraw.Draw(hollow).polygon(corners, outline=0, width=8)
    ImageDraw.Draw(full).polygon(corners, fill=0, outline=0, width=8)
    assert difference(np.asarray(hollow), np.asarray(full)) < 3.3


def lit(lines: list[list[tuple[int, int]]], row: int, column: int, radius: float = 4) -> Pixels:
    """Return a photo of strokes on shaded paper, with a reflection at a place."""
    ink = drawn(lines, 10, (100, 120)) == 0
    light = np.where(ink, 40, np.add.outer(np.linspace(150, 180, 120), np.linspace(0, 15, 100)))
    rows, columns = np.indices(light.shape)
    spot = np.clip(1.6 * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * radius**2)), 0, 1)
    return (light * (1 - spot) + 253 * spot).astype(np.uint8)


STROKE = [(50, 15), (50, 105)]
CROSSING = [(20, 60), (80, 60)]


def test_a_stroke_that_a_reflection_interrupts_is_bridged() -> None:
    """Its ends lie opposite each other."""
    bridged = screen(lit([STROKE], 60, 50))
    assert bridged.screening_score == 0
    assert (bridged.pixels[5:23].max(axis=1) > 128).all()


def test_a_reflection_beside_a_digit_does_no_harm() -> None:
    """It erases nothing, however large it is."""
    assert screen(lit([STROKE], 60, 84)).screening_score == 0
    assert screen(lit([[(50, 48), (50, 72)]], 60, 84)).screening_score == 0


def test_a_corner_that_is_not_in_a_shadow_is_no_reflection() -> None:
    """It has long sides at the edges of the image."""
    rows, columns = np.indices((60, 50))
    paper, stroke = np.full((60, 50), 120, np.uint8), np.zeros((60, 50), np.uint8)
    stroke[5:55, 8:12] = 1
    corner = np.where(rows + columns < 20, 215, paper).astype(np.uint8)
    spot = np.where((rows - 30) ** 2 + (columns - 10) ** 2 < 36, 215, paper).astype(np.uint8)
    assert find_reflection(corner, paper, stroke) is None
    assert find_reflection(spot, paper, stroke) is not None


def test_a_reflection_where_strokes_cross_is_flagged() -> None:
    """More than two ends can be joined in several ways."""
    assert screen(lit([STROKE, CROSSING], 60, 50)).screening_score >= NOT_A_DIGIT


def test_a_large_reflection_on_a_digit_is_flagged() -> None:
    """It may have erased more than a part of a stroke."""
    assert screen(lit([[(50, 45), (50, 75)]], 60, 50)).screening_score >= NOT_A_DIGIT
