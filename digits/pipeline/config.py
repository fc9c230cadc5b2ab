"""Settings of a training run: datasets, presets, recommended values for each network, and the promotion policy."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field

from digits.data.config import ArraysConfig
from digits.errors import UsageError
from digits.settings import AnySettings, Fraction, Settings, merge_settings
from digits.training.config import Architecture, AugmentationConfig, ModelConfig, TrainingConfig

Preset = Literal["default", "quick", "best"]


class PromotionPolicy(Settings):
    """Promotion policy: limits that a challenger must meet to replace the champion."""

    min_accuracy: Fraction = Field(
        0.9, description="Lowest accuracy on all test images with which a model is promoted."
    )
    max_accuracy_drop: Fraction = Field(
        0.001,
        description="Largest drop in accuracy, relative to the champion, that is allowed on any test set.",
    )
    significance_level: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Significance level of the promotion test. On at least one test set the challenger must be better "
        "with a p-value below this (exact McNemar test, with Holm's correction for several test sets).",
    )
    target_error: float = Field(
        0.005,
        gt=0,
        lt=1,
        description="Error rate (`max_error` of a prediction) at which the shares of images that are not flagged are "
        "compared.",
    )
    max_coverage_drop: Fraction = Field(
        0.05,
        description="Largest drop, relative to the champion, in the share of images that are not flagged at "
        "`target_error`. Test sets of fewer than 500 images are not checked.",
    )
    max_ece_increase: Fraction = Field(
        0.02,
        description="Largest increase of the expected calibration error, relative to the champion. Test sets of fewer "
        "than 500 images are not checked.",
    )
    max_operations: float = Field(
        100,
        gt=0,
        le=1_000_000,
        description="Largest number of multiplications per image of the exported network, in millions.",
    )
    max_megabytes: float = Field(50, gt=0, le=10_000, description="Largest size of the exported network in megabytes.")
    promote: bool = Field(
        True, description="Promote the model if it meets the promotion policy. Otherwise it is only registered."
    )


class TrainingRun(Settings):
    """Settings of a training run."""

    datasets: tuple[str, ...] = Field(
        ("mnist",),
        min_length=1,
        max_length=16,
        description="Dataset to train on: `mnist`, `mnist-sample`, `fashion-mnist`, `reviewed` (the labels saved by "
        "`digits review`), or the path of an `.npz` file, of a folder with IDX files, or of a folder of labelled "
        "images (`<folder>/<class>/*.png`). Several datasets are joined.",
    )
    preset: Preset = Field(
        "default",
        description="Preset that supplies every option you do not set: `default` for images from any source; `quick` "
        "for images in MNIST's own form, trained in seconds; `best` for the average of three larger networks, which "
        "takes several times as long to train and to predict. If you choose an architecture, its defaults are used "
        "instead.",
    )
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    arrays: ArraysConfig = ArraysConfig()
    promotion: PromotionPolicy = PromotionPolicy()

    def resolved(self) -> Self:
        """Return the run with each None replaced by the default of the architecture; if it is None, of the preset."""
        chosen = self.model.architecture
        architecture, changes = (chosen, {}) if chosen else PRESETS[self.preset]
        network = NETWORKS[architecture]
        model = self.model.model_copy(update={"architecture": architecture})
        parts = {
            "model": _filled(model, network["model"]),
            "training": _filled(self.training, {**network["training"], **changes}),
            "arrays": _filled(self.arrays, network["arrays"]),
        }
        return self.model_copy(update=parts)

    def differences(self) -> dict[str, Any]:
        """Return the settings of this resolved run that differ from its preset, as a configuration file holds them."""
        plain = type(self)(preset=self.preset).resolved()
        has_own_architecture = plain.model.architecture != self.model.architecture
        if has_own_architecture:
            model = ModelConfig(architecture=self.model.architecture)
            plain = type(self)(preset=self.preset, model=model).resolved()
        ours, theirs = (run.model_dump(mode="json") for run in (self, plain))
        needed = {"datasets": ours.pop("datasets"), "preset": ours.pop("preset")}
        if has_own_architecture:
            needed["model"] = {"architecture": self.model.architecture}
        return merge_settings(needed, _differing(ours, theirs))

    def members(self) -> list[TrainingConfig]:
        """Return the training settings of each member, the networks that a resolved run averages; only seeds differ."""
        seeds = range(self.training.seed, self.training.seed + (self.training.members or 1))
        return [self.training.model_copy(update={"seed": seed, "members": 1}) for seed in seeds]


def group_settings(function: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a training run as a configuration file groups them.

    Args:
        function: name of the function for messages.
        settings: values by name, of single settings and of whole groups: `model`, `training`, `arrays`, `promotion`.

    Raises:
        UsageError: if there is no such setting.
    """
    kinds: dict[str, type[Settings]] = {
        "model": ModelConfig,
        "training": TrainingConfig,
        "arrays": ArraysConfig,
        "promotion": PromotionPolicy,
    }
    group_of = {setting: group for group, kind in kinds.items() for setting in kind.model_fields}
    if unknown := next((name for name in settings if name not in {**kinds, **group_of}), None):
        known = ", ".join(sorted([*kinds, *group_of]))
        raise UsageError(f"{function}: found the setting {unknown}, expected one of {known}")
    groups = {name: _given(settings[name]) for name in kinds if name in settings}
    for name, value in settings.items():
        if name in group_of:
            groups[group_of[name]] = {**groups.get(group_of[name], {}), name: value}
    return groups


