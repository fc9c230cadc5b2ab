"""The preloaded shim, `shim.c`, from Python: built once, told through a shared file which call is to fail.

Which calls it sees was checked with `strace -f`: see `tests/faults/test_harness.py`, which counts with both.
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
    """What the shim counted: the calls below the roots, how many of them failed, and the kind of the first of those."""

    calls: int
    hits: int
    kind: str


def build(directory: Path) -> Path:
    """Compile the shim, unless this source has been compiled there already; give the library.

    Raises:
        RuntimeError: there is no compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("calls can't be made to fail without a C compiler: install gcc")
    library = directory / f"shim-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}.so"
    if not library.exists():
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library


def environment(directory: Path) -> dict[str, str]:
    """Build the shim and make a control file; give the variables with which processes count in it."""
    control = directory / "control"
    control.write_bytes(bytes(_LAYOUT.size))
    return {"LD_PRELOAD": str(build(directory)), CONTROL: str(control)}


def restart(directory: Path, arguments: list[str]) -> NoReturn:
    """Become `python -m tests.faults` with the shim in it."""
    os.environ |= environment(directory)
    os.execv(sys.executable, [sys.executable, "-W", "ignore", "-m", "tests.faults", *arguments])  # noqa: S606


class Shim:
    """The control file that this process and its children were started with."""

    def __init__(self, control: Path) -> None:
        with control.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _LAYOUT.size)

    @contextmanager
    def armed(self, *roots: Path, at: int = 0, error: str = "EIO", for_good: bool = False) -> Iterator[None]:
        """Count the calls below one or two roots while the block runs, and fail one of them, or all from it on.

        Args:
            roots: where.
            at: which call fails, from 1; with 0 they are counted only.
            error: `ENOSPC` or `EIO`; opening to read counts only with the latter.
            for_good: those after it fail as well.
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
        """Give what was counted since it was last armed."""
        *_, calls, hits, _, kind, _, _ = _LAYOUT.unpack(self._shared[:])
        return Seen(calls, hits, kind.rstrip(b"\0").decode())
