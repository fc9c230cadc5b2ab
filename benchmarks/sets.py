"""Accuracy on images from other sources than MNIST, by set and by step of the normalization.

python -m benchmarks sets                  # MNIST's test images, and look-alikes that are made from them
python -m benchmarks sets --data FOLDER    # labelled sets too: <set>/<digit>/*

The columns are the image only scaled (`as is`); inverted and scaled (`inverted`); normalized as MNIST was, assuming
evenly lit paper (`recipe`); and normalized with all steps (`full`). Names of look-alikes begin with `~`. Needs a
champion in the artifact root, or `--model`.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import lookalikes
from digits.data.arrays import LabelledArrays
from digits.data.datasets import load
from digits.images import normalize
from digits.images.decode import decode
from digits.images.types import Pixels
from digits.model.onnx_model import OnnxModel, Predictor
from digits.settings import artifact_root

Labelled = list[tuple[int, Pixels]]
"""Labels with their images, (H, W) uint8 of any size."""

COUNT = 500
"""Number of look-alikes of each kind."""


def main() -> None:
    """Print one line per set."""
    parser = argparse.ArgumentParser(description="Measure the accuracy on images from other sources than MNIST.")
    parser.add_argument("--data", type=Path, help="folder of labelled sets: <set>/<digit>/*")
    parser.add_argument("--model", type=Path, help="folder with model.onnx and spec.json (default: the champion's)")
    options = parser.parse_args()
    root = artifact_root()
    predictor = Predictor(read_model(options.model, root))
    print(f"{'set':<16}{'images':>7}" + "".join(f"{name:>10}" for name in STEPS))
    for name, samples in _sets(options.data, load("mnist", downloads=root / "downloads")):
        if samples:
            accuracies = "".join(f"{_accuracy(predictor, samples, step):10.1%}" for step in STEPS.values())
            print(f"{name:<16}{len(samples):>7}{accuracies}", flush=True)


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


def read_set(folder: Path) -> Labelled:
    """Read the images in `<digit>/` below a folder, with their labels."""
    return read_files(sorted(folder.glob("[0-9]/*")))


def read_files(files: Sequence[Path]) -> Labelled:
    """Read image files whose folder is named after their label; folders among them are left out."""
    return [(int(file.parent.name), decode(file.read_bytes()).pixels) for file in files if file.is_file()]


def _accuracy(predictor: Predictor, samples: Labelled, step: Callable[[Pixels], Pixels]) -> float:
    y_true = np.array([label for label, _ in samples])
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

if __name__ == "__main__":
    main()
