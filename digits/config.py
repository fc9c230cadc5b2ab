"""Configuration: typed, frozen, bounded; one class a concern; the defaults are the recommended values.

Fields that default to None take the value that `NETWORKS` holds for the architecture, which is the preset's unless it
is chosen by hand; `TrainingRun.resolved` fills them in. The field descriptions are what the form in the Prefect UI and
`docs/guide.md` show.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from digits.errors import UsageError
from digits.files import os_errors_as

ARTIFACTS_VARIABLE = "DIGITS_ARTIFACTS"

Architecture = Literal["cnn", "compact", "cropped", "mlp", "mlp-2"]
Preset = Literal["default", "quick", "best"]
Mode = Literal["auto", "mnist", "none"]
"""How images are brought into the form of the network's input; see `digits.normalization.normalize`."""
OtherFormat = Literal["AVIF", "ICO", "JPEG2000", "PCX", "PPM", "QOI", "SGI", "TGA"]
"""As `digits.images` has them, which this module does not import."""
RENAMED = {
    "recipe": "preset",
    "wished_error": "target_error",
    "max_chance": "significance_level",
    "max_loss_of_accuracy": "max_accuracy_drop",
    "max_rise_of_ece": "max_ece_increase",
    "max_loss_of_coverage": "max_coverage_drop",
}
"""Present names of settings, by the names that they had before."""
REMOVED = {"max_slowdown": "use max_operations_ratio, which compares the networks' multiplications per image"}
"""Settings that are gone, with what to do instead."""
Fraction = Annotated[float, Field(ge=0, lt=1)]
Pattern = Annotated[str, Field(min_length=1, max_length=1000)]
Units = Annotated[int, Field(ge=1, le=4096)]


