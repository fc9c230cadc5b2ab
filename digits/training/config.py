"""Settings of networks and of their training."""

from typing import Annotated, Literal

from pydantic import Field

from digits.settings import Fraction, Settings

Architecture = Literal["cnn", "compact", "cropped", "mlp", "mlp-2"]
Units = Annotated[int, Field(ge=1, le=4096)]


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
