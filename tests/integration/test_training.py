"""Tests of networks and their fit, with TensorFlow and real digits."""

import logging
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime
import pytest

from digits.data.synthetic_digits import render_printed_digits
from digits.errors import ModelError
from digits.pipeline.config import Preset, TrainingRun
from digits.progress import Bar
from digits.store.code_version import library_versions
from digits.training import backend, export, fit, networks
from digits.training.config import AugmentationConfig, ModelConfig, TrainingConfig
from tests.support import small_fits
from tests.support.server import unmeasured

ARCHITECTURES = ["cnn", "mlp-2"]
STILL = AugmentationConfig(rotation=0, shift=0, zoom=0, shear=0, stroke=0, blur=0, contrast=0, lines=0)
SHAPE = (28, 28)


@pytest.fixture(scope="session")
def keras() -> Any:
    """Return Keras, imported once."""
    return backend.load_keras()


@pytest.fixture(scope="session")
def begun_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start another process that fits the same runs, and yield it with the directory of its checkpoints."""
    where = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", small_fits.__name__, str(where)]
    with unmeasured():
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with process:
        yield process, where
        process.kill()


@pytest.fixture(scope="session")
def other_process(begun_process: tuple[subprocess.Popen[str], Path]) -> tuple[dict[str, str], Path]:
    """Kill the other process in a fit; return the digests of its finished fits, and its last checkpoint."""
    process, where = begun_process
    lines = []
    for line in process.stdout or ():
        if line == "hanging\n":
            process.send_signal(signal.SIGKILL)
            break
        lines.append(line.split())
    assert process.wait() == -signal.SIGKILL
    return dict(lines), where / "killed.npz"


@pytest.fixture(scope="session")
def fitted(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, fit.History, Path]]:
    """Fit each architecture without interruption; return the network, the history and the last checkpoint."""
    where = tmp_path_factory.mktemp("fitted")
    return {name: (*small_fits.fit(small_fits.run_of(name), where / name), where / name) for name in ARCHITECTURES}


@pytest.fixture(scope="session")
def digests(fitted: dict[str, Any]) -> dict[str, str]:
    """Return the digests of the weights of the uninterrupted fits."""
    return {name: networks.weights_digest(network) for name, (network, _, _) in fitted.items()}


class _ClosedBar:
    """Progress with one bar, which records whether it was closed."""

    is_closed = False

    def start(self, label: str, total: int, *, part: tuple[int, int] = (0, 1)) -> Bar:
        """Return the bar."""
        return self

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Do nothing."""

    def close(self, note: str = "") -> None:
        """Record the end."""
        self.is_closed = True


class Highest:
    """Generator that always draws the upper end of a range, so that a transform is known."""

    def uniform(self, low: float, high: float, size: int | tuple[int, ...]) -> Any:
        """Return the upper end."""
        return np.full(size, high)


def transformed(images: Any, limits: AugmentationConfig, random: Any) -> Any:
    """Apply random transforms to (N, height, width) images, as in training."""
    import tensorflow as tf

    transforms = fit.draw_transforms(random, len(images), limits, images.shape[1:])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images[..., np.newaxis].astype(np.float32),
        transforms=transforms,
        output_shape=images.shape[1:],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    ).numpy()[..., 0]


# Reproducible results


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_same_seed_gives_the_same_weights_in_another_process(
    begun_process: object, digests: dict[str, str], other_process: tuple[dict[str, str], Path], name: str
) -> None:
    """They are equal bit by bit after three epochs with dropout, augmentation and averaged weights."""
    assert other_process[0][name] == digests[name]


def test_order_and_transforms_are_a_function_of_seed_and_epoch() -> None:
    """The batches of an epoch do not depend on earlier epochs. Another seed or epoch has other batches."""
    train, _ = small_fits.samples()

    def batches_digest(seed: int, epoch: int) -> str:
        batches = fit.draw_batches(train, small_fits.run_of("cnn", seed=seed).training, epoch, classes=10)
        return networks.arrays_digest(array for batch in batches for array in batch)

    assert batches_digest(1, 2) == batches_digest(1, 2)
    assert len({batches_digest(1, 2), batches_digest(1, 3), batches_digest(2, 2)}) == 3


