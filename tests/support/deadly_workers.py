"""Workers that fail at one image or page: the process ends, takes too long, or needs too much memory."""

from pathlib import Path

import pytest

from digits.prediction import process

FAULTS = {
    "crashed": "os.abort()",
    "timeout": "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]); [None for _ in iter(int, 1)]",
    "too-large": "bytearray(600 * 2**20)",
}
"""Statement that costs an image its row, by the status of the row. The endless one can only be ended by a kill."""
DECODE, READ = "worker._Worker._decode_content", "source.read_entry"
"""Functions of a worker that can be disturbed."""


def disturb(monkeypatch: pytest.MonkeyPatch, function: str, condition: str, statement: str) -> None:
    """Make workers run a statement after some of the calls of a function.

    Args:
        monkeypatch: pytest's fixture.
        function: `DECODE` or `READ`.
        condition: expression over the `arguments` of a call and its `result`.
        statement: statement to run where the condition is true.
    """
    program = f"""
import os, pathlib, signal, sys
sys.path.append(sys.argv[1])
from digits.images import source
from digits.prediction import worker
real = {function}
def disturbed(*arguments, **options):
    result = real(*arguments, **options)
    if {condition}:
        {statement}
    return result
{function} = disturbed
sys.exit(worker.main(sys.argv[2:]))
"""
    monkeypatch.setattr(process, "WORKER_PROGRAM", program)


def kill_once(path: Path) -> str:
    """Return a statement that kills the worker, unless a file exists; it creates the file first."""
    return f"os.path.exists({str(path)!r}) or (open({str(path)!r}, 'w'), os.kill(os.getpid(), 9))"


def has_content_of(path: Path) -> str:
    """Return the condition that the content of a certain file is decoded."""
    return f"arguments[1] == pathlib.Path({str(path)!r}).read_bytes()"
