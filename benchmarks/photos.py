"""Throughput on photos: JPEG files of 640x480 pixels, compared with decoders that scale while they decode.

python -m benchmarks photos [--images 2000] [--rounds 3]

The photos are synthetic: real digits in dark ink on paper of some tone, with a gradient of light, a shadow and noise,
the same ones in each run. `digits predict` also hashes, predicts and writes; a decoder alone only reads and decodes to
grey, in as many processes. The labels are compared with those of the same network for images that Pillow decodes in
full. The exit code is 1 if more than 1 in 1,000 differ. Needs a champion in the artifact root. At the end, a table
shows the CPU time that each step of a prediction takes (`benchmarks/ceiling.py`).
"""

import argparse
import csv
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.prediction import measure_steps
from digits.images.normalize import normalize
from digits.images.types import Pixels
from digits.model.onnx_model import Predictor
from digits.prediction.pool import usable_cpus
from digits.settings import artifact_root
from tests.support.command import DIGITS
from tests.support.networks import champion_files
from tests.support.pictures import sample_digits
from tests.support.server import untracked

WIDTH, HEIGHT = 640, 480
QUALITY = 88
MAX_CHANGED = 1 / 1000
PREDICT = "digits predict"
_CHUNK = 32
Decode = Callable[[str], Any]


def draw_photo(digit: Pixels, number: int) -> Pixels:
    """Draw a photo of a digit on paper: (28, 28) uint8, light on black -> (480, 640, 3) uint8.

    Args:
        digit: digit in MNIST's form.
        number: random seed of the photo.
    """
    random = np.random.default_rng(number)
    side = int(random.integers(180, 400))
    ink = np.zeros((HEIGHT, WIDTH), np.float32)
    top, left = (int(random.integers(10, room - side - 10)) for room in (HEIGHT, WIDTH))
    large = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    ink[top : top + side, left : left + side] = np.asarray(large, np.float32) / 255
    ink *= random.uniform(0.75, 0.95)
    tone = random.uniform((205, 200, 175), (250, 248, 240))
    photo = (tone * _light(random)[..., np.newaxis]) * (1 - ink[..., np.newaxis])
    photo += ink[..., np.newaxis] * random.uniform((10, 10, 20), (50, 50, 90))
    noise = random.normal(0, random.uniform(1, 5), (HEIGHT, WIDTH, 1))
    return np.clip(photo + noise, 0, 255).astype(np.uint8)


