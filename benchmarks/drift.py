"""False alarms of drift, and the shifts that are detected, compared with a baseline and with the test images.

python -m benchmarks drift                  # MNIST's images, and alterations of them
python -m benchmarks drift --data FOLDER    # labelled sets too: <set>/<digit>/*

The first table has random slices of 300 images. A slice is treated as the images of a run: screening, network,
features, counts. It is compared with MNIST's test images (`tests`, in all features), and with a baseline of 2,000 of
them (`drift`). Slices are drawn without replacement, or with replacement from a set that is smaller than a slice. A set
appears under its name with its files as they are. As `saved` it appears with its normalized images, 28x28 pixels light
on black, so that size and polarity reveal nothing.

The second table has the runs into one table whose images arrive in the order of their file names, in batches.
`tests` are runs that differ from MNIST's test images, and `drift` are alarms: runs that differ from the first 2,000
images. `accepted` are alarms in the second half if the first half is accepted as the baseline.

Needs a champion in the artifact root that was trained on MNIST, or `--model`, and MNIST.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from benchmarks.sets import read_files, read_model, read_set
from digits.data.datasets import load
from digits.images.screening import screen
from digits.images.types import Pixels
from digits.model.baseline import BASELINE_IMAGES, Baseline, Run, accept, join_parts
from digits.model.drift import (
    MIN_IMAGES,
    Values,
    add_counts,
    bin_counts,
    bins_of,
    find_drift,
    measure_files,
    measure_images,
)
from digits.model.onnx_model import Predictor
from digits.prediction.baselines import DriftRecord
from digits.settings import artifact_root
from digits.status import combine_novelty

SLICE = 300
"""Images per slice."""
BASELINES = 20
"""Number of baselines that slices are compared with, in turn."""
BATCHES = (50, 100, 300)
"""Images per run of a source in order."""
READ_TOGETHER = 64
"""Images that a worker counts together."""

MNIST_SLICES, SLICES = 1_000, 100
MAX_FALSE_ALARMS = 0.01
SEED = 13
ALTERED = 2_000
"""Number of MNIST's test images in each altered set."""
WRITERS_IMAGES = 20_000
"""Number of MNIST's training images, of which one writer after the other wrote many."""


def main() -> None:
    """Print one line per set; exit with code 1 if there are too many false alarms."""
    parser = argparse.ArgumentParser(description="Measure false alarms of drift, and which shifts are detected.")
    parser.add_argument("--data", type=Path, help="folder of labelled sets: <set>/<digit>/*")
    parser.add_argument("--model", type=Path, help="folder with model.onnx and spec.json (default: the champion's)")
    options = parser.parse_args()
    root = artifact_root()
    mnist = load("mnist", downloads=root / "downloads")
    detector = Detector(Predictor(read_model(options.model, root)))
    tested = detector.measure(mnist.test_pixels)
    detector.collect(tested)
    print(f"{'set':<30}{'images':>7}{'slices':>8}{'tests':>9}{'drift':>9}  by")
    false_alarms = detector.print_line("mnist", tested, slices=MNIST_SLICES)
    for name, images in _sets(options.data, mnist.test_pixels):
        detector.print_line(name, detector.measure(images))
    for name, weights in _MIXES.items():
        detector.print_line(name, tested, weights=np.take(weights, mnist.test_labels))
    print(f"\n{'images in order':<30}{'batch':>7}{'runs':>8}{'tests':>9}{'drift':>9}{'accepted':>12}")
    alarms = [detector.print_runs(name, detector.measure(images)) for name, images in _sources(options.data)]
    detector.print_runs("mnist's training images *", detector.measure(255 - mnist.train_pixels[:WRITERS_IMAGES]))
    runs, found = (sum(column) for column in zip(*alarms, strict=True))
    print(f"{found} alarms in {runs:,} runs, without those marked with *")
    sys.exit(false_alarms > MAX_FALSE_ALARMS or found > MAX_FALSE_ALARMS * runs)


