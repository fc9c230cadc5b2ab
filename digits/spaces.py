"""Where to search: for each hyperparameter a range or a choice, within the bounds that the configuration has itself.

A space names hyperparameters as a configuration file does: `training.learning_rate`, `training.augmentation.zoom`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from digits.config import Settings, TrainingRun, overlaid, parse
from digits.errors import UsageError

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
    return checked(space, run, source=source)


def checked(space: Space, run: TrainingRun, *, source: str) -> dict[str, Dimension]:
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
    return parse(TrainingRun, overlaid(run.model_dump(), nested), source=source)


def value_in(run: TrainingRun, name: str) -> Any:
    """Give the value that a resolved run has for a hyperparameter; sequences as lists."""
    value: Any = run.model_dump()
    for part in name.split("."):
        value = value[part]
    return _plain(value)


def default_space(run: TrainingRun) -> dict[str, Dimension]:
    """Give what is worth searching for the network of a resolved run, around what is recommended for it."""
    architecture = str(run.model.architecture)
    return checked(_dense(run) if architecture in _DENSE else _convolutional(run), run, source=architecture)


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
