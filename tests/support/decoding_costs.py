"""Cost of decoding single files: seconds and memory, measured in a process that may crash."""

import io
import json
import os
import resource
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from digits.images.decode import DecodeError, decode
from digits.images.formats import FORMATS
from digits.images.normalize import normalize

MAX_SECONDS = 10.0
MAX_GROWTH = 512 * 2**20
_TIMEOUT = 2 * MAX_SECONDS
_MEMORY_LIMIT = 4 * 2**30
"""Bytes of memory that the process may use, so that a decompression bomb does not exhaust the machine."""


@dataclass(frozen=True)
class Cost:
    """Result of decoding a file.

    Args:
        name: name of the file.
        outcome: `ok`, the status of the decode error, `crashed` (the process died) or `timeout`.
        seconds: time to decode and normalize the image.
        growth: peak memory of the process less its memory when idle, in bytes.
        past_header: whether Pillow recognises the file as one of the supported formats and accepts its header.
    """

    name: str
    outcome: str
    seconds: float = 0.0
    growth: int = 0
    past_header: bool = False

    @property
    def within_limits(self) -> bool:
        """Return whether the file took at most 10 seconds and 512 MiB. A crash is within the limits."""
        return self.seconds <= MAX_SECONDS and self.growth <= MAX_GROWTH


def measure_costs(paths: Sequence[Path]) -> Iterator[Cost]:
    """Decode files in a process, which is restarted after a crash. Yield a cost per file."""
    done = 0
    while done < len(paths):
        for cost in _measure_until_crash(paths[done:]):
            done += 1
            yield cost


def _measure_until_crash(paths: Sequence[Path]) -> Iterator[Cost]:
    """Yield the costs of the files that one process decoded, and of the file at which it crashed."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.decoding_costs"]
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null, text=True) as process:
        for path in paths:
            answer = _request_cost(process, path)
            if answer.startswith("{"):
                yield Cost(**json.loads(answer))
            else:
                process.kill()
                yield Cost(path.name, answer, seconds=_TIMEOUT if answer == "timeout" else 0)
                return


def _request_cost(process: "subprocess.Popen[str]", path: Path) -> str:
    """Request the cost of a file: return it as JSON, or `crashed`, or `timeout`."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{json.dumps(str(path))}\n")
    process.stdin.flush()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        return process.stdout.readline() or "crashed" if selector.select(_TIMEOUT) else "timeout"


def main() -> None:
    """Read file names from standard input, one per line, and print the cost of each."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT, _MEMORY_LIMIT))
    idle = _memory("VmRSS")
    for line in sys.stdin:
        print(json.dumps(asdict(_cost(Path(json.loads(line)), idle))), flush=True)


def _cost(path: Path, idle: int) -> Cost:
    content = path.read_bytes()
    past_header = _is_past_header(content)
    _forget_peak()
    started = time.perf_counter()
    outcome = _decode(content)
    seconds = time.perf_counter() - started
    return Cost(path.name, outcome, seconds, max(0, _memory("VmHWM") - idle), past_header)


def _decode(content: bytes) -> str:
    try:
        normalize(decode(content).pixels)
    except DecodeError as error:
        return error.status
    return "ok"


def _is_past_header(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS):
            return True
    except Exception:  # noqa: BLE001 - Pillow's readers raise nearly anything
        return False


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{os.uname().sysname} does not report {name}")


if __name__ == "__main__":
    main()
