"""Stopwatch: a process that times steps of one checkout of Digits, on request.

python -P benchmarks/stopwatch.py FOLDER, with the checkout in PYTHONPATH

FOLDER has one `.npz` file per kind: images, (H, W) uint8, or image files as (N,) uint8. Each line of the standard input
is a step, `normalize`, `screen` or `decode`, and the name of a kind. The answer is a line: the mean CPU time per image
in microseconds. The process imports nothing else of the checkout, so an older one can be compared with a newer one.
"""

import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

LEAST_SECONDS = 0.05
"""Least CPU time of a measurement; the images are repeated until then."""


def main(folder: Path) -> None:
    """Answer requests until the end of the standard input."""
    for request in sys.stdin:
        step, kind = request.rstrip("\n").split(" ", 1)
        print(_mean_time(_step(step), _images(folder, kind, is_file=step == "decode")), flush=True)


@cache
def _step(name: str) -> Callable[[Any], Any]:
    from digits.images.decode import MIN_SIDE, decode
    from digits.images.normalize import normalize
    from digits.images.screening import screen

    steps: dict[str, Callable[[Any], Any]] = {
        "normalize": normalize,
        "screen": screen,
        "decode": lambda content: decode(content, min_side=MIN_SIDE),
    }
    return steps[name]


@cache
def _images(folder: Path, kind: str, *, is_file: bool) -> list[Any]:
    with np.load(folder / f"{kind}.npz", allow_pickle=False) as arrays:
        images = [arrays[name] for name in arrays.files]
    return [image.tobytes() for image in images] if is_file else images


def _mean_time(step: Callable[[Any], Any], images: Sequence[Any]) -> float:
    started, done = time.process_time(), 0
    while not done or time.process_time() - started < LEAST_SECONDS:
        for image in images:
            step(image)
        done += len(images)
    return (time.process_time() - started) / done * 1e6


if __name__ == "__main__":
    main(Path(sys.argv[1]))
