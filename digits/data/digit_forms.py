"""Digit forms: digits drawn in the forms that people use, many of them rare in MNIST.

MNIST's writers are from the United States (LeCun et al. 1998). Elsewhere, ones have a flag and sevens are crossed or
hooked, and drawing with a mouse adds loops and leaves bowls open. Each form is a function that returns strokes with
random proportions. A digit is one unit high, x runs to the right and y down.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from digits.data.synthetic_digits import draw_each
from digits.images.types import Labels, Pixels

Random = np.random.Generator
Point = tuple[float, float]
"""Position (x, y) in units of the digit's height."""
Stroke = npt.NDArray[np.float64]
"""Points along a stroke, (N, 2)."""
Form = Callable[[Random], list[Stroke]]

_HEIGHT = 80
"""Height of most drawn digits in pixels."""
_COARSE_SHARE, _COARSE = 0.3, (12, 40)
"""Share of the digits that are drawn in fewer pixels, and the limits of their height."""
_PEN = (0.18, 0.4)
"""Smallest and largest square root of the width of a stroke in units of the digit's height: thin pens are common."""
_PRESSURE_SHARE, _PRESSURE = 0.3, (0.3, 0.9)
"""Share of the digits whose level varies along the strokes, and the limits of its lowest level."""
_TURN, _STRETCH = 0.04, 0.1
"""Standard deviations of the rotation in radians, and of the logarithm of the relative width."""
_SLANT = (-0.1, 0.25)
"""Smallest and largest slant, in columns per row."""
_JITTER = 0.008
"""Standard deviation of the random displacement of each point, in units of the digit's height."""
_SUBPIXELS = 16
_SHIFT = 4
"""Fractional bits of coordinates that are passed to OpenCV: log2 of `_SUBPIXELS`."""
_STEPS = 8
"""Points per segment of a curve."""


def _line(*points: Point) -> Stroke:
    """Return a stroke with corners at these points."""
    return np.array(points, np.float64)


def _curve(*points: Point) -> Stroke:
    """Return a smooth stroke through these points, a Catmull-Rom spline."""
    ends = np.array([points[0], *points, points[-1]], np.float64)
    before, start, end, after = ends[:-3], ends[1:-2], ends[2:-1], ends[3:]
    t = np.linspace(0, 1, _STEPS, endpoint=False)[:, np.newaxis, np.newaxis]
    path = (
        2 * start
        + (end - before) * t
        + (2 * before - 5 * start + 4 * end - after) * t**2
        + (3 * start - before - 3 * end + after) * t**3
    )
    return np.concatenate([np.swapaxes(path / 2, 0, 1).reshape(-1, 2), ends[-1:]])


def _arc(centre: Point, radii: Point, start: float, sweep: float) -> Stroke:
    """Return an arc of an ellipse, from an angle in degrees: 0 is right, 90 is down."""
    angles = np.deg2rad(np.linspace(start, start + sweep, 4 * _STEPS))
    points: Stroke = np.array(centre) + np.array(radii) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return points


def _join(*strokes: Stroke) -> Stroke:
    return np.concatenate(strokes)


def _draw(random: Random, *ranges: tuple[float, float]) -> list[float]:
    """Draw one number from each range."""
    return [float(random.uniform(*limits)) for limits in ranges]


def _zero(random: Random) -> list[Stroke]:
    """Return an oval that ends a little before or after its start."""
    width, start, sweep = _draw(random, (0.18, 0.45), (-150, -20), (300, 400))
    return [_arc((0, 0.5), (width, 0.5), start, -sweep)]


def _square_zero(random: Random) -> list[Stroke]:
    """Return a zero with flattened sides."""
    width, power = _draw(random, (0.22, 0.42), (0.5, 0.9))
    offset = _arc((0, 0), (1, 1), -100, -370)
    return [np.sign(offset) * np.abs(offset) ** power * (width, 0.5) + (0, 0.5)]


def _looped_zero(random: Random) -> list[Stroke]:
    """Return a zero whose stroke ends in a loop or curl at the top."""
    width, loop, sweep, lift = _draw(random, (0.25, 0.4), (0.06, 0.16), (150, 400), (0, 0.12))
    oval = _arc((0, 0.5), (width, 0.5), -70, -350)
    end = oval[-1]
    return [_join(oval, _arc((float(end[0]) + loop, float(end[1]) - lift), (loop, loop), 180, sweep))]


