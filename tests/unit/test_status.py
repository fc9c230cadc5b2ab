"""Statuses of predictions."""

import numpy as np
import pytest

from digits.status import combine_novelty, prediction_status


@pytest.mark.parametrize(
    ("confidence", "novelty", "expected"),
    [(0.99, -1.0, "ok"), (0.5, -1.0, "uncertain"), (0.5, 1.0, "not-a-digit"), (0.99, None, "ok"), (0.9, 0.0, "ok")],
)
def test_not_a_digit_takes_precedence_over_uncertain(confidence, novelty, expected):
    """A confidence equal to the threshold is `ok`."""
    assert prediction_status(confidence, novelty, 0.9) == expected


def test_novelty_is_the_sum_of_the_scores_of_network_and_screening():
    """There is no novelty without a score of the network."""
    assert combine_novelty(np.array([-2.5, 1], np.float32), [20.0, 0.0]) == [17.5, 1.0]
    assert combine_novelty(None, [20.0]) == [None]
