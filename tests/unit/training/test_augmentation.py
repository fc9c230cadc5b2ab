"""What augmentation does to ink: more, less, softer, cut, framed; and nothing where it is off."""

from importlib import resources
from typing import Any

import numpy as np
import pytest

from digits.images.types import Pixels
from digits.training.augmentation import distort
from digits.training.config import AugmentationConfig


@pytest.fixture(scope="module")
def digits() -> Pixels:
    """Real digits, (200, 28, 28) uint8."""
    with (resources.files("digits") / "sample" / "mnist-sample.npz").open("rb") as file, np.load(file) as arrays:
        images: Pixels = arrays["x_train"][:200]
    return images


def only(**limits: float) -> AugmentationConfig:
    """Limits of which all others are 0."""
    return AugmentationConfig.model_validate({"stroke": 0, "blur": 0, "contrast": 0, "lines": 0, **limits})


def distorted(pixels: Pixels, seed: int = 0, **limits: float) -> Pixels:
    """Distort with these limits only."""
    return distort(np.random.default_rng(seed), pixels, only(**limits))


def test_off_is_untouched(digits: Pixels) -> None:
    """Not even copied."""
    assert distorted(digits) is digits


@pytest.mark.parametrize("limits", [{"stroke": 0.7}, {"blur": 1.2}, {"contrast": 0.7}, {"lines": 0.5}])
def test_each_changes_a_share_and_is_a_function_of_the_generator(digits: Pixels, limits: dict[str, Any]) -> None:
    """Some images stay as they are; the same generator gives the same images; the input is not written to."""
    before = digits.copy()
    first, again, other = (distorted(digits, seed, **limits) for seed in (1, 1, 2))
    assert np.array_equal(digits, before)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    changed = (np.abs(first.astype(int) - digits) > 2).any(axis=(1, 2)).mean()
    assert 0.3 < changed < 0.95
    assert (first.shape, first.dtype) == (digits.shape, np.uint8)


def test_strokes_get_thicker_and_thinner() -> None:
    """A bar of four pixels, drawn a hundred times."""
    bars = np.zeros((100, 28, 28), np.uint8)
    bars[:, 4:24, 12:16] = 200
    widths = distorted(bars, stroke=1)[:, 14].astype(float).sum(axis=1) / 255
    assert 3 <= widths.min() < 3.3
    assert 5.5 < widths.max() <= 6


def test_blur_spreads_ink_evenly() -> None:
    """A dot in the middle: it reaches further, its centre stays, and its strongest ink is full."""
    dots = np.zeros((60, 28, 28), np.uint8)
    dots[:, 12:15, 12:15] = 255
    blurred = distorted(dots, blur=1.5).astype(float)
    reached = (blurred > 20).sum(axis=(1, 2))
    assert reached.min() == 9
    assert reached.max() > 25
    assert (blurred.max(axis=(1, 2)) >= 254).all()
    centres = blurred.sum(axis=1) @ np.arange(28) / blurred.sum(axis=(1, 2))
    assert centres == pytest.approx(13, abs=0.05)


def test_contrast_keeps_the_order_of_levels() -> None:
    """A ramp stays one: never falling, black stays black, the strongest stays the strongest."""
    ramps = np.tile(np.linspace(0, 255, 28).astype(np.uint8), (80, 28, 1))
    cut = distorted(ramps, contrast=0.9).astype(int)
    assert (np.diff(cut, axis=2) >= 0).all()
    assert not cut[:, :, 0].any()
    assert (cut[:, :, -1] >= 254).all()


def test_lines_lie_along_an_edge() -> None:
    """On blank images: one line each on about half, within the outermost four pixels."""
    lined = distorted(np.zeros((200, 28, 28), np.uint8), lines=0.5)
    assert 70 < lined.any(axis=(1, 2)).sum() < 130
    assert not lined[:, 4:-4, 4:-4].any()
    assert set(lined[lined.any(axis=(1, 2))].any(axis=2).sum(axis=1).tolist()) <= {1, 2, 28}


def test_a_blank_image_stays_blank() -> None:
    """Nothing to stretch is not stretched."""
    assert not distorted(np.zeros((20, 28, 28), np.uint8), stroke=0.7, blur=1, contrast=0.7).any()
