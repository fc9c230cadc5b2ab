"""Fit: mini-batch training from memory-mapped arrays, with one checkpoint per epoch and exact resuming.

The order of the images and the augmentation are functions of the seed and the number of the epoch. The random state of
dropout is part of a checkpoint. So a fit that is resumed after any epoch has the same result as an uninterrupted fit.
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

from digits.data.digit_forms import draw_forms
from digits.data.synthetic_digits import (
    are_digits,
    draw_handwritten_digits,
    render_printed_digits,
    render_small_digits,
)
from digits.errors import CorruptArtifactError, ModelError
from digits.images.types import Labels, Pixels
from digits.model.calibration import calibrated_loss
from digits.progress import SILENT, Bar, Progress
from digits.store.files import replacing
from digits.training.augmentation import distort
from digits.training.backend import load_keras
from digits.training.config import AugmentationConfig, TrainingConfig
from digits.training.devices import training_device
from digits.training.networks import Network, copy_variables, fuse_batch_normalization

Batch = tuple[npt.NDArray[Any], ...]
History = list[dict[str, float]]
"""Metrics by name, for each epoch."""
EVALUATION_BATCH = 500
"""Images per batch of predictions."""
_DIGEST_SIZE = hashlib.sha256().digest_size
_EPOCHS_PER_LATE_EPOCH = 5
"""Epochs of a fit for each epoch at its end with drawn forms."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Samples:
    """Labelled images: pixels (N, height, width) uint8, labels (N,) uint8, in memory or memory-mapped."""

    pixels: Pixels
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width of the images in pixels."""
        return self.pixels.shape[1:]

    def take(self, chosen: npt.NDArray[np.intp]) -> tuple[Pixels, Labels]:
        """Return pixels and labels of the samples with these indices, which must be in ascending order."""
        return self.pixels[chosen], self.labels[chosen]


@dataclass(frozen=True, eq=False)
class JoinedSamples:
    """Concatenation of two sets of samples, which are not copied into memory."""

    first: "Samples | JoinedSamples"
    second: Samples

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width of the images in pixels."""
        return self.first.shape

    def take(self, chosen: npt.NDArray[np.intp]) -> tuple[Pixels, Labels]:
        """Return pixels and labels of the samples with these indices, which must be in ascending order."""
        cut = int(np.searchsorted(chosen, len(self.first)))
        parts = self.first.take(chosen[:cut]), self.second.take(chosen[cut:] - len(self.first))
        return np.concatenate([pixels for pixels, _ in parts]), np.concatenate([labels for _, labels in parts])