def _one(random: Random) -> list[Stroke]:
    """Return a stem that is straight or bent."""
    return [_curve((0, 0), (random.uniform(-0.06, 0.06), 0.5), (0, 1))]


def _one_with_flag(random: Random) -> list[Stroke]:
    """Return a stem with a flag from its top down to the left, steeper than the bar of a seven."""
    angle, length = _draw(random, (32, 70), (0.2, 0.42))
    length += max(0, angle - 40) / 32 * random.uniform(0, 0.3)
    return [_line(_below(angle, length), (0, 0), (0, 1))]


def _below(angle: float, length: float) -> Point:
    """Return the point at a distance from the origin, down to the left, by an angle below the horizontal."""
    return -length * float(np.cos(np.deg2rad(angle))), length * float(np.sin(np.deg2rad(angle)))


def _one_with_curved_flag(random: Random) -> list[Stroke]:
    """Return a one whose flag bends into the stem."""
    angle, length, top = _draw(random, (38, 70), (0.3, 0.65), (0.04, 0.14))
    x, y = _below(angle, length)
    return [_curve((x, y), (x * 0.45, y * 0.35), (0, 0), (top / 3, top), (0, 0.45), (0, 1))]


def _one_with_foot(random: Random) -> list[Stroke]:
    """Return a one with a foot, with or without a flag."""
    left, right, rise = _draw(random, (0.1, 0.35), (0.1, 0.35), (-0.04, 0.04))
    stem = (_one, _one_with_flag, _one_with_flag, _one_with_curved_flag)[int(random.integers(4))](random)
    return [*stem, _line((-left, 1 + rise), (right, 1 - rise))]


def _two(random: Random) -> list[Stroke]:
    """Return a two with a corner at the lower left, and a straight or wavy base."""
    width, top, wave, rise = _draw(random, (0.4, 0.75), (0.1, 0.3), (-0.08, 0.08), (-0.08, 0.06))
    bow = _curve((0, top), (width / 2, 0), (width, 0.25), (width * 0.7, 0.6), (0, 1))
    return [_join(bow, _curve((0, 1), (width / 2, 1 + wave), (width * 1.1, 1 + rise)))]


def _looped_two(random: Random) -> list[Stroke]:
    """Return a two with a loop at the lower left."""
    width, top, loop, rise = _draw(random, (0.4, 0.75), (0.1, 0.35), (0.06, 0.17), (-0.1, 0.08))
    bow = ((0, top), (width / 2, 0), (width, 0.22), (width * 0.7, 0.6), (loop, 0.95))
    turn = ((0, 1.0), (-loop * 0.6, 1 - loop), (loop * 0.6, 1 - 1.7 * loop), (2.2 * loop, 1 - loop * 0.5))
    return [_curve(*bow, *turn, (width * 0.7, 1), (width * 1.15, 1 - rise))]


def _angular_two(random: Random) -> list[Stroke]:
    """Return a two like a Z, whose top bends."""
    width, start, corner = _draw(random, (0.4, 0.7), (0.05, 0.2), (0.08, 0.2))
    top = _curve((0, start), (width * 0.6, 0), (width, corner))
    return [_join(top, _line((0, 1), (width * random.uniform(0.9, 1.3), random.uniform(0.95, 1.03))))]


def _three(random: Random) -> list[Stroke]:
    """Return a three of two bows, which meet in a corner or a small loop."""
    upper, lower, corner, end = _draw(random, (0.3, 0.55), (0.35, 0.65), (0.02, 0.3), (0.75, 1))
    first = _curve((0, 0.1), (upper / 2, 0), (upper, 0.2), (corner, 0.45))
    return [_join(first, _curve((corner, 0.45), (lower, 0.65), (lower * 0.7, 0.97), (0, end)))]


def _angular_three(random: Random) -> list[Stroke]:
    """Return a three with a straight bar at the top, or of straight lines only."""
    width, corner, middle = _draw(random, (0.3, 0.6), (0, 0.25), (0.33, 0.5))
    zigzag = _line((0, random.uniform(-0.02, 0.08)), (width, 0), (corner, middle))
    lower = (_curve, _curve, _line)[int(random.integers(3))]
    return [_join(zigzag, lower((corner, middle), (width, 0.65), (width * 0.7, 0.95), (0, 0.95)))]


