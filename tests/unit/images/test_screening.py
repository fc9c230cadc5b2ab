"""Screening: blank pages, several digits and photos of objects."""

import numpy as np
import pytest

from digits.images.normalize import normalize
from digits.images.screening import NOT_A_DIGIT, measure_unevenness, screen
from digits.status import combine_novelty, prediction_status
from tests.support.tiny_model import draw


def one(seed=0):
    """Return a dark digit on white paper, with a margin."""
    return np.pad(255 - draw(seed), 6, constant_values=255)


def test_an_image_of_one_digit_is_normalized_and_has_the_score_0():
    """The pixels are those of `normalize`."""
    seen = screen(one())
    assert np.array_equal(seen.pixels, normalize(one()))
    assert seen.screening_score == 0


def test_a_blank_page_is_not_a_digit():
    """This holds in each mode."""
    page = np.full((40, 30), 220, np.uint8)
    assert screen(page).screening_score == NOT_A_DIGIT
    assert screen(np.zeros((28, 28), np.uint8), "none").screening_score == NOT_A_DIGIT


def test_two_digits_side_by_side_are_not_a_digit():
    """Only one of them would be predicted, and no confidence of the network offsets the score."""
    screening_score = screen(np.hstack([one(1), one(2)])).screening_score
    assert screening_score >= NOT_A_DIGIT
    (novelty,) = combine_novelty(np.array([-90.0], np.float32), [screening_score])
    assert prediction_status(0.99, novelty, 0.9) == "not-a-digit"


def test_a_linear_gradient_is_even_and_an_object_is_not():
    """The gradient may have any direction."""
    gradient = np.add.outer(np.linspace(60, 120, 90), np.linspace(0, 100, 70)).astype(np.uint8)
    thing = np.zeros((90, 70), np.uint8)
    thing[20:70, 15:50] = 180
    assert measure_unevenness(gradient) < 0.005
    assert measure_unevenness(thing) > 0.12


def test_unevenness_is_the_residual_of_the_least_squares_plane():
    """The paper may have any shape, also that of a line or a single pixel."""
    random = np.random.default_rng(7)
    for height, width in ((60, 45), (28, 28), (4, 1), (1, 9), (1, 1), (2, 2)):
        paper = (np.linspace(90, 200, width) + random.normal(0, 20, (height, width))).clip(0, 255).astype(np.uint8)
        rows, columns = np.indices(paper.shape)
        plane = np.stack([np.ones(paper.size), rows.ravel(), columns.ravel()], axis=1)
        values = paper.ravel() / 255
        left = values - plane @ np.linalg.lstsq(plane, values, rcond=None)[0]
        assert measure_unevenness(paper) == pytest.approx(np.sqrt((left**2).mean()), abs=1e-5)


def test_no_ink_is_searched_in_an_image_in_mnists_form(monkeypatch):
    """The image itself is returned."""
    monkeypatch.setattr("digits.images.screening.find_ink", None)
    picture = np.zeros((28, 28), np.uint8)
    picture[5:24, 11:18] = 255
    assert screen(picture).pixels is picture
    assert screen(picture).screening_score == 0
