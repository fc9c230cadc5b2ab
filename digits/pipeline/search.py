"""Search: search space, trials, proposals and pruning of a hyperparameter search.

A search space has a range or a choice of values for each hyperparameter, within the bounds of the configuration. Names
of hyperparameters are dotted: `training.learning_rate`, `training.augmentation.zoom`.
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
"""Value of each hyperparameter, by its dotted name."""
Number = int | float

SEARCHED = ("model", "training")
"""Sections whose settings can be searched."""
FIXED = {
    "model.architecture": "a study has one architecture; set it with --architecture",
    "training.epochs": "trials are compared epoch by epoch, so all have the same number; set it with --epochs",
    "training.members": "a trial trains one network, and all members of an average get the settings found",
    "training.seed": "differences between seeds are chance",
}
"""Settings that cannot be searched, with the reason."""


class Range(Settings):
    """Range of numbers; a range of integers if the setting accepts only integers."""

    low: Number = Field(description="Smallest value, included.")
    high: Number = Field(description="Largest value, included.")
    log: bool = Field(False, description="Search on a logarithmic scale.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be less than high, found {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be greater than 0 in a logarithmic range, found {self.low}")
        return self

    @property
    def extremes(self) -> tuple[Any, ...]:
        """The values that must be within the configuration's bounds."""
        return self.low, self.high

    @property
    def is_whole(self) -> bool:
        """Whether the range has integers only; valid after `check_space`."""
        return isinstance(self.low, int)

    def contains(self, value: Any) -> bool:
        """Return whether a value is within the range."""
        return isinstance(value, int | float) and self.low <= value <= self.high


class Choice(Settings):
    """Choice among given values."""

    choices: tuple[Any, ...] = Field(min_length=2, max_length=64, description="Values to choose from.")

    @property
    def extremes(self) -> tuple[Any, ...]:
        """The values that must be within the configuration's bounds."""
        return self.choices

    def contains(self, value: Any) -> bool:
        """Return whether a value is one of the choices."""
        return any(_plain(value) == _plain(choice) for choice in self.choices)

    def position(self, value: Any) -> int:
        """Return the index of a value among the choices."""
        return [_plain(choice) for choice in self.choices].index(_plain(value))


Dimension = Range | Choice
Space = Mapping[str, Dimension]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def read_space(written: Mapping[str, Any], run: TrainingRun, *, source: str) -> dict[str, Dimension]:
    """Return the search space that a file describes.

    The file has the tables of a configuration, with `{low, high, log}` or `{choices}` in place of values.

    Args:
        written: content of the file, nested by the parts of the names.
        run: resolved training run, whose settings must accept the values of the space.
        source: name of the file, for error messages.

    Raises:
        UsageError: if the configuration does not accept a name or a value, or if the setting cannot be searched.
    """
    space = {name: _read_dimension(name, value, source) for name, value in _leaves(written, source)}
    if not space:
        raise UsageError(f"{source}: the search space is empty; add a setting, such as [training] learning_rate = "
                         "{ low = 0.001, high = 0.02, log = true }")  # fmt: skip
    return check_space(space, run, source=source)


def check_space(space: Space, run: TrainingRun, *, source: str) -> dict[str, Dimension]:
    """Check a space against a resolved run, and return it with the limits of each range as int or float.

    Raises:
        UsageError: if the configuration does not accept a name or a value, or if the setting cannot be searched.
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
        raise UsageError(f"{source}: {name} cannot be searched: {FIXED[name]}")
    if name.partition(".")[0] not in SEARCHED:
        raise UsageError(
            f"{source}: {name} cannot be searched, as all trials are measured on the same validation images; search "
            "settings of [model] and [training]"
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
    """Return a resolved run with other values of some hyperparameters.

    Raises:
        UsageError: if a name is unknown or a value is out of bounds.
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
    """Return the value of a hyperparameter in a resolved run, with tuples as lists."""
    value: Any = run.model_dump()
    for part in name.split("."):
        value = value[part]
    return _plain(value)


def default_space(run: TrainingRun) -> dict[str, Dimension]:
    """Return the default search space of the architecture of a resolved run."""
    architecture = str(run.model.architecture)
    return check_space(_dense(run) if architecture in _DENSE else _convolutional(run), run, source=architecture)


_DENSE = ("mlp", "mlp-2")


def _dense(run: TrainingRun) -> Space:
    """Return the space of a dense network, whose hidden layers all get the same width."""
    depth = len(run.model.hidden or ())
    return {
        "model.hidden": Choice(choices=tuple([width] * depth for width in (64, 128, 256, 512))),
        "model.dropout": Range(low=0.0, high=0.7),
        "training.learning_rate": Range(low=2e-4, high=2e-2, log=True),
        "training.batch_size": Choice(choices=(32, 64, 128, 256)),
        "training.label_smoothing": Range(low=0.0, high=0.2),
    }


def _convolutional(run: TrainingRun) -> Space:
    """Return the space of a convolutional network; augmentation is up to twice as strong as in the run."""
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
"""Upper limits of the augmentation settings in the default search space."""


