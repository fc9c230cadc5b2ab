"""Fitting a network: mini-batches from memory-mapped arrays, a checkpoint an epoch, the same result after a kill.

All randomness is a function of the seed and the epoch's number (order, augmentation) or is part of the state that a
checkpoint holds (dropout), so a run that resumes from an epoch's end goes on as if it had never stopped.
"""

import hashlib
import io
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from digits.data.synthetic_digits import are_digits, draw_handwritten_digits, render_printed_digits
from digits.errors import CorruptArtifactError, ModelError
from digits.images.types import Labels, Pixels
from digits.model.calibration import calibrated_loss
from digits.progress import SILENT, Bar, Progress
from digits.store.files import replacing
from digits.training.augmentation import distort
from digits.training.backend import load_keras
from digits.training.config import AugmentationConfig, TrainingConfig
from digits.training.networks import Network, copy_variables, fuse_batch_normalization

Batch = tuple[npt.NDArray[Any], ...]
History = list[dict[str, float]]
EVALUATION_BATCH = 500
_DIGEST_SIZE = hashlib.sha256().digest_size
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Samples:
    """Labelled images: pixels (N, height, width) uint8, labels (N,) uint8; memory-mapped or not."""

    pixels: Pixels
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width."""
        return self.pixels.shape[1:]

    def take(self, chosen: npt.NDArray[np.intp]) -> tuple[Pixels, Labels]:
        """Give the samples with these numbers, in ascending order."""
        return self.pixels[chosen], self.labels[chosen]


@dataclass(frozen=True, eq=False)
class _Joined:
    """Samples behind one another, without copying the first ones into memory."""

    first: Samples
    second: Samples

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.first.shape

    def take(self, chosen: npt.NDArray[np.intp]) -> tuple[Pixels, Labels]:
        cut = int(np.searchsorted(chosen, len(self.first)))
        parts = self.first.take(chosen[:cut]), self.second.take(chosen[cut:] - len(self.first))
        return np.concatenate([pixels for pixels, _ in parts]), np.concatenate([labels for _, labels in parts])


def fit(  # noqa: PLR0913 - what is fitted to what, how, and two sinks
    network: Network,
    train: Samples,
    validation: Samples,
    config: TrainingConfig,
    *,
    checkpoint: Path,
    class_names: Sequence[str] = (),
    progress: Progress = SILENT,
    before_epoch: Callable[[History], None] | None = None,
) -> History:
    """Fit a network in place and say how it went.

    Args:
        network: as built, with its initial weights.
        train: what is fitted.
        validation: what is only measured, after each epoch.
        config: resolved, so without a None.
        checkpoint: a file that is written after each epoch, and continued from when it is there.
        class_names: what the labels stand for; where they are digits, `config.printed` and `config.written` add some.
        progress: is told of every step.
        before_epoch: is called before each epoch with how it went so far, also when that was in another process; what
            it raises ends the fit, which can go on from the checkpoint.

    Returns:
        `loss`, `accuracy`, `validation_loss`, `validation_accuracy` and `validation_calibrated_loss` of each epoch. The
        last is the one to compare fits by: cross-entropy in nats after the temperature that an export would fit, so
        that neither the kind of loss nor label smoothing are in it.

    Raises:
        ModelError: the loss or the weights are no finite numbers any more.
    """
    samples = _with_synthetic_digits(train, config, class_names)
    steps = -(-len(samples) // config.batch_size)
    fitted = fuse_batch_normalization(network)
    _compile(fitted, config, steps)
    history = _resume(fitted, checkpoint)
    for epoch in range(len(history), config.epochs or 0):
        if before_epoch:
            before_epoch(history)
        bar = progress.start(f"epoch {epoch + 1}/{config.epochs}", steps, part=(epoch, config.epochs or 1))
        metrics = _fit_epoch(fitted, samples, config, epoch, bar) | _measure(fitted, validation)
        _require_finite(metrics, epoch, config)
        history.append(metrics)
        _save_checkpoint(fitted, history, checkpoint)
        bar.close(describe(metrics))
    if config.weight_average:
        fitted.optimizer.finalize_variable_values(fitted.trainable_variables)
    if fitted is not network:
        copy_variables(fitted, network)
    return history


def _with_synthetic_digits(train: Samples, config: TrainingConfig, class_names: Sequence[str]) -> "Samples | _Joined":
    if not (config.printed or config.written) or not are_digits(class_names):
        return train
    height, width = train.shape
    made = [
        render_printed_digits(class_names, config.printed or 0, seed=config.seed, shape=(height, width)),
        draw_handwritten_digits(class_names, config.written or 0, seed=config.seed, shape=(height, width)),
    ]
    pixels, labels = (np.concatenate(parts) for parts in zip(*made, strict=True))
    logger.info("%d made digits are added to %d training images", len(labels), len(train))
    return _Joined(train, Samples(pixels, labels))


def _require_finite(metrics: dict[str, float], epoch: int, config: TrainingConfig) -> None:
    if not all(map(math.isfinite, metrics.values())):
        raise ModelError(
            f"the training diverged: after epoch {epoch + 1} the loss is no finite number; a lower learning rate than "
            f"{config.learning_rate:g} may help"
        )


def describe(metrics: dict[str, float]) -> str:
    """Give an epoch's metrics in one line."""
    return (
        f"accuracy {metrics['accuracy']:.2%}, loss {metrics['loss']:.4f}; "
        f"validation {metrics['validation_accuracy']:.2%}, {metrics['validation_loss']:.4f}"
    )


