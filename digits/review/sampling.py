"""Sampling: choose the images of a table that a person should label, and their order.

There are three strata: all rows with the status `uncertain`, all rows with the status `not-a-digit`, and a random
sample of the rows with the status `ok`, from which the accuracy of those rows is estimated. The functions neither read
nor write files.
"""

import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

from digits.data.labels import NOT_A_DIGIT, image_id

Stratum = Literal["uncertain", "not-a-digit", "sample"]
STRATA: tuple[Stratum, ...] = ("uncertain", "not-a-digit", "sample")
FLAGGED: tuple[Stratum, ...] = ("uncertain", "not-a-digit")
FLAGGED_BETWEEN = 2
"""Number of flagged images between two images of the sample; a person who stops early has labelled both kinds."""


class PredictedImage(NamedTuple):
    """Image or page with a prediction: its row of the table."""

    sha256: str
    path: str
    status: str
    prediction: str
    confidence: float
    novelty: float | None
    model_version: int
    page: int | None = None

    @property
    def id(self) -> str:
        """Id of the image in the label log."""
        return image_id(self.sha256, self.page)

    @property
    def suggestion(self) -> str:
        """Label that confirms the table."""
        return NOT_A_DIGIT if self.status == NOT_A_DIGIT else self.prediction


class QueuedImage(NamedTuple):
    """Image of the review queue, and the stratum it was chosen from."""

    image: PredictedImage
    stratum: Stratum


@dataclass(frozen=True)
class ReviewQueue:
    """Review queue: images to label, in order.

    Args:
        images: images to label, in the order in which they are shown.
        confident: number of distinct images with the status `ok`, from which the sample was drawn.
        left_out: number of distinct images that were left out because they have a label from the review of another
            model version.
    """

    images: tuple[QueuedImage, ...]
    confident: int
    left_out: int

    def images_of(self, stratum: Stratum) -> list[PredictedImage]:
        """Return the images of a stratum, in order."""
        return [queued.image for queued in self.images if queued.stratum == stratum]


def build_queue(
    images: Iterable[PredictedImage], *, size: int, is_labelled: Callable[[PredictedImage], bool] = lambda _: False
) -> ReviewQueue:
    """Return the review queue of a table; the same table has the same queue.

    Images with the same content are shown once. Flagged images are sorted by the probability that the table is wrong
    about them, highest first. The sample is in a random order, namely that of a hash of model version and content. The
    order does not change when the folder grows or the sample becomes larger, so earlier answers remain valid. For
    another model version the sample is another one.

    Args:
        images: rows of the table.
        size: number of images in the sample.
        is_labelled: function that returns whether an image has a label from the review of another model version. Such
            images are left out: this version may have been trained on them, so they must not be part of an estimate.
    """
    flagged: list[PredictedImage] = []
    counts: Counter[str] = Counter()
    sample = heapq.nsmallest(size, _confident(images, is_labelled, flagged, counts), key=_rank)
    flagged.sort(key=lambda image: (-error_probability(image), image.id))
    return ReviewQueue(tuple(_interleave(flagged, sample)), counts["confident"], counts["left out"])


def _confident(
    images: Iterable[PredictedImage],
    is_labelled: Callable[[PredictedImage], bool],
    flagged: list[PredictedImage],
    counts: Counter[str],
) -> Iterator[PredictedImage]:
    """Yield the images with the status `ok`, append flagged ones to `flagged`, and count `ok` and left out ones."""
    seen: set[tuple[bytes, int | None]] = set()
    for image in images:
        content = bytes.fromhex(image.sha256), image.page
        if content in seen:
            continue
        seen.add(content)
        if is_labelled(image):
            counts["left out"] += 1
        elif image.status == "ok":
            counts["confident"] += 1
            yield image
        else:
            flagged.append(image)


def error_probability(image: PredictedImage) -> float:
    """Return the probability that the table is wrong about a flagged image, as estimated by the model.

    For an `uncertain` image it is one minus the confidence. For a `not-a-digit` image it is the probability that the
    image is a digit after all, which follows from its out-of-distribution score (`novelty`): the score is the logit of
    the probability that the image is no digit.
    """
    if image.status == NOT_A_DIGIT:
        return 1 / (1 + math.exp(min(image.novelty or 0, 700)))
    return 1 - image.confidence


def _rank(image: PredictedImage) -> bytes:
    return hashlib.sha256(f"sample {image.model_version} {image.id}".encode()).digest()


def _interleave(flagged: Sequence[PredictedImage], sample: Sequence[PredictedImage]) -> Iterator[QueuedImage]:
    others = iter(sample)
    for start in range(0, len(flagged), FLAGGED_BETWEEN):
        for image in flagged[start : start + FLAGGED_BETWEEN]:
            yield QueuedImage(image, "not-a-digit" if image.status == NOT_A_DIGIT else "uncertain")
        yield from (QueuedImage(image, "sample") for image in islice(others, 1))
    yield from (QueuedImage(image, "sample") for image in others)
