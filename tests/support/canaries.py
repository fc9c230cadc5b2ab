"""Canaries: values used as secrets that can be recognised wherever they leak to."""

import base64
import secrets
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


def leaking_files(*places: Path) -> dict[str, list[str]]:
    """Return the files below some folders that contain canaries, with the canaries' names."""
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    assert files
    return {str(path): found for path in files if (found := leaks(path.read_bytes()))}
