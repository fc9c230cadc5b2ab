"""Networks: build architectures from settings, save and load `.keras` files, and compare weights."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy.typing as npt

from digits.errors import ModelError
from digits.model.safety import check_keras_file
from digits.training.backend import load_keras
from digits.training.config import Architecture, ModelConfig

Network = Any
"""A `keras.Model`: (N, height, width, 1) float32 in 0..255 -> (N, classes) probabilities. Keras has no type stubs."""


def build(config: ModelConfig, *, input_shape: tuple[int, int], classes: int, seed: int) -> Network:
    """Build a network with seeded initial weights. Its first layer scales the pixels to [0, 1].

    Args:
        config: resolved settings, in which no value is None.
        input_shape: height and width of the images in pixels.
        classes: number of classes.
        seed: random seed of the initial weights and of dropout.

    Raises:
        ModelError: if the images are too small for the architecture, or if `hidden` has the wrong length.
    """
    if config.architecture is None:
        raise ModelError("the settings name no architecture; resolve them first")
    keras = load_keras()
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    try:
        return _BUILDERS[config.architecture](keras, config, input_shape, classes, seed)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"{config.architecture} cannot be built for images of {input_shape}: {reason}; use larger images "
            "or another architecture"
        ) from error


def _mlp(keras: Any, config: ModelConfig, shape: tuple[int, int], classes: int, seed: int) -> Network:
    """Build a network like those of Keras tutorials, as a Sequential model: Flatten, Dense, Dropout, Dense."""
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
    """Build any number of dense hidden layers with dropout, as a functional model."""
    layers = keras.layers
    images = keras.Input((*shape, 1), name="images")
    x = layers.Flatten()(layers.Rescaling(1 / 255)(images))
    for number, units in enumerate(config.hidden or ()):
        x = layers.Dense(units, activation=config.activation)(x)
        x = layers.Dropout(config.dropout, seed=seed + number)(x)
    return keras.Model(images, layers.Dense(classes, activation="softmax")(x), name="mlp-2")


def _cnn(keras: Any, config: ModelConfig, shape: tuple[int, int], classes: int, seed: int) -> Network:
    """Build five convolutions with batch normalization and two poolings: 19 MFLOP per image at the default sizes."""
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
    """Build four convolutions with batch normalization and two poolings: 5.4 MFLOP per image at the default sizes."""
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
    """Build four convolutions for fast training: 3.3 MFLOP per image at the default sizes.

    The outer two pixels are cropped, the first convolution has a stride of two, and the second one is pooled before its
    normalization. So most channels are computed on a quarter of the pixels of `compact`.
    """
    layers = keras.layers
    first, second, third, fourth = _sizes(config, 4)

    def normalize(x: Any) -> Any:
        return layers.Activation(config.activation)(layers.BatchNormalization(momentum=0.9)(x))

    def convolve(x: Any, channels: int, width: int, padding: str, stride: int = 1) -> Any:
        return layers.Conv2D(channels, width, strides=stride, padding=padding, use_bias=False)(x)

    images = keras.Input((*shape, 1), name="images")
    x = layers.Cropping2D(2)(layers.Rescaling(1 / 255)(images))
    x = normalize(convolve(x, first, 5, "same", stride=2))
    x = normalize(layers.MaxPooling2D()(convolve(x, second, 3, "same")))
    x = normalize(convolve(x, third, 3, "same"))
    x = normalize(convolve(x, fourth, 3, "valid"))
    x = layers.Dropout(config.dropout, seed=seed)(layers.Flatten()(x))
    return keras.Model(images, layers.Dense(classes, activation="softmax")(x), name="cropped")


def build_student(shape: tuple[int, int], classes: int, *, seed: int) -> Network:
    """Build the student of a cascade: three convolutions, two of them with a stride of 2; .75 MFLOP per image."""
    keras = load_keras()
    layers = keras.layers
    keras.utils.set_random_seed(seed)

    def convolve(x: Any, channels: int, width: int, stride: int, padding: str) -> Any:
        x = layers.Conv2D(channels, width, strides=stride, padding=padding, use_bias=False)(x)
        return layers.Activation("relu")(layers.BatchNormalization(momentum=0.9)(x))

    images = keras.Input((*shape, 1), name="images")
    x = convolve(layers.Rescaling(1 / 255)(images), 16, 5, 2, "valid")
    x = convolve(convolve(x, 32, 3, 2, "same"), 32, 3, 1, "valid")
    return keras.Model(images, layers.Dense(classes, activation="softmax")(layers.Flatten()(x)), name="student")


def _sizes(config: ModelConfig, count: int) -> tuple[int, ...]:
    if config.hidden is None or len(config.hidden) != count:
        raise ModelError(
            f"{config.architecture} has {count} hidden layers, but hidden is {config.hidden}; list as many sizes"
        )
    return config.hidden


_BUILDERS: dict[Architecture, Callable[..., Network]] = {
    "cnn": _cnn,
    "compact": _compact,
    "cropped": _cropped,
    "mlp": _mlp,
    "mlp-2": _mlp_2,
}


def average(networks: Sequence[Network]) -> Network:
    """Return a network that averages the probabilities of several networks with the same input shape."""
    keras = load_keras()
    images = keras.Input(networks[0].input_shape[1:], name="images")
    members = [
        keras.Model(network.inputs[0], network.outputs[0], name=f"member_{number}")
        for number, network in enumerate(networks)
    ]
    return keras.Model(images, keras.layers.Average()([member(images) for member in members]), name="average")


def copy_fitted_weights(network: Network, fitted: Network) -> None:
    """Copy the weights of the champion's fitted network into a new network with the same layers.

    The states of random layers are not copied, so that they depend on the seed of the new network.

    Args:
        network: network to train.
        fitted: fitted network of the champion.

    Raises:
        ModelError: if the layers of the networks differ.
    """
    if _layer_shapes(network) != _layer_shapes(fitted):
        raise ModelError(
            f"cannot continue training from the champion: its network is {fitted.name} with {fitted.count_params():,} "
            f"weights, but {network.name} with {network.count_params():,} weights is to be trained; train the "
            "champion's network with the same layer sizes, image size and classes, or set `start` to `random`"
        )
    for variable, value in zip(network.weights, fitted.weights, strict=True):
        variable.assign(value)


def _layer_shapes(network: Network) -> list[tuple[str, list[tuple[int, ...]]]]:
    return [(type(layer).__name__, [tuple(weight.shape) for weight in layer.weights]) for layer in network.layers]


def fuse_batch_normalization(network: Network) -> Network:
    """Return a copy of a network for training, in which batch normalization is a single operation.

    Keras computes batch normalization as a dozen operations, and the gradient of each. This takes 40 % of a training
    step of `compact`. TensorFlow has a single operation with its own gradient (`FusedBatchNormV3`), but a `.keras` file
    without custom classes cannot contain it. So networks are saved with standard Keras layers, and this operation is
    used only for training.

    Where pooling follows an activation, the copy pools first: the activation then has a quarter of the values. The
    result and its gradient are the same, because no activation function falls when its input grows.

    The copy has the same weights. A network without batch normalization is returned itself, not copied.
    """
    keras = load_keras()
    if not any(isinstance(layer, keras.layers.BatchNormalization) for layer in network.layers):
        return network
    swapped = dict(_pooled_activations(network.layers))
    fused = keras.models.clone_model(
        network, clone_function=lambda layer: _clone_fused(swapped.get(layer.name, layer), layer.name)
    )
    copy_variables(network, fused)
    return fused


def _pooled_activations(layers: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the name and the replacement of each activation that is followed by pooling, and of each such pooling."""
    keras = load_keras()
    for first, second in itertools.pairwise(layers):
        if isinstance(first, keras.layers.Activation) and isinstance(second, keras.layers.MaxPooling2D):
            yield first.name, second
            yield second.name, first


