"""Digits drawn as MNIST's writers hardly did."""

import numpy as np

from digits.data.synthetic_digits import FORMS, draw_handwritten_digits
from digits.images.normalize import has_mnist_form

NAMES = tuple("0123456789")


def test_each_form_is_drawn_in_the_form_of_mnist() -> None:
    """As often as was asked for, each time a little differently, and the same for the same seed."""
    pixels, labels = draw_handwritten_digits(NAMES, 8, seed=3, shape=(28, 28))
    assert labels.tolist() == [int(name) for name, _ in FORMS for _ in range(8)]
    assert all(has_mnist_form(picture) for picture in pixels)
    assert len({picture.tobytes() for picture in pixels}) == len(pixels)
    assert np.array_equal(draw_handwritten_digits(NAMES, 8, seed=3, shape=(28, 28))[0], pixels)
    assert not np.array_equal(draw_handwritten_digits(NAMES, 8, seed=4, shape=(28, 28))[0], pixels)


def test_ones_have_a_flag_on_the_left_of_their_top_and_some_a_foot() -> None:
    """A stem has its ink in few columns; a flag reaches out above, a foot below, the bar of a seven in the middle."""
    pixels, _ = draw_handwritten_digits(NAMES, 40, seed=1, shape=(28, 28))
    flagged, footed, crossed = (pixels[first : first + 40] for first in (0, 40, 80))

    def width(pictures: np.ndarray, rows: slice) -> float:
        """Give the mean number of columns with ink in these rows."""
        return float((pictures[:, rows].max(axis=1) > 100).sum(axis=1).mean())

    assert width(flagged, slice(6, 12)) > width(flagged, slice(17, 23)) + 2
    assert width(footed, slice(20, 24)) > width(flagged, slice(20, 24)) + 3
    assert width(crossed, slice(14, 18)) > width(flagged, slice(14, 18)) + 3


def test_classes_that_are_not_there_are_left_out() -> None:
    """Labels are numbers of the classes given."""
    pixels, labels = draw_handwritten_digits(("7", "8"), 2, seed=1, shape=(20, 24))
    assert (pixels.shape, labels.tolist()) == ((2, 20, 24), [0, 0])
    assert draw_handwritten_digits(("2",), 2, seed=1, shape=(28, 28))[0].shape == (0, 28, 28)
