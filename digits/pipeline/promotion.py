"""Promotion: the rule that decides whether a challenger replaces the champion, with its reasons and figures.

The two models are compared image by image on the same test sets, by McNemar's exact test on the images that only one of
them predicts correctly (Q. McNemar, Psychometrika 12, 1947). For k test sets, the p-values are corrected by Holm's
method: the smallest one is multiplied by k (S. Holm, Scandinavian Journal of Statistics 6, 1979).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from digits.pipeline.config import PromotionPolicy
from digits.store.decisions import Check, Decision, SetRow
from digits.wording import count

TOLERANCE = 1e-6
"""Tolerance for rounding errors, in comparisons of shares and of numbers of images."""
DROP_SIGNIFICANCE = 0.2
"""Significance level for a drop in accuracy that is larger than allowed. It blocks a promotion only if its p-value
(McNemar's exact test) is below this level. So a test set of twenty images does not block promotions by chance. On some
thousands of images, a drop larger than allowed is nearly always significant."""
MIN_IMAGES = 500
"""Smallest number of images of a test set whose calibration and coverage are checked; on fewer, both are noise."""
_MEGA = 1e6


@dataclass(frozen=True, eq=False)
class SetResult:
    """Results of a model on a test set.

    Args:
        digest: SHA-256 of the images and labels of the set.
        right: (N,) bool, N at least 1, whether each prediction is correct.
        ece: expected calibration error.
        coverage: share of the images that get the status `ok` if `max_error` is the policy's target error.
    """

    digest: str
    right: npt.NDArray[np.bool_]
    ece: float
    coverage: float

    @property
    def accuracy(self) -> float:
        """Share of correct predictions."""
        return float(self.right.mean())


@dataclass(frozen=True, eq=False)
class Candidate:
    """Model version with the measurements on which a decision is based.

    Args:
        version: number of the version.
        sets: results by the name of the test set.
        operations: multiplications per image of the exported network.
        bytes: size of the exported network in bytes.
    """

    version: int
    sets: Mapping[str, SetResult]
    operations: int = 0
    bytes: int = 0

    @property
    def correct(self) -> int:
        """Number of correct predictions on all test sets together."""
        return sum(int(one.right.sum()) for one in self.sets.values())

    @property
    def count(self) -> int:
        """Number of images in all test sets together."""
        return sum(len(one.right) for one in self.sets.values())

    @property
    def accuracy(self) -> float:
        """Share of correct predictions on all test sets together."""
        return self.correct / self.count

    def __str__(self) -> str:
        return f"version {self.version} ({self.accuracy:.2%}, {self.correct:,} of {self.count:,} right)"


def decide_promotion(challenger: Candidate, champion: Candidate | None, policy: PromotionPolicy) -> Decision:
    """Decide whether the challenger becomes the champion.

    It does if it is significantly better than the champion on at least one test set, if its accuracy drops on no test
    set by more than the policy allows, and if calibration, coverage, operations and size are within the limits of the
    policy. A model that is only as good as the champion is not promoted.

    Args:
        challenger: new model version.
        champion: current champion, measured on the same test sets; None if there is none yet.
        policy: limits that the challenger must meet.
    """
    against = list(_against_policy(challenger, policy))
    if champion is None:
        sets, checks = _rows_alone(challenger), _cost_checks(challenger, None, policy)
        reasons = [f"{_capital(challenger)} is the first model, and meets the promotion policy."]
    elif refused := tuple(_not_comparable(challenger, champion)):
        return Decision(False, (*against, *refused), _rows_alone(challenger))
    else:
        sets, checks = _rows(challenger, champion), tuple(_checks(challenger, champion, policy))
        against += _against_accuracy(sets, challenger, champion, policy)
        reasons = list(_reasons_for(sets, challenger, champion, policy))
    against += [_against_check(check, challenger) for check in checks if not check.passed]
    return Decision(not against, tuple(against or reasons), sets, checks)


def refuse(version: int, reason: str) -> Decision:
    """Return the decision not to promote a version that cannot be compared with the champion."""
    return Decision(False, (f"Version {version} is not promoted because {reason}",))


def _against_policy(challenger: Candidate, policy: PromotionPolicy) -> Iterator[str]:
    if not policy.promote:
        yield f"Promotion is switched off, so version {challenger.version} is only registered."
    if challenger.correct < policy.min_accuracy * challenger.count - TOLERANCE:
        yield f"{_capital(challenger)} is below the lowest accuracy that the policy allows, {policy.min_accuracy:.2%}."


def _not_comparable(challenger: Candidate, champion: Candidate) -> Iterator[str]:
    if challenger.version == champion.version:
        yield f"{_capital(challenger)} is already the champion."
    elif _identities(challenger) != _identities(champion):
        yield (
            f"Version {challenger.version} was evaluated on {_named(challenger)}, but the champion, version "
            f"{champion.version}, on {_named(champion)}. Evaluate both on the same test sets to compare them."
        )


def _identities(candidate: Candidate) -> dict[str, tuple[str, int]]:
    return {name: (one.digest, len(one.right)) for name, one in candidate.sets.items()}


def _named(candidate: Candidate) -> str:
    return " and ".join(f"{name} ({one.digest[:12]})" for name, one in sorted(candidate.sets.items()))


def _rows_alone(challenger: Candidate) -> tuple[SetRow, ...]:
    return tuple(SetRow(name, len(one.right), one.accuracy) for name, one in challenger.sets.items())


def _rows(challenger: Candidate, champion: Candidate) -> tuple[SetRow, ...]:
    pairs = {name: (one.right, champion.sets[name].right) for name, one in challenger.sets.items()}
    gained = {name: int((ours & ~theirs).sum()) for name, (ours, theirs) in pairs.items()}
    lost = {name: int((theirs & ~ours).sum()) for name, (ours, theirs) in pairs.items()}
    adjusted = dict(
        zip(pairs, holm_correction([mcnemar_p_value(gained[name], lost[name]) for name in pairs]), strict=True)
    )
    return tuple(
        SetRow(name, len(ours), float(ours.mean()), float(theirs.mean()), gained[name], lost[name], adjusted[name])
        for name, (ours, theirs) in pairs.items()
    )


def mcnemar_p_value(gained: int, lost: int) -> float:
    """Return the one-sided p-value of McNemar's exact test.

    It is the probability of at least `gained` heads in `gained + lost` tosses of a fair coin.

    Args:
        gained: number of images that only the challenger predicts correctly.
        lost: number of images that only the champion predicts correctly.
    """
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost, 0.5, alternative="greater").pvalue) if gained else 1.0


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of several tests, corrected for their number by Holm's method and at most 1."""
    corrected, largest = [1.0] * len(p_values), 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=lambda number: p_values[number])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[number]))
        corrected[number] = largest
    return corrected


