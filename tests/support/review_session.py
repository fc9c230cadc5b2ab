"""A table with wrong rows to review, and a `digits review` process that serves its page."""

import hashlib
import io
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from digits.data import datasets
from digits.outputs.summary import summary_path
from digits.outputs.table import FIXED_COLUMNS, Csv, Row
from digits.store.records import write_record
from tests.support.command import DIGITS

IMAGES = 4_000
SIDE, INK = 120, 40
TIMEOUT = 120
WRONG, UNCERTAIN, NO_DIGITS = 0.02, 0.06, 0.03


class Scans(NamedTuple):
    """A table to review, its artifact root, and the true labels of its images by SHA-256."""

    table: Path
    root: Path
    truth: Mapping[str, str]


def make_scans(place: Path, count: int = IMAGES) -> Scans:
    """Write images of real digits, dark on paper, and a table in which some rows are wrong."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as downloads:
        data = datasets.load("mnist-sample", downloads=Path(downloads))
    folder = place / "scans"
    folder.mkdir(parents=True)
    rows: list[Row] = []
    truth = {}
    for number, (pixels, label) in enumerate(zip(data.train_pixels[:count], data.train_labels.tolist(), strict=False)):
        content = _png(_scan(pixels, random))
        name, sha256 = f"form-{number // 10:03}-field-{number % 10}.png", hashlib.sha256(content).hexdigest()
        (folder / name).write_bytes(content)
        truth[sha256] = str(label)
        rows.append(_row(name, sha256, label, random))
    table = place / "scans.csv"
    with table.open("wb") as file:
        Csv().join([Csv().encode(rows, FIXED_COLUMNS)], FIXED_COLUMNS, file)
    write_record(summary_path(table), {"source": str(folder)})
    return Scans(table, place / "artifacts", truth)


def _scan(pixels: npt.NDArray[np.uint8], random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw a digit in ink on paper: (28, 28) uint8, light on dark -> (SIDE, SIDE) uint8, dark on light."""
    size = int(random.integers(80, SIDE - 4))
    ink = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    page = np.zeros((SIDE, SIDE), np.float64)
    top, left = random.integers(0, SIDE - size, 2)
    page[top : top + size, left : left + size] = np.asarray(ink) / 255
    light = 228 + 14 * np.linspace(0, 1, SIDE) * random.normal() + random.normal(0, 2.5, (SIDE, SIDE))
    return (light * (1 - page) + INK * page).clip(0, 255).astype(np.uint8)


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _row(name: str, sha256: str, label: int, random: np.random.Generator) -> Row:
    chance, wrong = random.random(), random.random() < WRONG
    status = "uncertain" if chance < UNCERTAIN else "not-a-digit" if chance < UNCERTAIN + NO_DIGITS else "ok"
    confidence = random.uniform(0.3, 0.95) if status == "uncertain" else random.uniform(0.97, 0.9999)
    novelty = random.uniform(0, 9) if status == "not-a-digit" else random.uniform(-12, -2)
    prediction = str((label + 5 * wrong) % 10)
    return name, prediction, confidence, status, None, SIDE, SIDE, sha256, novelty, 1


@contextmanager
def serve_review(scans: Scans, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `digits review`; yield the process and the page's address. Ctrl-C ends it."""
    command = [DIGITS, "review", str(scans.table), "--artifacts", str(scans.root), "--no-browser", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            lines = iter(process.stderr)
            yield process, next(line.split()[-1] for line in lines if "http://" in line)
        finally:
            for number in (signal.SIGCONT, signal.SIGINT):
                process.send_signal(number)
            process.wait(TIMEOUT)
