"""Test of the learning loop on a real server with a real browser: reviewed labels improve the next model."""

from pathlib import Path

import pytest

from tests.support import data
from tests.support.browser import is_available
from tests.support.learning_loop import (
    LabelledHalves,
    LearningLoop,
    find_labelled_pictures,
    run_learning_loop,
    split_by_hash,
)
from tests.support.server import untracked

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> LabelledHalves:
    """Return images of another kind than the training images: photographed print."""
    place = tmp_path_factory.mktemp("writing")
    return split_by_hash(find_labelled_pictures(data.unpack("sudoku_print", place / "labelled")), place)


@pytest.fixture(scope="module")
def loop(halves: LabelledHalves, own_root: Path, server: str, tmp_path_factory: pytest.TempPathFactory) -> LearningLoop:
    """Run the loop once, from the small model that all tests share."""
    if not is_available():
        pytest.skip("there is no Chromium with its driver here (Debian: chromium, chromium-driver)")
    place = tmp_path_factory.mktemp("loop")
    own_root.rename(place / "artifacts")
    environment = {**untracked(place / "home"), "PREFECT_API_URL": server}
    return run_learning_loop(halves, place, environment, dataset="mnist-sample", options=["--architecture", "mlp"])


def test_accuracy_rises_on_images_that_were_not_reviewed(loop: LearningLoop, halves: LabelledHalves) -> None:
    assert loop.labelled == len(list(halves.reviewed.iterdir()))
    assert len(loop.before) == len(loop.after) == len(list(halves.held_back.iterdir())) == 200
    gain, low, high = loop.gain
    assert 0.05 < low < gain < high


def test_the_model_trained_on_reviewed_images_is_promoted(loop: LearningLoop) -> None:
    assert loop.learned["promoted"]
    assert loop.learned["champion"] == loop.learned["version"]
    assert "on reviewed correct on" in " ".join(loop.learned["reasons"])


def test_a_model_trained_on_shuffled_labels_is_not_promoted(loop: LearningLoop) -> None:
    assert not loop.sabotaged["promoted"]
    assert loop.sabotaged["champion"] == loop.learned["version"]
    assert "is worse than the champion" in " ".join(loop.sabotaged["reasons"])


def test_a_rollback_restores_the_first_table(loop: LearningLoop) -> None:
    assert loop.rolled_back
