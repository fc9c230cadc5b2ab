"""Promotion decisions as the registry records them: verdict, reasons and measurements."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class ChangedImage:
    """Test image that exactly one of two models classifies correctly.

    Args:
        test_set: name of the test set.
        index: position among the images of all test sets.
        true: name of the true class.
        champion: name of the champion's prediction.
        challenger: name of the challenger's prediction.
        champion_confidence: confidence of the champion's prediction, 0 to 1.
        challenger_confidence: confidence of the challenger's prediction, 0 to 1.
    """

    test_set: str
    index: int
    true: str
    champion: str
    challenger: str
    champion_confidence: float
    challenger_confidence: float

    @property
    def is_gained(self) -> bool:
        """Whether the challenger is the one that is correct."""
        return self.challenger == self.true


@dataclass(frozen=True)
class SetRow:
    """Comparison of two models on one test set: one row in the table of a decision.

    Args:
        name: name of the test set.
        count: number of images.
        challenger: accuracy of the challenger, 0 to 1.
        champion: accuracy of the champion; None without a champion.
        gained: number of images that only the challenger classifies correctly.
        lost: number of images that only the champion classifies correctly.
        p: p-value of the one-sided sign test on `gained` and `lost`, corrected for the number of test sets by Holm's
            method; None without a champion.
    """

    name: str
    count: int
    challenger: float
    champion: float | None = None
    gained: int = 0
    lost: int = 0
    p: float | None = None


@dataclass(frozen=True)
class Check:
    """Requirement of the promotion policy: one row in the table of a decision. Values are formatted for display.

    Args:
        name: what is checked, such as the calibration error.
        challenger: value of the challenger.
        champion: value of the champion.
        limit: limit that the policy sets.
        passed: whether the challenger meets the limit.
    """

    name: str
    challenger: str
    champion: str
    limit: str
    passed: bool


@dataclass(frozen=True)
class Decision:
    """Decision whether to promote a challenger.

    Args:
        promote: whether to promote it.
        reasons: reasons against the promotion if the challenger is not promoted, otherwise the reasons for it.
        sets: comparison on each test set.
        checks: checks of the promotion policy.
    """

    promote: bool
    reasons: tuple[str, ...]
    sets: tuple[SetRow, ...] = field(default=())
    checks: tuple[Check, ...] = field(default=())

    def as_record(self) -> dict[str, Any]:
        """Return the decision as JSON values."""
        return {
            "promoted": self.promote,
            "reasons": list(self.reasons),
            "sets": [asdict(row) for row in self.sets],
            "checks": [asdict(check) for check in self.checks],
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Return the decision that a record of `as_record` holds."""
        return cls(
            promote=record["promoted"],
            reasons=tuple(record["reasons"]),
            sets=tuple(SetRow(**row) for row in record["sets"]),
            checks=tuple(Check(**check) for check in record["checks"]),
        )
