"""Whether a new model takes the champion's place: a decision, with its reasons, and nothing else."""

from dataclasses import dataclass

from digits.config import PromotionPolicy

ROUNDING = 1e-6
"""In images: what the arithmetic on shares may be off by."""


@dataclass(frozen=True)
class Candidate:
    """A model version and how it did: a share `accuracy` of the `count` images of a test set, named by its digest."""

    version: int
    accuracy: float
    count: int
    test_set: str

    @property
    def correct(self) -> int:
        """How many images it got right."""
        return round(self.accuracy * self.count)

    def __str__(self) -> str:
        return f"version {self.version} ({self.accuracy:.2%}, {self.correct:,} of {self.count:,} right)"


@dataclass(frozen=True)
class Decision:
    """Whether to promote, and why: all the reasons against, or else the reasons for."""

    promote: bool
    reasons: tuple[str, ...]


def decide_promotion(challenger: Candidate, champion: Candidate | None, policy: PromotionPolicy) -> Decision:
    """Decide whether the challenger becomes champion.

    Args:
        challenger: the new model version.
        champion: the current one, measured on the same test set; None when there is none yet.
        policy: what is asked of a challenger.
    """
    against = _against_policy(challenger, policy)
    if champion is not None:
        against += _against_champion(challenger, champion, policy)
    return Decision(promote=False, reasons=against) if against else Decision(True, _reasons_for(challenger, champion))


def _against_policy(challenger: Candidate, policy: PromotionPolicy) -> tuple[str, ...]:
    reasons = []
    if not policy.promote:
        reasons.append(f"Promotion is switched off, so version {challenger.version} is registered and no more.")
    if challenger.correct < policy.min_accuracy * challenger.count - ROUNDING:
        reasons.append(f"{_capital(challenger)} is below the least accuracy for a champion, {policy.min_accuracy:.2%}.")
    return tuple(reasons)


def _against_champion(challenger: Candidate, champion: Candidate, policy: PromotionPolicy) -> tuple[str, ...]:
    name = _capital(challenger)
    if challenger.version == champion.version:
        return (f"{name} is the champion already.",)
    if (challenger.test_set, challenger.count) != (champion.test_set, champion.count):
        sets = f"test set {challenger.test_set[:12]}, the champion, {champion}, on {champion.test_set[:12]}"
        return (f"{name} was measured on {sets}; evaluate both on the same test set to compare them.",)
    if _behind(challenger, champion) > _allowed(champion, policy) + ROUNDING:
        return (f"{name} is {_comparison(challenger, champion)}; the policy allows {_allowed(champion, policy):,.8g}.",)
    return ()


def _reasons_for(challenger: Candidate, champion: Candidate | None) -> tuple[str, ...]:
    name = _capital(challenger)
    if champion is None:
        return (f"{name} is the first model, and good enough for a champion.",)
    if _behind(challenger, champion) > 0:
        return (f"{name} is {_comparison(challenger, champion)}, which the policy allows.",)
    return (f"{name} is at least as good as the champion, {champion}, on the same test set.",)


def _behind(challenger: Candidate, champion: Candidate) -> int:
    return champion.correct - challenger.correct


def _allowed(champion: Candidate, policy: PromotionPolicy) -> float:
    return policy.max_loss_of_accuracy * champion.count


def _comparison(challenger: Candidate, champion: Candidate) -> str:
    images = f"{_behind(challenger, champion):,} of {champion.count:,} images"
    return f"behind the champion, {champion}, by {images} of the same test set"


def _capital(candidate: Candidate) -> str:
    return str(candidate).capitalize()
