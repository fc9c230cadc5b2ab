"""Tests of temperature scaling, the exact bound, and thresholds for a target error rate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import log_loss

from digits.errors import UsageError
from digits.model.calibration import (
    apply_temperature,
    calibrated_loss,
    fit_temperature,
    risk_steps,
    threshold_for,
    upper_bound,
)


def softmax(logits):
    """Return float32 probabilities, like a network."""
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_fitting_recovers_a_known_temperature(temperature):
    """Labels are drawn from the probabilities, which are then scaled by the temperature."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (40_000, 5))
    labels = (softmax(logits).cumsum(axis=1) > random.random((40_000, 1))).argmax(axis=1)
    assert fit_temperature(softmax(logits * temperature), labels) == pytest.approx(temperature, rel=0.04)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_the_calibrated_loss_does_not_depend_on_the_temperature(temperature):
    """It equals scikit-learn's log loss at the fitted temperature."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (2_000, 5))
    labels = (softmax(logits).cumsum(axis=1) > random.random((2_000, 1))).argmax(axis=1)
    best = apply_temperature(softmax(logits), fit_temperature(softmax(logits), labels)).astype(np.float64)
    expected = log_loss(labels, best / best.sum(axis=1, keepdims=True))
    assert calibrated_loss(softmax(logits * temperature), labels) == pytest.approx(expected, rel=1e-4)


def test_applying_a_temperature_equals_a_softmax_of_scaled_logits():
    logits = np.random.default_rng(1).normal(0, 3, (64, 10))
    np.testing.assert_allclose(apply_temperature(softmax(logits), 0.5), softmax(logits * 2), atol=1e-5)


@pytest.mark.parametrize(("wrong", "answered"), [(0, 2995), (1, 4742), (3, 6000), (7, 7)])
def test_the_bound_equals_the_exact_binomial_bound_of_scipy(wrong, answered):
    """No error in 2,995 images supports an error rate of 0.001."""
    expected = stats.binomtest(wrong, answered).proportion_ci(confidence_level=0.9, method="exact").high
    assert upper_bound(wrong, answered) == pytest.approx(expected)


def test_the_threshold_answers_as_many_images_as_the_bound_allows():
    """The least confident 3 % of the predictions are wrong. One more answered image would exceed the bound."""
    confidence = np.linspace(1, 0.1, 1000)
    steps = risk_steps(confidence, np.arange(1000) < 970)
    threshold = threshold_for(steps, 0.01)
    answered = int((confidence.round(6) >= threshold).sum())
    assert upper_bound(max(0, answered - 970), answered) <= 0.01
    assert upper_bound(answered + 1 - 970, answered + 1) > 0.01


def test_an_error_rate_that_the_images_cannot_support_is_an_error_with_the_lowest_rate():
    with pytest.raises(UsageError, match=r"cannot support an error rate of 0\.001; set it to 0\.02952 or more"):
        threshold_for(risk_steps(np.ones(100), np.ones(100, bool)), 0.001)
    with pytest.raises(UsageError, match="before thresholds"):
        threshold_for((), 0.1)


@given(st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.9, 0.99]), st.booleans()), min_size=1, max_size=60))
def test_steps_count_the_images_at_or_above_their_threshold(images):
    """Images with equal confidence are answered together."""
    confidence, right = (np.array(column) for column in zip(*images, strict=True))
    steps = risk_steps(confidence, right)
    assert [step.answered for step in steps] == [int((confidence >= step.threshold).sum()) for step in steps]
    assert [step.wrong for step in steps] == [int((~right[confidence >= step.threshold]).sum()) for step in steps]
    assert steps[-1].answered == len(images)
