"""Distillation: the fit of a small network, the student, to the probabilities that a trained network predicts.

Source: G. Hinton, O. Vinyals, J. Dean: Distilling the Knowledge in a Neural Network, 2015.
"""

from collections.abc import Callable, Iterator
from itertools import count, islice

import numpy as np

from digits.images.types import Pixels
from digits.progress import SILENT, Bar, Progress, shown
from digits.training.backend import load_keras
from digits.training.config import TrainingConfig
from digits.training.fit import JoinedSamples, Samples, compile_network, make_dataset
from digits.training.heads import Floats
from digits.training.networks import Network, build_student, copy_variables, fuse_batch_normalization

Teacher = Callable[[Pixels], Floats]
"""Function that returns the probabilities of images: (N, height, width) uint8 -> (N, classes) float32."""

MIN_SIDE = 13
"""Least height and width of the images for which there is a student."""
MAX_DRAWN = 300_000
"""Largest number of images that are drawn for a student; they are kept in memory."""
_FIRST_EPOCH = 1000
"""Number of the first epoch whose augmentation is drawn, higher than that of any epoch of the teacher's fit."""
_PASSES = 3
"""Passes over the drawn images. Drawing an image and predicting it with the teacher takes longer than fitting to it."""
_SETTINGS = {
    "optimizer": "adamw",
    "batch_size": 256,
    "learning_rate": 8e-3,
    "schedule": "cosine",
    "weight_decay": 1e-2,
    "loss": "categorical-cross-entropy",
    "label_smoothing": 0.0,
    "weight_average": 0.99,
}
"""Settings of the fit; the augmentation is that of the trained network."""


def distil(
    teacher: Teacher,
    train: Samples | JoinedSamples,
    config: TrainingConfig,
    *,
    classes: int,
    progress: Progress = SILENT,
) -> Network:
    """Fit a student to the probabilities that a teacher predicts for augmented training images.

    Args:
        teacher: prediction of the trained network.
        train: training images, with the synthetic ones.
        config: settings of the trained network's fit, with `student_epochs`.
        classes: number of classes.
        progress: receiver of the progress.
    """
    batches = min((config.student_epochs or 1) * -(-len(train) // config.batch_size), MAX_DRAWN // config.batch_size)
    with shown(progress, "draw for student", batches + 1) as bar:
        drawn = _draw(teacher, islice(_augmented(train, config, classes), batches), bar)
    return _fit(*drawn, config.model_copy(update={**_SETTINGS, "epochs": _PASSES}), progress)


def _draw(teacher: Teacher, augmented: Iterator[Pixels], bar: Bar) -> tuple[Pixels, Floats]:
    """Return augmented images, (N, height, width) uint8, and the teacher's probabilities for them."""
    pixels: list[Pixels] = []
    probabilities: list[Floats] = []
    for batch in augmented:
        pixels.append(batch)
        probabilities.append(teacher(batch))
        bar.advance()
    return np.concatenate(pixels), np.concatenate(probabilities)


def _augmented(train: Samples | JoinedSamples, config: TrainingConfig, classes: int) -> Iterator[Pixels]:
    """Yield batches of augmented images without end."""
    for epoch in count(_FIRST_EPOCH):
        for images, _ in make_dataset(train, config, epoch, classes=classes):
            yield images.numpy()[..., 0].astype(np.uint8)


def _fit(pixels: Pixels, probabilities: Floats, settings: TrainingConfig, progress: Progress) -> Network:
    import tensorflow as tf

    (height, width), classes = pixels.shape[1:], probabilities.shape[1]
    student = build_student((height, width), classes, seed=settings.seed)
    fitted = fuse_batch_normalization(student)
    steps = _PASSES * -(-len(pixels) // settings.batch_size)
    compile_network(fitted, settings, steps)
    signature = (tf.TensorSpec((None, height, width, 1), tf.float32), tf.TensorSpec((None, classes), tf.float32))
    dataset = tf.data.Dataset.from_generator(
        lambda: _batches(pixels, probabilities, settings), output_signature=signature
    ).apply(tf.data.experimental.assert_cardinality(steps))
    with shown(progress, "student", steps + 1) as bar:
        tick = load_keras().callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: bar.advance())  # noqa: ARG005 - Keras passes them by name
        fitted.fit(dataset.prefetch(4), shuffle=False, verbose=0, callbacks=[tick])
        fitted.optimizer.finalize_variable_values(fitted.trainable_variables)
        copy_variables(fitted, student)
    return student


def _batches(pixels: Pixels, probabilities: Floats, settings: TrainingConfig) -> Iterator[tuple[Floats, Floats]]:
    """Yield batches of all passes; each pass has the images in another order."""
    random = np.random.default_rng([settings.seed, 253])
    for _ in range(_PASSES):
        order = random.permutation(len(pixels))
        for start in range(0, len(order), settings.batch_size):
            rows = order[start : start + settings.batch_size]
            yield pixels[rows, ..., np.newaxis].astype(np.float32), probabilities[rows]
