"""Drift: comparison of the images of a prediction run with the test images of its model, or with a baseline.

Features of each image (predicted class, confidence, out-of-distribution score, ink, file) are counted in bins. The
counts of the model's test images in the same bins are part of its spec; `digits.model.baseline` has the baseline of a
table. For each feature, two tests compare the counts of the two samples: chi-square over all bins, and the likelihood
ratio (G) of the bin that differs most. The population stability index (PSI) measures the size of a shift. It only
serves to exclude shifts that are too small to matter, because it is above 0 by chance, too, by about (bins - 1) / n in
a sample of n images.
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
"""(N,) values of each feature."""
Counts = Mapping[str, Sequence[int]]
"""Number of images in each bin, for each feature."""
Bins = Mapping[str, Sequence[float]]
"""Edges between the bins of each feature; an edge belongs to the bin below it."""
Reference = Mapping[str, Mapping[str, Sequence[float]]]
"""Bins of each feature: `edges` between them, as in `Bins`, and `counts` of the test images."""

FEATURE_NAMES: Mapping[str, str] = {
    "classes": "classes",
    "confidence": "confidence",
    "novelty": "out-of-distribution score",
    "no_digit": "share rejected as no digit",
    "ink": "amount of ink",
    "sharpness": "sharpness of strokes",
    "level": "intensity of ink",
    "slant": "slant",
    "size": "size of the images",
    "polarity": "dark ink on light paper",
    "contrast": "contrast of the images",
}
"""Description of each feature."""
HARMLESS = frozenset({"size", "polarity"})
"""Features that the normalization removes, so that a shift in these alone is no drift."""
BINS = 10
"""Number of bins of a feature without fixed bins."""
_FIXED: Mapping[str, Sequence[float]] = {
    "no_digit": (0,),
    "size": (14, 20, 27, 28, 32, 48, 64, 128, 256, 512, 1024),
    "polarity": (0,),
    "contrast": (32, 64, 96, 128, 160, 192, 224),
}
"""Fixed edges between the bins of a feature."""

MIN_IMAGES = 50
"""Least number of images to compare."""
MAX_SAMPLED_IMAGES = 2_000
"""Number of images of a run to aim for; at most twice as many are measured. More would not reveal other shifts that
matter."""
SIGNIFICANCE_LEVEL = 0.005
"""Largest share of false alarms among runs whose images are like the test images. See docs/decisions/0011-drift.md."""
_MIN_PSI, _MIN_PSI_OF = 0.1, {"classes": 0.05, "no_digit": 0.02}
"""Smallest PSI of a shift that matters, by default and for single features. If one class becomes twice as frequent, the
PSI is 0.057; if two percentage points more images are rejected as no digit, it is 0.025."""
_MIN_EXPECTED = 4
"""Least expected number of images in a bin of the chi-square test; smaller bins are merged."""
_SMALL = 1e-6
"""Summand that prevents a division by 0."""


def measure_images(pixels: Pixels, probabilities: npt.NDArray[Any], novelty: npt.NDArray[Any] | None) -> Values:
    """Return the features of predicted images.

    Args:
        pixels: (N, height, width) uint8, input of the network.
        probabilities: (N, classes) calibrated probabilities.
        novelty: (N,) out-of-distribution scores, above 0 for no digit; None if the model has no such output.
    """
    scores = {} if novelty is None else {"novelty": novelty, "no_digit": novelty}
    predictions = {"classes": probabilities.argmax(axis=1), "confidence": probabilities.max(axis=1)}
    return {**predictions, **scores, **_measure_ink(pixels)}


def measure_files(size: npt.ArrayLike, dark_on_light: npt.ArrayLike, contrast: npt.ArrayLike) -> Values:
    """Return the features of N image files.

    Args:
        size: (N,) longer sides in pixels.
        dark_on_light: (N,) whether the ink is darker than the paper.
        contrast: (N,) differences of the lightest and the darkest grey level, 0 to 255.
    """
    return {name: np.asarray(value) for name, value in zip(_OF_FILES, (size, dark_on_light, contrast), strict=True)}


_OF_FILES = ("size", "polarity", "contrast")


def _measure_ink(pixels: Pixels) -> Values:
    """Measure the ink in the input of the network. BLAS would start threads and allocate memory, so einsum is used."""
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
    """Return for each pixel its row squared, and its row times its column, relative to the center: (2, pixels)."""
    lines, places = np.indices((height, width)).reshape(2, -1)
    rows, columns = lines - (height - 1) / 2, places - (width - 1) / 2
    return np.stack([rows * rows, rows * columns]).astype(np.float32)


def fit_reference(values: Values, *, classes: int) -> Reference:
    """Return the bins of each feature, and the counts of a model's test images in them.

    Most features have bins with equal counts. Classes and the features of `_FIXED` have fixed bins.

    Args:
        values: features of the test images.
        classes: number of classes.
    """
    fixed = {"classes": [number + 0.5 for number in range(classes - 1)], **_FIXED}
    edges = {name: fixed[name] if name in fixed else _quantiles(found) for name, found in values.items()}
    bins: Bins = {name: [float(edge) for edge in some] for name, some in edges.items()}
    counts = bin_counts(values, bins)
    return {name: {"edges": bins[name], "counts": counts[name]} for name in bins}


def bins_of(reference: Reference) -> Bins:
    """Return the bins of a reference."""
    return {name: part["edges"] for name, part in reference.items()}


def _quantiles(values: npt.NDArray[Any]) -> list[float]:
    found: list[float] = np.unique(np.quantile(values, np.arange(1, BINS) / BINS)).tolist()
    return found


def bin_counts(values: Values, bins: Bins) -> Counts:
    """Count images in the bins of each feature that is measured."""
    return {
        name: np.bincount(np.searchsorted(edges, values[name]), minlength=len(edges) + 1).tolist()
        for name, edges in bins.items()
        if name in values
    }


def add_counts(parts: Iterable[Counts]) -> Counts:
    """Return the sum of several counts in the same bins."""
    total: dict[str, list[int]] = {}
    for part in parts:
        for name, counts in part.items():
            total[name] = [a + b for a, b in zip(total.get(name, [0] * len(counts)), counts, strict=True)]
    return total


@dataclass(frozen=True)
class Shift:
    """Difference between the images of a run and those it is compared with, in one feature.

    Args:
        feature: name of the feature, a key of `FEATURE_NAMES`.
        psi: population stability index; below 0.1 is small, above 0.25 is large.
        p: p-value, corrected for the number of features and tests.
        drifted: whether the shift is significant and large enough to matter.
    """

    feature: str
    psi: float
    p: float
    drifted: bool


@dataclass(frozen=True)
class Drift:
    """Comparison of the images of a run with the baseline of its table, or with the test images of its model.

    Args:
        images: number of compared images.
        shifts: shift of each feature.
        baseline: number of images in the baseline; 0 if the images were compared with the test images.
    """

    images: int
    shifts: tuple[Shift, ...]
    baseline: int = 0

    @property
    def drifted(self) -> tuple[Shift, ...]:
        """The shifts that count as drift, largest first; none if only features of `HARMLESS` have shifted."""
        found = sorted((one for one in self.shifts if one.drifted), key=lambda one: -one.psi)
        return tuple(found) if {one.feature for one in found} - HARMLESS else ()

    @property
    def is_alarm(self) -> bool:
        """Whether the images have drifted from the baseline; a difference from the test images is no alarm."""
        return bool(self.baseline and self.drifted)

    @property
    def sentence(self) -> str:
        """Sentence that reports the drift; "" if there is none."""
        named = ", ".join(f"{FEATURE_NAMES[one.feature]} (PSI {one.psi:.2f})" for one in self.drifted)
        return named and f"the images differ from {self._other}: {named}"

    @property
    def description(self) -> str:
        """Sentence that states the result of the comparison, also without drift."""
        return self.sentence or f"the {self.images:,} images are like {self._other}"

    @property
    def _other(self) -> str:
        return "the baseline of their table" if self.baseline else "the model's test images"

    def as_record(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return {"images": self.images, "shifts": [asdict(one) for one in self.shifts], "baseline": self.baseline}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Return the comparison from the JSON values of `as_record`."""
        return cls(record["images"], tuple(Shift(**one) for one in record["shifts"]), record.get("baseline", 0))


