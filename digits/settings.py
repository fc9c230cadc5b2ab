"""Settings: base class of all configuration, TOML files, the artifact root, and the project directory."""

import hashlib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from digits.errors import UsageError, os_errors_as

ARTIFACTS_VARIABLE = "DIGITS_ARTIFACTS"
"""Environment variable that sets the artifact root."""
NAME_VARIABLE = "DIGITS_ROOT_NAME"
"""Environment variable that sets the name of the artifact root."""
_NAME_LENGTH = 40
"""Largest number of characters of a directory's name in the name of an artifact root."""
RENAMED = {
    "recipe": "preset",
    "wished_error": "target_error",
    "max_chance": "significance_level",
    "max_loss_of_accuracy": "max_accuracy_drop",
    "max_rise_of_ece": "max_ece_increase",
    "max_loss_of_coverage": "max_coverage_drop",
}
"""New name of each renamed setting, by its old name."""
REMOVED = {"max_slowdown": "use max_operations, which limits the multiplications per image"}
"""Advice for each removed setting: what to use instead."""
_NAMED_DIGITS = re.compile(r"""^name:[ \t]+(["']?)digits\1[ \t]*(?:[ \t]#.*)?\r?$""", re.MULTILINE)
"""Line of a prefect.yaml that names the project `digits`. Importing a YAML parser to find it would take longer than all
other imports of this module."""
Fraction = Annotated[float, Field(ge=0, lt=1)]
"""Share from 0 to below 1."""


class Settings(BaseModel):
    """Base class of all configuration: instances are immutable, and an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


AnySettings = TypeVar("AnySettings", bound=Settings)


def parse(kind: type[AnySettings], values: Mapping[str, Any], *, source: str) -> AnySettings:
    """Return an instance of a settings class with these values.

    Args:
        kind: settings class.
        values: values by name; nested for settings that are tables.
        source: origin of the values, such as a file, for error messages.

    Raises:
        UsageError: if a name is unknown or a value is out of bounds; the message lists all such names.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {_sentence(fault)}" for fault in error.errors())
        raise UsageError(f"{source}: {faults}") from error


def _sentence(fault: Mapping[str, Any]) -> str:
    """Describe an invalid setting and its value. The value of an unknown setting is left out: it may be a password."""
    if fault["type"] != "extra_forbidden":
        return f"{_uncapitalized(fault['msg'])}, found {fault['input']!r}"
    name = str(fault["loc"][-1])
    if name in RENAMED:
        return f"this setting was renamed to {RENAMED[name]}"
    if name in REMOVED:
        return f"this setting was removed; {REMOVED[name]}"
    return "there is no such setting; check its name"


def _uncapitalized(text: str) -> str:
    return text[:1].lower() + text[1:]


def merge_settings(base: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values, overridden by those of `options` that are not None."""
    merged = dict(base)
    for name, value in options.items():
        if isinstance(value, Mapping):
            below = base.get(name, {})
            merged[name] = merge_settings(below, value) if isinstance(below, Mapping) else below
        elif value is not None:
            merged[name] = value
    return merged


def load_toml(path: Path) -> dict[str, Any]:
    """Load a configuration file.

    Raises:
        UsageError: if the file cannot be read or is not valid TOML.
    """
    with os_errors_as(UsageError, path, "not a readable TOML file", "check the path and the permissions"):
        content = path.read_bytes()
    try:
        return parse_toml(content)
    except ValueError as error:
        raise UsageError(f"{path}: not a readable TOML file: {error}") from error


def parse_toml(content: bytes) -> dict[str, Any]:
    """Return the values of a TOML file by name.

    Raises:
        ValueError: if the content is not valid TOML, or exceeds what Python's parser can read.
    """
    try:
        return tomllib.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        raise
    except ValueError as error:
        raise ValueError("it contains a number with too many digits") from error


def artifact_root(option: Path | None = None, *, environment: Mapping[str, str] | None = None) -> Path:
    """Return the artifact root: `option`, else the variable `DIGITS_ARTIFACTS`, else `artifacts/` in the project.

    Outside a project, the last of these is `artifacts/` in the current directory.

    Args:
        option: path given by the user, such as the option `--artifacts`.
        environment: environment variables; None for those of this process.
    """
    variable = (os.environ if environment is None else environment).get(ARTIFACTS_VARIABLE)
    if option is not None or variable:
        return Path(option or str(variable)).expanduser().absolute()
    return (find_project() or Path.cwd()) / "artifacts"


def root_name(root: Path, *, environment: Mapping[str, str] | None = None) -> str:
    """Return the name of an artifact root: lower-case letters, digits and dashes, such as `artifacts-3f2a`.

    It is the value of the variable `DIGITS_ROOT_NAME`, else the name of the directory and the first four digits of the
    digest of its path. Prefect artifacts of several roots on one server are told apart by it.

    Args:
        root: artifact root.
        environment: environment variables; None for those of this process.
    """
    variable = (os.environ if environment is None else environment).get(NAME_VARIABLE, "")
    place = root.resolve()
    digest = hashlib.sha256(os.fsencode(place)).hexdigest()[:4]
    return _as_name(variable) or "-".join(filter(None, (_as_name(place.name), digest)))


def _as_name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:_NAME_LENGTH].strip("-")


def check_deployed_paths(paths: Mapping[str, Path], directory: Path) -> None:
    """Check the paths among the parameters of a run of a deployment, which runs in the directory of its worker.

    Args:
        paths: paths by the name of their parameter.
        directory: directory of the worker.

    Raises:
        UsageError: if a path is relative, or is `-`, which stands for standard input.
    """
    for name, path in paths.items():
        if str(path) == "-":
            raise UsageError(
                f"{name}: found `-`, standard input, which a run of a deployment does not have; give the absolute path "
                "of a file on the machine of the worker"
            )
        if not path.is_absolute():
            raise UsageError(
                f"{name}: found the relative path {path}, which the worker would look up in its own directory, "
                f"{directory}; give an absolute path on the machine of the worker"
            )


def paths_among(parameters: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """Yield the paths among the parameters of a run with their names; datasets are paths if they contain a slash."""
    for name, value in parameters.items():
        if isinstance(value, Path):
            yield name, value.expanduser() if name == "artifacts" else value
        elif isinstance(value, Settings):
            yield from ((f"{name}.{below}", path) for below, path in paths_among(dict(value)))
        elif name == "datasets":
            yield from ((name, Path(one).expanduser()) for one in value if "/" in one)


def find_project(start: Path | None = None) -> Path | None:
    """Return the project directory: the nearest one, from `start` upwards, that belongs to Digits.

    A directory belongs to Digits if its prefect.yaml has the name `digits`, or its pyproject.toml has a table
    `[tool.digits]`. Projects of other programs in between are ignored.

    Args:
        start: directory to begin at; None for the current directory.
    """
    here = (start or Path.cwd()).absolute()
    return next((folder for folder in (here, *here.parents) if _is_project(folder)), None)


def _is_project(folder: Path) -> bool:
    declaration = _content(folder / "prefect.yaml").decode("utf-8", "ignore")
    return bool(_NAMED_DIGITS.search(declaration)) or _has_tool_table(folder / "pyproject.toml")


def _has_tool_table(path: Path) -> bool:
    try:
        tools = parse_toml(_content(path)).get("tool")
    except ValueError:
        return False
    return isinstance(tools, dict) and "digits" in tools


def _content(path: Path) -> bytes:
    """Return the content of a file; empty if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
