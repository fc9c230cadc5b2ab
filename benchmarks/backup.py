"""Sizes and times of a backup and of a restore.

python -m benchmarks backup

The artifact root has ten small models, a dataset of 70,000 images and its arrays, 10,000 labelled images, a table of a
million rows, and a SQLite database of about 70 MB in place of Prefect's.
"""

import argparse
import hashlib
import io
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from digits.data.labels import Answer, LabelLog
from digits.images.types import Pixels
from digits.maintenance.backup import back_up, check_archive
from digits.maintenance.restore import restore
from digits.store.artifacts import Recipe, Store
from digits.store.records import write_record
from digits.store.registry import ModelFacts, Registry
from tests.support.networks import small_network
from tests.support.pictures import sample_digits

Result = TypeVar("Result")
MODELS = 10
RNG = np.random.default_rng(0)


def main() -> None:
    """Print the size of the archive, and the seconds of each step."""
    parser = argparse.ArgumentParser(description="Measure backup and restore.")
    parser.add_argument("--labels", type=int, default=10_000, help="number of labelled images (default: 10000)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="number of rows of the table (default: 1000000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        store, pixels = Store(place / "root"), _pixels()
        _add_models(store, pixels)
        _add_labels(store, pixels, options.labels)
        _add_table(store, options.rows)
        database = _database(place / "prefect.db", options.rows // 2)
        for name, tables in (("without tables", False), ("with tables", True)):
            out = place / f"{tables}.tar.zst"
            seconds, made = _timed(partial(back_up, store, out, tables=tables, database=database))
            print(
                f"backup {name}: {made.files:,} files, {made.content_bytes / 1e6:.0f} MB, archive "
                f"{made.bytes / 1e6:.0f} MB, {seconds:.1f} s",
                flush=True,
            )
        print(f"check: {_timed(lambda: check_archive(out))[0]:.1f} s", flush=True)
        print(f"restore with tables: {_timed(lambda: restore(out, Store(place / 'new')))[0]:.1f} s", flush=True)


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def _pixels() -> Pixels:
    """Return 70,000 images: the sample, shifted by 0 to 9 pixels."""
    sample = sample_digits()
    return np.concatenate([np.roll(sample, shift, axis=2) for shift in range(10)])


def _add_models(store: Store, pixels: Pixels) -> None:
    dataset = store.produce(Recipe("dataset", {}), lambda place: np.save(place / "pixels.npy", pixels))
    arrays = store.produce(Recipe("arrays", {}, (dataset,)), lambda place: np.save(place / "train.npy", pixels[::-1]))
    network = small_network()
    for number in range(MODELS):
        recipe = Recipe("onnx", {"number": number}, (arrays,))
        onnx = store.produce(recipe, partial(_write_model, network + bytes(number)))
        artifacts = {"onnx": onnx.digest, "arrays": arrays.digest}
        version, _ = Registry(store).register(artifacts=artifacts, weights_sha256=str(number), facts=ModelFacts())
        Registry(store).promote(version.number, reasons=["a benchmark"])


def _write_model(content: bytes, place: Path) -> None:
    (place / "model.onnx").write_bytes(content)


def _add_labels(store: Store, pixels: Pixels, count: int) -> None:
    (store.labels / "images").mkdir(parents=True)
    answers = []
    for number in range(count):
        file = io.BytesIO()
        Image.fromarray(pixels[number]).save(file, "PNG")
        sha256 = hashlib.sha256(file.getvalue()).hexdigest()
        (store.labels / "images" / sha256).write_bytes(file.getvalue())
        answers.append(Answer(str(number), "2026-11-28", sha256, "1", "1", 0.5, "ok", 1, "sample", "0" * 64))
    LabelLog(store.labels).append(answers)


def _add_table(store: Store, rows: int) -> None:
    out = store.predictions / "scans-00000000" / "predictions.csv"
    out.parent.mkdir(parents=True)
    with out.open("w") as file:
        for number in range(rows):
            sha256, confidence = RNG.bytes(32).hex(), RNG.random()
            file.write(f"{number:09}.png,{number % 10},{confidence:.6f},ok,,28,28,{sha256},-0.5,1\n")
    write_record(out.with_name("predictions.summary.json"), {"out": str(out), "source": "/data/scans"})


def _database(path: Path, rows: int) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE run (name TEXT, state BLOB)")
        rows_of_table = ((f"flow run {number} completed", RNG.bytes(100)) for number in range(rows))
        connection.executemany("INSERT INTO run VALUES (?, ?)", rows_of_table)
        connection.commit()
    return path


if __name__ == "__main__":
    main()
