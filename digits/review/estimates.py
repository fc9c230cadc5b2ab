"""Estimates: accuracy of a table from the labels given so far, with confidence intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from digits.data.labels import SKIP
from digits.review.sampling import FLAGGED, STRATA, PredictedImage, ReviewQueue, Stratum
from digits.store.records import Record

LEVEL = 0.95


class Estimate(NamedTuple):
    """Estimated share of correct rows among `population` rows, with its 95 % confidence interval from `low` to `high`.

    `judged` is the number of rows with a label, and `right` the number of those whose label confirms the table.
    """

    right: int
    judged: int
    population: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class ReviewProgress:
    """Progress of a review.

    Args:
        done: number of answered images per stratum, including skipped ones.
        total: number of images per stratum.
        confident: accuracy of the rows with the status `ok`; None before the first label of the sample.
        table: accuracy of all rows; None until every flagged image has an answer and `confident` is known.
    """

    done: Mapping[Stratum, int]
    total: Mapping[Stratum, int]
    confident: Estimate | None
    table: Estimate | None

    def as_record(self) -> Record:
        """Return the progress as JSON values."""
        estimates = {"confident": self.confident, "table": self.table}
        return {**vars(self), **{name: found and found._asdict() for name, found in estimates.items()}}


def measure_progress(
    queue: ReviewQueue, label_of: Callable[[str], str | None], *, is_gone: Callable[[str], bool] = lambda _: False
) -> ReviewProgress:
    """Count the answers of a review, and estimate the accuracy of its table.

    The estimate for rows with the status `ok` uses the images of the sample that come before the first one without an
    answer. These are a simple random sample of the rows, no matter when the person stops or which other images have
    labels. Images that were skipped or are missing do not count as judged. Flagged rows are shown in the order of their
    error probability, so the first of them are not a random sample. Therefore the accuracy of all rows is not estimated
    before each flagged row has an answer.

    Args:
        queue: queue of the review.
        label_of: function from an image's id to its label, or None if it has none.
        is_gone: function from an image's id to whether its file is missing or changed.
    """
    images = {stratum: queue.images_of(stratum) for stratum in STRATA}
    labels = {image.id: label_of(image.id) for chosen in images.values() for image in chosen}
    confident = _of_sample(images["sample"], labels, queue.confident, is_gone)
    return ReviewProgress(
        done={stratum: sum(labels[image.id] is not None for image in images[stratum]) for stratum in STRATA},
        total={stratum: len(images[stratum]) for stratum in STRATA},
        confident=confident,
        table=_of_table([image for stratum in FLAGGED for image in images[stratum]], labels, confident, queue),
    )


def _of_sample(
    sample: Sequence[PredictedImage], labels: Mapping[str, str | None], population: int, is_gone: Callable[[str], bool]
) -> Estimate | None:
    judged = right = 0
    for image in sample:
        label = labels[image.id]
        if label is None and not is_gone(image.id):
            break
        if label not in (None, SKIP):
            judged += 1
            right += label == image.suggestion
    return estimate(right, judged, population) if judged else None


def _of_table(
    flagged: Sequence[PredictedImage], labels: Mapping[str, str | None], confident: Estimate | None, queue: ReviewQueue
) -> Estimate | None:
    """Estimate the accuracy of all rows from the strata; for the interval, a skipped image may be right or wrong."""
    answers = [(labels[image.id], image.suggestion) for image in flagged]
    if None in (label for label, _ in answers) or (queue.confident and confident is None):
        return None
    skipped = sum(label == SKIP for label, _ in answers)
    right = sum(label == suggestion for label, suggestion in answers)
    total = queue.confident + len(flagged)
    if not total or skipped == total:
        return None
    ok = confident or Estimate(0, 0, 0, 0, 0, 0)
    among = right + ok.share * ok.population
    return Estimate(
        right=right + ok.right,
        judged=len(flagged) - skipped + ok.judged,
        population=total,
        share=among / (total - skipped),
        low=(right + ok.low * ok.population) / total,
        high=(right + skipped + ok.high * ok.population) / total,
    )


def estimate(right: int, judged: int, population: int) -> Estimate:
    """Estimate a share from a simple random sample without replacement, with its 95 % confidence interval.

    The interval is the Clopper-Pearson interval for a finite population (T. Wright, Exact Confidence Bounds when
    Sampling from Small Finite Universes, 1991). It contains each number of correct rows in the population with which a
    result at least as low, and one at least as high, as that of the sample has a probability above 2.5 %. It covers the
    true share in at least 95 of 100 samples. When all rows were judged, its two ends are the same.

    Args:
        right: number of correct rows in the sample.
        judged: number of rows in the sample, at least 1.
        population: number of rows in the population.
    """
    tail = (1 - LEVEL) / 2
    most_wrong, most_right = judged - right, population - (judged - right)
    low = _first(range(right, most_right + 1), lambda k: _at_least(right, judged, k, population) > tail)
    wrong = _first(
        range(most_wrong, population - right + 1), lambda k: _at_least(judged - right, judged, k, population) > tail
    )
    return Estimate(right, judged, population, right / judged, low / population, (population - wrong) / population)


def _first(numbers: range, holds: Callable[[int], bool]) -> int:
    """Return the first number for which a condition holds; it must hold for all later numbers, too (binary search)."""
    low, high = 0, len(numbers) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(numbers[middle]) else (middle + 1, high)
    return numbers[low]


def _at_least(seen: int, drawn: int, marked: int, population: int) -> float:
    """Return the probability of at least `seen` marked items among `drawn` from a population with `marked` of them.

    It is the upper tail of the hypergeometric distribution.
    """
    last = min(drawn, marked)
    first = max(seen, drawn + marked - population)
    whole = _log_choose(population, drawn)
    return sum(
        math.exp(_log_choose(marked, k) + _log_choose(population - marked, drawn - k) - whole)
        for k in range(first, last + 1)
    )


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