def _compile(network: Network, config: TrainingConfig, steps: int) -> None:
    keras = load_keras()
    losses = {
        "categorical-cross-entropy": lambda: keras.losses.CategoricalCrossentropy(
            label_smoothing=config.label_smoothing
        ),
        "mean-squared-error": keras.losses.MeanSquaredError,
    }
    network.compile(_optimizer(keras, config, steps), losses[config.loss](), metrics=["accuracy"], jit_compile=False)
    network.optimizer.build(network.trainable_variables)
    _build_metrics(network)


def _build_metrics(network: Network) -> None:
    """Let the metrics make their variables before the first step, which Keras traces a second time if it made some."""
    one_hot = np.eye(1, network.output_shape[-1], dtype=np.float32)
    network.compute_metrics(np.zeros((1, *network.input_shape[1:]), np.float32), one_hot, one_hot)
    network.reset_metrics()


def _optimizer(keras: Any, config: TrainingConfig, steps: int) -> Any:
    kinds = {
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "sgd": keras.optimizers.SGD,
        "rmsprop": keras.optimizers.RMSprop,
    }
    average = {"use_ema": True, "ema_momentum": config.weight_average} if config.weight_average else {}
    rate = _learning_rate(keras, config, steps * (config.epochs or 0))
    return kinds[config.optimizer or "adam"](rate, weight_decay=config.weight_decay or None, **average)


def _learning_rate(keras: Any, config: TrainingConfig, steps: int) -> Any:
    """Give a constant, or a linear warm-up followed by half a cosine (Loshchilov and Hutter 2017)."""
    if config.schedule == "constant":
        return config.learning_rate
    warmup = int(config.warmup * steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup), warmup_target=config.learning_rate, warmup_steps=warmup
    )


def _fit_epoch(
    network: Network, train: Samples | _Joined, config: TrainingConfig, epoch: int, bar: Bar
) -> dict[str, float]:
    keras = load_keras()
    tick = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: bar.advance())  # noqa: ARG005 - given by name
    dataset = _dataset(train, config, epoch, classes=network.output_shape[-1])
    fitted = network.fit(dataset, initial_epoch=epoch, epochs=epoch + 1, shuffle=False, verbose=0, callbacks=[tick])
    return {name: float(values[0]) for name, values in fitted.history.items()}


def _measure(network: Network, validation: Samples) -> dict[str, float]:
    """Evaluate with the averaged weights where there are any, and put the others back."""
    kept = [variable.numpy() for variable in network.trainable_variables]
    network.optimizer.finalize_variable_values(network.trainable_variables)
    probabilities = _predict(network, validation)
    for variable, value in zip(network.trainable_variables, kept, strict=True):
        variable.assign(value)
    one_hot = np.eye(network.output_shape[-1], dtype=np.float32)[validation.labels]
    return {"validation_loss": float(network.loss(one_hot, probabilities)), **_compared(probabilities, validation)}


def measure_validation(network: Network, samples: Samples) -> dict[str, float]:
    """Give what `fit` tells of validation for a network that has no loss of its own: `validation_loss` is in nats."""
    probabilities = _predict(network, samples)
    true = probabilities[np.arange(len(samples)), samples.labels].astype(np.float64)
    loss = float(-np.log(np.maximum(true, np.finfo(np.float32).tiny)).mean())
    return {"validation_loss": loss, **_compared(probabilities, samples)}


def _predict(network: Network, samples: Samples) -> npt.NDArray[np.float32]:
    images = samples.pixels[..., np.newaxis].astype(np.float32)
    probabilities: npt.NDArray[np.float32] = network.predict(images, batch_size=EVALUATION_BATCH, verbose=0)
    return probabilities


def _compared(probabilities: npt.NDArray[np.float32], samples: Samples) -> dict[str, float]:
    return {
        "validation_accuracy": float((probabilities.argmax(axis=1) == samples.labels).mean()),
        "validation_calibrated_loss": calibrated_loss(probabilities, samples.labels),
    }


