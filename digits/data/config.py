"""Settings of training data: how a dataset becomes arrays, and when it must not be trained on."""

from pydantic import Field

from digits.images.formats import NORMALIZE_MODES, Mode
from digits.settings import Fraction, Settings


class ArraysConfig(Settings):
    """How a dataset becomes arrays, and when it must not be trained on."""

    normalize: Mode = Field("auto", description=f"{NORMALIZE_MODES} Prediction does the same.")
    validation_fraction: float | None = Field(
        None,
        gt=0,
        le=0.5,
        description="Share of the training images held back: .1 for convolutional networks, .2 otherwise.",
    )
    own_share: Fraction = Field(
        0.1,
        description="Share of the training images that those labelled here, `reviewed` and folders of labelled images, "
        "are to make beside a published dataset: they are repeated until they do, each at most 50 times.",
    )
    split_seed: int = Field(0, ge=0, lt=2**31, description="Of the stratified split.")
    max_duplicates: Fraction = Field(
        0.001, description="Share of the test images that may be in the training images too, byte for byte."
    )
    max_blank: Fraction = Field(0.001, description="Share of the images that may be of one colour.")
    max_imbalance: float = Field(
        5, ge=1, description="How many times as large as the smallest class the largest may be."
    )
