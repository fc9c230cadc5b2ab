"""Worker pool: processes that predict the shards of a plan, each a fresh interpreter with few imports.

An image that crashes its decoder ends one worker process, not the program. When two workers have died at the same
image, its row gets the status `crashed` or `timeout`, and no worker decodes it again.
"""

import logging
import os
import selectors
import signal
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from math import ceil
from pathlib import Path
from threading import BoundedSemaphore
from typing import Self

from digits.errors import DigitsError, StoreError, error_class_for
from digits.images.folder import escape_path
from digits.model.onnx_model import OnnxModel
from digits.outputs.summary import name_page
from digits.prediction.limits import Position
from digits.prediction.plan import Plan
from digits.prediction.process import WorkerProcess, take_worker
from digits.prediction.worker import DONE, TAKEN
from digits.progress import SILENT, Bar, Progress

IMAGES_PER_PROCESS = 512
"""Number of images that justify another worker process: predicting them takes about as long as starting one."""

_MAX_DEATHS_PER_IMAGE = 2
_MAX_FAILED_ATTEMPTS = 4
"""Number of deaths at a shard, since the last image that was recorded as failed, that end the prediction."""
_POLL_SECONDS = 0.1
_PHOTO_EXTENSIONS = (".jpg", ".jpeg")
logger = logging.getLogger(__name__)


def usable_cpus(*, groups: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> int:
    """Return the number of CPUs this process may use, from its affinity and the CPU quotas of its control groups.

    A system without affinities, such as macOS, allows all CPUs of the machine.

    Args:
        groups: directory in which the control groups are mounted, version 1 or 2.
        process: file that lists the control groups of this process.
    """
    quotas = [_quota(group) for group in _groups_of(groups, process)]
    allowed = min((quota for quota in quotas if quota is not None), default=float("inf"))
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, ceil(min(allowed, 1e6))))


def _groups_of(groups: Path, process: Path) -> Iterator[Path]:
    """Yield the directories of the process's control groups and of their parents, in the layout of either version."""
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


