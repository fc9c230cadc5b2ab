"""Tests of augmentation: stroke width, blur, contrast and lines."""

from typing import Any

import numpy as np
import pytest

from digits.data.datasets import SAMPLE_FILE
from digits.images.types import Pixels
from digits.training.augmentation import distort
from digits.training.config import AugmentationConfig


@pytest.fixture(scope="module")
def digits() -> Pixels:
    """Return real digits, (200, 28, 28) uint8."""
    with np.load(SAMPLE_FILE) as arrays:
        images: Pixels = arrays["x_train"][:200]
    return images


def distorted(pixels: Pixels, seed: int = 0, **limits: float) -> Pixels:
    """Distort images with these limits, and 0 for all others."""
    config = AugmentationConfig.model_validate({"stroke": 0, "blur": 0, "contrast": 0, "lines": 0, **limits})
    return distort(np.random.default_rng(seed), pixels, config)


def test_with_all_limits_at_zero_the_images_are_returned_themselves(digits: Pixels) -> None:
    assert distorted(digits) is digits


@pytest.mark.parametrize("limits", [{"stroke": 0.7}, {"blur": 1.2}, {"contrast": 0.7}, {"lines": 0.5}])
def test_each_change_affects_a_share_and_is_a_function_of_the_generator(digits: Pixels, limits: dict[str, Any]) -> None:
    """Some images are not changed, and the input is not modified."""
    before = digits.copy()
    first, again, other = (distorted(digits, seed, **limits) for seed in (1, 1, 2))
    assert np.array_equal(digits, before)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    changed = (np.abs(first.astype(int) - digits) > 2).any(axis=(1, 2)).mean()
    assert 0.3 < changed < 0.95
    assert (first.shape, first.dtype) == (digits.shape, np.uint8)


def test_strokes_get_thicker_and_thinner() -> None:
    """The images show a bar with a width of four pixels."""
    bars = np.zeros((100, 28, 28), np.uint8)
    bars[:, 4:24, 12:16] = 200
    widths = distorted(bars, stroke=1)[:, 14].astype(float).sum(axis=1) / 255
    assert 3 <= widths.min() < 3.3
    assert 5.5 < widths.max() <= 6


def test_blur_spreads_ink_evenly() -> None:
    """A blurred dot is larger, its center is the same, and its maximum is 255."""
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
    """A ramp of levels remains monotonic, from 0 to 255."""
    ramps = np.tile(np.linspace(0, 255, 28).astype(np.uint8), (80, 28, 1))
    cut = distorted(ramps, contrast=0.9).astype(int)
    assert (np.diff(cut, axis=2) >= 0).all()
    assert not cut[:, :, 0].any()
    assert (cut[:, :, -1] >= 254).all()


def test_lines_lie_along_an_edge() -> None:
    """About half of the blank images get one line, within the outermost four pixels."""
    lined = distorted(np.zeros((200, 28, 28), np.uint8), lines=0.5)
    assert 70 < lined.any(axis=(1, 2)).sum() < 130
    assert not lined[:, 4:-4, 4:-4].any()
    assert set(lined[lined.any(axis=(1, 2))].any(axis=2).sum(axis=1).tolist()) <= {1, 2, 28}


def test_a_blank_image_stays_blank() -> None:
    """Its contrast is not stretched."""
    assert not distorted(np.zeros((20, 28, 28), np.uint8), stroke=0.7, blur=1, contrast=0.7).any()
