"""Where to search: for each hyperparameter a range or a choice, within the bounds that the configuration has itself.

A space names hyperparameters as a configuration file does: `training.learning_rate`, `training.augmentation.zoom`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from pydantic import Field, model_validator

from digits.errors import UsageError
from digits.pipeline.config import TrainingRun
from digits.settings import Settings, merge_settings, parse
from digits.store.records import digest_of

Values = Mapping[str, Any]
"""A value for each hyperparameter, by its dotted name."""
Number = int | float

SEARCHED = ("model", "training")
FIXED = {
    "model.architecture": "a study is of one network; choose it with --architecture",
    "training.epochs": "trials are compared epoch by epoch, so all have the same; choose them with --epochs",
    "training.members": "a trial is one network; those that are averaged have its settings",
    "training.seed": "a seed is no setting that is better than another",
}


class Range(Settings):
    """Numbers from low to high, both included; whole ones where the setting takes no others."""

    low: Number
    high: Number
    log: bool = Field(False, description="Search evenly over the orders of magnitude.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be less than high, found {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range must be above 0, found low = {self.low}")
        return self

    @property
    def extremes(self) -> tuple[Any, ...]:
        """The values that must be within the configuration's bounds."""
        return self.low, self.high

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers are meant; of a range that was checked."""
        return isinstance(self.low, int)

    def has(self, value: Any) -> bool:
        """Tell whether a value is within the range."""
        return isinstance(value, int | float) and self.low <= value <= self.high


class Choice(Settings):
    """One of some values."""

    choices: tuple[Any, ...] = Field(min_length=2, max_length=64)

    @property
    def extremes(self) -> tuple[Any, ...]:
        """The values that must be within the configuration's bounds."""
        return self.choices

    def has(self, value: Any) -> bool:
        """Tell whether a value is one of the choices."""
        return any(_plain(value) == _plain(choice) for choice in self.choices)

    def position(self, value: Any) -> int:
        """Give which of the choices a value is, from 0."""
        return [_plain(choice) for choice in self.choices].index(_plain(value))


Dimension = Range | Choice
Space = Mapping[str, Dimension]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def read_space(written: Mapping[str, Any], run: TrainingRun, *, source: str) -> dict[str, Dimension]:
    """Read a search space as a file has it: the tables of a configuration, with `{low, high, log}` or `{choices}`.

    Args:
        written: nested by the parts of the names.
        run: resolved; what its settings take is what the space may hold.
        source: named in messages.

    Raises:
        UsageError: a name or a value that the configuration does not take, or that a study can't vary.
    """
    space = {name: _read_dimension(name, value, source) for name, value in _leaves(written, source)}
    if not space:
        raise UsageError(f"{source}: there is nothing to search; name a setting, such as [training] learning_rate = "
                         "{ low = 0.001, high = 0.02, log = true }")  # fmt: skip
    return check_space(space, run, source=source)


def check_space(space: Space, run: TrainingRun, *, source: str) -> dict[str, Dimension]:
    """Hold a space against the settings of a resolved run, and have the ends of each range be of the setting's type.

    Raises:
        UsageError: as `read_space`.
    """
    return {name: _checked_dimension(name, dimension, run, source) for name, dimension in sorted(space.items())}