History = Sequence[Mapping[str, float]]
OBJECTIVE = "validation_calibrated_loss"
"""Metric that a search minimizes: the validation loss after temperature scaling."""
STARTUP_TRIALS = 8
"""Number of trials with random values, after which the sampler proposes values."""
PRUNING_PERCENTILE = 75.0
"""Share of the complete trials, in percent, that must be better than a trial for it to be pruned."""
COMPLETE_BEFORE_PRUNING = 4
"""Number of complete trials from which on trials are pruned."""
IMPORTANCE_TRIALS = 8
"""Number of complete trials from which on importances are computed."""


class TrialState(StrEnum):
    """State of a trial."""

    UNFINISHED = "unfinished"
    COMPLETE = "complete"
    PRUNED = "pruned"
    DIVERGED = "diverged"


@dataclass(frozen=True)
class Trial:
    """Trial of a study: values of the hyperparameters, and the result of a training with them.

    Args:
        number: number of the trial, from 0; trial 0 has the initial settings.
        values: values of the hyperparameters that are searched.
        state: state of the trial.
        history: metrics of each epoch, as returned by `digits.training.fit.fit`.
        seconds: time that the last process of the trial spent on it.
        model: digest of the trained model, if the trial is complete.
    """

    number: int
    values: Values
    state: TrialState = TrialState.UNFINISHED
    history: History = ()
    seconds: float = 0.0
    model: str | None = None

    @property
    def losses(self) -> list[float]:
        """Objective after each epoch."""
        return [epoch[OBJECTIVE] for epoch in self.history]

    @property
    def loss(self) -> float | None:
        """Objective after the last epoch; None if there is none yet."""
        return self.losses[-1] if self.history else None


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the complete trial with the lowest loss, the earliest if several have it; None if none is complete."""
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    return min(complete, key=lambda trial: (trial.loss, trial.number), default=None)


def propose(space: Space, trials: Sequence[Trial], *, number: int, seed: int) -> dict[str, Any]:
    """Return the values to try in a trial, proposed by a tree-structured Parzen estimator (TPE).

    Args:
        space: checked search space.
        trials: trials so far; values close to those of unfinished trials are avoided.
        number: number of the trial.
        seed: random seed of the study.
    """
    import optuna

    sampler = optuna.samplers.TPESampler(seed=_seed_of(seed, number), n_startup_trials=STARTUP_TRIALS)
    asked = _study(space, trials, sampler=sampler).ask(_distributions(space))
    return {name: _round_proposal(space[name], value) for name, value in asked.params.items()}


def should_prune(space: Space, trials: Sequence[Trial], history: History, *, epochs: int) -> bool:
    """Return whether to prune a trial, because three quarters of the other trials were better at the same epoch.

    No trial is pruned in the first half of its epochs, because losses at a high learning rate do not predict the final
    loss. The threshold is not the median, because the complete trials, which are compared, are the better ones.

    Args:
        space: checked search space.
        trials: other trials, of which the complete ones are compared.
        history: metrics of the trial so far.
        epochs: total number of epochs of the trial.
    """
    import optuna

    if not history:
        return False
    pruner = optuna.pruners.PercentilePruner(PRUNING_PERCENTILE, COMPLETE_BEFORE_PRUNING, math.ceil(epochs / 2))
    return pruner.prune(_study(space, trials), _frozen_trial(space, Trial(0, {}, history=history)))


def importances(space: Space, trials: Sequence[Trial], *, seed: int) -> dict[str, float]:
    """Return the share of the variance of the loss that each hyperparameter explains (fANOVA), the largest first.

    The result is empty if there are fewer than `IMPORTANCE_TRIALS` complete trials, or if all their losses are equal.
    """
    import optuna

    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    within = [trial for trial in complete if all(space[name].contains(value) for name, value in trial.values.items())]
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
    study.add_trials([_frozen_trial(space, trial) for trial in trials])
    return study


def _frozen_trial(space: Space, trial: Trial) -> Any:
    """Return a trial as an Optuna trial; values outside the space, which trial 0 may have, are left out."""
    from optuna.trial import TrialState as OptunaState
    from optuna.trial import create_trial

    states = {
        TrialState.UNFINISHED: OptunaState.RUNNING,
        TrialState.COMPLETE: OptunaState.COMPLETE,
        TrialState.PRUNED: OptunaState.PRUNED,
        TrialState.DIVERGED: OptunaState.PRUNED,  # Optuna ranks a pruned trial without an epoch as the worst
    }
    within = {name: value for name, value in trial.values.items() if space[name].contains(value)}
    return create_trial(
        state=states[trial.state],
        value=trial.loss if trial.state is TrialState.COMPLETE else None,
        params={name: _to_optuna(space[name], value) for name, value in within.items()},
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


def _to_optuna(dimension: Dimension, value: Any) -> Any:
    return value if isinstance(dimension, Range) else dimension.position(value)


def _round_proposal(dimension: Dimension, value: Any) -> Any:
    """Return a proposed value; floats are rounded to four significant digits, so that they are readable."""
    if not isinstance(dimension, Range):
        return dimension.choices[value]
    return value if dimension.is_whole else min(dimension.high, max(dimension.low, float(f"{value:.4g}")))
