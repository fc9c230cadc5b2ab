"""Tests of what `digits predict` prints, and of its exit codes."""

import json as jsonlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from digits.cli.deployed import EndedRun, print_ended
from digits.cli.output import describe_summary, print_summary, summary_values
from digits.cli.predict import BROKEN_PIPE, predict
from digits.errors import UsageError
from digits.outputs.summary import Failure, LeastCertain, PredictionSummary
from digits.store.artifacts import Store
from tests.support import faults
from tests.support.networks import tiny_store
from tests.support.summaries import EMPTY
from tests.support.tiny_model import MakePictures

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


def run(*arguments: object) -> tuple[str, str]:
    """Run the command `predict` in this process; return its standard output and standard error."""
    app = typer.Typer()
    app.command()(predict)
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    return done.stdout, done.stderr


@pytest.fixture
def folder(tmp_path: Path, make_pictures: MakePictures, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of images beside the artifact root `root`."""
    monkeypatch.setattr(os, "fsync", faults.no_sync)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    tiny_store(tmp_path / "root")
    return make_pictures(tmp_path / "in", 3)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("options", "ending"), [((), ".csv"), (("--format", "jsonl"), ".jsonl"), (("--csv-dialect", "excel"), ".csv")]
)
def test_standard_output_has_the_bytes_of_the_file_and_nothing_else(
    folder: Path, options: tuple[str, ...], ending: str
) -> None:
    """The summary is on standard error, also as JSON; no temporary file is left."""
    root, table = folder.parent / "root", folder.parent / f"t{ending}"
    given = (folder, "--artifacts", root)
    shown = run(*given, "--out", table, *(() if "--format" in options else options))
    out, err = run(*given, "--out", "-", *options)
    assert out.encode() == table.read_bytes()
    assert "3 images predicted with model version 1" in shown[0]
    assert "3 images predicted with model version 1" in err
    assert "table" not in err
    assert run(*given, "--out", "-", "--json", *options)[0] == out
    assert not any(Store(root).temporary.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--out", "-", "--incremental", "--track"), "--out -: found --incremental, --track, which standard output"),
        (("--out", "-", "--shadow", "1"), "found --shadow"),
        (("--out", "-", "--format", "jsonl", "--csv-dialect", "excel"), "found --csv-dialect with --format jsonl"),
        (("--out", "x.csv", "--format", "csv"), "--format: found csv, which is for standard output"),
        (("--format", "jsonl"), "--format: found jsonl, which is for standard output"),
    ],
)
def test_options_that_do_not_suit_the_place_of_the_table_are_refused(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run("scans", *options)


def test_a_broken_pipe_ends_the_command_quietly() -> None:
    """With the exit code of a process that SIGPIPE ended."""
    code = "import io; from digits.cli.predict import write_output; write_output(io.BytesIO(bytes(1_000_000)))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == BROKEN_PIPE
