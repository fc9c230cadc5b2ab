"""Calibration: temperature scaling of probabilities, and confidence thresholds for a target error rate.

Both are fitted on validation images. An image is answered if the confidence of its prediction reaches the threshold;
otherwise the prediction is flagged as `uncertain`. Sources:

- temperature: C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger: On Calibration of Modern Neural Networks, ICML 2017
- bound on the error rate among answered images: Y. Geifman, R. El-Yaniv: Selective Classification for Deep Neural
  Networks, NIPS 2017
- exact bound of a proportion: C. J. Clopper, E. S. Pearson, Biometrika 26 (1934)
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from digits.errors import UsageError

Floats = npt.NDArray[np.float64]
Probabilities = npt.NDArray[np.float32]

CONFIDENCE_LEVEL = 0.95
"""Confidence level of the one-sided bound on an error rate."""
DECIMALS = 6
"""Decimals of a confidence in the table. Rounded confidences are compared, so that no row contradicts its status."""
_LOWEST, _HIGHEST = 0.05, 20.0
"""Range of temperatures to search."""
_STEPS = 60
"""Number of steps of the golden-section search."""
_GOLDEN = (5**0.5 - 1) / 2
_TINY = 1e-30
"""Lower limit of a probability, so that its logarithm is finite."""


def fit_temperature(probabilities: npt.ArrayLike, labels: npt.NDArray[Any]) -> float:
    """Return the temperature with the lowest cross-entropy, by golden-section search over its logarithm.

    Args:
        probabilities: (N, C) softmax output, N of at least 1.
        labels: (N,) integers below C.

    Returns:
        Temperature, rounded to 4 decimals: below 1 if the network is underconfident, above 1 if it is overconfident.
    """
    logits = _logits(probabilities)
    low, high = float(np.log(_LOWEST)), float(np.log(_HIGHEST))
    for _ in range(_STEPS):
        span = (high - low) * _GOLDEN
        if _cross_entropy(logits, labels, high - span) < _cross_entropy(logits, labels, low + span):
            high = low + span
        else:
            low = high - span
    return round(float(np.exp((low + high) / 2)), 4)


def _cross_entropy(logits: Floats, labels: npt.NDArray[Any], log_temperature: float) -> float:
    scaled = logits / np.exp(log_temperature)
    scaled -= scaled.max(axis=1, keepdims=True)
    return float((np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(labels)), labels]).mean())


def calibrated_loss(probabilities: npt.ArrayLike, labels: npt.NDArray[Any]) -> float:
    """Return the mean cross-entropy in nats after temperature scaling with `fit_temperature`.

    Args:
        probabilities: (N, C) softmax output, N of at least 1.
        labels: (N,) integers below C.
    """
    temperature = fit_temperature(probabilities, labels)
    return _cross_entropy(_logits(probabilities), labels, float(np.log(temperature)))


def _logits(probabilities: npt.ArrayLike) -> Floats:
    return np.log(np.maximum(np.asarray(probabilities, np.float64), _TINY))


def apply_temperature(probabilities: Probabilities, temperature: float) -> Probabilities:
    """Scale softmax output by a temperature: (N, C) float32 -> (N, C) float32. The ranking of the classes is kept."""
    if temperature == 1 or not len(probabilities):
        return probabilities
    scaled: Probabilities = probabilities / probabilities.max(axis=1, keepdims=True)
    scaled **= np.float32(1 / temperature)
    scaled /= scaled.sum(axis=1, keepdims=True)
    return scaled


class RiskStep(NamedTuple):
    """Effect of a confidence threshold on the validation images.

    Args:
        threshold: lowest confidence of an answered image.
        answered: number of answered images.
        wrong: number of answered images that were predicted wrongly.
        bound: one-sided 95 % upper bound (Clopper-Pearson) on the error rate among answered images.
    """

    threshold: float
    answered: int
    wrong: int
    bound: float


def upper_bound(wrong: int, answered: int) -> float:
    """Return the exact one-sided 95 % upper bound on an error rate, if `wrong` of `answered` images were wrong."""
    from scipy.special import betaincinv

    return float(betaincinv(wrong + 1, answered - wrong, CONFIDENCE_LEVEL)) if wrong < answered else 1.0


def risk_steps(confidence: npt.ArrayLike, right: npt.NDArray[np.bool_]) -> tuple[RiskStep, ...]:
    """Return one step per number of wrong answers: the lowest threshold that leads to this number.

    Of all thresholds that lead to it, the lowest answers the most images.

    Args:
        confidence: (N,) probabilities of the predicted classes.
        right: (N,) bool, whether each prediction is correct.

    Returns:
        Steps from the highest threshold to the lowest, at which all images are answered.
    """
    rounded = np.asarray(confidence, np.float64).round(DECIMALS)
    order = np.argsort(-rounded, kind="stable")
    levels = np.unique(rounded)[::-1]
    answered = np.searchsorted(-rounded[order], -levels, side="right")
    wrong = np.cumsum(~right[order])[answered - 1]
    last = np.flatnonzero(np.append(wrong[1:] != wrong[:-1], True))
    counts = zip(levels[last].tolist(), answered[last].tolist(), wrong[last].tolist(), strict=True)
    return tuple(RiskStep(level, among, errors, upper_bound(errors, among)) for level, among, errors in counts)


def threshold_for(steps: Sequence[RiskStep], max_error: float) -> float:
    """Return the lowest threshold at which the validation images support an error rate of at most `max_error`.

    They support an error rate if the upper bound on the error rate of the answered images does not exceed it.

    Args:
        steps: steps of the model, as `risk_steps` returns them.
        max_error: largest error rate among answered images, as a share.

    Raises:
        UsageError: if the validation images cannot support that error rate at any threshold, or if the model has no
            steps.
    """
    if not steps:
        raise UsageError(
            "max_error: this model was registered before thresholds were measured; train and promote another one"
        )
    thresholds = [step.threshold for step in steps if step.bound <= max_error]
    if not thresholds:
        best = min(steps, key=lambda step: step.bound)
        raise UsageError(
            f"max_error: this model's {steps[-1].answered:,} validation images cannot support an error rate of "
            f"{max_error:g}; set it to {math.ceil(best.bound * 1e5) / 1e5:.5f} or more, which leaves "
            f"{1 - best.answered / steps[-1].answered:.1%} of them uncertain, or train with more validation images"
        )
    return min(thresholds)
