"""What single files cost our decoder: seconds and memory, each file by itself, in a process that may die of it."""

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

MOST_SECONDS = 10.0
MOST_GROWTH = 512 * 2**20
_PATIENCE = 2 * MOST_SECONDS
_ROOM = 4 * 2**30
"""Of memory, beyond which the process is refused more, so that a bomb can't take the machine with it."""


@dataclass(frozen=True)
class Cost:
    """What became of a file.

    Args:
        name: the file's.
        outcome: `ok`, the status that our decoder gave, `crashed` (it killed the process) or `timeout`.
        seconds: of decoding and bringing into the network's form.
        growth: bytes by which the process's memory peaked over what it held when it was idle.
        past_header: Pillow took the file for one of our formats, and found nothing wrong with its header.
    """

    name: str
    outcome: str
    seconds: float = 0.0
    growth: int = 0
    past_header: bool = False

    @property
    def bearable(self) -> bool:
        """Tell whether it keeps to 10 seconds and 512 MiB; a crash is for the engine to survive."""
        return self.seconds <= MOST_SECONDS and self.growth <= MOST_GROWTH


def costs_of(paths: Sequence[Path]) -> Iterator[Cost]:
    """Decode each file in a process that is started again when one kills it."""
    done = 0
    while done < len(paths):
        for cost in _until_death(paths[done:]):
            done += 1
            yield cost


def _until_death(paths: Sequence[Path]) -> Iterator[Cost]:
    """Give the costs of the files that a process got through, and of the one that it died of."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.decoding_costs"]
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null, text=True) as process:
        for path in paths:
            answer = _ask(process, path)
            if answer.startswith("{"):
                yield Cost(**json.loads(answer))
            else:
                process.kill()
                yield Cost(path.name, answer, seconds=_PATIENCE if answer == "timeout" else 0)
                return


def _ask(process: "subprocess.Popen[str]", path: Path) -> str:
    """Have a file decoded: give the cost as JSON, or `crashed`, or `timeout`."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{json.dumps(str(path))}\n")
    process.stdin.flush()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        return process.stdout.readline() or "crashed" if selector.select(_PATIENCE) else "timeout"


def main() -> None:
    """Be the process: the name of a file a line comes in, its cost goes out."""
    resource.setrlimit(resource.RLIMIT_AS, (_ROOM, _ROOM))
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
    raise RuntimeError(f"{os.uname().sysname} does not tell {name}")


if __name__ == "__main__":
    main()
