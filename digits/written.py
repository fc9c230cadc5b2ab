"""Forms of digits that MNIST's writers hardly used: ones with a flag, with or without a foot, and crossed sevens.

In much of Europe they are the usual ones, and a network that saw only MNIST's takes the first for a seven or a four.
Drawn as a pen would: strokes of one width through points that lie a little differently each time.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from digits.normalization import normalize

Bytes = npt.NDArray[np.uint8]
Random = np.random.Generator
Point = tuple[float, float]
"""Right and down, in heights of the digit."""

_HEIGHT, _MARGIN = 80, 40
_FINER = 16
_SHIFT = 4
_UNSTEADY = 0.015


def write_digits(class_names: Sequence[str], count: int, *, seed: int, shape: tuple[int, int]) -> tuple[Bytes, Bytes]:
    """Draw each form so many times.

    Args:
        class_names: digits; the forms of those that are missing are left out.
        count: drawings of each form.
        seed: the same seed gives the same pictures.
        shape: height and width of a picture.

    Returns:
        (N, *shape) uint8 pixels in MNIST's form, and (N,) uint8 labels.
    """
    random = np.random.default_rng([seed, 253])
    drawn = [
        (normalize(_drawn(strokes(random), random), "mnist", shape=shape), class_names.index(name))
        for name, strokes in FORMS
        for _ in range(count if name in class_names else 0)
    ]
    pixels = np.stack([picture for picture, _ in drawn]) if drawn else np.zeros((0, *shape), np.uint8)
    return pixels, np.array([label for _, label in drawn], np.uint8)


def _drawn(strokes: Sequence[Sequence[Point]], random: Random) -> Bytes:
    import cv2

    slant = random.uniform(-0.15, 0.35)
    width = int(random.integers(5, 19))
    lines = [np.array([_steered(point, slant, random) for point in stroke]) for stroke in strokes]
    corner = np.concatenate(lines).min(axis=0)
    side = _HEIGHT + 2 * _MARGIN
    canvas = np.zeros((side, side), np.uint8)
    for line in lines:
        fine = np.rint(((line - corner) * _HEIGHT + _MARGIN) * _FINER).astype(np.int32)
        cv2.polylines(canvas, [fine.reshape(-1, 1, 2)], False, 255, width, cv2.LINE_AA, _SHIFT)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), random.uniform(0.5, 2.5)), np.uint8)


def _steered(point: Point, slant: float, random: Random) -> Point:
    right, down = point
    return (
        right - slant * down + random.normal(0, _UNSTEADY),
        down + random.normal(0, _UNSTEADY),
    )


def _flagged_one(random: Random) -> list[list[Point]]:
    """A stem, and a flag from its top down to the left: steeper than the bar of a seven, at most half as long."""
    angle, length = np.deg2rad(random.uniform(30, 70)), random.uniform(0.2, 0.5)
    return [[(-length * float(np.cos(angle)), length * float(np.sin(angle))), (0, 0), (0, 1)]]


def _one_with_a_foot(random: Random) -> list[list[Point]]:
    left, right = random.uniform(0.12, 0.35, 2)
    return [*_flagged_one(random), [(-float(left), 1), (float(right), 1)]]


def _crossed_seven(random: Random) -> list[list[Point]]:
    """A bar, a stem that leans, and a stroke across its middle."""
    width, lean, middle = random.uniform(0.4, 0.65), random.uniform(0.15, 0.4), random.uniform(0.42, 0.6)
    left, right, rise = *random.uniform(0.15, 0.28, 2), random.uniform(-0.08, 0.04)
    centre = width - lean * middle
    bar = [(0, random.uniform(-0.03, 0.06)), (width, 0), (width - lean, 1)]
    return [bar, [(centre - left, middle - rise), (centre + right, middle + rise)]]


FORMS: Sequence[tuple[str, Callable[[Random], list[list[Point]]]]] = (
    ("1", _flagged_one),
    ("1", _one_with_a_foot),
    ("7", _crossed_seven),
)
"""Each form's class, and what draws it."""
