"""The whole circle on a real server with a real browser: what people say of a folder makes the next model better."""

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
def writing(tmp_path_factory: pytest.TempPathFactory) -> LabelledHalves:
    """Return images of another kind than the model was trained on: photographed print."""
    place = tmp_path_factory.mktemp("writing")
    return split_by_hash(find_labelled_pictures(data.unpack("sudoku_print", place / "labelled")), place)


@pytest.fixture(scope="module")
def circle(
    writing: LabelledHalves, own_root: Path, server: str, tmp_path_factory: pytest.TempPathFactory
) -> LearningLoop:
    """Go round once, from the small model that all tests share."""
    if not is_available():
        pytest.skip("there is no Chromium with its driver here (Debian: chromium, chromium-driver)")
    place = tmp_path_factory.mktemp("circle")
    own_root.rename(place / "artifacts")
    environment = {**untracked(place / "home"), "PREFECT_API_URL": server}
    return run_learning_loop(writing, place, environment, dataset="mnist-sample", options=["--architecture", "mlp"])


def test_it_is_better_on_pictures_that_nobody_has_labelled(circle: LearningLoop, writing: LabelledHalves) -> None:
    """By far more than chance explains, on 200 of them."""
    assert circle.labelled == len(list(writing.reviewed.iterdir()))
    assert len(circle.before) == len(circle.after) == len(list(writing.held_back.iterdir())) == 200
    gain, low, high = circle.gain
    assert 0.05 < low < gain < high


def test_what_was_learned_is_promoted(circle: LearningLoop) -> None:
    """For being better on the test images of the review."""
    assert circle.learned["promoted"]
    assert circle.learned["champion"] == circle.learned["version"]
    assert "on reviewed right on" in " ".join(circle.learned["reasons"])


def test_shuffled_labels_are_refused(circle: LearningLoop) -> None:
    """For what they do to the numbers, which are told; the champion stays."""
    assert not circle.sabotaged["promoted"]
    assert circle.sabotaged["champion"] == circle.learned["version"]
    assert "is worse than the champion" in " ".join(circle.sabotaged["reasons"])


def test_a_rollback_brings_the_first_table_back(circle: LearningLoop) -> None:
    """Byte for byte."""
    assert circle.rolled_back
