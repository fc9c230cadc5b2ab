"""Accuracy on pictures as people have them, by set and by step of the normalisation.

python -m benchmarks sets --data FOLDER    # labelled folders: <set>/<digit>/*

Without `--data`, only the look-alikes, which are made from MNIST's test images and from fonts. The columns: the picture
only scaled (`as is`) and that inverted, the MNIST recipe on paper of one level (`recipe`), and all steps (`full`).
"""

import argparse
import os
from collections.abc import Callable, Iterator
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
COUNT = 500


def main() -> None:
    """Print a line for each set."""
    parser = argparse.ArgumentParser(description="Accuracy on pictures as people have them.")
    parser.add_argument("--data", type=Path, help="a folder of sets: <set>/<digit>/*")
    parser.add_argument("--model", type=Path, help="a folder with model.onnx and spec.json; by default the champion's")
    options = parser.parse_args()
    root = artifact_root(Path(os.environ.get("DIGITS_ARTIFACTS", "artifacts")))
    predictor = Predictor(read_model(options.model, root))
    print(f"{'set':<16}{'images':>7}" + "".join(f"{name:>10}" for name in STEPS))
    for name, pictures in _sets(options.data, load("mnist", downloads=root / "downloads")):
        if pictures:
            shares = "".join(f"{_accuracy(predictor, pictures, step):10.1%}" for step in STEPS.values())
            print(f"{name:<16}{len(pictures):>7}{shares}", flush=True)


def read_model(folder: Path | None, root: Path) -> OnnxModel:
    """Give the model in a folder, or the champion of an artifact root."""
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
        yield (
            f"~{kind}",
            list(
                zip(
                    mnist.test_labels[chosen].tolist(),
                    lookalikes.make(kind, mnist.test_pixels[chosen]),
                    strict=True,
                )
            ),
        )
    yield "~printed", list(lookalikes.printed(COUNT))


def read_set(folder: Path) -> Labelled:
    """Read the pictures below `<digit>/` with their labels."""
    files = sorted(file for file in folder.glob("[0-9]/*") if file.is_file())
    return [(int(file.parent.name), decode(file.read_bytes()).pixels) for file in files]


def _accuracy(predictor: Predictor, pictures: Labelled, step: Callable[[Pixels], Pixels]) -> float:
    labels = np.array([label for label, _ in pictures])
    probabilities = predictor.predict(np.stack([step(pixels) for _, pixels in pictures]))
    return float((probabilities.argmax(axis=1) == labels).mean())


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
