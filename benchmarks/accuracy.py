"""Test accuracy of the presets on MNIST, and their training time: the figures in the README.

python -m benchmarks accuracy                  # half an hour on two cores, most of it for `best`
python -m benchmarks accuracy --only quick     # compared with the network of tutorials

The network of tutorials has two dense layers of 128 units. Keras fits it to the same images in ten epochs with batches
of 32, from arrays in memory, without validation and without dropout. Times are those of the fit, without the export.
All models are trained from scratch, in a temporary store. MNIST is kept in `downloads/` of the artifact root.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import get_args

import numpy as np

from digits.pipeline import lineage, steps
from digits.pipeline.config import Preset, TrainingRun
from digits.settings import artifact_root
from digits.store.artifacts import ArtifactRef, Store
from digits.training.backend import load_keras

SEEDS = (42, 1, 2)
TUTORIAL_UNITS, TUTORIAL_EPOCHS, TUTORIAL_BATCH = (128, 128), 10, 32


@dataclass(frozen=True)
class Row:
    """Result of one training.

    Args:
        accuracy: test accuracy.
        epochs: number of epochs.
        images: number of training images.
        wall: wall time in seconds.
        cpu: CPU time of the process in seconds.
    """

    accuracy: float
    epochs: int
    images: int
    wall: float
    cpu: float


def main() -> None:
    """Print one line per training and one per preset."""
    parser = argparse.ArgumentParser(description="Measure the test accuracy and the training time of the presets.")
    parser.add_argument("--only", choices=get_args(Preset), help="the only preset to measure (default: all)")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help=f"number of seeds (default: {len(SEEDS)})")
    options = parser.parse_args()
    seeds = SEEDS[: options.seeds]
    downloads = artifact_root() / "downloads"
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory))
        downloads.mkdir(parents=True, exist_ok=True)
        store.downloads.symlink_to(downloads.absolute())
        for preset in [options.only] if options.only else get_args(Preset):
            _MEASURES[preset](store, seeds)


def _default(store: Store, seeds: Sequence[int]) -> None:
    _summarize("default", [_measure(store, f"default, seed {seed}", _run("default", seed)) for seed in seeds])


def _quick(store: Store, seeds: Sequence[int]) -> None:
    """Train both networks with each seed in turn, so that other work on the machine slows down both."""
    rows, tutorials = [], []
    for seed in seeds:
        tutorials.append(_measure_tutorial(store, seed))
        rows.append(_measure(store, f"quick, seed {seed}", _run("quick", seed)))
    _summarize("tutorial", tutorials)
    _summarize("quick", rows)
    for name in ("wall", "cpu"):
        ratio = mean(getattr(row, name) for row in rows) / mean(getattr(row, name) for row in tutorials)
        print(f"quick takes {ratio:.2f} times the {name} time of the tutorial's {TUTORIAL_EPOCHS} epochs", flush=True)


def _best(store: Store, _seeds: Sequence[int]) -> None:
    _summarize("best", [_measure(store, "best, seed 42", _run("best", 42))])


_MEASURES = {"default": _default, "quick": _quick, "best": _best}


def _run(preset: str, seed: int) -> TrainingRun:
    return TrainingRun.model_validate({"preset": preset, "training": {"seed": seed}}).resolved()


def _measure(store: Store, label: str, run: TrainingRun) -> Row:
    arrays = _prepare(store, run)
    wall, cpu = time.perf_counter(), time.process_time()
    model = _train(store, arrays, run)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    evaluation = steps.evaluate_model(store, steps.export_model(store, model, arrays), arrays)
    facts = lineage.model_facts(lineage.trace_lineage(store, evaluation))
    return _print(label, Row(facts.accuracy, facts.epochs, facts.train_images, wall, cpu))


def _measure_tutorial(store: Store, seed: int) -> Row:
    """Fit the network of tutorials as they do, to the training images of `quick`."""
    keras = load_keras()
    opened = store.open(_prepare(store, _run("quick", seed)))
    train, test = (lineage.load_samples(opened, part) for part in ("train", "test"))
    images, test_images = (np.asarray(part.pixels, np.float32) / 255 for part in (train, test))
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(units, "relu") for units in TUTORIAL_UNITS]
    network = keras.Sequential(
        [keras.Input(train.shape), keras.layers.Flatten(), *layers, keras.layers.Dense(10, "softmax")]
    )
    network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    wall, cpu = time.perf_counter(), time.process_time()
    network.fit(images, np.array(train.labels), batch_size=TUTORIAL_BATCH, epochs=TUTORIAL_EPOCHS, verbose=0)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    accuracy = float((network.predict(test_images, verbose=0).argmax(axis=1) == test.labels).mean())
    return _print(f"tutorial, seed {seed}", Row(accuracy, TUTORIAL_EPOCHS, len(train), wall, cpu))


def _prepare(store: Store, run: TrainingRun) -> ArtifactRef:
    return steps.prepare_arrays(store, [steps.download_dataset(store, "mnist")], run.arrays)


def _print(label: str, row: Row) -> Row:
    print(f"{label:<18} test accuracy {row.accuracy:.2%}, {row.wall:.1f} s, {row.cpu:.0f} CPU-seconds", flush=True)
    return row


def _train(store: Store, arrays: ArtifactRef, run: TrainingRun) -> ArtifactRef:
    members = [
        steps.train_network(store, steps.build_network(store, arrays, run.model, seed=training.seed), arrays, training)
        for training in run.members()
    ]
    return steps.average_models(store, members, arrays, run.training)


def _summarize(name: str, rows: list[Row]) -> None:
    accuracies = [row.accuracy for row in rows]
    print(
        f"{name:<8} mean {mean(accuracies):.2%}, lowest {min(accuracies):.2%}, {rows[0].epochs} epochs of "
        f"{rows[0].images:,} images, {mean(row.wall for row in rows):.1f} s, "
        f"{mean(row.cpu for row in rows):.0f} CPU-seconds",
        flush=True,
    )


if __name__ == "__main__":
    main()
