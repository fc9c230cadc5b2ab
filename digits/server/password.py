"""Password of the Prefect server that Digits starts: random, in a file that only its owner can read.

    python -m digits.server.password DIRECTORY

creates the password for a server that systemd starts. It writes DIRECTORY/password, as `digits up` does, and
DIRECTORY/password.env, which sets Prefect's variables to it.
"""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from digits.store.files import write_file

USER = "digits"
VARIABLES = ("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING")
"""Variables with the password of Prefect's clients and of its server."""


def password_file(state: Path) -> Path:
    """Return the file in a state directory that contains the password of its server."""
    return state / "password"


def read_password(state: Path) -> str | None:
    """Return the password of the server of a state directory as `USER:PASSWORD`; None if it has none."""
    try:
        return password_file(state).read_text("utf-8").strip() or None
    except FileNotFoundError:
        return None


def random_password() -> str:
    """Return a new password as `USER:PASSWORD`."""
    return f"{USER}:{secrets.token_urlsafe(32)}"


def ensure_password(state: Path) -> str:
    """Return the password of the server of a state directory, which is created if there is none."""
    password = read_password(state)
    if password is None:
        password = random_password()
        _write_private(password_file(state), password)
    password_file(state).chmod(0o600)
    return password


def write_environment_file(state: Path) -> None:
    """Write a file for systemd's `EnvironmentFile` that sets Prefect's variables to the password."""
    password = ensure_password(state)
    _write_private(state / "password.env", "\n".join(f"{name}={password}" for name in VARIABLES))


@contextmanager
def private_files() -> Iterator[None]:
    """Let only the owner access files that this process creates in the context."""
    mask = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(mask)


def _write_private(path: Path, text: str) -> None:
    with private_files():
        write_file(path, f"{text}\n".encode())


if __name__ == "__main__":
    write_environment_file(Path(sys.argv[1]))
