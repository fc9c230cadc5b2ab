"""Metrics: accuracy, loss, calibration error, confusion matrix, per-class figures and mistakes on a test set."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from digits.errors import ModelError
from digits.extras import require_extra
from digits.status import NOVELTY_DECIMALS

if TYPE_CHECKING:
    import pandas as pd

CALIBRATION_BINS = 15
"""Number of bins of equal width of the reliability diagram."""
MAX_LISTED = 25
"""Largest number of predictions in each list of an evaluation."""
RISK_POINTS = 200
"""Number of points of the risk-coverage curve."""
SUM_TOLERANCE = 1e-3
"""Largest deviation of a sum of probabilities from 1."""
NOISE_LIMIT = 1.96
"""Number of standard errors above which a difference is significant: two-sided, at 95 %."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ClassMetrics(_Frozen):
    """Metrics of one class. `support` is its number of images. A ratio with the denominator 0 is 0."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


class ReliabilityBin(_Frozen):
    """Predictions with a confidence above `lower` and up to `upper`: their mean confidence, accuracy and number."""

    lower: float
    upper: float
    confidence: float
    accuracy: float
    count: int


class Mistake(_Frozen):
    """Listed prediction, wrong or not: index in the test set, true and predicted class id, and confidence."""

    index: int
    true: int
    predicted: int
    confidence: float


class Risk(_Frozen):
    """Point of the risk-coverage curve: the error rate among the most confident share (`coverage`) of the images."""

    coverage: float
    error: float


class Evaluation(_Frozen):
    """Metrics of a model on a test set.

    `confusion[i][j]` counts the images of class i that were predicted as class j. `bins` are the non-empty bins of the
    reliability diagram. `mistakes` are the wrong predictions, most confident first. `least_certain` are the predictions
    with the lowest confidence, correct or not. `rejected` are the images rejected as no digit, highest
    out-of-distribution score first; `rejected_share` is None if the model has no such score.
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
        """Number of correct predictions."""
        return sum(row[number] for number, row in enumerate(self.confusion))

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per class: `precision`, `recall`, `f1` (float64) and `support` (Int64), by the class's name.

        `attrs` has `count`, `accuracy`, `loss` and `ece`, and `rejected_share` if the model rejects images.

        Raises:
            UsageError: if pandas is not installed.
        """
        require_extra("pandas", "a DataFrame")
        import pandas as pd

        rows = [one.model_dump() for one in self.classes]
        frame = pd.DataFrame(rows, columns=list(ClassMetrics.model_fields))
        frame = frame.astype({"name": "string", "support": "Int64"}).set_index("name")
        frame.attrs.update(self._headline())
        return frame

    def _headline(self) -> dict[str, float]:
        shares = {} if self.rejected_share is None else {"rejected_share": self.rejected_share}
        return {"count": self.count, "accuracy": self.accuracy, "loss": self.loss, "ece": self.ece, **shares}

    def _repr_html_(self) -> str:
        """Return accuracy, metrics of each class and confusion matrix as HTML, which a notebook shows."""
        wrong = f"{self.count - self.correct:,} of {self.count:,} wrong"
        rows = [
            [one.name, f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}", one.support, *map(_dot, counts)]
            for one, counts in zip(self.classes, self.confusion, strict=True)
        ]
        head = ["class", "precision", "recall", "f1", "support", *(f"as {name}" for name in self.class_names)]
        lines = [_html_row("th", head), *(_html_row("td", row) for row in rows)]
        return (
            f"<p><b>accuracy {self.accuracy:.2%}</b> ({wrong}), ece {self.ece:.4f}</p><table>{''.join(lines)}</table>"
        )

    def as_record(self) -> dict[str, Any]:
        """Return the evaluation as JSON values."""
        return self.model_dump(mode="json")

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Return the evaluation from the JSON values of `as_record`.

        Raises:
            ModelError: if the record is not an evaluation in the format of this version.
        """
        try:
            return cls.model_validate(record)
        except ValidationError as error:
            fault = error.errors()[0]
            raise ModelError(
                f"not an evaluation that this version can read: {'.'.join(map(str, fault['loc']))}: {fault['msg']}; "
                "evaluate the model again"
            ) from error


def _dot(count: int) -> str:
    return str(count) if count else "·"


def _html_row(tag: str, cells: Sequence[object]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(str(cell))}</{tag}>' for cell in cells)}</tr>"


