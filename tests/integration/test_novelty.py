"""Tests of the out-of-distribution score, fitted to real digits and added to an exported network."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from digits.pipeline import steps
from digits.progress import SILENT
from digits.training import export, novelty
from tests.support.small_fits import fit, run_of, samples, small_head

DIGITS = tuple("0123456789")


@pytest.fixture(scope="module", params=["cnn", pytest.param("mlp-2", marks=pytest.mark.slow)])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a small network, after three epochs."""
    path = tmp_path_factory.mktemp("exported") / f"{request.param}.onnx"
    network, _ = fit(run_of(request.param), path.with_suffix(".npz"))
    export.export_onnx(network, path)
    return path


def test_the_score_rejects_noise_but_few_digits_and_keeps_the_probabilities(exported: Path, tmp_path: Path) -> None:
    """The first output is equal bit by bit, and the same seed gives the same file."""
    import onnxruntime

    train, validation = samples()
    paths = [Path(shutil.copy(exported, tmp_path / f"{number}.onnx")) for number in range(2)]
    with small_head():
        for path in paths:
            assert novelty.add_novelty_output(path, train.pixels, validation.pixels, DIGITS, seed=1)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    images = validation.pixels[..., np.newaxis].astype(np.float32)
    sessions = [onnxruntime.InferenceSession(str(path)) for path in (exported, paths[0])]
    plain, (kept, scores) = (session.run(None, {session.get_inputs()[0].name: images}) for session in sessions)
    assert np.array_equal(plain[0], kept)
    assert (scores > 0).mean() <= 0.03
    noise = np.random.default_rng(0).integers(0, 256, (100, 28, 28, 1)).astype(np.float32)
    strange = sessions[1].run(["novelty"], {sessions[1].get_inputs()[0].name: noise})[0]
    assert (strange > 0).mean() > {"cnn": 0.9, "mlp-2": 0.2}[exported.stem]


def test_a_network_with_other_classes_than_digits_gets_no_score(exported: Path) -> None:
    train, validation = samples()
    assert not novelty.add_novelty_output(exported, train.pixels, validation.pixels, ("coat", "shoe"))


def test_a_share_of_the_images_is_drawn() -> None:
    train, random = samples()[0].pixels, np.random.default_rng(0)
    with small_head():
        digits, all_digits = (len(novelty._draw_digits(random, train, DIGITS, share, seed=1)) for share in (0.2, 1))
        others, all_others = (len(novelty._draw_others(random, train, share, seed=1)) for share in (0.2, 1))
    assert all_digits - digits == len(train) - 200 + 3 * 16
    assert all_others == 5 * others


@pytest.mark.parametrize(("epochs", "share"), [(19, 1), (15, 1), (3, 1 / 5)])
def test_a_training_of_few_epochs_gets_a_fit_to_few_images(epochs: int, share: float) -> None:
    assert steps.fit_share(epochs) == share


def test_degraded_digits_that_the_network_misreads_are_left_out(exported: Path) -> None:
    train, network = samples()[0].pixels, novelty._FeatureExtractor(exported)
    with small_head():
        images, features, features_of_others = novelty._draw_and_read(
            network, train, DIGITS, 1.0, seed=1, bar=SILENT.start("export", 4)
        )
        plain = len(novelty._draw_digits(np.random.default_rng(0), train, DIGITS, 1.0, seed=1))
        assert 0 < len(images.digits) - 4 * plain < novelty.DEGRADED
    assert np.array_equal(features, network.read(images.digits)[0])
    assert np.array_equal(features_of_others, network.read(images.others)[0])
