"""Help texts of options, which must be those of the settings and of the flows' parameters."""

from typing import Any

import pytest
import typer.main

from digits.cli.commands import app
from digits.data.config import ArraysConfig
from digits.pipeline.config import PromotionPolicy, TrainingRun
from digits.prediction.config import PredictionConfig
from digits.settings import Settings
from digits.training.config import ModelConfig, TrainingConfig
from flows.janitor import clean_up
from flows.prediction import predict_folder, predict_inbox
from flows.rollback import rollback
from flows.training import train
from flows.tuning import tune

TRAINING: tuple[type[Settings], ...] = (TrainingRun, ModelConfig, TrainingConfig, ArraysConfig, PromotionPolicy)
FLOWS = {"train": train, "tune": tune, "predict": predict_folder}
FIELDS = {"dataset": "datasets", "other_format": "other_formats"}
"""Names of settings that differ from their options, which may be repeated."""
PARAMETERS = {"path": "folder"}
OWN = {"artifacts", "json", "config", "space", "state", "deploy", "track", "help", "form"}
"""Options whose text is not compared: they are no setting, or they name the file or directory that has the setting.

`form` is the format of standard output, which a flow has not.
"""


def options_of(command: str) -> dict[str, Any]:
    """Return the arguments and options of a command, by their parameter names."""
    commands: Any = typer.main.get_command(app)
    return {option.name: option for option in commands.commands[command].params if option.name not in OWN}


def described_settings(*classes: type[Settings]) -> dict[str, Any]:
    """Return the fields of settings classes, by their names, without those that are sections."""
    return {name: field for kind in classes for name, field in kind.model_fields.items() if field.description}


def parameter_texts(flow: Any) -> dict[str, str]:
    """Return the descriptions of a flow's parameters in the forms of the Prefect UI, by their names."""
    properties = flow.parameters.properties
    return {name: " ".join(found.get("description", "").split()) for name, found in properties.items()}


def default_text(field: Any) -> str:
    """Return a default as a help text names it."""
    if isinstance(field.default, bool):
        return "yes" if field.default else "no"
    if isinstance(field.default, tuple):
        return ", ".join(field.default)
    return str(field.default)


def is_excerpt(text: str, whole: str) -> bool:
    """Check whether a text is the beginning of another one, up to the end of a sentence or part of one."""
    return whole == text or (text.endswith(".") and whole.startswith(text[:-1]) and whole[len(text) - 1] in ".:;")


CASES = [(command, name) for command in FLOWS for name in options_of(command)]


@pytest.mark.parametrize(("command", "name"), CASES)
def test_the_help_of_an_option_is_the_description_of_its_setting_or_parameter(command: str, name: str) -> None:
    """The help may leave out later sentences, and name a default that is in the type."""
    option = options_of(command)[name]
    settings = described_settings(PredictionConfig) if command == "predict" else described_settings(*TRAINING)
    field = None if command == "tune" and name == "seed" else settings.get(FIELDS.get(name, name))
    if field is None:
        whole = parameter_texts(FLOWS[command])[PARAMETERS.get(name, name)]
        assert is_excerpt(option.help, whole) or is_excerpt(option.help.partition(" Default:")[0], whole)
        return
    text, _, default = option.help.partition(" Default: ")
    assert is_excerpt(option.help, field.description) or is_excerpt(text, field.description)
    if default and f"Default: {default}" not in field.description:
        assert default.removesuffix(".") == default_text(field)


@pytest.mark.parametrize("name", ["datasets", "preset"])
def test_the_form_of_the_training_flow_has_the_descriptions_of_the_settings(name: str) -> None:
    assert parameter_texts(train)[name] == TrainingRun.model_fields[name].description


@pytest.mark.parametrize("flow", [train, tune, predict_folder, predict_inbox, rollback, clean_up])
def test_every_parameter_of_a_flow_is_described(flow: Any) -> None:
    """A text that is equal to the docstring of the parameter's class would be left out of the form."""
    assert all(parameter_texts(flow).values())
