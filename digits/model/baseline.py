"""Baseline: the first images of a table, or those that the operator accepts, with which later runs are compared.

Images of one source arrive by writer, form or photograph, so batches of them differ by more than chance. A baseline
therefore keeps its counts in parts of consecutive images. How much the parts differ from each other is the dispersion
of a feature, and statistics are divided by it before they are tested. To count as drift, a run must also differ from
the baseline more than any part of it differs from the rest.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from digits.model.drift import (
    HARMLESS,
    MIN_IMAGES,
    Bins,
    Counts,
    Drift,
    Shift,
    add_counts,
    chi_square,
    chi_square_tail,
    likelihood_ratio,
    matters,
    population_stability_index,
)

BASELINE_IMAGES = 2_000
"""Number of images in a complete baseline."""
PART_IMAGES = MIN_IMAGES
"""Least number of images in a part."""
MIN_GROUPS = 4
"""Least number of groups of parts to compare with each other."""
MODEL_FEATURES = ("classes", "confidence", "novelty", "no_digit")
"""Features that depend on the model, so that a new champion needs a new baseline for them."""
SIGNIFICANCE_LEVEL, DISPERSED_LEVEL = 0.005, 0.001
"""Largest p-value of drift. It is lower for a feature whose parts differ by more than chance, because the dispersion is
an estimate and the tails are heavy."""
_DISPERSION_LEVEL = 0.01
"""Largest p-value with which parts count as different."""
_DISPERSION_BOUND = 3
"""Factor by which the dispersion may exceed that of the parts, since a baseline shows only some of the writers."""
_MIN_EXPECTED = 4
"""Least expected number of images in a bin when parts are compared; smaller bins are merged."""

Table = npt.NDArray[np.float64]


def images_in(counts: Counts) -> int:
    """Return the number of counted images."""
    return sum(next(iter(counts.values()), ()))


def join_parts(parts: Iterable[Counts]) -> tuple[Counts, ...]:
    """Join consecutive parts until each has at least `PART_IMAGES` images; the last one may have fewer."""
    joined: list[Counts] = []
    for part in parts:
        if joined and images_in(joined[-1]) < PART_IMAGES:
            joined[-1] = add_counts([joined[-1], part])
        elif images_in(part):
            joined.append(part)
    return tuple(joined)


def thin_parts(parts: Sequence[Counts]) -> tuple[Counts, ...]:
    """Return parts with about `BASELINE_IMAGES` images, at regular intervals; all parts if they have no more."""
    every = max(1, round(sum(map(images_in, parts)) / BASELINE_IMAGES))
    return tuple(parts[::every])


@dataclass(frozen=True)
class Run:
    """Measured images of one or more consecutive runs into a table.

    Args:
        model: digest of the model.
        bins: bins of each feature.
        parts: counts of consecutive images, in the order of the table.
    """

    model: str
    bins: Bins
    parts: tuple[Counts, ...]

    @property
    def images(self) -> int:
        """Number of measured images."""
        return sum(map(images_in, self.parts))

    def is_like(self, other: "Run") -> bool:
        """Return whether another run has the same model and the same bins."""
        return (self.model, self.bins) == (other.model, other.bins)

    def as_record(self) -> dict[str, Any]:
        """Return the run as JSON values."""
        return {"model": self.model, "bins": self.bins, "parts": list(self.parts)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Return the run that a record of `as_record` holds."""
        return cls(record["model"], record["bins"], tuple(record["parts"]))