def evaluate(
    y_true: npt.ArrayLike,
    y_prob: npt.ArrayLike,
    *,
    class_names: Sequence[str],
    novelty: npt.NDArray[np.floating] | None = None,
) -> Evaluation:
    """Return the metrics of predicted probabilities.

    Args:
        y_true: (N,) integers, class ids below C.
        y_prob: (N, C) floats in [0, 1]. Each row must sum to 1 within 0.001, and is scaled to sum to 1 in float64.
        class_names: names of the C classes; `y_true` need not contain all of them.
        novelty: (N,) out-of-distribution scores, above 0 for rejected images; None if the model has no such output.

    Raises:
        ModelError: if a shape, a label or a probability is invalid.
    """
    prob = _check_probabilities(y_prob, len(class_names))
    true = _check_labels(y_true, prob.shape)
    predicted, confidence = prob.argmax(axis=1), prob.max(axis=1)
    right = predicted == true
    bins = reliability_bins(confidence, right)
    scores = None if novelty is None else novelty.round(NOVELTY_DECIMALS)
    return Evaluation(
        class_names=tuple(class_names),
        count=len(true),
        accuracy=float(right.mean()),
        loss=_cross_entropy(true, prob),
        ece=calibration_error(bins),
        classes=_class_metrics(true, predicted, class_names),
        confusion=_confusion_matrix(true, predicted, len(class_names)),
        bins=bins,
        mistakes=_most_confident_mistakes(true, predicted, confidence),
        risk=_risk_curve(confidence, right),
        least_certain=_list_predictions(np.argsort(confidence, kind="stable"), true, predicted, confidence),
        rejected=() if scores is None else _list_predictions(_rejected(scores), true, predicted, confidence),
        rejected_share=None if scores is None else float((scores > 0).mean()),
    )


def _rejected(novelty: npt.NDArray[np.floating]) -> Ints:
    """Return the indices of the rejected images, highest score first."""
    order = np.argsort(-novelty, kind="stable")
    return order[novelty[order] > 0]


def _check_probabilities(y_prob: npt.ArrayLike, classes: int) -> Floats:
    prob = np.asarray(y_prob, np.float64)
    if prob.ndim != 2 or prob.shape[1] != classes or classes < 2 or not len(prob):  # noqa: PLR2004 - rows and columns
        raise ModelError(
            f"expected probabilities of shape (N, {classes}) with N of at least 1 and at least two classes, "
            f"found shape {prob.shape} and {classes} classes"
        )
    sums = prob.sum(axis=1, keepdims=True)
    # The condition is negated to include NaN, for which every comparison is false.
    bad = ~((prob.min(axis=1) >= 0) & (np.abs(sums[:, 0] - 1) <= SUM_TOLERANCE))
    if bad.any():
        first = int(bad.argmax())
        raise ModelError(
            f"{int(bad.sum())} of {len(prob)} rows are not probabilities: row {first} sums to {sums[first, 0]:.6g} "
            f"and has the minimum {prob[first].min():.6g}; expected values in [0, 1] that sum to 1 (softmax output)"
        )
    scaled: Floats = prob / sums
    return scaled


def _check_labels(y_true: npt.ArrayLike, shape: tuple[int, ...]) -> Ints:
    true = np.asarray(y_true)
    if true.shape != shape[:1] or not np.issubdtype(true.dtype, np.integer):
        raise ModelError(
            f"expected integer labels of shape ({shape[0]},) for probabilities of shape {shape}, "
            f"found shape {true.shape} and type {true.dtype}"
        )
    if true.min() < 0 or true.max() >= shape[1]:
        raise ModelError(
            f"expected labels from 0 to {shape[1] - 1} for a model with {shape[1]} classes, found labels from "
            f"{true.min()} to {true.max()}; evaluate the model on a dataset with its own classes"
        )
    return true.astype(np.int64)


def _cross_entropy(true: Ints, prob: Floats) -> float:
    """Return the mean of -log(probability of the true class), in nats; a probability of 0 counts as 2.2e-16."""
    from sklearn.metrics import log_loss

    return float(log_loss(true, prob, labels=np.arange(prob.shape[1])))


