"""Worker processes: as many as there are CPUs for us, each a fresh interpreter that loads only what it needs.

An image that kills its decoder kills a worker, not us. It is blamed when two have died at it, and costs its own row.
"""

import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from math import ceil
from pathlib import Path
from threading import BoundedSemaphore
from typing import Self

from digits.errors import DigitsError, StoreError, error_of, os_errors_as
from digits.images.folder import escape_path
from digits.model.onnx_model import ModelFiles
from digits.prediction.limits import open_position_file, read_position
from digits.prediction.plan import Plan
from digits.prediction.worker import DONE, TAKEN
from digits.progress import SILENT, Bar, Progress

IMAGES_PER_PROCESS = 512
"""So many images take about as long as the start of a further interpreter."""

_DEATHS_AT_AN_IMAGE = 2
_DEATHS_IN_VAIN = 4
_PATIENCE = 0.1
_PHOTOS = (".jpg", ".jpeg")
_PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); from digits.prediction.worker import main; sys.exit(main(sys.argv[2:]))"
)
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


class WorkerProcess:
    """An interpreter that carries out shards, one after the other, until its standard input is closed."""

    def __init__(self) -> None:
        self.shard = -1
        with ExitStack() as files:
            self._mark, self._errors = (
                files.enter_context(open_position_file()),
                files.enter_context(tempfile.TemporaryFile()),
            )
            mark = self._mark.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, Path(__file__).parents[2], str(mark)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                pass_fds=(mark,),
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
            self._files = files.pop_all()

    def fileno(self) -> int:
        """Where it tells how far it is."""
        return self._process.stdout.fileno()  # type: ignore[union-attr]

    def begin(self, plan: Plan, shard: int) -> None:
        """Have it carry out a shard; that it has died meanwhile is found when it is listened to."""
        self.shard = shard
        self._ask({"plan": str(plan.path), "shard": shard})

    def preload(self, model: ModelFiles, *, photos: bool) -> None:
        """Have it load a model, and what photos need, before there is a plan."""
        self._ask({"model": [str(model.directory), model.version, model.digest], "photos": photos})

    def _ask(self, request: Mapping[str, object]) -> None:
        with suppress(BrokenPipeError):
            os.write(self._process.stdin.fileno(), json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]

    def collect_exit(self) -> tuple[int, int | None, str]:
        """Give the exit code of one that has died, the number of the image that it was at, and its last words."""
        code, number = self._process.wait(), read_position(self._mark)
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip()[-2000:]
        return code, number, words

    def kill(self) -> None:
        """Kill it; whoever listens to it will notice."""
        self._process.kill()

    def end(self) -> None:
        """Kill it, and forget it."""
        self._process.kill()
        self._process.communicate()
        self._files.close()


class WorkerPool:
    """Worker processes that are kept from one piece of work to the next; several threads may use it.

    Args:
        most: processes at work at once; None: as many as there are usable CPUs.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size or usable_cpus()
        self.closed = False
        self._free = BoundedSemaphore(self.size)
        self._idle: deque[WorkerProcess] = deque()
        self._acquired: set[WorkerProcess] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prepare(self, source: Path, model: ModelFiles) -> None:
        """Start the workers that a folder will want, by a glance at it: while it is listed they load what they need."""
        with suppress(OSError), os.scandir(source) as entries:
            names = [entry.name.lower() for entry in islice(entries, self.size * IMAGES_PER_PROCESS)]
            photos = any(name.endswith(_PHOTOS) for name in names)
            for _ in range(max(1, len(names) // IMAGES_PER_PROCESS) - len(self._idle)):
                self._idle.append(_start())
                self._idle[-1].preload(model, photos=photos)

    def acquire(self, *, wait: bool = True) -> WorkerProcess | None:
        """Take an idle worker, or a new one; `keep` or `lose` it afterwards.

        Args:
            wait: until another worker may be at work; else the answer may be None. Nobody may wait who has one: two
                of those would wait for each other.

        Raises:
            StoreError: the crew was dismissed, or no process can be started.
        """
        if not self._free.acquire(blocking=wait):
            return None
        try:
            worker = self._take()
        except BaseException:
            self._free.release()
            raise
        self._acquired.add(worker)
        return worker

    def _take(self) -> WorkerProcess:
        if self.closed:
            raise StoreError("the prediction was stopped; the same command goes on from what is finished")
        return self._idle.popleft() if self._idle else _start()

    def release(self, worker: WorkerProcess) -> None:
        """Take a worker back that has nothing to do."""
        self._acquired.remove(worker)
        self._idle.append(worker)
        self._free.release()

    def discard(self, worker: WorkerProcess) -> None:
        """End a worker, if it has not died before."""
        self._acquired.remove(worker)
        worker.end()
        self._free.release()

    def close(self) -> None:
        """End all workers; those who listen to one find it dead, and can't hire another."""
        self.closed = True
        for worker in tuple(self._acquired):
            worker.kill()
        while self._idle:
            self._idle.pop().end()


def _start() -> WorkerProcess:
    remedy = "fix that and run the same command again: it resumes from what is finished"
    with os_errors_as(StoreError, "worker process", "could not be started", remedy):
        return WorkerProcess()


