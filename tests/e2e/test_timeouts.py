"""Tests of runs that exceed their time limit."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prefect import flow

from digits.pipeline.champion import Outcome
from digits.prediction.config import PredictionConfig
from digits.training import fit
from digits.training.config import ModelConfig, TrainingConfig
from flows import runs
from flows.prediction import predict_folder
from flows.training import train

EPOCHS = 500


def children() -> set[int]:
    """Return the IDs of this process's running children."""
    found = set()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            fields = (place / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.add(int(place.name))
    return found


def test_a_training_that_exceeds_its_time_limit_stops_and_keeps_its_checkpoint(
    outcome: Outcome, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is moved to the time of the first checkpoint, which a busy machine reaches late."""
    real, reached = fit.save_checkpoint, list[float]()

    def save(*arguments: Any) -> None:
        real(*arguments)
        if not reached:
            reached.append(time.monotonic())
            signal.setitimer(signal.ITIMER_REAL, 0.5, runs.ALARM_SECONDS)

    monkeypatch.setattr(fit, "save_checkpoint", save)
    state = train.with_options(timeout_seconds=600)(
        datasets=("mnist-sample",),
        model=ModelConfig(architecture="mlp"),
        training=TrainingConfig(epochs=EPOCHS, seed=77),
        artifacts=root,
        return_state=True,
    )
    assert (state.name, state.type.value) == ("TimedOut", "FAILED")
    assert "exceeded timeout of 600" in (state.message or "")
    assert time.monotonic() - reached[0] < 60
    (checkpoint,) = (root / "work").glob("train-*.npz")
    changed = checkpoint.stat().st_mtime
    time.sleep(1)
    assert checkpoint.stat().st_mtime == changed


def test_a_run_is_interrupted_again_if_the_first_exception_was_lost(
    outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "ALARM_SECONDS", 0.5)
    lost = []

    @flow(timeout_seconds=2)
    @runs.with_final_message
    def train_for_ever() -> tuple[None, str]:
        for _ in range(300):
            try:
                time.sleep(0.1)
            except BaseException as error:
                if lost:
                    raise
                lost.append(error)
        return None, "the end was reached"

    state = train_for_ever(return_state=True)
    assert lost
    assert (state.name, state.type.value) == ("TimedOut", "FAILED")
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_prediction_that_exceeds_its_time_limit_stops_with_its_workers(
    outcome: Outcome, root: Path, tmp_path: Path
) -> None:
    before = children()
    folder = tmp_path / "large"
    folder.mkdir()
    Image.effect_noise((4000, 4000), 90).save(folder / "0.png")
    for number in range(1, 300):
        os.link(folder / "0.png", folder / f"{number}.png")
    out = tmp_path / "table.csv"
    state = predict_folder.with_options(timeout_seconds=4)(
        folder, out=out, options=PredictionConfig(processes=2), artifacts=root, return_state=True
    )
    assert state.name == "TimedOut", state
    assert not out.exists()
    deadline = time.monotonic() + 60
    while children() - before:
        assert time.monotonic() < deadline, children() - before
        time.sleep(0.2)


@pytest.mark.parametrize("folder", ["/no/such/folder"])
def test_a_failed_run_has_the_message_of_the_error(outcome: Outcome, root: Path, folder: str) -> None:
    state = predict_folder(Path(folder), artifacts=root, return_state=True)
    assert state.message is not None
    assert folder in state.message
    assert state.name == "Failed"
