"""Small fits, for tests and for a process that is killed during one.

python -m tests.support.small_fits FOLDER
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from digits.data import datasets
from digits.pipeline.config import TrainingRun
from digits.progress import SILENT, Bar, Progress
from digits.settings import parse
from digits.training import fit as fit_module
from digits.training import networks, novelty

RUNS: dict[str, dict[str, Any]] = {
    "cnn": {
        "model": {"architecture": "cnn", "hidden": (8, 12, 12, 16, 24), "dropout": 0.1},
        "training": {"epochs": 3, "batch_size": 30, "weight_average": 0.9},
    },
    "mlp-2": {"model": {"architecture": "mlp-2", "hidden": (64, 64)}, "training": {"epochs": 3, "batch_size": 30}},
}
"""Small runs by architecture. Their batch size does not divide the number of images, so the last batch is short."""

SMALL_HEAD = {"NON_DIGITS": 1_000, "DIGITS": 1_000, "DEGRADED": 500, "PRINTED": 1, "WRITTEN": 20, "EPOCHS": 30}


@contextmanager
def small_head() -> Iterator[None]:
    """Fit the novelty output to fewer images: 2 s instead of 30 s, most of a small training's time."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL_HEAD.items():
            patch.setattr(novelty, name, value)
        yield


def run_of(architecture: str, **training_settings: Any) -> TrainingRun:
    """Return a small run of an architecture."""
    values = RUNS[architecture]
    merged = {**values, "training": {**values["training"], **training_settings}}
    return parse(TrainingRun, merged, source="test").resolved()


def samples() -> tuple[fit_module.Samples, fit_module.Samples]:
    """Return 320 real digits for training, and 100 others for validation."""
    with tempfile.TemporaryDirectory() as downloads:
        data = datasets.load("mnist-sample", downloads=Path(downloads))
    train = fit_module.Samples(data.train_pixels[:320], data.train_labels[:320])
    return train, fit_module.Samples(data.train_pixels[320:420], data.train_labels[320:420])


def build(run: TrainingRun) -> networks.Network:
    """Build the run's network for digits."""
    return networks.build(run.model, input_shape=(28, 28), classes=10, seed=run.training.seed)


def fit(
    run: TrainingRun, checkpoint: Path, progress: Progress = SILENT, **options: Any
) -> tuple[networks.Network, fit_module.History]:
    """Build and fit the run's network. Return the network and the history."""
    network = build(run)
    return network, fit_module.fit(
        network, *samples(), run.training, checkpoint=checkpoint, progress=progress, **options
    )


def digest(run: TrainingRun, checkpoint: Path, progress: Progress = SILENT) -> str:
    """Build and fit the run's network. Return the digest of its weights."""
    return networks.weights_digest(fit(run, checkpoint, progress)[0])


class InSecondEpoch:
    """Progress that runs an action in the middle of the second epoch of its process."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._epochs = self._steps = 0

    def start(self, label: str, total: int, *, part: tuple[int, int] = (0, 1)) -> Bar:
        """Count the epochs."""
        self._epochs, self._steps = self._epochs + 1, 0
        return self

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count the steps; run the action at the third step of the second epoch."""
        self._steps += steps
        if (self._epochs, self._steps) == (2, 3):
            self._act()

    def close(self, note: str = "") -> None:
        """Do nothing."""


def main(where: Path) -> None:
    """Fit each run and print its digest; then start the first run again and hang."""
    for name in RUNS:
        sys.stdout.write(f"{name} {digest(run_of(name), where / f'{name}-undisturbed.npz')}\n")
    sys.stdout.flush()

    def hang() -> None:
        sys.stdout.write("hanging\n")
        sys.stdout.flush()
        time.sleep(600)

    fit(run_of("cnn"), where / "killed.npz", InSecondEpoch(hang))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
