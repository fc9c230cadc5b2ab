"""What a picture is besides the digit in it, and what is then said of it."""

import numpy as np
import pytest

from digits.images.normalize import normalize
from digits.images.screening import NOT_A_DIGIT, measure_unevenness, screen
from digits.status import combine_novelty, prediction_status
from tests.support.tiny_model import draw


def one(seed=0):
    """A mark, dark on white, with room around it."""
    return np.pad(255 - draw(seed), 6, constant_values=255)


def test_a_mark_is_seen_as_it_is_normalised_and_is_not_odd():
    """The same pixels as the normalisation gives."""
    seen = screen(one())
    assert np.array_equal(seen.pixels, normalize(one()))
    assert seen.screening_score == 0


def test_a_blank_page_is_no_digit():
    """In every mode."""
    page = np.full((40, 30), 220, np.uint8)
    assert screen(page).screening_score == NOT_A_DIGIT
    assert screen(np.zeros((28, 28), np.uint8), "none").screening_score == NOT_A_DIGIT


def test_two_marks_side_by_side_are_no_digit():
    """Only one of them would be predicted; however sure the network is of that one."""
    screening_score = screen(np.hstack([one(1), one(2)])).screening_score
    assert screening_score >= NOT_A_DIGIT
    (novelty,) = combine_novelty(np.array([-90.0], np.float32), [screening_score])
    assert prediction_status(0.99, novelty, 0.9) == "not-a-digit"


def test_a_slope_of_light_is_even_and_a_thing_is_not():
    """Whatever its direction."""
    slope = np.add.outer(np.linspace(60, 120, 90), np.linspace(0, 100, 70)).astype(np.uint8)
    thing = np.zeros((90, 70), np.uint8)
    thing[20:70, 15:50] = 180
    assert measure_unevenness(slope) < 0.005
    assert measure_unevenness(thing) > 0.12


def test_unevenness_is_what_a_plane_fitted_by_least_squares_leaves():
    """For paper of any shape, a line and a dot as well."""
    random = np.random.default_rng(7)
    for height, width in ((60, 45), (28, 28), (4, 1), (1, 9), (1, 1), (2, 2)):
        paper = (np.linspace(90, 200, width) + random.normal(0, 20, (height, width))).clip(0, 255).astype(np.uint8)
        rows, columns = np.indices(paper.shape)
        plane = np.stack([np.ones(paper.size), rows.ravel(), columns.ravel()], axis=1)
        values = paper.ravel() / 255
        left = values - plane @ np.linalg.lstsq(plane, values, rcond=None)[0]
        assert measure_unevenness(paper) == pytest.approx(np.sqrt((left**2).mean()), abs=1e-5)


def test_a_picture_in_mnists_form_is_looked_at_but_once(monkeypatch):
    """It is given back itself, and no ink is searched for."""
    monkeypatch.setattr("digits.images.screening.find_ink", None)
    picture = np.zeros((28, 28), np.uint8)
    picture[5:24, 11:18] = 255
    assert screen(picture).pixels is picture
    assert screen(picture).screening_score == 0


@pytest.mark.parametrize(
    ("confidence", "novelty", "expected"),
    [(0.99, -1.0, "ok"), (0.5, -1.0, "uncertain"), (0.5, 1.0, "not-a-digit"), (0.99, None, "ok"), (0.9, 0.0, "ok")],
)
def test_no_digit_goes_before_uncertain(confidence, novelty, expected):
    """A threshold is reached by what equals it."""
    assert prediction_status(confidence, novelty, 0.9) == expected


def test_novelty_is_the_sum_of_what_network_and_normalisation_say():
    """Nothing where the network can't tell."""
    assert combine_novelty(np.array([-2.5, 1], np.float32), [20.0, 0.0]) == [17.5, 1.0]
    assert combine_novelty(None, [20.0]) == [None]
