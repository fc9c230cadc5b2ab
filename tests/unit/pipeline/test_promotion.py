"""Promotion rule: which challengers replace the champion, and the reasons given."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom

from digits.pipeline.config import PromotionPolicy
from digits.pipeline.promotion import Candidate, SetResult, decide_promotion, holm_correction, mcnemar_p_value, refuse
from digits.store.decisions import Decision

POLICY = PromotionPolicy()
COUNT = 10_000
Right = npt.NDArray[np.bool_]


def right(count: int = COUNT, *, wrong: int = 0, first: int = 0) -> Right:
    """Return which images a model gets right: all but `wrong` images, counted from the index `first`."""
    answers = np.ones(count, bool)
    answers[first : first + wrong] = False
    return answers


def result(answers: Right, **more: Any) -> SetResult:
    """Return a result with good calibration and coverage."""
    return SetResult(**{"digest": "a" * 64, "right": answers, "ece": 0.01, "coverage": 0.95, **more})


def candidate(version: int, sets: Mapping[str, Right], **more: Any) -> Candidate:
    """Return a candidate with good calibration and coverage on every test set."""
    return Candidate(version, {name: result(one) for name, one in sets.items()}, operations=10**6, bytes=10**6, **more)


def decide(
    challenger: Mapping[str, Right], champion: Mapping[str, Right], policy: PromotionPolicy = POLICY
) -> Decision:
    """Decide on version 4 against version 3."""
    return decide_promotion(candidate(4, challenger), candidate(3, champion), policy)


# Without a champion


def test_the_first_good_model_is_promoted() -> None:
    """Without a champion, the policy alone decides."""
    decision = decide_promotion(candidate(1, {"mnist": right(wrong=50)}), None, POLICY)
    assert decision.promote
    assert decision.reasons == (
        "Version 1 (99.50%, 9,950 of 10,000 right) is the first model, and meets the promotion policy.",
    )
    (row,) = decision.sets
    assert (row.name, row.count, row.challenger, row.champion, row.p) == ("mnist", COUNT, 0.995, None, None)


@pytest.mark.parametrize("thousandths", range(1, 1000, 37))
def test_the_lowest_allowed_accuracy_is_enough(thousandths: int) -> None:
    """At exactly the limit a model is promoted, in spite of rounding; with one mistake more it is not."""
    policy = PromotionPolicy(min_accuracy=thousandths / 1000)
    wrong = COUNT - 10 * thousandths
    assert decide_promotion(candidate(1, {"mnist": right(wrong=wrong)}), None, policy).promote
    refused = decide_promotion(candidate(1, {"mnist": right(wrong=wrong + 1)}), None, policy)
    assert not refused.promote
    assert refused.reasons[0].endswith(
        f"is below the lowest accuracy that the policy allows, {thousandths / 1000:.2%}."
    )


def test_the_first_model_is_not_promoted_if_promotion_is_off() -> None:
    """The policy setting `promote` also applies without a champion."""
    decision = decide_promotion(candidate(1, {"mnist": right()}), None, PromotionPolicy(promote=False))
    assert decision.reasons == ("Promotion is switched off, so version 1 is only registered.",)
    assert not decision.promote


# Better, worse, or neither


def test_a_better_model_is_promoted() -> None:
    """Thirty images gained and ten lost are significant; the reason states the counts."""
    decision = decide({"mnist": right(wrong=10, first=100)}, {"mnist": right(wrong=30)})
    assert decision.promote
    (reason,) = decision.reasons
    assert reason == (
        "Version 4 is better than the champion, version 3: on mnist correct on 30 images that the champion gets "
        "wrong, wrong on 10 that it gets right (McNemar's test: p = 0.0011)."
    )
    (row,) = decision.sets
    assert (row.gained, row.lost, row.challenger, row.champion) == (30, 10, 0.999, 0.997)
    assert row.p == pytest.approx(binom.sf(29, 40, 0.5))


def test_an_equal_model_is_not_promoted() -> None:
    """A model that is only as good as the champion does not replace it."""
    same = {"mnist": right(wrong=50)}
    decision = decide(same, same)
    assert not decision.promote
    (reason,) = decision.reasons
    assert reason == (
        "Version 4 is not significantly better than the champion, version 3: on mnist correct on 0 images that the "
        "champion gets wrong, wrong on 0 that it gets right (McNemar's test: p = 1); the policy requires p < 0.05."
    )


def test_an_insignificant_gain_is_not_promoted() -> None:
    """With 22 images gained and 12 lost p is 0.06; with 23 and 12 it is below 0.05."""
    champion = {"mnist": right(wrong=22)}
    assert not decide({"mnist": right(wrong=12, first=100)}, champion).promote
    assert decide({"mnist": right(wrong=12, first=100)}, {"mnist": right(wrong=23)}).promote


def test_a_model_that_is_worse_on_one_test_set_is_refused_even_if_better_on_another() -> None:
    """A loss of 20 images, where 10 of 10,000 are allowed."""
    champion = {"mnist": right(), "scans": right(1000, wrong=100)}
    decision = decide({"mnist": right(wrong=20), "scans": right(1000)}, champion)
    assert not decision.promote
    (reason,) = decision.reasons
    assert reason == (
        "Version 4 is worse than the champion, version 3, on mnist: correct on 0 images that the champion gets wrong, "
        "wrong on 20 that it gets right, a net loss of 20 of 10,000 images; the policy allows 10."
    )


@pytest.mark.parametrize(("loss", "promoted"), [(9, True), (10, True), (11, False)])
def test_a_drop_of_exactly_the_allowed_size_is_promoted(loss: int, promoted: bool) -> None:
    """Ten images of 10,000 are allowed, eleven are not."""
    champion = {"mnist": right(), "scans": right(1000, wrong=100)}
    assert decide({"mnist": right(wrong=loss), "scans": right(1000)}, champion).promote is promoted


@pytest.mark.parametrize("thousandths", range(1, 40))
def test_rounding_does_not_change_a_decision(thousandths: int) -> None:
    """A drop of exactly the allowed size is promoted for limits of 0.001, 0.002, ..., which are inexact in binary."""
    policy = PromotionPolicy(max_accuracy_drop=thousandths / 1000)
    champion = {"mnist": right(), "scans": right(1000, wrong=100)}
    challenger = {"mnist": right(wrong=10 * thousandths), "scans": right(1000)}
    assert decide(challenger, champion, policy).promote


def test_a_few_images_lost_on_a_small_set_do_not_block_a_promotion() -> None:
    """Of twenty images, two lost may be chance; five lost are not."""
    for lost, promoted in ((2, True), (5, False)):
        champion = {"mnist": right(wrong=50), "reviewed": right(20)}
        assert decide({"mnist": right(), "reviewed": right(20, wrong=lost)}, champion).promote is promoted


def test_a_few_images_gained_on_a_small_set_are_not_enough_for_a_promotion() -> None:
    """Four of twenty images gained are not significant; five are, but not if there is a second test set."""
    assert not decide({"reviewed": right(20)}, {"reviewed": right(20, wrong=4)}).promote
    assert decide({"reviewed": right(20)}, {"reviewed": right(20, wrong=5)}).promote
    mnist = right(wrong=50)
    assert not decide({"mnist": mnist, "reviewed": right(20)}, {"mnist": mnist, "reviewed": right(20, wrong=5)}).promote


def test_a_refusal_states_all_reasons() -> None:
    """A user sees every fault at once."""
    decision = decide({"mnist": right(wrong=5_000)}, {"mnist": right()}, PromotionPolicy(promote=False))
    assert not decision.promote
    starts = [
        "Promotion is switched off",
        "Version 4 (50.00%",
        "Version 4 is worse",
        "Version 4 is not significantly better",
    ]
    assert [reason.startswith(start) for reason, start in zip(decision.reasons, starts, strict=True)] == [True] * 4


# Models that cannot be compared


@pytest.mark.parametrize(
    "sets",
    [
        {"mnist": result(right(), digest="b" * 64)},
        {"mnist": result(right(1_000))},
        {"scans": result(right())},
        {"mnist": result(right()), "scans": result(right())},
    ],
    ids=["other images", "other number", "other name", "more sets"],
)
def test_a_model_measured_on_other_test_sets_is_refused(sets: dict[str, SetResult]) -> None:
    """Even with a perfect score on other images."""
    champion = candidate(3, {"mnist": right(wrong=100)})
    decision = decide_promotion(Candidate(4, sets), champion, POLICY)
    assert not decision.promote
    (reason,) = decision.reasons
    assert "the champion, version 3, on mnist (aaaaaaaaaaaa). Evaluate both on the same test sets" in reason


def test_the_champion_is_not_promoted_again() -> None:
    """A decision on the champion itself changes nothing."""
    champion = candidate(3, {"mnist": right()})
    decision = decide_promotion(champion, champion, POLICY)
    assert (decision.promote, decision.reasons) == (
        False,
        ("Version 3 (100.00%, 10,000 of 10,000 right) is already the champion.",),
    )


def test_a_refusal_states_the_given_reason() -> None:
    """Such as a champion that cannot be evaluated."""
    decision = refuse(4, "the champion is damaged.")
    assert (decision.promote, decision.reasons) == (
        False,
        ("Version 4 is not promoted because the champion is damaged.",),
    )


# Calibration, coverage and cost


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ece": 0.0301}, "calibration error on mnist is 3.01% (champion: 1.00%); the policy allows at most 2 points"),
        ({"coverage": 0.8999}, "share not flagged at an error of 0.005 on mnist is 89.99% (champion: 95.00%)"),
    ],
)
def test_a_better_model_with_worse_calibration_or_coverage_is_refused(change: dict[str, float], words: str) -> None:
    """It is refused beyond the limit, and promoted at the limit."""
    challenger = Candidate(4, {"mnist": result(right(), **change)}, operations=10**6, bytes=10**6)
    decision = decide_promotion(challenger, candidate(3, {"mnist": right(wrong=50)}), POLICY)
    assert not decision.promote
    assert words in decision.reasons[0]
    assert [check.passed for check in decision.checks].count(False) == 1
    kept = {name: value + (-0.0001 if name == "ece" else 0.0001) for name, value in change.items()}
    at_limit = replace(challenger, sets={"mnist": result(right(), **kept)})
    assert decide_promotion(at_limit, candidate(3, {"mnist": right(wrong=50)}), POLICY).promote


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"operations": 100_000_001},
            "multiplications per image is 100.00 million (champion: 1.00 million); the policy allows at most 100",
        ),
        ({"bytes": 50_000_001}, "size of the network is 50.00 MB (champion: 1.00 MB); the policy allows at most 50 MB"),
    ],
)
def test_a_costly_or_large_model_is_refused(change: dict[str, Any], words: str) -> None:
    """The limits are 100 million multiplications per image, and 50 MB."""
    challenger, champion = candidate(4, {"mnist": right()}), candidate(3, {"mnist": right(wrong=50)})
    decision = decide_promotion(replace(challenger, **change), champion, POLICY)
    assert not decision.promote
    assert words in decision.reasons[0]
    at_limit = replace(challenger, operations=10**8, bytes=50_000_000)
    assert decide_promotion(at_limit, champion, POLICY).promote


def test_the_first_model_is_refused_if_it_is_too_large() -> None:
    """The limit on the size applies without a champion."""
    first = replace(candidate(1, {"mnist": right()}), bytes=10**9)
    decision = decide_promotion(first, None, POLICY)
    assert not decision.promote
    assert "size of the network is 1000.00 MB; the policy allows at most 50 MB" in decision.reasons[0]


def test_calibration_is_not_checked_on_fewer_than_500_images() -> None:
    """With 499 images a bad calibration is ignored, with 500 it is a reason to refuse."""
    sets = {"mnist": result(right()), "reviewed": result(right(499), ece=0.5, coverage=0.1)}
    decision = decide_promotion(Candidate(4, sets, 10**6, 1), _champion_of(sets), POLICY)
    assert decision.promote
    assert [check.name for check in decision.checks if "reviewed" in check.name] == []
    sets["reviewed"] = result(right(500), ece=0.5, coverage=0.1)
    assert not decide_promotion(Candidate(4, sets, 10**6, 1), _champion_of(sets), POLICY).promote


def _champion_of(sets: Mapping[str, SetResult]) -> Candidate:
    mnist = {"mnist": right(wrong=50)}
    return candidate(3, {name: mnist.get(name, np.ones(len(one.right), bool)) for name, one in sets.items()})


# Statistics


def test_holm_correction_gives_the_textbook_values() -> None:
    """A single p-value stays as it is."""
    assert holm_correction([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_correction([0.04]) == [0.04]
    assert holm_correction([0.9, 0.8]) == [1.0, 1.0]


def test_mcnemar_p_value_is_exact() -> None:
    """Five heads in five flips of a fair coin have a probability of 1/32."""
    assert mcnemar_p_value(5, 0) == pytest.approx(1 / 32)
    assert mcnemar_p_value(0, 0) == 1
    assert mcnemar_p_value(0, 5) == 1


def drawn(random: np.random.Generator, chances: npt.NDArray[np.float64]) -> Right:
    """Return at random which images a model gets right, given the probability for each."""
    return random.random(len(chances)) < chances


def promoted_share(pairs: int, better: float, sizes: Mapping[str, int]) -> float:
    """Return the share of random pairs in which the challenger is promoted.

    The challenger makes `better` times as many mistakes as the champion. On a fifth of the images, the hard ones, the
    champion is wrong with a probability of 0.1, on the others of 0.002.
    """
    random = np.random.default_rng(1)
    wrong = {name: np.where(np.arange(size) % 5 == 0, 0.1, 0.002) for name, size in sizes.items()}
    promoted = 0
    for _ in range(pairs):
        champion = {name: drawn(random, 1 - chances) for name, chances in wrong.items()}
        challenger = {name: drawn(random, 1 - better * chances) for name, chances in wrong.items()}
        promoted += decide(challenger, champion).promote
    return promoted / pairs


@pytest.mark.parametrize("sizes", [{"mnist": 2_000}, {"mnist": 2_000, "reviewed": 60, "scans": 500}])
def test_at_most_one_in_twenty_equal_models_is_promoted(sizes: Mapping[str, int]) -> None:
    """In 1,500 pairs of equal models, for one test set and for three."""
    assert 0 < promoted_share(1500, 1.0, sizes) <= POLICY.significance_level


def test_a_model_with_two_thirds_of_the_mistakes_is_promoted() -> None:
    """In nine of ten cases on 10,000 images; the mistakes of the two are independent given the image."""
    assert promoted_share(200, 2 / 3, {"mnist": 10_000}) > 0.9