@dataclass(frozen=True)
class Baseline:
    """Counts of the images with which the runs into a table are compared.

    Args:
        model: digest of the model that the features of `MODEL_FEATURES` were measured with.
        bins: bins of each feature.
        parts: counts of consecutive images; the counts of a feature may be missing.
        accepted: features with which runs are compared before the baseline is complete, because the operator accepted
            their images.
    """

    model: str = ""
    bins: Bins = field(default_factory=dict)
    parts: tuple[Counts, ...] = ()
    accepted: tuple[str, ...] = ()

    def images(self, feature: str) -> int:
        """Return the number of images whose feature was counted."""
        return sum(sum(part.get(feature, ())) for part in self.parts)

    def is_active(self, feature: str) -> bool:
        """Return whether runs are compared with the baseline in a feature."""
        return bool(self.images(feature)) and (feature in self.accepted or self.is_complete(feature))

    def is_complete(self, feature: str) -> bool:
        """Return whether enough images were counted in a feature."""
        return self.images(feature) >= BASELINE_IMAGES

    def table(self, feature: str) -> Table:
        """Return the counts of a feature: (parts, bins)."""
        return np.array([part[feature] for part in self.parts if feature in part], np.float64)

    def fit_to(self, run: Run) -> Self:
        """Return the baseline without the features that cannot be compared with a run.

        Features that depend on the model cannot be compared after a change of model, and no feature after a change of
        its bins.
        """
        kept = [
            name
            for name, bins in self.bins.items()
            if run.bins.get(name) == bins and (name not in MODEL_FEATURES or self.model == run.model)
        ]
        parts = ({name: part[name] for name in kept if name in part} for part in self.parts)
        return replace(
            self,
            model=run.model,
            bins={name: self.bins[name] for name in kept},
            parts=tuple(part for part in parts if part),
            accepted=tuple(name for name in self.accepted if name in kept),
        )

    def extend(self, run: Run) -> Self:
        """Return the baseline with the images of a run, in those features that are not complete."""
        fitted = self.fit_to(run)
        names = [name for name in run.bins if not fitted.is_complete(name)]
        new = ({name: part[name] for name in names if name in part} for part in thin_parts(run.parts))
        bins = {**fitted.bins, **{name: run.bins[name] for name in names}}
        return replace(fitted, bins=bins, parts=(*fitted.parts, *(part for part in new if part)))

    def compare(self, run: Run) -> Drift | None:
        """Compare a run with the baseline in all its active features; return None if there are none, or few images."""
        fitted, found = self.fit_to(run), add_counts(run.parts)
        names = [name for name in found if fitted.is_active(name)]
        if not names or run.images < MIN_IMAGES:
            return None
        tests = len([name for name in names if name not in HARMLESS])
        shifts = [_shift(name, np.array(found[name], np.float64), fitted.table(name), max(1, tests)) for name in names]
        return Drift(run.images, tuple(shifts), max(map(fitted.images, names)))

    def as_record(self) -> dict[str, Any]:
        """Return the baseline as JSON values."""
        return {**vars(self), "parts": list(self.parts), "accepted": list(self.accepted)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Return the baseline that a record of `as_record` holds."""
        return cls(record["model"], record["bins"], tuple(record["parts"]), tuple(record["accepted"]))


def accept(run: Run) -> Baseline:
    """Return the baseline of the images of a run, which is compared with from the next run on."""
    return replace(Baseline().extend(run), accepted=tuple(run.bins))


def _shift(name: str, found: Table, parts: Table, tests: int) -> Shift:
    expected = parts.sum(axis=0)
    index = population_stability_index(found, expected)
    statistic, freedom = chi_square(found, expected)
    ratio = likelihood_ratio(found, expected)
    groups = list(_groups(parts, found.sum()))
    dispersion = max(map(_dispersion, groups)) * sqrt(max(1, BASELINE_IMAGES / expected.sum()))
    chances = (
        chi_square_tail(statistic / dispersion, freedom),
        len(found) * chi_square_tail(ratio / dispersion, 1),
    )
    p = min(1.0, 2 * tests * min(chances))
    large = matters(name, index) and p < (SIGNIFICANCE_LEVEL if dispersion == 1 else DISPERSED_LEVEL)
    margin = float(1 + MIN_IMAGES / found.sum())
    drifted = large and max(statistic, ratio) > margin * _largest_difference(groups[-1])
    return Shift(name, round(index, 4), float(f"{p:.3g}"), drifted)


def _groups(parts: Table, images: float) -> Iterator[Table]:
    """Yield the parts, and the parts joined into groups of about as many images as a run, but at least four groups."""
    yield parts
    count = min(len(parts), max(MIN_GROUPS, round(parts.sum() / images)))
    yield np.array([group.sum(axis=0) for group in np.array_split(parts, count)])


def _dispersion(groups: Table) -> float:
    """Return a bound on how many times as much as by chance groups differ from each other; 1 if they do not."""
    merged = _merge_small_bins(groups)
    freedom = (len(merged) - 1) * (merged.shape[1] - 1)
    if not freedom:
        return 1.0
    mean = merged.sum(axis=1, keepdims=True) * merged.sum(axis=0) / merged.sum()
    statistic = float(((merged - mean) ** 2 / mean).sum())
    significant = chi_square_tail(statistic, freedom) < _DISPERSION_LEVEL
    return _DISPERSION_BOUND * statistic / freedom if significant else 1.0


def _merge_small_bins(groups: Table) -> Table:
    """Merge the smallest bins into one, in which a group has at least `_MIN_EXPECTED` images on average."""
    ordered = groups[:, np.argsort(groups.sum(axis=0), kind="stable")]
    small = int(np.count_nonzero(ordered.sum(axis=0).cumsum() < _MIN_EXPECTED * len(groups)))
    return np.concatenate([ordered[:, : small + 1].sum(axis=1, keepdims=True), ordered[:, small + 1 :]], axis=1)


def _largest_difference(groups: Table) -> float:
    """Return the largest statistic of one group against all others; 0 if there is only one group."""
    total, pairs = groups.sum(axis=0), groups if len(groups) > 1 else ()
    statistics = (max(chi_square(one, total - one)[0], likelihood_ratio(one, total - one)) for one in pairs)
    return max(statistics, default=0.0)
