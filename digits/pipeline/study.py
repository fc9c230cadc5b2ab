"""Studies: hyperparameter searches that can be resumed and shared by processes, and their results.

A study is the directory `<root>/studies/<name>/`. Its name is the digest of what its trials have in common: data,
settings, search space, seed, and the code version of the training. The number of trials is not part of the name. Each
trial is a sealed record (`digits.store.records`), which is complete or absent whenever a process is killed. A process
locks the trial that it runs. The kernel releases the lock when the process ends. Then another process can resume the
trial.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from digits.errors import CorruptArtifactError, ModelError, UsageError
from digits.pipeline import recipes
from digits.pipeline.config import TrainingRun
from digits.pipeline.lineage import read_json
from digits.pipeline.search import (
    History,
    Space,
    Trial,
    TrialState,
    best_of,
    check_space,
    default_space,
    get_value,
    propose,
    should_prune,
    with_values,
)
from digits.pipeline.steps import build_network, checkpoint_path, train_network
from digits.pipeline.study_report import StudyReport, as_html, as_markdown, study_pictures
from digits.progress import Bar, Progress
from digits.store.artifacts import ArtifactRef, Store, reading, writing
from digits.store.code_version import code_version
from digits.store.files import write_file
from digits.store.records import create_record, digest_of, read_record, write_record
from digits.store.written import write_own_file
from digits.wording import choose

NAME_LENGTH = 12


@dataclass(frozen=True, eq=False)
class Study:
    """Hyperparameter search: its settings, search space and trials.

    Args:
        store: artifact store.
        run: resolved training run with the initial settings, those of trial 0.
        space: checked search space.
        arrays: arrays with the training and validation images.
        seed: random seed of the search.
    """

    store: Store
    run: TrainingRun
    space: Space
    arrays: ArtifactRef
    seed: int

    def as_record(self) -> dict[str, Any]:
        """Return the record that identifies the study."""
        return {
            "model": self.run.model.model_dump(mode="json"),
            "training": self.run.members()[0].model_dump(mode="json"),
            "space": {name: dimension.model_dump(mode="json") for name, dimension in self.space.items()},
            "arrays": self.arrays.digest,
            "seed": self.seed,
            "code": code_version("digits.training.fit", "digits.training.networks"),
        }

    @property
    def name(self) -> str:
        """Name of the study: the first twelve digits of the digest of its record."""
        return digest_of(self.as_record())[:NAME_LENGTH]

    @property
    def path(self) -> Path:
        """Directory of the study."""
        return self.store.studies / self.name

    def create(self) -> None:
        """Write the record of the study, unless it exists.

        Raises:
            CorruptArtifactError: if the existing record is damaged or belongs to another study.
        """
        file = self.path / "study.json"
        with writing(self.store.root):
            is_new = create_record(file, self.as_record())
        if not is_new and read_record(file) != self.as_record():
            raise CorruptArtifactError(f"{file}: found the record of another study; move its directory away")

    def trials(self) -> list[Trial]:
        """Return the trials so far, by number.

        Raises:
            CorruptArtifactError: if the record of a trial is damaged. If you remove the record, the trial is run again.
        """
        with reading(self.store.root):
            return [_load_trial(path) for path in sorted(self.path.glob("trial-*.json"))]

    def finish(self, trial: Trial) -> None:
        """Write the record of a trial that ended."""
        with writing(self.store.root):
            write_record(self._file(trial.number), asdict(trial))

    @contextmanager
    def claim_trial(self, total: int) -> Iterator[Trial | None]:
        """Yield a trial to run, and lock it: an unfinished one that no process has locked, else a new one.

        None is yielded if the study has all its trials.

        Args:
            total: total number of trials, including earlier runs.
        """
        with ExitStack() as locks:
            with self.store.lock(f"study-{self.name}"):
                trial = self._resume_trial(locks) or self._new_trial(locks, total)
            yield trial

    def _resume_trial(self, locks: ExitStack) -> Trial | None:
        """Lock and return an unfinished trial that no process has locked; None if there is none.

        The record is read again under the lock, because the trial may have ended meanwhile.
        """
        for trial in self.trials():
            if trial.state is TrialState.UNFINISHED and locks.enter_context(self._try_lock(trial.number)):
                now = _load_trial(self._file(trial.number))
                if now.state is TrialState.UNFINISHED:
                    return now
        return None

    def _new_trial(self, locks: ExitStack, total: int) -> Trial | None:
        trials = self.trials()
        if len(trials) >= total:
            return None
        number = next(number for number in count() if number not in {trial.number for trial in trials})
        trial = Trial(number, self._values(number, trials))
        locks.enter_context(self._try_lock(number))
        with writing(self.store.root):
            create_record(self._file(number), asdict(trial))
        return trial

    def _values(self, number: int, trials: list[Trial]) -> dict[str, Any]:
        if number == 0:
            return {name: get_value(self.run, name) for name in self.space}
        return propose(self.space, trials, number=number, seed=self.seed)

    def _try_lock(self, number: int) -> Any:
        return self.store.try_lock(f"study-{self.name}-{number}")

    def _file(self, number: int) -> Path:
        return self.path / f"trial-{number:05}.json"


def _load_trial(path: Path) -> Trial:
    record = read_record(path)
    return Trial(**{**record, "state": TrialState(record["state"]), "history": tuple(record["history"])})


MINUTE = 60


def begin_study(store: Store, run: TrainingRun, space: Space | None, arrays: ArtifactRef, *, seed: int) -> Study:
    """Return the study with these settings, data, search space and seed; create it if it does not exist.

    Args:
        store: artifact store.
        run: resolved training run with the initial settings.
        space: search space; None for the default space of the network.
        arrays: arrays prepared from the datasets of the run.
        seed: random seed of the search.

    Raises:
        UsageError: if the configuration does not accept a name or a value of the space, or if a setting cannot be
            searched.
    """
    study = Study(store, run, check_space(space, run, source="space") if space else default_space(run), arrays, seed)
    study.create()
    return study


@dataclass(frozen=True)
class Budget:
    """Budget of a search.

    Args:
        trials: total number of trials, including earlier runs.
        deadline: time after which no new epoch starts, by the clock `time.monotonic`; None for no limit.
    """

    trials: int
    deadline: float | None = None

    @classmethod
    def starting_now(cls, trials: int, minutes: float | None) -> "Budget":
        """Return a budget whose time starts now."""
        return cls(trials, minutes and time.monotonic() + minutes * MINUTE)

    @property
    def is_spent(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline


class _PrunedError(Exception):
    """Error that ends the training of a trial that is pruned; see `digits.pipeline.search.should_prune`."""


class _OutOfTimeError(Exception):
    """Error that interrupts the training of a trial because the time budget is spent; the trial can be resumed."""


class _EpochCheck:
    """Callback before each epoch of a trial, which raises an error if the trial is pruned or the time is spent."""

    def __init__(self, study: Study, budget: Budget) -> None:
        self._study, self._budget = study, budget
        self._others = [trial for trial in study.trials() if trial.state is TrialState.COMPLETE]
        self.history: History = ()

    def __call__(self, history: History) -> None:
        self.history = tuple(history)
        if should_prune(self._study.space, self._others, history, epochs=self._study.run.training.epochs or 1):
            raise _PrunedError
        if self._budget.is_spent:
            raise _OutOfTimeError


class TrialProgress:
    """Progress of a trial: one bar for all epochs."""

    def __init__(self, progress: Progress, label: str, part: tuple[int, int]) -> None:
        self._progress, self._label, self._part = progress, label, part
        self._bar: Bar | None = None
        self._epoch, self._total, self._left = "", 0, 0

    def start(self, label: str, total: int, *, part: tuple[int, int] = (0, 1)) -> Bar:
        """Start an epoch; the first call starts the bar, and counts the epochs of earlier runs as done.

        Every epoch counts as many steps as the first one: further steps, of epochs with drawn forms, are not counted.
        """
        epoch, epochs = part
        if self._bar is None:
            self._total = total
            self._bar = self._progress.start(self._label, total * epochs, part=self._part)
            self._bar.advance(total * epoch)
        self._epoch, self._left = label, self._total
        return self

    def advance(self, steps: int = 1, note: str = "") -> None:  # noqa: ARG002 - the epoch is shown as the note
        """Report steps of the current epoch."""
        if self._bar:
            counted = min(steps, self._left)
            self._left -= counted
            self._bar.advance(counted, self._epoch)

    def close(self, note: str = "") -> None:
        """End an epoch."""

    def end(self, note: str) -> None:
        """End the trial."""
        if self._bar:
            self._bar.close(note)


def run_trial(study: Study, trial: Trial, budget: Budget, progress: Progress) -> Trial:
    """Train the network of a trial, and record the result unless the time budget is spent before the end.

    Args:
        study: study of the trial.
        trial: trial that this process has claimed.
        budget: budget whose deadline applies.
        progress: progress that shows one bar for the trial.

    Returns:
        The trial with its new state; `UNFINISHED` if the time budget was spent before the end.
    """
    started = time.monotonic()
    check = _EpochCheck(study, budget)
    bar = TrialProgress(progress, f"trial {trial.number}", (trial.number, max(budget.trials, trial.number + 1)))
    ended = replace(_train(study, trial, check, bar), seconds=round(time.monotonic() - started, 3))
    if ended.state is not TrialState.UNFINISHED:
        study.finish(ended)
    bar.end(describe_trial(ended))
    return ended


def _train(study: Study, trial: Trial, check: _EpochCheck, progress: Progress) -> Trial:
    store, run = study.store, with_values(study.run, trial.values)
    config = run.members()[0]
    network = build_network(store, study.arrays, run.model, seed=config.seed)
    try:
        model = train_network(store, network, study.arrays, config, progress=progress, before_epoch=check)
    except _OutOfTimeError:
        return trial
    except (_PrunedError, ModelError) as error:
        state = TrialState.PRUNED if isinstance(error, _PrunedError) else TrialState.DIVERGED
        checkpoint = checkpoint_path(store, recipes.model(network, study.arrays, config))
        with writing(store.root):
            checkpoint.unlink(missing_ok=True)
        return replace(trial, state=state, history=check.history)
    history = read_json(store.open(model).file("model.json"))["history"]
    return replace(trial, state=TrialState.COMPLETE, history=tuple(history), model=model.digest)


def describe_trial(trial: Trial) -> str:
    """Return the state and the metrics of a trial in a few words."""
    if not trial.history:
        return f"{trial.state} in the first epoch"
    measured = f"loss {trial.loss:.4f}, accuracy {trial.history[-1]['validation_accuracy']:.2%}"
    if trial.state is TrialState.COMPLETE:
        return measured
    return f"{trial.state} after epoch {len(trial.history)}: {measured}"


@dataclass(frozen=True)
class TuningResult:
    """Results of a study so far.

    Args:
        study: name of the study.
        trials: trials so far, by number.
        best: best complete trial.
        settings: resolved training run with the settings of the best trial.
        config: path of the configuration file for `digits train --config`.
        report: path of the report as a web page.
    """

    study: str
    trials: tuple[Trial, ...]
    best: Trial
    settings: TrainingRun
    config: Path
    report: Path

    def counts(self) -> dict[str, int]:
        """Return the number of trials in each state."""
        states = [trial.state for trial in self.trials]
        return {str(state): states.count(state) for state in TrialState if state in states}

    def as_record(self) -> dict[str, Any]:
        """Return the results as JSON values."""
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


def conclude_study(study: Study, out: Path | None = None, *, force: bool = False) -> TuningResult:
    """Write the best settings as a configuration file, and the report of the study.

    Args:
        study: study with at least one complete trial.
        out: path of the configuration file; None for `best.toml` in the directory of the study.
        force: whether `out` may overwrite a file that Digits did not write or that was changed since.

    Raises:
        UsageError: if no trial was completed within the budget, or `out` is a file of somebody else.
        ModelError: if all trials diverged.
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
        text = config_text(settings, study, trials, best).encode()
        if out:
            write_own_file(study.store, config, text, force=force)
        else:
            write_file(config, text)
    with writing(study.store.root):
        write_file(study.path / "report.html", as_html(report, pictures).encode())
        write_file(study.path / "report.md", as_markdown(report, pictures).encode())
    return TuningResult(study.name, tuple(trials), best, settings, config, study.path / "report.html")


def _nothing_found(trials: Sequence[Trial]) -> UsageError | ModelError:
    if any(trial.state is TrialState.UNFINISHED for trial in trials) or not trials:
        return UsageError("no trial was completed within the budget; run the same command again with more minutes")
    diverged = choose(len(trials), "the only trial", f"all {len(trials)} trials")
    return ModelError(f"{diverged} diverged; search lower learning rates")


def _validation_images(study: Study) -> int:
    labels = study.store.open(study.arrays).file("validation_labels.npy")
    return len(np.load(labels, mmap_mode="r", allow_pickle=False))


def config_text(settings: TrainingRun, study: Study, trials: Sequence[Trial], best: Trial) -> str:
    """Return the text of a configuration file with these settings; comments at its top state how they were found."""
    import tomli_w

    about = [
        f"Found by `digits tune`: trial {best.number} of {len(trials)}, study {study.name}.",
        f"On the validation images: {describe_trial(best)}. The test images were not used.",
        "For `digits train --config`; the preset supplies every setting that is not listed.",
    ]
    return "".join(f"# {line}\n" for line in about) + "\n" + tomli_w.dumps(settings.differences())
