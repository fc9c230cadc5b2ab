"""Tests of synthetic digits for training: printed digits, and digits drawn in forms that are rare in MNIST."""

import numpy as np
import pytest

from digits.data.synthetic_digits import (
    FORMS,
    are_digits,
    draw_handwritten_digits,
    render_printed_digits,
    render_small_digits,
)
from digits.images.normalize import has_mnist_form

NAMES = tuple("0123456789")


@pytest.mark.parametrize(
    ("names", "digits"),
    [(NAMES, True), (("0", "1"), True), ((), False), (("shirt", "coat"), False), (("0", "10"), False)],
)
def test_only_single_digits_are_digits(names: tuple[str, ...], digits: bool) -> None:
    assert are_digits(names) is digits


def test_each_class_is_rendered_in_each_font() -> None:
    """All classes have equally many images, most in MNIST's form; they vary, and are a function of the seed."""
    pixels, labels = render_printed_digits(NAMES, 2, seed=1, shape=(28, 28))
    again, _ = render_printed_digits(NAMES, 2, seed=1, shape=(28, 28))
    counts = np.bincount(labels)
    assert len(set(counts.tolist())) == 1
    assert counts[0] >= 2 * 10
    assert np.mean([has_mnist_form(picture) for picture in pixels]) > 0.9
    assert len({picture.tobytes() for picture in pixels}) > 0.95 * len(pixels)
    assert np.array_equal(pixels, again)


def test_small_print_is_softer_than_other_print() -> None:
    """Its edges are less steep; it has as many images of each class, and is a function of the seed."""
    (small, labels), (other, others) = (
        render(NAMES, 2, seed=1, shape=(28, 28)) for render in (render_small_digits, render_printed_digits)
    )
    steepest = [np.abs(np.diff(pixels.astype(int), axis=2)).max(axis=(1, 2)).mean() for pixels in (small, other)]
    assert steepest[0] < steepest[1] - 10
    assert labels.tolist() == others.tolist()
    assert np.array_equal(render_small_digits(NAMES, 2, seed=1, shape=(28, 28))[0], small)
    assert not np.array_equal(render_small_digits(NAMES, 2, seed=2, shape=(28, 28))[0], small)


def test_printed_digits_have_the_requested_size() -> None:
    pixels, _ = render_printed_digits(("0", "1"), 1, seed=0, shape=(32, 32))
    assert pixels.shape[1:] == (32, 32)
    assert pixels.any(axis=(1, 2)).all()


def test_each_form_is_drawn_in_the_form_of_mnist() -> None:
    """Each form is drawn as often as requested; drawings vary, and are a function of the seed."""
    pixels, labels = draw_handwritten_digits(NAMES, 8, seed=3, shape=(28, 28))
    assert labels.tolist() == [int(name) for name, _ in FORMS for _ in range(8)]
    assert all(has_mnist_form(picture) for picture in pixels)
    assert len({picture.tobytes() for picture in pixels}) == len(pixels)
    assert np.array_equal(draw_handwritten_digits(NAMES, 8, seed=3, shape=(28, 28))[0], pixels)
    assert not np.array_equal(draw_handwritten_digits(NAMES, 8, seed=4, shape=(28, 28))[0], pixels)


def test_ones_have_a_flag_at_the_top_and_some_a_foot() -> None:
    """A stem has ink in few columns. A flag adds columns at the top, a foot at the bottom, a bar in the middle."""
    pixels, _ = draw_handwritten_digits(NAMES, 40, seed=1, shape=(28, 28))
    flagged, footed, crossed = (pixels[first : first + 40] for first in (0, 40, 80))

    def width(pictures: np.ndarray, rows: slice) -> float:
        """Return the mean number of columns with ink in these rows."""
        return float((pictures[:, rows].max(axis=1) > 100).sum(axis=1).mean())

    assert width(flagged, slice(6, 12)) > width(flagged, slice(17, 23)) + 2
    assert width(footed, slice(20, 24)) > width(flagged, slice(20, 24)) + 3
    assert width(crossed, slice(14, 18)) > width(flagged, slice(14, 18)) + 3


def test_forms_of_missing_classes_are_not_drawn() -> None:
    """Labels are indices of the given class names."""
    pixels, labels = draw_handwritten_digits(("7", "8"), 2, seed=1, shape=(20, 24))
    assert (pixels.shape, labels.tolist()) == ((2, 20, 24), [0, 0])
    assert draw_handwritten_digits(("2",), 2, seed=1, shape=(28, 28))[0].shape == (0, 28, 28)
