"""Decisions on promotions: the verdict, its reasons, and the figures behind it, as the registry records them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class ChangedImage:
    """A test image on which two models differ, one of them being right; classes by name.

    `index` is among all test images.
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
        """Whether it is the challenger that is right."""
        return self.challenger == self.true


@dataclass(frozen=True)
class SetRow:
    """A test set in the table of a decision.

    `gained` are the images that only the challenger gets right, `lost` those that only the champion does; `p` is the
    chance of so many gained, or more, of so many in all if the models were equally good, times the number of sets that
    are left to be tested (Holm), and at most 1.
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
    """A line in the table of how the models behave: figures as people read them, and whether the policy allows it."""

    name: str
    challenger: str
    champion: str
    limit: str
    passed: bool


@dataclass(frozen=True)
class Decision:
    """Whether to promote, and why: all the reasons against, or else the reasons for; the figures behind them."""

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
        """Read what `as_record` returned."""
        return cls(
            promote=record["promoted"],
            reasons=tuple(record["reasons"]),
            sets=tuple(SetRow(**row) for row in record["sets"]),
            checks=tuple(Check(**check) for check in record["checks"]),
        )
