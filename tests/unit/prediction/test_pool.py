"""Tests of the worker pool: the number of workers, their progress, and workers that fail."""

import dataclasses
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from digits.errors import DigitsError, ModelError, StoreError
from digits.model.onnx_model import OnnxModel
from digits.prediction import pool as pool_module
from digits.prediction import process as process_module
from digits.prediction.config import PredictionConfig
from digits.prediction.limits import Position, open_position_file, read_position
from digits.prediction.plan import Plan
from digits.prediction.planning import plan_predictions
from digits.prediction.pool import WorkerPool, run_workers, usable_cpus
from digits.prediction.process import WorkerProcess
from digits.prediction.worker import main, preload, run_worker
from digits.store.files import Lock, locked
from tests.support import faults
from tests.support.deadly_workers import DECODE, FAULTS, READ, disturb, has_content_of, kill_once
from tests.support.started_workers import count_starts
from tests.support.tiny_model import MakePictures, write_model

CPUS = len(os.sched_getaffinity(0))


class Steps:
    """Progress that counts."""

    def __init__(self) -> None:
        self.total = 0
        self.done: list[int] = []
        self.closed = False

    def start(self, label: str, total: int, *, part: tuple[int, int] = (0, 1)) -> "Steps":
        """Start."""
        assert label == "Predicting"
        self.total = total
        return self

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count."""
        self.done.append(steps)

    def close(self, note: str = "") -> None:
        """End."""
        self.closed = True


@pytest.fixture
def plan(tmp_path: Path, model: OnnxModel, make_pictures: MakePictures) -> Plan:
    """Twelve images in four shards."""
    folder = make_pictures(tmp_path / "in", 12)
    options = PredictionConfig(shard_size=3)
    return plan_predictions(folder, model=model, options=options, out=tmp_path / "p.csv", work=tmp_path / "work")


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    """Pool of three workers that end with the test."""
    with WorkerPool(3) as pool:
        yield pool


def write_quota(group: Path, **files: str) -> None:
    """Write a control group's files."""
    group.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (group / name.replace("_max", ".max").replace("cfs", "cpu.cfs")).write_text(text)


@pytest.mark.parametrize(
    ("lines", "quotas", "expected"),
    [
        ("0::/a/b\n", {"a/b": {"cpu_max": "100000 100000"}}, 1),
        ("0::/a/b\n", {"a": {"cpu_max": "50000 100000"}}, 1),
        ("0::/a\n", {"a": {"cpu_max": "max 100000"}}, CPUS),
        ("0::/a\n", {"a": {"cpu_max": "100000000 100000"}}, CPUS),
        ("0::/a\n", {}, CPUS),
        ("4:cpu,cpuacct:/a\n3:memory:/m\n", {"cpu,cpuacct/a": {"cfs_quota_us": "90000", "cfs_period_us": "100000"}}, 1),
        ("4:cpu:/a\n", {"cpu/a": {"cfs_quota_us": "-1", "cfs_period_us": "100000"}}, CPUS),
        ("4:memory:/a\n", {"memory/a": {"cfs_quota_us": "1", "cfs_period_us": "100000"}}, CPUS),
        ("0::/a\n", {"a": {"cpu_max": "nonsense"}}, CPUS),
    ],
)
def test_usable_cpus_respect_affinity_and_cgroup_quotas(
    tmp_path: Path, lines: str, quotas: dict[str, dict[str, str]], expected: int
) -> None:
    """The quotas of parent groups count, in both versions of control groups."""
    for group, files in quotas.items():
        write_quota(tmp_path / "groups" / group, **files)
    (tmp_path / "cgroup").write_text(lines)
    assert usable_cpus(groups=tmp_path / "groups", process=tmp_path / "cgroup") == expected


def test_usable_cpus_without_control_groups_are_the_affinity(tmp_path: Path) -> None:
    """As in a chroot."""
    assert usable_cpus(process=tmp_path / "nothing") == CPUS


def test_a_system_without_affinities_allows_all_cpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cpus(process=tmp_path / "nothing") == os.cpu_count()


