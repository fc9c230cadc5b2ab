"""Whether a folder's pictures are unlike those that the model was tested on, by how many are taken for no digit."""

import math
from dataclasses import dataclass

LEAST_IMAGES = 50
DEVIATIONS = 5.0
"""By how many standard deviations of a binomial share the folder's must be above the test images'. With 300 images and
a share of .9 % that takes eleven: by chance once in ten thousand folders (the exact binomial tail is 1.1e-4)."""


@dataclass(frozen=True)
class Drift:
    """More pictures are taken for no digit than the model's test images were: both shares, in 0..1."""

    found: float
    expected: float

    @property
    def sentence(self) -> str:
        """Say it."""
        return f"{self.found:.1%} of the images are taken for no digit, {self.expected:.1%} of the test images were"


def find_drift(rejected: int, images: int, expected: float | None) -> Drift | None:
    """Compare a folder with the test images.

    Args:
        rejected: images of the folder that are `not-a-digit`.
        images: those with a prediction.
        expected: the share of the model's test images that are; None for a model that can't tell.
    """
    if expected is None or images < LEAST_IMAGES:
        return None
    usual = max(expected, 1 / images)
    most = images * usual + DEVIATIONS * math.sqrt(images * usual * (1 - usual))
    return Drift(rejected / images, expected) if rejected > most else None
