"""Whether a new model takes the champion's place: a decision, with its reasons and figures, and nothing else.

Two models are compared image by image on the same test sets. What only one of them gets right tells them apart (Q.
McNemar, Psychometrika 12, 1947; in its exact form). Several test sets are several chances to be lucky, so the least p
of k is multiplied by k (S. Holm, Scandinavian Journal of Statistics 6, 1979).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from digits.pipeline.config import PromotionPolicy
from digits.store.decisions import Check, Decision, SetRow

TOLERANCE = 1e-6
"""In images: what the arithmetic on shares may be off by."""
DROP_SIGNIFICANCE = 0.2
"""A loss beyond the margin counts where equal models would have one as large in less than this share of the cases. So
twenty images don't block by chance, and from some thousands on it is the margin that decides."""
MIN_IMAGES = 500
"""Of a test set whose calibration and coverage are judged: on fewer images they are noise."""
_MEGA = 1e6


@dataclass(frozen=True, eq=False)
class SetResult:
    """How a model did on a test set.

    Args:
        digest: of the set's images and labels.
        right: (N,) bool, N of at least 1, whether each prediction was right.
        ece: the expected calibration error.
        coverage: the share of the images that would be `ok` at the error that the policy wishes for.
    """

    digest: str
    right: npt.NDArray[np.bool_]
    ece: float
    coverage: float

    @property
    def accuracy(self) -> float:
        """The share of the images that it got right."""
        return float(self.right.mean())


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model version and what was measured of it.

    Args:
        version: its number.
        sets: its results by the name of the test set.
        operations: multiplications that the exported network takes per image.
        bytes: of the exported network.
    """

    version: int
    sets: Mapping[str, SetResult]
    operations: int = 0
    bytes: int = 0

    @property
    def correct(self) -> int:
        """How many images of all sets it got right."""
        return sum(int(one.right.sum()) for one in self.sets.values())

    @property
    def count(self) -> int:
        """How many images all sets have."""
        return sum(len(one.right) for one in self.sets.values())

    @property
    def accuracy(self) -> float:
        """The share of all images that it got right."""
        return self.correct / self.count

    def __str__(self) -> str:
        return f"version {self.version} ({self.accuracy:.2%}, {self.correct:,} of {self.count:,} right)"


def decide_promotion(challenger: Candidate, champion: Candidate | None, policy: PromotionPolicy) -> Decision:
    """Decide whether the challenger becomes champion.

    It does when on no test set it loses more than the policy allows, on at least one it is better by more than chance
    explains, and its behaviour is within the policy's limits. So a model that is only as good is not promoted.

    Args:
        challenger: the new model version.
        champion: the current one, measured on the same test sets; None when there is none yet.
        policy: what is asked of a challenger.
    """
    against = list(_against_policy(challenger, policy))
    if champion is None:
        sets, checks = _rows_alone(challenger), _cost_checks(challenger, None, policy)
        reasons = [f"{_capital(challenger)} is the first model, and good enough for a champion."]
    elif refused := tuple(_not_comparable(challenger, champion)):
        return Decision(False, (*against, *refused), _rows_alone(challenger))
    else:
        sets, checks = _rows(challenger, champion), tuple(_checks(challenger, champion, policy))
        against += _against_accuracy(sets, challenger, champion, policy)
        reasons = list(_reasons_for(sets, challenger, champion, policy))
    against += [_against_check(check, challenger) for check in checks if not check.passed]
    return Decision(not against, tuple(against or reasons), sets, checks)


def refuse(version: int, reason: str) -> Decision:
    """Decide against a version that can't be compared with the champion."""
    return Decision(False, (f"Version {version} is not promoted, since {reason}",))


def _against_policy(challenger: Candidate, policy: PromotionPolicy) -> Iterator[str]:
    if not policy.promote:
        yield f"Promotion is switched off, so version {challenger.version} is registered and no more."
    if challenger.correct < policy.min_accuracy * challenger.count - TOLERANCE:
        yield f"{_capital(challenger)} is below the least accuracy for a champion, {policy.min_accuracy:.2%}."


def _not_comparable(challenger: Candidate, champion: Candidate) -> Iterator[str]:
    if challenger.version == champion.version:
        yield f"{_capital(challenger)} is the champion already."
    elif _identities(challenger) != _identities(champion):
        yield (
            f"Version {challenger.version} was measured on {_named(challenger)}, the champion, version "
            f"{champion.version}, on {_named(champion)}; evaluate both on the same test sets to compare them."
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
    """Give the exact one-sided p of McNemar's test: of `gained` or more of `gained + lost` flips of a fair coin."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost, 0.5, alternative="greater").pvalue) if gained else 1.0


def holm_correction(chances: Sequence[float]) -> list[float]:
    """Adjust the p of several tests, so that the least one is below a level by chance no more often than it says."""
    adjusted, least = [1.0] * len(chances), 0.0
    for rank, number in enumerate(sorted(range(len(chances)), key=lambda number: chances[number])):
        least = max(least, min(1.0, (len(chances) - rank) * chances[number]))
        adjusted[number] = least
    return adjusted


def _against_accuracy(
    sets: Sequence[SetRow], challenger: Candidate, champion: Candidate, policy: PromotionPolicy
) -> Iterator[str]:
    for row in sets:
        if _is_worse(row, policy):
            yield (
                f"Version {challenger.version} is worse than the champion, version {champion.version}, on {row.name}: "
                f"{_changes(row)}, a loss of {row.lost - row.gained:,} of {row.count:,} images; the policy allows "
                f"{policy.max_accuracy_drop * row.count:,.8g}."
            )
    if not any(_is_better(row, policy) for row in sets):
        best = min(sets, key=lambda row: row.p or 0)
        yield (
            f"Version {challenger.version} is not better than the champion, version {champion.version}, by more than "
            f"chance explains: {_evidence(best, sets)}, and less than {policy.significance_level:g} is asked for."
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
    return f"right on {row.gained:,} images that the champion gets wrong, wrong on {row.lost:,} that it gets right"


def _evidence(row: SetRow, sets: Sequence[SetRow]) -> str:
    among = f", for {len(sets)} test sets" if len(sets) > 1 else ""
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
        yield f"It is worse on none of the {len(sets)} test sets by more than the policy allows."


# How the models behave


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
        f"answered at an error of {policy.target_error:g} on {name}",
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
    before = f", the champion {check.champion}" if check.champion else ""
    return (
        f"Version {challenger.version} does not behave as it must: {check.name}, {check.challenger}{before}; "
        f"the policy allows {check.limit}."
    )


def _millions(operations: int) -> str:
    return f"{operations / _MEGA:.2f} million"


def _megabytes(size: int) -> str:
    return f"{size / _MEGA:.2f} MB"


def _capital(candidate: Candidate) -> str:
    return str(candidate).capitalize()
