"""Test accuracy of the presets on MNIST, and their training time: the figures in the README.

python -m benchmarks accuracy                  # half an hour on two cores, most of it for `best`
python -m benchmarks accuracy --only quick     # compared with the tutorial's network, `mlp-2`

All models are trained from scratch, in a temporary store. MNIST is kept in `downloads/` of the artifact root.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import get_args

from digits.pipeline import lineage, steps
from digits.pipeline.config import Preset, TrainingRun
from digits.settings import artifact_root
from digits.store.artifacts import ArtifactRef, Store
from digits.store.registry import ModelFacts

SEEDS = (42, 1, 2)


@dataclass(frozen=True)
class Row:
    """Result of one training.

    Args:
        facts: facts of its model version, among them the test accuracy.
        wall: wall time in seconds.
        cpu: CPU time of the process in seconds.
    """

    facts: ModelFacts
    wall: float
    cpu: float


def main() -> None:
    """Print one line per training and one per preset."""
    parser = argparse.ArgumentParser(description="Measure the test accuracy and the training time of the presets.")
    parser.add_argument("--only", choices=get_args(Preset), help="the only preset to measure (default: all)")
    only = parser.parse_args().only
    downloads = artifact_root() / "downloads"
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory))
        downloads.mkdir(parents=True, exist_ok=True)
        store.downloads.symlink_to(downloads.absolute())
        for preset in [only] if only else get_args(Preset):
            _MEASURES[preset](store)


def _default(store: Store) -> None:
    _summarize("default", [_measure(store, f"default, seed {seed}", _run("default", seed)) for seed in SEEDS])


def _quick(store: Store) -> None:
    """Train both networks with each seed in turn, so that other work on the machine slows down both."""
    rows, tutorials = [], []
    for seed in SEEDS:
        tutorials.append(_measure(store, f"mlp-2, seed {seed}", _tutorial(seed)))
        rows.append(_measure(store, f"quick, seed {seed}", _run("quick", seed)))
    _summarize("mlp-2", tutorials)
    _summarize("quick", rows)
    ratio = mean(row.wall for row in rows) / mean(row.wall for row in tutorials)
    print(f"quick takes {ratio:.2f} times the wall time of mlp-2's ten epochs", flush=True)


def _best(store: Store) -> None:
    _summarize("best", [_measure(store, "best, seed 42", _run("best", 42))])


_MEASURES = {"default": _default, "quick": _quick, "best": _best}


def _run(preset: str, seed: int) -> TrainingRun:
    return TrainingRun.model_validate({"preset": preset, "training": {"seed": seed}}).resolved()


def _tutorial(seed: int) -> TrainingRun:
    return TrainingRun.model_validate({"model": {"architecture": "mlp-2"}, "training": {"seed": seed}}).resolved()


def _measure(store: Store, label: str, run: TrainingRun) -> Row:
    arrays = steps.prepare_arrays(store, [steps.download_dataset(store, "mnist")], run.arrays)
    wall, cpu = time.perf_counter(), time.process_time()
    model = _train(store, arrays, run)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    evaluation = steps.evaluate_model(store, steps.export_model(store, model, arrays), arrays)
    row = Row(lineage.model_facts(lineage.trace_lineage(store, evaluation)), wall, cpu)
    print(f"{label:<18} test accuracy {row.facts.accuracy:.2%}, {wall:.1f} s, {cpu:.0f} CPU-seconds", flush=True)
    return row


def _train(store: Store, arrays: ArtifactRef, run: TrainingRun) -> ArtifactRef:
    members = [
        steps.train_network(store, steps.build_network(store, arrays, run.model, seed=training.seed), arrays, training)
        for training in run.members()
    ]
    return steps.average_models(store, members, arrays, run.training)


def _summarize(name: str, rows: list[Row]) -> None:
    accuracies = [row.facts.accuracy for row in rows]
    print(
        f"{name:<8} mean {mean(accuracies):.2%}, lowest {min(accuracies):.2%}, {rows[0].facts.epochs} epochs of "
        f"{rows[0].facts.train_images:,} images, {mean(row.wall for row in rows):.1f} s, "
        f"{mean(row.cpu for row in rows):.0f} CPU-seconds",
        flush=True,
    )


if __name__ == "__main__":
    main()