def mean_metrics(epochs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Give the mean of what several networks reached in an epoch."""
    return {name: float(np.mean([epoch[name] for epoch in epochs])) for name in epochs[0]}


def _dataset(train: Samples | _Joined, config: TrainingConfig, epoch: int, *, classes: int) -> Any:
    import tensorflow as tf

    shape = train.shape
    signature = (
        tf.TensorSpec((None, *shape), tf.uint8),
        tf.TensorSpec((None, classes), tf.float32),
        tf.TensorSpec((None, 8), tf.float32),
    )

    def to_images(pixels: Any, labels: Any, transforms: Any) -> tuple[Any, Any]:
        images = tf.cast(pixels[..., tf.newaxis], tf.float32)
        if config.augment:
            images = tf.raw_ops.ImageProjectiveTransformV3(
                images=images,
                transforms=transforms,
                output_shape=shape,
                fill_value=0.0,
                interpolation="BILINEAR",
                fill_mode="CONSTANT",
            )
        return images, labels

    batches = tf.data.Dataset.from_generator(
        lambda: _batches(train, config, epoch, classes), output_signature=signature
    )
    steps = -(-len(train) // config.batch_size)
    images = batches.map(tf.autograph.experimental.do_not_convert(to_images))
    return images.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2)


def _batches(train: Samples | _Joined, config: TrainingConfig, epoch: int, classes: int) -> Iterator[Batch]:
    """Yield pixels (N, height, width) uint8, one-hot labels (N, classes) float32, transforms (N, 8) float32."""
    random = np.random.default_rng([config.seed, epoch])
    order = random.permutation(len(train))
    one_hot = np.eye(classes, dtype=np.float32)
    limits = config.augmentation or AugmentationConfig()
    for start in range(0, len(order), config.batch_size):
        chosen = np.sort(order[start : start + config.batch_size])
        transforms = draw_transforms(random, len(chosen), limits, train.shape)
        pixels, labels = train.take(chosen)
        if config.augment:
            pixels = distort(random, pixels, limits)
        yield pixels, one_hot[labels], transforms


def draw_transforms(
    random: np.random.Generator, count: int, limits: AugmentationConfig, shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """Draw affine maps from output to input coordinates, about the centre of the image.

    Returns:
        (count, 8) float32 as `ImageProjectiveTransformV3` takes them: a0 a1 a2 b0 b1 b2 0 0, where the input position
        of output pixel (x, y) is (a0 x + a1 y + a2, b0 x + b1 y + b2).
    """
    angle = np.deg2rad(random.uniform(-limits.rotation, limits.rotation, count))
    zoom = random.uniform(1 - limits.zoom, 1 + limits.zoom, (2, count))
    shear = random.uniform(-limits.shear, limits.shear, count)
    shift = random.uniform(-limits.shift, limits.shift, (2, count))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    sheared = np.array([[np.ones(count), shear], [np.zeros(count), np.ones(count)]])
    linear = np.einsum("ijn,jkn->nik", rotation, sheared) * zoom.T[:, np.newaxis, :]
    centre = (np.array([shape[1], shape[0]]) - 1) / 2
    offset = centre + shift.T - linear @ centre
    rows = np.concatenate([linear, offset[:, :, np.newaxis]], axis=2).reshape(count, 6)
    return np.pad(rows, ((0, 0), (0, 2))).astype(np.float32)


def _state(network: Network) -> list[Any]:
    """Give every variable that the next step depends on: weights, dropout's seeds, the optimizer's own."""
    return [*network.variables, *network.optimizer.variables]


def _save_checkpoint(network: Network, history: History, path: Path) -> None:
    values = {f"v{number}": variable.numpy() for number, variable in enumerate(_state(network))}
    content = io.BytesIO()
    np.savez(content, history=np.frombuffer(json.dumps(history).encode(), np.uint8), **values)
    with replacing(path) as file:
        file.write(hashlib.sha256(content.getbuffer()).digest())
        file.write(content.getbuffer())


def read_checkpoint(path: Path) -> tuple[History, list[npt.NDArray[Any]]]:
    """Read how a training went so far, and the state that its next epoch begins with.

    Raises:
        CorruptArtifactError: the file was damaged after it was written.
        OSError: it can't be read.
    """
    content = path.read_bytes()
    digest, saved = content[:_DIGEST_SIZE], content[_DIGEST_SIZE:]
    if hashlib.sha256(saved).digest() != digest:
        raise CorruptArtifactError(f"{path}: the checkpoint was damaged after it was written; its epochs can be redone")
    with np.load(io.BytesIO(saved), allow_pickle=False) as arrays:
        history: History = json.loads(arrays["history"].tobytes())
        return history, [arrays[f"v{number}"] for number in range(len(arrays.files) - 1)]


def _resume(network: Network, path: Path) -> History:
    """Put a checkpoint's state into the network, if there is one that can be read."""
    try:
        history, values = read_checkpoint(path)
    except FileNotFoundError:
        return []
    except (CorruptArtifactError, OSError) as error:
        logger.warning("%s; training starts from the first epoch", error)
        return []
    for variable, value in zip(_state(network), values, strict=True):
        variable.assign(value)
    logger.info("resumed after epoch %d", len(history))
    return history
