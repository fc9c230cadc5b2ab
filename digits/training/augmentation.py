"""Augmentation: random changes of stroke width, blur, contrast and lines at the edges of training images.

MNIST has one kind of pen and scanner (LeCun et al. 1998). The changes supplement the usual affine transformations.
Thicker and thinner strokes follow D. C. Castro et al., Morpho-MNIST, JMLR 20 (2019). Blur, contrast and lines are
typical of photographs of printed forms. Each change is applied to a share of the images, so that the network also sees
unchanged images.

The functions compute on whole batches in NumPy. They take milliseconds, a hundredth of the time of a training step.
"""

import numpy as np
import numpy.typing as npt

from digits.images.types import Pixels
from digits.training.config import AugmentationConfig

Values = npt.NDArray[np.float32]
Random = np.random.Generator

_SHARE = 0.5
"""Share of the images to which a change is applied."""
_EDGE = 3
"""Number of pixel rows or columns along an edge in which a line may begin."""
_MIN_LINE = 96
"""Lowest grey level of a line."""
_MAX_CUT = 0.3
"""Largest share of the range of levels that is clipped at its dark end."""


def distort(random: Random, pixels: Pixels, limits: AugmentationConfig) -> Pixels:
    """Change the look of the ink of a batch at random, but not its position.

    Args:
        random: random generator.
        pixels: (N, height, width) uint8, light ink on black.
        limits: largest changes. If `stroke`, `blur`, `contrast` and `lines` are 0, the pixels are returned unchanged.

    Returns:
        (N, height, width) uint8. The strongest ink of each image has the level 255, as in normalized images.
    """
    if not (limits.stroke or limits.blur or limits.contrast or limits.lines):
        return pixels
    values = pixels.astype(np.float32)
    values = _change_stroke_width(values, _draw_amounts(random, len(pixels), limits.stroke))
    values = _blur(values, np.abs(_draw_amounts(random, len(pixels), limits.blur)))
    values = _change_contrast(random, values, limits.contrast)
    values = _add_lines(random, values, limits.lines)
    return values.astype(np.uint8)


def _draw_amounts(random: Random, count: int, limit: float) -> Values:
    """Draw amounts from -limit to limit for half of the images, and 0 for the others: (N,) float32."""
    drawn = random.uniform(-limit, limit, count)
    return np.where(random.uniform(0, 1, count) < _SHARE, drawn, 0).astype(np.float32)


def _column(values: npt.NDArray[np.floating]) -> Values:
    return values.astype(np.float32)[:, np.newaxis, np.newaxis]


def _change_stroke_width(values: Values, widths: Values) -> Values:
    """Make strokes thicker (above 0) or thinner (below 0), by a fraction of one pixel on each side."""
    thick, thin = np.flatnonzero(widths > 0), np.flatnonzero(widths < 0)
    values[thick] += _column(widths[thick]) * (_dilate(values[thick]) - values[thick])
    values[thin] -= _column(widths[thin]) * (_erode(values[thin]) - values[thin])
    return values


def _dilate(values: Values) -> Values:
    """Return the maximum of each pixel and its four neighbours."""
    result = values.copy()
    np.maximum(result[:, 1:], values[:, :-1], out=result[:, 1:])
    np.maximum(result[:, :-1], values[:, 1:], out=result[:, :-1])
    np.maximum(result[:, :, 1:], values[:, :, :-1], out=result[:, :, 1:])
    np.maximum(result[:, :, :-1], values[:, :, 1:], out=result[:, :, :-1])
    return result


def _erode(values: Values) -> Values:
    """Return the minimum of each pixel and its right and lower neighbours.

    This removes half of what `_dilate` adds; more would break thin strokes.
    """
    result = values.copy()
    np.minimum(result[:, :-1], result[:, 1:], out=result[:, :-1])
    np.minimum(result[:, :, :-1], result[:, :, 1:], out=result[:, :, :-1])
    return result


def _blur(values: Values, deviations: Values) -> Values:
    """Blur each image with a Gaussian of its standard deviation in pixels, truncated at two pixels."""
    chosen = np.flatnonzero(deviations > 0)
    sharp = values[chosen]
    exponent = -0.5 / np.maximum(deviations[chosen].astype(np.float64), 0.1) ** 2
    first, second = np.exp(exponent), np.exp(4 * exponent)
    total = 1 + 2 * (first + second)
    weights = [_column(weight / total) for weight in (np.ones_like(first), first, second)]
    for axis in (1, 2):
        sharp = _convolve(sharp, weights, axis)
    values[chosen] = sharp
    return values


def _convolve(values: Values, weights: list[Values], axis: int) -> Values:
    """Convolve each image along an axis with its symmetric kernel, given by the weights of distance 0, 1 and 2."""
    moved = np.moveaxis(values, axis, 1)
    result = np.moveaxis(values * weights[0], axis, 1)
    for distance, weight in enumerate(weights[1:], 1):
        result[:, distance:] += moved[:, :-distance] * weight
        result[:, :-distance] += moved[:, distance:] * weight
    return np.moveaxis(result, 1, axis)


def _change_contrast(random: Random, values: Values, contrast: float) -> Values:
    """Clip the lowest and highest levels, stretch the others to 0..255, and apply a gamma-like curve."""
    count = len(values)
    low = np.maximum(_draw_amounts(random, count, contrast), 0) * _MAX_CUT
    high = 1 - np.maximum(_draw_amounts(random, count, contrast), 0) * (1 - 2 * _MAX_CUT)
    peak = np.maximum(values.max(axis=(1, 2)), 1)
    scale = 1 / (peak * (high - low))
    scaled = np.clip(values * _column(scale) - _column(low / (high - low)), 0, 1)
    return _apply_curve(scaled, _draw_amounts(random, count, contrast)) * 255


def _apply_curve(values: Values, amounts: Values) -> Values:
    """Raise (amounts above 0) or lower the levels between 0 and 1 by a parabola, similar to gamma correction."""
    return values + _column(amounts) * values * (1 - values)


def _add_lines(random: Random, values: Values, share: float) -> Values:
    """Add a line along one of the four edges to a share of the images, like part of a frame or grid."""
    for number in np.flatnonzero(random.uniform(0, 1, len(values)) < share):
        sides = values[number], values[number, ::-1], values[number].T, values[number].T[::-1]
        place, width = random.integers(0, _EDGE), random.integers(1, 3)
        rows = sides[random.integers(4)][place : place + width]
        np.maximum(rows, random.uniform(_MIN_LINE, 255), out=rows)
    return values
