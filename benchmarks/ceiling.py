"""What one process needs for each image at the least: the steps of prediction by themselves, nothing around them.

python -m benchmarks.ceiling FOLDER ARTIFACTS     # prints the microseconds of each step as JSON

Each step goes over the same real files: open, read and SHA-256; decode; bring into the network's form; the network, at
the batch and the threads that the engine uses; a CSV row. No engine can be faster than processes / sum of the steps.
"""

import hashlib
import json
import os
import sys
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
"""Images that a step is handed at a time."""

_OPEN = os.O_RDONLY | os.O_CLOEXEC


def steps_of(paths: Sequence[Path], model: OnnxModel) -> dict[str, float]:
    """Measure each step; give its microseconds for an image."""
    predictor, table = Predictor(model), format_of(Path("table.csv"))
    columns = columns_of(classes=len(model.class_names), probabilities=False, top_k=1)
    names = [os.fspath(path) for path in paths]
    watch = _Watch(len(paths))
    read = watch("read and hash", _read, names)
    pictures = watch("decode", lambda part: [decode(content) for content, _ in part], read)
    pixels = watch("normalise", lambda part: [normalize(picture.pixels) for picture in part], pictures)
    predictor.predict(np.stack(pixels[:SLICE]))
    chances = watch("network", lambda part: list(predictor.predict(np.stack(part))), pixels)
    known = [(path.name, digest) for path, (_, digest) in zip(paths, read, strict=True)]
    watch("row", lambda part: [table.encode(_rows(part), columns)], list(zip(known, chances, strict=True)))
    return watch.microseconds


class _Watch:
    """Does a step slice by slice, and keeps what it took."""

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
    chances = np.stack([values for _, values in part])
    best, greatest = chances.argmax(axis=1).tolist(), chances.max(axis=1).tolist()
    return [
        (name, str(index), chance, "ok", None, 28, 28, digest, None, 1)
        for ((name, digest), _), index, chance in zip(part, best, greatest, strict=True)
    ]


def main(folder: str, artifacts: str) -> None:
    """Print the steps as JSON."""
    paths = sorted(Path(folder).iterdir())[:IMAGES]
    print(json.dumps(steps_of(paths, champion_files(Path(artifacts)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
