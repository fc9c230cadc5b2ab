"""Statuses: the closed list of statuses of a row, and the rule that assigns them to predictions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Status = Literal[
    "ok",
    "uncertain",
    "not-a-digit",
    "not-an-image",
    "unsupported",
    "unreadable",
    "too-large",
    "too-many-pages",
    "timeout",
    "crashed",
    "denied",
    "vanished",
    "changed",
]
STATUSES: tuple[Status, ...] = get_args(Status)
"""All statuses. docs/predictions.md describes each."""
PREDICTED: tuple[Status, ...] = ("ok", "uncertain", "not-a-digit")
"""Statuses of rows that hold a prediction."""
FLAGGED: tuple[Status, ...] = ("uncertain", "not-a-digit")
"""Statuses of rows whose prediction is flagged."""
FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""First characters with which no cell of a row begins, because spreadsheets take such cells for formulas. The last four
are the full-width forms of the others."""


NOVELTY_DECIMALS = 3
"""Decimals to which an out-of-distribution score is rounded before it decides on the status of an image."""


def combine_novelty(
    network_scores: "npt.NDArray[np.float32] | None", screening_scores: Sequence[float]
) -> list[float | None]:
    """Return the out-of-distribution scores as the table shows them: network score plus screening score.

    Args:
        network_scores: (N,) float32, scores of the images by the network; None if the network has no such output.
        screening_scores: N scores of the same images by `digits.images.screening`.

    Returns:
        N scores, each None if the network has no such output.
    """
    import numpy as np

    if network_scores is None:
        return [None] * len(screening_scores)
    total: list[float | None] = (
        (network_scores + np.asarray(screening_scores, np.float64)).round(NOVELTY_DECIMALS).tolist()
    )
    return total


def prediction_status(confidence: float, novelty: float | None, threshold: float) -> "Status":
    """Return the status of a row with a prediction; `not-a-digit` takes precedence over `uncertain`.

    Args:
        confidence: calibrated confidence, rounded as in the table.
        novelty: out-of-distribution score; an image with a score above 0 is not a digit. None if there is no score.
        threshold: lowest confidence of an `ok` prediction; 0 accepts every confidence.
    """
    if novelty is not None and novelty > 0:
        return "not-a-digit"
    return "uncertain" if confidence < threshold else "ok"
