"""Who becomes champion, and the sentences that say why."""

from dataclasses import replace

import pytest

from digits.config import PromotionPolicy
from digits.promotion import Candidate, Decision, decide_promotion

CHAMPION = Candidate(version=3, accuracy=0.995, count=10_000, test_set="a" * 64)
EQUAL = replace(CHAMPION, version=4)
POLICY = PromotionPolicy()


def test_the_first_good_model_is_promoted():
    """Without a champion, the policy alone decides."""
    assert decide_promotion(EQUAL, None, POLICY) == Decision(
        promote=True,
        reasons=("Version 4 (99.50%, 9,950 of 10,000 right) is the first model, and good enough for a champion.",),
    )


def test_an_equal_model_is_promoted():
    """At least as good is good enough."""
    decision = decide_promotion(EQUAL, CHAMPION, POLICY)
    assert decision.promote
    assert " ".join(decision.reasons) == (
        "Version 4 (99.50%, 9,950 of 10,000 right) is at least as good as the champion, "
        "version 3 (99.50%, 9,950 of 10,000 right), on the same test set."
    )


def test_a_better_model_is_promoted():
    """One image more is better."""
    assert decide_promotion(replace(EQUAL, accuracy=0.9951), CHAMPION, POLICY).promote


def test_one_image_less_is_refused():
    """The reason says by how many images, and how many were allowed."""
    decision = decide_promotion(replace(EQUAL, accuracy=0.9949), CHAMPION, POLICY)
    assert decision == Decision(
        promote=False,
        reasons=(
            (
                "Version 4 (99.49%, 9,949 of 10,000 right) is behind the champion, version 3 (99.50%, 9,950 of 10,000 "
                "right), by 1 of 10,000 images of the same test set; the policy allows 0."
            ),
        ),
    )


@pytest.mark.parametrize(("accuracy", "promoted"), [(0.994, True), (0.9939, False)])
def test_the_policy_allows_a_loss_up_to_its_limit(accuracy, promoted):
    """The limit itself is allowed, one image beyond it is not."""
    policy = PromotionPolicy(max_loss_of_accuracy=0.001)
    decision = decide_promotion(replace(EQUAL, accuracy=accuracy), CHAMPION, policy)
    assert decision.promote is promoted
    assert decision.reasons[0].endswith("which the policy allows." if promoted else "the policy allows 10.")
    assert "is behind the champion" in decision.reasons[0]


@pytest.mark.parametrize("thousandths", range(1, 40))
def test_rounding_of_shares_never_decides(thousandths):
    """.995 - .005 < .99 in binary, and the like: the limit itself is always within the limit."""
    policy = PromotionPolicy(max_loss_of_accuracy=thousandths / 1000)
    challenger = replace(EQUAL, accuracy=0.995 - thousandths / 1000)
    assert decide_promotion(challenger, CHAMPION, policy).promote


@pytest.mark.parametrize("thousandths", range(1, 1000, 37))
def test_the_least_accuracy_is_enough(thousandths):
    """The least accuracy itself is enough, whatever its binary form."""
    least = thousandths / 1000
    policy = PromotionPolicy(min_accuracy=least)
    assert decide_promotion(replace(EQUAL, accuracy=round(least * 1000) / 1000), None, policy).promote
    refused = decide_promotion(replace(EQUAL, accuracy=least - 0.0001), None, policy)
    assert not refused.promote
    assert refused.reasons[0].endswith(f"is below the least accuracy for a champion, {least:.2%}.")


@pytest.mark.parametrize("other", [{"test_set": "b" * 64}, {"count": 1_000}])
def test_other_test_sets_are_not_compared(other):
    """Even a perfect score on other images proves nothing."""
    decision = decide_promotion(replace(EQUAL, accuracy=1.0, **other), CHAMPION, POLICY)
    assert not decision.promote
    assert f"was measured on test set {other.get('test_set', 'a' * 64)[:12]}, the champion" in decision.reasons[0]
    assert "evaluate both on the same test set" in decision.reasons[0]


def test_the_champion_is_not_promoted_again():
    """A champion that is decided on once more stays what it is."""
    decision = decide_promotion(CHAMPION, CHAMPION, POLICY)
    assert decision == Decision(False, ("Version 3 (99.50%, 9,950 of 10,000 right) is the champion already.",))


def test_all_reasons_against_are_told():
    """Nobody mends one fault to be told of the next."""
    policy = PromotionPolicy(promote=False, min_accuracy=0.9)
    decision = decide_promotion(replace(EQUAL, accuracy=0.5), CHAMPION, policy)
    assert not decision.promote
    assert decision.reasons[0] == "Promotion is switched off, so version 4 is registered and no more."
    assert "is below the least accuracy for a champion, 90.00%." in decision.reasons[1]
    assert "is behind the champion" in decision.reasons[2]
    assert len(decision.reasons) == 3


def test_switched_off_holds_for_the_first_model_too():
    """Off is off."""
    assert not decide_promotion(EQUAL, None, PromotionPolicy(promote=False)).promote
