"""Tests of the pictures of everyday kinds, which other tests and a benchmark use."""

import io
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from digits.images.types import Pixels
from tests.support.handwriting import Pen, centre_lines, enlarge, has_blobs, length_of, thin, trace
from tests.support.kinds import KINDS, draw_pictures
from tests.support.pictures import sample_digits

Grey = npt.NDArray[np.floating]


@pytest.fixture(scope="module")
def digits() -> list[tuple[int, Pixels]]:
    return [(number % 10, digit) for number, digit in enumerate(sample_digits()[:5])]


def _open(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def _grey(content: bytes) -> Grey:
    return np.asarray(_open(content).convert("L"), float)


def _edges(grey: Grey) -> list[float]:
    return [float(np.median(line)) for line in (grey[0], grey[-1], grey[:, 0], grey[:, -1])]


@pytest.mark.parametrize("kind", KINDS)
def test_each_picture_of_a_kind_is_an_image_of_its_own(kind: str, digits: list[tuple[int, Pixels]]) -> None:
    """The same seed gives the same files; only kinds that show a digit have labels; all variants occur."""
    pictures = list(draw_pictures(kind, digits, seed=1))
    for picture, (label, _) in zip(pictures, digits, strict=True):
        assert picture.label == (label if KINDS[kind].shows_digit else None)
        assert min(_open(picture.content).size) >= 20
    assert len({picture.content for picture in pictures}) == len(digits)
    assert {picture.variant for picture in pictures} == set(KINDS[kind].variants)
    assert list(draw_pictures(kind, digits[:2], seed=1)) == pictures[:2]
    assert next(draw_pictures(kind, digits, seed=2)) != pictures[0]


@pytest.mark.parametrize(
    ("kind", "shows"),
    [
        ("dark strip", lambda grey: min(_edges(grey)) < 0.7 * np.median(grey)),
        ("printed frame", lambda grey: min(_edges(grey)) < 0.85 * np.median(grey)),
        ("inset frame", lambda grey: min(_edges(grey)) > 0.75 * np.median(grey)),
        ("sheet on table", lambda grey: max(_edges(grey)) < 0.8 * np.median(grey)),
        ("one-pixel pen", lambda grey: (grey < 200).mean() < 0.02),
        ("small and noisy", lambda grey: min(grey.shape) < 64),
    ],
)
def test_pictures_show_what_their_kind_is_about(
    kind: str, shows: Callable[[Grey], bool], digits: list[tuple[int, Pixels]]
) -> None:
    assert [shows(_grey(picture.content)) for picture in draw_pictures(kind, digits, seed=3)] == [True] * len(digits)


def test_deep_samples_are_in_the_range_of_their_depth(digits: list[tuple[int, Pixels]]) -> None:
    tops = {"10 bit": 1023, "12 bit": 4095, "8 bit in 16": 255, "16 bit": 65535, "12 bit, colour": 4095}
    for kind in ("deep samples", "deep and blank"):
        for picture in draw_pictures(kind, digits, seed=3):
            samples = cv2.imdecode(np.frombuffer(picture.content, np.uint8), cv2.IMREAD_UNCHANGED)
            assert samples.dtype == np.uint16
            assert 0.5 * tops[picture.variant] < samples.max() <= tops[picture.variant]


def test_ink_without_brightness_is_visible_in_colours_or_in_alpha(digits: list[tuple[int, Pixels]]) -> None:
    for picture in draw_pictures("no brightness", digits, seed=3):
        image = _open(picture.content)
        if picture.variant == "equal brightness":
            assert np.asarray(image.convert("L"), float).std() < 6
            assert max(np.asarray(image, float).std(axis=(0, 1))) > 6
        else:
            pixels = np.asarray(image.convert("RGBA"))
            assert pixels[pixels[..., 3] > 0, :3].min() >= 240
            assert {0, 255} <= set(pixels[..., 3].ravel().tolist())


def test_a_pen_traces_the_centre_lines_of_a_digit(digits: list[tuple[int, Pixels]]) -> None:
    """A whole line is as wide as the pen; dots are more parts, at most one per distance between two of them."""
    for _, digit in digits:
        lines = centre_lines(digit)
        whole = trace(lines, 100, Pen(8))
        assert 80 <= len(whole) <= 110
        assert 0.8 < whole.sum() / (8 * 100 * length_of(lines)) < 1.5
        parts = [cv2.connectedComponents((ink > 0.5).astype(np.uint8))[0] - 1 for ink in (whole, _dotted(digit))]
        assert parts[0] < parts[1] <= 100 * length_of(lines) / 12 + 4


def _dotted(digit: Pixels) -> Grey:
    return trace(centre_lines(digit), 100, Pen(6, on=0, off=12))


def test_thinning_keeps_the_parts_of_a_digit_and_its_holes(digits: list[tuple[int, Pixels]]) -> None:
    for _, digit in digits:
        ink = enlarge(digit, 112, np.random.default_rng(0)) > 0.5
        line = thin(ink)
        assert not (line & ~ink).any()
        assert line.sum() < 0.4 * ink.sum()
        assert _counts(line) == _counts(ink)


def _counts(ink: npt.NDArray[np.bool_]) -> tuple[int, int]:
    paper = cv2.connectedComponents((~np.pad(ink, 1)).astype(np.uint8), connectivity=4)[0]
    return cv2.connectedComponents(ink.astype(np.uint8), connectivity=8)[0], paper


def test_a_filled_loop_is_a_blob() -> None:
    for thickness, is_blob in ((2, False), (cv2.FILLED, True)):
        digit = np.zeros((28, 28), np.uint8)
        cv2.circle(digit, (14, 9), 5, 255, thickness)
        cv2.line(digit, (14, 14), (14, 23), 255, 2)
        assert has_blobs(digit) is is_blob
