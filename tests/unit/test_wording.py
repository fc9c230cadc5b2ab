"""Tests of numbers in sentences."""

import pytest

from digits.wording import count


@pytest.mark.parametrize(
    ("number", "one", "several", "text"),
    [
        (0, "image", "", "0 images"),
        (1, "image", "", "1 image"),
        (1204, "image", "", "1,204 images"),
        (1, "process", "processes", "1 process"),
        (2, "process", "processes", "2 processes"),
    ],
)
def test_only_one_thing_is_singular(number: int, one: str, several: str, text: str) -> None:
    """And thousands are grouped."""
    assert count(number, one, several) == text