def _class_metrics(true: Ints, predicted: Ints, class_names: Sequence[str]) -> tuple[ClassMetrics, ...]:
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(true, predicted, labels=np.arange(len(class_names)), zero_division=0)
    return tuple(
        ClassMetrics(name=name, precision=precision, recall=recall, f1=f1, support=support)
        for name, precision, recall, f1, support in zip(class_names, *map(np.ndarray.tolist, columns), strict=True)
    )


def _confusion_matrix(true: Ints, predicted: Ints, classes: int) -> tuple[tuple[int, ...], ...]:
    from sklearn.metrics import confusion_matrix

    matrix = confusion_matrix(true, predicted, labels=np.arange(classes))
    return tuple(tuple(row) for row in matrix.tolist())


def reliability_bins(confidence: Floats, right: npt.NDArray[np.bool_]) -> tuple[ReliabilityBin, ...]:
    """Group predictions by confidence into 15 bins of equal width (Guo et al. 2017).

    Args:
        confidence: (N,) float64 in (0, 1], probabilities of the predicted classes.
        right: (N,) bool, whether each prediction is correct.

    Returns:
        The non-empty bins, in ascending order.
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
    """Return the expected calibration error: the mean of |accuracy - confidence| over bins, weighted by their counts.

    C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger: On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    total = sum(group.count for group in bins)
    return sum(group.count / total * abs(group.accuracy - group.confidence) for group in bins)


def _risk_curve(confidence: Floats, right: npt.NDArray[np.bool_]) -> tuple[Risk, ...]:
    """Return the error rate among the most confident images, for `RISK_POINTS` shares of the images, up to all."""
    wrong = np.cumsum(~right[np.argsort(-confidence, kind="stable")])
    counts = np.unique(np.ceil(np.linspace(0, len(right), RISK_POINTS + 1)[1:]).astype(int))
    return tuple(Risk(coverage=n / len(right), error=int(wrong[n - 1]) / n) for n in counts.tolist())


def _most_confident_mistakes(true: Ints, predicted: Ints, confidence: Floats) -> tuple[Mistake, ...]:
    wrong = np.flatnonzero(predicted != true)
    return _list_predictions(wrong[np.argsort(-confidence[wrong], kind="stable")], true, predicted, confidence)


def _list_predictions(order: Ints, true: Ints, predicted: Ints, confidence: Floats) -> tuple[Mistake, ...]:
    return tuple(
        Mistake(index=index, true=true[index], predicted=predicted[index], confidence=confidence[index])
        for index in order[:MAX_LISTED].tolist()
    )


@dataclass(frozen=True)
class OverfittingCheck:
    """Validation accuracy minus test accuracy, whether the gap is significant, and its interpretation as a sentence."""

    gap: float
    significant: bool
    sentence: str


def check_overfitting(
    validation_accuracy: float, test_accuracy: float, n_validation: int, n_test: int
) -> OverfittingCheck:
    """Check whether the validation accuracy is significantly higher than the test accuracy.

    The standard error of the difference is that of Agresti and Caffo (The American Statistician 54, 2000): one success
    and one failure are added to each sample, so that it is not 0 if all predictions are correct.

    Args:
        validation_accuracy: accuracy on the validation images, on which the model was selected.
        test_accuracy: accuracy on the test images.
        n_validation: number of validation images, at least 1.
        n_test: number of test images, at least 1.
    """
    gap = validation_accuracy - test_accuracy
    error = math.sqrt(_variance(validation_accuracy, n_validation) + _variance(test_accuracy, n_test))
    significant = abs(gap) > NOISE_LIMIT * error
    numbers = f"test accuracy {test_accuracy:.2%}, validation accuracy {validation_accuracy:.2%}"
    noise = f"noise ({NOISE_LIMIT} standard errors of {error * 100:.2f} points)"
    return OverfittingCheck(gap, significant, f"{_describe_gap(gap, significant, noise)}: {numbers}.")


def _variance(accuracy: float, count: int) -> float:
    share = (accuracy * count + 1) / (count + 2)
    return share * (1 - share) / (count + 2)


def _describe_gap(gap: float, significant: bool, noise: str) -> str:
    points = f"{abs(gap) * 100:.2f} points"
    if not significant:
        return f"No sign of overfitting, because a gap of {points} is within the {noise}"
    if gap > 0:
        return f"Overfitting, or a test set of another kind, because a gap of {points} is more than {noise}"
    return f"The test set is easier than the validation images, because a gap of {points} is more than {noise}"
