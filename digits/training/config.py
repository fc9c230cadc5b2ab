"""Settings of training: the network, the augmentation of the training images, and the fit of the weights."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from digits.settings import Fraction, Settings

Architecture = Literal["cnn", "compact", "cropped", "mlp", "mlp-2"]
Units = Annotated[int, Field(ge=1, le=4096)]


class ModelConfig(Settings):
    """Network architecture and layer sizes."""

    architecture: Architecture | None = Field(
        None,
        description="Network architecture; overrides the preset's and brings its own defaults. `compact` is "
        "recommended. `cnn` has five times as many weights, and its predictions take more than three times as long. "
        "`cropped` is a fast one for the middle of the images, and trains in seconds. `mlp` and `mlp-2` are dense "
        "networks.",
    )
    hidden: tuple[Units, ...] | None = Field(
        None,
        min_length=1,
        max_length=8,
        description="Size of each hidden layer, once for each layer: units of the dense layers of `mlp` (default: "
        "128) and `mlp-2` (128, 128), channels of the convolutions of `cnn` (24, 48, 64, 96, 128), `compact` (16, 32, "
        "32, 64) and `cropped` (16, 32, 48, 64).",
    )
    activation: Literal["relu", "sigmoid", "tanh"] = Field(
        "relu", description="Activation function after each hidden layer."
    )
    dropout: Fraction | None = Field(
        None,
        description="Share of units dropped during training. Default: 0.5 for dense networks, 0.3 for `cnn`, 0.1 for "
        "`compact`, 0 for `cropped`.",
    )


class AugmentationConfig(Settings):
    """Augmentation of the training images. Each change is drawn at random, up to the value of its setting."""

    rotation: float = Field(10, ge=0, le=180, description="Rotation in degrees.")
    shift: float = Field(2, ge=0, le=14, description="Shift in pixels, along each axis.")
    zoom: float = Field(0.25, ge=0, lt=0.9, description="Relative change of size, drawn separately for each axis.")
    shear: float = Field(0.3, ge=0, le=1, description="Shear: horizontal offset in pixels per pixel of height.")
    stroke: float = Field(0.7, ge=0, le=1, description="Change of stroke width in pixels, on each side of the stroke.")
    blur: float = Field(1.2, ge=0, le=3, description="Standard deviation of the Gaussian blur in pixels.")
    contrast: float = Field(
        0.7,
        ge=0,
        le=1,
        description="Strength of the change of contrast: clipping of the grey levels at both ends, and gamma.",
    )
    lines: Fraction = Field(0.05, description="Share of the images to which a line along an edge is added.")


def _present_name(start: object) -> object:
    """Return the present name of a value of `start`; it may have that of earlier releases, as in a recorded study."""
    return "random" if start == "anew" else start


class TrainingConfig(Settings):
    """Settings of the fit: epochs, optimizer, loss, augmentation and additional training images."""

    epochs: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Passes over the training images. Default: 19 for `compact`, 3 for `cropped`, 7 for `cnn`, 10 for "
        "dense networks.",
    )
    batch_size: int = Field(128, ge=1, le=4096, description="Images per training step.")
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] | None = Field(
        None, description="Optimizer. Default: `adamw` for convolutional networks, `adam` for dense networks."
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=10,
        description="Peak learning rate. Default: 0.008 for `compact` and `cropped`, 0.004 for `cnn`, 0.001 for dense "
        "networks.",
    )
    schedule: Literal["constant", "cosine"] | None = Field(
        None,
        description="Learning rate schedule. Default: `cosine`, with warm-up, for convolutional networks, `constant` "
        "for dense networks.",
    )
    warmup: Fraction = Field(0.2, description="Share of all steps in which a `cosine` schedule rises to the peak.")
    weight_decay: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Decoupled weight decay of `adamw`. Default: 0.01 for convolutional networks, else 0.",
    )
    loss: Literal["categorical-cross-entropy", "mean-squared-error"] = Field(
        "categorical-cross-entropy", description="Loss function, computed on one-hot labels."
    )
    label_smoothing: Fraction | None = Field(
        None,
        description="Label smoothing of the cross-entropy loss. Default: 0.1 for `compact` and `cropped`, 0.05 for "
        "`cnn`, else 0.",
    )
    weight_average: Fraction | None = Field(
        None,
        description="Momentum of the exponential moving average of the weights, which the trained model uses; 0: no "
        "averaging. Default: 0.99 for convolutional networks, else 0.",
    )
    augment: bool | None = Field(
        None,
        description="Augment the training images with random transformations. Default: yes for convolutional networks, "
        "no for dense networks.",
    )
    augmentation: AugmentationConfig | None = Field(
        None,
        description="Largest changes by augmentation. Default: recommended values for the network; `cropped` has small "
        "affine changes only.",
    )
    printed: int | None = Field(
        None,
        ge=0,
        le=1000,
        description="Printed digits added to the training images, per class and font; only if the classes are digits. "
        "Default: 12 for `cnn` and `compact`, else 0.",
    )
    written: int | None = Field(
        None,
        ge=0,
        le=10_000,
        description="Synthetic handwritten digits added to the training images, per form that is rare in MNIST: ones "
        "with a flag, ones with a flag and a foot, and crossed sevens; only if the classes are digits. Default: 150 "
        "for `cnn` and `compact`, else 0.",
    )
    forms: int | None = Field(
        None,
        ge=0,
        le=10_000,
        description="Synthetic digits added in the last fifth of the epochs, per form, in 32 handwritten forms of "
        "which many are rare in MNIST; with them, printed digits are added again, small and blurred; only if the "
        "classes are digits. Default: 200 for `compact`, else 0.",
    )
    members: int | None = Field(
        None,
        ge=1,
        le=16,
        description="Number of networks to train, each with its own seed; the model averages their probabilities. "
        "Default: 3 for the preset `best`, else 1.",
    )
    student_epochs: int | None = Field(
        None,
        ge=0,
        le=1000,
        description="Passes over the training images, with other augmentation, from which a small network, the "
        "student, learns to predict as the trained one does. It then predicts the images of which it is certain, which "
        "makes prediction faster; 0: no student. Default: 3 for `compact`, else 0.",
    )
    seed: int = Field(
        42,
        ge=0,
        lt=2**31,
        description="Random seed of the initial weights, the order of the images, dropout and augmentation. The same "
        "seed gives the same weights.",
    )
    start: Annotated[Literal["random", "champion"], BeforeValidator(_present_name)] = Field(
        "random",
        description="Initial weights: `random`, or `champion` for the weights of the current champion. The network "
        "must then be the champion's, and fewer epochs at a lower learning rate are enough, such as 5 at 0.001 for "
        "`compact`.",
    )
