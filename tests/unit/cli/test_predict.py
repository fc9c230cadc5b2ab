"""Tests of what `digits predict` prints, and of its exit codes."""

import json as jsonlib
from dataclasses import replace

import pytest

from digits.cli.deployed import EndedRun
from digits.cli.predict import describe_summary, print_ended, print_summary, summary_values
from digits.outputs.summary import Failure, LeastCertain, PredictionSummary
from tests.support.summaries import EMPTY

NOTHING = replace(EMPTY, skipped={"heic-file": 2, "link": 5})
ONE = replace(NOTHING, images=1, statuses={"ok": 1})


@pytest.mark.parametrize("json", [True, False])
def test_a_run_without_an_image_says_why_and_exits_with_9(json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """The message is on standard error, also beside JSON."""
    with pytest.raises(SystemExit) as ended:
        print_summary(NOTHING, json=json)
    assert ended.value.code == 9
    message = "digits: 0 images; 2 HEIC need digits[heif]; 5 links were not followed\n"
    assert capsys.readouterr().err == message


def test_a_run_with_images_names_the_files_without_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    """It exits with 0."""
    print_summary(ONE, json=False)
    assert "2 HEIC need digits[heif]; 5 links were not followed" in " ".join(capsys.readouterr().out.split())


def test_images_that_could_not_be_read_are_named_with_their_errors() -> None:
    """They are rows, so the command does not fail."""
    failed = replace(
        ONE, statuses={"unsupported": 1}, failures=(Failure("a.heic", "unsupported", "needs digits[heif]"),)
    )
    assert describe_summary(failed)["failures"] == (
        "1 of 1 image could not be read: a.heic (unsupported: needs digits[heif])"
    )
    assert "failures" not in describe_summary(ONE)


def test_a_run_that_can_read_none_of_its_images_says_why_and_exits_with_9(capsys: pytest.CaptureFixture[str]) -> None:
    """One image with a prediction is enough for 0."""
    failures = (Failure("a.heic", "unsupported", "needs digits[heif]"),)
    failed = replace(ONE, images=2, statuses={"unsupported": 2}, failures=failures, skipped={"link": 1})
    with pytest.raises(SystemExit) as ended:
        print_summary(failed, json=True)
    assert ended.value.code == 9
    assert capsys.readouterr().err == (
        "digits: 2 of 2 images could not be read: a.heic (unsupported: needs digits[heif]) and 1 more; "
        "1 link was not followed\n"
    )
    print_summary(replace(failed, statuses={"unsupported": 1, "not-a-digit": 1}), json=True)


@pytest.mark.parametrize(
    ("state", "summary", "code"), [("Completed", NOTHING, 9), ("Failed", NOTHING, 1), ("Failed", None, 1)]
)
def test_a_run_of_a_deployment_exits_with_the_same_codes(
    state: str, summary: PredictionSummary | None, code: int
) -> None:
    """A run that did not complete exits with 1."""
    with pytest.raises(SystemExit) as ended:
        print_ended(EndedRun("run", state, "", "here", summary), json=False)
    assert ended.value.code == code
    print_ended(EndedRun("run", "Completed", "", "here", ONE), json=True)


def test_the_result_of_a_single_image_is_first(capsys: pytest.CaptureFixture[str]) -> None:
    """Label, confidence and status; also for a folder of one image, whatever the class is named."""
    one = replace(ONE, statuses={"uncertain": 1}, least_certain=(LeastCertain("a.png", "[b]7", 0.8124, None),))
    print_summary(one, json=False)
    assert capsys.readouterr().out.splitlines()[:2] == [
        "[b]7 (81.2% confidence), uncertain",
        "1 image predicted with model version 7",
    ]
    print_summary(one, json=True)
    values = jsonlib.loads(capsys.readouterr().out)
    assert list(values.items())[:4] == [
        ("label", "[b]7"),
        ("confidence", 0.8124),
        ("status", "uncertain"),
        ("error", None),
    ]
    assert values.keys() >= one.as_record().keys()
    print_ended(EndedRun("run", "Completed", "", "here", one), json=False)
    assert capsys.readouterr().out.startswith("[b]7 (81.2% confidence), uncertain\nrun\n")


def test_a_single_image_without_a_prediction_has_its_error_first(capsys: pytest.CaptureFixture[str]) -> None:
    """Several images have no single result."""
    failed = replace(ONE, statuses={"unreadable": 1}, failures=(Failure("a.png", "unreadable", "it is truncated"),))
    with pytest.raises(SystemExit):
        print_summary(failed, json=False)
    assert capsys.readouterr().out.startswith("no prediction, unreadable: it is truncated\n")
    with pytest.raises(SystemExit):
        print_summary(failed, json=True)
    values = jsonlib.loads(capsys.readouterr().out)
    assert (values["label"], values["confidence"], values["error"]) == (None, None, "it is truncated")
    assert "label" not in summary_values(replace(failed, images=2))
