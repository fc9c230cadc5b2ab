"""Tests of searches with real trainings: budgets, pruning, kills and the resulting configuration."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from digits.errors import ModelError, UsageError
from digits.pipeline import steps as steps_module
from digits.pipeline import study as study_module
from digits.pipeline.config import TrainingRun
from digits.pipeline.search import Choice, Range, Trial, TrialState, with_values
from digits.pipeline.study import Budget, Study
from digits.settings import load_toml, parse
from tests.support import small_searches

TRIALS = 6


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Return a study of six trials that ran without interruption."""
    study = small_searches.begin(tmp_path_factory.mktemp("searched"))
    small_searches.search(study, Budget(TRIALS))
    return study


def results(study: Study, count: int = TRIALS) -> list[Any]:
    """Return the results of a study's trials."""
    return [(one.number, one.values, one.state, one.history, one.model) for one in study.trials()[:count]]


def models_of(study: Study) -> set[str]:
    """Return the digests of the fitted networks in the store."""
    return {path.name for path in (study.store.root / "model").iterdir()}


def test_a_search_runs_the_requested_number_of_trials(searched: Study) -> None:
    """The first trial has the run's own settings. Each complete trial has its network in the store."""
    trials = searched.trials()
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert with_values(searched.run, trials[0].values) == searched.run
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    assert {trial.model for trial in complete} == models_of(searched)
    assert all(len(trial.history) == 3 for trial in complete)


def test_hopeless_trials_are_pruned_and_leave_no_checkpoint(searched: Study) -> None:
    pruned = [trial for trial in searched.trials() if trial.state is TrialState.PRUNED]
    assert pruned
    assert all(1 <= len(trial.history) < 3 and trial.model is None for trial in pruned)
    assert not list(searched.store.work.glob("train-*"))
    best = study_module.conclude_study(searched).best
    assert all(trial.values["training.learning_rate"] < best.values["training.learning_rate"] for trial in pruned)


def test_a_repeated_search_runs_no_trial(searched: Study) -> None:
    before = {path: path.stat().st_mtime_ns for path in searched.path.glob("trial-*")}
    again = small_searches.begin(searched.store.root)
    assert small_searches.search(again, Budget(TRIALS)) == []
    assert {path: path.stat().st_mtime_ns for path in again.path.glob("trial-*")} == before


@pytest.mark.slow
def test_the_same_seed_gives_the_same_trials_in_another_root(searched: Study, tmp_path: Path) -> None:
    other = small_searches.begin(tmp_path / "other")
    small_searches.search(other, Budget(3))
    assert [result[:4] for result in results(other)] == [result[:4] for result in results(searched, 3)]


