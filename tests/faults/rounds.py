"""Round of a fault campaign: disturb a command, check the result, run it again, and check again."""

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
from tests.faults.workloads import Place, Workload, base, comparable_content
from tests.support.processes import Forked, adopt_orphans, kill_tree
from tests.support.server import untracked

LONG_AGO = 60 * 24 * 3600
_TRIES = 10
_PIPE_SIZE = 1 << 20
_SET_SECUREBITS, _NO_ROOT, _CAPABILITY_VERSION = 28, 3, 0x20080522
Snapshot = dict[str, Any]
"""Files below a place by path, each with the content that two runs have in common."""


@dataclass(frozen=True)
class Fault:
    """Disturbance of a run.

    Args:
        kind: `kill`, `call`, `readonly`, `nofile`, `fsize` or `as`.
        name: name of the round, which repeats it together with the seed.
        at: number of the call that fails.
        error: name of the error.
        for_good: whether all later calls fail too.
        roots: directories that cannot be written.
    """

    kind: str
    name: str
    at: int = 0
    error: str = "EIO"
    for_good: bool = False
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """Outcome of a round: whether the fault took effect, and what the round found."""

    name: str
    hit: bool
    faults: list[str] = field(default_factory=list)


class Bench:
    """A command, the place where it runs, and the files that an undisturbed run leaves."""

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
        self._measure_undisturbed()

    def _measure_undisturbed(self) -> None:
        for error in ERRORS:
            self._restore()
            self._before = self._snapshot()
            started = time.monotonic()
            with self._shim.armed(self._place.store, self._place.out, error=error):
                status = self._start().wait()
            self._seconds = time.monotonic() - started
            if status:
                raise RuntimeError(f"an undisturbed run exited with {status}: {self._read_output()}")
            self.calls[error] = self._shim.seen().calls
            self._after = self._snapshot()
        self._clean()
        self._cleaned = self._snapshot()

    def _restore(self) -> None:
        """Restore the place. The images stay the same files, because an incremental run recognises them by that."""
        shutil.rmtree(self._place.path, ignore_errors=True)
        shutil.copytree(self._fresh.path, self._place.path, ignore=shutil.ignore_patterns(self._fresh.images.name))
        shutil.copytree(self._fresh.images, self._place.images, copy_function=os.link)

    def _start(self, fault: Fault | None = None, draws: random.Random | None = None) -> Forked:
        """Start the command. Its output goes into a pipe, which no limit on file size truncates."""
        read_end, write_end = os.pipe()
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)

        def work() -> int:
            os.environ.update(untracked(self._folder / "prefect"))
            with Path(os.devnull).open("r+b") as null:
                for number, file in enumerate((null.fileno(), null.fileno(), write_end)):
                    os.dup2(file, number)
            os.close(write_end)
            os.close(read_end)
            if fault and draws:
                _limit(fault, draws)
            return self._workload.run(self._place)

        process = Forked(work)
        os.close(write_end)
        os.set_blocking(read_end, False)
        self._output, self._pipe = b"", os.fdopen(read_end, "rb", buffering=0)
        return process

    def _read_output(self) -> str:
        self._output += self._pipe.read() or b""
        return self._output.decode(errors="replace")

    def _snapshot(self) -> Snapshot:
        return {
            path.relative_to(self._place.path).as_posix(): comparable_content(path.read_bytes(), path.name)
            for root in (self._place.store, self._place.out)
            for path in sorted(root.rglob("*"))
            if path.is_file() and path.parent != self._place.store / "locks"
        }

    def _clean(self) -> None:
        """Run the janitor as if much later: temporary and work files are made old."""
        store = self._place.store
        for top in (store / "tmp", store / "work"):
            for path in (top, *top.rglob("*")):
                if path.exists():
                    os.utime(path, (time.time() - LONG_AGO,) * 2)
        for path in find_temporary_files(store):
            os.utime(path, (time.time() - LONG_AGO,) * 2)
        sweep_store(Store(store), RetentionConfig())

    def round(self, fault: Fault, draws: random.Random) -> Outcome:
        """Disturb a run, check what it leaves, run the command again, and check what that leaves."""
        self._restore()
        status, hit = self._run_disturbed(fault, draws)
        faults = [*self._exit_faults(fault, status), *self._partial_files()]
        if not faults:
            faults += self._run_again(status)
        return Outcome(fault.name, hit, faults)

    def _run_disturbed(self, fault: Fault, draws: random.Random) -> tuple[int, bool]:
        if fault.kind == "kill":
            return self._run_killed(draws)
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

    def _run_killed(self, draws: random.Random) -> tuple[int, bool]:
        """Kill the command at a random instant; try again a few times if it had already finished."""
        for _ in range(_TRIES):
            self._restore()
            process = self._start()
            time.sleep(draws.random() * self._seconds)
            kill_tree(process)
            if process.returncode != 0:
                break
        return process.returncode or 0, process.returncode != 0

    def _exit_faults(self, fault: Fault, status: int) -> Iterator[str]:
        output = self._read_output()
        if fault.kind == "kill" and status < 0:
            return
        if "Traceback" in output or (status not in (0, 1) and error_class_for(status) is None):
            where = f" at a call to {self._shim.seen().kind}" if fault.kind == "call" else ""
            yield f"exit status {status}{where}: {output[-700:]}"
        elif status and "digits: " not in output:
            yield f"exit status {status} without a message: {output[-300:]}"

    def _partial_files(self) -> Iterator[str]:
        for path, content in self._snapshot().items():
            known = [tree[path] for tree in (self._before, self._after) if path in tree]
            if known and content not in known:
                yield f"after the fault {path} has neither its old nor its new content"

    def _run_again(self, status: int) -> Iterator[str]:
        found = self._snapshot()
        finished = all(found.get(path) == content for path, content in self._after.items())
        committed = self._workload.committed(self._place)
        if not (self._workload.once and finished):
            if again := self._start().wait():
                yield f"after {status} the second run exited with {again}: {self._read_output()[-700:]}"
                return
            reused = self._workload.reused(self._place, self._read_output())
            if committed is not None and reused != committed:
                yield f"{committed} were committed, but the second run reused {reused}"
        try:
            self._clean()
        except DigitsError as error:
            yield f"the janitor failed: {error}"
        yield from _differences(self._snapshot(), self._cleaned)


