"""Studies: records of trials on disk, which processes claim and resume."""

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
from digits.pipeline.study import Study, TrialProgress
from digits.progress import Bar
from digits.store.artifacts import ArtifactRef, Store
from digits.training.config import ModelConfig, TrainingConfig

pytestmark = pytest.mark.usefixtures("without_sync")

RUN = TrainingRun(model=ModelConfig(architecture="mlp")).resolved()
SPACE: Space = {
    "model.hidden": Choice(choices=([64], [128])),
    "training.learning_rate": Range(low=1e-4, high=1e-1, log=True),
}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Study with a record and no trials."""
    created = Study(Store(tmp_path / "my artifacts"), RUN, SPACE, ArtifactRef("arrays", "0" * 64), seed=3)
    created.create()
    return created


def ended(trial: Trial, loss: float = 0.5) -> Trial:
    """Return a trial as if it had been completed."""
    history = [{OBJECTIVE: loss, "validation_accuracy": 1 - loss}]
    return replace(trial, state=TrialState.COMPLETE, history=history, seconds=1.5, model="f" * 64)


def run_one(study: Study, total: int, loss: float = 0.5) -> Trial | None:
    """Claim and finish a trial."""
    with study.claim_trial(total) as trial:
        if trial is not None:
            study.finish(ended(trial, loss))
        return trial


def test_the_first_trial_has_the_initial_settings(study: Study) -> None:
    """Later trials have proposed settings."""
    first, second = run_one(study, 2), run_one(study, 2)
    assert first is not None
    assert second is not None
    assert first.values == {"model.hidden": [128], "training.learning_rate": 0.001}
    assert second.values == propose(SPACE, [ended(first)], number=1, seed=3)
    assert run_one(study, 2) is None


class Recorder:
    """Receiver that records the total and the steps of a bar."""

    def __init__(self) -> None:
        self.total = self.done = 0

    def start(self, label: str, total: int, *, part: tuple[int, int] = (0, 1)) -> Bar:
        """Record the total."""
        self.total = total
        return self

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Add the steps."""
        self.done += steps

    def close(self, note: str = "") -> None:
        """Do nothing."""


@pytest.mark.parametrize(("first", "total"), [(0, 30), (1, 30), (2, 36)])
def test_the_bar_of_a_trial_ends_at_its_total_if_later_epochs_have_more_steps(first: int, total: int) -> None:
    """Also if the trial was resumed."""
    recorder = Recorder()
    bar = TrialProgress(recorder, "trial 0", (0, 1))
    for epoch in range(first, 3):
        steps = (10, 10, 12)[epoch]
        bar.start(f"epoch {epoch}", steps, part=(epoch, 3))
        for _ in range(steps):
            bar.advance()
        assert recorder.done == total * (epoch + 1) // 3
    assert (recorder.total, recorder.done) == (total, total)


def test_trials_are_read_as_they_were_written(study: Study) -> None:
    """By another object, from the disk."""
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
def test_a_study_with_other_settings_has_another_name(study: Study, other: dict[str, Any]) -> None:
    """Other data, settings, search space or seed."""
    assert replace(study, **other).name != study.name


def test_settings_without_influence_on_trials_do_not_change_the_name(study: Study) -> None:
    """The path of the same data, and the number of averaged networks."""
    run = RUN.model_copy(
        update={"datasets": ("elsewhere",), "training": RUN.training.model_copy(update={"members": 3})}
    )
    assert replace(study, run=run).name == study.name


def test_an_unfinished_trial_is_resumed(study: Study) -> None:
    """With the same number and values, before any new trial."""
    with study.claim_trial(5) as unfinished:
        pass
    assert run_one(study, 5) == unfinished
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE]


def test_concurrent_claims_yield_different_trials(study: Study) -> None:
    """There is none for a third claim if two trials are enough."""
    with study.claim_trial(2) as one, study.claim_trial(2) as two, study.claim_trial(2) as three:
        assert one is not None
        assert two is not None
        assert [one.number, two.number, three] == [0, 1, None]
        assert one.values != two.values


def test_a_trial_that_ended_before_it_was_locked_is_not_run_again(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process ended after the list of trials was read."""
    with study.claim_trial(1) as trial:
        pass
    assert trial is not None
    stale = study.trials()
    study.finish(ended(trial))
    monkeypatch.setattr(Study, "trials", lambda _: stale)
    with study.claim_trial(1) as again:
        assert again is None


def hold(study: Study, ready: Any) -> None:
    """Claim a trial and wait for ever."""
    with study.claim_trial(5):
        ready.set()
        signal.pause()


def test_the_trial_of_a_killed_process_can_be_claimed(study: Study) -> None:
    """The kernel releases its lock."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(study, ready))
    process.start()
    assert ready.wait(120)
    with study.claim_trial(1) as held:
        assert held is None
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    with study.claim_trial(1) as trial:
        assert trial is not None
        assert trial.number == 0


def test_a_damaged_record_of_a_trial_is_an_error(study: Study) -> None:
    """When the record is removed, the trial is run again."""
    first = run_one(study, 1)
    (file,) = study.path.glob("trial-*.json")
    file.write_bytes(file.read_bytes().replace(b"0.5", b"0.4"))
    with pytest.raises(CorruptArtifactError, match="trial-00000"):
        study.trials()
    file.unlink()
    assert run_one(study, 1) == first


def test_a_record_of_another_study_is_an_error(study: Study) -> None:
    """Names are shortened digests, so the whole record is compared."""
    other = replace(study, seed=4)
    other.create()
    (other.path / "study.json").replace(study.path / "study.json")
    with pytest.raises(CorruptArtifactError, match="another study"):
        study.create()


def test_the_number_of_a_removed_trial_is_used_again(study: Study) -> None:
    """So the trials are numbered without gaps."""
    for _ in range(3):
        run_one(study, 3)
    (study.path / "trial-00001.json").unlink()
    trial = run_one(study, 3)
    assert trial is not None
    assert trial.number == 1
