"""Which images of a table a person should look at, in which order, and what the answers say about all of them.

Three strata: the rows that are flagged `uncertain` or `not-a-digit`, all of which are worth a look, and a random
sample of the others, the `ok` ones, which shows how far those can be trusted. Everything here is computed; nothing is
read or written.
"""

import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

from digits.data.labels import NOT_A_DIGIT

Stratum = Literal["uncertain", "not-a-digit", "sample"]
STRATA: tuple[Stratum, ...] = ("uncertain", "not-a-digit", "sample")
FLAGGED: tuple[Stratum, ...] = ("uncertain", "not-a-digit")
FLAGGED_BETWEEN = 2
"""Flagged images asked about before the next one of the sample: whoever stops early has done some of both."""


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


class QueuedImage(NamedTuple):
    """An image to look at, and why."""

    image: Image
    stratum: Stratum


@dataclass(frozen=True)
class ReviewQueue:
    """What to look at.

    Args:
        queue: in the order in which it is asked about.
        confident: the distinct images with the status `ok`, from which the sample was drawn.
        known: distinct images that were left out, since they were labelled for another model version.
    """

    queue: tuple[QueuedImage, ...]
    confident: int
    known: int

    def of(self, stratum: Stratum) -> list[Image]:
        """Give the images of a stratum, in their order."""
        return [picked.image for picked in self.queue if picked.stratum == stratum]


def build_queue(
    images: Iterable[Image], *, size: int, is_known: Callable[[Image], bool] = lambda _: False
) -> ReviewQueue:
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
    flagged.sort(key=lambda image: (-error_probability(image), image.sha256))
    return ReviewQueue(tuple(_interleaved(flagged, sample)), counts["confident"], counts["known"])


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


def error_probability(image: Image) -> float:
    """Give the chance that the table is wrong about a flagged image, as far as the model can tell.

    An uncertain one is wrong as often as its confidence says. The novelty of what is taken for no digit is a logit,
    0 where it is as likely a digit.
    """
    if image.status == NOT_A_DIGIT:
        return 1 / (1 + math.exp(min(image.novelty or 0, 700)))
    return 1 - image.confidence


def _rank(image: Image) -> bytes:
    return hashlib.sha256(f"sample {image.model_version} {image.sha256}".encode()).digest()


def _interleaved(flagged: Sequence[Image], sample: Sequence[Image]) -> Iterator[QueuedImage]:
    others = iter(sample)
    for start in range(0, len(flagged), FLAGGED_BETWEEN):
        for image in flagged[start : start + FLAGGED_BETWEEN]:
            yield QueuedImage(image, "not-a-digit" if image.status == NOT_A_DIGIT else "uncertain")
        yield from (QueuedImage(image, "sample") for image in islice(others, 1))
    yield from (QueuedImage(image, "sample") for image in others)