def _open_four(random: Random) -> list[Stroke]:
    """Return a four that is open at the top, with a straight bar through its stem."""
    width, bar, left, stem, reach = _draw(random, (0.3, 0.55), (0.4, 0.65), (0, 0.2), (-0.05, 0.35), (0.03, 0.3))
    lean = random.uniform(-0.1, 0.12)
    corner = _line((left, 0), (0, bar), (width + reach, bar + random.uniform(-0.06, 0.06)))
    return [corner, _line((width + lean * (1 - stem), stem), (width, 1))]


def _closed_four(random: Random) -> list[Stroke]:
    """Return a four whose diagonal and stem meet at the top."""
    width, bar, reach = _draw(random, (0.3, 0.6), (0.5, 0.75), (0.02, 0.3))
    return [_line((width, 1), (width, 0), (0, bar), (width + reach, bar + random.uniform(-0.05, 0.05)))]


def _looped_four(random: Random) -> list[Stroke]:
    """Return a four in one stroke: the diagonal down, a bar, a loop or corner at the right, and the stem."""
    width, bar, left = _draw(random, (0.3, 0.5), (0.45, 0.65), (0.05, 0.3))
    hook = ((left, 0), (0, bar * 0.9), (0.06, bar), (width, bar * 0.85))
    return [_join(_curve(*hook, (width * 1.25, bar * 0.55), (width, 0.12)), _line((width * 0.9, 1)))]


def _cup_four(random: Random) -> list[Stroke]:
    """Return a four of a cup and a stem, like the letter y with a straight stem."""
    width, depth, lean = _draw(random, (0.25, 0.5), (0.35, 0.6), (-0.12, 0.08))
    top = random.uniform(-0.08, 0.15)
    cup = _curve((0, 0), (0.02, depth * 0.7), (width * 0.4, depth), (width, depth * random.uniform(0.5, 0.95)))
    return [cup, _line((width, top), (width + lean, 1))]


def _five(random: Random) -> list[Stroke]:
    """Return a five in one stroke: bar, neck and bowl."""
    width, neck, bar, end = _draw(random, (0.35, 0.6), (0.3, 0.5), (0.2, 0.6), (0.8, 1))
    top = _line((bar, random.uniform(-0.05, 0.03)), (0.04, 0), (0, neck))
    return [_join(top, _bowl(random, width, neck, end))]


def _bowl(random: Random, width: float, neck: float, end: float) -> Stroke:
    left = random.uniform(-0.12, 0.05)
    return _curve((0, neck), (width * 0.5, neck - 0.05), (width, 0.65), (width * 0.7, 0.95), (left, end))


def _five_with_detached_bar(random: Random) -> list[Stroke]:
    """Return a five whose bar is a stroke of its own, which may miss the neck."""
    width, neck, gap, lift = _draw(random, (0.35, 0.6), (0.3, 0.45), (-0.03, 0.12), (-0.03, 0.08))
    body = _join(_line((0.05, 0), (0, neck)), _bowl(random, width, neck, random.uniform(0.8, 1)))
    return [body, _line((0.05 + gap, -lift), (gap + random.uniform(0.25, 0.6), -lift + random.uniform(-0.08, 0.03)))]


def _angular_five(random: Random) -> list[Stroke]:
    """Return a five of mostly straight lines, or like an S."""
    width, neck = _draw(random, (0.35, 0.6), (0.35, 0.5))
    shape = (_curve, _line)[int(random.integers(2))]
    return [shape((width, 0), (0.05, random.uniform(0, 0.08)), (0, neck), (width, neck + 0.15), (width, 0.85), (0, 1))]


def _six(random: Random) -> list[Stroke]:
    """Return a six with a round back, whose bowl ends before, at or beyond the back."""
    width, bowl, top, end = _draw(random, (0.35, 0.6), (0.45, 0.7), (0.3, 1.1), (-0.15, 0.2))
    back = ((width * top, 0), (0.12, 0.25), (0, 0.65), (width * 0.4, 1))
    return [_curve(*back, (width, 0.82), (width * 0.6, bowl), (end, bowl + 0.12))]


def _hooked_six(random: Random) -> list[Stroke]:
    """Return a six whose back begins with a hook at the top."""
    width, bowl, hook, end = _draw(random, (0.4, 0.8), (0.38, 0.65), (0.03, 0.22), (-0.3, 0.15))
    back = ((width, hook), (width * 0.65, 0), (0.1, 0.2), (0, 0.65), (width * 0.4, 1))
    return [_curve(*back, (width, 0.8), (width * 0.6, bowl), (end, bowl + random.uniform(-0.06, 0.14)))]


