"""Minimum cost of a prediction: each step measured separately, in one process, without any overhead.

python -m benchmarks.ceiling FOLDER ARTIFACTS     # prints the microseconds per image of each step as JSON

`python -m benchmarks prediction` runs this module. The steps process the same files: open, read and SHA-256; decode;
normalize; network, with the batch size and the threads of a prediction; CSV row. No prediction can be faster than the
number of processes divided by the sum of the steps.
"""

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from digits.images.decode import decode
from digits.images.normalize import normalize
from digits.model.onnx_model import OnnxModel, Predictor
from digits.outputs.table import columns_of, format_of
from tests.support.networks import champion_files

IMAGES = 4096
SLICE = 256
"""Number of images that a step receives at a time."""

_OPEN = os.O_RDONLY | os.O_CLOEXEC


def measure_steps(paths: Sequence[Path], model: OnnxModel) -> dict[str, float]:
    """Return the microseconds per image of each step."""
    predictor, table = Predictor(model), format_of(Path("table.csv"))
    columns = columns_of(classes=len(model.class_names), probabilities=False, top_k=1)
    names = [os.fspath(path) for path in paths]
    timer = _StepTimer(len(paths))
    read = timer("read and hash", _read, names)
    images = timer("decode", lambda part: [decode(content) for content, _ in part], read)
    pixels = timer("normalize", lambda part: [normalize(image.pixels) for image in part], images)
    predictor.predict(np.stack(pixels[:SLICE]))
    y_prob = timer("network", lambda part: list(predictor.predict(np.stack(part))), pixels)
    hashed = [(path.name, digest) for path, (_, digest) in zip(paths, read, strict=True)]
    timer("row", lambda part: [table.encode(_rows(part), columns)], list(zip(hashed, y_prob, strict=True)))
    return timer.microseconds


class _StepTimer:
    """Timer that runs a step slice by slice and records its microseconds per image."""

    def __init__(self, images: int) -> None:
        self.microseconds: dict[str, float] = {}
        self._images = images

    def __call__(self, name: str, step: Callable[[Any], list[Any]], values: list[Any]) -> list[Any]:
        results = []
        started = time.perf_counter()
        for first in range(0, len(values), SLICE):
            results += step(values[first : first + SLICE])
        self.microseconds[name] = (time.perf_counter() - started) / self._images * 1e6
        return results


def _read(names: Sequence[str]) -> list[tuple[bytes, str]]:
    results = []
    for name in names:
        descriptor = os.open(name, _OPEN)
        content = os.read(descriptor, 1 << 20)
        os.close(descriptor)
        results.append((content, hashlib.sha256(content).hexdigest()))
    return results


def _rows(part: Sequence[tuple[tuple[str, str], Any]]) -> list[tuple[Any, ...]]:
    y_prob = np.stack([values for _, values in part])
    classes, confidences = y_prob.argmax(axis=1).tolist(), y_prob.max(axis=1).tolist()
    return [
        (name, str(index), confidence, "ok", None, 28, 28, digest, None, 1)
        for ((name, digest), _), index, confidence in zip(part, classes, confidences, strict=True)
    ]


def main() -> None:
    """Print the microseconds per image of each step as JSON."""
    parser = argparse.ArgumentParser(description="Measure the minimum cost of each step of a prediction.")
    parser.add_argument("folder", type=Path, help=f"folder of images, of which {IMAGES} are used")
    parser.add_argument("artifacts", type=Path, help="artifact root with a champion")
    options = parser.parse_args()
    paths = sorted(options.folder.iterdir())[:IMAGES]
    print(json.dumps(measure_steps(paths, champion_files(options.artifacts))))


if __name__ == "__main__":
    main()
