"""The console command's own words; what the commands do is tested end to end."""

import pytest
from typer.testing import CliRunner

from flows.console import app


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["train"],
        ["tune"],
        ["predict"],
        ["models"],
        ["models", "show"],
        ["promote"],
        ["rollback"],
        ["inspect"],
        ["review"],
        ["demo"],
    ],
)
def test_every_command_has_help(command: list[str]) -> None:
    """Which is also when Typer looks at the commands' options."""
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage" in result.output