class Detector:
    """Drift detection with one model.

    Args:
        predictor: model with a reference to compare with.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._reference = predictor.model.reference
        self._bins = bins_of(self._reference)
        self._random = np.random.default_rng(SEED)
        self._baselines: list[Baseline] = []
        if not self._reference:
            sys.exit(f"{predictor.model.directory}: the model has no reference counts to compare with; train it again")

    def collect(self, values: Values) -> None:
        """Make baselines of images that are drawn at random."""
        orders = (self._random.permutation(len(values["classes"])) for _ in range(BASELINES))
        self._baselines = [Baseline().extend(self._run(values, order[:BASELINE_IMAGES])) for order in orders]

    def measure(self, images: Sequence[Pixels] | Pixels) -> Values:
        """Return the features of images as a worker measures them.

        Args:
            images: images, (H, W) uint8 of any size.
        """
        groups = [self._measure(images[first : first + ALTERED]) for first in range(0, len(images), ALTERED)]
        return {name: np.concatenate([group[name] for group in groups]) for name in groups[0]}

    def _measure(self, images: Sequence[Pixels] | Pixels) -> Values:
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

    def _run(self, values: Values, chosen: npt.NDArray[np.int64]) -> Run:
        groups = [chosen[first : first + READ_TOGETHER] for first in range(0, len(chosen), READ_TOGETHER)]
        parts = [bin_counts({name: found[some] for name, found in values.items()}, self._bins) for some in groups]
        return Run(self._predictor.model.digest, self._bins, join_parts(parts))

    def _differs_from_tests(self, run: Run) -> bool:
        drift = find_drift(add_counts(run.parts), self._reference)
        return bool(drift and any(shift.drifted for shift in drift.shifts))

    def print_line(
        self, name: str, values: Values, *, slices: int = SLICES, weights: npt.NDArray[np.float64] | None = None
    ) -> float:
        """Print the line of a set, and return the share of slices that drifted from a baseline.

        Args:
            name: name of the set.
            values: features of its images.
            slices: number of slices to draw.
            weights: relative frequency of each image in a slice, (N,); equal if None.
        """
        count = len(values["classes"])
        probabilities = None if weights is None else weights / weights.sum()
        features, differing, drifted = Counter[str](), 0, 0
        for number in range(slices):
            run = self._run(values, self._random.choice(count, SLICE, replace=count < SLICE, p=probabilities))
            drift = self._baselines[number % BASELINES].compare(run)
            features.update(shift.feature for shift in (drift.drifted if drift else ()))
            differing += self._differs_from_tests(run)
            drifted += bool(drift and drift.is_alarm)
        by = ", ".join(f"{feature} {number / slices:.0%}" for feature, number in features.most_common(4))
        shares = f"{differing / slices:>9.1%}{drifted / slices:>9.1%}"
        print(f"{name:<30}{count:>7}{slices:>8}{shares}  {by}", flush=True)
        return drifted / slices

    def print_runs(self, name: str, values: Values) -> tuple[int, int]:
        """Print the lines of a source whose images arrive in order, and return the numbers of runs and of alarms."""
        found = [self._alarms(values, batch) for batch in BATCHES]
        for batch, one in zip(BATCHES, found, strict=True):
            accepted = f"{one.accepted} of {one.second_half}"
            print(f"{name:<30}{batch:>7}{one.runs:>8}{one.tests:>9}{one.drift:>9}{accepted:>12}", flush=True)
        return sum(one.runs for one in found), sum(one.drift for one in found)

    def _alarms(self, values: Values, batch: int) -> "_Alarms":
        count = len(values["classes"])
        order, half = np.arange(count), count // 2
        runs = [self._run(values, order[first : first + batch]) for first in range(0, count - MIN_IMAGES, batch)]
        record, alarms = DriftRecord(), 0
        for number, run in enumerate(runs):
            record, drift = record.add(run, str(number), self._reference)
            alarms += bool(drift and drift.is_alarm)
        later = [self._run(values, order[first : first + batch]) for first in range(half, count - MIN_IMAGES, batch)]
        record, accepted = DriftRecord(accept(self._run(values, order[:half]))), 0
        for number, run in enumerate(later):
            record, drift = record.add(run, str(number), self._reference)
            accepted += bool(drift and drift.is_alarm)
        return _Alarms(len(runs), sum(map(self._differs_from_tests, runs)), alarms, accepted, len(later))


class _Alarms(NamedTuple):
    """Numbers of runs and of alarms.

    Args:
        runs: number of runs.
        tests: number of runs that differ from the test images.
        drift: number of runs that differ from the first images.
        accepted: number of runs of the second half that differ from the first half, which was accepted.
        second_half: number of runs of the second half.
    """

    runs: int
    tests: int
    drift: int
    accepted: int
    second_half: int


def _sources(folder: Path | None) -> Iterator[tuple[str, Sequence[Pixels]]]:
    """Yield the images of sources in the order in which they arrive: by file name, whatever their digit is."""
    sample = load("mnist-sample", downloads=Path())
    yield "sample, inverted", [255 - pixels for pixels in (*sample.test_pixels, *sample.train_pixels)]
    for directory in sorted(folder.iterdir()) if folder else ():
        if directory.is_dir():
            files = sorted(directory.glob("[0-9]/*"), key=lambda file: file.name)
            yield directory.name, [pixels for _, pixels in read_files(files)]


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