class Settings(BaseModel):
    """Base of every configuration: immutable, and a misspelt name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


Kind = TypeVar("Kind", bound=Settings)


class ModelConfig(Settings):
    """Which network, and its sizes."""

    architecture: Architecture | None = Field(
        None,
        description="The preset's, or by hand: `compact` is recommended; `cnn` has five times its weights and takes "
        "over three times its time; `cropped` is `compact` without the margin of the images, quick to train; `mlp` and "
        "`mlp-2` are dense networks.",
    )
    hidden: tuple[Units, ...] | None = Field(
        None,
        min_length=1,
        max_length=8,
        description="Units of each hidden layer of `mlp` (128) and `mlp-2` (128, 128); channels of the five "
        "convolutions of `cnn` (24, 48, 64, 96, 128) and the four of `compact` and `cropped` (16, 32, 32, 64).",
    )
    activation: Literal["relu", "sigmoid", "tanh"] = Field("relu", description="After each hidden layer.")
    dropout: Fraction | None = Field(None, description="Share of units dropped in training: .5 for the dense "
                                     "networks, .3 for `cnn`, .1 for `compact`, 0 for `cropped`.")  # fmt: skip


class AugmentationConfig(Settings):
    """Random changes of the training images; each value is the largest one drawn."""

    rotation: float = Field(10, ge=0, le=180, description="Degrees.")
    shift: float = Field(2, ge=0, le=14, description="Pixels, each axis.")
    zoom: float = Field(0.25, ge=0, lt=0.9, description="Relative change of size, each axis by itself.")
    shear: float = Field(0.3, ge=0, le=1, description="Horizontal offset per pixel of height.")
    stroke: float = Field(0.7, ge=0, le=1, description="Pixels by which strokes get thicker or thinner all round.")
    blur: float = Field(1.2, ge=0, le=3, description="Standard deviation in pixels.")
    contrast: float = Field(0.7, ge=0, le=1, description="Levels cut off at either end, and bent between them.")
    lines: Fraction = Field(0.05, description="Share of the images that get a line along an edge.")


class TrainingConfig(Settings):
    """How the weights are fitted."""

    epochs: int | None = Field(None, ge=1, le=1000, description="Passes over the training images: 7 for `cnn`, "
                               "20 for `compact`, 3 for `cropped`, 10 for the dense networks.")  # fmt: skip
    batch_size: int = Field(128, ge=1, le=4096, description="Images a step.")
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] | None = Field(
        None, description="`adamw` for convolutional networks, `adam` for the dense networks."
    )
    learning_rate: float | None = Field(
        None, gt=0, le=10, description="Its peak: .004 for `cnn`, .008 for `compact` and `cropped`, .001 otherwise."
    )
    schedule: Literal["constant", "cosine"] | None = Field(
        None, description="`cosine` (with warm-up) for convolutional networks, `constant` otherwise."
    )
    warmup: Fraction = Field(0.2, description="Share of the steps of a `cosine` schedule spent rising to the peak.")
    weight_decay: float | None = Field(
        None, ge=0, le=1, description="Decoupled, by AdamW: .01 for convolutional networks, else 0."
    )
    loss: Literal["categorical-cross-entropy", "mean-squared-error"] = Field(
        "categorical-cross-entropy", description="On one-hot labels."
    )
    label_smoothing: Fraction | None = Field(
        None, description="Cross-entropy only: .05 for `cnn`, .1 for `compact` and `cropped`, else 0."
    )
    weight_average: Fraction | None = Field(
        None,
        description="Momentum of the moving average of the weights that is kept: .99 for convolutional networks, "
        "else 0.",
    )
    augment: bool | None = Field(
        None, description="Transform the training images at random: only convolutional networks by themselves."
    )
    augmentation: AugmentationConfig | None = Field(
        None, description="By itself what the network is recommended with: `cropped` has small affine changes only."
    )
    printed: int | None = Field(
        None,
        ge=0,
        le=1000,
        description="Printed digits added to the training images, of each class and font, where the classes are "
        "digits: 12 for `cnn` and `compact`, else 0.",
    )
    written: int | None = Field(
        None,
        ge=0,
        le=10_000,
        description="Drawn digits added likewise, of each form that MNIST's writers hardly used: ones with a flag, "
        "with a flag and a foot, crossed sevens; 150 for `cnn` and `compact`, else 0.",
    )
    members: int | None = Field(
        None,
        ge=1,
        le=16,
        description="Networks that are fitted with seeds of their own and averaged: 3 for `best`, else 1.",
    )
    seed: int = Field(42, ge=0, lt=2**31, description="Of the initial weights, the order, dropout, augmentation.")
    start: Literal["anew", "champion"] = Field(
        "anew",
        description="From where: `champion` goes on from the present champion's weights, which takes the same network; "
        "fewer epochs at a lower learning rate do then, such as 5 at .001 for `compact`.",
    )


NORMALIZE_MODES = (
    "`auto` leaves images in MNIST's form as they are and brings others into it; `mnist` brings all into it; `none` "
    "only scales to the network's size, for pictures that are no digits."
)


class ArraysConfig(Settings):
    """How a dataset becomes arrays, and when it must not be trained on."""

    normalize: Mode = Field("auto", description=f"{NORMALIZE_MODES} Prediction does the same.")
    validation_fraction: float | None = Field(
        None,
        gt=0,
        le=0.5,
        description="Share of the training images held back: .1 for convolutional networks, .2 otherwise.",
    )
    own_share: Fraction = Field(
        0.1,
        description="Share of the training images that those labelled here, `reviewed` and folders of labelled images, "
        "are to make beside a published dataset: they are repeated until they do, each at most 50 times.",
    )
    split_seed: int = Field(0, ge=0, lt=2**31, description="Of the stratified split.")
    max_duplicates: Fraction = Field(
        0.001, description="Share of the test images that may be in the training images too, byte for byte."
    )
    max_blank: Fraction = Field(0.001, description="Share of the images that may be of one colour.")
    max_imbalance: float = Field(
        5, ge=1, description="How many times as large as the smallest class the largest may be."
    )


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


class PredictionConfig(Settings):
    """How a folder becomes a table."""

    recursive: bool = Field(True, description="Descend into sub-folders.")
    all_files: bool = Field(False, description="Take every file, not only those with an image's extension.")
    by_content: bool = Field(
        False, description="Take the files that begin as a picture does, whatever their names; each is opened."
    )
    other_formats: tuple[OtherFormat, ...] = Field(
        (), description="Formats to read besides PNG, JPEG, GIF, BMP, WebP and TIFF, and whose extensions to take."
    )
    include: tuple[Pattern, ...] = Field(
        (),
        description="Take the files that match one of these patterns, whatever their extensions: `*.dat` at any depth, "
        "`scans/**/page?.png` from the folder on, `[0-9]*`; a pattern that matches a folder stands for all in it.",
    )
    exclude: tuple[Pattern, ...] = Field((), description="Leave out the files and folders that match one of these.")
    files_from: Path | None = Field(
        None,
        description="A file with the paths to take, one a line or each ended by NUL; relative ones are from the folder "
        "on. `-` is the standard input.",
    )
    normalize: Mode = Field("auto", description=f"As the training does it unless told otherwise. {NORMALIZE_MODES}")
    probabilities: bool = Field(False, description="Add a column a class with its probability.")
    top_k: int = Field(1, ge=1, le=100, description="Add the 2nd to the k-th most likely class.")
    max_error: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Flag predictions as `uncertain` so that at most this share of the others is wrong, by the model's "
        "validation images at 95 % confidence: .002 for 2 in 1,000. Empty: none is flagged.",
    )
    max_pixels: int = Field(50_000_000, ge=1, description="Images with more are not decoded.")
    max_bytes: int = Field(256 * 2**20, ge=1, description="Files with more are not read.")
    max_seconds: float = Field(10, gt=0, le=3600, description="Images that take longer to read are given up.")
    shard_size: int = Field(2_000, ge=1, le=100_000, description="Images a shard.")
    incremental: bool = Field(
        False,
        description="Predict only what is new or changed since the last incremental run into the same table. Unchanged "
        "is what has the same size, modification time and inode.",
    )
    verify: bool = Field(False, description="With `incremental`: unchanged is what has the same content (SHA-256).")
    replace_version: int | None = Field(
        None,
        ge=1,
        description="Predict only the rows that this model version wrote into the table that is there; all other rows "
        "stay as they are.",
    )
    processes: int | None = Field(None, ge=1, le=1024, description="Worker processes; empty: one a usable CPU.")


class RetentionConfig(Settings):
    """How long what nobody refers to is kept."""

    artifact_days: float = Field(
        30,
        ge=1,
        description="Artifacts that no model version has, or is made from, are removed when no run has made or found "
        "them for so many days.",
    )
    work_days: float = Field(
        30,
        ge=1,
        description="What an interrupted training or prediction would go on from is kept so many days; a prediction's "
        "30 at most, since each prediction removes older ones.",
    )
    temporary_hours: float = Field(24, ge=1, description="A file that a killed writer left is removed after so long.")


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


def parse(kind: type[Kind], values: Mapping[str, Any], *, source: str) -> Kind:
    """Check values against a configuration class.

    Raises:
        UsageError: a name is unknown or a value out of bounds; the message names each one and the source.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {_sentence(fault)}" for fault in error.errors())
        raise UsageError(f"{source}: {faults}") from error


