"""Programs in a terminal."""

import os
import pty
import subprocess
import sys
from collections.abc import Mapping


def run_in_terminal(program: str, variables: Mapping[str, str] | None = None) -> str:
    """Return what a Python program prints, if its standard output and standard error are a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", **(variables or {})}
    with subprocess.Popen([sys.executable, "-c", program], stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        found = b""
        while part := _read(ours):
            found += part
    os.close(ours)
    return found.decode()


def _read(descriptor: int) -> bytes:
    """Return the next bytes; none at the end, which a pseudo-terminal reports as an error."""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""