def _against_accuracy(
    sets: Sequence[SetRow], challenger: Candidate, champion: Candidate, policy: PromotionPolicy
) -> Iterator[str]:
    for row in sets:
        if _is_worse(row, policy):
            yield (
                f"Version {challenger.version} is worse than the champion, version {champion.version}, on {row.name}: "
                f"{_changes(row)}, a net loss of {row.lost - row.gained:,} of {row.count:,} images; the policy allows "
                f"{policy.max_accuracy_drop * row.count:,.8g}."
            )
    if not any(_is_better(row, policy) for row in sets):
        best = min(sets, key=lambda row: row.p or 0)
        yield (
            f"Version {challenger.version} is not significantly better than the champion, version "
            f"{champion.version}: {_evidence(best, sets)}; the policy requires p < {policy.significance_level:g}."
        )


def _is_worse(row: SetRow, policy: PromotionPolicy) -> bool:
    loss = row.lost - row.gained
    return (
        loss > policy.max_accuracy_drop * row.count + TOLERANCE
        and mcnemar_p_value(row.lost, row.gained) < DROP_SIGNIFICANCE
    )


def _is_better(row: SetRow, policy: PromotionPolicy) -> bool:
    return row.p is not None and row.p < policy.significance_level


def _changes(row: SetRow) -> str:
    images = count(row.gained, "image")
    return f"correct on {images} that the champion gets wrong, wrong on {row.lost:,} that it gets right"


def _evidence(row: SetRow, sets: Sequence[SetRow]) -> str:
    among = f", corrected for {len(sets)} test sets" if len(sets) > 1 else ""
    return f"on {row.name} {_changes(row)} (McNemar's test: p = {row.p:.2g}{among})"


def _reasons_for(
    sets: Sequence[SetRow], challenger: Candidate, champion: Candidate, policy: PromotionPolicy
) -> Iterator[str]:
    for row in sets:
        if _is_better(row, policy):
            yield (
                f"Version {challenger.version} is better than the champion, version {champion.version}: "
                f"{_evidence(row, sets)}."
            )
    if len(sets) > 1:
        yield f"On none of the {len(sets)} test sets is it worse by more than the policy allows."


# Calibration, coverage and cost


def _checks(challenger: Candidate, champion: Candidate, policy: PromotionPolicy) -> Iterator[Check]:
    for name, ours in challenger.sets.items():
        if len(ours.right) >= MIN_IMAGES:
            yield from _set_checks(name, ours, champion.sets[name], policy)
    yield from _cost_checks(challenger, champion, policy)


def _set_checks(name: str, ours: SetResult, theirs: SetResult, policy: PromotionPolicy) -> Iterator[Check]:
    yield Check(
        f"calibration error on {name}",
        f"{ours.ece:.2%}",
        f"{theirs.ece:.2%}",
        f"at most {policy.max_ece_increase * 100:g} points above the champion's",
        ours.ece <= theirs.ece + policy.max_ece_increase + TOLERANCE,
    )
    yield Check(
        f"share not flagged at an error of {policy.target_error:g} on {name}",
        f"{ours.coverage:.2%}",
        f"{theirs.coverage:.2%}",
        f"at most {policy.max_coverage_drop * 100:g} points below the champion's",
        ours.coverage >= theirs.coverage - policy.max_coverage_drop - TOLERANCE,
    )


def _cost_checks(challenger: Candidate, champion: Candidate | None, policy: PromotionPolicy) -> tuple[Check, ...]:
    return (
        Check(
            "multiplications per image",
            _millions(challenger.operations),
            _millions(champion.operations) if champion else "",
            f"at most {policy.max_operations:g} million",
            challenger.operations <= policy.max_operations * _MEGA,
        ),
        Check(
            "size of the network",
            _megabytes(challenger.bytes),
            _megabytes(champion.bytes) if champion else "",
            f"at most {policy.max_megabytes:g} MB",
            challenger.bytes <= policy.max_megabytes * _MEGA,
        ),
    )


def _against_check(check: Check, challenger: Candidate) -> str:
    compared = f" (champion: {check.champion})" if check.champion else ""
    return (
        f"Version {challenger.version} does not meet the policy: {check.name} is {check.challenger}{compared}; "
        f"the policy allows {check.limit}."
    )


def _millions(operations: int) -> str:
    return f"{operations / _MEGA:.2f} million"


def _megabytes(size: int) -> str:
    return f"{size / _MEGA:.2f} MB"


def _capital(candidate: Candidate) -> str:
    return str(candidate).capitalize()
