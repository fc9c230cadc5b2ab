"""Objects: drawings of things that are no digits, with the shading and patterns of photographs.

Each is a silhouette on plain paper, with a texture: a closed outline, a symmetric figure, a side view that falls from
one end to the other, a body with a handle, bands between joints, or one of these with holes. No drawing is made after
an image of the datasets on which the rejection of non-digits is measured.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from digits.images.types import Pixels

Mask = npt.NDArray[np.uint8]
"""Silhouette, (_SIDE, _SIDE): 1 inside."""
Values = npt.NDArray[np.float32]
Random = np.random.Generator

_SIDE = 64
"""Side of a silhouette in pixels."""
_EDGE = 3
"""Margin of a silhouette in pixels."""
_MIN_AREA = 60
"""Least number of pixels of a silhouette; a smaller one is drawn again."""
_SIDES = (28, 28, 28, 40, 56)
"""Longer sides of pictures in pixels, of which one is chosen."""
_ROWS, _COLUMNS = np.indices((_SIDE, _SIDE), np.float32)


def draw_object(random: Random) -> Pixels:
    """Draw an object, light on black or, one in seven, dark on white.

    Args:
        random: random generator.

    Returns:
        Square picture that the object fills but for a margin of a few pixels, (side, side) uint8.
    """
    import cv2

    inside = _draw_silhouette(random)
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    values = (_draw_texture(random, inside) * inside)[box]
    side = int(random.choice(_SIDES))
    scale = (side - int(random.integers(3))) / max(values.shape)
    height, width = (max(3, int(length * scale)) for length in values.shape)
    field = np.zeros((side, side), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    field[top : top + height, left : left + width] = cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA)
    drawn = np.clip(field * (random.uniform(0.75, 1) * 255 / max(float(field.max()), 0.01)), 0, 255)
    return np.asarray(255 - drawn if _chance(random, 0.15) else drawn).astype(np.uint8)


def _chance(random: Random, probability: float) -> bool:
    return bool(random.random() < probability)


def _draw_silhouette(random: Random) -> Mask:
    inside = np.zeros((_SIDE, _SIDE), np.uint8)
    while inside.sum() < _MIN_AREA:
        inside = SILHOUETTES[int(random.integers(len(SILHOUETTES)))](random)
    if _chance(random, 0.5):
        inside = inside[:, ::-1]
    return np.ascontiguousarray(inside.T if _chance(random, 0.12) else inside)


def _draw_blob(random: Random) -> Mask:
    """Fill a closed smooth outline: a circle whose radius varies."""
    import cv2

    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    waves = [random.normal(0, 0.35 / n) * np.cos(n * angles + random.uniform(0, 2 * np.pi)) for n in range(1, 7)]
    radius = np.clip(1 + np.sum(waves, axis=0), 0.15, None)
    points = np.stack([radius * np.cos(angles) * random.uniform(0.35, 1), radius * np.sin(angles)], axis=1)
    points -= points.min(axis=0)
    points = points * ((_SIDE - 2 * _EDGE) / points.max()) + _EDGE
    inside = np.zeros((_SIDE, _SIDE), np.uint8)
    cv2.fillPoly(inside, [np.rint(points).astype(np.int32)], (1,))
    return inside


def _draw_figure(random: Random) -> Mask:
    """Fill a symmetric figure, with or without limbs and a gap in the middle."""
    nodes = np.linspace(0, 1, int(random.integers(2, 8)))
    half, gap = (
        np.interp(np.linspace(0, 1, _SIDE), nodes, random.uniform(*limits, len(nodes)).clip(0)) * _SIDE
        for limits in ((0.06, 0.5), (-0.35, 0.2))
    )
    across = np.abs(_COLUMNS - (_SIDE - 1) / 2 + random.normal(0, 0.5))
    inside = (across < half[:, np.newaxis]) & (across >= gap[:, np.newaxis])
    if _chance(random, 0.5):
        limb = random.uniform(0, 0.4) * _SIDE + random.uniform(0, 3) * (across - _SIDE / 10)
        reach, thickness = random.uniform(0.3, 0.5) * _SIDE, random.uniform(0.08, 0.3) * _SIDE
        inside |= (limb <= _ROWS) & (limb + thickness > _ROWS) & (across < reach)
    return np.asarray(inside, np.uint8)


def _draw_side_view(random: Random) -> Mask:
    """Fill what is below a line that falls from one end to the other, with or without a hollow underneath."""
    nodes = np.linspace(0, 1, int(random.integers(3, 7)))
    place = np.linspace(0, 1, _SIDE)
    height = np.interp(place, nodes, np.sort(random.uniform(0.08, 0.9, len(nodes)))[::-1])
    height *= random.uniform(0.4, 1) * _SIDE
    hollow = np.interp(place, [0, 0.25, 0.35, 0.7, 1], [0, 0, *random.uniform(0, [0.2, 0.1]), 0])
    hollow *= _SIDE * _chance(random, 0.6)
    base = _SIDE - _EDGE
    return np.asarray((base - height < _ROWS) & (base - hollow >= _ROWS), np.uint8)


def _draw_body_with_handle(random: Random) -> Mask:
    """Fill a quadrilateral, with or without an arch on it."""
    import cv2

    width, height = random.uniform(0.3, 0.95, 2) * _SIDE
    left, top, base = (_SIDE - width) / 2, _SIDE - height * 0.8, _SIDE - _EDGE
    corners = np.array([(left, top), (left + width, top), (left + width, base), (left, base)])
    corners[:, 0] += random.normal(0, _EDGE, 4)
    inside = np.zeros((_SIDE, _SIDE), np.uint8)
    cv2.fillPoly(inside, [np.rint(corners).astype(np.int32)], (1,))
    if _chance(random, 0.6):
        radii = int(width * random.uniform(0.15, 0.45)), int(random.uniform(0.1, 0.5) * _SIDE)
        cv2.ellipse(inside, (_SIDE // 2, int(top)), radii, 0, 180, 360, (1,), int(random.integers(2, 8)))
    return inside


def _draw_bands(random: Random) -> Mask:
    """Draw bent bands, thin or broad, between a few joints."""
    import cv2

    inside = np.zeros((_SIDE, _SIDE), np.uint8)
    joints = random.uniform(_EDGE, _SIDE - _EDGE, (int(random.integers(4, 8)), 2))
    broad, t = int(random.integers(2, 12)), np.linspace(0, 1, 12)[:, np.newaxis]
    for _ in range(int(random.integers(4, 9))):
        start, end = joints[random.permutation(len(joints))[:2]]
        middle = (start + end) / 2 + random.normal(0, _SIDE / 10, 2)
        path = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
        width = max(1, broad + int(random.integers(-2, 3)))
        cv2.polylines(inside, [np.rint(path).astype(np.int32)], False, (1,), width)
    return inside


def _draw_pierced(random: Random) -> Mask:
    """Cut holes into a silhouette, with or without keeping its edge."""
    import cv2

    inside = SILHOUETTES[int(random.integers(4))](random)
    edge = np.asarray(_rim(inside, int(random.integers(1, 4))), np.uint8)
    for _ in range(int(random.integers(2, 6))):
        centre, radii = random.uniform(_EDGE, _SIDE - _EDGE, 2), random.uniform(_EDGE, _SIDE / 4, 2)
        cv2.ellipse(inside, (*map(int, centre),), (*map(int, radii),), random.uniform(0, 180), 0, 360, (0,), -1)
    return np.asarray(inside | edge if _chance(random, 0.6) else inside)


SILHOUETTES: Sequence[Callable[[Random], Mask]] = (
    _draw_figure,
    _draw_blob,
    _draw_side_view,
    _draw_body_with_handle,
    _draw_figure,
    _draw_bands,
    _draw_bands,
    _draw_pierced,
)
"""Functions that draw silhouettes; those that occur twice are drawn twice as often."""


def _draw_texture(random: Random, inside: Mask) -> Values:
    """Return levels of a surface: shaded, with grain, stripes, seams and a rim; each is there or not."""
    levels = np.full((_SIDE, _SIDE), random.uniform(0.35, 1), np.float32)
    if _chance(random, 0.8):
        levels *= 1 + random.uniform(0, 0.6) * _draw_noise(random, 2, 9)
    if _chance(random, 0.4):
        levels *= 1 + random.uniform(0.1, 0.9) * _draw_noise(random, 8, 30)
    if _chance(random, 0.35):
        levels *= 1 - random.uniform(0.2, 0.9) * _draw_stripes(random)
    for _ in range(int(random.integers(4))):
        _draw_seam(random, levels)
    if _chance(random, 0.3):
        levels[_rim(inside, int(random.integers(1, 3)))] *= random.uniform(0.4, 1.6)
    if _chance(random, 0.5):
        levels *= 1 - random.uniform(0, 0.7) * np.abs(2 * (_COLUMNS / _SIDE - random.uniform(0.3, 0.7)))
    return np.clip(levels, 0.03, 1)


def _draw_noise(random: Random, least: int, most: int) -> Values:
    """Return noise of about -1 to 1, interpolated from a grid with `least` to `most` - 1 values per side."""
    import cv2

    grid = random.uniform(-1, 1, random.integers(least, most, 2)).astype(np.float32)
    return np.asarray(cv2.resize(grid, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC), np.float32)


def _draw_stripes(random: Random) -> Mask:
    angle = (0, np.pi / 2, random.uniform(0, np.pi))[int(random.integers(3))]
    along = np.cos(angle) * _COLUMNS + np.sin(angle) * _ROWS
    wave = np.sin(along * (2 * np.pi / random.uniform(4, 24)) + random.uniform(0, 2 * np.pi))
    return np.asarray(wave > random.uniform(-0.5, 0.8), np.uint8)


def _draw_seam(random: Random, levels: Values) -> None:
    """Make a straight line lighter or darker; half of the lines are vertical."""
    import cv2

    line = np.zeros((_SIDE, _SIDE), np.uint8)
    (start, top), (end, bottom) = random.integers(0, _SIDE, (2, 2)).tolist()
    cv2.line(line, (start, top), (start if _chance(random, 0.5) else end, bottom), (1,), int(random.integers(1, 6)))
    levels[line > 0] *= random.uniform(0, 1.7)


def _rim(inside: Mask, width: int) -> npt.NDArray[np.bool_]:
    import cv2

    return np.asarray(inside > cv2.erode(inside, np.ones((3, 3), np.uint8), iterations=width))