class WorkerPool:
    """Pool of worker processes that are reused from one job to the next. Thread-safe.

    Args:
        size: largest number of acquired workers; None for the number of usable CPUs.
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

    def prepare(self, source: Path, model: OnnxModel) -> None:
        """Start workers for a folder, so that they load the model while the folder is listed.

        The first entries of the folder determine the number of workers and whether they load the libraries for photos.
        """
        with suppress(OSError), os.scandir(source) as entries:
            names = [entry.name.lower() for entry in islice(entries, self.size * IMAGES_PER_PROCESS)]
            photos = any(name.endswith(_PHOTO_EXTENSIONS) for name in names)
            for _ in range(max(1, len(names) // IMAGES_PER_PROCESS) - len(self._idle)):
                self._idle.append(take_worker())
                self._idle[-1].preload(model, photos=photos)

    def acquire(self, *, wait: bool = True) -> WorkerProcess | None:
        """Return an idle worker or a new one; pass it to `release` or `discard` afterwards.

        Args:
            wait: whether to wait while `size` workers are acquired; if not, the result is None in that case. A thread
                that holds a worker must not wait: two such threads would wait for each other.

        Raises:
            StoreError: if the pool is closed or no process can be started.
        """
        if not self._free.acquire(blocking=wait):
            return None
        try:
            worker = self._take()
        except BaseException:
            self._free.release()
            raise
        self._acquired.add(worker)
        if self.closed:  # while the worker was being started
            worker.kill()
        return worker

    def _take(self) -> WorkerProcess:
        if self.closed:
            raise StoreError("the prediction was stopped; run the same command again to resume it")
        return self._idle.popleft() if self._idle else take_worker()

    def release(self, worker: WorkerProcess) -> None:
        """Put a worker that is alive and has nothing to do back into the pool."""
        self._acquired.remove(worker)
        self._idle.append(worker)
        self._free.release()

    def discard(self, worker: WorkerProcess) -> None:
        """End an acquired worker, dead or alive."""
        self._acquired.remove(worker)
        worker.close()
        self._free.release()

    def close(self) -> None:
        """End all workers. A thread that waits for a worker finds it dead, and cannot acquire another."""
        self.closed = True
        for worker in tuple(self._acquired):
            worker.kill()
        while self._idle:
            self._idle.pop().close()


def run_workers(
    plan: Plan,
    pool: WorkerPool,
    *,
    shards: Iterable[int] | None = None,
    progress: Progress = SILENT,
) -> None:
    """Predict the shards of a plan until each is committed, by this run or by another run of the same plan.

    Args:
        plan: plan to work on; shards that are committed are not predicted again.
        pool: pool that supplies the workers.
        shards: numbers of the shards to predict; None for all.
        progress: receiver of the number of predicted images, including those that were predicted before.

    Raises:
        DigitsError: if a worker reports an error, or workers keep dying at the same shard. Committed shards stay.
    """
    wanted = plan.shards if shards is None else tuple(shards)
    total = sum(map(plan.images_in, wanted))
    bar = _ImageCounter(progress.start("Predicting", total), total)
    job = _Job(plan, pool, bar)
    try:
        while plan.exists() and (pending := [shard for shard in wanted if not plan.is_committed(shard)]):
            bar.recount(sum(map(plan.images_in, pending)))
            if free := free_shards(plan, pending):
                job.predict(free)
            else:
                time.sleep(_POLL_SECONDS)
        bar.recount(0)
    finally:
        bar.close()


def free_shards(plan: Plan, pending: Sequence[int]) -> list[int]:
    """Return those pending shards that no process works on; none if another run has just published the table."""
    try:
        return [shard for shard in pending if plan.is_free(shard)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(
            f"{error.filename or plan.path}: the prediction cannot continue ({error.strerror}); "
            "fix that and run the same command again to resume it"
        ) from error


class _Job:
    """Job: shards of one plan, and the workers of a pool that predict them."""

    def __init__(self, plan: Plan, pool: WorkerPool, bar: "_ImageCounter") -> None:
        self._plan, self._pool, self._bar = plan, pool, bar
        self._todo: deque[int] = deque()
        self._busy: set[WorkerProcess] = set()
        self._deaths: Counter[tuple[int, Position]] = Counter()
        self._failed_attempts: Counter[int] = Counter()

    def predict(self, shards: Iterable[int]) -> None:
        """Send each shard to a worker once, and wait until the workers have finished or died."""
        self._todo.extend(shards)
        images = sum(map(self._plan.images_in, self._todo))
        count = min(self._pool.size, len(self._todo), -(-images // IMAGES_PER_PROCESS))
        try:
            while self._todo or self._busy:
                while self._todo and len(self._busy) < count and (worker := self._pool.acquire(wait=not self._busy)):
                    self._busy.add(worker)
                    worker.start_shard(self._plan, self._todo.popleft())
                self._read_messages()
        finally:
            while self._busy:
                self._pool.discard(self._busy.pop())

    def _read_messages(self) -> None:
        """Wait until a worker has written something, and handle it."""
        with selectors.DefaultSelector() as selector:
            for worker in self._busy:
                selector.register(worker, selectors.EVENT_READ, worker)
            for key, _ in selector.select():
                self._handle_message(key.data, os.read(key.fd, 65536))

    def _handle_message(self, worker: WorkerProcess, message: bytes) -> None:
        self._bar.advance(message.count(b"."))
        if message.endswith((DONE, TAKEN)):
            if self._todo:
                worker.start_shard(self._plan, self._todo.popleft())
            else:
                self._busy.remove(worker)
                self._pool.release(worker)
        elif not message:
            self._busy.remove(worker)
            self._handle_death(worker)

    def _handle_death(self, worker: WorkerProcess) -> None:
        """Find out why a worker died, and raise the error it reported, if any; its shard is pending again."""
        code, position, output = worker.collect_exit()
        self._pool.discard(worker)
        if code == 0 or self._pool.closed:  # another run has published the table, or the pool was closed
            return
        kind = error_class_for(code)
        if kind is not None:
            raise kind(output)
        shard = worker.shard
        event = f"a worker process {f'was killed by signal {-code}' if code < 0 else f'failed ({code})'}"
        if position is not None:
            path = escape_path(self._plan.entries(shard)[position.number].path)
            event += f" at {name_page(path, position.page if position.page > 0 else None)}"
            self._count_death(shard, position, by_timer=code == -signal.SIGALRM)
        self._failed_attempts[shard] += 1
        if self._failed_attempts[shard] >= _MAX_FAILED_ATTEMPTS:
            raise DigitsError(
                f"{event}; {_MAX_FAILED_ATTEMPTS} workers have died at the same shard of images; check that there is "
                f"enough memory, then run the same command again to resume the prediction. {output}".strip()
            )
        logger.warning("%s; another worker predicts its images. %s", event, output)

    def _count_death(self, shard: int, position: Position, *, by_timer: bool) -> None:
        """Count a death at an image, and record the image as failed at the second; the first may have another cause."""
        self._deaths[shard, position] += 1
        if self._deaths[shard, position] >= _MAX_DEATHS_PER_IMAGE:
            self._plan.record_failure(shard, position, "timeout" if by_timer else "crashed")
            del self._failed_attempts[shard]


class _ImageCounter:
    """Progress bar that counts each image once, although images of a worker that died are predicted twice."""

    def __init__(self, bar: Bar, total: int) -> None:
        self._bar, self._total = bar, total
        self._shown = self._done = 0

    def recount(self, pending: int) -> None:
        self._done = self._total - pending
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
