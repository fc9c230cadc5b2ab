"""Probabilities that mean what they say: a temperature fitted on validation images, and thresholds for a wished error.

C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger: On Calibration of Modern Neural Networks, ICML 2017 (temperature).
Y. Geifman, R. El-Yaniv: Selective Classification for Deep Neural Networks, NIPS 2017 (a bound on the error among what
is answered). C. J. Clopper, E. S. Pearson, Biometrika 26 (1934) (the exact bound).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from digits.errors import UsageError

Floats = npt.NDArray[np.float64]
Probabilities = npt.NDArray[np.float32]

CONFIDENCE_LEVEL = 0.95
DECIMALS = 6
"""Confidences are compared as the table writes them, so that no row contradicts its status."""
_LOWEST, _HIGHEST = 0.05, 20.0
_STEPS = 60
_GOLDEN = (5**0.5 - 1) / 2
_TINY = 1e-30


def fit_temperature(probabilities: npt.ArrayLike, labels: npt.NDArray[Any]) -> float:
    """Find the temperature with the least cross-entropy, by golden section over its logarithm.

    Args:
        probabilities: (N, C) of a softmax, N of at least 1.
        labels: (N,) integers below C.

    Returns:
        Below 1 where the network is less certain than it is right, above 1 where it is more; 4 decimals.
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
    """Give the mean cross-entropy of (N, C) probabilities, in nats, after the temperature of `fit_temperature`."""
    temperature = fit_temperature(probabilities, labels)
    return _cross_entropy(_logits(probabilities), labels, float(np.log(temperature)))


def _logits(probabilities: npt.ArrayLike) -> Floats:
    return np.log(np.maximum(np.asarray(probabilities, np.float64), _TINY))


def apply_temperature(probabilities: Probabilities, temperature: float) -> Probabilities:
    """Apply a temperature to a softmax: (N, C) float32 -> (N, C) float32, row by row, the same order of classes."""
    if temperature == 1 or not len(probabilities):
        return probabilities
    scaled: Probabilities = probabilities / probabilities.max(axis=1, keepdims=True)
    scaled **= np.float32(1 / temperature)
    scaled /= scaled.sum(axis=1, keepdims=True)
    return scaled


class RiskStep(NamedTuple):
    """What a confidence threshold does to validation images: `wrong` of the `answered` ones.

    `bound` is the one-sided 95 % upper bound (Clopper-Pearson) on the share of wrong ones among those answered.
    """

    threshold: float
    answered: int
    wrong: int
    bound: float


def upper_bound(wrong: int, answered: int) -> float:
    """Give the exact upper bound on a share of which `wrong` of `answered` were seen: one-sided, 95 %."""
    from scipy.special import betaincinv

    return float(betaincinv(wrong + 1, answered - wrong, CONFIDENCE_LEVEL)) if wrong < answered else 1.0


def risk_steps(confidence: npt.ArrayLike, right: npt.NDArray[np.bool_]) -> tuple[RiskStep, ...]:
    """Give, for each number of wrong answers, the lowest threshold that has it: no other threshold promises more.

    Args:
        confidence: (N,) of the predicted classes.
        right: (N,) whether each was right.

    Returns:
        From the highest threshold to the lowest, at which all are answered.
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
    """Find the lowest confidence at which the validation images promise an error of at most `max_error`.

    Raises:
        UsageError: they promise no such thing at any threshold, or the model has none.
    """
    if not steps:
        raise UsageError(
            "max_error: this model was registered before thresholds were measured; train and promote another one"
        )
    enough = [step.threshold for step in steps if step.bound <= max_error]
    if not enough:
        best = min(steps, key=lambda step: step.bound)
        raise UsageError(
            f"max_error: {max_error:g} is more than this model's {steps[-1].answered:,} validation images can promise; "
            f"the least is {best.bound:.5f}, at which {best.answered / steps[-1].answered:.1%} of them are answered"
        )
    return min(enough)
