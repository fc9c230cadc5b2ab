"""Search spaces: files, checks against the configuration, and defaults."""

from typing import Any

import pytest

from digits.errors import UsageError
from digits.pipeline.config import TrainingRun
from digits.pipeline.search import Choice, Range, check_space, default_space, get_value, read_space, with_values
from digits.training.config import AugmentationConfig, ModelConfig, TrainingConfig

MLP = TrainingRun(model=ModelConfig(architecture="mlp")).resolved()
ARCHITECTURES = ("cnn", "compact", "cropped", "mlp", "mlp-2")


def read(written: dict[str, Any], run: TrainingRun = MLP) -> dict[str, Any]:
    """Return the space of a file with this content."""
    return read_space(written, run, source="space.toml")


def test_a_file_names_settings_as_a_configuration_does() -> None:
    """Nested tables become dotted names, sorted; lists can be choices."""
    space = read(
        {
            "training": {
                "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
                "augmentation": {"zoom": {"low": 0, "high": 0.5}},
            },
            "model": {"hidden": {"choices": [[64], [64, 32]]}, "activation": {"choices": ["relu", "tanh"]}},
        }
    )
    assert space == {
        "model.activation": Choice(choices=("relu", "tanh")),
        "model.hidden": Choice(choices=([64], [64, 32])),
        "training.augmentation.zoom": Range(low=0.0, high=0.5),
        "training.learning_rate": Range(low=1e-4, high=1e-2, log=True),
    }
    assert [*space] == sorted(space)


@pytest.mark.parametrize(
    ("section", "settings", "message"),
    [
        ("training", {"learning_rate": {"low": 0.1, "high": 20}}, "less than or equal to 10, found 20"),
        ("model", {"dropout": {"low": -0.1, "high": 0.5}}, r"model\.dropout.*greater than or equal to 0, found -0.1"),
        ("model", {"dropuot": {"low": 0, "high": 0.5}}, "model.dropuot: there is no such setting"),
        ("model", {"activation": {"choices": ["relu", "gelu"]}}, "'relu', 'sigmoid' or 'tanh', found 'gelu'"),
        ("training", {"batch_size": {"low": 1.5, "high": 4}}, "batch_size: input should be a valid integer"),
        ("training", {"batch_size": {"low": 8, "high": 4}}, "low must be less than high, found 8 and 4"),
        (
            "training",
            {"weight_decay": {"low": 0, "high": 1, "log": True}},
            "low must be greater than 0 in a log.* found 0",
        ),
        ("training", {"batch_size": {"low": 8}}, "batch_size: high: field required"),
        ("training", {"batch_size": {"low": 8, "high": 9, "step": 1}}, "step: there is no such setting"),
        ("training", {"batch_size": {"choices": [8]}}, "choices: tuple should have at least 2 items"),
        ("training", {"batch_size": 8}, r"training.batch_size: expected \{ low, high \} or \{ choices \}, found 8"),
        ("training", {"epochs": {"low": 1, "high": 9}}, "all have the same number; set it with --epochs"),
        ("training", {"seed": {"low": 1, "high": 9}}, "training.seed cannot be searched"),
        ("training", {"members": {"low": 1, "high": 9}}, "training.members cannot be searched"),
        ("model", {"architecture": {"choices": ["cnn", "mlp"]}}, "set it with --architecture"),
        ("arrays", {"split_seed": {"low": 1, "high": 9}}, r"search settings of \[model\] and \[training\]"),
        ("training", {}, "the search space is empty"),
    ],
)
def test_a_space_that_the_configuration_does_not_accept_is_an_error(
    section: str, settings: dict[str, Any], message: str
) -> None:
    """The message has the file, the setting, and the problem."""
    with pytest.raises(UsageError, match=message) as error:
        read({section: settings})
    assert str(error.value).startswith("space.toml: ")


def test_a_range_of_an_integer_setting_has_whole_numbers_only() -> None:
    """Also if an end is written as 8.0."""
    space = read(
        {
            "training": {
                "batch_size": {"low": 8.0, "high": 64},
                "augmentation": {"rotation": {"low": 0, "high": 20}},
                "weight_decay": {"low": 0, "high": 1},
            }
        }
    )
    assert space["training.batch_size"].is_whole
    assert not space["training.augmentation.rotation"].is_whole
    assert not space["training.weight_decay"].is_whole
    assert check_space(space, MLP, source="again") == space


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_default_space_contains_the_recommended_settings(architecture: Any) -> None:
    """Therefore the sampler can use trial 0."""
    run = TrainingRun(model=ModelConfig(architecture=architecture)).resolved()
    space = default_space(run)
    assert "training.learning_rate" in space
    assert ("training.augmentation.rotation" in space) == bool(run.training.augment)
    inside = {name: dimension.contains(get_value(run, name)) for name, dimension in space.items()}
    assert all(inside.values()), inside


def test_the_default_space_of_a_strong_augmentation_stays_within_bounds() -> None:
    """Twice the strength is limited to the largest one; an augmentation that is off is not searched."""
    augmentation = AugmentationConfig(zoom=0.8, rotation=120, shift=0)
    run = TrainingRun(training=TrainingConfig(augmentation=augmentation)).resolved()
    space = default_space(run)
    assert space["training.augmentation.zoom"] == Range(low=0.0, high=0.8)
    assert space["training.augmentation.rotation"] == Range(low=0.0, high=180.0)
    assert "training.augmentation.shift" not in space


def test_only_the_given_values_of_a_run_change() -> None:
    """A value out of bounds is an error."""
    values = {"model.hidden": [64, 32], "training.augmentation.zoom": 0.1, "training.learning_rate": 0.02}
    run = with_values(MLP, values)
    assert {name: get_value(run, name) for name in values} == values
    back = {name: get_value(MLP, name) for name in values}
    assert with_values(run, back) == MLP
    with pytest.raises(UsageError, match=r"trial: training\.learning_rate"):
        with_values(MLP, {"training.learning_rate": 11})


def test_a_choice_treats_lists_and_tuples_as_equal() -> None:
    """TOML files have lists, the configuration has tuples."""
    choice = Choice(choices=([64], [64, 32]))
    assert (choice.position((64, 32)), choice.contains((64,)), choice.contains([32])) == (1, True, False)
