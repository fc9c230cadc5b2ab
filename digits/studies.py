"""Studies: the trials of one search, each a sealed record of its own, whole or not there whenever a process was killed.

A study is `<root>/studies/<name>/`. Its name is the digest of what its trials have in common: data, settings, space,
seed, and the version of the code that trains; how many trials it has does not count. A trial is held
by a lock that the kernel drops when its process dies, so any process finds what is nobody's and goes on with it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from digits.config import TrainingRun
from digits.errors import CorruptArtifactError
from digits.records import create_record, digest_of, read_record, write_record
from digits.search import State, Trial, propose
from digits.spaces import Space, value_in
from digits.store import ArtifactRef, Store, code_version, reading, writing

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
            "code": code_version("digits.training", "digits.models"),
        }

    @property
    def name(self) -> str:
        """The first twelve digits of the digest of all that."""
        return digest_of(self.as_record())[:NAME_LENGTH]

    @property
    def path(self) -> Path:
        """The study's directory."""
        return self.store.studies / self.name

    def begin(self) -> None:
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
    def claim(self, most: int) -> Iterator[Trial | None]:
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
            if trial.state is State.UNFINISHED and held.enter_context(self._hold(trial.number)):
                now = _trial_of(self._file(trial.number))
                if now.state is State.UNFINISHED:
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
            return {name: value_in(self.run, name) for name in self.space}
        return propose(self.space, trials, number=number, seed=self.seed)

    def _hold(self, number: int) -> Any:
        return self.store.lock_if_free(f"study-{self.name}-{number}")

    def _file(self, number: int) -> Path:
        return self.path / f"trial-{number:05}.json"


def _trial_of(path: Path) -> Trial:
    record = read_record(path)
    return Trial(**{**record, "state": State(record["state"]), "history": tuple(record["history"])})
