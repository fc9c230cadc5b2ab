"""Canaries: values used as secrets that can be recognised wherever they leak to."""

import base64
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

NAMES = ("server", "client", "proxy", "cloud", "address", "query", "database", "setting")
CANARIES = {name: f"{name}/canary+{secrets.token_hex(8)}" for name in NAMES}
ESCAPED = {name: quote(canary, safe="") for name, canary in CANARIES.items()}
PLANTED = (
    ("PREFECT_SERVER_API_AUTH_STRING", f"operator:{CANARIES['server']}"),
    ("AWS_SECRET_ACCESS_KEY", CANARIES["cloud"]),
    *((name, f"http://user:{ESCAPED['proxy']}@127.0.0.1:9") for name in ("HTTP_PROXY", "HTTPS_PROXY")),
)
"""Environment variables of a system with a password and other secrets."""


def forms(name: str) -> list[bytes]:
    """Return the forms of a canary: plain, URL-encoded, and in base64 at each of the three alignments."""
    plain = CANARIES[name].encode()
    coded = [base64.b64encode(b"x" * lead + plain)[4 if lead else 0 : -4].rstrip(b"=") for lead in range(3)]
    return [plain, ESCAPED[name].encode(), plain.partition(b"+")[2], *coded]


def leaks(text: bytes) -> list[str]:
    """Return the names of the canaries in a text."""
    return [name for name in NAMES if any(form in text for form in forms(name))]


def contents_below(*places: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield the files below some folders with their contents, except those that a running system removes meanwhile."""
    for place in places:
        for folder, _, names in os.walk(place):
            for path in (Path(folder, name) for name in names):
                with suppress(FileNotFoundError):
                    if path.is_file():
                        yield path, path.read_bytes()


def leaking_files(*places: Path) -> dict[str, list[str]]:
    """Return the files below some folders that contain canaries, with the canaries' names."""
    found = {str(path): leaks(content) for path, content in contents_below(*places)}
    assert found
    return {path: names for path, names in found.items() if names}
