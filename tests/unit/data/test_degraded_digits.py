"""Tests of degraded digits."""

import numpy as np
import pytest

from digits.data.degraded_digits import GROUPS, WHOLE, degrade_digits
from digits.data.synthetic_digits import draw_handwritten_digits

DIGITS, _ = draw_handwritten_digits(tuple("0123456789"), 20, seed=1, shape=(28, 28))
CHANGES = sorted({change for _, changes in GROUPS for change in changes}, key=lambda change: change.__name__)


def likeness(picture, digit):
    """Return the cosine similarity of two images."""
    first, second = picture.astype(float).ravel(), digit.astype(float).ravel()
    return first @ second / max(np.linalg.norm(first) * np.linalg.norm(second), 1)


def test_copies_are_a_function_of_the_seed_and_know_their_digit():
    (first, origin), (again, _), (other, _) = (
        degrade_digits(DIGITS, 12, seed=seed, shape=(32, 24)) for seed in (1, 1, 2)
    )
    assert (first.shape, origin.shape) == ((12, 32, 24), (12,))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert degrade_digits(DIGITS, 0, seed=1, shape=(28, 28))[0].shape == (0, 28, 28)


def test_most_copies_resemble_their_digit_without_being_equal_to_it():
    copies, origin = degrade_digits(DIGITS, 200, seed=3, shape=(28, 28))
    alike = np.array([likeness(copy, DIGITS[number]) for copy, number in zip(copies, origin, strict=True)])
    assert np.median(alike) > 0.8
    assert (alike < 0.99).mean() > 0.8


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_each_change_leaves_ink_in_its_range_and_all_but_one_change_it(change):
    random = np.random.default_rng(0)
    ink = np.pad(DIGITS[7].astype(np.float32) / 255, 4).repeat(2, axis=0).repeat(2, axis=1)
    changed = [change(ink.copy(), 56, DIGITS, random) for _ in range(8)]
    assert all(one.shape == ink.shape and one.min() >= 0 and one.max() <= 1 and one.any() for one in changed)
    assert all(np.array_equal(one, ink) for one in changed) == (change.__name__ == "_keep")


def test_the_first_groups_leave_strokes_whole():
    names = {change.__name__ for _, changes in GROUPS[:WHOLE] for change in changes}
    assert not names & {"_dot", "_break", "_hollow", "_fade", "_thin"}
    broken, whole = (degrade_digits(DIGITS, 30, seed=1, shape=(28, 28), whole=whole)[0] for whole in (False, True))
    assert not np.array_equal(broken, whole)
