"""Tests of the parts of a fit."""

import numpy as np
import pytest

from digits.data.digit_forms import FORMS
from digits.pipeline.config import TrainingRun
from digits.training.config import TrainingConfig
from digits.training.fit import JoinedSamples, Samples, count_late_epochs, samples_by_epoch

NAMES = tuple("0123456789")


def _samples(count: int, level: int) -> Samples:
    """Return images of one level and of their index."""
    pixels = np.full((count, 28, 28), level, np.uint8)
    pixels[:, 0, 0] = np.arange(count)
    return Samples(pixels, np.full(count, level, np.uint8))


@pytest.mark.parametrize(
    ("epochs", "forms", "names", "late"),
    [(19, 200, NAMES, 4), (20, 1, NAMES, 4), (5, 1, NAMES, 1), (1, 1, NAMES, 1), (20, 0, NAMES, 0), (20, 2, ("a",), 0)],
)
def test_the_last_fifth_of_the_epochs_has_drawn_forms(
    epochs: int, forms: int, names: tuple[str, ...], late: int
) -> None:
    """If any are drawn, and the classes are digits."""
    assert count_late_epochs(TrainingConfig(epochs=epochs, forms=forms), names) == late


@pytest.mark.parametrize(("preset", "late"), [("default", 4), ("quick", 0), ("best", 0)])
def test_only_the_default_preset_has_epochs_with_drawn_forms(preset: str, late: int) -> None:
    run = TrainingRun.model_validate({"preset": preset}).resolved()
    assert count_late_epochs(run.training, NAMES) == late


def test_late_epochs_have_the_images_of_the_others_and_more() -> None:
    """The others have synthetic digits too. Each late epoch has the same images, in the same order."""
    train = _samples(30, 1)
    config = TrainingConfig(epochs=7, printed=1, written=2, forms=3, seed=5)
    samples = samples_by_epoch(train, config, NAMES)
    assert [each is samples[0] for each in samples] == [True] * 5 + [False] * 2
    assert samples[6] is samples[5]
    first, late = samples[0], samples[5]
    every = np.arange(len(late))
    printed = len(first) - len(train) - 2 * 3
    assert len(late) == len(first) + printed + 3 * len(FORMS)
    for before, after in zip(first.take(every[: len(first)]), late.take(every[: len(first)]), strict=True):
        assert np.array_equal(before, after)
    assert late.take(every[-3 * len(FORMS) :])[1].tolist() == [int(name) for name, _ in FORMS for _ in range(3)]
    small, others = late.take(every[len(first) :][:printed])[0], first.take(every[len(train) :][:printed])[0]
    assert not any((picture == others).all(axis=(1, 2)).any() for picture in small)


def test_without_late_epochs_all_epochs_have_the_same_images() -> None:
    samples = samples_by_epoch(_samples(3, 1), TrainingConfig(epochs=3, printed=0, written=0, forms=0), NAMES)
    assert [len(each) for each in samples] == [3, 3, 3]


def test_joined_samples_can_be_joined_again() -> None:
    """Each index leads to its own image and label."""
    joined = JoinedSamples(JoinedSamples(_samples(3, 1), _samples(2, 2)), _samples(4, 3))
    pixels, labels = joined.take(np.array([0, 2, 3, 5, 8]))
    assert labels.tolist() == pixels[:, 1, 1].tolist() == [1, 1, 2, 3, 3]
    assert pixels[:, 0, 0].tolist() == [0, 2, 0, 0, 3]
    assert (len(joined), joined.shape) == (9, (28, 28))