def _straight_six(random: Random) -> list[Stroke]:
    """Return a six with a straight back and a small bowl, like the letter b."""
    width, bowl, lean = _draw(random, (0.2, 0.45), (0.55, 0.75), (0, 0.3))
    bow = _curve((0, 0.8), (width * 0.4, 1), (width, 0.85), (width * 0.6, bowl), (0, random.uniform(0.75, 0.9)))
    return [_join(_line((lean, 0)), bow)]


def _six_without_bowl(random: Random) -> list[Stroke]:
    """Return a six whose bowl is no more than a curl."""
    width, curl, top, end = _draw(random, (0.35, 0.55), (0.55, 0.75), (0.4, 1.1), (0.3, 0.7))
    back = ((width * top, 0), (0.1, 0.25), (0, 0.65), (width * 0.4, 1))
    return [_curve(*back, (width, 0.85), (width * 0.85, curl), (width * end, curl))]


def _seven(random: Random) -> list[Stroke]:
    """Return a seven with a straight or bent stem."""
    width, lean, bend = _draw(random, (0.35, 0.75), (0.1, 0.8), (-0.02, 0.1))
    foot = width - lean * width
    stem = _curve((width, 0), ((width + foot) / 2 - bend, 0.5), (foot - bend / 2, 1))
    return [_join(_line((0, random.uniform(-0.05, 0.08))), stem)]


def _crossed_seven(random: Random) -> list[Stroke]:
    """Return a seven with a stroke across the middle of its stem."""
    (stem,) = (_seven, _seven, _hooked_seven)[int(random.integers(3))](random)
    middle, left, right, rise = _draw(random, (0.4, 0.62), (0.13, 0.3), (0.13, 0.3), (-0.1, 0.06))
    x = float(np.interp(middle, [0, 1], [stem[:, 0].max(), stem[-1, 0]]))
    return [stem, _line((x - left, middle - rise), (x + right, middle + rise))]


def _hooked_seven(random: Random) -> list[Stroke]:
    """Return a seven whose bar begins with a short stroke down."""
    hook, lean = _draw(random, (0.1, 0.3), (-0.08, 0.05))
    (stem,) = _seven(random)
    return [_join(_line((lean, hook)), stem)]


def _round_seven(random: Random) -> list[Stroke]:
    """Return a seven whose bar bends into the stem."""
    width, lean, top = _draw(random, (0.45, 0.75), (0, 0.35), (-0.02, 0.1))
    hook = ((-0.02, random.uniform(0.12, 0.25)),)[: int(random.integers(2))]
    return [_curve(*hook, (0, top), (width * 0.6, 0), (width, 0.1), (width - lean * 0.6, 0.55), (width - lean, 1))]


def _eight(random: Random) -> list[Stroke]:
    """Return an eight in one stroke, which may be open at the top."""
    upper, lower, gap, waist = _draw(random, (0.28, 0.45), (0.32, 0.55), (-0.12, 0.14), (0.38, 0.52))
    first = ((upper / 2 + gap, 0.06), (0, -0.0), (-upper / 2, 0.2), (0, waist), (lower / 2, 0.75))
    second = ((0, 1), (-lower / 2, 0.75), (0, waist), (upper / 2, 0.2), (upper / 2 - 0.08, 0.03))
    return [_curve(*first, *second)]


def _double_eight(random: Random) -> list[Stroke]:
    """Return an eight of two rings."""
    upper, lower, half = _draw(random, (0.16, 0.26), (0.18, 0.32), (0.2, 0.26))
    top = _arc((0, half), (upper, half), random.uniform(0, 360), random.uniform(330, 390))
    return [top, _arc((0, 0.5 + half), (lower, 0.5 - half), -90, 360)]


def _nine(random: Random) -> list[Stroke]:
    """Return a nine with a straight tail, whose bowl may be open."""
    width, bowl, lean, gap = _draw(random, (0.25, 0.5), (0.35, 0.55), (-0.1, 0.3), (0, 0.12))
    ring = _nine_bowl(width, bowl, gap)
    return [_join(ring, _line((width * random.uniform(0.9, 1), bowl * 0.5), (width - lean, 1)))]


def _nine_bowl(width: float, bowl: float, gap: float) -> Stroke:
    """Return the bowl of a nine, counter-clockwise from the upper right and up again."""
    return _curve((width, gap), (width / 2, 0), (0, bowl * 0.55), (width * 0.4, bowl), (width, bowl * 0.45))