def test_a_killed_fit_resumes_and_ends_with_the_same_weights(
    digests: dict[str, str], other_process: tuple[dict[str, str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """It is killed in the second epoch. The next fit resumes after the first epoch."""
    with caplog.at_level(logging.INFO):
        assert small_fits.digest(small_fits.run_of("cnn"), other_process[1]) == digests["cnn"]
    assert "resumed after epoch 1" in caplog.text
    assert "training on the CPU" in caplog.text


def test_an_interrupted_fit_resumes_and_ends_with_the_same_weights_and_history(
    digests: dict[str, str], fitted: dict[str, Any], tmp_path: Path
) -> None:
    """An exception interrupts it in the second epoch."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    run = small_fits.run_of("mlp-2")
    with pytest.raises(KeyboardInterrupt):
        small_fits.fit(run, tmp_path / "c", small_fits.InSecondEpoch(interrupt))
    network, history = small_fits.fit(run, tmp_path / "c")
    assert networks.weights_digest(network) == digests["mlp-2"]
    assert history == fitted["mlp-2"][1]


def test_a_callback_before_each_epoch_may_stop_a_fit(
    digests: dict[str, str], fitted: dict[str, Any], tmp_path: Path
) -> None:
    """It receives the history so far, also after resuming, and does not change the weights."""
    received: list[fit.History] = []

    def callback(history: fit.History) -> None:
        received.append(list(history))
        if len(received) == 2:
            raise KeyError("stop")

    run = small_fits.run_of("mlp-2")
    whole = fitted["mlp-2"][1]
    with pytest.raises(KeyError, match="stop"):
        small_fits.fit(run, tmp_path / "c", before_epoch=callback)
    network, _ = small_fits.fit(run, tmp_path / "c", before_epoch=callback)
    assert received == [[], whole[:1], whole[:1], whole[:2]]
    assert networks.weights_digest(network) == digests["mlp-2"]


def test_a_diverging_fit_is_an_error(tmp_path: Path) -> None:
    """The checkpoint contains no NaN, and the bar of the epoch is closed."""
    bar = _ClosedBar()
    run = small_fits.run_of("mlp-2", optimizer="sgd", learning_rate=10.0, loss="mean-squared-error", weight_decay=1.0)
    with pytest.raises(ModelError, match=r"diverged: .* after epoch \d; try a lower learning rate than 10$"):
        small_fits.fit(run, tmp_path / "c", bar)
    assert bar.is_closed
    assert not (tmp_path / "c").exists() or b"NaN" not in (tmp_path / "c").read_bytes()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_finished_fit_is_not_repeated(
    digests: dict[str, str], fitted: dict[str, Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """This happens if a process is killed after the last epoch, before the model was saved."""
    with caplog.at_level(logging.INFO):
        assert small_fits.digest(small_fits.run_of(name), fitted[name][2]) == digests[name]
    assert "resumed after epoch 3" in caplog.text


# Checkpoints


def test_a_damaged_checkpoint_is_reported_and_the_fit_starts_from_scratch(
    digests: dict[str, str], fitted: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The weights are the same in the end."""
    content = bytearray(fitted["mlp-2"][2].read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint = tmp_path / "c"
    checkpoint.write_bytes(content)
    assert small_fits.digest(small_fits.run_of("mlp-2"), checkpoint) == digests["mlp-2"]
    assert "training starts from the first epoch" in caplog.text


def test_no_flipped_bit_of_a_checkpoint_reaches_a_network(keras: Any, tmp_path: Path) -> None:
    """A flipped bit anywhere is detected, and the fit starts from scratch."""
    run = small_fits.run_of("mlp-2", epochs=1)
    checkpoint = tmp_path / "c"
    network = small_network(run.training)
    fit.save_checkpoint(network, [{"loss": 1.0}], checkpoint)
    content = checkpoint.read_bytes()
    assert fit.resume(network, checkpoint) == [{"loss": 1.0}]
    set_to_zero(network)
    for position in range(0, len(content), 199):
        checkpoint.write_bytes(content[:position] + bytes([content[position] ^ 2]) + content[position + 1 :])
        assert fit.resume(network, checkpoint) == [], position
    assert not any(variable.numpy().any() for variable in fit.training_state(network))


def small_network(config: TrainingConfig) -> Any:
    """Return a compiled network with few weights."""
    config_of_model = ModelConfig(architecture="mlp-2", hidden=(16,), dropout=0.5)
    network = networks.build(config_of_model, input_shape=SHAPE, classes=2, seed=1)
    fit.compile_network(network, config, steps=1)
    return network


def set_to_zero(network: Any) -> None:
    """Set every variable to zero."""
    for variable in fit.training_state(network):
        variable.assign(np.zeros(variable.shape, variable.dtype))


def test_a_full_disk_is_an_os_error_and_keeps_the_previous_checkpoint(keras: Any, tmp_path: Path) -> None:
    """The store turns an `OSError` into a `StoreError`."""
    network = small_network(small_fits.run_of("mlp-2").training)
    checkpoint = tmp_path / "c"
    fit.save_checkpoint(network, [{"loss": 1.0}], checkpoint)
    before = checkpoint.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"too large|written"):
            fit.save_checkpoint(network, [{"loss": 1.0}] * 2, checkpoint)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.read_bytes() == before
    assert list(tmp_path.iterdir()) == [checkpoint]


# Fit


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_fit_reduces_the_loss_and_records_all_metrics(fitted: dict[str, Any], name: str) -> None:
    """320 digits are enough for an accuracy above 0.3."""
    history = fitted[name][1]
    assert len(history) == 3
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["validation_accuracy"] > 0.3
    validation = {"validation_loss", "validation_accuracy", "validation_calibrated_loss"}
    assert all(set(metrics) == {"loss", "accuracy"} | validation for metrics in history)
    assert all(metrics["validation_calibrated_loss"] <= metrics["validation_loss"] + 1e-6 for metrics in history)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_last_validation_accuracy_is_that_of_the_final_network(fitted: dict[str, Any], name: str) -> None:
    """Validation and the final network use the same averaged weights."""
    network, history, _ = fitted[name]
    _, validation = small_fits.samples()
    predicted = network.predict(validation.pixels[..., np.newaxis].astype(np.float32), verbose=0).argmax(axis=1)
    assert history[-1]["validation_accuracy"] == pytest.approx((predicted == validation.labels).mean())


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "loss": "mean-squared-error"},
        {"optimizer": "rmsprop", "schedule": "cosine", "weight_average": 0.9},
        {"optimizer": "adamw", "weight_decay": 0.01, "label_smoothing": 0.1, "augment": True},
    ],
)
def test_every_optimizer_and_loss_reaches_a_finite_loss(keras: Any, tmp_path: Path, settings: dict[str, Any]) -> None:
    _, history = small_fits.fit(small_fits.run_of("mlp-2", epochs=1, **settings), tmp_path / "c")
    assert np.isfinite(history[0]["loss"])


