"""Accuracy and flags on images from other sources than MNIST, by set, and accuracy by step of the normalization.

python -m benchmarks sets                     # MNIST's test images, and look-alikes that are made from them
python -m benchmarks sets --data FOLDER       # labelled sets too: <set>/<digit>/*
python -m benchmarks sets --others FOLDER     # images without a digit too: <set>/<kind>/*
python -m benchmarks sets --model A --model B # the mean of several models, such as three seeds

The first columns are the accuracy with the image only scaled (`as is`); inverted and scaled (`inverted`); normalized as
MNIST was, assuming evenly lit paper (`recipe`); and normalized with all steps (`full`). The last ones are shares of all
images, screened and predicted as `digits predict` does it: `flagged` are right but `not-a-digit`, `wrong ok` are wrong
without a flag. Names of look-alikes begin with `~`. Needs a champion in the artifact root, or `--model`.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks import lookalikes
from digits.data.arrays import LabelledArrays
from digits.data.datasets import load
from digits.images import normalize
from digits.images.decode import decode
from digits.images.screening import screen
from digits.images.types import Pixels
from digits.model.onnx_model import OnnxModel, Predictor
from digits.settings import artifact_root
from digits.status import combine_novelty

Floats = npt.NDArray[np.float64]
Labelled = list[tuple[int, Pixels]]
"""Labels with their images, (H, W) uint8 of any size."""

COUNT = 500
"""Number of look-alikes of each kind."""


class Output(NamedTuple):
    """Predictions of a set of images.

    Args:
        y_prob: calibrated probabilities, (N, classes).
        novelty: out-of-distribution scores, (N,); an image with a score above 0 is rejected.
    """

    y_prob: npt.NDArray[np.float32]
    novelty: Floats

    @property
    def is_rejected(self) -> npt.NDArray[np.bool_]:
        """Whether each image is rejected as no digit, (N,)."""
        return np.asarray(self.novelty > 0)

    @property
    def rejected(self) -> float:
        """Share of the images that are rejected as no digit."""
        return float(self.is_rejected.mean())


def main() -> None:
    """Print one line per set."""
    parser = argparse.ArgumentParser(
        description="Measure the accuracy and the flags on images from other sources than MNIST."
    )
    parser.add_argument("--data", type=Path, help="folder of labelled sets: <set>/<digit>/*")
    parser.add_argument("--others", type=Path, help="folder of sets of images without a digit: <set>/<kind>/*")
    parser.add_argument(
        "--model",
        type=Path,
        action="append",
        help="folder with model.onnx and spec.json (default: the champion's); if it is repeated, the mean of all "
        "models is printed",
    )
    options = parser.parse_args()
    root = artifact_root()
    predictors = [Predictor(read_model(folder, root)) for folder in options.model or [None]]
    print(f"{'set':<16}{'images':>7}" + "".join(f"{name:>10}" for name in (*STEPS, *FLAGS)))
    for name, samples in _sets(options.data, load("mnist", downloads=root / "downloads")):
        if samples:
            shares = np.mean([_measure(predictor, samples) for predictor in predictors], axis=0)
            print(f"{name:<16}{len(samples):>7}" + "".join(f"{share:10.2%}" for share in shares), flush=True)
    for name, images in read_others(options.others):
        rejected = float(np.mean([predict(predictor, images).rejected for predictor in predictors]))
        print(f"{name:<38}{len(images):>7} images, rejected{rejected:10.2%}", flush=True)


def read_model(folder: Path | None, root: Path) -> OnnxModel:
    """Load the model in a folder, or the champion of an artifact root if `folder` is None."""
    if folder is not None:
        return OnnxModel.load(folder, version=0)
    from digits.prediction.service import open_model
    from digits.store.artifacts import Store

    return open_model(Store(root), "champion")


def _sets(folder: Path | None, mnist: LabelledArrays) -> Iterator[tuple[str, Labelled]]:
    for directory in sorted(folder.iterdir()) if folder else ():
        if directory.is_dir():
            yield directory.name, read_set(directory)
    yield "mnist", list(zip(mnist.test_labels.tolist(), mnist.test_pixels, strict=True))
    for number, kind in enumerate(lookalikes.KINDS):
        chosen = slice(number * COUNT, (number + 1) * COUNT)
        images = lookalikes.draw_images(kind, mnist.test_pixels[chosen])
        yield f"~{kind}", list(zip(mnist.test_labels[chosen].tolist(), images, strict=True))
    yield "~printed", list(lookalikes.draw_printed(COUNT))


def read_others(folder: Path | None) -> Iterator[tuple[str, list[Pixels]]]:
    """Yield the name of each kind in `<set>/<kind>/` below a folder, with its images."""
    for directory in sorted(folder.glob("*/*/")) if folder else ():
        files = [file for file in sorted(directory.iterdir()) if file.is_file()]
        yield f"{directory.parent.name}/{directory.name}", [decode(file.read_bytes()).pixels for file in files]


def read_set(folder: Path) -> Labelled:
    """Read the images in `<digit>/` below a folder, with their labels."""
    return read_files(sorted(folder.glob("[0-9]/*")))


def read_files(files: Sequence[Path]) -> Labelled:
    """Read image files whose folder is named after their label; folders among them are left out."""
    return [(int(file.parent.name), decode(file.read_bytes()).pixels) for file in files if file.is_file()]


def predict(predictor: Predictor, images: Iterable[Pixels]) -> Output:
    """Predict images, (H, W) uint8 of any size, as `digits predict` does."""
    model = predictor.model
    screened = [screen(image, model.resolve_mode("auto"), shape=model.input_shape) for image in images]
    y_prob, novelty = predictor.predict_with_novelty(np.stack([one.pixels for one in screened]))
    total = combine_novelty(novelty, [one.screening_score for one in screened])
    return Output(y_prob, np.array([np.nan if value is None else value for value in total]))


def _measure(predictor: Predictor, samples: Labelled) -> list[float]:
    """Return the accuracy of each of `STEPS`, and the shares of `FLAGS`."""
    y_true = np.array([label for label, _ in samples])
    output = predict(predictor, [pixels for _, pixels in samples])
    right = output.y_prob.argmax(axis=1) == y_true
    flags = (right & output.is_rejected).mean(), (~right & ~output.is_rejected).mean()
    return [*(_accuracy(predictor, samples, y_true, step) for step in STEPS.values()), *map(float, flags)]


def _accuracy(
    predictor: Predictor, samples: Labelled, y_true: npt.NDArray[np.int_], step: Callable[[Pixels], Pixels]
) -> float:
    y_prob = predictor.predict(np.stack([step(pixels) for _, pixels in samples]))
    return float((y_prob.argmax(axis=1) == y_true).mean())


def _as_is(pixels: Pixels) -> Pixels:
    return normalize.normalize(pixels, "none")


def _inverted(pixels: Pixels) -> Pixels:
    return normalize.normalize(255 - pixels, "none")


def _recipe(pixels: Pixels) -> Pixels:
    ink = normalize.find_ink(pixels, even=True)
    return np.zeros(normalize.SHAPE, np.uint8) if ink is None else normalize.place_ink(ink)


STEPS: dict[str, Callable[[Pixels], Pixels]] = {
    "as is": _as_is,
    "inverted": _inverted,
    "recipe": _recipe,
    "full": normalize.normalize,
}
FLAGS = ("flagged", "wrong ok")

if __name__ == "__main__":
    main()