def _curled_nine(random: Random) -> list[Stroke]:
    """Return a nine whose tail curls to the left."""
    width, bowl, curl, end = _draw(random, (0.3, 0.5), (0.35, 0.6), (-0.1, 0.25), (0.75, 0.98))
    tail = _curve((width, 0.1), (width, 0.65), (width * 0.6, 1), (curl - 0.1, end))
    return [_nine_bowl(width, bowl, random.uniform(0, 0.1)), tail]


def _small_nine(random: Random) -> list[Stroke]:
    """Return a nine in one stroke with a narrow bowl and a long tail, which bends or leans."""
    width, bowl, lean = _draw(random, (0.15, 0.3), (0.25, 0.45), (-0.05, 0.2))
    ring = _nine_bowl(width, bowl, random.uniform(0, 0.06))
    return [_join(ring, _curve((width, 0.05), (width * 1.05, 0.5), (width - lean, 1)))]


FORMS: Sequence[tuple[str, Form]] = (
    ("0", _zero),
    ("0", _square_zero),
    ("0", _looped_zero),
    ("1", _one),
    ("1", _one_with_flag),
    ("1", _one_with_curved_flag),
    ("1", _one_with_foot),
    ("2", _two),
    ("2", _looped_two),
    ("2", _angular_two),
    ("3", _three),
    ("3", _angular_three),
    ("4", _open_four),
    ("4", _closed_four),
    ("4", _looped_four),
    ("4", _cup_four),
    ("5", _five),
    ("5", _five_with_detached_bar),
    ("5", _angular_five),
    ("6", _six),
    ("6", _hooked_six),
    ("6", _straight_six),
    ("6", _six_without_bowl),
    ("7", _seven),
    ("7", _crossed_seven),
    ("7", _hooked_seven),
    ("7", _round_seven),
    ("8", _eight),
    ("8", _double_eight),
    ("9", _nine),
    ("9", _curled_nine),
    ("9", _small_nine),
)
"""Class of each form, and the function that returns its strokes."""


def draw_forms(class_names: Sequence[str], count: int, *, seed: int, shape: tuple[int, int]) -> tuple[Pixels, Labels]:
    """Draw the forms of `FORMS`, with random proportions, slant, pen and resolution.

    Args:
        class_names: names of the classes; forms of other classes are not drawn.
        count: number of images per form.
        seed: random seed of the drawings.
        shape: height and width of the images in pixels.

    Returns:
        Pixels in MNIST's form, (N, *shape) uint8, and labels, (N,) uint8.
    """
    random = np.random.default_rng([seed, 253])
    return draw_each(FORMS, _draw_strokes, class_names, count, random=random, shape=shape)


def _draw_strokes(strokes: Sequence[Stroke], random: Random) -> Pixels:
    """Draw strokes as a pen of constant width does, as a mouse in few pixels does, or with varying pressure."""
    import cv2

    height = int(random.integers(*_COARSE)) if random.random() < _COARSE_SHARE else _HEIGHT
    margin = height // 2
    lines = _vary(strokes, random)
    corner, far = (edge(np.concatenate(lines), axis=0) for edge in (np.min, np.max))
    width = max(1, round(height * random.uniform(*_PEN) ** 2))
    canvas = np.zeros([2 * margin + int(size * height) + 1 for size in (far - corner)[::-1]], np.uint8)
    pressure = random.uniform(*_PRESSURE) if random.random() < _PRESSURE_SHARE else 1.0
    for line in lines:
        points = np.rint(((line - corner) * height + margin) * _SUBPIXELS).astype(np.int32)
        levels = np.interp(np.arange(len(points)), [0, len(points)], 255 * random.uniform(pressure, 1, 2))
        for start, level in enumerate(levels[:-1]):
            piece = points[start : start + 2].reshape(-1, 1, 2)
            stroke = cv2.polylines(np.zeros_like(canvas), [piece], False, float(level), width, cv2.LINE_AA, _SHIFT)
            np.maximum(canvas, stroke, out=canvas)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), random.uniform(0.5, 2.5) * height / _HEIGHT), np.uint8)


def _vary(strokes: Sequence[Stroke], random: Random) -> list[Stroke]:
    """Stretch, turn and slant the strokes of a digit together, and displace their points a little."""
    angle, slant, width = random.normal(0, _TURN), random.uniform(*_SLANT), np.exp(random.normal(0, _STRETCH))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    linear = np.array([[width, 0], [-slant, 1]]) @ turn
    return [stroke @ linear + random.normal(0, _JITTER, stroke.shape) for stroke in strokes]
