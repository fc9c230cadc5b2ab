"""False alarms of drift on MNIST's test images, and which shifts are caught, in slices of 300 images.

python -m benchmarks drift --data FOLDER    # labelled folders: <set>/<digit>/*

A slice is counted as a run counts its images: look, network, numbers, bins. Slices are drawn without replacement, from
a set with fewer images than a slice with replacement. A set under its name is of the files as they are; `saved` is of
their normalised pictures as PNG files of 28x28 pixels, light on black, so that size and polarity give nothing away.
MNIST's, and what is made from them, are of the test images that the reference was counted from.
"""

import argparse
import os
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
from digits.model.drift import Values, bin_counts, find_drift, measure_files, measure_images
from digits.model.onnx_model import Predictor
from digits.settings import artifact_root
from digits.status import combine_novelty

SLICE, FALSE_ALARMS, SLICES = 300, 1_000, 200
MOST_FALSE = 0.01
SEED = 13
MADE = 2_000
"""Of MNIST's test images, those that a changed set is made from."""


def main() -> None:
    """Print a line for each set; the exit code is 1 where there are too many false alarms."""
    parser = argparse.ArgumentParser(description="False alarms of drift, and the shifts that are caught.")
    parser.add_argument("--data", type=Path, help="a folder of sets: <set>/<digit>/*")
    parser.add_argument("--model", type=Path, help="a folder with model.onnx and spec.json; by default the champion's")
    options = parser.parse_args()
    root = artifact_root(Path(os.environ.get("DIGITS_ARTIFACTS", "artifacts")))
    bench = Bench(Predictor(read_model(options.model, root)))
    mnist = load("mnist", downloads=root / "downloads")
    print(f"{'set':<30}{'images':>7}{'slices':>8}{'told of':>9}  by")
    false = bench.line("mnist", bench.values(mnist.test_pixels), slices=FALSE_ALARMS)
    for name, pictures in _sets(options.data, mnist.test_pixels):
        bench.line(name, bench.values(pictures))
    for name, weights in _MIXES.items():
        bench.line(name, bench.values(mnist.test_pixels), weights=np.take(weights, mnist.test_labels))
    sys.exit(false > MOST_FALSE)


class Bench:
    """A model, and slices of the numbers of sets."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._reference = predictor.model.reference
        self._random = np.random.default_rng(SEED)
        if not self._reference:
            sys.exit(f"{predictor.model.directory}: the model has no reference to compare with; train it again")

    def values(self, pictures: Sequence[Pixels] | Pixels) -> Values:
        """Look at pictures as a worker does."""
        model = self._predictor.model
        looks = [screen(picture, model.resolve_mode("auto"), shape=model.input_shape) for picture in pictures]
        pixels = np.stack([seen.pixels for seen in looks])
        probabilities, answered = self._predictor.predict_with_novelty(pixels)
        novelty = (
            None
            if answered is None
            else np.array(combine_novelty(answered, [seen.screening_score for seen in looks]), float)
        )
        files = measure_files(
            [max(picture.shape) for picture in pictures],
            [seen.dark_on_light for seen in looks],
            [int(seen.pixels.max()) if seen.contrast is None else seen.contrast for seen in looks],
        )
        return {**measure_images(pixels, probabilities, novelty), **files}

    def line(
        self, name: str, values: Values, *, slices: int = SLICES, weights: npt.NDArray[np.float64] | None = None
    ) -> float:
        """Print a set's line, and give the share of slices that were told of."""
        images = len(values["classes"])
        chances = None if weights is None else weights / weights.sum()
        telling, told = Counter[str](), 0
        for _ in range(slices):
            chosen = self._random.choice(images, SLICE, replace=images < SLICE, p=chances)
            counts = bin_counts({key: value[chosen] for key, value in values.items()}, self._reference)
            drift = find_drift(counts, self._reference)
            telling.update(shift.feature for shift in (drift.drifted if drift else ()))
            told += bool(drift and drift.drifted)
        by = ", ".join(f"{feature} {number / slices:.0%}" for feature, number in telling.most_common(4))
        print(f"{name:<30}{images:>7}{slices:>8}{told / slices:>9.1%}  {by}", flush=True)
        return told / slices


def _sets(folder: Path | None, mnist: Pixels) -> Iterator[tuple[str, Sequence[Pixels]]]:
    for place in sorted(folder.iterdir()) if folder else ():
        if place.is_dir():
            pictures = [pixels for _, pixels in read_set(place)]
            yield place.name, pictures
            yield f"{place.name}, saved", [screen(picture).pixels for picture in pictures]
    chosen = np.random.default_rng(SEED).choice(len(mnist), MADE, replace=False)
    for name, change in _CHANGES.items():
        yield f"mnist, {name}", [change(picture) for picture in mnist[chosen]]


def _blurred(radius: float) -> Callable[[Pixels], Pixels]:
    return lambda picture: np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def _paler(share: float) -> Callable[[Pixels], Pixels]:
    return lambda picture: (picture * share).astype(np.uint8)


_CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "blurred, sigma .3": _blurred(0.3),
    "blurred, sigma .5": _blurred(0.5),
    "blurred, sigma .7": _blurred(0.7),
    "blurred, sigma 1": _blurred(1),
    "blurred, sigma 1.5": _blurred(1.5),
    "dark on light": lambda picture: 255 - picture,
    "contrast .9": _paler(0.9),
    "contrast .7": _paler(0.7),
    "contrast .5": _paler(0.5),
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
"""For each class, how many times as often it is drawn."""

if __name__ == "__main__":
    main()
