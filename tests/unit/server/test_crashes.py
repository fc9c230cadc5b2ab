"""Crashed on-demand runs, and the commands that continue them."""

import shlex
from typing import Any

import pytest
from typer.testing import CliRunner

from digits.cli.commands import app
from digits.prediction.config import PredictionConfig
from digits.server.attention import Run
from digits.server.crashes import Attempt, continuing_command, find_crashed

DEFAULTS = PredictionConfig().model_dump(mode="json")


def attempt(kind: str, flow: str = "predict", deployment: str = "predict/folder", **parameters: Any) -> Attempt:
    """Return a run that ended in a state."""
    return Attempt(Run(f"{flow} {kind}", deployment, kind.capitalize(), "", type=kind), flow, parameters)


def test_the_last_run_of_each_folder_counts() -> None:
    crashed = find_crashed(
        [
            attempt("COMPLETED", folder="/b"),
            attempt("CRASHED", folder="/a", out="/t.csv"),
            attempt("CRASHED", folder="/b"),
            attempt("COMPLETED", folder="/a"),
            attempt("COMPLETED", folder="/a", out="/t.csv"),
            attempt("FAILED", folder="/c"),
        ]
    )
    assert [one.command for one in crashed] == ["`digits predict /a --out /t.csv --deploy`"]


def test_a_run_that_continues_another_one_may_be_of_another_deployment_or_still_active() -> None:
    assert find_crashed([attempt("RUNNING", deployment="", folder="/a"), attempt("CRASHED", folder="/a")]) == []


def test_trainings_with_other_parameters_do_not_continue_each_other() -> None:
    runs = [attempt("COMPLETED", "train", "", preset="best"), attempt("CRASHED", "train", "", preset="quick")]
    assert [one.run.name for one in find_crashed(runs)] == ["train CRASHED"]
    assert find_crashed([*runs[:1], attempt("CRASHED", "train", "", preset="best")]) == []


@pytest.mark.parametrize(
    ("parameters", "command"),
    [
        ({"folder": "/a b"}, "digits predict '/a b' --deploy"),
        (
            {"folder": "/a", "out": None, "model": "champion", "options": DEFAULTS, "shadow": None},
            "digits predict /a --deploy",
        ),
        (
            {"folder": "/a", "model": "3", "shadow": "challenger", "options": {"top_k": 2, "recursive": False}},
            "digits predict /a --shadow challenger --model 3 --top-k 2 --no-recursive --deploy",
        ),
        (
            {"folder": "/a", "options": {"include": ["*.x", "y?"], "probabilities": True, "other_formats": ["PPM"]}},
            "digits predict /a --include '*.x' --include 'y?' --probabilities --other-format PPM --deploy",
        ),
        (
            {"folder": "/a", "artifacts": "/root"},
            """prefect deployment run predict/folder --params '{"folder": "/a", "artifacts": "/root"}'""",
        ),
    ],
)
def test_a_crashed_prediction_is_continued_with_its_options(parameters: dict[str, Any], command: str) -> None:
    assert continuing_command(attempt("CRASHED", **parameters)) == f"`{command}`"


def test_other_runs_are_continued_by_their_deployment_or_their_command() -> None:
    own = attempt("CRASHED", "predict", "predict/second inbox", folder="/a", out=None)
    assert continuing_command(own) == """`prefect deployment run 'predict/second inbox' --params '{"folder": "/a"}'`"""
    assert continuing_command(attempt("CRASHED", deployment="", folder="/a")) == "`digits predict /a`"
    assert continuing_command(attempt("CRASHED", "train", "")) == "`digits train` and the options that it had"


def test_the_command_predict_has_every_option_that_is_suggested() -> None:
    """Each setting that differs from its default becomes an option that the command accepts."""
    changed = {
        "recursive": False,
        "all_files": True,
        "by_content": True,
        "other_formats": ["PPM"],
        "include": ["a"],
        "exclude": ["b"],
        "files_from": "/list",
        "follow_links": "inside",
        "system_files": True,
        "pages": "first",
        "csv_dialect": "excel",
        "report": False,
        "force": True,
        "normalize": "mnist",
        "probabilities": True,
        "top_k": 2,
        "max_error": 0.01,
        "max_pixels": 1000,
        "max_bytes": 1000,
        "max_seconds": 5.0,
        "incremental": True,
        "verify": True,
        "replace_version": 1,
        "processes": 1,
    }
    assert changed.keys() == DEFAULTS.keys() - {"shard_size"}
    command = continuing_command(attempt("CRASHED", deployment="", folder="/a", options=changed)).strip("`")
    asked = CliRunner().invoke(app, [*shlex.split(command)[1:], "--help"])
    assert "No such option" not in asked.output
    options = [word for word in shlex.split(command) if word.startswith("--")]
    assert set(options) >= {"--no-recursive", "--all-files", "--other-format", "--replace-version"}
    assert all(option in asked.output for option in options)