@pytest.mark.slow
def test_a_killed_search_resumes_and_ends_like_an_undisturbed_one(searched: Study, tmp_path: Path) -> None:
    """Kill it in a trial: finished trials are kept, and that trial resumes after its last epoch.

    While the process is alive, no other process takes its trial.
    """
    command = [sys.executable, "-m", small_searches.__name__, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hanging\n"
        study = small_searches.begin(tmp_path)
        assert small_searches.search(study, Budget(small_searches.KILLED_TRIAL + 1)) == []
        process.send_signal(signal.SIGKILL)
    finished = {path: path.stat().st_mtime_ns for path in study.path.glob("trial-0000[01].json")}
    assert [trial.state for trial in study.trials()][small_searches.KILLED_TRIAL :] == [TrialState.UNFINISHED]
    assert list((tmp_path / "work").glob("train-*"))
    started: list[tuple[str, int]] = []

    class RecordingProgress(small_searches.InTrial):
        def start(self, label: str, total: int, *, part: tuple[int, int] = (0, 1)) -> Any:
            started.append((label, part[0]))
            return self

    ran = small_searches.search(study, Budget(5), RecordingProgress(-1, lambda: None))
    assert started == [("trial 2", 2), ("trial 3", 3), ("trial 4", 4)]
    assert [trial.number for trial in ran] == [2, 3, 4]
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert [result[:4] for result in results(study)] == [result[:4] for result in results(searched, 5)]


class BudgetOfChecks:
    """Budget that is spent after a number of checks."""

    def __init__(self, checks: int, trials: int = TRIALS) -> None:
        self.trials, self._checks = trials, checks

    @property
    def is_spent(self) -> bool:
        """Whether the number of checks is used up."""
        self._checks -= 1
        return self._checks < 0


def test_no_epoch_starts_when_the_budget_is_spent(searched: Study, tmp_path: Path) -> None:
    """The trial stays unfinished and resumes in the next search."""
    study = small_searches.begin(tmp_path)
    with pytest.raises(UsageError, match="no trial was completed"):
        study_module.conclude_study(study)
    (left,) = small_searches.search(study, BudgetOfChecks(3))  # before the trial, its first epoch, its second
    assert left.state is TrialState.UNFINISHED
    assert len(list((tmp_path / "work").glob("train-*"))) == 1
    with pytest.raises(UsageError, match="run the same command again"):
        study_module.conclude_study(study)
    recorded: list[int] = []

    class RecordingProgress(small_searches.InTrial):
        def start(self, label: str, total: int, *, part: tuple[int, int] = (0, 1)) -> Any:
            recorded.append(total)
            return self

        def advance(self, steps: int = 1, note: str = "") -> None:
            recorded.append(steps)

    small_searches.search(study, Budget(1), RecordingProgress(0, lambda: None))
    assert sum(recorded[1:]) == recorded[0] > recorded[1] > 1
    assert [result[:4] for result in results(study)] == [result[:4] for result in results(searched, 1)]


def test_a_time_budget_is_spent_by_the_clock() -> None:
    assert Budget.starting_now(3, 1e-9).is_spent
    assert not Budget.starting_now(3, 10).is_spent
    assert not Budget.starting_now(3, None).is_spent


def test_the_best_settings_are_written_as_a_configuration(searched: Study, tmp_path: Path) -> None:
    """A training with it finds the network of the best trial."""
    tuned = study_module.conclude_study(searched, tmp_path / "new" / "best.toml")
    complete = [trial for trial in searched.trials() if trial.state is TrialState.COMPLETE]
    assert tuned.best.loss == min(trial.loss or 0 for trial in complete)
    run = parse(TrainingRun, load_toml(tuned.config), source="best.toml").resolved()
    assert run == tuned.settings == with_values(searched.run, tuned.best.values)
    before = models_of(searched)
    network = steps_module.build_network(searched.store, searched.arrays, run.model, seed=run.training.seed)
    model = steps_module.train_network(searched.store, network, searched.arrays, run.training)
    assert model.digest == tuned.best.model
    assert models_of(searched) == before
    text = tuned.config.read_text("utf-8")
    assert f"trial {tuned.best.number} of {TRIALS}, study {searched.name}" in text
    again = study_module.conclude_study(searched, tmp_path / "again.toml")
    assert again.config.read_bytes() == tuned.config.read_bytes()
    again.config.write_text("edited = true\n")
    with pytest.raises(UsageError, match=r"again\.toml was changed after Digits wrote it"):
        study_module.conclude_study(searched, again.config)
    assert study_module.conclude_study(searched, again.config, force=True).config.read_bytes() == text.encode()
    assert tuned.report.read_text("utf-8").count("<figure>") >= 4
    assert tuned.as_record()["trials"] == tuned.counts()
    assert sum(tuned.counts().values()) == TRIALS


def test_a_diverged_trial_is_recorded_and_not_repeated(tmp_path: Path) -> None:
    training = {"optimizer": "sgd", "weight_decay": 1.0, "loss": "mean-squared-error", "learning_rate": 0.01}
    choice = Choice(choices=(0.01, 10.0))
    study = small_searches.begin(tmp_path, space={"training.learning_rate": choice}, **training)
    small_searches.search(study, Budget(4))
    by_rate = {trial.values["training.learning_rate"]: trial.state for trial in study.trials()}
    assert by_rate == {0.01: TrialState.COMPLETE, 10.0: TrialState.DIVERGED}
    assert study_module.conclude_study(study).best.values == {"training.learning_rate": 0.01}
    training = {**training, "learning_rate": 10.0}
    hopeless = small_searches.begin(tmp_path, space={"training.learning_rate": Range(low=9.0, high=10.0)}, **training)
    small_searches.search(hopeless, Budget(1))
    with pytest.raises(ModelError, match="the only trial diverged"):
        study_module.conclude_study(hopeless)


def test_a_study_without_a_space_gets_the_default_of_its_network(tmp_path: Path) -> None:
    study = small_searches.begin(tmp_path)
    study_by_default = study_module.begin_study(study.store, study.run, None, study.arrays, seed=0)
    assert "training.label_smoothing" in study_by_default.space
    with pytest.raises(UsageError, match=r"space: training\.speed"):
        study_module.begin_study(study.store, study.run, {"training.speed": Range(low=1, high=2)}, study.arrays, seed=0)


def test_a_trial_is_described_by_its_state_and_metrics() -> None:
    epoch = {"validation_calibrated_loss": 0.25, "validation_accuracy": 0.9}
    described = {
        state: study_module.describe_trial(Trial(1, {}, state, history))
        for state, history in {
            TrialState.COMPLETE: (epoch,),
            TrialState.PRUNED: (epoch, epoch),
            TrialState.DIVERGED: (),
        }.items()
    }
    assert described == {
        TrialState.COMPLETE: "loss 0.2500, accuracy 90.00%",
        TrialState.PRUNED: "pruned after epoch 2: loss 0.2500, accuracy 90.00%",
        TrialState.DIVERGED: "diverged in the first epoch",
    }