def test_workers_predict_all_shards_and_report_every_image_once(plan: Plan, pool: WorkerPool) -> None:
    """Progress starts with the total and is closed at the end."""
    steps = Steps()
    run_workers(plan, pool, progress=steps)
    assert plan.pending_shards() == []
    assert (steps.total, sum(steps.done), steps.closed) == (12, 12, True)


def test_a_subset_of_shards_is_predicted_and_the_worker_is_reused(plan: Plan, pool: WorkerPool) -> None:
    """As by a task that predicts a group of shards."""
    steps = Steps()
    run_workers(plan, pool, shards=[1, 2], progress=steps)
    assert plan.pending_shards() == [0, 3]
    assert (steps.total, sum(steps.done)) == (6, 6)
    first = acquired(pool)
    pool.release(first)
    run_workers(plan, pool, shards=[0, 3])
    assert plan.pending_shards() == []
    again = acquired(pool)
    assert again is first
    pool.discard(again)


def acquired(pool: WorkerPool) -> WorkerProcess:
    """Acquire a worker."""
    worker = pool.acquire()
    assert worker is not None
    return worker


def test_tasks_that_share_a_pool_do_not_deadlock(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each asks for both workers, and there are more tasks than workers."""
    monkeypatch.setattr(pool_module, "IMAGES_PER_PROCESS", 1)
    with faults.at_most(300), WorkerPool(2) as pool, ThreadPoolExecutor(3) as threads:
        for _ in range(5):
            for job in [threads.submit(run_workers, plan, pool, shards=group) for group in ([0, 1], [2], [3])]:
                job.result()
            assert plan.pending_shards() == []
            for shard in plan.shards:
                plan.uncommit(shard)
        pool.release(acquired(pool))


def test_more_workers_start_only_for_many_images(plan: Plan, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prepared worker is used first."""
    started = count_starts(monkeypatch)
    pool.prepare(plan.source, plan.model)
    pool.prepare(plan.source.with_name("nothing"), plan.model)
    assert len(started) == 1
    run_workers(plan, pool)
    assert len(started) == 1
    for shard in plan.shards:
        plan.uncommit(shard)
    monkeypatch.setattr(pool_module, "IMAGES_PER_PROCESS", 5)
    pool.prepare(plan.source, plan.model)
    assert len(started) == 2
    monkeypatch.setattr(pool_module, "IMAGES_PER_PROCESS", 1)
    run_workers(plan, pool)
    assert len(started) == 3


def test_preload_loads_the_model_and_leaves_errors_to_the_first_shard(plan: Plan, tmp_path: Path) -> None:
    """After it, the first shard needs no file of the model."""
    directory = write_model(tmp_path / "another", seed=9)
    model = OnnxModel.load(directory, version=7)
    object.__setattr__(plan, "model", dataclasses.replace(model, digest="another digest"))
    preload(str(directory), 7, "another digest", photos=False)
    with pytest.raises(ModelError, match="replaced after the prediction was planned"):
        run_worker(plan)
    object.__setattr__(plan, "model", model)
    preload(str(directory), 7, model.digest, photos=False)
    model.onnx.unlink()
    assert run_worker(plan) == len(plan.shards)


def test_prepare_preloads_for_photos_if_the_folder_has_one(
    plan: Plan, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the extension of one of its first files."""
    preloaded: list[bool] = []
    monkeypatch.setattr(WorkerProcess, "preload", lambda *_, photos: preloaded.append(photos))
    pool.prepare(plan.source, plan.model)
    (plan.source / "photo.JPG").touch()
    pool.close()
    pool.prepare(plan.source, plan.model)
    assert preloaded == [False, True]


@pytest.mark.parametrize("photos", [True, False])
def test_preload_imports_opencv_only_for_photos(photos: bool) -> None:
    """Images in MNIST's form do not need it."""
    program = f"import sys; from digits.prediction.worker import preload; preload('no', 1, 'no', photos={photos})"
    found = subprocess.run(
        [sys.executable, "-c", f"{program}; print('cv2' in sys.modules)"], check=True, capture_output=True, text=True
    )
    assert found.stdout == f"{photos}\n"


def test_one_worker_serves_several_plans(
    plan: Plan, pool: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a process that runs many predictions."""
    started = count_starts(monkeypatch)
    run_workers(plan, pool)
    other = plan_predictions(
        plan.source, model=plan.model, options=PredictionConfig(), out=tmp_path / "q.csv", work=tmp_path / "work"
    )
    run_workers(other, pool)
    assert (plan.pending_shards(), other.pending_shards(), len(started)) == ([], [], 1)


def test_the_error_of_a_worker_is_raised_with_its_message(plan: Plan, pool: WorkerPool, tmp_path: Path) -> None:
    """Here the model was removed after planning."""
    object.__setattr__(plan, "model", OnnxModel(**{**vars(plan.model), "onnx": tmp_path / "gone" / "model.onnx"}))
    plan.write()
    steps = Steps()
    with pytest.raises(ModelError, match=r"^.*gone: expected an exported model"):
        run_workers(plan, pool, progress=steps)
    assert steps.closed


def test_a_worker_that_cannot_start_is_an_error(plan: Plan, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the system's reason."""
    monkeypatch.setattr(process_module.sys, "executable", str(plan.path / "no-python"))  # type: ignore[attr-defined]
    with pytest.raises(StoreError, match=r"worker process: could not be started \(No such file"):
        run_workers(plan, pool)


def predict_undisturbed(plan: Plan, status: str) -> list[list[str]]:
    """Return the rows of each shard, predicted without a fault; make all shards pending again.

    The time limit is short where an image is to exceed it.
    """
    run_worker(plan)
    expected = [plan.part_path(shard, ".part").read_text().splitlines() for shard in plan.shards]
    for shard in plan.shards:
        plan.uncommit(shard)
    object.__setattr__(plan, "options", plan.options._replace(max_seconds=1.5 if status == "timeout" else 600))
    plan.write()
    return expected


@pytest.mark.parametrize("status", FAULTS)
def test_a_deadly_image_gets_a_status_and_leaves_all_other_rows_unchanged(
    plan: Plan, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It crashes its process, never ends, or allocates too much memory."""
    expected = predict_undisturbed(plan, status)
    disturb(monkeypatch, DECODE, has_content_of(plan.source / "0004.png"), FAULTS[status])
    steps = Steps()
    run_workers(plan, pool, progress=steps)
    found = [plan.part_path(shard, ".part").read_text().splitlines() for shard in plan.shards]
    bad = found[1].pop(1)
    expected[1].pop(1)
    assert found == expected
    path, prediction, confidence, found_status, error, *_, digest, _, _, _ = bad.split(",")
    assert (path, prediction, confidence, found_status) == ("0004.png", "", "", status)
    assert error
    assert digest == hashlib.sha256((plan.source / "0004.png").read_bytes()).hexdigest()
    assert sum(steps.done) == 12
    assert caplog.text.count("at 0004.png") == (0 if status == "too-large" else 2)
    if status != "too-large":
        before = plan.part_path(1, ".part").read_bytes()
        plan.uncommit(1)
        run_worker(plan)  # the image is not decoded again
        assert plan.part_path(1, ".part").read_bytes() == before


@pytest.mark.parametrize("status", ["crashed", "timeout"])
def test_a_file_that_cannot_even_be_read_gets_a_status(
    plan: Plan, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its hash is unknown, and no worker reads it again. The other rows are those of an undisturbed run."""
    expected = predict_undisturbed(plan, status)
    disturb(monkeypatch, READ, "arguments[1].path == b'0004.png'", FAULTS[status])
    run_workers(plan, pool)
    found = [plan.part_path(shard, ".part").read_text().splitlines() for shard in plan.shards]
    path, prediction, confidence, found_status, error, *_, digest, _, version, page = found[1].pop(1).split(",")
    expected[1].pop(1)
    assert found == expected
    assert (path, prediction, confidence, found_status, digest, page) == ("0004.png", "", "", status, "", "")
    assert (error, version) != ("", "")
    assert caplog.text.count("at 0004.png;") == 2


def test_an_image_is_predicted_after_one_death_of_a_worker(
    plan: Plan, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program may have killed the worker."""
    once = plan.path / "once"
    disturb(monkeypatch, DECODE, has_content_of(plan.source / "0004.png"), kill_once(once))
    run_workers(plan, pool)
    assert all(
        ",ok," in line for shard in plan.shards for line in plan.part_path(shard, ".part").read_text().splitlines()
    )
    assert once.exists()


@pytest.mark.parametrize("code", ["os.kill(os.getpid(), 9)", "raise RuntimeError('strange')"])
def test_workers_that_keep_dying_between_images_are_an_error(
    plan: Plan, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """No image is recorded as failed, and the number of attempts is limited."""
    program = f"import os, sys\nfor line in sys.stdin:\n    os.write(1, b'.' * 30)\n    {code}"
    monkeypatch.setattr(process_module, "WORKER_PROGRAM", program)
    with pytest.raises(
        DigitsError, match=r"a worker process (was killed by signal 9|failed \(1\)).*; 4 workers have died"
    ):
        run_workers(plan, pool)
    assert plan.pending_shards() == [0, 1, 2, 3]
    assert not list(plan.path.glob("parts/*.blame"))


def test_a_damaged_record_of_failed_images_counts_as_empty(plan: Plan) -> None:
    """The failed images will be found again."""
    plan.record_failure(1, Position(2, page=3), "crashed")
    plan.record_failure(1, Position(0), "timeout")
    assert plan.failed_images(1) == {Position(0): "timeout", Position(2, page=3): "crashed"}
    plan.part_path(1, ".blame").write_text("{}")
    assert plan.failed_images(1) == {}
    assert plan.failed_images(0) == {}


def test_run_workers_waits_for_shards_of_other_processes(
    plan: Plan, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claimed shard is not predicted twice."""
    with plan.claim(2) as mine:
        assert mine
        assert run_worker(plan) == 3
        assert plan.pending_shards() == [2]
        monkeypatch.setattr(
            "digits.prediction.pool.time.sleep", lambda _: plan.part_path(2, ".json").write_text("by another")
        )
        run_workers(plan, pool)


def test_a_shard_that_is_committed_just_before_it_is_locked_cannot_be_claimed(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process was faster."""

    @contextmanager
    def locked_late(path: Path, *, wait: bool) -> Iterator[Lock]:
        plan.part_path(0, ".json").write_text("by another")
        with locked(path, wait=wait) as lock:
            yield lock

    monkeypatch.setattr("digits.prediction.plan.locked", locked_late)
    with plan.claim(0) as mine:
        assert not mine


def test_ctrl_c_ends_busy_and_idle_workers(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker outlives its pool."""
    started = count_starts(monkeypatch)
    monkeypatch.setattr(pool_module, "IMAGES_PER_PROCESS", 1)

    class Interrupt(Steps):
        def advance(self, steps: int = 1, note: str = "") -> None:
            raise KeyboardInterrupt

    with WorkerPool(3) as pool:
        pool.prepare(plan.source, plan.model)
        with pytest.raises(KeyboardInterrupt):
            run_workers(plan, pool, progress=Interrupt())
    assert [worker.exit_code for worker in started] == [-signal.SIGKILL] * 3


def test_closing_the_pool_from_another_thread_stops_run_workers(
    plan: Plan, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raises an error that says how to resume; no shard is committed."""
    monkeypatch.setattr(process_module, "WORKER_PROGRAM", "import time; time.sleep(600)")
    started = count_starts(monkeypatch)
    errors: list[str] = []

    def work() -> None:
        try:
            run_workers(plan, pool)
        except StoreError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    while not started:
        time.sleep(0.01)
    pool.close()
    thread.join(120)
    assert errors == ["the prediction was stopped; run the same command again to resume it"]
    assert plan.pending_shards() == [0, 1, 2, 3]


def test_a_worker_that_starts_while_the_pool_is_closed_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise its job would go on after Ctrl-C."""
    pool, real = WorkerPool(1), pool_module.take_worker

    def take_late() -> WorkerProcess:
        worker = real()
        pool.close()
        return worker

    monkeypatch.setattr(process_module, "WORKER_PROGRAM", "import time; time.sleep(600)")
    monkeypatch.setattr(pool_module, "take_worker", take_late)
    worker = acquired(pool)
    with faults.at_most(120):
        assert worker.collect_exit()[0] == -signal.SIGKILL
    pool.discard(worker)


def test_a_removed_plan_is_no_work_and_no_error(plan: Plan, pool: WorkerPool) -> None:
    """Another run has published its table."""
    worker = acquired(pool)
    plan.path.rename(plan.path.with_name("elsewhere"))
    run_workers(plan, pool)
    assert run_worker(plan) == 0
    worker.start_shard(plan, 0)
    assert worker.collect_exit() == (0, None, "")
    pool.discard(worker)


def test_a_plan_that_is_removed_during_run_workers_is_no_error(
    plan: Plan, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the worker nor in the parent."""
    gone = plan.path.with_name("gone")
    program = f"import os, sys; sys.stdin.readline(); os.rename({str(plan.path)!r}, {str(gone)!r})"
    monkeypatch.setattr(process_module, "WORKER_PROGRAM", program)
    run_workers(plan, pool)


def test_the_worker_module_imports_no_heavy_libraries() -> None:
    """Each worker process would need their time and memory."""
    heavy = "{'pydantic', 'pandas', 'pyarrow', 'prefect', 'keras', 'tensorflow', 'scipy', 'rich'}"
    program = f"import sys, digits.prediction.worker; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"[]\n"


@pytest.fixture
def position() -> Iterator[BinaryIO]:
    """File in which a worker records the number of its image."""
    with open_position_file() as file:
        yield file


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, position: BinaryIO) -> Callable[..., int]:
    """Return a function that runs the worker's main in this process with some requests, without a memory limit."""
    monkeypatch.setattr("digits.prediction.limits.ImageLimits.limit_memory", lambda _: None)

    def ask(*requests: tuple[Path, int]) -> int:
        asked = [{"plan": str(path), "shard": shard} for path, shard in requests]
        lines = b"".join(json.dumps(request).encode() + b"\n" for request in asked)
        monkeypatch.setattr("digits.prediction.worker.sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
        return main([str(position.fileno())])

    return ask


@pytest.fixture(autouse=True)
def ignored_interrupts() -> Iterator[None]:
    """Restore the handler of Ctrl-C, which a worker replaces."""
    handler: Callable[..., object] | int | None = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def test_a_worker_process_reports_every_image_and_every_shard(
    plan: Plan, asked: Callable[..., int], position: BinaryIO, capfd: pytest.CaptureFixture[str]
) -> None:
    """One byte per image, one mark per shard. It ignores Ctrl-C and ends without an error when a plan is gone."""
    with plan.claim(2):
        assert asked((plan.path, 1), (plan.path, 2), (plan.path, 3)) == 0
    assert plan.pending_shards() == [0, 2]
    assert capfd.readouterr().out == "...\n-...\n"
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert read_position(position) is None
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert asked((plan.path.with_name("gone"), 0)) == 0


def test_a_worker_ends_when_its_parent_is_gone(
    plan: Plan, asked: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pipe is broken."""

    def write(descriptor: int, content: bytes) -> int:
        if descriptor == 1:
            raise BrokenPipeError
        return real(descriptor, content)

    real = os.write
    monkeypatch.setattr(os, "write", write)
    assert asked((plan.path, 0)) == 0
    assert plan.pending_shards() == [0, 1, 2, 3]


def test_a_failing_worker_prints_one_sentence_and_exits_with_the_code_of_the_error(
    plan: Plan, asked: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    """Without a traceback."""
    plan.source.rename(plan.source.with_name("moved"))
    assert asked((plan.path, 0)) == StoreError.exit_code
    assert "the prediction stopped (No such file or directory)" in capfd.readouterr().err
