"""Small searches, for tests and for a process that is killed during one.

python -m tests.support.small_searches ROOT
"""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from digits.pipeline import steps as steps_module
from digits.pipeline import study as study_module
from digits.pipeline.config import TrainingRun
from digits.pipeline.search import Choice, Range, Space, Trial
from digits.pipeline.study import Budget, Study
from digits.progress import SILENT, Bar, Progress
from digits.settings import parse
from digits.store.artifacts import Store
from tests.support.small_fits import samples

SETTINGS: Mapping[str, Any] = {
    "model": {"architecture": "mlp", "hidden": (32,)},
    "training": {"epochs": 3, "batch_size": 32},
}
SPACE: Space = {
    "model.dropout": Range(low=0.0, high=0.8),
    "training.batch_size": Choice(choices=(16, 32, 64)),
    "training.learning_rate": Range(low=1e-5, high=1e-2, log=True),
}
KILLED_TRIAL = 2


def begin(root: Path, *, space: Space = SPACE, seed: int = 0, **training: Any) -> Study:
    """Create or open a study of a small network and 320 real digits."""
    store = Store(root)
    data = root / "data.npz"
    if not data.exists():
        root.mkdir(parents=True, exist_ok=True)
        train, test = samples()
        np.savez(data, x_train=train.pixels, y_train=train.labels, x_test=test.pixels, y_test=test.labels)
    values = {**SETTINGS, "datasets": (str(data),), "training": {**SETTINGS["training"], **training}}
    run = parse(TrainingRun, values, source="test").resolved()
    source = steps_module.download_dataset(store, str(data))
    return study_module.begin_study(
        store, run, space, steps_module.prepare_arrays(store, [source], run.arrays), seed=seed
    )


def search(study: Study, budget: Any, progress: Progress = SILENT) -> list[Trial]:
    """Run trials until the budget is spent. Return the trials that were run."""
    ran = []
    while not budget.is_spent:
        with study.claim_trial(budget.trials) as trial:
            if trial is None:
                break
            ran.append(study_module.run_trial(study, trial, budget, progress))
    return ran


class InTrial:
    """Progress that runs an action in the middle of a trial."""

    def __init__(self, number: int, act: Callable[[], None]) -> None:
        self._label, self._act = f"trial {number}", act
        self._steps = self._total = 0

    def start(self, label: str, total: int, *, part: tuple[int, int] = (0, 1)) -> Bar:
        """Count the steps of the trial."""
        self._steps, self._total = 0, total if label == self._label else 0
        return self

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Run the action when half of the trial's steps are done."""
        self._steps += steps
        if self._total and self._steps == self._total // 2:
            self._act()

    def close(self, note: str = "") -> None:
        """Do nothing."""


def main(root: Path) -> None:
    """Run a search that hangs in the middle of a trial."""

    def hang() -> None:
        sys.stdout.write("hanging\n")
        sys.stdout.flush()
        time.sleep(600)

    search(begin(root), Budget(6), InTrial(KILLED_TRIAL, hang))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
