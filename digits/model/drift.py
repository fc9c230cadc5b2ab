"""Whether a run's pictures are unlike those that its model was tested on.

Numbers of each image (the class that was predicted, how sure that is, how far it is from the training images, its ink,
its file) are counted into bins; the same bins were counted for the model's test images, and stand in its spec. Per
number two tests compare the counts of the two samples: chi-square over all bins, and the likelihood ratio (G) of the
bin that is furthest off. The population stability index says how large a shift is; chance has it too, in a sample of
n images some (bins - 1) / n, so it decides only what is too small to matter.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from digits.images.types import Pixels

Values = Mapping[str, npt.NDArray[Any]]
"""For each number that is compared, (N,) values."""
Counts = Mapping[str, Sequence[int]]
"""For each number that is compared, how many images are in each bin."""
Reference = Mapping[str, Mapping[str, Sequence[float]]]
"""For each number that is compared, `edges` (a value is in the bin after the edges that are below it) and `counts`."""

FEATURE_NAMES: Mapping[str, str] = {
    "classes": "classes",
    "confidence": "confidence",
    "novelty": "distance from the training images",
    "no_digit": "share taken for no digit",
    "ink": "amount of ink",
    "sharpness": "sharpness of strokes",
    "level": "level of ink",
    "slant": "slant",
    "size": "size of the pictures",
    "polarity": "dark on light",
    "contrast": "contrast of the pictures",
}
BINS = 10
_FIXED: Mapping[str, Sequence[float]] = {
    "no_digit": (0,),
    "size": (14, 20, 27, 28, 32, 48, 64, 128, 256, 512, 1024),
    "polarity": (0,),
    "contrast": (32, 64, 96, 128, 160, 192, 224),
}

MIN_IMAGES = 50
MAX_SAMPLED_IMAGES = 2_000
"""So many of a run's images are looked at, or up to twice as many: more would find no shift that matters."""
SIGNIFICANCE_LEVEL = 0.005
"""How often a run of pictures like the test images may be said to have drifted; docs/decisions has what was found."""
_LEAST_PSI, _LEAST_PSI_OF = 0.1, {"classes": 0.05, "no_digit": 0.02}
"""What is below is no shift to act on, however many images show it; one class twice as often is .057, two percent more
taken for no digit is .025."""
_LEAST_EXPECTED = 4
_SMALL = 1e-6


def measure_images(pixels: Pixels, probabilities: npt.NDArray[Any], novelty: npt.NDArray[Any] | None) -> Values:
    """Give the numbers of images that a network has answered on.

    Args:
        pixels: (N, height, width) uint8, its input.
        probabilities: (N, classes), calibrated.
        novelty: (N,), above 0 for no digit; None where the model can't tell.
    """
    told = {} if novelty is None else {"novelty": novelty, "no_digit": novelty}
    answered = {"classes": probabilities.argmax(axis=1), "confidence": probabilities.max(axis=1)}
    return {**answered, **told, **_ink_of(pixels)}


def measure_files(size: npt.ArrayLike, dark_on_light: npt.ArrayLike, contrast: npt.ArrayLike) -> Values:
    """Give the numbers of N files: the longer side in pixels, whether ink is dark, the range of levels in 0..255."""
    return {name: np.asarray(value) for name, value in zip(_OF_FILES, (size, dark_on_light, contrast), strict=True)}


_OF_FILES = ("size", "polarity", "contrast")


def _ink_of(pixels: Pixels) -> Values:
    """Measure the network's input; einsum, since BLAS would start threads and want memory."""
    flat = pixels.reshape(len(pixels), -1).astype(np.float32)
    mass = np.einsum("ij->i", flat) + _SMALL
    square = np.einsum("ij,ij->i", flat, flat) + _SMALL
    beside = np.einsum("ij,ij->i", flat[:, 1:], flat[:, :-1])
    upright, across = _moments(pixels.shape[1], pixels.shape[2])
    return {
        "ink": mass / flat.shape[1],
        "sharpness": 1 - beside / square,
        "level": square / mass,
        "slant": np.einsum("ij,j->i", flat, across) / (np.einsum("ij,j->i", flat, upright) + _SMALL),
    }


@cache
def _moments(height: int, width: int) -> npt.NDArray[np.float32]:
    """Give for each pixel the square of its row, and its row times its column, from the middle: (2, pixels)."""
    lines, places = np.indices((height, width)).reshape(2, -1)
    rows, columns = lines - (height - 1) / 2, places - (width - 1) / 2
    return np.stack([rows * rows, rows * columns]).astype(np.float32)


def fit_reference(values: Values, *, classes: int) -> Reference:
    """Count a model's test images, in bins that hold as many of them each; what is no quantity has bins of its own."""
    own = {"classes": [number + 0.5 for number in range(classes - 1)], **_FIXED}
    edges = {name: own[name] if name in own else _quantiles(found) for name, found in values.items()}
    blank: Reference = {name: {"edges": [float(edge) for edge in some], "counts": []} for name, some in edges.items()}
    counts = bin_counts(values, blank)
    return {name: {**blank[name], "counts": counts[name]} for name in blank}


def _quantiles(values: npt.NDArray[Any]) -> list[float]:
    found: list[float] = np.unique(np.quantile(values, np.arange(1, BINS) / BINS)).tolist()
    return found


