"""Networks: built from configuration, saved and loaded as `.keras`, exported to ONNX."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy.typing as npt

from digits.errors import ModelError
from digits.model.safety import check_keras_file
from digits.training.backend import load_keras
from digits.training.config import Architecture, ModelConfig

Network = Any
"""A `keras.Model`: (N, height, width, 1) float32 in 0..255 -> (N, classes) probabilities. Keras has no stubs."""


def build(config: ModelConfig, *, input_shape: tuple[int, int], classes: int, seed: int) -> Network:
    """Build a network with seeded initial weights; scaling to [0, 1] is its first layer, so it ships with it.

    Args:
        config: resolved, so without a None.
        input_shape: height and width in pixels.
        classes: the number of probabilities it gives.
        seed: of the initial weights and of dropout.

    Raises:
        ModelError: the images are too small for it, or `hidden` has a wrong length.
    """
    if config.architecture is None:
        raise ModelError("no architecture is named; a resolved configuration has one")
    keras = load_keras()
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    try:
        return _BUILDERS[config.architecture](keras, config, input_shape, classes, seed)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{config.architecture} can't be built for images of {input_shape}: {reason}") from error


def _mlp(keras: Any, config: ModelConfig, shape: tuple[int, int], classes: int, seed: int) -> Network:
    """The tutorial's first network: Flatten, Dense, Dropout, Dense, as a Sequential model."""
    layers = keras.layers
    (units,) = _sizes(config, 1)
    return keras.Sequential(
        [
            keras.Input((*shape, 1), name="images"),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(units, activation=config.activation),
            layers.Dropout(config.dropout, seed=seed),
            layers.Dense(classes, activation="softmax"),
        ],
        name="mlp",
    )


def _mlp_2(keras: Any, config: ModelConfig, shape: tuple[int, int], classes: int, seed: int) -> Network:
    """The tutorial's second network: any number of hidden layers, each with dropout, functional."""
    layers = keras.layers
    images = keras.Input((*shape, 1), name="images")
    x = layers.Flatten()(layers.Rescaling(1 / 255)(images))
    for number, units in enumerate(config.hidden or ()):
        x = layers.Dense(units, activation=config.activation)(x)
        x = layers.Dropout(config.dropout, seed=seed + number)(x)
    return keras.Model(images, layers.Dense(classes, activation="softmax")(x), name="mlp-2")


def _cnn(keras: Any, config: ModelConfig, shape: tuple[int, int], classes: int, seed: int) -> Network:
    """Five convolutions with batch normalisation, two poolings: 19 MFLOP an image at the default sizes."""
    layers = keras.layers
    first, second, third, fourth, fifth = _sizes(config, 5)

    def convolve(x: Any, channels: int, width: int, padding: str) -> Any:
        x = layers.Conv2D(channels, width, padding=padding, use_bias=False)(x)
        return layers.Activation(config.activation)(layers.BatchNormalization(momentum=0.9)(x))

    images = keras.Input((*shape, 1), name="images")
    x = convolve(layers.Rescaling(1 / 255)(images), first, 5, "valid")
    x = layers.MaxPooling2D()(x)
    x = convolve(convolve(x, second, 3, "same"), third, 3, "same")
    x = layers.MaxPooling2D()(x)
    x = convolve(convolve(x, fourth, 3, "same"), fifth, 3, "valid")
    x = layers.Dropout(config.dropout, seed=seed)(layers.Flatten()(x))
    return keras.Model(images, layers.Dense(classes, activation="softmax")(x), name="cnn")


def _compact(keras: Any, config: ModelConfig, shape: tuple[int, int], classes: int, seed: int) -> Network:
    """Four convolutions with batch normalisation, two poolings: 5.4 MFLOP an image at the default sizes."""
    layers = keras.layers
    first, second, third, fourth = _sizes(config, 4)

    def convolve(x: Any, channels: int, padding: str) -> Any:
        x = layers.Conv2D(channels, 3, padding=padding, use_bias=False)(x)
        return layers.Activation(config.activation)(layers.BatchNormalization(momentum=0.9)(x))

    images = keras.Input((*shape, 1), name="images")
    x = convolve(layers.Rescaling(1 / 255)(images), first, "valid")
    x = layers.MaxPooling2D()(x)
    x = convolve(convolve(x, second, "same"), third, "same")
    x = layers.MaxPooling2D()(x)
    x = convolve(x, fourth, "valid")
    x = layers.Dropout(config.dropout, seed=seed)(layers.Flatten()(x))
    return keras.Model(images, layers.Dense(classes, activation="softmax")(x), name="compact")


def _cropped(keras: Any, config: ModelConfig, shape: tuple[int, int], classes: int, seed: int) -> Network:
    """`compact` on what is left without a margin of two pixels, pooling before it normalises: made to train quickly."""
    layers = keras.layers
    first, second, third, fourth = _sizes(config, 4)

    def convolve(x: Any, channels: int, padding: str, pool: int = 1) -> Any:
        x = layers.Conv2D(channels, 3, padding=padding, use_bias=False)(x)
        x = layers.MaxPooling2D(pool)(x) if pool > 1 else x
        return layers.Activation(config.activation)(layers.BatchNormalization(momentum=0.9)(x))

    images = keras.Input((*shape, 1), name="images")
    x = layers.Cropping2D(2)(layers.Rescaling(1 / 255)(images))
    x = convolve(x, first, "same", pool=2)
    x = convolve(convolve(x, second, "same"), third, "same", pool=2)
    x = convolve(x, fourth, "valid")
    x = layers.Dropout(config.dropout, seed=seed)(layers.Flatten()(x))
    return keras.Model(images, layers.Dense(classes, activation="softmax")(x), name="cropped")


