"""Tests of the limits of a cascade."""

import numpy as np

from digits.training.cascade import Limits


def test_a_prediction_counts_if_it_is_certain_and_the_image_is_like_a_digit() -> None:
    confidence = np.array([0.99, 0.99, 0.97, 0.98], np.float32)
    scores = np.array([-3, -1, -3, -2], np.float32)
    assert Limits(0.98, -2.0).accept(confidence, scores).tolist() == [True, False, False, True]


def test_confidence_decides_if_there_are_no_scores() -> None:
    confidence = np.array([0.99, 0.97], np.float32)
    assert Limits(0.98, None).accept(confidence, None).tolist() == [True, False]
