"""Tests of metrics, with values computed by hand."""

import json
import math

import numpy as np
import pytest

from digits.errors import ModelError
from digits.model.metrics import (
    Evaluation,
    ReliabilityBin,
    calibration_error,
    check_overfitting,
    evaluate,
    reliability_bins,
)
from digits.store.records import canonical_json

NAMES = ("cat", "dog", "owl")
TRUE = [0, 0, 0, 1, 1, 2]
PROB = [
    [0.8, 0.1, 0.1],  # cat, right
    [0.6, 0.3, 0.1],  # cat, right
    [0.1, 0.7, 0.2],  # cat predicted as a dog
    [0.2, 0.5, 0.3],  # dog, right
    [0.05, 0.05, 0.9],  # dog predicted as an owl
    [0.3, 0.3, 0.4],  # owl, right
]


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Return the evaluation of the six images above."""
    return evaluate(TRUE, PROB, class_names=NAMES)


def test_accuracy_is_the_share_of_correct_predictions(evaluation):
    """The number of correct predictions is the trace of the confusion matrix."""
    assert evaluation.accuracy == pytest.approx(4 / 6)
    assert (evaluation.count, evaluation.correct, evaluation.class_names) == (6, 4, NAMES)


def test_loss_is_the_mean_cross_entropy_in_nats(evaluation):
    true = [0.8, 0.6, 0.1, 0.5, 0.05, 0.4]
    assert evaluation.loss == pytest.approx(-sum(map(math.log, true)) / 6)


def test_rows_of_the_confusion_matrix_are_true_classes(evaluation):
    assert evaluation.confusion == ((2, 1, 0), (0, 1, 1), (0, 0, 1))


def test_each_class_has_precision_recall_f1_and_support(evaluation):
    found = [(one.name, one.precision, one.recall, one.f1, one.support) for one in evaluation.classes]
    assert found == [
        ("cat", 1.0, pytest.approx(2 / 3), pytest.approx(4 / 5), 3),
        ("dog", 0.5, 0.5, 0.5, 2),
        ("owl", 0.5, 1.0, pytest.approx(2 / 3), 1),
    ]


def test_calibration_error_is_the_mean_gap_of_accuracy_and_confidence(evaluation):
    """Every confidence is alone in its bin, so the error is the mean of |right - confidence|."""
    gaps = [1 - 0.8, 1 - 0.6, 0.7, 1 - 0.5, 0.9, 1 - 0.4]
    assert len(evaluation.bins) == 6
    assert evaluation.ece == pytest.approx(sum(gaps) / 6)


def test_mistakes_are_listed_by_descending_confidence(evaluation):
    """A mistake has the index of the image, both classes and the confidence."""
    found = [(one.index, one.true, one.predicted, one.confidence) for one in evaluation.mistakes]
    assert found == [(4, 1, 2, pytest.approx(0.9)), (2, 0, 1, pytest.approx(0.7))]


def test_at_most_25_mistakes_are_listed_in_a_stable_order():
    """Mistakes with equal confidence have the order of the test set."""
    found = evaluate(np.zeros(40, np.uint8), np.tile([0.25, 0.75], (40, 1)), class_names="ab").mistakes
    assert [mistake.index for mistake in found] == list(range(25))


def test_bins_are_closed_above_and_weighted_by_their_counts():
    """1/3 is the upper edge of the fifth of 15 bins; 0.95 and 1 share the last one."""
    bins = reliability_bins(np.array([1 / 3, 0.95, 1.0, 1.0]), np.array([True, False, True, True]))
    assert [(one.lower, one.upper, one.count) for one in bins] == [
        (pytest.approx(4 / 15), pytest.approx(5 / 15), 1),
        (pytest.approx(14 / 15), 1.0, 3),
    ]
    assert (bins[1].confidence, bins[1].accuracy) == (pytest.approx(2.95 / 3), pytest.approx(2 / 3))
    assert calibration_error(bins) == pytest.approx((1 / 4) * (2 / 3) + (3 / 4) * (0.95 / 3))


def test_a_perfectly_calibrated_bin_has_no_error():
    """The confidence is 0.5, and half of the predictions are correct."""
    assert calibration_error([ReliabilityBin(lower=0.4, upper=0.6, confidence=0.5, accuracy=0.5, count=8)]) == 0


def test_ratios_of_a_class_without_images_or_predictions_are_zero():
    """There is no warning."""
    found = evaluate([0, 0], [[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]], class_names=NAMES)
    assert [(one.precision, one.recall, one.support) for one in found.classes] == [(1, 1, 2), (0, 0, 0), (0, 0, 0)]
    assert np.shape(found.confusion) == (3, 3)
    assert found.mistakes == ()


def test_a_probability_of_zero_for_the_true_class_gives_a_finite_loss():
    """The probability is clipped to the machine epsilon of float64."""
    found = evaluate([1], [[1.0, 0.0]], class_names="ab")
    assert found.loss == pytest.approx(-math.log(np.finfo(np.float64).eps))


def test_rows_that_nearly_sum_to_one_are_scaled_without_a_warning():
    """Rounding to float32 must not matter: sums may differ from 1 by less than 0.001."""
    prob = np.random.default_rng(0).dirichlet(np.ones(10), 500).astype(np.float32) * np.float32(1.0005)
    labels = prob.argmax(axis=1).astype(np.uint8)
    found = evaluate(labels, prob, class_names="0123456789")
    assert found.accuracy == 1
    assert max(one.confidence for one in found.bins) <= 1


def test_an_evaluation_survives_a_round_trip_through_json(evaluation):
    record = json.loads(canonical_json(evaluation.as_record()))
    assert Evaluation.from_record(record) == evaluation


@pytest.mark.parametrize("change", [{"loss": "high"}, {"loss": math.nan}, {"extra": 1}, {"bins": [{"lower": 0}]}])
def test_an_invalid_record_is_refused(evaluation, change):
    """The error names the field."""
    with pytest.raises(ModelError, match=rf"not an evaluation that this version can read: {next(iter(change))}"):
        Evaluation.from_record(evaluation.as_record() | change)


@pytest.mark.parametrize(
    ("prob", "message"),
    [
        ([[0.5, 0.4], [1, 0]], "1 of 2 rows are not probabilities: row 0 sums to 0.9"),
        ([[1, 0], [0.5, math.nan]], "1 of 2 rows are not probabilities: row 1 sums to nan"),
        ([[1, 0], [math.inf, 0]], "row 1 sums to inf"),
        ([[1.5, -0.5], [-1, 2]], "2 of 2 rows .* the minimum -0.5"),
        ([[1, 0, 0], [1, 0, 0]], r"found shape \(2, 3\) and 2 classes"),
        ([1, 0], r"found shape \(2,\)"),
        (np.zeros((0, 2)), r"found shape \(0, 2\)"),
    ],
)
def test_invalid_probabilities_are_refused(prob, message):
    """The error names the first invalid row and its values."""
    with pytest.raises(ModelError, match=message):
        evaluate([0, 1], prob, class_names="ab")


@pytest.mark.parametrize(
    ("true", "message"),
    [
        ([0], r"expected integer labels of shape \(2,\) .*, found shape \(1,\)"),
        ([0.0, 1.0], "float64"),
        ([0, 2], "expected labels from 0 to 1 for a model with 2 classes, found labels from 0 to 2"),
        ([-1, 0], "found labels from -1 to 0"),
    ],
)
def test_invalid_labels_are_refused(true, message):
    """Labels must be integers, one per image, each a class of the model."""
    with pytest.raises(ModelError, match=message):
        evaluate(true, [[1, 0], [1, 0]], class_names="ab")


def test_a_single_class_is_refused():
    with pytest.raises(ModelError, match="at least two classes"):
        evaluate([0], [[1.0]], class_names=["only"])


def test_a_gap_within_the_noise_is_no_sign_of_overfitting():
    """By Agresti and Caffo, the shares are (90 + 1) / 102 and (88 + 1) / 102, with variances p (1 - p) / 102."""
    found = check_overfitting(0.90, 0.88, 100, 100)
    error = math.sqrt(sum(p * (1 - p) / 102 for p in (91 / 102, 89 / 102)))
    assert found.gap == pytest.approx(0.02)
    assert f"(1.96 standard errors of {error * 100:.2f} points)" in found.sentence
    assert not found.significant
    assert found.sentence.startswith("No sign of overfitting, because a gap of 2.00 points is within the noise (1.96")
    assert found.sentence.endswith("test accuracy 88.00%, validation accuracy 90.00%.")


def test_a_lower_test_accuracy_beyond_the_noise_is_overfitting():
    """With 10,000 images, a gap of 4 points is significant."""
    found = check_overfitting(0.99, 0.95, 10_000, 10_000)
    assert found.significant
    assert found.sentence.startswith(
        "Overfitting, or a test set of another kind, because a gap of 4.00 points is more than"
    )


def test_a_higher_test_accuracy_is_not_overfitting():
    found = check_overfitting(0.95, 0.99, 10_000, 10_000)
    assert found.significant
    assert found.gap == pytest.approx(-0.04)
    assert found.sentence.startswith("The test set is easier than the validation images, because a gap of 4.00 points")


def test_perfect_accuracies_have_a_standard_error_above_zero():
    """50 correct predictions of 50 are no certainty."""
    found = check_overfitting(1.0, 1.0, 50, 50)
    assert "standard errors of 2.69 points" in found.sentence
    assert not found.significant


def test_risk_is_the_error_rate_among_the_most_confident_predictions():
    """Two of four predictions are wrong, among them the least confident one."""
    prob = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]
    found = evaluate(np.array([0, 1, 0, 1]), prob, class_names=("a", "b")).risk
    assert [(point.coverage, point.error) for point in found] == [(0.25, 0), (0.5, 0.5), (0.75, 1 / 3), (1, 0.5)]


def test_scores_are_rounded_as_in_tables_before_they_reject_an_image():
    """So the share is that of the rows with the status `not-a-digit`."""
    found = evaluate([0, 1], np.eye(2), class_names=["0", "1"], novelty=np.array([0.0004, 0.0006]))
    assert found.rejected_share == 0.5


def test_the_evaluation_is_a_frame_with_one_row_per_class(evaluation):
    """The headline is in its attributes."""
    frame = evaluation.to_frame()
    assert frame.index.tolist() == list(NAMES)
    assert frame.support.tolist() == [3, 2, 1]
    assert frame.dtypes.astype(str).to_dict() == {
        "precision": "float64",
        "recall": "float64",
        "f1": "float64",
        "support": "Int64",
    }
    assert frame.recall["cat"] == pytest.approx(2 / 3)
    assert frame.attrs == {"count": 6, "accuracy": evaluation.accuracy, "loss": evaluation.loss, "ece": evaluation.ece}
    rejecting = evaluate(TRUE, PROB, class_names=NAMES, novelty=np.array([1.0, -1, -1, -1, -1, -1]))
    assert rejecting.to_frame().attrs["rejected_share"] == pytest.approx(1 / 6)


def test_the_evaluation_is_a_table_in_a_notebook():
    """Names of classes are text, not HTML."""
    page = evaluate(TRUE, PROB, class_names=("<b>", "dog", "owl"))._repr_html_()
    assert "<b>accuracy 66.67%</b> (2 of 6 wrong)" in page
    assert (
        "<td>&lt;b&gt;</td><td>1.000</td><td>0.667</td><td>0.800</td><td>3</td><td>2</td><td>1</td><td>·</td>" in page
    )
