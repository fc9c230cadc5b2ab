"""Tests of synthetic images without a digit."""

import numpy as np
import pytest

from digits.data.non_digits import KINDS, draw_non_digits
from tests.support.tiny_model import draw

DIGITS = np.stack([draw(seed) for seed in range(5)])


def test_drawings_are_a_function_of_the_seed_and_never_blank():
    first, again, other = (draw_non_digits(DIGITS, 12, seed=seed, shape=(28, 28)) for seed in (1, 1, 2))
    assert first.shape == (12, 28, 28)
    assert first.any(axis=(1, 2)).all()
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert draw_non_digits(DIGITS, 0, seed=1, shape=(28, 28)).shape == (0, 28, 28)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_ink_and_varies(kind):
    random = np.random.default_rng(0)
    drawn = [KINDS[kind][0](DIGITS, random) for _ in range(8)]
    assert len({picture.tobytes() for picture in drawn}) > 1
    assert any(picture.max() > 32 for picture in drawn)
