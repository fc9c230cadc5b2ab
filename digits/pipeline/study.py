"""Studies: the trials of one search, each a sealed record of its own, whole or not there whenever a process was killed.

A study is `<root>/studies/<name>/`. Its name is the digest of what its trials have in common: data, settings, space,
seed, and the version of the code that trains; how many trials it has does not count. A trial is held
by a lock that the kernel drops when its process dies, so any process finds what is nobody's and goes on with it.
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
from digits.pipeline import lineage, recipes
from digits.pipeline import steps as steps_module
from digits.pipeline.config import TrainingRun
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
from digits.pipeline.study_report import StudyReport, as_html, as_markdown, study_pictures
from digits.progress import Bar, Progress
from digits.store.artifacts import ArtifactRef, Store, reading, writing
from digits.store.code_version import code_version
from digits.store.files import write_file
from digits.store.records import create_record, digest_of, read_record, write_record

NAME_LENGTH = 12


@dataclass(frozen=True, eq=False)
class Study:
    """The trials of one search.

    Args:
        store: where they are kept.
        run: resolved; the settings of trial 0, and of all others but for what is searched.
        space: checked.
        arrays: what is fitted and validated with.
        seed: of what is proposed.
    """

    store: Store
    run: TrainingRun
    space: Space
    arrays: ArtifactRef
    seed: int

    def as_record(self) -> dict[str, Any]:
        """Give what makes the study what it is."""
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
        """The first twelve digits of the digest of all that."""
        return digest_of(self.as_record())[:NAME_LENGTH]

    @property
    def path(self) -> Path:
        """The study's directory."""
        return self.store.studies / self.name

    def create(self) -> None:
        """Write down what the study is of, unless that was done.

        Raises:
            CorruptArtifactError: what was written down is damaged, or of another study.
        """
        file = self.path / "study.json"
        with writing(self.store.root):
            is_new = create_record(file, self.as_record())
        if not is_new and read_record(file) != self.as_record():
            raise CorruptArtifactError(f"{file}: it is of another study; move its directory out of the way")

    def trials(self) -> list[Trial]:
        """Give the trials so far, by number.

        Raises:
            CorruptArtifactError: a record was changed after it was written; without it, its trial is made anew.
        """
        with reading(self.store.root):
            return [_trial_of(path) for path in sorted(self.path.glob("trial-*.json"))]

    def finish(self, trial: Trial) -> None:
        """Write down how a trial ended."""
        with writing(self.store.root):
            write_record(self._file(trial.number), asdict(trial))

    @contextmanager
    def claim_trial(self, most: int) -> Iterator[Trial | None]:
        """Have a trial for oneself: one that a dead process has left, or a new one; None when the study has enough.

        Args:
            most: trials that the study is to have.
        """
        with ExitStack() as held:
            with self.store.lock(f"study-{self.name}"):
                trial = self._left_trial(held) or self._new_trial(held, most)
            yield trial

    def _left_trial(self, held: ExitStack) -> Trial | None:
        """Find an unfinished trial that nobody holds; it may have been finished before we held it."""
        for trial in self.trials():
            if trial.state is TrialState.UNFINISHED and held.enter_context(self._hold(trial.number)):
                now = _trial_of(self._file(trial.number))
                if now.state is TrialState.UNFINISHED:
                    return now
        return None

    def _new_trial(self, held: ExitStack, most: int) -> Trial | None:
        trials = self.trials()
        if len(trials) >= most:
            return None
        number = next(number for number in count() if number not in {trial.number for trial in trials})
        trial = Trial(number, self._values(number, trials))
        held.enter_context(self._hold(number))
        with writing(self.store.root):
            create_record(self._file(number), asdict(trial))
        return trial

    def _values(self, number: int, trials: list[Trial]) -> dict[str, Any]:
        if number == 0:
            return {name: get_value(self.run, name) for name in self.space}
        return propose(self.space, trials, number=number, seed=self.seed)

    def _hold(self, number: int) -> Any:
        return self.store.try_lock(f"study-{self.name}-{number}")

    def _file(self, number: int) -> Path:
        return self.path / f"trial-{number:05}.json"


def _trial_of(path: Path) -> Trial:
    record = read_record(path)
    return Trial(**{**record, "state": TrialState(record["state"]), "history": tuple(record["history"])})


MINUTE = 60


def begin_study(store: Store, run: TrainingRun, space: Space | None, arrays: ArtifactRef, *, seed: int) -> Study:
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
    study = Study(store, run, check_space(space, run, source="space") if space else default_space(run), arrays, seed)
    study.create()
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
    def starting_now(cls, trials: int, minutes: float | None) -> "Budget":
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
        self._others = [trial for trial in study.trials() if trial.state is TrialState.COMPLETE]
        self.history: History = ()

    def __call__(self, history: History) -> None:
        self.history = tuple(history)
        if should_prune(self._study.space, self._others, history, epochs=self._study.run.training.epochs or 1):
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
    if ended.state is not TrialState.UNFINISHED:
        study.finish(ended)
    bar.end(describe_trial(ended))
    return ended


def _fitted(study: Study, trial: Trial, watch: _Watch, progress: Progress) -> Trial:
    store, run = study.store, with_values(study.run, trial.values)
    config = run.members()[0]
    network = steps_module.build_network(store, study.arrays, run.model, seed=config.seed)
    try:
        model = steps_module.train_network(store, network, study.arrays, config, progress=progress, before_epoch=watch)
    except _OutOfTimeError:
        return trial
    except (_HopelessError, ModelError) as error:
        state = TrialState.PRUNED if isinstance(error, _HopelessError) else TrialState.DIVERGED
        checkpoint = steps_module.checkpoint_path(store, recipes.model(network, study.arrays, config))
        with writing(store.root):
            checkpoint.unlink(missing_ok=True)
        return replace(trial, state=state, history=watch.history)
    history = lineage.read_json(store.open(model).file("model.json"))["history"]
    return replace(trial, state=TrialState.COMPLETE, history=tuple(history), model=model.digest)


def describe_trial(trial: Trial) -> str:
    """Say in a few words how a trial went."""
    if not trial.history:
        return f"{trial.state} in the first epoch"
    measured = f"loss {trial.loss:.4f}, accuracy {trial.history[-1]['validation_accuracy']:.2%}"
    if trial.state is TrialState.COMPLETE:
        return measured
    return f"{trial.state} after epoch {len(trial.history)}: {measured}"


@dataclass(frozen=True)
class TuningResult:
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
        return {str(state): states.count(state) for state in TrialState if state in states}

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


def conclude_study(study: Study, out: Path | None = None) -> TuningResult:
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
    return TuningResult(study.name, tuple(trials), best, settings, config, study.path / "report.html")


def _nothing_found(trials: Sequence[Trial]) -> UsageError | ModelError:
    if any(trial.state is TrialState.UNFINISHED for trial in trials) or not trials:
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
        f"On the validation images: {describe_trial(best)}. The test images were not looked at.",
        "For `digits train --config`; every setting that is not here is the preset's.",
    ]
    return "".join(f"# {line}\n" for line in about) + "\n" + tomli_w.dumps(settings.differences())
