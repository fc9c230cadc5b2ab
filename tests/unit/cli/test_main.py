"""The console command's own words; what the commands do is tested end to end."""

import os

import httpx
import pytest
from typer.testing import CliRunner

from digits.cli.main import _is_for_want_of_memory, _reach_this_machine_directly, _said_of_server, app
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
    words = _said_of_server(httpx.ConnectError("http://user:secret@127.0.0.1/api refused"))
    assert words is not None
    assert words.startswith("the Prefect server does not answer any more (ConnectError)")
    assert _said_of_server(ValueError("another")) is None


def test_want_of_memory_is_known_in_each_of_its_forms() -> None:
    """Values, libraries, locks and threads; what else goes wrong is left to be looked into."""
    assert _is_for_want_of_memory(MemoryError())
    assert _is_for_want_of_memory(ImportError("lib.so: failed to map segment from shared object"))
    assert _is_for_want_of_memory(RuntimeError("can't start new thread"))
    assert not _is_for_want_of_memory(RuntimeError("another"))


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
    _reach_this_machine_directly()
    assert environment["no_proxy"] == environment["NO_PROXY"] == after
