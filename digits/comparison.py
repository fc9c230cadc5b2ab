"""Two models on the same test sets: what the decision on a promotion is made from, and the examples of what changed."""

import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from digits.arrays import HeldOut
from digits.calibration import DECIMALS, Step, threshold_for
from digits.decisions import Changed
from digits.errors import UsageError
from digits.evaluation import calibration_error, reliability
from digits.inference import Answers, Predictor
from digits.promotion import SetResult

Labels = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.uint8]

TIMED_IMAGES, ROUNDS = 256, 5
EXAMPLES = 12
"""Of either kind: right to wrong, wrong to right."""


def results_of(
    answers: Answers, labels: Labels, sets: Iterable[HeldOut], *, steps: Sequence[Step], wished_error: float
) -> dict[str, SetResult]:
    """Measure a model on each test set.

    Args:
        answers: for all test images.
        labels: (N,) of all test images.
        sets: which of them belong together.
        steps: of the model's calibration.
        wished_error: as `max_error` of a prediction; a model that can't promise it answers nothing.
    """
    confidence = answers.probabilities.max(axis=1).astype(np.float64)
    right = answers.probabilities.argmax(axis=1) == labels
    answered = confidence.round(DECIMALS) >= _threshold(steps, wished_error)
    if answers.novelty is not None:
        answered &= answers.novelty <= 0
    return {
        one.name: SetResult(
            digest=one.sha256,
            right=right[one.images],
            ece=calibration_error(reliability(confidence[one.images], right[one.images])),
            coverage=float(answered[one.images].mean()),
        )
        for one in sets
    }


def _threshold(steps: Sequence[Step], wished_error: float) -> float:
    try:
        return threshold_for(steps, wished_error)
    except UsageError:
        return float("inf")


class Said(NamedTuple):
    """What a model says of N images: class ids and their probabilities, (N,) each."""

    classes: npt.NDArray[np.intp]
    confidence: npt.NDArray[np.float32]

    @classmethod
    def by(cls, answers: Answers) -> "Said":
        """Read a model's answers."""
        return cls(answers.probabilities.argmax(axis=1), answers.probabilities.max(axis=1))


def changed_answers(
    challenger: Answers, champion: Answers, labels: Labels, sets: Sequence[HeldOut], class_names: Sequence[str]
) -> list[Changed]:
    """Give examples of images that changed from right to wrong, then from wrong to right, the surest mistakes first."""
    ours, theirs = Said.by(challenger), Said.by(champion)
    lost = (ours.classes != labels) & (theirs.classes == labels)
    gained = (ours.classes == labels) & (theirs.classes != labels)
    chosen = [*_surest(lost, ours.confidence), *_surest(gained, theirs.confidence)]
    return [
        Changed(
            test_set=next(one.name for one in sets if one.start <= index < one.stop),
            index=index,
            true=class_names[labels[index]],
            champion=class_names[theirs.classes[index]],
            challenger=class_names[ours.classes[index]],
            champion_confidence=round(float(theirs.confidence[index]), DECIMALS),
            challenger_confidence=round(float(ours.confidence[index]), DECIMALS),
        )
        for index in chosen
    ]


def _surest(chosen: npt.NDArray[np.bool_], confidence: npt.NDArray[np.float32]) -> list[int]:
    numbers = np.flatnonzero(chosen)
    order = np.argsort(-confidence[numbers], kind="stable")[:EXAMPLES]
    return [int(number) for number in numbers[order]]


def seconds_an_image(predictors: Sequence[Predictor], pixels: Pixels) -> list[float]:
    """Measure what predicting a picture takes with each of several models, from the bytes of a PNG on, in this process.

    Reading is the same for all; the networks take turns, and the quickest of several rounds counts, so that what else
    the machine does falls on neither.

    Args:
        predictors: models for images of the same size.
        pixels: (N, height, width) uint8, N of at least 1; the first ones are taken.
    """
    from digits.images import LEAST_SIDE, decode
    from digits.oddities import look

    images = pixels[:TIMED_IMAGES]
    pictures, model = [_as_png(image) for image in images], predictors[0].model

    def read() -> None:
        for content in pictures:
            picture = decode(content, max_pixels=images[0].size, least_side=LEAST_SIDE)
            look(picture.pixels, model.mode_for("auto"), shape=model.input_shape)

    works: list[Callable[[], object]] = [read, *(_answering(predictor, images) for predictor in predictors)]
    reading, *answering = _quickest(works)
    return [(reading + seconds) / len(images) for seconds in answering]


def _answering(predictor: Predictor, images: Pixels) -> Callable[[], object]:
    return lambda: predictor.answer(images)


def _quickest(works: Sequence[Callable[[], object]]) -> Iterator[float]:
    rounds = [[_timed(work) for work in works] for _ in range(ROUNDS)]
    return map(min, zip(*rounds, strict=True))


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _as_png(image: Pixels) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