def _light(random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return the brightness of the paper at each pixel: a gradient and one soft shadow."""
    down, right = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j]
    gradient = 1 - random.uniform(0, 0.15) * (random.uniform() * down + random.uniform() * right)
    edge = down * random.uniform(-1, 1) + right * random.uniform(-1, 1) - random.uniform(0.2, 0.8)
    shadow: npt.NDArray[np.float64] = random.uniform(0, 0.15) / (1 + np.exp(-edge * random.uniform(8, 30)))
    return np.asarray(gradient - shadow)


def write_photo(task: tuple[str, Pixels, int]) -> None:
    """Write one photo: its path, the digit and the random seed."""
    path, digit, number = task
    Image.fromarray(draw_photo(digit, number)).save(path, quality=QUALITY)


def pillow_full(path: str) -> Pixels:
    """Decode all pixels, then convert them to grey."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def pillow_draft(factor: int) -> Decode:
    """Return a decoder with which libjpeg scales down by a factor and decodes only the luminance."""

    def decode(path: str) -> Pixels:
        with Image.open(path) as image:
            image.draft("L", (WIDTH // factor, HEIGHT // factor))
            return np.asarray(image.convert("L"))

    return decode


def opencv(flag: str) -> Decode:
    """Return OpenCV's decoder with one of its flags."""
    cv2 = importlib.import_module("cv2")
    cv2.setNumThreads(1)
    number = getattr(cv2, flag)
    return lambda path: cv2.imdecode(np.fromfile(path, np.uint8), number)


def decoders() -> dict[str, tuple[Callable[..., Decode], Any]]:
    """Return the available decoders by name, each as its factory and the argument of the factory."""
    found: dict[str, tuple[Callable[..., Decode], Any]] = {"Pillow, in full": (lambda _: pillow_full, None)}
    found |= {f"Pillow, draft 1/{factor}": (pillow_draft, factor) for factor in (2, 4, 8)}
    if importlib.util.find_spec("cv2"):
        flags = {"in full": "IMREAD_GRAYSCALE", **{f"1/{n}": f"IMREAD_REDUCED_GRAYSCALE_{n}" for n in (2, 4, 8)}}
        found |= {f"OpenCV, {name}": (opencv, flag) for name, flag in flags.items()}
    return found


def is_scaled(name: str) -> bool:
    """Return whether a decoder scales down."""
    return "1/" in name


def _decode_all(task: tuple[str, list[str]]) -> int:
    name, paths = task
    factory, argument = decoders()[name]
    decode = factory(argument)
    return sum(decode(path).shape[0] > 0 for path in paths)


def decoder_rate(name: str, paths: Sequence[str], pool: Pool, processes: int) -> float:
    """Return the images per second of a decoder alone, in processes that are already running."""
    shares = [(name, list(paths[start::processes])) for start in range(processes)]
    started = time.perf_counter()
    decoded = sum(pool.map(_decode_all, shares, chunksize=1))
    assert decoded == len(paths)
    return decoded / (time.perf_counter() - started)


def predict_rate(folder: Path, table: Path, root: Path) -> float:
    """Return the images per second that `digits predict` reports."""
    command = [DIGITS, "predict", str(folder), "--out", str(table), "--artifacts", str(root), "--json"]
    result = subprocess.run(command, env=untracked(table.parent), capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"`digits predict` failed: {result.stderr[-2000:]}")
    rate: float = json.loads(result.stdout)["images_per_second"]
    return rate


def full_size_labels(paths: Sequence[str], root: Path) -> list[str]:
    """Return the predicted labels of images that Pillow decodes in full."""
    model = champion_files(root)
    pixels = np.stack([normalize(pillow_full(path), shape=model.input_shape) for path in paths])
    return [model.class_names[index] for index in Predictor(model).predict(pixels).argmax(axis=1)]


def read_labels(table: Path) -> list[str]:
    """Return the predicted labels in a table."""
    with table.open(newline="", encoding="utf-8") as file:
        return [row["prediction"] for row in csv.DictReader(file)]


def main(arguments: list[str] | None = None) -> int:
    """Print the rates, their ratio and the share of labels that differ; return 1 if too many differ."""
    options = _options(arguments)
    root, processes = artifact_root(options.artifacts), usable_cpus()
    with tempfile.TemporaryDirectory() as name, get_context("spawn").Pool(processes) as pool:
        folder, table = Path(name) / "photos", Path(name) / "table.csv"
        paths = _write(folder, options.images, pool)
        rounds = [dict(_measure(folder, table, root, paths, pool)) for _ in range(options.rounds)]
        labels, expected = read_labels(table), full_size_labels(paths, root)
        steps = measure_steps(folder, root, "--detail")
    _report(rounds, processes)
    for name, time_taken in steps.items():
        print(f"  {name:<28} {time_taken:8.1f} microseconds per image")
    print(f"  {'all':<28} {sum(steps.values()):8.1f} microseconds per image")
    changed = sum(label != full for label, full in zip(labels, expected, strict=True)) / len(labels)
    print(f"{changed:.2%} of the labels differ from those of full-size decoding (at most {MAX_CHANGED:.1%})")
    return int(changed > MAX_CHANGED)


def _write(folder: Path, count: int, pool: Pool) -> list[str]:
    folder.mkdir()
    digits = sample_digits()
    paths = [os.fspath(folder / f"{number:05}.jpg") for number in range(count)]
    tasks = [(path, digits[number % len(digits)], number) for number, path in enumerate(paths)]
    pool.map(write_photo, tasks, chunksize=_CHUNK)
    return paths


def _measure(folder: Path, table: Path, root: Path, paths: Sequence[str], pool: Pool) -> Iterator[tuple[str, float]]:
    """Yield the name and the rate of `digits predict` and of every decoder, measured in turn."""
    yield PREDICT, predict_rate(folder, table, root)
    for name in decoders():
        yield name, decoder_rate(name, paths, pool, usable_cpus())


def _report(rounds: Sequence[Mapping[str, float]], processes: int) -> None:
    for name in rounds[0]:
        print(f"{name:<20} {median(rates[name] for rates in rounds):8,.0f} images per second, {processes} processes")
    best = max(
        (name for name in rounds[0] if is_scaled(name)), key=lambda name: median(rates[name] for rates in rounds)
    )
    share = median(rates[PREDICT] / rates[best] for rates in rounds)
    print(f"{PREDICT} reaches {share:.0%} of the rate of the fastest scaled decoder alone ({best})")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare the prediction of photos with decoders that scale.")
    parser.add_argument("--images", type=int, default=2000, help="number of photos (default: 2000)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: 3)")
    parser.add_argument("--artifacts", type=Path, help="artifact root with a champion")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
