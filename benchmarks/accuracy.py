"""Test accuracy of the recipes on MNIST for three seeds: the table in the README.

python -m benchmarks accuracy            # 20 to 40 minutes on two cores; finished models are found again
"""

import os
import time
from pathlib import Path
from statistics import mean
from typing import Any

from digits import stages
from digits.config import TrainingRun, artifact_root
from digits.store import Store

SEEDS = (42, 1, 2)
ARCHITECTURES = ("cnn", "compact", "mlp", "mlp-2")


def main() -> None:
    """Print a line for each model and one for each architecture."""
    store = Store(artifact_root(Path(os.environ.get("DIGITS_ARTIFACTS", "artifacts"))))
    for architecture in ARCHITECTURES:
        rows = [_measure(store, architecture, seed) for seed in SEEDS]
        accuracies = [row["accuracy"] for row in rows]
        print(
            f"{architecture:<6} mean {mean(accuracies):.2%}, least {min(accuracies):.2%}, "
            f"{rows[0]['epochs']} epochs, {rows[0]['train_images']:,} training images",
            flush=True,
        )


def _measure(store: Store, architecture: str, seed: int) -> dict[str, Any]:
    run = TrainingRun.model_validate({"model": {"architecture": architecture}, "training": {"seed": seed}}).resolved()
    arrays = stages.prepare_arrays(store, [stages.download_dataset(store, "mnist")], run.arrays)
    network = stages.build_network(store, arrays, run.model, seed=seed)
    wall, cpu = time.perf_counter(), time.process_time()
    model = stages.train_network(store, network, arrays, run.training)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    evaluation = stages.evaluate_model(store, stages.export_model(store, model, arrays), arrays)
    facts = stages.facts_of(stages.trace(store, evaluation))
    print(
        f"{architecture:<6} seed {seed:<3} test accuracy {facts['accuracy']:.2%}  ECE {facts['ece']:.2%}  "
        f"training {wall:.0f} s, {cpu:.0f} CPU-seconds",
        flush=True,
    )
    return facts


if __name__ == "__main__":
    main()
