"""Fault campaigns: disturb commands at random or at every call, run them again, and compare with undisturbed runs.

python -m tests.faults                                        # everything; a table of counts
python -m tests.faults --workload predict --fault kill --rounds 1000 --seed 7
python -m tests.faults --workload promote --fault call --only ENOSPC/once/12
python -m tests.faults --fault call -- models show 1          # any digits command; {store} {out} {table} {images}

Faults: `kill` at a random instant; `call`: the Nth file-system call below the store or the output fails, for every N
(or for `--sample` of them), with ENOSPC and EIO, once and permanently; `readonly`: the store or the output cannot be
written; `nofile`, `fsize`, `as`: limits on open files, file size and memory. A round passes if

- the command exits with 0 or an expected exit code, and prints one message without a traceback (unless it was killed);
- after the fault, every file of the final state is absent, unchanged or complete, and never half written;
- the same command, run again, succeeds and leaves the files of an undisturbed run, except for times;
- it reuses everything that was committed: images of committed shards, epochs of the checkpoint;
- after the janitor has run, no file is left that an undisturbed run does not leave.

`tests.faults.kills` covers only predictions: it kills them and checks, with the kernel's help, which images are opened
again.

A failure is printed with the options that repeat it: `--workload W --fault F --seed S --only ROUND`.

"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from tests.faults.rounds import Bench, Fault, Outcome
from tests.faults.shim import CONTROL, ERRORS, Shim, restart
from tests.faults.workloads import WORKLOADS, Workload, console

FAULTS = ("kill", "call", "readonly", "nofile", "fsize", "as")


def main(arguments: list[str]) -> int:
    """Run a campaign and print its table. Return 1 if a round failed."""
    if CONTROL not in os.environ:
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            return _restarted(Path(folder), arguments)
    options, failed, rows = _options(arguments), 0, []
    print(f"seed {options.seed}", flush=True)
    for name, fault in product(options.workload, options.fault):
        started, outcomes = time.monotonic(), []
        for outcome in _rounds(name, fault, options):
            outcomes.append(outcome)
            for found in outcome.faults:
                again = f"--workload {name} --fault {fault} --seed {options.seed} --only {outcome.name}"
                print(f"FAILED {again}: {found}", flush=True)
        hit, bad = sum(one.hit for one in outcomes), sum(bool(one.faults) for one in outcomes)
        seconds = time.monotonic() - started
        rows.append(f"| {name} | {fault} | {len(outcomes):,} | {hit:,} | {bad} | {seconds:.0f} |")
        print(rows[-1], flush=True)
        failed += bad
    print("\n| command | fault | runs | disturbed | failed | seconds |\n|---|---|--:|--:|--:|--:|", *rows, sep="\n")
    return int(failed > 0)


def _restarted(folder: Path, arguments: list[str]) -> int:
    child = os.fork()
    if not child:
        restart(folder, arguments)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _rounds(name: str, kind: str, options: argparse.Namespace) -> Iterator[Outcome]:
    workload = Workload(console(*options.command)) if options.command else WORKLOADS[name]
    shim = Shim(Path(os.environ[CONTROL]))
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        bench = Bench(Path(folder), workload, shim)
        for fault in _faults(kind, bench, options):
            if options.only in (None, fault.name):
                yield bench.round(fault, random.Random(f"{options.seed}/{fault.name}"))  # noqa: S311


def _faults(kind: str, bench: Bench, options: argparse.Namespace) -> Iterator[Fault]:
    if kind == "call":
        for error, for_good in product(ERRORS, (False, True)):
            calls = list(range(1, bench.calls[error] + 1))
            if options.sample and options.sample < len(calls):
                calls = sorted(random.Random(options.seed).sample(calls, options.sample))  # noqa: S311
            for at in calls:
                yield Fault(kind, f"{error}/{'for-good' if for_good else 'once'}/{at}", at, error, for_good)
    elif kind == "readonly":
        yield from (Fault(kind, root, roots=(root,)) for root in ("store", "out"))
    else:
        yield from (Fault(kind, str(number)) for number in range(options.rounds))


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.faults", description="Disturb commands and run them again.")
    parser.add_argument("--workload", action="append", choices=WORKLOADS)
    parser.add_argument("--fault", action="append", choices=FAULTS)
    parser.add_argument("--rounds", type=int, default=20, help="number of kills, and of rounds per limit")
    parser.add_argument("--sample", type=int, help="number of calls to fail; default: every call")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the instants and limits")
    parser.add_argument("--only", metavar="ROUND", help="run only this round, such as 12 or EIO/once/12")
    parser.add_argument("command", nargs="*", help="digits command to run instead of a workload, after --")
    options = parser.parse_args(arguments)
    options.workload = [" ".join(options.command)] if options.command else options.workload or list(WORKLOADS)
    options.fault = options.fault or list(FAULTS)
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
