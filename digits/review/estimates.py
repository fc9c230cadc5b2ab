"""Estimates: accuracy of a table from the labels given so far, with confidence intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from digits.data.labels import SKIP
from digits.review.sampling import FLAGGED, STRATA, Image, ReviewQueue, Stratum
from digits.store.records import Record

LEVEL = 0.95


# What the answers say


class Estimate(NamedTuple):
    """A share of right rows among `population`, with its interval at 95 % confidence.

    `judged` images rest on a person's answer; `right` is the table's verdict on those that was confirmed.
    """

    right: int
    judged: int
    population: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class ReviewProgress:
    """How far a review is.

    Args:
        done: answers by stratum, skipped ones included.
        total: images by stratum.
        confident: the accuracy of the table's `ok` rows; None before the first answer.
        table: the accuracy of all its rows; None until every flagged image has an answer.
    """

    done: Mapping[Stratum, int]
    total: Mapping[Stratum, int]
    confident: Estimate | None
    table: Estimate | None

    def as_record(self) -> Record:
        """Give it as JSON values."""
        estimates = {"confident": self.confident, "table": self.table}
        return {**vars(self), **{name: found and found._asdict() for name, found in estimates.items()}}


def measure_progress(
    selection: ReviewQueue, label_of: Callable[[str], str | None], *, is_gone: Callable[[str], bool] = lambda _: False
) -> ReviewProgress:
    """Count what was answered, and estimate how often the table is right.

    The estimate for `ok` rows rests on the sample alone, and in it on the images before the first one that has no
    answer yet: so it is a simple random sample whenever one stops, whatever was labelled for other reasons. An image
    that was skipped or is gone is not judged. The flagged rows are asked about in the order of their value, so they
    say nothing about each other: an accuracy of all rows is given when every one of them has an answer.

    Args:
        selection: what was asked.
        label_of: gives the label of an image by its SHA-256, None where there is none.
        is_gone: tells the images that can't be looked at any more.
    """
    images = {stratum: selection.of(stratum) for stratum in STRATA}
    labels = {image.sha256: label_of(image.sha256) for chosen in images.values() for image in chosen}
    confident = _of_sample(images["sample"], labels, selection.confident, is_gone)
    return ReviewProgress(
        done={stratum: sum(labels[image.sha256] is not None for image in images[stratum]) for stratum in STRATA},
        total={stratum: len(images[stratum]) for stratum in STRATA},
        confident=confident,
        table=_of_table([image for stratum in FLAGGED for image in images[stratum]], labels, confident, selection),
    )


def _of_sample(
    sample: Sequence[Image], labels: Mapping[str, str | None], population: int, is_gone: Callable[[str], bool]
) -> Estimate | None:
    judged = right = 0
    for image in sample:
        label = labels[image.sha256]
        if label is None and not is_gone(image.sha256):
            break
        if label not in (None, SKIP):
            judged += 1
            right += label == image.suggestion
    return estimate(right, judged, population) if judged else None


def _of_table(
    flagged: Sequence[Image], labels: Mapping[str, str | None], confident: Estimate | None, selection: ReviewQueue
) -> Estimate | None:
    """Put the strata together: the flagged ones are known one by one, but for the skipped, which may be either."""
    said = [(labels[image.sha256], image.suggestion) for image in flagged]
    if None in (label for label, _ in said) or (selection.confident and confident is None):
        return None
    skipped = sum(label == SKIP for label, _ in said)
    right = sum(label == suggestion for label, suggestion in said)
    total = selection.confident + len(flagged)
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
    """Estimate a share from a simple random sample without replacement.

    The interval is exact: from the smallest to the largest number of right ones in the population that makes a sample
    with so many, or one that is further off, as likely as 2.5 %. That is Clopper's and Pearson's for a finite
    population (T. Wright, Exact Confidence Bounds when Sampling from Small Finite Universes, 1991): it covers the truth
    in at least 95 of 100 samples, and is a point when all were judged.
    """
    tail = (1 - LEVEL) / 2
    most_wrong, most_right = judged - right, population - (judged - right)
    low = _first(range(right, most_right + 1), lambda k: _at_least(right, judged, k, population) > tail)
    wrong = _first(
        range(most_wrong, population - right + 1), lambda k: _at_least(judged - right, judged, k, population) > tail
    )
    return Estimate(right, judged, population, right / judged, low / population, (population - wrong) / population)


def _first(numbers: range, holds: Callable[[int], bool]) -> int:
    """Give the first of ascending numbers for which something holds that holds for all after it."""
    low, high = 0, len(numbers) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(numbers[middle]) else (middle + 1, high)
    return numbers[low]


def _at_least(seen: int, drawn: int, marked: int, population: int) -> float:
    """Give the chance of at least `seen` marked ones among `drawn` of a population with `marked` (hypergeometric)."""
    last = min(drawn, marked)
    first = max(seen, drawn + marked - population)
    whole = _log_choose(population, drawn)
    return sum(
        math.exp(_log_choose(marked, k) + _log_choose(population - marked, drawn - k) - whole)
        for k in range(first, last + 1)
    )


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