def test_progress_has_a_bar_per_epoch_and_a_step_per_batch(keras: Any, tmp_path: Path) -> None:
    """The bar is closed with the metrics of the epoch."""
    events: list[Any] = []

    class Recorder:
        def start(self, label: str, total: int, *, part: tuple[int, int] = (0, 1)) -> "Recorder":
            events.append((label, total, part))
            return self

        def advance(self, steps: int = 1, note: str = "") -> None:
            events.append(steps)

        def close(self, note: str = "") -> None:
            events.append(note)

    small_fits.fit(small_fits.run_of("mlp-2", epochs=2), tmp_path / "c", Recorder())
    assert events[:12] == [("epoch 1/2", 11, (0, 2)), *[1] * 11]
    assert events[12].startswith("accuracy ")
    assert events[13] == ("epoch 2/2", 11, (1, 2))
    assert len(events) == 26


def test_an_epoch_contains_every_image_once_in_its_own_order(keras: Any) -> None:
    """The last batch is shorter. Each label stays with its image."""
    train, _ = small_fits.samples()
    config = small_fits.run_of("cnn").training.model_copy(update={"augmentation": STILL})
    orders = []
    for epoch in (0, 1):
        drawn = list(fit.draw_batches(train, config, epoch, classes=10))
        batches = list(fit.make_dataset(train, config, epoch, classes=10))
        assert [len(images) for images, _ in batches] == [30] * 10 + [20]
        images = np.concatenate([images.numpy() for images, _ in batches])[..., 0]
        labels = np.concatenate([labels.numpy() for _, labels in batches]).argmax(axis=1)
        assert np.array_equal(images, np.concatenate([pixels for pixels, _, _ in drawn]))
        orders.append(images.astype(np.uint8).tobytes())
        found = sorted((image.tobytes(), label) for image, label in zip(images.astype(np.uint8), labels, strict=True))
        assert found == sorted(
            (image.tobytes(), label) for image, label in zip(train.pixels, train.labels, strict=True)
        )
    assert orders[0] != orders[1]


