"""How long a training step takes with glibc's allocator as it is, and with `digits.backend.keep_freed_memory`.

The two run in turn, in fresh processes, so that a change of the machine's speed meets both.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROUNDS = 3
IMAGES = 6_400


def main() -> None:
    """Print seconds a step of either, and their ratio."""
    pairs = [(_seconds("as-it-is"), _seconds("kept")) for _ in range(ROUNDS)]
    for name, column in zip(("as it is", "kept"), zip(*pairs, strict=True), strict=True):
        print(f"{name:<10} {median(column):7.1f} s for an epoch of {IMAGES:,} images (median of {ROUNDS})")
    print(f"ratio      {median(kept / plain for plain, kept in pairs):7.2f}")


def _seconds(variant: str) -> float:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.allocator", variant]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _train(variant: str) -> None:
    from digits import backend

    if variant == "as-it-is":
        backend.keep_freed_memory = lambda: None
    from digits import datasets, models, training
    from digits.config import TrainingRun

    run = TrainingRun.model_validate({"training": {"epochs": 1}}).resolved()
    data = datasets.load("mnist-sample", downloads=Path(tempfile.mkdtemp()))
    samples = training.Samples(data.train_pixels[:IMAGES], data.train_labels[:IMAGES])
    network = models.build(run.model, input_shape=(28, 28), classes=10, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        training.fit(network, samples, samples, run.training, checkpoint=Path(folder) / "warm.npz")
        started = time.perf_counter()
        training.fit(network, samples, samples, run.training, checkpoint=Path(folder) / "timed.npz")
        print(time.perf_counter() - started)


if __name__ == "__main__":
    _train(sys.argv[1]) if len(sys.argv) > 1 else main()
