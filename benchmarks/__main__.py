"""Command line of the benchmarks.

python -m benchmarks                      # the quick ones: start, prediction, incremental
python -m benchmarks NAME [NAME ...]      # those that are named
python -m benchmarks NAME [options]       # one with options, which `--help` after its name lists

Each benchmark is a module of its own and runs in a new process.
"""

import subprocess
import sys
from itertools import dropwhile, takewhile

from benchmarks.machine import describe_machine

QUICK = ("start", "prediction", "incremental")
SLOW = (
    "accuracy",
    "backup",
    "calibration",
    "determinism",
    "drift",
    "endurance",
    "export",
    "heif",
    "kinds",
    "learning",
    "normalization",
    "photos",
    "reviewing",
    "scale",
    "sets",
    "soak",
    "system",
    "versus",
)
NAMES = ", ".join((*QUICK, *SLOW))


def main(arguments: list[str]) -> int:
    """Run the named benchmarks, or the quick ones if none is named; return the number of those that failed."""
    names = list(takewhile(_is_name, arguments))
    options = list(dropwhile(_is_name, arguments))
    if not names and options in (["--help"], ["-h"]):
        print(f"{__doc__}\nBenchmarks: {NAMES}")
        return 0
    unknown = set(names) - {*QUICK, *SLOW}
    if unknown:
        sys.exit(f"unknown benchmark: {', '.join(sorted(unknown))}; choose from {NAMES}")
    if options and len(names) != 1:
        sys.exit(f"{' '.join(options)}: options need the name of exactly one benchmark before them")
    print(describe_machine(), flush=True)
    return sum(_run(name, options) != 0 for name in names or QUICK)


def _is_name(argument: str) -> bool:
    return not argument.startswith("-")


def _run(name: str, options: list[str]) -> int:
    print(f"\n== {name} ==", flush=True)
    return subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