def _sentence(fault: Mapping[str, Any]) -> str:
    """Return what is wrong with a setting, and its value; not that of an unknown one, which may be a password."""
    if fault["type"] != "extra_forbidden":
        return f"{_uncapitalized(fault['msg'])}, found {fault['input']!r}"
    name = str(fault["loc"][-1])
    if name in RENAMED:
        return f"this setting was renamed to {RENAMED[name]}"
    if name in REMOVED:
        return f"this setting was removed; {REMOVED[name]}"
    return _uncapitalized(fault["msg"])


def _uncapitalized(text: str) -> str:
    return text[:1].lower() + text[1:]


def overlaid(base: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Give nested values with those of `options` that are not None put over them."""
    merged = dict(base)
    for name, value in options.items():
        if isinstance(value, Mapping):
            below = base.get(name, {})
            merged[name] = overlaid(below, value) if isinstance(below, Mapping) else below
        elif value is not None:
            merged[name] = value
    return merged


def load_toml(path: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises:
        UsageError: it can't be read, or is not TOML.
    """
    with os_errors_as(UsageError, path, "not a readable TOML file", "check the path and who may read it"):
        content = path.read_bytes()
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: not a readable TOML file: {error}") from error


def artifact_root(option: Path | None = None, *, environment: Mapping[str, str] | None = None) -> Path:
    """Say where artifacts live: the option, then `DIGITS_ARTIFACTS`, then `artifacts/` of the nearest project.

    The nearest project is the current directory or the first one above it with a `prefect.yaml`; without one, it is
    the current directory.
    """
    variable = (os.environ if environment is None else environment).get(ARTIFACTS_VARIABLE)
    if option is not None or variable:
        return Path(option or str(variable)).expanduser().absolute()
    here = Path.cwd()
    project = next((folder for folder in (here, *here.parents) if (folder / "prefect.yaml").is_file()), here)
    return project / "artifacts"
