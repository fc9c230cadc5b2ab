"""Tests of synthetic images without a digit."""

import numpy as np
import pytest

from digits.data.non_digits import KINDS, draw_non_digits
from digits.data.objects import draw_object
from digits.images.screening import screen
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


def test_a_digit_that_is_struck_out_has_more_ink_in_more_columns():
    random = np.random.default_rng(0)
    bar = np.zeros((1, 28, 28), np.uint8)
    bar[0, 4:24, 13:15] = 255
    for _ in range(20):
        inked = KINDS["struck out"][0](bar, random) > 128
        assert np.ptp(np.flatnonzero(inked.any(axis=0))) > len(inked) / 2


def is_kept(screened):
    """Return whether the screening does not recognize an object, and its ink is wider than that of a 1."""
    inked = screened.pixels >= 32
    spans = [np.ptp(np.flatnonzero(inked.any(axis=axis))) + 1 for axis in (0, 1)] if inked.any() else [0, 0]
    return not screened.screening_score and spans[0] > 0.3 * spans[1]


def test_objects_that_the_screening_recognizes_and_narrow_ones_are_left_out():
    for seed in range(8):
        random = np.random.default_rng(seed)
        seen = [screen(draw_object(random)) for _ in range(20)]
        assert any(one.screening_score for one in seen)
        first = next(one for one in seen if is_kept(one))
        assert np.array_equal(KINDS["object"][0](DIGITS, np.random.default_rng(seed)), first.pixels)
