"""Prefect API: whether it answers, and reading all objects in pages.

This module does not import Prefect, which takes 1.5 to 2 s.
"""

import base64
import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from digits.server.prefect_settings import configured_key, configured_password, prefect_setting

HIDDEN = "***"
PAGE = 200
"""Largest number of objects that the API returns at once."""


class Access(Enum):
    """Access of this process to a Prefect API: open, denied because another password is required, or no answer."""

    OPEN = "open"
    DENIED = "denied"
    ABSENT = "absent"


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
        address = f"{url.rstrip('/')}/health"
        with urllib.request.urlopen(address, timeout=seconds, context=_trust(url)):  # noqa: S310 - the operator's own URL
            return True
    except urllib.error.HTTPError as error:
        return error.code in (401, 403, 404)
    except (OSError, ValueError, http.client.HTTPException):
        return False


def check_access(url: str, environment: Mapping[str, str] = os.environ, *, seconds: float = 3) -> Access:
    """Return this process's access to a Prefect API.

    The health page requires no password, so another page is requested. Prefect Cloud counts as open if it answers.
    """
    if "/accounts/" in url:
        return Access.OPEN if answers(url, seconds=seconds) else Access.ABSENT
    return _access(url, _authorization(configured_password(environment), configured_key(environment)), seconds)


def is_open_to_all(url: str, *, seconds: float = 3) -> bool:
    """Check whether a Prefect API answers without a password."""
    return _access(url, {}, seconds) is Access.OPEN


def _access(url: str, headers: dict[str, str], seconds: float) -> Access:
    try:
        request = urllib.request.Request(f"{url.rstrip('/')}/admin/version", headers=headers)  # noqa: S310 - as above
        with urllib.request.urlopen(request, timeout=seconds, context=_trust(url)):  # noqa: S310
            return Access.OPEN
    except urllib.error.HTTPError as error:
        return Access.DENIED if error.code in (401, 403) else Access.ABSENT
    except (OSError, ValueError, http.client.HTTPException):
        return Access.ABSENT


def ui_answers(url: str, *, seconds: float = 10) -> bool:
    """Check whether a Prefect UI answers at an address; its pages need no password."""
    try:
        request = urllib.request.Request(url, headers={"Accept": "text/html"})  # noqa: S310 - the operator's own URL
        with urllib.request.urlopen(request, timeout=seconds, context=_trust(url)) as page:  # noqa: S310
            return "html" in page.headers.get("Content-Type", "")
    except (OSError, ValueError, http.client.HTTPException):
        return False


def _trust(url: str, environment: Mapping[str, str] = os.environ) -> ssl.SSLContext | None:
    """Return the certificates to trust at an `https` address: the system's and `PREFECT_API_SSL_CERT_FILE`."""
    if not url.startswith("https:"):
        return None
    context = ssl.create_default_context()
    if own := prefect_setting("api", "ssl_cert_file", environment=environment):
        context.load_verify_locations(own)
    return context


def _authorization(password: str | None, key: str | None) -> dict[str, str]:
    """Return the header that authorizes a request, as Prefect's client sends it: the password precedes the key."""
    if password:
        return {"Authorization": f"Basic {base64.b64encode(password.encode()).decode()}"}
    return {"Authorization": f"Bearer {key}"} if key else {}


def read_pages(read: Callable[..., list[Any]], **wanted: Any) -> Iterator[Any]:
    """Yield everything that a method of Prefect's client reads in pages.

    Args:
        read: method with the arguments `offset` and `limit`.
        wanted: its other arguments.
    """
    offset = 0
    while page := read(offset=offset, limit=PAGE, **wanted):
        yield from page
        offset += len(page)