def _differences(found: Snapshot, expected: Snapshot) -> Iterator[str]:
    for path in sorted(found.keys() | expected.keys()):
        if path not in expected:
            yield f"{path} is left over"
        elif path not in found:
            yield f"{path} is missing"
        elif found[path] != expected[path]:
            yield f"{path} differs from that of an undisturbed run"


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
    """Limit the resources of this process, a copy, and of the processes that it starts."""
    if fault.kind == "readonly":
        _give_up_privileges()
    elif fault.kind == "nofile":
        os.close(free := os.dup(0))
        _set_limit(resource.RLIMIT_NOFILE, free + int(2 ** draws.uniform(0, 4.5)))  # at least one, for an import
    elif fault.kind == "fsize":
        _set_limit(resource.RLIMIT_FSIZE, int(2 ** draws.uniform(0, 18)))
    elif fault.kind == "as":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _set_limit(resource.RLIMIT_AS, pages * resource.getpagesize() + int(2 ** draws.uniform(12, 29)))


def _set_limit(kind: int, value: int) -> None:
    resource.setrlimit(kind, (value, value))


def _give_up_privileges() -> None:
    """Drop root's capabilities, so that permissions apply to this process and to those that it starts."""
    if os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    if libc.prctl(_SET_SECUREBITS, _NO_ROOT, 0, 0, 0) or libc.capset(header, none):
        sys.exit("root's capabilities cannot be dropped here, so root can write everywhere")
