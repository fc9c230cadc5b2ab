"""Worker processes: as many as there are CPUs for us, each a fresh interpreter that loads only what it needs."""

import logging
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import IO

from digits.errors import DigitsError
from digits.plans import Plan
from digits.progress import SILENT, Bar, Progress
from digits.shards import run_worker

IN_PROCESS = 512
"""A plan of at most so many images is carried out here: another interpreter would take longer to start."""

_PATIENCE = 0.1
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from digits.shards import main; sys.exit(main(sys.argv[2:]))"
logger = logging.getLogger(__name__)


def usable_cpus(*, groups: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> int:
    """Count the CPUs that this process may use: its affinity, and the quota of its control groups."""
    quotas = [_quota(group) for group in _groups_of(groups, process)]
    allowed = min((quota for quota in quotas if quota is not None), default=float("inf"))
    return max(1, min(len(os.sched_getaffinity(0)), ceil(min(allowed, 1e6))))


def _groups_of(groups: Path, process: Path) -> Iterator[Path]:
    """Give the directories of the process's control groups, those above them too, in both versions' layouts."""
    try:
        lines = process.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for base in (groups / controllers, groups / "cpu") if controllers else (groups,):
            group = base / path.lstrip("/")
            yield from (place for place in (group, *group.parents) if place.is_relative_to(base))


def _quota(group: Path) -> float | None:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def run_workers(plan: Plan, *, processes: int | None = None, progress: Progress = SILENT) -> None:
    """Carry out a plan until every shard is committed, by us or by another run of it.

    Args:
        plan: what was committed before is not done again.
        processes: workers at once; as many as there are usable CPUs when None.
        progress: is told of images, those that were done before included.

    Raises:
        DigitsError: a worker failed, and none made progress; what is committed stays.
    """
    bar = _Counted(progress.start("Predicting", plan.images), plan)
    try:
        while plan.exists() and (waiting := plan.waiting()):
            bar.recount(waiting)
            committed = _work(plan, waiting, processes or usable_cpus(), bar)
            if not committed:
                time.sleep(_PATIENCE)
        bar.recount([])
    finally:
        bar.close()


def _work(plan: Plan, waiting: list[int], processes: int, bar: "_Counted") -> bool:
    """Have the waiting shards done once over; tell whether any of them was committed."""
    free = [shard for shard in waiting if plan.is_free(shard)]
    if sum(map(plan.rows_of, free)) <= IN_PROCESS:
        return bool(free) and run_worker(plan, free[0], tick=bar.advance) > 0
    count = min(processes, len(free))
    starts = [free[len(free) * k // count] for k in range(count)]
    with _spawned(plan, starts) as workers:
        _listen(workers, bar)
        complaints = [worker.complaint() for worker in workers if worker.process.wait() != 0]
    committed = len(plan.waiting()) < len(waiting) or not plan.exists()
    if complaints and not committed:
        raise DigitsError(complaints[0])
    for complaint in complaints:
        logger.warning("%s; its shard is tried again", complaint)
    return committed


class _Counted:
    """A bar that is told of each image once, although a worker that failed may have done some in vain."""

    def __init__(self, bar: Bar, plan: Plan) -> None:
        self._bar, self._plan = bar, plan
        self._shown = self._done = 0

    def recount(self, waiting: list[int]) -> None:
        self._done = self._plan.images - sum(map(self._plan.rows_of, waiting))
        self._show()

    def advance(self, count: int) -> None:
        self._done += count
        self._show()

    def _show(self) -> None:
        more = min(self._done, self._plan.images) - self._shown
        if more > 0:
            self._shown += more
            self._bar.advance(more)

    def close(self) -> None:
        self._bar.close()


@dataclass(frozen=True)
class _Spawned:
    process: subprocess.Popen[bytes]
    errors: IO[bytes]

    def complaint(self) -> str:
        """Say how a worker failed."""
        self.errors.seek(0)
        words = self.errors.read().decode(errors="replace").strip()[-2000:]
        code = self.process.returncode
        return f"a worker process {f'was killed by signal {-code}' if code < 0 else f'failed ({code})'}: {words}"


@contextmanager
def _spawned(plan: Plan, starts: list[int]) -> Iterator[list[_Spawned]]:
    """Start worker processes; none of them outlives the block."""
    workers: list[_Spawned] = []
    try:
        for start in starts:
            workers.append(_spawn(plan, start))  # noqa: PERF401 - those started before a failure must be ended too
        yield workers
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.communicate()
            worker.errors.close()


def _spawn(plan: Plan, start: int) -> _Spawned:
    package = Path(__file__).parents[1]
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `_spawned`
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _PROGRAM, package, plan.path, str(start)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )
    return _Spawned(process, errors)


def _listen(workers: list[_Spawned], bar: _Counted) -> None:
    """Count the bytes that workers write, until each has closed its end."""
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker.process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
        while selector.get_map():
            for key, _ in selector.select():
                told = os.read(key.fd, 65536)
                bar.advance(len(told))
                if not told:
                    selector.unregister(key.fileobj)
