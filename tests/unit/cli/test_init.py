"""Tests of the command `digits init`: its report, and its errors."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from digits.cli.commands import app
from digits.errors import UsageError
from digits.project import RECORD


def test_init_reports_what_it_wrote_and_an_upgrade_what_it_left(tmp_path: Path) -> None:
    place = tmp_path / "own"
    created = CliRunner().invoke(app, ["init", str(place)])
    assert created.exit_code == 0
    assert f"written  {len(json.loads((place / RECORD).read_text())['files'])} files" in created.output

    (place / "prefect.yaml").write_text("name: digits\n")
    upgraded = CliRunner().invoke(app, ["init", "--upgrade", str(place)])
    assert "Upgraded" in upgraded.output
    assert "kept, because you changed or removed them  prefect.yaml" in upgraded.output

    listed = CliRunner().invoke(app, ["init", "--upgrade", "--json", str(place)])
    assert json.loads(listed.output)["kept"] == ["prefect.yaml"]


def test_a_place_that_is_no_directory_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"could not be written .*check path, permissions and space"):
        CliRunner().invoke(app, ["init", str(tmp_path / "file" / "own")], catch_exceptions=False)