def _given(group: Any) -> Any:
    """Return the values that were given for a group of settings."""
    return {name: getattr(group, name) for name in group.model_fields_set} if isinstance(group, Settings) else group


_DENSE_TRAINING = {
    "epochs": 10,
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "schedule": "constant",
    "weight_decay": 0.0,
    "label_smoothing": 0.0,
    "weight_average": 0.0,
    "augment": False,
    "augmentation": AugmentationConfig(),
    "printed": 0,
    "written": 0,
    "forms": 0,
    "members": 1,
    "student_epochs": 0,
}
_CNN_TRAINING = {
    "epochs": 7,
    "optimizer": "adamw",
    "learning_rate": 4e-3,
    "schedule": "cosine",
    "weight_decay": 1e-2,
    "label_smoothing": 0.05,
    "weight_average": 0.99,
    "augment": True,
    "augmentation": AugmentationConfig(),
    "printed": 12,
    "written": 150,
    "forms": 0,
    "members": 1,
    "student_epochs": 0,
}
PRESETS: Mapping[Preset, tuple[Architecture, Mapping[str, Any]]] = {
    "default": ("compact", {}),
    "quick": ("cropped", {}),
    "best": (
        "cnn",
        {
            "epochs": 20,
            "members": 3,
            "augmentation": AugmentationConfig(zoom=0.15, shear=0.2, stroke=0.4, blur=0.5, contrast=0.3, lines=0.02),
        },
    ),
}
"""Architecture of each preset, and the training settings that override those of the architecture in `NETWORKS`."""
NETWORKS: Mapping[Architecture, Mapping[str, Mapping[str, Any]]] = {
    "compact": {
        "model": {"hidden": (16, 32, 32, 64), "dropout": 0.1},
        "training": {
            **_CNN_TRAINING,
            "epochs": 19,
            "learning_rate": 8e-3,
            "label_smoothing": 0.1,
            "forms": 200,
            "student_epochs": 3,
        },
        "arrays": {"validation_fraction": 0.1},
    },
    "cropped": {
        "model": {"hidden": (16, 32, 48, 64), "dropout": 0.0},
        "training": {
            **_CNN_TRAINING,
            "epochs": 3,
            "learning_rate": 8e-3,
            "label_smoothing": 0.1,
            "augmentation": AugmentationConfig(
                rotation=7, shift=1.5, zoom=0.1, shear=0.1, stroke=0, blur=0, contrast=0, lines=0
            ),
            "printed": 0,
            "written": 0,
        },
        "arrays": {"validation_fraction": 0.1},
    },
    "mlp": {
        "model": {"hidden": (128,), "dropout": 0.5},
        "training": _DENSE_TRAINING,
        "arrays": {"validation_fraction": 0.2},
    },
    "mlp-2": {
        "model": {"hidden": (128, 128), "dropout": 0.5},
        "training": _DENSE_TRAINING,
        "arrays": {"validation_fraction": 0.2},
    },
    "cnn": {
        "model": {"hidden": (24, 48, 64, 96, 128), "dropout": 0.3},
        "training": _CNN_TRAINING,
        "arrays": {"validation_fraction": 0.1},
    },
}
"""Recommended settings of each architecture, by section; they replace the settings of a run that are None."""


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `ours` that differ from `theirs`, by section and name; nested settings are not divided."""
    return {
        section: found
        for section, settings in ours.items()
        if (found := {name: value for name, value in settings.items() if value != theirs[section][name]})
    }


def _filled(settings: AnySettings, preset: Mapping[str, Any]) -> AnySettings:
    missing = {name: value for name, value in preset.items() if getattr(settings, name) is None}
    return settings.model_copy(update=missing)