def _sizes(config: ModelConfig, count: int) -> tuple[int, ...]:
    if config.hidden is None or len(config.hidden) != count:
        raise ModelError(f"{config.architecture} has {count} hidden layers, but hidden is {config.hidden}")
    return config.hidden


_BUILDERS: dict[Architecture, Callable[..., Network]] = {
    "cnn": _cnn,
    "compact": _compact,
    "cropped": _cropped,
    "mlp": _mlp,
    "mlp-2": _mlp_2,
}


def average(networks: Sequence[Network]) -> Network:
    """Give a network whose probabilities are the mean of those of several networks with the same input."""
    keras = load_keras()
    images = keras.Input(networks[0].input_shape[1:], name="images")
    members = [
        keras.Model(network.inputs[0], network.outputs[0], name=f"member_{number}")
        for number, network in enumerate(networks)
    ]
    return keras.Model(images, keras.layers.Average()([member(images) for member in members]), name="average")


def copy_fitted_weights(network: Network, fitted: Network) -> None:
    """Put the weights of a fitted network into a new one with the same layers, whose randomness stays its own.

    Raises:
        ModelError: they are different networks.
    """
    ours, theirs = _form(network), _form(fitted)
    if ours != theirs:
        raise ModelError(
            f"the champion can't be gone on from: it is the network {fitted.name} of {fitted.count_params():,} "
            f"weights, and {network.name} of {network.count_params():,} is to be trained; train the same "
            "network, with the same sizes and for images of the same size and classes, or have `start` be `anew`"
        )
    for variable, value in zip(network.weights, fitted.weights, strict=True):
        variable.assign(value)


def _form(network: Network) -> list[tuple[str, list[tuple[int, ...]]]]:
    return [(type(layer).__name__, [tuple(weight.shape) for weight in layer.weights]) for layer in network.layers]


def fuse_batch_normalization(network: Network) -> Network:
    """Give a copy, with the same weights, in which batch normalisation is one operation in training.

    Keras computes the mean, the variance and the rest as a dozen operations, and differentiates each: four tenths of a
    step of `compact`. TensorFlow has it as one operation with a gradient of its own (`FusedBatchNormV3`), which is not
    in Keras' files; so networks are kept in Keras' own layers, and only trained in this form.
    A network without batch normalisation is given back itself.
    """
    keras = load_keras()
    if not any(isinstance(layer, keras.layers.BatchNormalization) for layer in network.layers):
        return network
    fused = keras.models.clone_model(network, clone_function=_fused)
    copy_variables(network, fused)
    return fused


def copy_variables(source: Network, target: Network) -> None:
    """Put the weights and the states of random layers of a network into another one with the same layers."""
    for variable, value in zip(target.variables, source.variables, strict=True):
        variable.assign(value)


def _fused(layer: Any) -> Any:
    keras = load_keras()
    normalized = isinstance(layer, keras.layers.BatchNormalization)
    return (_fused_class() if normalized else type(layer)).from_config(layer.get_config())


@cache
def _fused_class() -> Any:
    import tensorflow as tf

    class Fused(load_keras().layers.BatchNormalization):  # type: ignore[misc]  # Keras has no stubs
        """Over the channels of (N, height, width, channels), by the statistics of the batch while in training."""

        def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
            if not training:
                return super().call(inputs, training=training, mask=mask)
            empty = tf.constant([], tf.float32)
            outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
                x=inputs, scale=self.gamma, offset=self.beta, mean=empty, variance=empty, epsilon=self.epsilon
            )
            for moving, found in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + found * (1 - self.momentum))
            return outputs

    return Fused


def summary(network: Network) -> str:
    """Give Keras' table of the layers, their output shapes and their numbers of weights."""
    lines: list[str] = []
    network.summary(print_fn=lines.append, line_length=88)
    return "\n".join(lines)


def weights_digest(network: Network) -> str:
    """Give the SHA-256 of the weights; two models are equal when theirs are (`.keras` files hold a date)."""
    return arrays_digest(weight.numpy() for weight in network.weights)


def arrays_digest(values: Iterable[npt.NDArray[Any]]) -> str:
    """Give the SHA-256 of arrays: their shapes, types and bytes, in order."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(f"{value.shape}{value.dtype}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def save(network: Network, path: Path) -> None:
    """Write a network as `.keras`, without optimizer state."""
    network.save(path, include_optimizer=False)


def load(path: Path) -> Network:
    """Load a `.keras` file of an artifact that was opened, so verified: looked through first, and in safe mode.

    Raises:
        ModelError: something is in it that `build` and `average` do not make, or Keras can't load it safely.
    """
    try:
        check_keras_file(path.read_bytes(), name=path.name)
        return load_keras().saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise ModelError(f"{path.name} is not a model that Keras loads safely: {error}") from error
