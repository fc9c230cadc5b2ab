"""Pages of help: their panels and length, and the texts of options, which are those of settings and parameters."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from digits.cli.app import describe_options, shorten
from digits.cli.commands import COMMANDS, app
from digits.pipeline.config import TrainingRun
from digits.prediction.config import PredictionConfig
from flows.janitor import clean_up
from flows.prediction import predict_folder, predict_inbox
from flows.rollback import rollback
from flows.training import train
from flows.tuning import tune

FLOWS = {"train": train, "tune": tune, "predict": predict_folder}
PARAMETERS = {"path": "folder"}
OWN = {"artifacts", "json", "config", "space", "state", "deploy", "track", "help", "quiet", "verbose", "no_progress"}
OWN |= {"form"}
"""Options whose text is not compared: they are no setting, or they name the file or directory that has the setting.

`form` is the format of standard output, which a flow has not.
"""
MOST_LINES = 60
PANELS = {
    "Predict": {"predict", "inspect", "demo"},
    "Models": {"train", "tune", "promote", "rollback", "models"},
    "Review": {"review", "drift"},
    "System": {"init", "up", "down", "status", "deploy"},
    "Upkeep": {"janitor", "doctor", "verify", "repair", "backup", "restore"},
}
SHORT = {
    "predict": {"-o": "--out", "-j": "--processes", "-q": "--quiet", "-v": "--verbose"},
    "inspect": {"-o": "--out"},
    "tune": {"-o": "--out", "-q": "--quiet", "-v": "--verbose"},
    "train": {"-q": "--quiet", "-v": "--verbose"},
    "status": {"-q": "--quiet"},
}


def options_of(command: str) -> dict[str, Any]:
    """Return the arguments and options of a command that have a text of their own, by their parameter names."""
    commands: Any = typer.main.get_command(app)
    found = commands.commands[command].params
    return {option.name: option for option in found if option.name not in OWN and option.help}


def all_commands(group: Any = None) -> Iterator[Any]:
    """Yield all commands, with those of groups."""
    for command in (group or typer.main.get_command(app)).commands.values():
        yield command
        if hasattr(command, "commands"):
            yield from all_commands(command)


def page(command: list[str], columns: int = 100) -> str:
    """Return a page of help."""
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": str(columns)})
    assert result.exit_code == 0
    return result.output


def parameter_texts(flow: Any) -> dict[str, str]:
    """Return the descriptions of a flow's parameters in the forms of the Prefect UI, by their names."""
    properties = flow.parameters.properties
    return {name: " ".join(found.get("description", "").split()) for name, found in properties.items()}


def is_excerpt(text: str, whole: str) -> bool:
    """Check whether a text is the beginning of another one, up to the end of a sentence or part of one."""
    return whole == text or (text.endswith(".") and whole.startswith(text[:-1]) and whole[len(text) - 1] in ".:;")


CASES = [(command, name) for command in FLOWS for name in options_of(command)]


@pytest.mark.parametrize(("command", "name"), CASES)
def test_the_help_of_an_option_is_the_description_of_its_parameter(command: str, name: str) -> None:
    """The help may leave out later sentences, and name a default that is in the type."""
    option = options_of(command)[name]
    whole = parameter_texts(FLOWS[command])[PARAMETERS.get(name, name)]
    assert is_excerpt(option.help, whole) or is_excerpt(option.help.partition(" Default:")[0], whole)


def test_the_documentation_lists_every_setting_of_a_prediction_with_its_whole_text() -> None:
    """Help shows only the first sentence."""
    listed = Path("docs/predictions.md").read_text("utf-8").splitlines()
    for name, field in PredictionConfig.model_fields.items():
        assert f"| `{name}` | {name_default(field.default)} | {field.description} |" in listed


def name_default(value: object) -> str:
    """Return a default as the documentation names it."""
    named: dict[object, str] = {True: "yes", False: "no", None: "", (): ""}
    return str(value) if type(value) in (int, float, str) else named[value]


def test_every_option_has_help() -> None:
    """Its own, or that of the setting with its name."""
    for command in all_commands():
        describe_options(command.name, command.params)
        assert [option.name for option in command.params if not option.help] == []


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["predict"], "Seconds for reading an image. Default: 10."),
        (["train"], "Images per training step. Default: 128."),
        (["janitor"], "if the published table has its row. Default: never."),
    ],
)
def test_an_option_that_is_a_setting_has_the_text_of_the_setting(command: list[str], sentence: str) -> None:
    """With its default."""
    assert sentence in " ".join(page(command, 200).split())


@pytest.mark.parametrize(
    ("description", "default", "text"),
    [
        ("Name of a class.", None, "Name of a class."),
        ("Take `*.dat` files. More.", False, "Take `*.dat` files."),
        ("Include subfolders. More.", True, "Include subfolders. Default: yes."),
        ("Seconds. More.", 10, "Seconds. Default: 10."),
        ("Names. More.", ("a", "b"), "Names. Default: a, b."),
        ("Share. More. Default: 0.5 for `cnn`, else 0. Last.", 0.1, "Share. Default: 0.5 for `cnn`, else 0."),
    ],
)
def test_the_short_text_of_a_setting_is_its_first_sentence_and_the_default(
    description: str, default: object, text: str
) -> None:
    assert shorten(description, default) == text


@pytest.mark.parametrize("columns", [80, 100])
def test_the_help_of_predict_is_short(columns: int) -> None:
    """It fits the usual widths of a terminal, and no text is cut off."""
    text = page(["predict"], columns)
    assert len(text.splitlines()) <= MOST_LINES
    assert "\u2026" not in text


def test_the_help_of_predict_has_panels_for_options_that_few_need() -> None:
    titles = [line.split()[1] for line in page(["predict"]).splitlines() if line.startswith("\u256d")]
    assert titles == ["Arguments", "Options", "Files", "Images", "Existing", "Prefect"]


def test_the_help_of_digits_groups_the_commands() -> None:
    found: dict[str, set[str]] = {}
    for line in page([]).splitlines():
        words = line.split()
        if line.startswith("\u256d"):
            title = words[1]
        elif line.startswith("\u2502 ") and not line.startswith("\u2502  "):
            found.setdefault(title, set()).add(words[1])
    assert found.pop("Options")
    assert found == PANELS
    assert sum(map(len, PANELS.values())) == len(COMMANDS) + 2  # the groups `models` and `drift`


@pytest.mark.parametrize("command", SHORT)
def test_short_options_stand_for_long_ones(command: str) -> None:
    commands: Any = typer.main.get_command(app)
    context = typer.Context(commands.commands[command])
    long = {short: one.opts for one in commands.commands[command].get_params(context) for short in one.opts}
    assert all(name in long[short] for short, name in SHORT[command].items())


@pytest.mark.parametrize("name", ["datasets", "preset"])
def test_the_form_of_the_training_flow_has_the_descriptions_of_the_settings(name: str) -> None:
    assert parameter_texts(train)[name] == TrainingRun.model_fields[name].description


@pytest.mark.parametrize("flow", [train, tune, predict_folder, predict_inbox, rollback, clean_up])
def test_every_parameter_of_a_flow_is_described(flow: Any) -> None:
    """A text that is equal to the docstring of the parameter's class would be left out of the form."""
    assert all(parameter_texts(flow).values())
