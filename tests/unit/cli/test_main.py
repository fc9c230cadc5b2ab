"""The console command's own words; what the commands do is tested end to end."""

import os

import httpx
import pytest
from typer.testing import CliRunner

from digits.cli.main import app, bypass_proxy_locally, is_out_of_memory, server_error_message
from digits.errors import UsageError


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


@pytest.mark.parametrize("command", ["train", "tune"])
@pytest.mark.parametrize("option", ["--recipe quick", "--recipe=quick"])
def test_an_old_option_is_refused_with_its_new_name(command: str, option: str) -> None:
    """As a usage error, in one sentence."""
    result = CliRunner().invoke(app, [command, *option.split()])
    assert isinstance(result.exception, UsageError)
    assert str(result.exception) == "--recipe was renamed: use --preset"


def test_a_server_that_went_away_is_a_sentence_without_its_address() -> None:
    """Which may have a password in it; what is no fault of the server's is left to be looked into."""
    words = server_error_message(httpx.ConnectError("http://user:secret@127.0.0.1/api refused"))
    assert words is not None
    assert words.startswith("the Prefect server no longer answers (ConnectError)")
    assert server_error_message(ValueError("another")) is None


def test_want_of_memory_is_known_in_each_of_its_forms() -> None:
    """Values, libraries, locks and threads; what else goes wrong is left to be looked into."""
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(ImportError("lib.so: failed to map segment from shared object"))
    assert is_out_of_memory(RuntimeError("can't start new thread"))
    assert not is_out_of_memory(RuntimeError("another"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"NO_PROXY": "example.org"}, "example.org,127.0.0.1,localhost"),
        ({"NO_PROXY": "ignored", "no_proxy": "example.org"}, "example.org,127.0.0.1,localhost"),
    ],
)
def test_no_proxy_stands_before_this_machine(
    monkeypatch: pytest.MonkeyPatch, before: dict[str, str], after: str
) -> None:
    """Whatever else is reached without one."""
    environment = {"HTTP_PROXY": "http://127.0.0.1:9", **before}
    monkeypatch.setattr(os, "environ", environment)
    bypass_proxy_locally()
    assert environment["no_proxy"] == environment["NO_PROXY"] == after
