"""Distillation: the fit of a small network, the student, to the probabilities that a trained network predicts.

Source: G. Hinton, O. Vinyals, J. Dean: Distilling the Knowledge in a Neural Network, 2015.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from digits.images.types import Pixels
from digits.progress import SILENT, Progress, shown
from digits.training.backend import load_keras
from digits.training.config import TrainingConfig
from digits.training.fit import JoinedSamples, Samples, compile_network, make_dataset
from digits.training.networks import Network, build_student, copy_variables, fuse_batch_normalization

Teacher = Callable[[Pixels], npt.NDArray[np.float32]]
"""Function that returns the probabilities of images: (N, height, width) uint8 -> (N, classes) float32."""

MIN_SIDE = 13
"""Least height and width of the images for which there is a student."""
_SETTINGS = {
    "optimizer": "adamw",
    "learning_rate": 8e-3,
    "schedule": "cosine",
    "weight_decay": 1e-2,
    "loss": "categorical-cross-entropy",
    "label_smoothing": 0.0,
    "weight_average": 0.99,
}
"""Settings of the fit; the batch size and the augmentation are those of the trained network."""


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
    import tensorflow as tf

    epochs = config.student_epochs or 1
    settings = config.model_copy(update={**_SETTINGS, "epochs": epochs})
    height, width = train.shape
    student = build_student((height, width), classes, seed=config.seed)
    fitted = fuse_batch_normalization(student)
    steps = -(-len(train) // config.batch_size)
    compile_network(fitted, settings, steps)
    signature = (tf.TensorSpec((None, height, width, 1), tf.float32), tf.TensorSpec((None, classes), tf.float32))
    dataset = tf.data.Dataset.from_generator(
        lambda: _batches(teacher, train, settings, epochs, classes), output_signature=signature
    ).apply(tf.data.experimental.assert_cardinality(steps * epochs))
    with shown(progress, "student", steps * epochs + 1) as bar:
        tick = load_keras().callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: bar.advance())  # noqa: ARG005 - Keras passes them by name
        fitted.fit(dataset.prefetch(4), shuffle=False, verbose=0, callbacks=[tick])
    fitted.optimizer.finalize_variable_values(fitted.trainable_variables)
    copy_variables(fitted, student)
    return student


def _batches(
    teacher: Teacher, train: Samples | JoinedSamples, config: TrainingConfig, epochs: int, classes: int
) -> Iterator[tuple[Any, npt.NDArray[np.float32]]]:
    """Yield the augmented images of all epochs, other ones than those of the teacher's fit, with its probabilities."""
    for epoch in range(epochs):
        for images, _ in make_dataset(train, config, (config.epochs or 0) + 1000 + epoch, classes=classes):
            pixels = images.numpy().astype(np.uint8)
            yield pixels.astype(np.float32), teacher(pixels[..., 0])
