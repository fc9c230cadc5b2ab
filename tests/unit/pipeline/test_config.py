"""Settings of a training run as keyword arguments."""

import pytest

from digits.errors import UsageError
from digits.pipeline.config import TrainingRun, group_settings
from digits.training.config import ModelConfig, TrainingConfig


def test_single_settings_and_groups_are_grouped_as_in_a_file() -> None:
    """Single settings override those of their group. What was not given keeps the values of the preset."""
    groups = group_settings(
        "f()",
        {
            "epochs": 5,
            "training": TrainingConfig(epochs=3, seed=7),
            "model": {"architecture": "mlp"},
            "normalize": "none",
            "promote": False,
        },
    )
    assert groups == {
        "model": {"architecture": "mlp"},
        "training": {"epochs": 5, "seed": 7},
        "arrays": {"normalize": "none"},
        "promotion": {"promote": False},
    }
    run = TrainingRun.model_validate(groups)
    assert (run.training.epochs, run.model) == (5, ModelConfig(architecture="mlp"))
    assert group_settings("f()", {}) == {}


def test_an_unknown_setting_is_named_with_the_known_ones() -> None:
    with pytest.raises(
        UsageError, match=r"^f\(\): found the setting epoch, expected one of activation, .*, epochs, .*$"
    ):
        group_settings("f()", {"epoch": 1})
