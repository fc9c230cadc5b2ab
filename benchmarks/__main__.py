"""Run measurements: `python -m benchmarks` for the quick ones, or with the names of those wanted.

Each is a module of its own, run in a fresh process. Options go to the one that is named: `python -m benchmarks scale
--rounds 1`; `--help` after a name says which there are.
"""

import subprocess
import sys
from itertools import dropwhile, takewhile

from benchmarks.machine import describe

QUICK = ("start", "prediction", "incremental")
SLOW = (
    "accuracy",
    "determinism",
    "drift",
    "honesty",
    "learning",
    "normalising",
    "photos",
    "reviewing",
    "scale",
    "sets",
    "system",
)


def main(arguments: list[str]) -> int:
    """Run each named measurement; the exit code is the number of those that failed."""
    names = list(takewhile(_is_name, arguments))
    options = list(dropwhile(_is_name, arguments))
    unknown = set(names) - {*QUICK, *SLOW}
    if unknown:
        sys.exit(f"no measurement named {', '.join(sorted(unknown))}; there are {', '.join((*QUICK, *SLOW))}")
    if options and len(names) != 1:
        sys.exit(f"the options {' '.join(options)} need the name of the one measurement that they are for")
    print(describe(), flush=True)
    return sum(_run(name, options) != 0 for name in names or QUICK)


def _is_name(argument: str) -> bool:
    return not argument.startswith("-")


def _run(name: str, options: list[str]) -> int:
    print(f"\n== {name} ==", flush=True)
    return subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
