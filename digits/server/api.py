"""Prefect API: its configured address, and whether it answers.

This module does not import Prefect, which takes 1.5 to 2 s.
"""

import base64
import http.client
import os
import tomllib
import urllib.error
import urllib.request
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

HIDDEN = "***"


class Access(Enum):
    """Access of this process to a Prefect API: open, denied because another password is required, or no answer."""

    OPEN = "open"
    DENIED = "denied"
    ABSENT = "absent"


def configured_api(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return `PREFECT_API_URL` from the environment, else from the active Prefect profile, else None."""
    return environment.get("PREFECT_API_URL") or _profile_value(environment)


def configured_password(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the password of the API as `USER:PASSWORD`: the client's, else the server's, else None."""
    return environment.get("PREFECT_API_AUTH_STRING") or environment.get("PREFECT_SERVER_API_AUTH_STRING")


def hide_secrets(url: str) -> str:
    """Return an address for display, with `***` for user name, password, query and fragment, which may be secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return HIDDEN
    _, at, host = parts.netloc.rpartition("@")
    if "@" in parts.path:  # the password contains a slash that is not escaped
        return HIDDEN
    hidden = {name: HIDDEN for name in ("query", "fragment") if getattr(parts, name)}
    return urlunsplit(parts._replace(netloc=f"{HIDDEN}@{host}" if at else host, **hidden))


def answers(url: str, *, seconds: float = 3) -> bool:
    """Check whether a Prefect API answers at an address; an API that requires a password counts, too."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=seconds):  # noqa: S310 - the operator's own URL
            return True
    except urllib.error.HTTPError as error:
        return error.code in (401, 403, 404)
    except (OSError, ValueError, http.client.HTTPException):
        return False


def check_access(url: str, environment: Mapping[str, str] = os.environ, *, seconds: float = 3) -> Access:
    """Return this process's access to a Prefect API.

    The health page requires no password, so another page is requested. Prefect Cloud uses keys, which Prefect itself
    finds; it counts as open if it answers.
    """
    if "/accounts/" in url:
        return Access.OPEN if answers(url, seconds=seconds) else Access.ABSENT
    password = configured_password(environment)
    headers = {"Authorization": f"Basic {base64.b64encode(password.encode()).decode()}"} if password else {}
    try:
        request = urllib.request.Request(f"{url.rstrip('/')}/admin/version", headers=headers)  # noqa: S310 - as above
        with urllib.request.urlopen(request, timeout=seconds):  # noqa: S310
            return Access.OPEN
    except urllib.error.HTTPError as error:
        return Access.DENIED if error.code in (401, 403) else Access.ABSENT
    except (OSError, ValueError, http.client.HTTPException):
        return Access.ABSENT


def ui_answers(url: str, *, seconds: float = 10) -> bool:
    """Check whether a Prefect UI answers at an address; its pages need no password."""
    try:
        request = urllib.request.Request(url, headers={"Accept": "text/html"})  # noqa: S310 - the operator's own URL
        with urllib.request.urlopen(request, timeout=seconds) as page:  # noqa: S310
            return "html" in page.headers.get("Content-Type", "")
    except (OSError, ValueError, http.client.HTTPException):
        return False


def _profile_value(environment: Mapping[str, str]) -> str | None:
    """Return `PREFECT_API_URL` of the active profile; None if there is none, or the file cannot be read."""
    home = Path(environment.get("PREFECT_HOME") or "~/.prefect").expanduser()
    path = Path(environment.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    try:
        value: Any = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None
    for key in ("profiles", str(environment.get("PREFECT_PROFILE") or value.get("active")), "PREFECT_API_URL"):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None
