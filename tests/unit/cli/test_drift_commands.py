"""Commands `drift show` and `drift accept`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from digits.cli.commands import app
from digits.errors import UsageError
from digits.model.baseline import Run
from digits.model.drift import Reference
from digits.prediction.baselines import record_run

REFERENCE: Reference = {"ink": {"edges": [0], "counts": [500, 500]}}


def run(*arguments: object) -> str:
    """Run a command and return its output."""
    result = CliRunner().invoke(app, ["drift", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_a_run_is_shown_and_accepted(tmp_path: Path) -> None:
    """Accepting ends the alarm."""
    out = tmp_path / "table.csv"
    for number, counts in enumerate(([1_000, 1_000], [100, 0])):
        record_run(out, Run("m", {"ink": [0]}, ({"ink": counts},)), plan=str(number), reference=REFERENCE)
    assert json.loads(run("show", out, "--json"))["alarm"] is True
    shown = run("show", out)
    assert "2,000 images, the first ones of the table" in shown
    assert "amount of ink" in shown
    accepted = json.loads(run("accept", out, "--artifacts", tmp_path / "artifacts", "--json"))
    assert (accepted["alarm"], accepted["features"][0]["baseline"]) == (False, "100")


def test_a_table_without_a_baseline_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found no measured images"):
        run("accept", tmp_path / "table.csv", "--artifacts", tmp_path)