def bin_counts(values: Values, reference: Reference) -> Counts:
    """Count images into a reference's bins: those of its numbers that are known."""
    return {
        name: np.bincount(np.searchsorted(part["edges"], values[name]), minlength=len(part["edges"]) + 1).tolist()
        for name, part in reference.items()
        if name in values
    }


def add_counts(parts: Iterable[Counts]) -> Counts:
    """Give the sum of counts in the same bins."""
    total: dict[str, list[int]] = {}
    for part in parts:
        for name, counts in part.items():
            total[name] = [a + b for a, b in zip(total.get(name, [0] * len(counts)), counts, strict=True)]
    return total


@dataclass(frozen=True)
class Shift:
    """How far one number of a run's images is from the test images'.

    Args:
        feature: a name of `WORDS`.
        psi: population stability index: below .1 is small, above .25 is large.
        p: how often chance would have any of the numbers as far off as this one.
        drifted: it is more than chance, and more than small.
    """

    feature: str
    psi: float
    p: float
    drifted: bool


@dataclass(frozen=True)
class Drift:
    """A run's images beside the test images of its model.

    Args:
        images: how many were compared.
        shifts: of each number.
    """

    images: int
    shifts: tuple[Shift, ...]

    @property
    def drifted(self) -> tuple[Shift, ...]:
        """The shifts to be told of, the largest first."""
        return tuple(sorted((one for one in self.shifts if one.drifted), key=lambda one: -one.psi))

    @property
    def sentence(self) -> str:
        """Say what has drifted; nothing where nothing has."""
        named = ", ".join(f"{FEATURE_NAMES[one.feature]} (PSI {one.psi:.2f})" for one in self.drifted)
        return named and f"the pictures are unlike the model's test images: {named}"

    def as_record(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return {"images": self.images, "shifts": [asdict(one) for one in self.shifts]}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read it back."""
        return cls(record["images"], tuple(Shift(**one) for one in record["shifts"]))


def find_drift(counts: Counts, reference: Reference) -> Drift | None:
    """Compare a run's counts with its model's reference.

    Returns:
        None where nothing can be said: a model without a reference, or fewer than `MIN_IMAGES` images.
    """
    images = sum(next(iter(counts.values()), ()))
    if images < MIN_IMAGES:
        return None
    compared = [(name, counts[name], reference[name]["counts"]) for name in reference if name in counts]
    return Drift(images, tuple(_shift(name, a, b, len(compared)) for name, a, b in compared))


def _shift(name: str, found: Sequence[float], expected: Sequence[float], tests: int) -> Shift:
    one, other = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    index = population_stability_index(one, other)
    p = min(1.0, 2 * tests * min(_chi_square(one, other), _furthest(one, other)))
    drifted = p < SIGNIFICANCE_LEVEL and index >= _LEAST_PSI_OF.get(name, _LEAST_PSI)
    return Shift(name, round(index, 4), float(f"{p:.3g}"), drifted)


def population_stability_index(found: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> float:
    """Give the population stability index of two counts; half an image is added to each bin, so that none is empty."""
    a, b = ((counts + 0.5) / (counts.sum() + len(counts) / 2) for counts in (found, expected))
    return float(((a - b) * np.log(a / b)).sum())


def _chi_square(found: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> float:
    """Give how often chance has two samples differ as much; the thinnest bins are one, that is thick enough."""
    both = np.stack([found, expected])
    both = both[:, np.argsort(both.sum(axis=0), kind="stable")]
    share = found.sum() / both.sum() * both.sum(axis=0)
    first = np.count_nonzero((share < _LEAST_EXPECTED) | (share.cumsum() < 2 * _LEAST_EXPECTED))
    both = np.concatenate([both[:, : first + 1].sum(axis=1, keepdims=True), both[:, first + 1 :]], axis=1)
    usual = both.sum(axis=1, keepdims=True) * both.sum(axis=0) / both.sum()
    return chi_square_tail(float(((both - usual) ** 2 / usual).sum()), both.shape[1] - 1)


def _furthest(found: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> float:
    """Give how often chance has any bin as far off as the one that is furthest off, each against all others."""
    sizes = (found.sum(), expected.sum())
    share = (found + expected) / sum(sizes)
    pairs = zip((found, expected), sizes, strict=True)
    g = sum(_surprise(counts, size * share) + _surprise(size - counts, size * (1 - share)) for counts, size in pairs)
    return len(found) * chi_square_tail(2 * float(np.max(g)), 1)


def _surprise(counts: npt.NDArray[np.float64], usual: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    some = counts > 0
    logs = np.log(np.divide(counts, usual, out=np.ones_like(counts), where=some))
    return counts * logs


def chi_square_tail(statistic: float, freedom: int) -> float:
    """Give the probability that a chi-square variable is above a value; exact, by the series of its freedom."""
    if freedom < 1 or statistic <= 0:
        return 1.0
    half = statistic / 2
    odd = freedom % 2
    total = math.erfc(math.sqrt(half)) if odd else 0.0
    terms = (power * math.log(half) - half - math.lgamma(power + 1) for power in np.arange(odd / 2, freedom / 2))
    return min(1.0, total + sum(map(math.exp, terms)))
