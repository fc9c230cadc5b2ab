"""Printed digits for training: in MNIST's form, of every class, the same each time."""

import numpy as np
import pytest

from digits.data.synthetic_digits import are_digits, render_printed_digits
from digits.images.normalize import has_mnist_form

NAMES = tuple("0123456789")


@pytest.mark.parametrize(
    ("names", "digits"),
    [(NAMES, True), (("0", "1"), True), ((), False), (("shirt", "coat"), False), (("0", "10"), False)],
)
def test_only_digits_are_printed(names: tuple[str, ...], digits: bool) -> None:
    """Clothes are not, nor are numbers of two digits."""
    assert are_digits(names) is digits


def test_each_class_in_each_font() -> None:
    """As often as was asked for, in MNIST's form, different from one another, and the same for the same seed."""
    pixels, labels = render_printed_digits(NAMES, 2, seed=1, shape=(28, 28))
    again, _ = render_printed_digits(NAMES, 2, seed=1, shape=(28, 28))
    counts = np.bincount(labels)
    assert len(set(counts.tolist())) == 1
    assert counts[0] >= 2 * 10
    assert np.mean([has_mnist_form(picture) for picture in pixels]) > 0.9
    assert len({picture.tobytes() for picture in pixels}) > 0.95 * len(pixels)
    assert np.array_equal(pixels, again)


def test_another_size() -> None:
    """The network says what it takes."""
    pixels, _ = render_printed_digits(("0", "1"), 1, seed=0, shape=(32, 32))
    assert pixels.shape[1:] == (32, 32)
    assert pixels.any(axis=(1, 2)).all()