def test_synthetic_digits_are_added_only_if_the_classes_are_digits(
    keras: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Each epoch contains them with their labels."""
    train, _ = small_fits.samples()
    config = small_fits.run_of("cnn", printed=1, written=3, augment=False).training
    joined = fit.add_synthetic_digits(train, config, tuple("0123456789"))
    assert fit.add_synthetic_digits(train, config, ("shirt", "coat")) is train
    batches = list(fit.draw_batches(joined, config, 0, classes=10))
    labels = np.concatenate([labels.argmax(axis=1) for _, labels, _ in batches])
    found = {
        (image.tobytes(), int(label))
        for (pixels, _, _), label_rows in zip(batches, batches, strict=True)
        for image, label in zip(pixels, label_rows[1].argmax(axis=1), strict=True)
    }
    added = joined.second
    assert len(labels) == len(joined) == len(train) + len(added)
    assert len(added) == len(render_printed_digits(tuple("0123456789"), 1, seed=0, shape=train.shape)[1]) + 9
    assert {(image.tobytes(), int(label)) for image, label in zip(added.pixels, added.labels, strict=True)} < found


def test_a_fit_that_is_interrupted_in_a_late_epoch_resumes_with_the_same_weights(keras: Any, tmp_path: Path) -> None:
    """Its last two of six epochs have drawn forms; it is interrupted between them."""
    run, names = small_fits.run_of("cnn", epochs=6, printed=0, written=0, forms=1), tuple("0123456789")

    def stop(history: fit.History) -> None:
        if len(history) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_fits.fit(run, tmp_path / "c.npz", class_names=names, before_epoch=stop)
    network, history = small_fits.fit(run, tmp_path / "c.npz", class_names=names)
    whole, expected = small_fits.fit(run, tmp_path / "whole.npz", class_names=names)
    assert networks.weights_digest(network) == networks.weights_digest(whole)
    assert history == expected


def test_the_learning_rate_falls_to_zero_at_the_last_step_of_late_epochs(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps of all epochs count: 11 with 320 images in batches of 30, and 12 with 32 drawn forms as well."""
    rates = []
    compile_network = fit.compile_network

    def compile_and_note(network: Any, config: TrainingConfig, steps: int) -> None:
        compile_network(network, config, steps)
        schedule = network.optimizer._learning_rate
        rates.extend([float(schedule(11 + 11 + 11)), float(schedule(11 + 11 + 12))])

    monkeypatch.setattr(fit, "compile_network", compile_and_note)
    run = small_fits.run_of("cnn", epochs=3, printed=0, written=0, forms=1)
    small_fits.fit(run, tmp_path / "c", class_names=tuple("0123456789"))
    assert rates[0] > 1e-6
    assert rates[1] == pytest.approx(0, abs=1e-9)


# Augmentation


def test_with_all_limits_at_zero_the_transform_is_the_identity(keras: Any) -> None:
    """The images do not change in any bit."""
    train, _ = small_fits.samples()
    random = np.random.default_rng(0)
    assert fit.draw_transforms(random, 2, STILL, SHAPE).tolist() == [[1, 0, 0, 0, 1, 0, 0, 0]] * 2
    assert np.array_equal(transformed(train.pixels[:20], STILL, random), train.pixels[:20])


def test_a_shift_moves_the_pixels_by_its_amount(keras: Any) -> None:
    """Each output pixel comes from three pixels to the right and below. Pixels from outside are black."""
    images = small_fits.samples()[0].pixels[:5]
    shifted = transformed(images, STILL.model_copy(update={"shift": 3.0}), Highest())
    assert np.array_equal(shifted[:, :-3, :-3], images[:, 3:, 3:])
    assert not shifted[:, -3:].any()
    assert not shifted[:, :, -3:].any()


def test_a_rotation_is_around_the_center(keras: Any) -> None:
    """By 180 degrees, an image that is not square is turned upside down; by 90 degrees, a square image on its side."""
    images = small_fits.samples()[0].pixels[:5]
    half_turn = transformed(images[:, 4:], STILL.model_copy(update={"rotation": 180.0}), Highest())
    assert np.allclose(half_turn, images[:, :3:-1, ::-1], atol=0.5)
    quarter_turn = transformed(images, STILL.model_copy(update={"rotation": 90.0}), Highest())
    assert np.allclose(quarter_turn, np.rot90(images, axes=(1, 2)), atol=0.5)


def test_zoom_and_shear_keep_the_center(keras: Any) -> None:
    """A zoom above 1 shrinks the image. A shear moves each row in proportion to its distance from the center."""
    images = np.zeros((1, 21, 21), np.uint8)
    images[0, 10, :] = images[0, :, 10] = 200
    zoomed = transformed(images, STILL.model_copy(update={"zoom": 0.5}), Highest())[0]
    assert zoomed[10, 10] == 200
    assert zoomed[10].astype(bool).sum() < 20
    sheared = transformed(images, STILL.model_copy(update={"shear": 1.0}), Highest())[0]
    assert sheared[10, 10] == sheared[5, 15] == sheared[15, 5] == 200


def test_transforms_stay_within_their_limits() -> None:
    """1,000 shifts nearly reach both limits, and exceed none."""
    drawn = fit.draw_transforms(np.random.default_rng(1), 1000, STILL.model_copy(update={"shift": 2.0}), SHAPE)
    assert drawn.dtype == np.float32
    assert np.abs(drawn[:, [2, 5]]).max() <= 2
    assert drawn[:, [2, 5]].min(axis=0).max() < -1.9
    assert drawn[:, [2, 5]].max(axis=0).min() > 1.9


# The learning rate


def test_a_cosine_schedule_rises_to_its_peak_and_falls_to_zero(keras: Any) -> None:
    """It rises for 20 of 100 steps, and has half of the peak in the middle of the fall."""
    config = small_fits.run_of("cnn", learning_rate=0.004, warmup=0.2).training
    rate = fit.learning_rate_schedule(keras, config, 100)
    assert [float(rate(step)) for step in (0, 10, 20, 60, 100)] == pytest.approx([0, 0.002, 0.004, 0.002, 0], abs=1e-9)


def test_a_cosine_schedule_without_warm_up_starts_at_its_peak(keras: Any) -> None:
    """There is no division by zero."""
    config = small_fits.run_of("cnn", learning_rate=0.004, warmup=0).training
    rate = fit.learning_rate_schedule(keras, config, 1)
    assert [float(rate(step)) for step in (0, 1)] == pytest.approx([0.004, 0], abs=1e-9)


def test_a_constant_learning_rate_is_a_number(keras: Any) -> None:
    assert fit.learning_rate_schedule(keras, small_fits.run_of("mlp-2", learning_rate=0.01).training, 100) == 0.01


# Networks


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        (ModelConfig(architecture="mlp", hidden=(128,), dropout=0.5), 101_770),
        (ModelConfig(architecture="mlp-2", hidden=(128, 128), dropout=0.5), 118_282),
        (ModelConfig(architecture="mlp-2", hidden=(8, 8, 8), dropout=0.5, activation="tanh"), 6_514),
        (ModelConfig(architecture="cnn", hidden=(24, 48, 64, 96, 128), dropout=0.3), 226_434),
        (ModelConfig(architecture="compact", hidden=(16, 32, 32, 64), dropout=0.2), 43_226),
        (ModelConfig(architecture="cropped", hidden=(16, 32, 48, 64), dropout=0), 57_370),
    ],
)
def test_each_architecture_maps_raw_pixels_to_probabilities(keras: Any, config: ModelConfig, weights: int) -> None:
    """It has the expected number of weights, and the summary names its layers."""
    network = networks.build(config, input_shape=SHAPE, classes=10, seed=1)
    predicted = network.predict(np.full((3, 28, 28, 1), 255, np.float32), verbose=0)
    assert predicted.shape == (3, 10)
    assert predicted.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert network.count_params() == weights
    assert "rescaling" in networks.summary(network)
    assert network.name == config.architecture


