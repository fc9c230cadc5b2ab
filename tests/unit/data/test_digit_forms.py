"""Tests of digits drawn in the forms that people use."""

import numpy as np
import pytest

from digits.data.digit_forms import FORMS, draw_forms
from digits.images.normalize import has_mnist_form

NAMES = tuple("0123456789")


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    """Return 30 drawings of each form by the name of its function: (30, 28, 28) uint8."""
    pixels, _ = draw_forms(NAMES, 30, seed=1, shape=(28, 28))
    return {form.__name__: pixels[30 * number : 30 * number + 30] for number, (_, form) in enumerate(FORMS)}


def test_each_form_is_drawn_in_the_form_of_mnist() -> None:
    """Each form is drawn as often as requested; drawings vary, and are a function of the seed."""
    pixels, labels = draw_forms(NAMES, 4, seed=3, shape=(28, 28))
    assert labels.tolist() == [int(name) for name, _ in FORMS for _ in range(4)]
    assert np.mean([has_mnist_form(picture) for picture in pixels]) > 0.95
    assert len({picture.tobytes() for picture in pixels}) == len(pixels)
    assert np.array_equal(draw_forms(NAMES, 4, seed=3, shape=(28, 28))[0], pixels)
    assert not np.array_equal(draw_forms(NAMES, 4, seed=4, shape=(28, 28))[0], pixels)


def _width(pictures: np.ndarray, rows: slice) -> float:
    """Return the mean number of columns with ink in these rows."""
    return float((pictures[:, rows].max(axis=1) > 100).sum(axis=1).mean())


def test_ones_have_a_flag_at_the_top_and_some_a_foot(drawn: dict[str, np.ndarray]) -> None:
    """A stem has ink in few columns. A flag adds columns at the top, a foot at the bottom, a bar in the middle."""
    flagged, footed, crossed = (drawn[name] for name in ("_one_with_flag", "_one_with_foot", "_crossed_seven"))
    assert _width(flagged, slice(6, 12)) > _width(flagged, slice(17, 23)) + 2
    assert _width(footed, slice(20, 24)) > _width(flagged, slice(20, 24)) + 3
    assert _width(crossed, slice(14, 18)) > _width(flagged, slice(14, 18)) + 3


def test_strokes_vary_in_level_and_width(drawn: dict[str, np.ndarray]) -> None:
    """Thin, thick and faint strokes are among the drawings of one form."""
    ink = drawn["_seven"] / 255
    assert ink.mean(axis=(1, 2)).max() > 2 * ink.mean(axis=(1, 2)).min()
    assert np.ptp([picture[picture > 0.2].mean() for picture in ink]) > 0.2


def test_forms_of_missing_classes_are_not_drawn() -> None:
    """Labels are indices of the given class names."""
    pixels, labels = draw_forms(("7", "8"), 2, seed=1, shape=(20, 24))
    sevens, eights = (2 * [name for name, _ in FORMS].count(name) for name in "78")
    assert (pixels.shape, labels.tolist()) == ((sevens + eights, 20, 24), [0] * sevens + [1] * eights)
    assert draw_forms((), 2, seed=1, shape=(28, 28))[0].shape == (0, 28, 28)


@pytest.mark.parametrize("name", NAMES)
def test_each_digit_has_several_forms(name: str) -> None:
    """Each is drawn in one unit of height, apart from hooks and loops."""
    forms = [form for digit, form in FORMS if digit == name]
    assert len(forms) > 1
    for form in forms:
        points = np.concatenate(form(np.random.default_rng(0)))
        assert 0.9 < np.ptp(points[:, 1]) < 1.3
        assert np.ptp(points[:, 0]) < 1.5
