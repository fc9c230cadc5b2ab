"""Run measurements: `python -m benchmarks` for the quick ones, or with the names of those wanted.

Each is a module of its own, run in a fresh process. What follows the names, from the first option on, is theirs.
"""

import subprocess
import sys
from itertools import takewhile

from benchmarks.machine import describe

QUICK = ("start", "prediction", "allocator")
SLOW = ("accuracy", "sets")


def main(arguments: list[str]) -> int:
    """Run each named measurement; the exit code is the number of those that failed."""
    names = list(takewhile(lambda argument: not argument.startswith("-"), arguments))
    options = arguments[len(names) :]
    unknown = set(names) - {*QUICK, *SLOW}
    if unknown:
        sys.exit(f"no measurement named {', '.join(sorted(unknown))}; there are {', '.join((*QUICK, *SLOW))}")
    print(describe(), flush=True)
    return sum(_run(name, options) != 0 for name in names or QUICK)


def _run(name: str, options: list[str]) -> int:
    print(f"\n== {name} ==", flush=True)
    return subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