def find_drift(counts: Counts, reference: Reference) -> Drift | None:
    """Compare the counts of a run with the reference of its model.

    Returns:
        The comparison, or None if the model has no reference or there are fewer than `MIN_IMAGES` images.
    """
    images = sum(next(iter(counts.values()), ()))
    if images < MIN_IMAGES:
        return None
    compared = [(name, counts[name], reference[name]["counts"]) for name in reference if name in counts]
    return Drift(images, tuple(_shift(name, a, b, len(compared)) for name, a, b in compared))


def _shift(name: str, found: Sequence[float], expected: Sequence[float], tests: int) -> Shift:
    one, other = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    index = population_stability_index(one, other)
    chances = (chi_square_tail(*chi_square(one, other)), len(one) * chi_square_tail(likelihood_ratio(one, other), 1))
    p = min(1.0, 2 * tests * min(chances))
    return Shift(name, round(index, 4), float(f"{p:.3g}"), p < SIGNIFICANCE_LEVEL and matters(name, index))


def matters(name: str, index: float) -> bool:
    """Return whether the shift of a feature with a population stability index is large enough to matter."""
    return index >= _MIN_PSI_OF.get(name, _MIN_PSI)


def population_stability_index(found: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> float:
    """Return the population stability index of two sets of counts, each (bins,).

    Half an image is added to each bin, so that no bin is empty.
    """
    a, b = ((counts + 0.5) / (counts.sum() + len(counts) / 2) for counts in (found, expected))
    return float(((a - b) * np.log(a / b)).sum())


def chi_square(found: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> tuple[float, int]:
    """Return the chi-square statistic of homogeneity and its degrees of freedom, with the smallest bins merged."""
    both = np.stack([found, expected])
    both = both[:, np.argsort(both.sum(axis=0), kind="stable")]
    share = found.sum() / both.sum() * both.sum(axis=0)
    first = np.count_nonzero((share < _MIN_EXPECTED) | (share.cumsum() < 2 * _MIN_EXPECTED))
    both = np.concatenate([both[:, : first + 1].sum(axis=1, keepdims=True), both[:, first + 1 :]], axis=1)
    mean = both.sum(axis=1, keepdims=True) * both.sum(axis=0) / both.sum()
    return float(((both - mean) ** 2 / mean).sum()), both.shape[1] - 1


def likelihood_ratio(found: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> float:
    """Return the likelihood-ratio statistic (G) of the bin that differs most.

    Each bin is compared with all other bins taken together, with one degree of freedom.
    """
    sizes = (found.sum(), expected.sum())
    share = (found + expected) / sum(sizes)
    pairs = zip((found, expected), sizes, strict=True)
    g = sum(_log_ratio(counts, size * share) + _log_ratio(size - counts, size * (1 - share)) for counts, size in pairs)
    return 2 * float(np.max(g))


def _log_ratio(counts: npt.NDArray[np.float64], mean: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return counts * log(counts / mean), 0 where a count is 0."""
    logs = np.log(np.divide(counts, mean, out=np.ones_like(counts), where=counts > 0))
    return counts * logs


def chi_square_tail(statistic: float, freedom: int) -> float:
    """Return the probability that a chi-square variable exceeds a value, by an exact finite series.

    Args:
        statistic: value to exceed.
        freedom: degrees of freedom.
    """
    if freedom < 1 or statistic <= 0:
        return 1.0
    half = statistic / 2
    odd = freedom % 2
    total = math.erfc(math.sqrt(half)) if odd else 0.0
    terms = (power * math.log(half) - half - math.lgamma(power + 1) for power in np.arange(odd / 2, freedom / 2))
    return min(1.0, total + sum(map(math.exp, terms)))
