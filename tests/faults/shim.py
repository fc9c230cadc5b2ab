"""Control of the preloaded shim, `shim.c`: a shared file selects the call that fails.

`tests/faults/test_harness.py` compares the calls that the shim counts with those that `strace -f` reports.

"""

import errno
import hashlib
import mmap
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

SOURCE = Path(__file__).with_name("shim.c")
CONTROL = "FAULTS_CONTROL"
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}
_PATH_MAX = 4096
_LAYOUT = struct.Struct(f"8i32s{_PATH_MAX}s{_PATH_MAX}s")


@dataclass(frozen=True)
class Seen:
    """Counts of the shim: calls below the roots, failed calls, and the kind of the first failed call."""

    calls: int
    hits: int
    kind: str


def build(directory: Path) -> Path:
    """Compile the shim, unless this version is already compiled, and return the library.

    Raises:
        RuntimeError: if no C compiler is installed.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("no C compiler found to build the shim; install gcc")
    library = directory / f"shim-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}.so"
    if not library.exists():
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library


def environment(directory: Path) -> dict[str, str]:
    """Build the shim and make a control file. Return the variables that make a process use both."""
    control = directory / "control"
    control.write_bytes(bytes(_LAYOUT.size))
    return {"LD_PRELOAD": str(build(directory)), CONTROL: str(control)}


def restart(directory: Path, arguments: list[str]) -> NoReturn:
    """Replace this process by `python -m tests.faults` with the shim preloaded."""
    os.environ |= environment(directory)
    os.execv(sys.executable, [sys.executable, "-W", "ignore", "-m", "tests.faults", *arguments])  # noqa: S606


class Shim:
    """Control file of this process and its children."""

    def __init__(self, control: Path) -> None:
        with control.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _LAYOUT.size)

    @contextmanager
    def armed(self, *roots: Path, at: int = 0, error: str = "EIO", for_good: bool = False) -> Iterator[None]:
        """Count the calls below one or two roots while the block runs, and let one, or all from it on, fail.

        Args:
            roots: directories below which calls count.
            at: number of the call that fails, from 1; with 0, calls are only counted.
            error: `ENOSPC` or `EIO`. Opening a file for reading counts only with `EIO`.
            for_good: whether all later calls fail too.
        """
        first, second = (*map(os.fsencode, roots), b"")[:2]
        code = ERRORS[error]
        values = (1, at, code, int(for_good), int(error == "EIO"), 0, 0, 0, b"", first, second)
        self._shared[:] = _LAYOUT.pack(*values)
        try:
            yield
        finally:
            self._shared[:4] = bytes(4)

    def seen(self) -> Seen:
        """Return the counts since the shim was last armed."""
        *_, calls, hits, _, kind, _, _ = _LAYOUT.unpack(self._shared[:])
        return Seen(calls, hits, kind.rstrip(b"\0").decode())