def _leaves(written: Mapping[str, Any], source: str, prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, value in written.items():
        name = f"{prefix}{key}"
        if not isinstance(value, Mapping):
            raise UsageError(f"{source}: {name}: expected {{ low, high }} or {{ choices }}, found {value!r}")
        if value.keys() & {*Range.model_fields, *Choice.model_fields}:
            yield name, value
        else:
            yield from _leaves(value, source, f"{name}.")


def _read_dimension(name: str, value: Mapping[str, Any], source: str) -> Dimension:
    label = f"{source}: {name}"
    return parse(Choice, value, source=label) if "choices" in value else parse(Range, value, source=label)


def _checked_dimension(name: str, dimension: Dimension, run: TrainingRun, source: str) -> Dimension:
    if name in FIXED:
        raise UsageError(f"{source}: {name} can't be searched: {FIXED[name]}")
    if name.partition(".")[0] not in SEARCHED:
        raise UsageError(
            f"{source}: {name} can't be searched: only settings of [model] and [training] are; all trials are measured "
            "on the same validation images"
        )
    for value in dimension.extremes:
        with_values(run, {name: value}, source=source)
    if isinstance(dimension, Choice):
        return dimension
    kind = int if _takes_whole_numbers_only(name, dimension, run) else float
    return dimension.model_copy(update={"low": kind(dimension.low), "high": kind(dimension.high)})


def _takes_whole_numbers_only(name: str, dimension: Range, run: TrainingRun) -> bool:
    if not (float(dimension.low).is_integer() and float(dimension.high).is_integer()):
        return False
    try:
        with_values(run, {name: dimension.low + 0.5}, source="")
    except UsageError:
        return True
    return False


def with_values(run: TrainingRun, values: Values, *, source: str = "trial") -> TrainingRun:
    """Give a resolved run with other values of some hyperparameters.

    Raises:
        UsageError: a name is unknown, or a value out of bounds.
    """
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *above, last = name.split(".")
        place = nested
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    return parse(TrainingRun, merge_settings(run.model_dump(), nested), source=source)


def get_value(run: TrainingRun, name: str) -> Any:
    """Give the value that a resolved run has for a hyperparameter; sequences as lists."""
    value: Any = run.model_dump()
    for part in name.split("."):
        value = value[part]
    return _plain(value)


def default_space(run: TrainingRun) -> dict[str, Dimension]:
    """Give what is worth searching for the network of a resolved run, around what is recommended for it."""
    architecture = str(run.model.architecture)
    return check_space(_dense(run) if architecture in _DENSE else _convolutional(run), run, source=architecture)


_DENSE = ("mlp", "mlp-2")


def _dense(run: TrainingRun) -> Space:
    """All hidden layers have the same width, as many as there are."""
    depth = len(run.model.hidden or ())
    return {
        "model.hidden": Choice(choices=tuple([width] * depth for width in (64, 128, 256, 512))),
        "model.dropout": Range(low=0.0, high=0.7),
        "training.learning_rate": Range(low=2e-4, high=2e-2, log=True),
        "training.batch_size": Choice(choices=(32, 64, 128, 256)),
        "training.label_smoothing": Range(low=0.0, high=0.2),
    }


def _convolutional(run: TrainingRun) -> Space:
    """Strengths of augmentation are searched up to twice the recommended ones, where there are any."""
    augmentation = run.training.augmentation
    strengths = {name: 2 * getattr(augmentation, name) for name in _STRENGTHS} if run.training.augment else {}
    return {
        "model.dropout": Range(low=0.0, high=0.4),
        "training.learning_rate": Range(low=1e-3, high=3e-2, log=True),
        "training.weight_decay": Range(low=1e-4, high=1e-1, log=True),
        "training.batch_size": Choice(choices=(64, 128, 256)),
        "training.label_smoothing": Range(low=0.0, high=0.2),
        **{
            f"training.augmentation.{name}": Range(low=0.0, high=min(high, _STRENGTHS[name]))
            for name, high in strengths.items()
            if high
        },
    }


_STRENGTHS = {"rotation": 180.0, "shift": 14.0, "zoom": 0.8}
"""The largest that are searched, which the configuration takes."""


History = Sequence[Mapping[str, float]]
OBJECTIVE = "validation_calibrated_loss"
STARTUP_TRIALS = 8
"""Drawn at random before the sampler has something to go by."""
PRUNING_PERCENTILE = 75.0
COMPLETE_BEFORE_PRUNING = 4
IMPORTANCE_TRIALS = 8
"""Complete trials below which importances would be noise."""


class TrialState(StrEnum):
    """What became of a trial."""

    UNFINISHED = "unfinished"
    COMPLETE = "complete"
    PRUNED = "pruned"
    DIVERGED = "diverged"


@dataclass(frozen=True)
class Trial:
    """Settings that are tried, and how that went.

    Args:
        number: from 0; 0 has the settings as they were.
        values: of the hyperparameters that are searched.
        state: what became of it.
        history: metrics of each epoch, as `training.fit` gives them.
        seconds: that it took, of the process that ended it.
        model: the digest of the fitted network, where the trial is complete.
    """

    number: int
    values: Values
    state: TrialState = TrialState.UNFINISHED
    history: History = ()
    seconds: float = 0.0
    model: str | None = None

    @property
    def losses(self) -> list[float]:
        """The objective after each epoch."""
        return [epoch[OBJECTIVE] for epoch in self.history]

    @property
    def loss(self) -> float | None:
        """The objective in the end; None before the first epoch's."""
        return self.losses[-1] if self.history else None


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Give the complete trial with the least loss, the first of equals; None when none is complete."""
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    return min(complete, key=lambda trial: (trial.loss, trial.number), default=None)


def propose(space: Space, trials: Sequence[Trial], *, number: int, seed: int) -> dict[str, Any]:
    """Give the values to try in a trial.

    Args:
        space: checked.
        trials: those before it; unfinished ones are taken to go badly, so that others are proposed.
        number: of the trial.
        seed: of the study.
    """
    import optuna

    sampler = optuna.samplers.TPESampler(seed=_seed_of(seed, number), n_startup_trials=STARTUP_TRIALS)
    asked = _study(space, trials, sampler=sampler).ask(_distributions(space))
    return {name: _meant(space[name], value) for name, value in asked.params.items()}


def should_prune(space: Space, trials: Sequence[Trial], history: History, *, epochs: int) -> bool:
    """Tell whether a trial should be given up: its best loss so far is among the worst quarter of others at this epoch.

    Half of the epochs are waited for: while the learning rate is high, the losses say little of the end. Those that
    are compared with are complete, so they are the better ones; the median would be too strict.

    Args:
        space: checked.
        trials: others; complete ones are compared with.
        history: of the trial, so far.
        epochs: that it has in all.
    """
    import optuna

    if not history:
        return False
    pruner = optuna.pruners.PercentilePruner(PRUNING_PERCENTILE, COMPLETE_BEFORE_PRUNING, math.ceil(epochs / 2))
    return pruner.prune(_study(space, trials), _frozen(space, Trial(0, {}, history=history)))


def importances(space: Space, trials: Sequence[Trial], *, seed: int) -> dict[str, float]:
    """Give what share of the differences in loss each hyperparameter explains (fANOVA), the largest first.

    Empty where there are too few complete trials, or their losses are all the same.
    """
    import optuna

    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    within = [trial for trial in complete if all(space[name].has(value) for name, value in trial.values.items())]
    if len(within) < IMPORTANCE_TRIALS or len({trial.loss for trial in within}) == 1:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=_seed_of(seed, 0))
    found = optuna.importance.get_param_importances(_study(space, within), evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}


def _seed_of(seed: int, number: int) -> int:
    return int(digest_of([seed, number])[:8], 16)


def _study(space: Space, trials: Sequence[Trial], **options: Any) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize", **options)
    study.add_trials([_frozen(space, trial) for trial in trials])
    return study


def _frozen(space: Space, trial: Trial) -> Any:
    """Give a trial as Optuna has them; values outside of the space, such as those of trial 0, are left out."""
    from optuna.trial import TrialState, create_trial

    states = {
        TrialState.UNFINISHED: TrialState.RUNNING,
        TrialState.COMPLETE: TrialState.COMPLETE,
        TrialState.PRUNED: TrialState.PRUNED,
        TrialState.DIVERGED: TrialState.PRUNED,  # the worst of what was pruned, when it came to no epoch's end
    }
    within = {name: value for name, value in trial.values.items() if space[name].has(value)}
    return create_trial(
        state=states[trial.state],
        value=trial.loss if trial.state is TrialState.COMPLETE else None,
        params={name: _internal(space[name], value) for name, value in within.items()},
        distributions={name: one for name, one in _distributions(space).items() if name in within},
        intermediate_values=dict(enumerate(trial.losses, 1)),
    )


def _distributions(space: Space) -> dict[str, Any]:
    return {name: _distribution(dimension) for name, dimension in space.items()}


def _distribution(dimension: Dimension) -> Any:
    from optuna import distributions

    if not isinstance(dimension, Range):
        return distributions.CategoricalDistribution(range(len(dimension.choices)))
    if dimension.is_whole:
        return distributions.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _internal(dimension: Dimension, value: Any) -> Any:
    return value if isinstance(dimension, Range) else dimension.position(value)


def _meant(dimension: Dimension, value: Any) -> Any:
    """Give a proposed value as it is tried: numbers with four digits that count, so that people can read them."""
    if not isinstance(dimension, Range):
        return dimension.choices[value]
    return value if dimension.is_whole else min(dimension.high, max(dimension.low, float(f"{value:.4g}")))