def copy_variables(source: Network, target: Network) -> None:
    """Copy the weights and the states of random layers of a network into another one with the same layers."""
    for variable, value in zip(target.variables, source.variables, strict=True):
        variable.assign(value)


def _clone_fused(layer: Any, name: str) -> Any:
    keras = load_keras()
    is_normalization = isinstance(layer, keras.layers.BatchNormalization)
    return (_fused_class() if is_normalization else type(layer)).from_config({**layer.get_config(), "name": name})


@cache
def _fused_class() -> Any:
    import tensorflow as tf

    class Fused(load_keras().layers.BatchNormalization):  # type: ignore[misc]  # Keras has no type stubs
        """Batch normalization of the channels of (N, height, width, channels), as one operation in training."""

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
    """Return Keras' summary table: the layers with their output shapes and numbers of weights."""
    lines: list[str] = []
    network.summary(print_fn=lines.append, line_length=88)
    return "\n".join(lines)


def weights_digest(network: Network) -> str:
    """Return the SHA-256 of the weights. Compare models by it, because `.keras` files contain a date."""
    return arrays_digest(weight.numpy() for weight in network.weights)


def arrays_digest(values: Iterable[npt.NDArray[Any]]) -> str:
    """Return the SHA-256 of the shapes, dtypes and bytes of arrays, in order."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(f"{value.shape}{value.dtype}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def save(network: Network, path: Path) -> None:
    """Write a network as a `.keras` file, without optimizer state."""
    network.save(path, include_optimizer=False)


def load(path: Path) -> Network:
    """Load a network from a `.keras` file, after a safety check, in Keras' safe mode.

    Args:
        path: file of an artifact whose hash was verified.

    Raises:
        ModelError: if the file contains anything that `build` and `average` do not create, or if Keras cannot load it.
    """
    try:
        check_keras_file(path.read_bytes(), name=path.name)
        return load_keras().saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise ModelError(f"{path.name}: Keras cannot load the model in safe mode: {error}; train again") from error
