"""Tuning: trials of a study run one after the other within a budget, and what came of it.

A trial is a training like any other: its network is found or fitted in the artifact store, and goes on from its last
epoch. It is measured on the validation images; the test images are not looked at.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from digits import recipes, stages
from digits.config import TrainingRun
from digits.errors import ModelError, UsageError
from digits.files import write_file
from digits.progress import Bar, Progress
from digits.search import History, State, Trial, best_of, is_hopeless
from digits.spaces import Space, checked, default_space, with_values
from digits.store import ArtifactRef, Store, writing
from digits.studies import Study
from digits.studyreports import StudyReport, as_html, as_markdown, study_pictures

MINUTE = 60


def begin(store: Store, run: TrainingRun, space: Space | None, arrays: ArtifactRef, *, seed: int) -> Study:
    """Begin a study, or find the one of the same settings, data, space and seed.

    Args:
        store: where it is kept.
        run: resolved.
        space: what is searched; None: what is worth it for the network.
        arrays: prepared from the run's datasets.
        seed: of the search.

    Raises:
        UsageError: the space has what the settings do not take, or a study can't vary.
    """
    study = Study(store, run, checked(space, run, source="space") if space else default_space(run), arrays, seed)
    study.begin()
    return study


@dataclass(frozen=True)
class Budget:
    """How much is searched.

    Args:
        trials: that the study is to have in all.
        deadline: the time, as `time.monotonic` has it, after which no epoch is begun; None: there is none.
    """

    trials: int
    deadline: float | None = None

    @classmethod
    def of(cls, trials: int, minutes: float | None) -> "Budget":
        """Give a budget whose time begins now."""
        return cls(trials, minutes and time.monotonic() + minutes * MINUTE)

    @property
    def is_spent(self) -> bool:
        """Whether the time is over."""
        return self.deadline is not None and time.monotonic() >= self.deadline


class _HopelessError(Exception):
    """The trial is worse than others were at its epoch."""


class _OutOfTimeError(Exception):
    """The budget is spent; the trial can go on another time."""


class _Watch:
    """Looks at a trial before each of its epochs, and ends it when it is hopeless or the time is over."""

    def __init__(self, study: Study, budget: Budget) -> None:
        self._study, self._budget = study, budget
        self._others = [trial for trial in study.trials() if trial.state is State.COMPLETE]
        self.history: History = ()

    def __call__(self, history: History) -> None:
        self.history = tuple(history)
        if is_hopeless(self._study.space, self._others, history, epochs=self._study.run.training.epochs or 1):
            raise _HopelessError
        if self._budget.is_spent:
            raise _OutOfTimeError


class _TrialProgress:
    """One bar for all epochs of a trial."""

    def __init__(self, progress: Progress, label: str, part: tuple[int, int]) -> None:
        self._progress, self._label, self._part = progress, label, part
        self._bar: Bar | None = None
        self._epoch = ""

    def start(self, label: str, total: int, *, part: tuple[int, int] = (0, 1)) -> Bar:
        """Begin an epoch; the first one of the process begins the bar, with the epochs before it done."""
        epoch, epochs = part
        self._epoch = label
        if self._bar is None:
            self._bar = self._progress.start(self._label, total * epochs, part=self._part)
            self._bar.advance(total * epoch)
        return self

    def advance(self, steps: int = 1, note: str = "") -> None:  # noqa: ARG002 - the note is the epoch
        if self._bar:
            self._bar.advance(steps, self._epoch)

    def close(self, note: str = "") -> None:
        """End an epoch."""

    def end(self, note: str) -> None:
        """End the trial."""
        if self._bar:
            self._bar.close(note)


def run_trial(study: Study, trial: Trial, budget: Budget, progress: Progress) -> Trial:
    """Fit a trial's network, and write down how it went, unless the time was over before that was known.

    Args:
        study: that the trial is of.
        trial: claimed, so nobody else's.
        budget: whose deadline counts.
        progress: is told of a piece of work for the whole trial.

    Returns:
        The trial as it is now.
    """
    began = time.monotonic()
    watch = _Watch(study, budget)
    bar = _TrialProgress(progress, f"trial {trial.number}", (trial.number, max(budget.trials, trial.number + 1)))
    ended = replace(_fitted(study, trial, watch, bar), seconds=round(time.monotonic() - began, 3))
    if ended.state is not State.UNFINISHED:
        study.finish(ended)
    bar.end(describe(ended))
    return ended


def _fitted(study: Study, trial: Trial, watch: _Watch, progress: Progress) -> Trial:
    store, run = study.store, with_values(study.run, trial.values)
    config = run.members()[0]
    network = stages.build_network(store, study.arrays, run.model, seed=config.seed)
    try:
        model = stages.train_network(store, network, study.arrays, config, progress=progress, before_epoch=watch)
    except _OutOfTimeError:
        return trial
    except (_HopelessError, ModelError) as error:
        state = State.PRUNED if isinstance(error, _HopelessError) else State.DIVERGED
        checkpoint = stages.checkpoint_of(store, recipes.model(network, study.arrays, config))
        with writing(store.root):
            checkpoint.unlink(missing_ok=True)
        return replace(trial, state=state, history=watch.history)
    history = stages.read_json(store.open(model).file("model.json"))["history"]
    return replace(trial, state=State.COMPLETE, history=tuple(history), model=model.digest)


def describe(trial: Trial) -> str:
    """Say in a few words how a trial went."""
    if not trial.history:
        return f"{trial.state} in the first epoch"
    measured = f"loss {trial.loss:.4f}, accuracy {trial.history[-1]['validation_accuracy']:.2%}"
    if trial.state is State.COMPLETE:
        return measured
    return f"{trial.state} after epoch {len(trial.history)}: {measured}"


@dataclass(frozen=True)
class Tuned:
    """What came of a study so far.

    Args:
        study: its name.
        trials: so far, by number.
        best: the best complete one.
        settings: the best trial's run, resolved.
        config: the file that `digits train --config` takes.
        report: the page.
    """

    study: str
    trials: tuple[Trial, ...]
    best: Trial
    settings: TrainingRun
    config: Path
    report: Path

    def counts(self) -> dict[str, int]:
        """Give how many trials ended in each way."""
        states = [trial.state for trial in self.trials]
        return {str(state): states.count(state) for state in State if state in states}

    def as_record(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return {
            "study": self.study,
            "trials": self.counts(),
            "best": {
                "trial": self.best.number,
                "values": dict(self.best.values),
                "validation_calibrated_loss": self.best.loss,
                "validation_accuracy": self.best.history[-1]["validation_accuracy"],
            },
            "config": str(self.config),
            "report": str(self.report),
        }


def conclude(study: Study, out: Path | None = None) -> Tuned:
    """Write the best settings as a configuration file, and the study's report.

    Args:
        study: any number of its trials may be finished.
        out: the file; None: `best.toml` in the study's directory.

    Raises:
        UsageError: no trial was finished, for want of time.
        ModelError: all of them diverged.
    """
    trials = study.trials()
    best = best_of(trials)
    if best is None:
        raise _nothing_found(trials)
    settings = with_values(study.run, best.values)
    config = (out or study.path / "best.toml").absolute()
    report = StudyReport(study.name, study.run, study.space, trials, best, _validation_images(study), study.seed)
    pictures = study_pictures(report)
    with writing(config.parent):
        write_file(config, config_text(settings, study, trials, best).encode())
    with writing(study.store.root):
        write_file(study.path / "report.html", as_html(report, pictures).encode())
        write_file(study.path / "report.md", as_markdown(report, pictures).encode())
    return Tuned(study.name, tuple(trials), best, settings, config, study.path / "report.html")


def _nothing_found(trials: Sequence[Trial]) -> UsageError | ModelError:
    if any(trial.state is State.UNFINISHED for trial in trials) or not trials:
        return UsageError("no trial was finished within the budget; the same command goes on, give it more minutes")
    return ModelError(f"all {len(trials)} trials diverged; search lower learning rates")


def _validation_images(study: Study) -> int:
    labels = study.store.open(study.arrays).file("validation_labels.npy")
    return len(np.load(labels, mmap_mode="r", allow_pickle=False))


def config_text(settings: TrainingRun, study: Study, trials: Sequence[Trial], best: Trial) -> str:
    """Give a configuration file that means these settings, headed by how they were found."""
    import tomli_w

    about = [
        f"Found by `digits tune`: trial {best.number} of {len(trials)}, study {study.name}.",
        f"On the validation images: {describe(best)}. The test images were not looked at.",
        "For `digits train --config`; every setting that is not here is the preset's.",
    ]
    return "".join(f"# {line}\n" for line in about) + "\n" + tomli_w.dumps(settings.differences())