def fit(  # noqa: PLR0913 - the network, the samples, their settings and two receivers of progress
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
    """Fit a network in place, and return its history.

    Args:
        network: network with its initial weights.
        train: training images.
        validation: validation images, which are only used to measure the network after each epoch.
        config: resolved settings, in which no value is None.
        checkpoint: file that is written after each epoch; if it exists, the fit resumes from it.
        class_names: names of the classes. If they are digits, synthetic digits are added to the training images, in
            the numbers of `config.printed`, `config.written` and `config.forms`.
        progress: receiver of the progress of every step.
        before_epoch: function that is called before each epoch with the history so far, including epochs before the
            fit was resumed. An error that it raises ends the fit, which can be resumed from the checkpoint.

    Returns:
        `loss`, `accuracy`, `validation_loss`, `validation_accuracy` and `validation_calibrated_loss` of each epoch.
        To compare fits, use `validation_calibrated_loss`: it is the cross-entropy in nats after temperature scaling, as
        in the exported model, and depends neither on the loss function nor on label smoothing.

    Raises:
        ModelError: if the loss is not finite.
    """
    samples = samples_by_epoch(train, config, class_names)
    steps = [-(-len(each) // config.batch_size) for each in samples]
    fitted = fuse_batch_normalization(network)
    compile_network(fitted, config, sum(steps))
    history = resume(fitted, checkpoint)
    logger.info("training on the %s", training_device())
    for epoch in range(len(history), len(samples)):
        if before_epoch:
            before_epoch(history)
        name, part = f"epoch {epoch + 1}/{len(samples)}", (epoch, len(samples))
        bar, note = progress.start(name, steps[epoch], part=part), ""
        try:
            metrics = _fit_epoch(fitted, samples[epoch], config, epoch, bar) | _measure(fitted, validation)
            _require_finite(metrics, epoch, config)
            history.append(metrics)
            save_checkpoint(fitted, history, checkpoint)
            note = _describe_metrics(metrics)
        finally:
            bar.close(note)
    if config.weight_average:
        fitted.optimizer.finalize_variable_values(fitted.trainable_variables)
    if fitted is not network:
        copy_variables(fitted, network)
    return history


def samples_by_epoch(
    train: Samples, config: TrainingConfig, class_names: Sequence[str]
) -> list[Samples | JoinedSamples]:
    """Return the training images of each epoch: with synthetic digits, and in the last epochs with drawn forms too."""
    late = count_late_epochs(config, class_names)
    samples = add_synthetic_digits(train, config, class_names)
    first = [samples] * ((config.epochs or 0) - late)
    return first + [add_forms(samples, config, class_names)] * late if late else first


def count_late_epochs(config: TrainingConfig, class_names: Sequence[str]) -> int:
    """Return the number of epochs with drawn forms: the last fifth, rounded up, if the classes are digits."""
    return -(-(config.epochs or 0) // _EPOCHS_PER_LATE_EPOCH) if config.forms and are_digits(class_names) else 0


def add_synthetic_digits(train: Samples, config: TrainingConfig, class_names: Sequence[str]) -> Samples | JoinedSamples:
    """Return the samples joined with printed and handwritten digits, or unchanged if the classes are not digits."""
    if not (config.printed or config.written) or not are_digits(class_names):
        return train
    height, width = train.shape
    return _join(
        train,
        render_printed_digits(class_names, config.printed or 0, seed=config.seed, shape=(height, width)),
        draw_handwritten_digits(class_names, config.written or 0, seed=config.seed, shape=(height, width)),
    )


def add_forms(
    train: Samples | JoinedSamples, config: TrainingConfig, class_names: Sequence[str]
) -> Samples | JoinedSamples:
    """Return the samples joined with digits drawn in many forms, and with small printed digits.

    Drawn sevens resemble printed ones, so drawn forms alone cost accuracy on print.
    """
    height, width = train.shape
    return _join(
        train,
        render_small_digits(class_names, config.printed or 0, seed=config.seed, shape=(height, width)),
        draw_forms(class_names, config.forms or 0, seed=config.seed, shape=(height, width)),
    )


def _join(train: Samples | JoinedSamples, *drawn: tuple[Pixels, Labels]) -> JoinedSamples:
    pixels, labels = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    logger.info("added %d synthetic digits to %d training images", len(labels), len(train))
    return JoinedSamples(train, Samples(pixels, labels))


def _require_finite(metrics: dict[str, float], epoch: int, config: TrainingConfig) -> None:
    if not all(map(math.isfinite, metrics.values())):
        raise ModelError(
            f"the training diverged: the loss is not finite after epoch {epoch + 1}; try a lower learning rate than "
            f"{config.learning_rate:g}"
        )


def _describe_metrics(metrics: dict[str, float]) -> str:
    """Return the metrics of an epoch as one line of text."""
    return (
        f"accuracy {metrics['accuracy']:.2%}, loss {metrics['loss']:.4f}; "
        f"validation {metrics['validation_accuracy']:.2%}, {metrics['validation_loss']:.4f}"
    )


def compile_network(network: Network, config: TrainingConfig, steps: int) -> None:
    """Compile a network with the loss, optimizer and metrics of a configuration; `steps` counts those of all epochs."""
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
    """Create the variables of the metrics before the first step; otherwise Keras would trace that step twice."""
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
    rate = learning_rate_schedule(keras, config, steps)
    return kinds[config.optimizer or "adam"](rate, weight_decay=config.weight_decay or None, **average)


def learning_rate_schedule(keras: Any, config: TrainingConfig, steps: int) -> Any:
    """Return the learning rate: a constant, or a schedule of a linear warm-up and half a cosine over all steps.

    Source: I. Loshchilov, F. Hutter: SGDR: Stochastic Gradient Descent with Warm Restarts, ICLR 2017.
    """
    if config.schedule == "constant":
        return config.learning_rate
    warmup = int(config.warmup * steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup), warmup_target=config.learning_rate, warmup_steps=warmup
    )


def _fit_epoch(
    network: Network, train: Samples | JoinedSamples, config: TrainingConfig, epoch: int, bar: Bar
) -> dict[str, float]:
    keras = load_keras()
    tick = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: bar.advance())  # noqa: ARG005 - Keras passes them by name
    dataset = make_dataset(train, config, epoch, classes=network.output_shape[-1])
    fitted = network.fit(dataset, initial_epoch=epoch, epochs=epoch + 1, shuffle=False, verbose=0, callbacks=[tick])
    return {name: float(values[0]) for name, values in fitted.history.items()}


def _measure(network: Network, validation: Samples) -> dict[str, float]:
    """Return the validation metrics of a network, measured with its averaged weights if it has them.

    The current weights are restored, because the fit continues with them.
    """
    current = [variable.numpy() for variable in network.trainable_variables]
    network.optimizer.finalize_variable_values(network.trainable_variables)
    probabilities = _predict(network, validation)
    for variable, value in zip(network.trainable_variables, current, strict=True):
        variable.assign(value)
    one_hot = np.eye(network.output_shape[-1], dtype=np.float32)[validation.labels]
    return {"validation_loss": float(network.loss(one_hot, probabilities)), **_metrics(probabilities, validation)}


def measure_validation(network: Network, samples: Samples) -> dict[str, float]:
    """Return the validation metrics of `fit` for a network that has no loss function; `validation_loss` is in nats."""
    probabilities = _predict(network, samples)
    true = probabilities[np.arange(len(samples)), samples.labels].astype(np.float64)
    loss = float(-np.log(np.maximum(true, np.finfo(np.float32).tiny)).mean())
    return {"validation_loss": loss, **_metrics(probabilities, samples)}


def _predict(network: Network, samples: Samples) -> npt.NDArray[np.float32]:
    images = samples.pixels[..., np.newaxis].astype(np.float32)
    probabilities: npt.NDArray[np.float32] = network.predict(images, batch_size=EVALUATION_BATCH, verbose=0)
    return probabilities


def _metrics(probabilities: npt.NDArray[np.float32], samples: Samples) -> dict[str, float]:
    return {
        "validation_accuracy": float((probabilities.argmax(axis=1) == samples.labels).mean()),
        "validation_calibrated_loss": calibrated_loss(probabilities, samples.labels),
    }


def mean_metrics(epochs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean metrics of several networks in one epoch."""
    return {name: float(np.mean([epoch[name] for epoch in epochs])) for name in epochs[0]}


def make_dataset(train: Samples | JoinedSamples, config: TrainingConfig, epoch: int, *, classes: int) -> Any:
    """Return the `tf.data.Dataset` of an epoch: batches of augmented images and one-hot labels."""
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
        lambda: draw_batches(train, config, epoch, classes), output_signature=signature
    )
    steps = -(-len(train) // config.batch_size)
    images = batches.map(tf.autograph.experimental.do_not_convert(to_images))
    return images.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2)


def draw_batches(train: Samples | JoinedSamples, config: TrainingConfig, epoch: int, classes: int) -> Iterator[Batch]:
    """Yield the batches of an epoch: images, one-hot labels, and the affine maps to apply.

    Their shapes are (N, height, width) uint8, (N, classes) float32 and (N, 8) float32; see `draw_transforms`.
    """
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
    """Draw random affine maps from output to input coordinates, around the center of the image.

    Args:
        random: random generator.
        count: number of maps.
        limits: largest rotation, shift, zoom and shear.
        shape: height and width of the images in pixels.

    Returns:
        (count, 8) float32, in the format of TensorFlow's `ImageProjectiveTransformV3`: a0 a1 a2 b0 b1 b2 0 0, where
        the input position of the output pixel (x, y) is (a0 x + a1 y + a2, b0 x + b1 y + b2).
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


def training_state(network: Network) -> list[Any]:
    """Return all variables on which the next step depends: weights, dropout seeds, and the optimizer's variables."""
    return [*network.variables, *network.optimizer.variables]


def save_checkpoint(network: Network, history: History, path: Path) -> None:
    """Write the history and the training state to a file with its SHA-256.

    Raises:
        OSError: if the file cannot be written; an earlier checkpoint stays as it was.
    """
    values = {f"v{number}": variable.numpy() for number, variable in enumerate(training_state(network))}
    content = io.BytesIO()
    np.savez(content, history=np.frombuffer(json.dumps(history).encode(), np.uint8), **values)
    with replacing(path) as file:
        file.write(hashlib.sha256(content.getbuffer()).digest())
        file.write(content.getbuffer())


def read_checkpoint(path: Path) -> tuple[History, list[npt.NDArray[Any]]]:
    """Read the history of a fit, and the values of the variables from which its next epoch starts.

    Raises:
        CorruptArtifactError: if the file was damaged after it was written.
        OSError: if the file cannot be read.
    """
    content = path.read_bytes()
    digest, saved = content[:_DIGEST_SIZE], content[_DIGEST_SIZE:]
    if hashlib.sha256(saved).digest() != digest:
        raise CorruptArtifactError(f"{path}: the checkpoint was damaged after it was written; its epochs are lost")
    with np.load(io.BytesIO(saved), allow_pickle=False) as arrays:
        history: History = json.loads(arrays["history"].tobytes())
        return history, [arrays[f"v{number}"] for number in range(len(arrays.files) - 1)]


def resume(network: Network, path: Path) -> History:
    """Restore the training state from a checkpoint and return its history, or [] if there is no readable one."""
    try:
        history, values = read_checkpoint(path)
    except FileNotFoundError:
        return []
    except (CorruptArtifactError, OSError) as error:
        logger.warning("%s; training starts from the first epoch", error)
        return []
    for variable, value in zip(training_state(network), values, strict=True):
        variable.assign(value)
    logger.info("resumed after epoch %d", len(history))
    return history
