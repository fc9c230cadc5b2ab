"""Who becomes champion, and the sentences that say why."""

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
    """Give what a model gets right: all but `wrong` images from the image number `first` on."""
    answers = np.ones(count, bool)
    answers[first : first + wrong] = False
    return answers


def result(answers: Right, **more: Any) -> SetResult:
    """Give a result with a good behaviour."""
    return SetResult(**{"digest": "a" * 64, "right": answers, "ece": 0.01, "coverage": 0.95, **more})


def candidate(version: int, sets: Mapping[str, Right], **more: Any) -> Candidate:
    """Give a candidate with a good behaviour on every set."""
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
        "Version 1 (99.50%, 9,950 of 10,000 right) is the first model, and good enough for a champion.",
    )
    (row,) = decision.sets
    assert (row.name, row.count, row.challenger, row.champion, row.p) == ("mnist", COUNT, 0.995, None, None)


@pytest.mark.parametrize("thousandths", range(1, 1000, 37))
def test_the_least_accuracy_is_enough(thousandths: int) -> None:
    """The least accuracy itself is enough, whatever its binary form; one image less is not."""
    policy = PromotionPolicy(min_accuracy=thousandths / 1000)
    wrong = COUNT - 10 * thousandths
    assert decide_promotion(candidate(1, {"mnist": right(wrong=wrong)}), None, policy).promote
    refused = decide_promotion(candidate(1, {"mnist": right(wrong=wrong + 1)}), None, policy)
    assert not refused.promote
    assert refused.reasons[0].endswith(f"is below the least accuracy for a champion, {thousandths / 1000:.2%}.")


def test_switched_off_holds_for_the_first_model_too() -> None:
    """Off is off."""
    decision = decide_promotion(candidate(1, {"mnist": right()}), None, PromotionPolicy(promote=False))
    assert decision.reasons == ("Promotion is switched off, so version 1 is registered and no more.",)
    assert not decision.promote


# Better, worse, or neither


def test_a_better_model_is_promoted() -> None:
    """Thirty images gained and ten lost is more than luck; the reason has the counts."""
    decision = decide({"mnist": right(wrong=10, first=100)}, {"mnist": right(wrong=30)})
    assert decision.promote
    (reason,) = decision.reasons
    assert reason == (
        "Version 4 is better than the champion, version 3: on mnist right on 30 images that the champion gets wrong, "
        "wrong on 10 that it gets right (McNemar's test: p = 0.0011)."
    )
    (row,) = decision.sets
    assert (row.gained, row.lost, row.challenger, row.champion) == (30, 10, 0.999, 0.997)
    assert row.p == pytest.approx(binom.sf(29, 40, 0.5))


def test_an_equal_model_is_not_promoted() -> None:
    """As good is not better: a retraining that changes nothing that matters leaves the champion."""
    same = {"mnist": right(wrong=50)}
    decision = decide(same, same)
    assert not decision.promote
    (reason,) = decision.reasons
    assert reason == (
        "Version 4 is not better than the champion, version 3, by more than chance explains: on mnist right on 0 "
        "images that the champion gets wrong, wrong on 0 that it gets right (McNemar's test: p = 1), and less than "
        "0.05 is asked for."
    )


def test_a_few_images_more_are_luck() -> None:
    """22 gained and 12 lost is what equal models show once in sixteen times; 23 and 12 is less than .05."""
    champion = {"mnist": right(wrong=22)}
    assert not decide({"mnist": right(wrong=12, first=100)}, champion).promote
    assert decide({"mnist": right(wrong=12, first=100)}, {"mnist": right(wrong=23)}).promote


def test_worse_on_one_set_is_refused_however_good_it_is_elsewhere() -> None:
    """A loss of 20 images, where 10 of 10,000 are allowed."""
    champion = {"mnist": right(), "scans": right(1000, wrong=100)}
    decision = decide({"mnist": right(wrong=20), "scans": right(1000)}, champion)
    assert not decision.promote
    (reason,) = decision.reasons
    assert reason == (
        "Version 4 is worse than the champion, version 3, on mnist: right on 0 images that the champion gets wrong, "
        "wrong on 20 that it gets right, a loss of 20 of 10,000 images; the policy allows 10."
    )


@pytest.mark.parametrize(("loss", "promoted"), [(9, True), (10, True), (11, False)])
def test_the_margin_itself_is_allowed(loss: int, promoted: bool) -> None:
    """Ten images in ten thousand, in whole images: one more is not."""
    champion = {"mnist": right(), "scans": right(1000, wrong=100)}
    assert decide({"mnist": right(wrong=loss), "scans": right(1000)}, champion).promote is promoted


@pytest.mark.parametrize("thousandths", range(1, 40))
def test_rounding_of_shares_never_decides(thousandths: int) -> None:
    """.001 x 10,000 and the like: the margin itself is always within it."""
    policy = PromotionPolicy(max_accuracy_drop=thousandths / 1000)
    champion = {"mnist": right(), "scans": right(1000, wrong=100)}
    challenger = {"mnist": right(wrong=10 * thousandths), "scans": right(1000)}
    assert decide(challenger, champion, policy).promote


def test_a_small_set_does_not_block_by_chance() -> None:
    """Of twenty images two more wrong are luck, five more are not."""
    for lost, promoted in ((2, True), (5, False)):
        champion = {"mnist": right(wrong=50), "reviewed": right(20)}
        assert decide({"mnist": right(), "reviewed": right(20, wrong=lost)}, champion).promote is promoted


