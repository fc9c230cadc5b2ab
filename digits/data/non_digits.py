"""Pictures that are no digits, to learn from: a network that never saw any is as sure of a shoe as of a seven.

D. Hendrycks, M. Mazeika, T. Dietterich: Deep Anomaly Detection with Outlier Exposure, ICLR 2019. Drawn are letters and
signs in the fonts of `digits.data.synthetic_digits`, scribbles, things, noise, lines and joined digits: kinds of marks, nothing of
the sets on which rejection is measured. Characters that are digits to many readers (O, l, S, Z, ...) are left out.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from digits.data.synthetic_digits import list_fonts, render_text
from digits.images.normalize import normalize
from digits.images.types import Pixels

Values = npt.NDArray[np.float64]
Random = np.random.Generator
Shape = tuple[int, int]
Maker = Callable[[Pixels, Random], Pixels]

_LETTERS = "ACEFGHJKLMNPRTUVWXYacdefhjkmnprtuvwxy"
_OTHER_SIGNS = "#$%&*+=?@<>~{}ΓΔΘΛΞΠΣΦΨΩαβγδεζηκλμνξπρτφχψωБДЖИЙЛПФЦШЩЭЮЯабдежийклмнптфцшщъыэюя"
_CANVAS = 56
_LEAST_INK = 32
_SIDE = 20 / 28
_ONE = 0.3
"""Things that are narrower than this share of their height would be ones."""


def draw_non_digits(digits: Pixels, count: int, *, seed: int, shape: Shape) -> Pixels:
    """Draw pictures that are no digits.

    Args:
        digits: (M, height, width) uint8 of digits, to be joined to pairs.
        count: how many.
        seed: the same seed gives the same pictures.
        shape: height and width of a picture.

    Returns:
        (count, *shape) uint8, light ink on black, most of them as large and as centred as MNIST's digits.
    """
    random = np.random.default_rng([seed, 255])
    makers, shares = zip(*KINDS.values(), strict=True)
    kinds = random.choice(len(makers), count, p=np.array(shares) / sum(shares))
    drawn = [_with_ink(makers[kind], digits, random, shape) for kind in kinds]
    return np.stack(drawn) if drawn else np.zeros((0, *shape), np.uint8)


def _with_ink(maker: Maker, digits: Pixels, random: Random, shape: Shape) -> Pixels:
    """Draw until there is something; of things, often only what the normalisation takes for ink."""
    while True:
        picture = maker(digits, random)
        if maker in _THINGS and _chance(random, 0.6):
            picture = normalize(picture, "mnist", shape=shape)
        box = _box_of(picture)
        if box is not None and (maker not in _THINGS or _is_wide(box)):
            return _placed(picture, picture[box], shape, whole=maker is _noise and _chance(random, 0.5))


def _chance(random: Random, share: float) -> bool:
    return bool(random.random() < share)


def _box_of(picture: Pixels) -> tuple[slice, slice] | None:
    inked = picture >= _LEAST_INK
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    return (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)) if len(rows) else None


def _is_wide(box: tuple[slice, slice]) -> bool:
    height, width = (int(side.stop - side.start) for side in box)
    return width > _ONE * height


def _placed(picture: Pixels, ink: Pixels, shape: Shape, *, whole: bool) -> Pixels:
    """Scale the ink so that its longer side is that of a digit, centred by mass, or the picture to the whole field.

    Not `normalize`, which would keep one digit of two.
    """
    if whole:
        return np.array(Image.fromarray(picture).resize(shape[::-1], Image.Resampling.BILINEAR))
    side = min(shape) * _SIDE
    height, width = (max(1, round(size * side / max(ink.shape))) for size in ink.shape)
    small = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BOX), np.float64)
    top, left = (_corner(small.sum(axis=1 - axis), field) for axis, field in enumerate(shape))
    placed = np.zeros(shape, np.uint8)
    placed[top : top + height, left : left + width] = small * (255 / max(small.max(), 1))
    return placed


def _corner(mass: Values, field: int) -> int:
    """Say where a line of masses begins that is centred in a field, as far as it fits."""
    centre = float(mass @ (np.arange(len(mass)) + 0.5)) / max(float(mass.sum()), 1)
    return min(max(round(field / 2 - centre), 0), field - len(mass))


def _letter(digits: Pixels, random: Random) -> Pixels:  # noqa: ARG001 - makers are called alike
    text = _LETTERS if _chance(random, 0.6) else _OTHER_SIGNS
    return _warped(_printed(text[int(random.integers(len(text)))], random), random)


def _number(digits: Pixels, random: Random) -> Pixels:  # noqa: ARG001
    return _warped(_printed(str(random.integers(10, 1000)), random), random)


def _printed(text: str, random: Random) -> Pixels:
    files = list_fonts()
    return render_text(text, files[int(random.integers(len(files)))], random)


def _warped(picture: Pixels, random: Random) -> Pixels:
    """Bend a picture smoothly, as a hand would: by up to an eighth of its side."""
    if _chance(random, 0.3):
        return picture
    picture = np.pad(picture, max(picture.shape) // 6)
    strength = random.uniform(0, 0.12) * min(picture.shape)
    moved = [
        index + strength * _smooth(random, picture.shape, int(random.integers(2, 5)))
        for index in np.indices(picture.shape)
    ]
    row, column = (
        np.clip(place.round(), 0, size - 1).astype(np.intp) for place, size in zip(moved, picture.shape, strict=True)
    )
    bent: Pixels = picture[row, column]
    return bent


def _smooth(random: Random, shape: tuple[int, ...], cells: int) -> Values:
    """Give noise that varies over so many cells a side, in -1 to 1."""
    coarse = Image.fromarray(random.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC), np.float64)


def _scribble(digits: Pixels, random: Random) -> Pixels:  # noqa: ARG001
    image = Image.new("L", (_CANVAS, _CANVAS))
    draw = ImageDraw.Draw(image)
    width = int(random.integers(2, 9))
    for _ in range(int(random.integers(2, 6))):
        points = random.uniform(4, _CANVAS - 4, (4, 2))
        line = _curve(points) if _chance(random, 0.6) else points[:2]
        draw.line([tuple(point) for point in line], fill=255, width=width, joint="curve")
    return np.array(image)


def _curve(points: Values) -> Values:
    """Give a cubic Bezier curve through its ends: (4, 2) -> (20, 2)."""
    t = np.linspace(0, 1, 20)[:, np.newaxis]
    weights = np.concatenate([(1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3], axis=1)
    curve: Values = weights @ points
    return curve


def _shape(digits: Pixels, random: Random) -> Pixels:  # noqa: ARG001
    """A filled polygon, ellipse or box, or a few, shaded or patterned as a thing is."""
    image = Image.new("L", (_CANVAS, _CANVAS))
    draw = ImageDraw.Draw(image)
    for _ in range(int(random.integers(1, 4))):
        fill = int(random.integers(60, 256))
        points = random.uniform(2, _CANVAS - 2, (int(random.integers(3, 8)), 2))
        box = [*points.min(axis=0), *points.max(axis=0)]
        kind = int(random.integers(4))
        if kind == 0:
            draw.ellipse(box, fill=fill)
        elif kind == 1:
            draw.rectangle(box, fill=fill)
        else:
            draw.polygon([tuple(point) for point in _around(points)], fill=fill)
    shade = 1 - random.uniform(0, 0.9) * np.abs(_smooth(random, image.size, int(random.integers(2, 12))))
    return (np.asarray(image) * np.clip(shade, 0, 1)).astype(np.uint8)


def _around(points: Values) -> Values:
    """Put corners in order, so that no side crosses another."""
    off = points - points.mean(axis=0)
    ordered: Values = points[np.argsort(np.arctan2(off[:, 1], off[:, 0]))]
    return ordered


def _symmetric(digits: Pixels, random: Random) -> Pixels:  # noqa: ARG001
    """A thing that is alike on both sides, plain, shaded or patterned, with or without limbs and a gap."""
    nodes = np.linspace(0, 1, int(random.integers(2, 7)))
    half, gap = (
        np.interp(np.linspace(0, 1, _CANVAS), nodes, random.uniform(*range_, len(nodes)).clip(0)) * _CANVAS
        for range_ in ((0.08, 0.5), (-0.3, 0.2))
    )
    across, down = np.abs(np.arange(_CANVAS) - (_CANVAS - 1) / 2), np.arange(_CANVAS)[:, np.newaxis]
    inside = (across < half[:, np.newaxis]) & (across >= gap[:, np.newaxis])
    if _chance(random, 0.5):
        limb = random.uniform(0, 0.4) * _CANVAS + random.uniform(0, 3) * (across - _CANVAS / 10)
        inside |= (down >= limb) & (down < limb + random.uniform(0.08, 0.3) * _CANVAS)
    depth = random.uniform(0, 0.6) * _chance(random, 0.7)
    pattern = random.uniform(0.3, 1) * (1 + depth * _smooth(random, inside.shape, int(random.integers(2, 20))))
    picture = (np.clip(pattern, 0.05, 1) * inside * 255).astype(np.uint8)
    return picture if _chance(random, 0.7) else np.ascontiguousarray(picture.T)


def _noise(digits: Pixels, random: Random) -> Pixels:  # noqa: ARG001
    """Grains of any size over a field or a part of it, all levels or few, dense or sparse."""
    shape = (int(random.integers(12, _CANVAS)), int(random.integers(12, _CANVAS)))
    smooth = _smooth(random, shape, int(random.integers(3, 40))) / 2 + 0.5
    grain = random.uniform(0, 1, shape) if _chance(random, 0.5) else smooth
    grain = np.clip(grain, 0, 1) ** random.uniform(0.5, 4)
    if _chance(random, 0.3):
        grain = (grain > random.uniform(0.3, 0.8)).astype(np.float64)
    return np.pad((grain * 255).astype(np.uint8), int(random.integers(0, 8)))


def _pair(digits: Pixels, random: Random) -> Pixels:
    """Two digits that touch, side by side or one above the other."""
    left, right = (digits[int(random.integers(len(digits)))] for _ in range(2))
    height, width = left.shape
    if _chance(random, 0.2):
        return np.concatenate([left[: height - 4], right[4:]])
    apart = int(random.integers(width // 4, width - 4))
    field = np.zeros((height, width + apart), np.uint8)
    field[:, :width] = left
    field[:, apart:] = np.maximum(field[:, apart:], np.roll(right, int(random.integers(-2, 3)), axis=0))
    return field


def _crossed(digits: Pixels, random: Random) -> Pixels:
    """A lying digit over another one."""
    first, second = (digits[int(random.integers(len(digits)))] for _ in range(2))
    lying = np.asarray(Image.fromarray(np.rot90(second)).resize(first.shape[::-1]))
    crossed: Pixels = np.maximum(first, lying)
    return crossed


def _lines(digits: Pixels, random: Random) -> Pixels:  # noqa: ARG001
    """Lying bars, corners, crosses and grids: what rulings and shadows leave; an upright bar is a 1."""
    field = np.zeros((_CANVAS, _CANVAS), np.uint8)
    upright, lying = ((0, 2), (1, 1), (1, 2), (2, 1), (2, 2), (3, 2))[int(random.integers(6))]
    for number in range(upright + lying):
        width = int(random.integers(2, 9))
        place, start = int(random.integers(_CANVAS - width)), int(random.integers(_CANVAS // 3))
        target = field if number < lying else field.T
        target[place : place + width, start : _CANVAS - int(random.integers(_CANVAS // 3))] = random.integers(100, 256)
    return field


KINDS: Mapping[str, tuple[Maker, float]] = {
    "letter": (_letter, 2.5),
    "number": (_number, 0.5),
    "scribble": (_scribble, 0.5),
    "shape": (_shape, 5),
    "symmetric": (_symmetric, 10),
    "noise": (_noise, 1),
    "pair": (_pair, 1),
    "crossed": (_crossed, 0.5),
    "lines": (_lines, 0.5),
}
"""How each kind is drawn, and how many of it beside the others."""
_THINGS = (_shape, _symmetric, _noise)
