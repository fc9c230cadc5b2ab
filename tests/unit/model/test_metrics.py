"""Metrics against numbers worked out by hand."""

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
    [0.1, 0.7, 0.2],  # cat taken for a dog
    [0.2, 0.5, 0.3],  # dog, right
    [0.05, 0.05, 0.9],  # dog taken for an owl
    [0.3, 0.3, 0.4],  # owl, right
]


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Give the evaluation of the six images above."""
    return evaluate(TRUE, PROB, class_names=NAMES)


def test_accuracy_counts_the_right_ones(evaluation):
    """Accuracy is a share, and the number of right ones follows from the matrix."""
    assert evaluation.accuracy == pytest.approx(4 / 6)
    assert (evaluation.count, evaluation.correct, evaluation.class_names) == (6, 4, NAMES)


def test_loss_is_the_mean_cross_entropy_in_nats(evaluation):
    """The loss is the mean of -log(probability of the truth)."""
    of_the_truth = [0.8, 0.6, 0.1, 0.5, 0.05, 0.4]
    assert evaluation.loss == pytest.approx(-sum(map(math.log, of_the_truth)) / 6)


def test_confusion_has_the_truth_in_rows(evaluation):
    """Rows are the truth, columns the predictions."""
    assert evaluation.confusion == ((2, 1, 0), (0, 1, 1), (0, 0, 1))


def test_each_class_has_precision_recall_and_f1(evaluation):
    """Precision, recall and F1 are those counted by hand."""
    found = [(one.name, one.precision, one.recall, one.f1, one.support) for one in evaluation.classes]
    assert found == [
        ("cat", 1.0, pytest.approx(2 / 3), pytest.approx(4 / 5), 3),
        ("dog", 0.5, 0.5, 0.5, 2),
        ("owl", 0.5, 1.0, pytest.approx(2 / 3), 1),
    ]


def test_calibration_error_by_hand(evaluation):
    """Every confidence falls into a bin of its own, so it is the mean of |right - confidence|."""
    gaps = [1 - 0.8, 1 - 0.6, 0.7, 1 - 0.5, 0.9, 1 - 0.4]
    assert len(evaluation.bins) == 6
    assert evaluation.ece == pytest.approx(sum(gaps) / 6)


def test_mistakes_are_the_most_confident_first(evaluation):
    """Mistakes name the image, both classes and the confidence."""
    found = [(one.index, one.true, one.predicted, one.confidence) for one in evaluation.mistakes]
    assert found == [(4, 1, 2, pytest.approx(0.9)), (2, 0, 1, pytest.approx(0.7))]


def test_at_most_25_mistakes_are_kept_in_a_stable_order():
    """Equally confident mistakes come in the order of the test set."""
    found = evaluate(np.zeros(40, np.uint8), np.tile([0.25, 0.75], (40, 1)), class_names="ab").mistakes
    assert [mistake.index for mistake in found] == list(range(25))


def test_bins_are_closed_above_and_weighted_by_their_counts():
    """1/3 is the upper edge of the fifth of 15 bins; .95 and 1 share the last one."""
    bins = reliability_bins(np.array([1 / 3, 0.95, 1.0, 1.0]), np.array([True, False, True, True]))
    assert [(one.lower, one.upper, one.count) for one in bins] == [
        (pytest.approx(4 / 15), pytest.approx(5 / 15), 1),
        (pytest.approx(14 / 15), 1.0, 3),
    ]
    assert (bins[1].confidence, bins[1].accuracy) == (pytest.approx(2.95 / 3), pytest.approx(2 / 3))
    assert calibration_error(bins) == pytest.approx((1 / 4) * (2 / 3) + (3 / 4) * (0.95 / 3))


def test_a_perfectly_calibrated_bin_has_no_error():
    """Half right at a confidence of a half is an error of 0."""
    assert calibration_error([ReliabilityBin(lower=0.4, upper=0.6, confidence=0.5, accuracy=0.5, count=8)]) == 0


def test_a_class_without_images_or_predictions_is_no_error():
    """A ratio without a denominator is 0, and nothing warns."""
    found = evaluate([0, 0], [[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]], class_names=NAMES)
    assert [(one.precision, one.recall, one.support) for one in found.classes] == [(1, 1, 2), (0, 0, 0), (0, 0, 0)]
    assert np.shape(found.confusion) == (3, 3)
    assert found.mistakes == ()


def test_a_probability_of_zero_for_the_truth_gives_a_finite_loss():
    """The logarithm is cut off at the rounding of float64."""
    found = evaluate([1], [[1.0, 0.0]], class_names="ab")
    assert found.loss == pytest.approx(-math.log(np.finfo(np.float64).eps))


def test_float32_rounding_is_scaled_away_without_a_warning():
    """Sums that are off by less than .001 are scaled to 1."""
    prob = np.random.default_rng(0).dirichlet(np.ones(10), 500).astype(np.float32) * np.float32(1.0005)
    labels = prob.argmax(axis=1).astype(np.uint8)
    found = evaluate(labels, prob, class_names="0123456789")
    assert found.accuracy == 1
    assert max(one.confidence for one in found.bins) <= 1


def test_a_record_reads_back_through_json(evaluation):
    """An evaluation survives its way through a file."""
    record = json.loads(canonical_json(evaluation.as_record()))
    assert Evaluation.from_record(record) == evaluation


@pytest.mark.parametrize("change", [{"loss": "high"}, {"loss": math.nan}, {"extra": 1}, {"bins": [{"lower": 0}]}])
def test_a_record_of_another_shape_is_refused(evaluation, change):
    """The error names the field."""
    with pytest.raises(ModelError, match=rf"not an evaluation that this version reads: {next(iter(change))}"):
        Evaluation.from_record(evaluation.as_record() | change)


@pytest.mark.parametrize(
    ("prob", "message"),
    [
        ([[0.5, 0.4], [1, 0]], "1 of 2 rows are no probabilities: row 0 sums to 0.9"),
        ([[1, 0], [0.5, math.nan]], "1 of 2 rows are no probabilities: row 1 sums to nan"),
        ([[1, 0], [math.inf, 0]], "row 1 sums to inf"),
        ([[1.5, -0.5], [-1, 2]], "2 of 2 rows .* least value of -0.5"),
        ([[1, 0, 0], [1, 0, 0]], r"shape \(2, 3\) were given for 2 classes"),
        ([1, 0], r"shape \(2,\)"),
        (np.zeros((0, 2)), r"shape \(0, 2\)"),
    ],
)
def test_what_is_no_probability_is_refused(prob, message):
    """The error says which row, and what was found in it."""
    with pytest.raises(ModelError, match=message):
        evaluate([0, 1], prob, class_names="ab")


@pytest.mark.parametrize(
    ("true", "message"),
    [
        ([0], r"labels of shape \(1,\)"),
        ([0.0, 1.0], "float64"),
        ([0, 2], "labels from 0 to 2 were given to a model of 2 classes"),
        ([-1, 0], "labels from -1 to 0"),
    ],
)
def test_what_is_no_label_is_refused(true, message):
    """Labels are integers, one an image, each a class of the model."""
    with pytest.raises(ModelError, match=message):
        evaluate(true, [[1, 0], [1, 0]], class_names="ab")


def test_a_single_class_is_refused():
    """There is nothing to tell apart."""
    with pytest.raises(ModelError, match="two classes or more"):
        evaluate([0], [[1.0]], class_names=["only"])


def test_overfitting_within_noise():
    """Agresti and Caffo: (90 + 1) / 102 and (88 + 1) / 102, variances p (1 - p) / 102."""
    found = check_overfitting(0.90, 0.88, 100, 100)
    error = math.sqrt(sum(p * (1 - p) / 102 for p in (91 / 102, 89 / 102)))
    assert found.gap == pytest.approx(0.02)
    assert f"(1.96 standard errors of {error * 100:.2f} points)" in found.sentence
    assert not found.significant
    assert found.sentence.startswith("No sign of overfitting, as a gap of 2.00 points is within the noise (1.96")
    assert found.sentence.endswith("test accuracy 88.00%, validation accuracy 90.00%.")


def test_overfitting_beyond_noise():
    """A gap of 4 points on 10,000 images is no chance."""
    found = check_overfitting(0.99, 0.95, 10_000, 10_000)
    assert found.significant
    assert found.sentence.startswith("Overfitting, or a test set of another kind, as a gap of 4.00 points is more than")


def test_an_easier_test_set_is_not_called_overfitting():
    """A gap the other way has a sentence of its own."""
    found = check_overfitting(0.95, 0.99, 10_000, 10_000)
    assert found.significant
    assert found.gap == pytest.approx(-0.04)
    assert found.sentence.startswith("The test set is easier than the validation images, as a gap of 4.00 points")


def test_perfect_accuracies_leave_some_doubt():
    """All right out of 50 is not certainty: the standard error is above 0."""
    found = check_overfitting(1.0, 1.0, 50, 50)
    assert "standard errors of 2.69 points" in found.sentence
    assert not found.significant


def test_risk_is_the_error_among_the_most_certain():
    """Two of four are wrong, one of them the least certain."""
    prob = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]
    found = evaluate(np.array([0, 1, 0, 1]), prob, class_names=("a", "b")).risk
    assert [(point.coverage, point.error) for point in found] == [(0.25, 0), (0.5, 0.5), (0.75, 1 / 3), (1, 0.5)]
