"""Option types that several commands share, the settings of a command, and its page of help.

An option that is a setting has no text of its own. Its help is taken from the description of the field, in the source
of the settings: importing them would import pydantic, which takes longer than the page of help.
"""

import ast
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from digits.settings import AnySettings

NOTIFY_VARIABLE = "DIGITS_NOTIFY"
OUTPUT = Path("-")
"""Path of a table on standard output."""
LIBRARY = Path(__file__).parents[1]
_TRAINING = ("pipeline/config.py", "training/config.py", "data/config.py")
SETTINGS = {
    "predict": ("prediction/config.py",),
    "inspect": ("prediction/config.py",),
    "train": _TRAINING,
    "tune": _TRAINING,
    "janitor": ("maintenance/retention.py",),
}
"""Sources of the settings that are options of each command, relative to `LIBRARY`."""
FIELDS = {"dataset": "datasets", "other_format": "other_formats"}
"""Names of settings that differ from their options, which may be repeated."""
_FIRST = re.compile(r".*?\.(?= |$)")
_DEFAULT = re.compile(r" Default: .*?\.(?= |$)")

Artifacts = Annotated[
    Path | None,
    typer.Option(
        "--artifacts",
        metavar="DIR",
        help="Artifact root. Default: DIGITS_ARTIFACTS.",
    ),
]
State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        rich_help_panel="Prefect",
        help="State of the local server. Default: DIGITS_STATE.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors, and JSON with --json.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print the log on standard error.")]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="Show no progress bars.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Overwrite the file even if Digits did not write it, or if it was changed since."),
]
File = Annotated[
    Path | None,
    typer.Option("--file", help="File that declares the deployments. Default: prefect.yaml of the project."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be deployed, and where, without changing anything.")
]
Prune = Annotated[
    bool,
    typer.Option(
        "--prune",
        help="Remove the deployments and automations that Digits once deployed and that no file declares now.",
    ),
]
Yes = Annotated[
    bool, typer.Option("--yes", help="Deploy schedules without asking to a server that `digits up` did not start.")
]
Notify = Annotated[
    str | None,
    typer.Option(
        "--notify",
        envvar=NOTIFY_VARIABLE,
        show_envvar=False,
        help="Address to which notifications about failed and crashed runs, refused models, drift and stale tables are "
        "sent: mailto://..., a Slack webhook or another https:// webhook; `off` turns them off. Use the variable "
        f"{NOTIFY_VARIABLE} to keep it out of the list of processes.",
    ),
]


def read_settings(
    kind: "type[AnySettings]", options: Mapping[str, Any], *, file: Path | None, prefix: str
) -> "AnySettings":
    """Return the settings of a command: those of a TOML file, overridden by variables, then by command-line options.

    Args:
        kind: settings class.
        options: values by name; None where an option is not given.
        file: TOML file; None for none.
        prefix: beginning of the names of the variables, such as `DIGITS_PREDICT_`.

    Raises:
        UsageError: if the file cannot be read, a name is unknown, or a value is out of bounds.
    """
    from digits.settings import load_toml, merge_settings, parse

    given = load_toml(file) if file else {}
    for name, values in settings_in(os.environ, prefix):
        parse(kind, values, source=name)  # an error then names the variable
        given = merge_settings(given, values)
    return parse(kind, merge_settings(given, options), source=str(file or "options"))


def settings_in(environment: Mapping[str, str], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the variables that begin with a prefix, with the nested settings that each sets; empty ones are left out.

    The rest of the name is that of a setting in upper case; `__` separates a section from its setting. The value is
    one of TOML, or a text without quotation marks.
    """
    for name, text in sorted(environment.items()):
        if name.startswith(prefix) and text:
            *sections, last = name.removeprefix(prefix).lower().split("__")
            values = {last: _value_of(text)}
            for section in reversed(sections):
                values = {section: values}
            yield name, values


def _value_of(text: str) -> Any:
    from digits.settings import parse_toml

    with suppress(ValueError):
        values = parse_toml(f"value = {text}".encode())
        if values.keys() == {"value"}:
            return values["value"]
    return text


class Command(TyperCommand):
    """Command whose options take their help from the settings that they set."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the page of help."""
        describe_options(self.name or "", self.get_params(ctx))
        hide_types_of_flags(self.get_params(ctx))
        super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Return the completions of a word, with the help of the options."""
        describe_options(self.name or "", self.get_params(ctx))
        return super().shell_complete(ctx, incomplete)


def describe_options(command: str, options: Any) -> None:
    """Set the help of the options of a command that have none: the short text of the setting of the same name."""
    texts = {name: text for file in SETTINGS.get(command, ()) for name, text in read_texts(LIBRARY / file).items()}
    for option in options:
        option.help = option.help or texts.get(FIELDS.get(option.name, option.name))


def hide_types_of_flags(options: Any) -> None:
    """Leave out the type of each flag on a page of help."""
    for option in options:
        if getattr(option, "is_flag", False):
            option.metavar = ""


def read_texts(source: Path) -> Mapping[str, str]:
    """Return the short texts of the described settings in a source, by name."""
    return {name: shorten(text, default) for name, text, default in _described_fields(ast.parse(source.read_text()))}


def _described_fields(tree: ast.AST) -> Iterator[tuple[str, str, object]]:
    """Yield name, description and default of the fields in a source; the default is None if it is no literal."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call)):
            continue
        texts = [one.value for one in node.value.keywords if one.arg == "description"]
        if texts and isinstance(texts[0], ast.Constant):
            yield ast.unparse(node.target), str(texts[0].value), _literal(node.value.args)


def _literal(arguments: list[ast.expr]) -> object:
    try:
        return ast.literal_eval(arguments[0])
    except (IndexError, ValueError):
        return None


def shorten(description: str, default: object) -> str:
    """Return the first sentence of a description, and the default: as the description states it, else the value."""
    first, stated = _FIRST.match(description), _DEFAULT.search(description)
    value = ", ".join(default) if isinstance(default, tuple) else "yes" if default is True else str(default or "")
    text = first.group() if first else description
    return text + (stated.group() if stated else f" Default: {value}." if value else "")