def test_fused_batch_normalization_equals_that_of_keras(keras: Any) -> None:
    """Outputs, gradients and moving means are equal in training, and variances except for Bessel's correction."""
    network = small_fits.build(small_fits.run_of("cnn"))
    fused = networks.fuse_batch_normalization(network)
    assert networks.weights_digest(fused) == networks.weights_digest(network)
    (first, gradients), (second, fused_gradients) = trained_once(network), trained_once(fused)
    assert np.allclose(first, second, rtol=1e-3)
    assert all(np.allclose(*pair, rtol=1e-2, atol=1e-2) for pair in zip(gradients, fused_gradients, strict=True))
    for variable, other in zip(network.variables, fused.variables, strict=True):
        assert np.allclose(variable, other, rtol=0.02, atol=1e-5), variable.path
    still = [model.predict(np.full((3, 28, 28, 1), 99, np.float32), verbose=0) for model in (network, fused)]
    assert np.allclose(*still, atol=0.02)


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
def test_pooling_before_the_activation_changes_nothing_in_training(keras: Any, activation: str) -> None:
    """Outputs and gradients are the same; only the copy for training has another order of layers."""
    layers = keras.layers
    images = keras.Input((*SHAPE, 1))
    hidden = layers.BatchNormalization()(layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(images)))
    pooled = layers.MaxPooling2D()(layers.Activation(activation)(hidden))
    network = keras.Model(images, layers.Dense(10, activation="softmax")(layers.Flatten()(pooled)))
    copy = networks.fuse_batch_normalization(network)
    for model, expected in ((network, ["Activation", "MaxPooling2D"]), (copy, ["MaxPooling2D", "Activation"])):
        kinds = [type(layer).__name__ for layer in model.layers]
        assert [kind for kind in kinds if kind in expected] == expected
    (first, gradients), (second, copied) = trained_once(network), trained_once(copy)
    assert np.allclose(first, second, rtol=1e-3)
    assert all(np.allclose(*pair, rtol=1e-2, atol=1e-2) for pair in zip(gradients, copied, strict=True))


