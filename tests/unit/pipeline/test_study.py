"""Studies on disk: trials are taken by one process at a time, and outlive any of them."""

import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from digits.errors import CorruptArtifactError
from digits.pipeline.config import TrainingRun
from digits.pipeline.search import OBJECTIVE, Choice, Range, Space, Trial, TrialState, propose
from digits.pipeline.study import Study
from digits.store.artifacts import ArtifactRef, Store
from digits.training.config import ModelConfig, TrainingConfig
from tests.support import faults

RUN = TrainingRun(model=ModelConfig(architecture="mlp")).resolved()
SPACE: Space = {
    "model.hidden": Choice(choices=([64], [128])),
    "training.learning_rate": Range(low=1e-4, high=1e-1, log=True),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the disk."""
    monkeypatch.setattr(os, "fsync", faults.no_sync)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A study that has begun."""
    begun = Study(Store(tmp_path / "my artifacts"), RUN, SPACE, ArtifactRef("arrays", "0" * 64), seed=3)
    begun.create()
    return begun


def ended(trial: Trial, loss: float = 0.5) -> Trial:
    """Give a trial as if it had run."""
    history = [{OBJECTIVE: loss, "validation_accuracy": 1 - loss}]
    return replace(trial, state=TrialState.COMPLETE, history=history, seconds=1.5, model="f" * 64)


def run_one(study: Study, most: int, loss: float = 0.5) -> Trial | None:
    """Take a trial, and finish it."""
    with study.claim_trial(most) as trial:
        if trial is not None:
            study.finish(ended(trial, loss))
        return trial


def test_the_first_trial_has_the_settings_as_they_were(study: Study) -> None:
    """And the others what is proposed."""
    first, second = run_one(study, 2), run_one(study, 2)
    assert first is not None
    assert second is not None
    assert first.values == {"model.hidden": [128], "training.learning_rate": 0.001}
    assert second.values == propose(SPACE, [ended(first)], number=1, seed=3)
    assert run_one(study, 2) is None


def test_trials_are_read_as_they_were_written(study: Study) -> None:
    """By another process, so from the disk alone."""
    run_one(study, 1, loss=0.25)
    again = Study(study.store, RUN, SPACE, study.arrays, seed=3)
    again.create()
    (trial,) = again.trials()
    assert (trial.number, trial.state, trial.loss, trial.seconds) == (0, TrialState.COMPLETE, 0.25, 1.5)
    assert trial.model == "f" * 64


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 4},
        {"arrays": ArtifactRef("arrays", "1" * 64)},
        {"space": {"model.hidden": Choice(choices=([64], [129]))}},
        {"run": RUN.model_copy(update={"training": TrainingConfig(**{**RUN.training.model_dump(), "epochs": 3})})},
        {"run": RUN.model_copy(update={"model": RUN.model.model_copy(update={"activation": "tanh"})})},
    ],
)
def test_what_makes_results_another_thing_makes_another_study(study: Study, other: dict[str, Any]) -> None:
    """Data, settings, space and seed."""
    assert replace(study, **other).name != study.name


def test_what_does_not_matter_to_results_makes_no_other_study(study: Study) -> None:
    """The same data by another path; how many networks are averaged in the end; what is promoted."""
    run = RUN.model_copy(
        update={"datasets": ("elsewhere",), "training": RUN.training.model_copy(update={"members": 3})}
    )
    assert replace(study, run=run).name == study.name


def test_a_trial_that_was_left_is_gone_on_with(study: Study) -> None:
    """The same number, the same values, before anything new."""
    with study.claim_trial(5) as left:
        pass
    assert run_one(study, 5) == left
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE]


def test_nobody_takes_a_trial_that_is_held(study: Study) -> None:
    """Two at work have different trials; with enough at work there is nothing more to take."""
    with study.claim_trial(2) as one, study.claim(2) as two, study.claim(2) as three:
        assert one is not None
        assert two is not None
        assert [one.number, two.number, three] == [0, 1, None]
        assert one.values != two.values


def test_a_trial_that_was_finished_meanwhile_is_not_done_again(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder ended between our look at the trials and our hold on it."""
    with study.claim_trial(1) as trial:
        pass
    assert trial is not None
    stale = study.trials()
    study.finish(ended(trial))
    monkeypatch.setattr(Study, "trials", lambda _: stale)
    with study.claim_trial(1) as again:
        assert again is None


def hold(study: Study, ready: Any) -> None:
    """Take a trial and hang."""
    with study.claim_trial(5):
        ready.set()
        signal.pause()


def test_the_trial_of_a_killed_process_is_free(study: Study) -> None:
    """The kernel drops its lock."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(study, ready))
    process.start()
    assert ready.wait(30)
    with study.claim_trial(1) as none:
        assert none is None
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    with study.claim_trial(1) as trial:
        assert trial is not None
        assert trial.number == 0


def test_a_damaged_record_is_found(study: Study) -> None:
    """A flipped bit in what a trial reached; removed, the trial is made anew."""
    first = run_one(study, 1)
    (file,) = study.path.glob("trial-*.json")
    file.write_bytes(file.read_bytes().replace(b"0.5", b"0.4"))
    with pytest.raises(CorruptArtifactError, match="trial-00000"):
        study.trials()
    file.unlink()
    assert run_one(study, 1) == first


def test_a_study_in_the_place_of_another_is_not_mixed_with_it(study: Study) -> None:
    """Names are shortened; what they stand for is looked at."""
    other = replace(study, seed=4)
    other.create()
    (other.path / "study.json").replace(study.path / "study.json")
    with pytest.raises(CorruptArtifactError, match="another study"):
        study.create()


def test_a_gap_is_filled(study: Study) -> None:
    """A number is used again when its record is gone."""
    for _ in range(3):
        run_one(study, 3)
    (study.path / "trial-00001.json").unlink()
    trial = run_one(study, 3)
    assert trial is not None
    assert trial.number == 1
