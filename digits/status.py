"""Statuses: the closed list of statuses of a row, and the rule that assigns them to predictions."""

from collections.abc import Sequence
from typing import Literal, get_args

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
    "timeout",
    "crashed",
    "denied",
    "vanished",
    "changed",
]
STATUSES: tuple[Status, ...] = get_args(Status)
PREDICTED: tuple[Status, ...] = ("ok", "uncertain", "not-a-digit")
"""The statuses of rows that hold a prediction."""


def combine_novelty(answered: npt.NDArray[np.float32] | None, oddities: Sequence[float]) -> list[float | None]:
    """Join what the network makes of images with what the normalisation made of them, as the table writes it.

    Args:
        answered: (N,) of the network; None where it can't tell, so that nothing is said.
        oddities: N, of the pictures; see `digits.images.screening`.
    """
    if answered is None:
        return [None] * len(oddities)
    total: list[float | None] = (answered + np.asarray(oddities, np.float64)).round(3).tolist()
    return total


def prediction_status(confidence: float, novelty: float | None, threshold: float) -> "Status":
    """Say what a row's status is: what is no digit has no certainty that could be too low.

    Args:
        confidence: calibrated, rounded as in the table.
        novelty: above 0 is taken for no digit; None: nothing is known.
        threshold: the least confidence that is asked for; 0 asks for none.
    """
    if novelty is not None and novelty > 0:
        return "not-a-digit"
    return "uncertain" if confidence < threshold else "ok"
