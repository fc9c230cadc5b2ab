"""Tests of the fit of the out-of-distribution score, on small made-up features."""

import numpy as np
import pytest

from digits.training import heads
from digits.training.heads import Floats, Head, fit_head

FEATURES = 6


def clouds(seed: int, count: int = 3_000) -> tuple[Floats, Floats]:
    """Return features that no plane separates: digits near the origin, others on a shell around it."""
    random = np.random.default_rng(seed)
    digits = random.normal(0, 0.5, (count, FEATURES))
    others = random.normal(0, 1, (count, FEATURES))
    others *= 4 / np.linalg.norm(others, axis=1, keepdims=True)
    return digits.astype(np.float32), others.astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> Head:
    """Fit three heads."""
    return fit_head(*clouds(0), heads=3, epochs=40, seed=1)


def test_the_heads_separate_what_no_plane_separates(fitted: Head) -> None:
    digits, others = clouds(1)
    assert (fitted.scores(digits) > 0).mean() < 0.02
    assert (fitted.scores(others) > 0).mean() > 0.98


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(fitted: Head) -> None:
    again, other = (fit_head(*clouds(0), heads=3, epochs=40, seed=seed) for seed in (1, 2))
    assert all(np.array_equal(one, two) for one, two in zip(fitted, again, strict=True))
    assert not np.array_equal(fitted.hidden, other.hidden)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_head_has_its_own_units(count: int) -> None:
    head = fit_head(*clouds(0, 50), heads=count, epochs=1, seed=1)
    assert [part.shape for part in head] == [
        (FEATURES, count * heads.UNITS),
        (count * heads.UNITS,),
        (count * heads.UNITS, 1),
        (1,),
    ]
    assert len(np.unique(head.hidden, axis=1).T) == count * heads.UNITS


def test_scale_and_offset_of_the_features_hardly_matter(fitted: Head) -> None:
    digits, others = clouds(0)
    moved = fit_head(digits * 50 + 7, others * 50 + 7, heads=3, epochs=40, seed=1)
    assert np.abs(moved.scores(others * 50 + 7) - fitted.scores(others)).max() < 1


def test_a_constant_feature_changes_no_score(fitted: Head) -> None:
    digits, others = (np.pad(part, ((0, 0), (0, 1))) for part in clouds(0))
    constant = fit_head(digits, others, heads=3, epochs=40, seed=1)
    assert (constant.scores(digits) > 0).mean() < 0.02
    digits[:, -1] = others[:, -1] = 0
    assert np.isfinite(constant.scores(others)).all()
