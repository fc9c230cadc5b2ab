"""Help, error messages and start-up of the command; what the commands do is tested end to end."""

import os
import subprocess
import sys

import httpx
import pytest
import typer
from typer.testing import CliRunner

import digits
from digits.cli.commands import app, create_app
from digits.cli.main import bypass_proxy_locally, is_out_of_memory, server_error_message
from digits.errors import UsageError

COMMANDS = [
    [],
    ["train"],
    ["tune"],
    ["models"],
    ["models", "show"],
    ["promote"],
    ["rollback"],
    ["predict"],
    ["inspect"],
    ["drift", "show"],
    ["drift", "accept"],
    ["review"],
    ["up"],
    ["down"],
    ["status"],
    ["janitor"],
    ["doctor"],
    ["verify"],
    ["repair"],
    ["demo"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(command: list[str]) -> None:
    """Typer only looks at the options of a command when the command is used."""
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage" in result.output


def test_the_version_is_printed_without_a_command() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"digits {digits.__version__}\n")


def test_help_and_the_server_package_import_nothing_that_is_slow() -> None:
    """`digits --help` and the check for a Prefect API have to be quick."""
    code = """
import importlib, pkgutil, sys
import digits.cli.commands, digits.cli.main, digits.server
for module in pkgutil.iter_modules(digits.server.__path__):
    importlib.import_module(f"digits.server.{module.name}")
slow = {"keras", "numpy", "onnxruntime", "optuna", "pandas", "prefect", "pydantic", "rich", "scipy", "tensorflow"}
print(sorted(slow & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("arguments", [["--help"], [], ["predict", "-h"]])
def test_a_page_of_help_does_without_what_other_styles_of_help_need(arguments: list[str]) -> None:
    """Typer imports a parser of Markdown and a formatter of source code for each. Later imports get the real ones.

    Typer itself imports pydantic for the options of a command.
    """
    code = """
import atexit, sys
from digits.cli import main
def report():
    slow = {"keras", "numpy", "onnxruntime", "optuna", "pandas", "prefect", "scipy", "tensorflow"}
    loaded = ({"attr", "markdown_it", "pygments"} | slow) & set(sys.modules)
    from rich.traceback import Traceback
    print(sorted(loaded), Traceback.from_exception.__name__)
atexit.register(report)
main.main()
"""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert "Usage" in done.stdout
    assert done.stdout.endswith("[] from_exception\n")


def test_the_shell_completes_commands_and_options_with_their_help() -> None:
    """Typer passes the words in variables."""
    for words, shell, found in (
        ("digits pre", "bash", "predict"),
        ("digits predict --top", "zsh", "Most likely classes"),
    ):
        variables = {
            "_DIGITS_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": words,
            "COMP_CWORD": "1",
            "_TYPER_COMPLETE_ARGS": words,
        }
        code = "from digits.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.argv = ['digits']; {code}"],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert found in done.stdout


def test_the_application_has_only_the_command_that_is_needed() -> None:
    """With its options; it has all commands if there is none of that name."""
    only, whole = (typer.main.get_command(create_app(name)) for name in ("predict", "unknown"))
    assert {"predict"} == set(only.commands) < set(whole.commands)  # type: ignore[attr-defined]
    names = [[one.name for one in group.commands["predict"].params] for group in (only, whole)]  # type: ignore[attr-defined]
    assert names[0] == names[1]


@pytest.mark.parametrize("command", ["train", "tune"])
@pytest.mark.parametrize("option", ["--recipe quick", "--recipe=quick"])
def test_an_old_option_is_a_usage_error_with_the_new_name(command: str, option: str) -> None:
    result = CliRunner().invoke(app, [command, *option.split()])
    assert isinstance(result.exception, UsageError)
    assert str(result.exception) == "--recipe was renamed: use --preset"


def test_a_lost_server_is_reported_without_its_address() -> None:
    """The address may contain a password. Other errors are not caught."""
    message = server_error_message(httpx.ConnectError("http://user:secret@127.0.0.1/api refused"))
    assert message is not None
    assert message.startswith("the Prefect server no longer answers (ConnectError)")
    assert server_error_message(ValueError("another")) is None


@pytest.mark.parametrize(("code", "problem"), [(401, "requires another password"), (500, "answers with the error 500")])
def test_an_error_of_the_server_is_reported_by_its_code(code: int, problem: str) -> None:
    """Prefect's own class of such errors is derived from that of httpx."""

    class PrefectError(httpx.HTTPStatusError):
        __module__ = "prefect.exceptions"

    request = httpx.Request("GET", "http://user:secret@127.0.0.1/api")
    error = PrefectError("http://user:secret@127.0.0.1", request=request, response=httpx.Response(code))
    message = server_error_message(error)
    assert message is not None
    assert message.startswith(f"the Prefect server {problem}")
    assert "secret" not in message


def test_running_out_of_memory_is_recognized_in_each_of_its_forms() -> None:
    """For values, libraries, locks and threads."""
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
def test_this_machine_is_excluded_from_the_proxy(
    monkeypatch: pytest.MonkeyPatch, before: dict[str, str], after: str
) -> None:
    environment = {"HTTP_PROXY": "http://127.0.0.1:9", **before}
    monkeypatch.setattr(os, "environ", environment)
    bypass_proxy_locally()
    assert environment["no_proxy"] == environment["NO_PROXY"] == after


def test_the_help_appears_with_a_version_of_typer_that_needs_more_of_its_modules() -> None:
    program = """
import sys
from digits.cli import commands, main
commands._UNUSED_FOR_HELP = {"rich.markdown": "SomethingElse"}
sys.argv = ["digits", "--help"]
main.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "predict" in done.stdout
