"""Settings of a training run: presets, recommended values by network, and the promotion policy."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field

from digits.data.config import ArraysConfig
from digits.settings import Fraction, Kind, Settings, overlaid
from digits.training.config import Architecture, AugmentationConfig, ModelConfig, TrainingConfig

Preset = Literal["default", "quick", "best"]


class PromotionPolicy(Settings):
    """When a challenger takes the champion's place: worse on no test set, better on one, and behaving as well."""

    min_accuracy: Fraction = Field(0.9, description="Below this test accuracy nothing is promoted.")
    max_accuracy_drop: Fraction = Field(
        0.001, description="How much worse than the champion a challenger may be on any of the test sets."
    )
    significance_level: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="How often a model that is only as good as the champion may be promoted: the level of McNemar's "
        "test, over all test sets together.",
    )
    target_error: float = Field(
        0.005,
        gt=0,
        lt=1,
        description="The `max_error` at which the shares that are answered are compared.",
    )
    max_coverage_drop: Fraction = Field(
        0.05,
        description="How much less it may answer at that error than the champion, of any larger test set.",
    )
    max_ece_increase: Fraction = Field(
        0.02, description="How much larger its calibration error may be than the champion's, likewise."
    )
    max_operations_ratio: float = Field(
        10,
        gt=0,
        le=1000,
        description="How many times as many multiplications per image as the champion's network it may take.",
    )
    max_megabytes: float = Field(50, gt=0, le=10_000, description="Of the exported network.")
    promote: bool = Field(True, description="Off: register the model, but leave the champion as it is.")


class TrainingRun(Settings):
    """All that a training run is told."""

    datasets: tuple[str, ...] = Field(
        ("mnist",),
        min_length=1,
        max_length=16,
        description="`mnist`, `mnist-sample`, `fashion-mnist`, `reviewed` (the labels that `digits review` has kept), "
        "the path of an `.npz`, of a folder with IDX files, or of a folder of labelled images "
        "(`<root>/<class>/*.png`). Several are joined.",
    )
    preset: Preset = Field(
        "default",
        description="What is not said otherwise: `default` is right on pictures from anywhere, `quick` on MNIST's own, "
        "and trained in seconds, `best` the average of three networks that take ten times as long. An architecture "
        "that is chosen by hand brings its own values instead.",
    )
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    arrays: ArraysConfig = ArraysConfig()
    promotion: PromotionPolicy = PromotionPolicy()

    def resolved(self) -> Self:
        """Give the run with every None replaced by what its preset, or the architecture chosen by hand, has for it."""
        by_hand = self.model.architecture
        architecture, changes = (by_hand, {}) if by_hand else PRESETS[self.preset]
        network = NETWORKS[architecture]
        model = self.model.model_copy(update={"architecture": architecture})
        parts = {
            "model": _filled(model, network["model"]),
            "training": _filled(self.training, {**network["training"], **changes}),
            "arrays": _filled(self.arrays, network["arrays"]),
        }
        return self.model_copy(update=parts)

    def differences(self) -> dict[str, Any]:
        """Give what a configuration file has to say to mean this run, which is resolved; JSON values."""
        plain = type(self)(preset=self.preset).resolved()
        by_hand = plain.model.architecture != self.model.architecture
        if by_hand:
            model = ModelConfig(architecture=self.model.architecture)
            plain = type(self)(preset=self.preset, model=model).resolved()
        ours, theirs = (run.model_dump(mode="json") for run in (self, plain))
        said = {"datasets": ours.pop("datasets"), "preset": ours.pop("preset")}
        if by_hand:
            said["model"] = {"architecture": self.model.architecture}
        return overlaid(said, _differing(ours, theirs))

    def members(self) -> list[TrainingConfig]:
        """Give how each network is fitted of those that are averaged; of a resolved run."""
        seeds = range(self.training.seed, self.training.seed + (self.training.members or 1))
        return [self.training.model_copy(update={"seed": seed, "members": 1}) for seed in seeds]


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
    "members": 1,
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
    "members": 1,
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
"""The network of each preset, which has the values of `NETWORKS`, and in what its training differs from them."""
NETWORKS: Mapping[Architecture, Mapping[str, Mapping[str, Any]]] = {
    "compact": {
        "model": {"hidden": (16, 32, 32, 64), "dropout": 0.1},
        "training": {**_CNN_TRAINING, "epochs": 20, "learning_rate": 8e-3, "label_smoothing": 0.1},
        "arrays": {"validation_fraction": 0.1},
    },
    "cropped": {
        "model": {"hidden": (16, 32, 32, 64), "dropout": 0.0},
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


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Give what differs by section and name; a setting that is a table itself is given whole."""
    return {
        section: found
        for section, settings in ours.items()
        if (found := {name: value for name, value in settings.items() if value != theirs[section][name]})
    }


def _filled(settings: Kind, preset: Mapping[str, Any]) -> Kind:
    missing = {name: value for name, value in preset.items() if getattr(settings, name) is None}
    return settings.model_copy(update=missing)
