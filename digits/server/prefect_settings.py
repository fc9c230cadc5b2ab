"""Prefect settings: values that Prefect would use, found in its sources and its order without importing Prefect.

The sources are the environment, `.env`, `prefect.toml`, the table `tool.prefect` of `pyproject.toml`, and the active
profile. Prefect reads the three files in the current directory only. An empty value counts: it hides those of later
sources.
"""

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from digits.errors import UsageError, os_errors_as

PREFIX = "PREFECT_"
_TEST_MODES = tuple(
    f"PREFECT_{name}" for name in ("TEST_MODE", "UNIT_TEST_MODE", "TESTING_UNIT_TEST_MODE", "TESTING_TEST_MODE")
)


def prefect_setting(*path: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the value that Prefect would use for a setting that is a text; None if no source sets it.

    Args:
        path: path of the setting in Prefect's settings: `"api", "url"` for `PREFECT_API_URL`.
        environment: environment variables.

    Raises:
        UsageError: if Prefect cannot read one of the sources, or the value is no text.
    """
    name = PREFIX + "_".join(path).upper()
    sources: list[Callable[[], Any]] = [
        lambda: _folded(environment).get(name.lower()),
        lambda: _folded(_dotenv()).get(name.lower()),
        lambda: _below(Path("prefect.toml"), *path),
        lambda: _below(Path("pyproject.toml"), "tool", "prefect", *path),
        lambda: _active_profile(environment).get(name),
    ]
    value = next((found for read in sources if (found := read()) is not None), None)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{name} is not a text; correct it where Prefect's settings are set")
    return value


def configured_api(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the address of the API that Prefect would use (`PREFECT_API_URL`), None if there is none.

    Raises:
        UsageError: if Prefect cannot read one of its sources of settings.
    """
    return prefect_setting("api", "url", environment=environment) or None


def configured_password(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the password of the API as `USER:PASSWORD`: the client's, else the server's, else None.

    Raises:
        UsageError: if Prefect cannot read one of its sources of settings.
    """
    paths = ("api", "auth_string"), ("server", "api", "auth_string")
    return next(filter(None, (prefect_setting(*path, environment=environment) for path in paths)), None)


def configured_key(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the key of the API (`PREFECT_API_KEY`), which Prefect Cloud requires, None if there is none.

    Raises:
        UsageError: if Prefect cannot read one of its sources of settings.
    """
    return prefect_setting("api", "key", environment=environment) or None


def check_sources(environment: Mapping[str, str] = os.environ) -> None:
    """Check that Prefect can read all its sources of settings; otherwise importing it fails.

    Raises:
        UsageError: if it cannot read one of them.
    """
    for read in (_dotenv, lambda: _below(Path("prefect.toml")), lambda: _below(Path("pyproject.toml"))):
        read()
    _active_profile(environment)


def _folded(values: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return values by name in lower case; Prefect ignores the case of names of variables."""
    return {name.lower(): value for name, value in values.items()}


def _dotenv() -> dict[str, str | None]:
    """Return the variables of the file `.env` in the current directory; empty if there is none."""
    path = Path(".env")
    if not path.is_file():
        return {}
    from dotenv import dotenv_values

    try:
        with os_errors_as(UsageError, path.absolute(), "cannot be read", "check its permissions"):
            return dotenv_values(path, encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path.absolute()}: not a text file: {error}") from error


def _below(path: Path, *keys: str) -> Any:
    """Return a value of a TOML file in the current directory; None if there is no such file, value or table.

    Raises:
        UsageError: if the file cannot be read, or has another value in place of a table.
    """
    values: Any = _load(path) if path.is_file() else {}
    for number, key in enumerate(keys):
        if values is None:
            return None
        if not isinstance(values, dict):
            raise UsageError(f"{path.absolute()}: {'.'.join(keys[:number])} is not a table; correct it")
        values = values.get(key)
    return None if keys and isinstance(values, dict) else values


def _load(path: Path) -> dict[str, Any]:
    from digits.settings import load_toml  # which imports pydantic; most directories have no such file

    return load_toml(path.absolute())


def _active_profile(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of the active profile; those of Prefect's default profile if it does not exist.

    Raises:
        UsageError: if the file of the profiles cannot be read.
    """
    if any(environment.get(name) for name in _TEST_MODES):
        return {}
    path = _profiles_path(environment)
    if path is None or not path.exists():
        return {}
    values = _load(path)
    active = environment.get("PREFECT_PROFILE") or values.get("active") or ""
    profiles = values.get("profiles", {})
    settings = profiles.get(active, {}) if isinstance(profiles, dict) and isinstance(active, str) else None
    if not isinstance(settings, dict):
        raise UsageError(f"{path.absolute()}: expected a text `active` and tables `profiles.NAME`; correct it")
    return settings


def _profiles_path(environment: Mapping[str, str]) -> Path | None:
    """Return the path of the file of the profiles; None if there is none, because Prefect is not installed."""
    named = (
        environment.get("PREFECT_PROFILES_PATH")
        or _dotenv().get("PREFECT_PROFILES_PATH")
        or _below(Path("prefect.toml"), "profiles_path")
        or _below(Path("pyproject.toml"), "tool", "prefect", "profiles_path")
    )
    if named:
        return Path(str(named))
    if home := environment.get("PREFECT_HOME"):
        return Path(home) / "profiles.toml"
    default = Path.home() / ".prefect" / "profiles.toml"
    return default if default.exists() else _packaged_profiles()


def _packaged_profiles() -> Path | None:
    """Return the file of the profiles that Prefect itself contains; None if Prefect is not installed."""
    prefect = importlib.util.find_spec("prefect")
    return Path(prefect.origin).with_name("settings") / "profiles.toml" if prefect and prefect.origin else None
