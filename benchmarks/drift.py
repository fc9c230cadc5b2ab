"""False alarms of drift on MNIST's test images, and the shifts that are detected, in slices of 300 images.

python -m benchmarks drift                  # MNIST's test images, and alterations of them
python -m benchmarks drift --data FOLDER    # labelled sets too: <set>/<digit>/*

A slice is treated as the images of a run: screening, network, features, counts. Slices are drawn without replacement,
or with replacement from a set that is smaller than a slice. A set appears under its name with its files as they are. As
`saved` it appears with its normalized images, 28x28 pixels light on black, so that size and polarity reveal nothing.
The reference counts come from MNIST's test images.

Needs a champion in the artifact root, or `--model`, and MNIST.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from benchmarks.sets import read_model, read_set
from digits.data.datasets import load
from digits.images.screening import screen
from digits.images.types import Pixels
from digits.model.drift import Values, bin_counts, bins_of, find_drift, measure_files, measure_images
from digits.model.onnx_model import Predictor
from digits.settings import artifact_root
from digits.status import combine_novelty

SLICE = 300
"""Images per slice."""

MNIST_SLICES, SLICES = 1_000, 200
MAX_FALSE_ALARMS = 0.01
SEED = 13
ALTERED = 2_000
"""Number of MNIST's test images in each altered set."""


def main() -> None:
    """Print one line per set; exit with code 1 if there are too many false alarms."""
    parser = argparse.ArgumentParser(description="Measure false alarms of drift, and which shifts are detected.")
    parser.add_argument("--data", type=Path, help="folder of labelled sets: <set>/<digit>/*")
    parser.add_argument("--model", type=Path, help="folder with model.onnx and spec.json (default: the champion's)")
    options = parser.parse_args()
    root = artifact_root()
    detector = Detector(Predictor(read_model(options.model, root)))
    mnist = load("mnist", downloads=root / "downloads")
    print(f"{'set':<30}{'images':>7}{'slices':>8}{'drifted':>9}  by")
    false_alarms = detector.print_line("mnist", detector.measure(mnist.test_pixels), slices=MNIST_SLICES)
    for name, images in _sets(options.data, mnist.test_pixels):
        detector.print_line(name, detector.measure(images))
    for name, weights in _MIXES.items():
        detector.print_line(name, detector.measure(mnist.test_pixels), weights=np.take(weights, mnist.test_labels))
    sys.exit(false_alarms > MAX_FALSE_ALARMS)


class Detector:
    """Drift detection with one model, on random slices of sets.

    Args:
        predictor: model with a reference to compare with.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._reference = predictor.model.reference
        self._bins = bins_of(self._reference)
        self._random = np.random.default_rng(SEED)
        if not self._reference:
            sys.exit(f"{predictor.model.directory}: the model has no reference counts to compare with; train it again")

    def measure(self, images: Sequence[Pixels] | Pixels) -> Values:
        """Return the features of images as a worker measures them.

        Args:
            images: images, (H, W) uint8 of any size.
        """
        model = self._predictor.model
        screened = [screen(image, model.resolve_mode("auto"), shape=model.input_shape) for image in images]
        pixels = np.stack([one.pixels for one in screened])
        y_prob, scores = self._predictor.predict_with_novelty(pixels)
        novelty = (
            None
            if scores is None
            else np.array(combine_novelty(scores, [one.screening_score for one in screened]), float)
        )
        files = measure_files(
            [max(image.shape) for image in images],
            [one.dark_on_light for one in screened],
            [int(one.pixels.max()) if one.contrast is None else one.contrast for one in screened],
        )
        return {**measure_images(pixels, y_prob, novelty), **files}

    def print_line(
        self, name: str, values: Values, *, slices: int = SLICES, weights: npt.NDArray[np.float64] | None = None
    ) -> float:
        """Print the line of a set, and return the share of slices that drifted.

        Args:
            name: name of the set.
            values: features of its images.
            slices: number of slices to draw.
            weights: relative frequency of each image in a slice, (N,); equal if None.
        """
        count = len(values["classes"])
        probabilities = None if weights is None else weights / weights.sum()
        features, drifted = Counter[str](), 0
        for _ in range(slices):
            chosen = self._random.choice(count, SLICE, replace=count < SLICE, p=probabilities)
            counts = bin_counts({key: value[chosen] for key, value in values.items()}, self._bins)
            drift = find_drift(counts, self._reference)
            features.update(shift.feature for shift in (drift.drifted if drift else ()))
            drifted += bool(drift and drift.drifted)
        by = ", ".join(f"{feature} {number / slices:.0%}" for feature, number in features.most_common(4))
        print(f"{name:<30}{count:>7}{slices:>8}{drifted / slices:>9.1%}  {by}", flush=True)
        return drifted / slices


def _sets(folder: Path | None, mnist: Pixels) -> Iterator[tuple[str, Sequence[Pixels]]]:
    for directory in sorted(folder.iterdir()) if folder else ():
        if directory.is_dir():
            images = [pixels for _, pixels in read_set(directory)]
            yield directory.name, images
            yield f"{directory.name}, saved", [screen(image).pixels for image in images]
    chosen = np.random.default_rng(SEED).choice(len(mnist), ALTERED, replace=False)
    for name, alter in _ALTERATIONS.items():
        yield f"mnist, {name}", [alter(image) for image in mnist[chosen]]


def _blur(radius: float) -> Callable[[Pixels], Pixels]:
    return lambda image: np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def _reduce_contrast(share: float) -> Callable[[Pixels], Pixels]:
    return lambda image: (image * share).astype(np.uint8)


_ALTERATIONS: dict[str, Callable[[Pixels], Pixels]] = {
    "blurred, sigma 0.3": _blur(0.3),
    "blurred, sigma 0.5": _blur(0.5),
    "blurred, sigma 0.7": _blur(0.7),
    "blurred, sigma 1": _blur(1),
    "blurred, sigma 1.5": _blur(1.5),
    "dark on light": lambda image: 255 - image,
    "contrast 0.9": _reduce_contrast(0.9),
    "contrast 0.7": _reduce_contrast(0.7),
    "contrast 0.5": _reduce_contrast(0.5),
}


def _mix(**weights: float) -> list[float]:
    return [weights.get(f"c{number}", 1) for number in range(10)]


_MIXES: dict[str, list[float]] = {
    "mnist, one class 1.5 times": _mix(c7=1.5),
    "mnist, one class twice": _mix(c7=2),
    "mnist, one class 2.5 times": _mix(c7=2.5),
    "mnist, one class three times": _mix(c7=3),
    "mnist, one class missing": _mix(c7=0),
    "mnist, two classes missing": _mix(c3=0, c7=0),
    "mnist, five classes": _mix(c5=0, c6=0, c7=0, c8=0, c9=0),
}
"""Relative frequency of each class."""

if __name__ == "__main__":
    main()
