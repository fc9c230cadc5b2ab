"""Drift: real shifts are told of, chance is not."""

import numpy as np
import pytest

from digits.drift import Drift, find_drift

SHARE = 0.009


def test_chance_is_no_drift() -> None:
    """Of 20,000 folders of 300 images like the test's, at most two in ten thousand are told of."""
    drawn = np.random.default_rng(1).binomial(300, SHARE, 20_000)
    alarms = sum(find_drift(int(rejected), 300, SHARE) is not None for rejected in drawn)
    assert alarms <= 4


@pytest.mark.parametrize(("rejected", "images"), [(18, 300), (6, 50), (1_500, 100_000)])
def test_a_shift_is_told_of(rejected: int, images: int) -> None:
    """With both shares."""
    drift = find_drift(rejected, images, SHARE)
    assert drift == Drift(rejected / images, SHARE)
    assert drift is not None
    assert f"{rejected / images:.1%} of the images" in drift.sentence


@pytest.mark.parametrize(
    ("rejected", "images", "expected"), [(49, 49, SHARE), (300, 300, None), (0, 0, SHARE), (3, 300, 0.0)]
)
def test_what_can_not_be_told_is_not(rejected: int, images: int, expected: float | None) -> None:
    """A few images, a model without novelty, a test set of which none was rejected."""
    assert find_drift(rejected, images, expected) is None
