"""Settings of training data: normalization, split, and the limits that a dataset must meet to be trained on."""

from pydantic import Field

from digits.images.formats import Mode
from digits.settings import Fraction, Settings


class ArraysConfig(Settings):
    """Settings of the conversion of datasets to arrays, and the limits that the arrays must meet to be trained on."""

    normalize: Mode = Field(
        "auto",
        description="Normalization of the images: `auto` keeps images that already have MNIST's form and converts all "
        "others to it; `mnist` converts all; `none` only scales to the network's input size, for images that are not "
        "digits. Predictions with the model use the same mode by default.",
    )
    validation_fraction: float | None = Field(
        None,
        gt=0,
        le=0.5,
        description="Share of the training images that are split off for validation. Default: 0.1 for convolutional "
        "networks, 0.2 for dense networks.",
    )
    own_share: Fraction = Field(
        0.1,
        description="Share of the training images that your own labelled images (`reviewed`, folders of labelled "
        "images) should make up when combined with a published dataset. They are repeated to reach it, each at most "
        "50 times.",
    )
    split_seed: int = Field(
        0, ge=0, lt=2**31, description="Random seed of the stratified split into training and validation images."
    )
    max_duplicates: Fraction = Field(
        0.001,
        description="Largest share of the test images that may also be training images, with identical pixels.",
    )
    max_blank: Fraction = Field(0.001, description="Largest share of images that may be blank, of a single color.")
    max_imbalance: float = Field(
        5, ge=1, description="Largest allowed ratio of the largest class to the smallest, in training images."
    )
