"""How good a network is on images that it never saw: metrics, calibration, and the mistakes worth a look."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from digits.errors import ModelError

CALIBRATION_BINS = 15
MOST_MISTAKES = 25
RISK_POINTS = 200
SUM_TOLERANCE = 1e-3
NOISE_LIMIT = 1.96
"""Standard errors beyond which a difference is called more than noise: 95 % two-sided."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ClassMetrics(_Frozen):
    """One class: a ratio without a denominator (nothing predicted, nothing there) is 0; `support` tells."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


class ReliabilityBin(_Frozen):
    """The predictions whose confidence is in (lower, upper]: their mean confidence, and how many were right."""

    lower: float
    upper: float
    confidence: float
    accuracy: float
    count: int


class Mistake(_Frozen):
    """A prediction worth a look: index in the test set, class ids of truth and prediction, the latter's probability."""

    index: int
    true: int
    predicted: int
    confidence: float


class Risk(_Frozen):
    """Of the most certain share of the images (`coverage`), the share that is wrong."""

    coverage: float
    error: float


class Evaluation(_Frozen):
    """What was measured on a test set.

    `confusion[i][j]` counts images of class i that were taken for class j. `bins` are the ones that are not empty,
    `mistakes` the most confident ones first. `least_certain` are answers, right or wrong, that abstaining would flag
    first, and `rejected` those taken for no digit, the most novel first; their share is None where nothing can tell.
    """

    class_names: tuple[str, ...]
    count: int
    accuracy: float
    loss: float
    ece: float
    classes: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]
    bins: tuple[ReliabilityBin, ...]
    mistakes: tuple[Mistake, ...]
    risk: tuple[Risk, ...] = ()
    least_certain: tuple[Mistake, ...] = ()
    rejected: tuple[Mistake, ...] = ()
    rejected_share: float | None = None

    @property
    def correct(self) -> int:
        """How many predictions were right."""
        return sum(row[number] for number, row in enumerate(self.confusion))

    def as_record(self) -> dict[str, Any]:
        """Give the evaluation as JSON values."""
        return self.model_dump(mode="json")

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read what `as_record` gave.

        Raises:
            ModelError: the record is not an evaluation of this version of the code.
        """
        try:
            return cls.model_validate(record)
        except ValidationError as error:
            fault = error.errors()[0]
            raise ModelError(
                f"not an evaluation that this version reads: {'.'.join(map(str, fault['loc']))}: {fault['msg']}; "
                "evaluate the model again"
            ) from error


def evaluate(
    y_true: npt.ArrayLike,
    y_prob: npt.ArrayLike,
    *,
    class_names: Sequence[str],
    novelty: npt.NDArray[np.floating] | None = None,
) -> Evaluation:
    """Compare probabilities with the truth.

    Args:
        y_true: (N,) integers, each a class id below C.
        y_prob: (N, C) floats in [0, 1], each row summing to 1 within .001 (and then scaled to 1 in float64).
        class_names: C names; classes that `y_true` lacks are fine.
        novelty: (N,) floats, above 0 where an image is taken for none of the classes; None where nothing can tell.

    Raises:
        ModelError: a shape, a label or a probability that can't be meant.
    """
    prob = _checked_probabilities(y_prob, len(class_names))
    true = _checked_labels(y_true, prob.shape)
    predicted, confidence = prob.argmax(axis=1), prob.max(axis=1)
    right = predicted == true
    bins = reliability_bins(confidence, right)
    return Evaluation(
        class_names=tuple(class_names),
        count=len(true),
        accuracy=float(right.mean()),
        loss=_cross_entropy(true, prob),
        ece=calibration_error(bins),
        classes=_per_class(true, predicted, class_names),
        confusion=_confusion(true, predicted, len(class_names)),
        bins=bins,
        mistakes=_most_confident_mistakes(true, predicted, confidence),
        risk=_risk(confidence, right),
        least_certain=_shown(np.argsort(confidence, kind="stable"), true, predicted, confidence),
        rejected=() if novelty is None else _shown(_flagged(novelty), true, predicted, confidence),
        rejected_share=None if novelty is None else float((novelty > 0).mean()),
    )


def _flagged(novelty: npt.NDArray[np.floating]) -> Ints:
    """Give the numbers of what is taken for none of the classes, the most novel first."""
    order = np.argsort(-novelty, kind="stable")
    return order[novelty[order] > 0]


def _checked_probabilities(y_prob: npt.ArrayLike, classes: int) -> Floats:
    prob = np.asarray(y_prob, np.float64)
    if prob.ndim != 2 or prob.shape[1] != classes or classes < 2 or not len(prob):  # noqa: PLR2004 - rows and columns
        raise ModelError(
            f"probabilities of shape {prob.shape} were given for {classes} classes; "
            f"expected (N, {classes}) with N of at least 1, and two classes or more"
        )
    sums = prob.sum(axis=1, keepdims=True)
    # Negated, so that NaN, which compares false with everything, is caught too.
    bad = ~((prob.min(axis=1) >= 0) & (np.abs(sums[:, 0] - 1) <= SUM_TOLERANCE))
    if bad.any():
        first = int(bad.argmax())
        raise ModelError(
            f"{int(bad.sum())} of {len(prob)} rows are no probabilities: row {first} sums to {sums[first, 0]:.6g} with "
            f"a least value of {prob[first].min():.6g}; expected values in [0, 1] that sum to 1 (a softmax)"
        )
    scaled: Floats = prob / sums
    return scaled


def _checked_labels(y_true: npt.ArrayLike, shape: tuple[int, ...]) -> Ints:
    true = np.asarray(y_true)
    if true.shape != shape[:1] or not np.issubdtype(true.dtype, np.integer):
        raise ModelError(
            f"labels of shape {true.shape} and type {true.dtype} were given for probabilities of shape {shape}; "
            f"expected ({shape[0]},) integers"
        )
    if true.min() < 0 or true.max() >= shape[1]:
        raise ModelError(
            f"labels from {true.min()} to {true.max()} were given to a model of {shape[1]} classes; "
            f"expected 0 to {shape[1] - 1}; evaluate it on a dataset with its own classes"
        )
    return true.astype(np.int64)


def _cross_entropy(true: Ints, prob: Floats) -> float:
    """Give the mean of -log(probability of the true class), in nats; a probability of 0 counts as 2.2e-16."""
    from sklearn.metrics import log_loss

    return float(log_loss(true, prob, labels=np.arange(prob.shape[1])))


def _per_class(true: Ints, predicted: Ints, class_names: Sequence[str]) -> tuple[ClassMetrics, ...]:
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(true, predicted, labels=np.arange(len(class_names)), zero_division=0)
    return tuple(
        ClassMetrics(name=name, precision=precision, recall=recall, f1=f1, support=support)
        for name, precision, recall, f1, support in zip(class_names, *map(np.ndarray.tolist, columns), strict=True)
    )


def _confusion(true: Ints, predicted: Ints, classes: int) -> tuple[tuple[int, ...], ...]:
    from sklearn.metrics import confusion_matrix

    matrix = confusion_matrix(true, predicted, labels=np.arange(classes))
    return tuple(tuple(row) for row in matrix.tolist())


def reliability_bins(confidence: Floats, right: npt.NDArray[np.bool_]) -> tuple[ReliabilityBin, ...]:
    """Group predictions by confidence into 15 bins of equal width (Guo et al. 2017).

    Args:
        confidence: (N,) float64 in (0, 1], the probability of the predicted class.
        right: (N,) bool, whether the prediction was the truth.

    Returns:
        The bins that hold a prediction, in ascending order.
    """
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    numbers = np.searchsorted(edges[1:-1], confidence, side="left")
    return tuple(
        ReliabilityBin(
            lower=float(edges[number]),
            upper=float(edges[number + 1]),
            confidence=float(confidence[numbers == number].mean()),
            accuracy=float(right[numbers == number].mean()),
            count=int((numbers == number).sum()),
        )
        for number in np.unique(numbers)
    )


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Give the expected calibration error: the mean of |accuracy - confidence| over predictions, by bin.

    C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger: On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    total = sum(group.count for group in bins)
    return sum(group.count / total * abs(group.accuracy - group.confidence) for group in bins)


def _risk(confidence: Floats, right: npt.NDArray[np.bool_]) -> tuple[Risk, ...]:
    """Give the error among the most certain images, for `RISK_POINTS` shares of them up to all."""
    wrong = np.cumsum(~right[np.argsort(-confidence, kind="stable")])
    counts = np.unique(np.ceil(np.linspace(0, len(right), RISK_POINTS + 1)[1:]).astype(int))
    return tuple(Risk(coverage=n / len(right), error=int(wrong[n - 1]) / n) for n in counts.tolist())


def _most_confident_mistakes(true: Ints, predicted: Ints, confidence: Floats) -> tuple[Mistake, ...]:
    wrong = np.flatnonzero(predicted != true)
    return _shown(wrong[np.argsort(-confidence[wrong], kind="stable")], true, predicted, confidence)


def _shown(order: Ints, true: Ints, predicted: Ints, confidence: Floats) -> tuple[Mistake, ...]:
    return tuple(
        Mistake(index=index, true=true[index], predicted=predicted[index], confidence=confidence[index])
        for index in order[:MOST_MISTAKES].tolist()
    )


@dataclass(frozen=True)
class OverfittingCheck:
    """Validation accuracy minus test accuracy, and what follows in one sentence."""

    gap: float
    significant: bool
    sentence: str


def check_overfitting(validation_accuracy: float, test_accuracy: float, n_validation: int, n_test: int) -> OverfittingCheck:
    """Tell whether validation accuracy promises more than the test set keeps.

    The standard error of the difference is that of Agresti and Caffo (The American Statistician 54, 2000): one success
    and one failure are added to each sample, so that it is not 0 where everything was right.

    Args:
        validation_accuracy: a share of `n_validation` images, on which the model was selected.
        test_accuracy: a share of `n_test` images.
        n_validation: at least 1.
        n_test: at least 1.
    """
    gap = validation_accuracy - test_accuracy
    error = math.sqrt(_variance(validation_accuracy, n_validation) + _variance(test_accuracy, n_test))
    significant = abs(gap) > NOISE_LIMIT * error
    numbers = f"test accuracy {test_accuracy:.2%}, validation accuracy {validation_accuracy:.2%}"
    noise = f"noise ({NOISE_LIMIT} standard errors of {error * 100:.2f} points)"
    return OverfittingCheck(gap, significant, f"{_verdict(gap, significant, noise)}: {numbers}.")


def _variance(accuracy: float, count: int) -> float:
    share = (accuracy * count + 1) / (count + 2)
    return share * (1 - share) / (count + 2)


def _verdict(gap: float, significant: bool, noise: str) -> str:
    points = f"{abs(gap) * 100:.2f} points"
    if not significant:
        return f"No sign of overfitting, as a gap of {points} is within the {noise}"
    if gap > 0:
        return f"Overfitting, or a test set of another kind, as a gap of {points} is more than {noise}"
    return f"The test set is easier than the validation images, as a gap of {points} is more than {noise}"
