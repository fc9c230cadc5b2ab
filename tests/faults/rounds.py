"""One round: a command is disturbed, judged, run again, and judged again."""

import ctypes
import fcntl
import importlib
import os
import random
import resource
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from digits.errors import DigitsError, error_class_for
from digits.maintenance.retention import RetentionConfig, sweep_store
from digits.store.artifacts import Store
from digits.store.files import find_temporary_files
from tests.faults.shim import ERRORS, Shim
from tests.faults.workloads import Place, Workload, base, lasting
from tests.support.processes import Forked, adopt_orphans, kill_tree
from tests.support.server import untracked

LONG_AGO = 60 * 24 * 3600
_TRIES = 10
_MOST_SAID = 1 << 20
_SET_SECUREBITS, _NO_ROOT, _CAPABILITY_VERSION = 28, 3, 0x20080522
Tree = dict[str, Any]
"""Files below a place, by path, each with what two runs have in common of it."""


@dataclass(frozen=True)
class Fault:
    """What is done to a run.

    Args:
        kind: `kill`, `call`, `readonly`, `nofile`, `fsize` or `as`.
        name: what repeats it, with the seed.
        at: the call that fails.
        error: how.
        for_good: and all that follow.
        roots: what can't be written.
    """

    kind: str
    name: str
    at: int = 0
    error: str = "EIO"
    for_good: bool = False
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a round: whether the fault met the run, and what was wrong."""

    name: str
    hit: bool
    wrong: list[str] = field(default_factory=list)


class Bench:
    """A command, the place where it runs, and what an undisturbed run of it leaves."""

    def __init__(self, folder: Path, workload: Workload, shim: Shim) -> None:
        adopt_orphans()
        _import_all(heavy=workload.heavy)
        self._folder, self._workload, self._shim = folder, workload, shim
        self._place, self._fresh = Place(folder / "place"), Place(folder / "fresh")
        self._place.path.mkdir()
        base(self._place)
        workload.prepare(self._place)
        self._place.path.rename(self._fresh.path)
        self.calls: dict[str, int] = {}
        self._undisturbed()

    def _undisturbed(self) -> None:
        for error in ERRORS:
            self._renew()
            self._before = self._tree()
            started = time.monotonic()
            with self._shim.armed(self._place.store, self._place.out, error=error):
                status = self._start().wait()
            self._seconds = time.monotonic() - started
            if status:
                raise RuntimeError(f"an undisturbed run ended with {status}: {self._said()}")
            self.calls[error] = self._shim.seen().calls
            self._after = self._tree()
        self._clean()
        self._cleaned = self._tree()

    def _renew(self) -> None:
        """Have the place as it was; the pictures stay the same files, by which an incremental run knows them."""
        shutil.rmtree(self._place.path, ignore_errors=True)
        shutil.copytree(self._fresh.path, self._place.path, ignore=shutil.ignore_patterns(self._fresh.images.name))
        shutil.copytree(self._fresh.images, self._place.images, copy_function=os.link)

    def _start(self, fault: Fault | None = None, draws: random.Random | None = None) -> Forked:
        """Start the command; what it says goes into a pipe, which no limit on files cuts short."""
        hears, says = os.pipe()
        fcntl.fcntl(says, fcntl.F_SETPIPE_SZ, _MOST_SAID)

        def work() -> int:
            os.environ.update(untracked(self._folder / "prefect"))
            with Path(os.devnull).open("r+b") as null:
                for number, file in enumerate((null.fileno(), null.fileno(), says)):
                    os.dup2(file, number)
            os.close(says)
            os.close(hears)
            if fault and draws:
                _limit(fault, draws)
            return self._workload.run(self._place)

        process = Forked(work)
        os.close(says)
        os.set_blocking(hears, False)
        self._words, self._ear = b"", os.fdopen(hears, "rb", buffering=0)
        return process

    def _said(self) -> str:
        self._words += self._ear.read() or b""
        return self._words.decode(errors="replace")

    def _tree(self) -> Tree:
        return {
            path.relative_to(self._place.path).as_posix(): lasting(path.read_bytes(), path.name)
            for root in (self._place.store, self._place.out)
            for path in sorted(root.rglob("*"))
            if path.is_file() and path.parent != self._place.store / "locks"
        }

    def _clean(self) -> None:
        """Let the janitor come, long after: what is for it alone is made old."""
        store = self._place.store
        for top in (store / "tmp", store / "work"):
            for path in (top, *top.rglob("*")):
                if path.exists():
                    os.utime(path, (time.time() - LONG_AGO,) * 2)
        for path in find_temporary_files(store):
            os.utime(path, (time.time() - LONG_AGO,) * 2)
        sweep_store(Store(store), RetentionConfig())

    def round(self, fault: Fault, draws: random.Random) -> Outcome:
        """Disturb a run and judge what it leaves, then what the next run makes of that."""
        self._renew()
        status, hit = self._disturbed(fault, draws)
        wrong = [*self._ended(fault, status), *self._halves()]
        if not wrong:
            wrong += self._again(status)
        return Outcome(fault.name, hit, wrong)

    def _disturbed(self, fault: Fault, draws: random.Random) -> tuple[int, bool]:
        if fault.kind == "kill":
            return self._killed(draws)
        roots = [self._place.path / root for root in fault.roots]
        armed = self._shim.armed(
            self._place.store, self._place.out, at=fault.at, error=fault.error, for_good=fault.for_good
        )
        for root in roots:
            _set_writable(root, False)
        with armed if fault.kind == "call" else nullcontext():
            status = self._start(fault, draws).wait()
        for root in roots:
            _set_writable(root, True)
        return status, self._shim.seen().hits > 0 if fault.kind == "call" else status != 0

    def _killed(self, draws: random.Random) -> tuple[int, bool]:
        """Kill at an instant; draw another one where the run had ended, a few times."""
        for _ in range(_TRIES):
            self._renew()
            process = self._start()
            time.sleep(draws.random() * self._seconds)
            kill_tree(process)
            if process.returncode != 0:
                break
        return process.returncode or 0, process.returncode != 0

    def _ended(self, fault: Fault, status: int) -> Iterator[str]:
        said = self._said()
        if fault.kind == "kill" and status < 0:
            return
        if "Traceback" in said or (status not in (0, 1) and error_class_for(status) is None):
            where = f" at a call to {self._shim.seen().kind}" if fault.kind == "call" else ""
            yield f"it ended with {status}{where}: {said[-700:]}"
        elif status and "digits: " not in said:
            yield f"it ended with {status} and no message: {said[-300:]}"

    def _halves(self) -> Iterator[str]:
        for path, content in self._tree().items():
            known = [tree[path] for tree in (self._before, self._after) if path in tree]
            if known and content not in known:
                yield f"at the fault {path} was neither as before nor as after"

    def _again(self, status: int) -> Iterator[str]:
        found = self._tree()
        finished = all(found.get(path) == content for path, content in self._after.items())
        committed = self._workload.committed(self._place)
        if not (self._workload.once and finished):
            if again := self._start().wait():
                yield f"after {status} the second run ended with {again}: {self._said()[-700:]}"
                return
            taken = self._workload.taken_over(self._place, self._said())
            if committed is not None and taken != committed:
                yield f"{committed} were committed, but the second run took over {taken}"
        try:
            self._clean()
        except DigitsError as error:
            yield f"the janitor failed: {error}"
        yield from _differences(self._tree(), self._cleaned)


def _differences(found: Tree, expected: Tree) -> Iterator[str]:
    for path in sorted(found.keys() | expected.keys()):
        if path not in expected:
            yield f"{path} is left"
        elif path not in found:
            yield f"{path} is missing"
        elif found[path] != expected[path]:
            yield f"{path} is not that of an undisturbed run"


def _import_all(*, heavy: bool) -> None:
    names = [
        "digits.prediction.service",
        "digits.pipeline.steps",
        "digits.cli.main",
        "digits.cli.commands",
        "digits.cli.output",
        "digits.server.api",
        "rich.progress",
    ]
    for name in [*names, *(["digits.training.fit", "tensorflow", "keras", "h5py"] if heavy else [])]:
        importlib.import_module(name)


def _set_writable(root: Path, writable: bool) -> None:
    for path in (root, *root.rglob("*")):
        if path.is_dir():
            mode = path.stat().st_mode
            path.chmod(mode | stat.S_IWUSR if writable else mode & ~0o222)


def _limit(fault: Fault, draws: random.Random) -> None:
    """Put a limit on this process, a copy, and on those that it starts."""
    if fault.kind == "readonly":
        _give_up_privileges()
    elif fault.kind == "nofile":
        os.close(free := os.dup(0))
        _set_limit(resource.RLIMIT_NOFILE, free + int(2 ** draws.uniform(0, 4.5)))  # one, for an import, at least
    elif fault.kind == "fsize":
        _set_limit(resource.RLIMIT_FSIZE, int(2 ** draws.uniform(0, 18)))
    elif fault.kind == "as":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _set_limit(resource.RLIMIT_AS, pages * resource.getpagesize() + int(2 ** draws.uniform(12, 29)))


def _set_limit(kind: int, value: int) -> None:
    resource.setrlimit(kind, (value, value))


def _give_up_privileges() -> None:
    """Let permissions stop this process, and what it starts, even where it is root's."""
    if os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    if libc.prctl(_SET_SECUREBITS, _NO_ROOT, 0, 0, 0) or libc.capset(header, none):
        sys.exit("root's privileges can't be given up here, so nothing is read-only to it")