def trained_once(network: Any) -> tuple[Any, list[Any]]:
    """Return the output of a network for 100 digits in training, and the gradients of a loss."""
    import tensorflow as tf

    samples = small_fits.samples()[1]
    images = samples.pixels[..., np.newaxis].astype(np.float32)
    with tf.GradientTape() as tape:
        outputs = network(images, training=True)
        loss = tf.reduce_sum(outputs * np.eye(10, dtype=np.float32)[samples.labels])
    return outputs.numpy(), [gradient.numpy() for gradient in tape.gradient(loss, network.trainable_variables)]


def test_a_network_without_batch_normalization_is_not_copied(keras: Any) -> None:
    network = small_fits.build(small_fits.run_of("mlp-2"))
    assert networks.fuse_batch_normalization(network) is network


def test_a_fitted_network_has_standard_keras_layers_only(fitted: dict[str, Any]) -> None:
    """So its `.keras` file can be opened without Digits."""
    assert {type(layer).__module__.split(".")[0] for layer in fitted["cnn"][0].layers} == {"keras"}


def test_initial_weights_are_a_function_of_the_seed(keras: Any) -> None:
    """The same seed gives the same weights, and another seed gives other weights."""
    run = small_fits.run_of("mlp-2")
    first, again = (networks.weights_digest(small_fits.build(run)) for _ in range(2))
    other = networks.weights_digest(small_fits.build(small_fits.run_of("mlp-2", seed=1)))
    assert first == again != other


@pytest.mark.parametrize(
    ("config", "shape", "message"),
    [
        (ModelConfig(architecture="mlp", hidden=(8, 8), dropout=0), SHAPE, r"mlp has 1 hidden layers, .* \(8, 8\)"),
        (ModelConfig(architecture="cnn", hidden=(8,), dropout=0), SHAPE, r"cnn has 5 hidden layers, .* \(8,\)"),
        (ModelConfig(architecture="cnn", dropout=0), SHAPE, r"cnn has 5 hidden layers, but hidden is None"),
        (
            ModelConfig(architecture="cnn", hidden=(2,) * 5, dropout=0),
            (8, 8),
            r"cnn cannot be built for images of \(8, 8\)",
        ),
    ],
)
def test_a_network_that_cannot_be_built_is_an_error(
    keras: Any, config: ModelConfig, shape: tuple[int, int], message: str
) -> None:
    """The number of layer sizes is wrong, or the images are too small for the convolutions."""
    with pytest.raises(ModelError, match=message):
        networks.build(config, input_shape=shape, classes=10, seed=1)


def test_a_saved_network_is_loaded_with_the_same_weights_and_output(fitted: dict[str, Any], tmp_path: Path) -> None:
    network = fitted["cnn"][0]
    networks.save(network, tmp_path / "model.keras")
    loaded = networks.load(tmp_path / "model.keras")
    images = small_fits.samples()[1].pixels[..., np.newaxis].astype(np.float32)
    assert networks.weights_digest(loaded) == networks.weights_digest(network)
    assert np.array_equal(loaded.predict(images, verbose=0), network.predict(images, verbose=0))


