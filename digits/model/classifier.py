"""Classifier: a loaded model for Python programs, with the methods of scikit-learn's classifiers."""

from collections.abc import Iterator
from threading import Lock
from typing import Any, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from digits.errors import UsageError
from digits.images.decode import MIN_SIDE, DecodeError, decode
from digits.images.formats import formats_to_read
from digits.images.pages import list_pages
from digits.images.screening import ScreenedImage, screen
from digits.model.calibration import DECIMALS, threshold_for
from digits.model.inputs import each_image, read_image
from digits.model.onnx_model import BATCH, ModelOutput, OnnxModel, Predictor
from digits.status import Status, combine_novelty, prediction_status


class Answer(TypedDict):
    """Answer about one image.

    `label` is the predicted class, and `score` its calibrated probability, as `prediction` and `confidence` in the
    table; both are None for an image that cannot be read. `status` is a status of the table.
    """

    label: str | None
    score: float | None
    status: Status


class _Normalized(NamedTuple):
    """Image as the network takes it, or the error of an image that cannot be read."""

    screened: ScreenedImage | None
    error: DecodeError | None = None


class Model:
    """Loaded model, which predicts images in this process. Thread-safe.

    Images are read as `digits.predict` reads them: they are given as for it, as paths, Pillow images or arrays, one or
    several. Of a file with several pages, the first is predicted. There are no limits of time and memory per image, so
    use `digits.predict` for images that you do not trust, and for many, which it predicts in several processes.

    Example:
        >>> model = digits.load_model()
        >>> model("scan.png")
        [{'label': '7', 'score': 0.998877, 'status': 'ok'}]
        >>> model.score(x_test, y_test)
        0.9971

    Args:
        exported: exported model.
        max_error: target error rate, as in `digits.predict`; None to call no prediction `uncertain`.
    """

    def __init__(self, exported: OnnxModel, *, max_error: float | None = None) -> None:
        self.exported = exported
        self._threshold = 0.0 if max_error is None else threshold_for(exported.risk_steps, max_error)
        self._predictor = Predictor(exported)
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"Model(version={self.version}, classes={list(self.exported.class_names)})"

    @property
    def version(self) -> int:
        """Number of the model version; 0 for a model that is not registered."""
        return self.exported.version

    @property
    def classes_(self) -> npt.NDArray[np.str_]:
        """Names of the classes, (classes,) str, in the order of the columns of `predict_proba`."""
        return np.array(self.exported.class_names)

    def predict(self, images: Any) -> npt.NDArray[np.str_]:
        """Return the most likely class of each image: N images -> (N,) str.

        Raises:
            UsageError: if an image cannot be read.
        """
        classes: npt.NDArray[np.str_] = self.classes_[self.predict_proba(images).argmax(axis=1)]
        return classes

    def predict_proba(self, images: Any) -> npt.NDArray[np.float32]:
        """Return the calibrated probability of each class: N images -> (N, classes) float32.

        Raises:
            UsageError: if an image cannot be read.
        """
        parts = [self._run(_require_read(part, number)).probabilities for number, part in self._batches(images)]
        return np.concatenate([np.empty((0, len(self.exported.class_names)), np.float32), *parts])

    def score(self, images: Any, labels: Any) -> float:
        """Return the accuracy: the share of images whose most likely class is their label.

        Args:
            images: N images.
            labels: N classes, as their names or as numbers: 7 stands for "7".

        Raises:
            UsageError: if an image cannot be read, or if there are not as many labels as images.
        """
        predicted, expected = self.predict(images), [_name(label) for label in np.asarray(labels).ravel().tolist()]
        if len(predicted) != len(expected) or not expected:
            raise UsageError(
                f"score(): found {len(expected)} labels for {len(predicted)} images, expected one for each; several "
                "images in one array have the shape (N, height, width)"
            )
        return float(np.mean(predicted == np.array(expected)))

    def __call__(self, images: Any) -> list[Answer]:
        """Return class, probability and status of each image; one that cannot be read has a status that says why.

        Raises:
            UsageError: if a path cannot be opened, or something else than an image is among them.
        """
        return [answer for _, part in self._batches(images) for answer in self._answers(part)]

    def _answers(self, part: list[_Normalized]) -> Iterator[Answer]:
        read = [image.screened for image in part if image.screened]
        output = self._run(read)
        rounded = output.probabilities.astype(np.float64).round(DECIMALS)
        novelties = combine_novelty(output.novelty, [image.screening_score for image in read])
        answers = iter(
            zip(output.probabilities.argmax(axis=1).tolist(), rounded.max(axis=1).tolist(), novelties, strict=True)
        )
        for image in part:
            if image.error:
                yield {"label": None, "score": None, "status": image.error.status}
                continue
            place, score, novelty = next(answers)
            status = prediction_status(score, novelty, self._threshold)
            yield {"label": self.exported.class_names[place], "score": score, "status": status}

    def _batches(self, images: Any) -> Iterator[tuple[int, list[_Normalized]]]:
        """Yield the normalized images in batches, each with the number of its first image."""
        batch: list[_Normalized] = []
        number = -1
        for number, image in enumerate(each_image(images)):
            batch.append(self._normalize(image))
            if len(batch) == BATCH:
                yield number + 1 - BATCH, batch
                batch = []
        if batch:
            yield number + 1 - len(batch), batch

    def _normalize(self, image: Any) -> _Normalized:
        content, others = read_image(image).content, formats_to_read(())
        pages = list_pages(content, pdf="PDF" in others)
        try:
            place = pages.places[0] if pages.places else None
            pixels = decode(content, min_side=MIN_SIDE, others=others, place=place).pixels
        except DecodeError as error:
            return _Normalized(None, error)
        return _Normalized(screen(pixels, self.exported.resolve_mode("auto"), shape=self.exported.input_shape))

    def _run(self, images: list[ScreenedImage]) -> ModelOutput:
        pixels = [image.pixels for image in images]
        with self._lock:
            return self._predictor.predict_with_novelty(
                np.stack(pixels) if pixels else np.empty((0, *self.exported.input_shape), np.uint8)
            )


def _require_read(part: list[_Normalized], first: int) -> list[ScreenedImage]:
    """Return images that could all be read.

    Args:
        part: images.
        first: number of the first one, for the message.
    """
    for number, image in enumerate(part, first):
        if image.error:
            raise UsageError(
                f"image {number}: {image.error.status}: {image.error}; leave it out, or call the model itself, which "
                "returns a status"
            )
    return [image.screened for image in part if image.screened]


def _name(label: object) -> str:
    """Return the name of a class: 7 and 7.0 stand for "7"."""
    return str(int(label) if isinstance(label, float) and label.is_integer() else label)