def run_workers(
    plan: Plan,
    crew: WorkerPool,
    *,
    shards: Iterable[int] | None = None,
    progress: Progress = SILENT,
) -> None:
    """Carry out a plan, or some shards of it, until each is committed, by us or by another run of it.

    Args:
        plan: what was committed before is not done again.
        crew: where workers are taken from, and given back to.
        shards: all when None.
        progress: is told of images, those that were done before included.

    Raises:
        DigitsError: a worker could not go on, or they keep dying; what is committed stays.
    """
    wanted = plan.shards if shards is None else tuple(shards)
    total = sum(map(plan.images_in, wanted))
    bar = _Counted(progress.start("Predicting", total), total)
    job = _Job(plan, crew, bar)
    try:
        while plan.exists() and (waiting := [shard for shard in wanted if not plan.is_committed(shard)]):
            bar.recount(sum(map(plan.images_in, waiting)))
            if free := _free(plan, waiting):
                job.carry_out(free)
            else:
                time.sleep(_PATIENCE)
        bar.recount(0)
    finally:
        bar.close()


def _free(plan: Plan, waiting: Sequence[int]) -> list[int]:
    """Give those of some shards that nobody is at; none when another run has just carried the plan out."""
    try:
        return [shard for shard in waiting if plan.is_free(shard)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(
            f"{error.filename or plan.path}: the prediction can't go on ({error.strerror}); "
            "mend that and run the same command again: it goes on from what is finished"
        ) from error


class _Job:
    """A plan, and the workers of a crew that are at it."""

    def __init__(self, plan: Plan, crew: WorkerPool, bar: "_Counted") -> None:
        self._plan, self._crew, self._bar = plan, crew, bar
        self._todo: deque[int] = deque()
        self._busy: set[WorkerProcess] = set()
        self._deaths: Counter[tuple[int, int]] = Counter()
        self._failed_attempts: Counter[int] = Counter()

    def carry_out(self, shards: Iterable[int]) -> None:
        """Give each shard to a worker, once."""
        self._todo.extend(shards)
        images = sum(map(self._plan.images_in, self._todo))
        count = min(self._crew.size, len(self._todo), -(-images // IMAGES_PER_PROCESS))
        try:
            while self._todo or self._busy:
                while self._todo and len(self._busy) < count and (worker := self._crew.acquire(wait=not self._busy)):
                    self._busy.add(worker)
                    worker.begin(self._plan, self._todo.popleft())
                self._listen()
        finally:
            while self._busy:
                self._crew.discard(self._busy.pop())

    def _listen(self) -> None:
        """Wait until any worker tells something."""
        with selectors.DefaultSelector() as selector:
            for worker in self._busy:
                selector.register(worker, selectors.EVENT_READ, worker)
            for key, _ in selector.select():
                self._hear(key.data, os.read(key.fd, 65536))

    def _hear(self, worker: WorkerProcess, told: bytes) -> None:
        self._bar.advance(told.count(b"."))
        if told.endswith((DONE, TAKEN)):
            if self._todo:
                worker.begin(self._plan, self._todo.popleft())
            else:
                self._busy.remove(worker)
                self._crew.release(worker)
        elif not told:
            self._busy.remove(worker)
            self._handle_death(worker)

    def _handle_death(self, worker: WorkerProcess) -> None:
        """Find out why a worker died; its shard is waiting again."""
        code, number, words = worker.collect_exit()
        self._crew.discard(worker)
        if code == 0 or self._crew.closed:  # the plan is gone, as another run has carried it out, or we are to stop
            return
        kind = error_of(code)
        if kind is not None:
            raise kind(words)
        shard = worker.shard
        fate = f"a worker process {f'was killed by signal {-code}' if code < 0 else f'failed ({code})'}"
        if number is not None:
            fate += f" at {escape_path(self._plan.entries(shard)[number].path)}"
            self._suspect(shard, number, by_timer=code == -signal.SIGALRM)
        self._failed_attempts[shard] += 1
        if self._failed_attempts[shard] >= _DEATHS_IN_VAIN:
            raise DigitsError(f"{fate}, the last of {_DEATHS_IN_VAIN} to die at the same images. {words}".strip())
        logger.warning("%s; its images are taken up again. %s", fate, words)

    def _suspect(self, shard: int, number: int, *, by_timer: bool) -> None:
        """Blame an image when this was not the first worker to die at it: the first may have been killed by others."""
        self._deaths[shard, number] += 1
        if self._deaths[shard, number] >= _DEATHS_AT_AN_IMAGE:
            self._plan.record_failure(shard, number, "timeout" if by_timer else "crashed")
            del self._failed_attempts[shard]


class _Counted:
    """A bar that is told of each image once, although a worker that died may have done some in vain."""

    def __init__(self, bar: Bar, total: int) -> None:
        self._bar, self._total = bar, total
        self._shown = self._done = 0

    def recount(self, waiting: int) -> None:
        self._done = self._total - waiting
        self._show()

    def advance(self, count: int) -> None:
        self._done += count
        self._show()

    def _show(self) -> None:
        more = min(self._done, self._total) - self._shown
        if more > 0:
            self._shown += more
            self._bar.advance(more)

    def close(self) -> None:
        self._bar.close()
