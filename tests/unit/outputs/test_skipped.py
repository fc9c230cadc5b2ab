"""Tests of the sentences about files without a row."""

import re
from pathlib import Path

import pytest

from digits.images.formats import UNREAD_KINDS
from digits.outputs.skipped import _REASONS, describe_nothing, describe_skipped

DOCS = Path(__file__).parents[3] / "docs" / "predictions.md"


@pytest.mark.parametrize(
    ("skipped", "sentence"),
    [
        ({}, "0 images; there are no files"),
        ({"heic-file": 2, "link": 5}, "0 images; 2 HEIC need digits[heif]; 5 links were not followed"),
        ({"avif-file": 1}, "0 images; 1 AVIF needs digits[heif]"),
        ({"avif-file": 1, "heic-file": 1}, "0 images; 1 HEIC and 1 AVIF need digits[heif]"),
        ({"7z-archive": 1}, "0 images; 1 7z archive was not opened"),
        (
            {"zip-archive": 1_000, "rar-archive": 2, "7z-archive": 1},
            "0 images; 1 7z, 2 RAR and 1,000 zip archives were not opened",
        ),
        (
            {"other-file": 1, "link": 1, "system-file": 2, "fifo": 0},
            "0 images; 1 link was not followed; 2 system files were left out; 1 other file is no image",
        ),
    ],
)
def test_a_run_that_reads_nothing_says_why(skipped: dict[str, int], sentence: str) -> None:
    """The extras come first, because they are the remedy."""
    assert describe_nothing(skipped) == sentence


def test_formats_of_several_extras_are_in_one_sentence() -> None:
    """The command that installs them can be copied."""
    found = describe_nothing({"pdf-file": 1, "heic-file": 2, "link": 5})
    assert found == "0 images; 2 HEIC and 1 PDF need digits[heif,pdf]; 5 links were not followed"


def test_an_unknown_reason_is_named() -> None:
    """A summary of a later version may have it."""
    assert describe_skipped({"new-reason": 2}) == "2 new-reason was skipped"
    assert describe_skipped({}) == ""


def test_every_reason_is_documented() -> None:
    """Programs read them in the summary."""
    documented = set(re.findall(r"`([a-z0-9-]+)`", DOCS.read_text("utf-8")))
    assert {*_REASONS, *UNREAD_KINDS} - documented == set()
