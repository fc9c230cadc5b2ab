"""Training images as other pens, prints and cameras would have made them: strokes, blur, contrast, bits of frames.

MNIST has one kind of pen and scanner (LeCun et al. 1998). Thickening and thinning strokes beside the usual affine maps
is the `plain`, `thin`, `thick` and `fractures` of D. C. Castro et al., Morpho-MNIST, JMLR 20 (2019); blur, contrast and
lines are what photographs of printed cells add. Each is applied to a share of the images, so that the network still
sees as many as they are.

Computed on whole batches in NumPy, in milliseconds: a step of training takes a hundred times as long.
"""

import numpy as np
import numpy.typing as npt

from digits.images.types import Pixels
from digits.training.config import AugmentationConfig

Values = npt.NDArray[np.float32]
Random = np.random.Generator

_SHARE = 0.5
_EDGE = 3
_LEAST_LINE = 96
_GREATEST_CUT = 0.3


def distort(random: Random, pixels: Pixels, limits: AugmentationConfig) -> Pixels:
    """Change how the ink of a batch looks, but not where it is; its strongest comes out as 255, as normalised ink does.

    Args:
        random: where all that is random comes from.
        pixels: (N, height, width) uint8, light ink on black.
        limits: how much; with all four at 0 the pixels come back as they are.

    Returns:
        (N, height, width) uint8.
    """
    if not (limits.stroke or limits.blur or limits.contrast or limits.lines):
        return pixels
    values = pixels.astype(np.float32)
    values = _redraw(values, _amounts(random, len(pixels), limits.stroke))
    values = _blur(values, np.abs(_amounts(random, len(pixels), limits.blur)))
    values = _cut_levels(random, values, limits.contrast)
    values = _add_lines(random, values, limits.lines)
    return values.astype(np.uint8)


def _amounts(random: Random, count: int, greatest: float) -> Values:
    """Draw from -greatest to greatest for a share of the images, 0 for the others: (N,) float32."""
    drawn = random.uniform(-greatest, greatest, count)
    return np.where(random.uniform(0, 1, count) < _SHARE, drawn, 0).astype(np.float32)


def _column(values: npt.NDArray[np.floating]) -> Values:
    return values.astype(np.float32)[:, np.newaxis, np.newaxis]


def _redraw(values: Values, widths: Values) -> Values:
    """Make strokes thicker (above 0) or thinner by a fraction of the change that one pixel all round makes."""
    thick, thin = np.flatnonzero(widths > 0), np.flatnonzero(widths < 0)
    values[thick] += _column(widths[thick]) * (_dilated(values[thick]) - values[thick])
    values[thin] -= _column(widths[thin]) * (_eroded(values[thin]) - values[thin])
    return values


def _dilated(values: Values) -> Values:
    """Give the greatest of each pixel and its four neighbours."""
    result = values.copy()
    np.maximum(result[:, 1:], values[:, :-1], out=result[:, 1:])
    np.maximum(result[:, :-1], values[:, 1:], out=result[:, :-1])
    np.maximum(result[:, :, 1:], values[:, :, :-1], out=result[:, :, 1:])
    np.maximum(result[:, :, :-1], values[:, :, 1:], out=result[:, :, :-1])
    return result


def _eroded(values: Values) -> Values:
    """Give the least of each pixel and its right and lower neighbours: half of what `_dilated` adds, or lines break."""
    result = values.copy()
    np.minimum(result[:, :-1], result[:, 1:], out=result[:, :-1])
    np.minimum(result[:, :, :-1], result[:, :, 1:], out=result[:, :, :-1])
    return result


def _blur(values: Values, deviations: Values) -> Values:
    """Blur with Gaussians of these standard deviations in pixels, cut off after two pixels."""
    chosen = np.flatnonzero(deviations > 0)
    sharp = values[chosen]
    exponent = -0.5 / np.maximum(deviations[chosen].astype(np.float64), 0.1) ** 2
    first, second = np.exp(exponent), np.exp(4 * exponent)
    total = 1 + 2 * (first + second)
    weights = [_column(weight / total) for weight in (np.ones_like(first), first, second)]
    for axis in (1, 2):
        sharp = _weighted(sharp, weights, axis)
    values[chosen] = sharp
    return values


def _weighted(values: Values, weights: list[Values], axis: int) -> Values:
    moved = np.moveaxis(values, axis, 1)
    result = np.moveaxis(values * weights[0], axis, 1)
    for distance, weight in enumerate(weights[1:], 1):
        result[:, distance:] += moved[:, :-distance] * weight
        result[:, :-distance] += moved[:, distance:] * weight
    return np.moveaxis(result, 1, axis)


def _cut_levels(random: Random, values: Values, contrast: float) -> Values:
    """Cut off the faintest and the strongest part of the levels and stretch the rest, and bend what is between."""
    count = len(values)
    low = np.maximum(_amounts(random, count, contrast), 0) * _GREATEST_CUT
    high = 1 - np.maximum(_amounts(random, count, contrast), 0) * (1 - 2 * _GREATEST_CUT)
    peak = np.maximum(values.max(axis=(1, 2)), 1)
    scale = 1 / (peak * (high - low))
    scaled = np.clip(values * _column(scale) - _column(low / (high - low)), 0, 1)
    return _bend(scaled, _amounts(random, count, contrast)) * 255


def _bend(values: Values, amounts: Values) -> Values:
    """Bend levels in 0..1 up (amounts above 0) or down, as gamma does, by a parabola through both ends."""
    return values + _column(amounts) * values * (1 - values)


def _add_lines(random: Random, values: Values, share: float) -> Values:
    """Add a line along one of the four edges of a share of the images, as frames and grids leave them."""
    for number in np.flatnonzero(random.uniform(0, 1, len(values)) < share):
        sides = values[number], values[number, ::-1], values[number].T, values[number].T[::-1]
        place, width = random.integers(0, _EDGE), random.integers(1, 3)
        rows = sides[random.integers(4)][place : place + width]
        np.maximum(rows, random.uniform(_LEAST_LINE, 255), out=rows)
    return values
