"""Which images of a table a person should look at, in which order, and what the answers say about all of them.

Three strata: the rows that are flagged `uncertain` or `not-a-digit`, all of which are worth a look, and a random
sample of the others, the `ok` ones, which shows how far those can be trusted. Everything here is computed; nothing is
read or written.
"""

import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

from digits.labels import NOT_A_DIGIT, SKIP
from digits.records import Record

Stratum = Literal["uncertain", "not-a-digit", "sample"]
STRATA: tuple[Stratum, ...] = ("uncertain", "not-a-digit", "sample")
FLAGGED: tuple[Stratum, ...] = ("uncertain", "not-a-digit")
FLAGGED_BETWEEN = 2
"""Flagged images asked about before the next one of the sample: whoever stops early has done some of both."""
LEVEL = 0.95


class Image(NamedTuple):
    """A row of the table with a prediction."""

    sha256: str
    path: str
    status: str
    prediction: str
    confidence: float
    novelty: float | None
    model_version: int

    @property
    def suggestion(self) -> str:
        """What the table says of it, as a label."""
        return NOT_A_DIGIT if self.status == NOT_A_DIGIT else self.prediction


class Picked(NamedTuple):
    """An image to look at, and why."""

    image: Image
    stratum: Stratum


@dataclass(frozen=True)
class Selection:
    """What to look at.

    Args:
        queue: in the order in which it is asked about.
        confident: the distinct images with the status `ok`, from which the sample was drawn.
        known: distinct images that were left out, since they were labelled for another model version.
    """

    queue: tuple[Picked, ...]
    confident: int
    known: int

    def of(self, stratum: Stratum) -> list[Image]:
        """Give the images of a stratum, in their order."""
        return [picked.image for picked in self.queue if picked.stratum == stratum]


def select(images: Iterable[Image], *, size: int, is_known: Callable[[Image], bool] = lambda _: False) -> Selection:
    """Choose what to look at, the same for the same table.

    Of images with the same content one is taken. The flagged ones are sorted by their value: the chance that the table
    is wrong about them. The sample is in random order, by a hash of model version and content: that order does not
    change when the folder grows or a larger sample is asked for, so that what was answered stays of use; another model
    version is measured on another sample.

    Args:
        images: the table's rows.
        size: of the sample.
        is_known: tells the images that were labelled for another model version. They are asked about no more, and
            this version may have been trained on them, so an estimate must not rest on them.
    """
    flagged: list[Image] = []
    counts: Counter[str] = Counter()
    sample = heapq.nsmallest(size, _confident(images, is_known, flagged, counts), key=_rank)
    flagged.sort(key=lambda image: (-value(image), image.sha256))
    return Selection(tuple(_interleaved(flagged, sample)), counts["confident"], counts["known"])


def _confident(
    images: Iterable[Image], is_known: Callable[[Image], bool], flagged: list[Image], counts: Counter[str]
) -> Iterator[Image]:
    """Give the confident images as they come, and put the others where they belong."""
    seen: set[bytes] = set()
    for image in images:
        content = bytes.fromhex(image.sha256)
        if content in seen:
            continue
        seen.add(content)
        if is_known(image):
            counts["known"] += 1
        elif image.status == "ok":
            counts["confident"] += 1
            yield image
        else:
            flagged.append(image)


def value(image: Image) -> float:
    """Give the chance that the table is wrong about a flagged image, as far as the model can tell.

    An uncertain one is wrong as often as its confidence says. The novelty of what is taken for no digit is a logit,
    0 where it is as likely a digit.
    """
    if image.status == NOT_A_DIGIT:
        return 1 / (1 + math.exp(min(image.novelty or 0, 700)))
    return 1 - image.confidence


def _rank(image: Image) -> bytes:
    return hashlib.sha256(f"sample {image.model_version} {image.sha256}".encode()).digest()


def _interleaved(flagged: Sequence[Image], sample: Sequence[Image]) -> Iterator[Picked]:
    others = iter(sample)
    for start in range(0, len(flagged), FLAGGED_BETWEEN):
        for image in flagged[start : start + FLAGGED_BETWEEN]:
            yield Picked(image, "not-a-digit" if image.status == NOT_A_DIGIT else "uncertain")
        yield from (Picked(image, "sample") for image in islice(others, 1))
    yield from (Picked(image, "sample") for image in others)


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
class Progress:
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


def progress_of(
    selection: Selection, label_of: Callable[[str], str | None], *, is_gone: Callable[[str], bool] = lambda _: False
) -> Progress:
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
    return Progress(
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
    flagged: Sequence[Image], labels: Mapping[str, str | None], confident: Estimate | None, selection: Selection
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