def test_a_small_set_does_not_decide_by_chance() -> None:
    """Four of twenty gained and none lost could be luck; with another test set beside it, five could be too."""
    assert not decide({"reviewed": right(20)}, {"reviewed": right(20, wrong=4)}).promote
    assert decide({"reviewed": right(20)}, {"reviewed": right(20, wrong=5)}).promote
    mnist = right(wrong=50)
    assert not decide({"mnist": mnist, "reviewed": right(20)}, {"mnist": mnist, "reviewed": right(20, wrong=5)}).promote


def test_all_reasons_against_are_told() -> None:
    """Nobody mends one fault to be told of the next."""
    decision = decide({"mnist": right(wrong=5_000)}, {"mnist": right()}, PromotionPolicy(promote=False))
    assert not decision.promote
    starts = ["Promotion is switched off", "Version 4 (50.00%", "Version 4 is worse", "Version 4 is not better"]
    assert [reason.startswith(start) for reason, start in zip(decision.reasons, starts, strict=True)] == [True] * 4


# What can't be compared


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
def test_other_test_sets_are_not_compared(sets: dict[str, SetResult]) -> None:
    """Even a perfect score on other images proves nothing."""
    champion = candidate(3, {"mnist": right(wrong=100)})
    decision = decide_promotion(Candidate(4, sets), champion, POLICY)
    assert not decision.promote
    (reason,) = decision.reasons
    assert "the champion, version 3, on mnist (aaaaaaaaaaaa); evaluate both on the same test sets" in reason


def test_the_champion_is_not_promoted_again() -> None:
    """A champion that is decided on once more stays what it is."""
    champion = candidate(3, {"mnist": right()})
    decision = decide_promotion(champion, champion, POLICY)
    assert (decision.promote, decision.reasons) == (
        False,
        ("Version 3 (100.00%, 10,000 of 10,000 right) is the champion already.",),
    )


def test_a_champion_that_can_not_be_measured_is_a_refusal() -> None:
    """With the reason that is given."""
    decision = refuse(4, "the champion is damaged.")
    assert (decision.promote, decision.reasons) == (
        False,
        ("Version 4 is not promoted, since the champion is damaged.",),
    )


# Behaviour


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ece": 0.0301}, "calibration error on mnist, 3.01%, the champion 1.00%; the policy allows at most 2 points"),
        ({"coverage": 0.8999}, "answered at an error of 0.005 on mnist, 89.99%, the champion 95.00%"),
    ],
)
def test_a_better_model_that_behaves_worse_is_refused(change: dict[str, float], words: str) -> None:
    """Accuracy is not all: past the limit it is refused, at the limit it is not."""
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
            "multiplications per image, 100.00 million, the champion 1.00 million; the policy allows at most 100",
        ),
        ({"bytes": 50_000_001}, "size of the network, 50.00 MB, the champion 1.00 MB; the policy allows at most 50 MB"),
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


def test_the_first_model_must_not_be_too_large_either() -> None:
    """A limit that needs no champion holds without one."""
    first = replace(candidate(1, {"mnist": right()}), bytes=10**9)
    decision = decide_promotion(first, None, POLICY)
    assert not decision.promote
    assert "size of the network, 1000.00 MB; the policy allows at most 50 MB" in decision.reasons[0]


def test_few_images_say_nothing_of_calibration() -> None:
    """With fewer than 500 images a set has no such check."""
    sets = {"mnist": result(right()), "reviewed": result(right(499), ece=0.5, coverage=0.1)}
    decision = decide_promotion(Candidate(4, sets, 10**6, 1), _champion_of(sets), POLICY)
    assert decision.promote
    assert [check.name for check in decision.checks if "reviewed" in check.name] == []
    sets["reviewed"] = result(right(500), ece=0.5, coverage=0.1)
    assert not decide_promotion(Candidate(4, sets, 10**6, 1), _champion_of(sets), POLICY).promote


def _champion_of(sets: Mapping[str, SetResult]) -> Candidate:
    mnist = {"mnist": right(wrong=50)}
    return candidate(3, {name: mnist.get(name, np.ones(len(one.right), bool)) for name, one in sets.items()})


# Chance


def test_several_tests_are_adjusted() -> None:
    """The textbook's example of Holm's method; one test is itself."""
    assert holm_correction([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_correction([0.04]) == [0.04]
    assert holm_correction([0.9, 0.8]) == [1.0, 1.0]


def test_mcnemar_is_exact() -> None:
    """Five of five flips of a fair coin: one in 32."""
    assert mcnemar_p_value(5, 0) == pytest.approx(1 / 32)
    assert mcnemar_p_value(0, 0) == 1
    assert mcnemar_p_value(0, 5) == 1


def drawn(random: np.random.Generator, chances: npt.NDArray[np.float64]) -> Right:
    """Draw what a model gets right, image by image."""
    return random.random(len(chances)) < chances


def promoted_share(pairs: int, better: float, sizes: Mapping[str, int]) -> float:
    """Give the share of drawn pairs in which the challenger, of `better` times the champion's mistakes, is promoted.

    A fifth of the images are hard, where the champion is wrong with a probability of .1, and of the others .002.
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
def test_noise_is_not_promoted(sizes: Mapping[str, int]) -> None:
    """Of 1,500 pairs of equal models at most one in twenty challengers is promoted, by however many sets."""
    assert 0 < promoted_share(1500, 1.0, sizes) <= POLICY.significance_level


def test_a_model_with_two_thirds_of_the_mistakes_is_promoted() -> None:
    """On 10,000 images, 9 of 10 times; the mistakes of both are independent but for the images being hard."""
    assert promoted_share(200, 2 / 3, {"mnist": 10_000}) > 0.9
