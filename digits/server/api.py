"""Whether a Prefect API is configured, and whether it answers, found without importing Prefect (1.5 to 2 s)."""

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


def configured_api(environment: Mapping[str, str] = os.environ) -> str | None:
    """Give `PREFECT_API_URL` from the environment, or from the active profile; None when neither has one."""
    return environment.get("PREFECT_API_URL") or _profile_value(environment)


def shown(url: str) -> str:
    """Give an address as it may be shown: what may be secret of it, a user's name and password or a query, is `***`."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"
    _, at, host = parts.netloc.rpartition("@")
    if "@" in parts.path:  # a slash in a password that was not escaped
        return "***"
    hidden = {name: "***" for name in ("query", "fragment") if getattr(parts, name)}
    return urlunsplit(parts._replace(netloc=f"***@{host}" if at else host, **hidden))


def answers(url: str, *, seconds: float = 3) -> bool:
    """Tell whether a Prefect API is there; one that wants a password is."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=seconds):  # noqa: S310 - the operator's own URL
            return True
    except urllib.error.HTTPError as error:
        return error.code in (401, 403, 404)
    except (OSError, ValueError, http.client.HTTPException):
        return False


class Access(Enum):
    """Whether a Prefect API lets us in."""

    OPEN = "open"
    DENIED = "denied"
    ABSENT = "absent"


def password(environment: Mapping[str, str] = os.environ) -> str | None:
    """Give what to talk to the API with, `USER:PASSWORD`; that of a server of one's own when no other is given."""
    return environment.get("PREFECT_API_AUTH_STRING") or environment.get("PREFECT_SERVER_API_AUTH_STRING")


def access(url: str, environment: Mapping[str, str] = os.environ, *, seconds: float = 3) -> Access:
    """Tell whether a Prefect API is there and takes our password; its health page, unlike others, asks for none.

    Prefect Cloud has keys instead,
    which Prefect itself looks for: that it answers is all that is asked.
    """
    if "/accounts/" in url:
        return Access.OPEN if answers(url, seconds=seconds) else Access.ABSENT
    word = password(environment)
    headers = {"Authorization": f"Basic {base64.b64encode(word.encode()).decode()}"} if word else {}
    try:
        request = urllib.request.Request(f"{url.rstrip('/')}/admin/version", headers=headers)  # noqa: S310 - as above
        with urllib.request.urlopen(request, timeout=seconds):  # noqa: S310
            return Access.OPEN
    except urllib.error.HTTPError as error:
        return Access.DENIED if error.code in (401, 403) else Access.ABSENT
    except (OSError, ValueError, http.client.HTTPException):
        return Access.ABSENT


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