@pytest.mark.parametrize("content", [b"", b"not a zip file", None])
def test_a_missing_file_or_one_without_a_model_is_an_error(keras: Any, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.keras").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.keras: (expected a \.keras file|Keras cannot load the model)"):
        networks.load(tmp_path / "model.keras")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_exported_network_has_the_output_of_the_keras_network(
    fitted: dict[str, Any], tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Batches of any size have equal classes, and probabilities within 1e-4. The converter prints nothing."""
    network = fitted[name][0]
    export.export_onnx(network, tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == ["images"]
    images = small_fits.samples()[1].pixels[..., np.newaxis].astype(np.float32)
    expected = network.predict(images, verbose=0)
    for count in (1, 7, len(images)):
        (found,) = session.run(None, {"images": images[:count]})
        assert np.abs(found - expected[:count]).max() < 1e-4
        assert np.array_equal(found.argmax(axis=1), expected[:count].argmax(axis=1))


@pytest.mark.parametrize(
    "preset", [pytest.param(name, marks=[pytest.mark.slow] * (name != "default")) for name in get_args(Preset)]
)
def test_each_preset_is_built_fitted_saved_loaded_and_exported(keras: Any, tmp_path: Path, preset: Preset) -> None:
    """The exported network predicts the same as the fitted one."""
    chosen = TrainingRun(
        preset=preset, training=TrainingConfig(epochs=1, batch_size=64, printed=0, written=0)
    ).resolved()
    network, history = small_fits.fit(chosen, tmp_path / "c")
    assert np.isfinite(history[0]["loss"])
    networks.save(network, tmp_path / "model.keras")
    images = small_fits.samples()[1].pixels[..., np.newaxis].astype(np.float32)
    loaded = networks.load(tmp_path / "model.keras")
    assert np.array_equal(loaded.predict(images, verbose=0), network.predict(images, verbose=0))
    export.export_onnx(loaded, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(None, {"images": images})[0], network.predict(images, verbose=0), atol=1e-4)


def test_an_average_of_networks_has_their_mean_probabilities(keras: Any, tmp_path: Path) -> None:
    """This holds after saving, loading and exporting, too. The validation metrics are those of the average."""
    samples = small_fits.samples()[1]
    images = samples.pixels[..., np.newaxis].astype(np.float32)
    run = TrainingRun().resolved()
    members = [networks.build(run.model, input_shape=SHAPE, classes=10, seed=seed) for seed in (1, 2)]
    expected = np.mean([member.predict(images, verbose=0) for member in members], axis=0)
    networks.save(networks.average(members), tmp_path / "model.keras")
    loaded = networks.load(tmp_path / "model.keras")
    assert np.allclose(loaded.predict(images, verbose=0), expected, atol=1e-6)
    export.export_onnx(loaded, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(None, {"images": images})[0], expected, atol=1e-4)
    measured = fit.measure_validation(loaded, samples)
    right = expected.argmax(axis=1) == samples.labels
    assert measured["validation_accuracy"] == pytest.approx(right.mean())
    true = expected[np.arange(len(samples)), samples.labels]
    assert measured["validation_loss"] == pytest.approx(-np.log(true).mean(), rel=1e-4)
    assert fit.mean_metrics([{"loss": 1.0}, {"loss": 3.0}]) == {"loss": 2.0}


def test_settings_that_are_not_resolved_are_refused(keras: Any) -> None:
    with pytest.raises(ModelError, match="the settings name no architecture"):
        networks.build(ModelConfig(), input_shape=SHAPE, classes=10, seed=1)


def test_two_builds_of_tensorflow_are_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Both distributions are found as pip leaves them."""
    for name in ("tensorflow", "tensorflow_cpu"):
        (tmp_path / f"{name}-2.dist-info").mkdir()
        (tmp_path / f"{name}-2.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    for cached in (library_versions, backend.load_keras):
        cached.cache_clear()
    backend.load_keras()
    assert "tensorflow and tensorflow-cpu are both installed, expected one" in caplog.text
    library_versions.cache_clear()


def test_without_keras_the_error_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training may be started in an environment for predictions."""
    monkeypatch.setitem(sys.modules, "keras", None)
    backend.load_keras.cache_clear()
    with pytest.raises(
        ModelError, match=r"training needs keras, which is not installed: pip install 'digits\[train\]'"
    ):
        backend.load_keras()
    monkeypatch.undo()
    backend.load_keras()
