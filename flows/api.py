"""Whether a Prefect API is configured, and whether it answers, found without importing Prefect (1.5 to 2 s)."""

import http.client
import os
import tomllib
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def configured_api(environment: Mapping[str, str] = os.environ) -> str | None:
    """Give `PREFECT_API_URL` from the environment, or from the active profile; None when neither has one."""
    return environment.get("PREFECT_API_URL") or _profile_value(environment)


def answers(url: str, *, seconds: float = 3) -> bool:
    """Tell whether a Prefect API is there; one that wants a password is."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=seconds):  # noqa: S310 - the operator's own URL
            return True
    except urllib.error.HTTPError as error:
        return error.code in (401, 403, 404)
    except (OSError, ValueError, http.client.HTTPException):
        return False


def _profile_value(environment: Mapping[str, str]) -> str | None:
    home = Path(environment.get("PREFECT_HOME") or "~/.prefect").expanduser()
    path = Path(environment.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    try:
        value: Any = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None
    for key in ("profiles", str(environment.get("PREFECT_PROFILE") or value.get("active")), "PREFECT_API_URL"):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None
