"""Worker processes: how many, what is told of them, and what becomes of those that fail."""

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
from digits.model.onnx_model import ModelFiles
from digits.prediction import pool as pool_module
from digits.prediction.config import PredictionConfig
from digits.prediction.limits import open_position_file, read_position
from digits.prediction.plan import Plan
from digits.prediction.planning import plan_predictions
from digits.prediction.pool import WorkerPool, WorkerProcess, run_workers, usable_cpus
from digits.prediction.worker import main, preload, run_worker
from digits.store.files import Lock, locked
from tests.support import faults
from tests.support.tiny_model import MakePictures, write_model

CPUS = len(os.sched_getaffinity(0))


class Steps:
    """Progress that is only counted."""

    def __init__(self) -> None:
        self.total = 0
        self.done: list[int] = []
        self.closed = False

    def start(self, label: str, total: int, *, part: tuple[int, int] = (0, 1)) -> "Steps":
        """Begin."""
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
def plan(tmp_path: Path, model: ModelFiles, make_pictures: MakePictures) -> Plan:
    """Twelve images in four shards."""
    folder = make_pictures(tmp_path / "in", 12)
    options = PredictionConfig(shard_size=3)
    return plan_predictions(folder, model=model, options=options, out=tmp_path / "p.csv", work=tmp_path / "work")


@pytest.fixture
def crew() -> Iterator[WorkerPool]:
    """Workers that end with the test."""
    with WorkerPool(3) as crew:
        yield crew


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
def test_cpus_are_those_we_may_use(
    tmp_path: Path, lines: str, quotas: dict[str, dict[str, str]], expected: int
) -> None:
    """Affinity, and the quotas of both versions of control groups, of those above us too."""
    for group, files in quotas.items():
        write_quota(tmp_path / "groups" / group, **files)
    (tmp_path / "cgroup").write_text(lines)
    assert usable_cpus(groups=tmp_path / "groups", process=tmp_path / "cgroup") == expected


def test_cpus_without_control_groups(tmp_path: Path) -> None:
    """As in a chroot."""
    assert usable_cpus(process=tmp_path / "nothing") == CPUS


def test_processes_do_the_shards_and_tell_how_far_they_are(plan: Plan, crew: WorkerPool) -> None:
    """Every image is told of once."""
    steps = Steps()
    run_workers(plan, crew, progress=steps)
    assert plan.pending_shards() == []
    assert (steps.total, sum(steps.done), steps.closed) == (12, 12, True)


def test_some_shards_only(plan: Plan, crew: WorkerPool) -> None:
    """As a task does that has a share of the plan; the worker is kept for the next one."""
    steps = Steps()
    run_workers(plan, crew, shards=[1, 2], progress=steps)
    assert plan.pending_shards() == [0, 3]
    assert (steps.total, sum(steps.done)) == (6, 6)
    first = hired(crew)
    crew.release(first)
    run_workers(plan, crew, shards=[0, 3])
    assert plan.pending_shards() == []
    again = hired(crew)
    assert again is first
    crew.discard(again)


def hired(crew: WorkerPool) -> WorkerProcess:
    """Hire a worker."""
    worker = crew.acquire()
    assert worker is not None
    return worker


def test_tasks_that_share_a_crew_do_not_wait_for_each_other(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would like both workers, and more tasks are under way than there are workers."""
    monkeypatch.setattr(pool_module, "IMAGES_PER_PROCESS", 1)
    with faults.at_most(60), WorkerPool(2) as crew, ThreadPoolExecutor(3) as pool:
        for _ in range(5):
            for job in [pool.submit(run_workers, plan, crew, shards=group) for group in ([0, 1], [2], [3])]:
                job.result()
            assert plan.pending_shards() == []
            for shard in plan.shards:
                plan.uncommit(shard)
        crew.release(hired(crew))


def test_no_more_processes_than_are_worth_it(plan: Plan, crew: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prepared one is taken; further ones only for many images."""
    started = count_starts(monkeypatch)
    crew.prepare(plan.source, plan.model)
    crew.prepare(plan.source.with_name("nothing"), plan.model)
    assert len(started) == 1
    run_workers(plan, crew)
    assert len(started) == 1
    for shard in plan.shards:
        plan.uncommit(shard)
    monkeypatch.setattr(pool_module, "IMAGES_PER_PROCESS", 5)
    crew.prepare(plan.source, plan.model)
    assert len(started) == 2
    monkeypatch.setattr(pool_module, "IMAGES_PER_PROCESS", 1)
    run_workers(plan, crew)
    assert len(started) == 3


def test_a_worker_loads_the_model_ahead(plan: Plan, tmp_path: Path) -> None:
    """While the folder is listed: it needs no file of the model for the first shard; what is wrong is said there."""
    directory = write_model(tmp_path / "another", seed=9)
    model = ModelFiles.load(directory, version=7)
    object.__setattr__(plan, "model", dataclasses.replace(model, digest="another digest"))
    preload(str(directory), 7, "another digest", photos=False)
    with pytest.raises(ModelError, match="replaced after the prediction was planned"):
        run_worker(plan)
    object.__setattr__(plan, "model", model)
    preload(str(directory), 7, model.digest, photos=False)
    model.onnx.unlink()
    assert run_worker(plan) == len(plan.shards)


def test_what_photos_need_is_loaded_ahead_too(plan: Plan, crew: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a glance at the folder finds one."""
    told: list[bool] = []
    monkeypatch.setattr(WorkerProcess, "preload", lambda *_, photos: told.append(photos))
    crew.prepare(plan.source, plan.model)
    (plan.source / "photo.JPG").touch()
    crew.close()
    crew.prepare(plan.source, plan.model)
    assert told == [False, True]


@pytest.mark.parametrize("photos", [True, False])
def test_what_photos_need(photos: bool) -> None:
    """OpenCV, of which digits in MNIST's form need nothing."""
    program = f"import sys; from digits.prediction.worker import preload; preload('no', 1, 'no', photos={photos})"
    found = subprocess.run(
        [sys.executable, "-c", f"{program}; print('cv2' in sys.modules)"], check=True, capture_output=True, text=True
    )
    assert found.stdout == f"{photos}\n"


def count_starts(monkeypatch: pytest.MonkeyPatch) -> list[WorkerProcess]:
    """Have the workers that are started from now on listed."""
    started: list[WorkerProcess] = []
    real = pool_module._start

    def start() -> WorkerProcess:
        started.append(real())
        return started[-1]

    monkeypatch.setattr(pool_module, "_start", start)
    return started


def test_one_worker_goes_from_plan_to_plan(
    plan: Plan, crew: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another folder, as a process does that serves many runs."""
    started = count_starts(monkeypatch)
    run_workers(plan, crew)
    other = plan_predictions(
        plan.source, model=plan.model, options=PredictionConfig(), out=tmp_path / "q.csv", work=tmp_path / "work"
    )
    run_workers(other, crew)
    assert (plan.pending_shards(), other.pending_shards(), len(started)) == ([], [], 1)


def test_a_worker_that_fails_is_an_error_in_its_own_words(plan: Plan, crew: WorkerPool, tmp_path: Path) -> None:
    """The model vanished after the plan was made."""
    object.__setattr__(plan, "model", ModelFiles(**{**vars(plan.model), "onnx": tmp_path / "gone" / "model.onnx"}))
    plan.write()
    steps = Steps()
    with pytest.raises(ModelError, match=r"^.*gone: expected an exported model"):
        run_workers(plan, crew, progress=steps)
    assert steps.closed


def test_no_process_can_be_started(plan: Plan, crew: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so; the limit of open files is the kernel's."""
    monkeypatch.setattr(pool_module.sys, "executable", str(plan.path / "no-python"))  # type: ignore[attr-defined]
    with pytest.raises(StoreError, match=r"worker process: could not be started \(No such file"):
        run_workers(plan, crew)


def deadly(monkeypatch: pytest.MonkeyPatch, path: Path, what: str) -> None:
    """Have workers do something instead of decoding a certain file."""
    program = f"""
import os, sys, time, signal, pathlib
sys.path.append(sys.argv[1])
from digits.prediction import worker
real, bad = worker.decode, pathlib.Path({str(path)!r}).read_bytes()
def decode(content, **options):
    if content == bad:
        {what}
    return real(content, **options)
worker.decode = decode
sys.exit(worker.main(sys.argv[2:]))
"""
    monkeypatch.setattr(pool_module, "_PROGRAM", program)


DEADLY = {
    "crashed": "os.abort()",
    "timeout": "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]); [None for _ in iter(int, 1)]",
    "too-large": "bytearray(600 * 2**20)",
}


@pytest.mark.parametrize("status", DEADLY)
def test_a_deadly_image_costs_its_own_row(
    plan: Plan, crew: WorkerPool, monkeypatch: pytest.MonkeyPatch, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It kills its process, never ends, or eats memory; the rest of the table is as ever."""
    run_worker(plan)
    expected = [plan.part_path(shard, ".part").read_text().splitlines() for shard in plan.shards]
    for shard in plan.shards:
        plan.uncommit(shard)
    object.__setattr__(plan, "options", plan.options._replace(max_seconds=0.4))
    plan.write()
    deadly(monkeypatch, plan.source / "0004.png", DEADLY[status])
    steps = Steps()
    run_workers(plan, crew, progress=steps)
    found = [plan.part_path(shard, ".part").read_text().splitlines() for shard in plan.shards]
    bad = found[1].pop(1)
    expected[1].pop(1)
    assert found == expected
    path, prediction, confidence, found_status, error, *_, digest, _, _ = bad.split(",")
    assert (path, prediction, confidence, found_status) == ("0004.png", "", "", status)
    assert error
    assert digest == hashlib.sha256((plan.source / "0004.png").read_bytes()).hexdigest()
    assert sum(steps.done) == 12
    assert caplog.text.count("at 0004.png") == (0 if status == "too-large" else 2)
    if status != "too-large":
        before = plan.part_path(1, ".part").read_bytes()
        plan.uncommit(1)
        run_worker(plan)  # nobody decodes it again
        assert plan.part_path(1, ".part").read_bytes() == before


def test_one_death_is_no_proof(plan: Plan, crew: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else may have killed the process: the image is tried again, and read."""
    once = plan.path / "once"
    deadly(
        monkeypatch,
        plan.source / "0004.png",
        f"os.path.exists({str(once)!r}) or (open({str(once)!r}, 'w'), os.kill(os.getpid(), 9))",
    )
    run_workers(plan, crew)
    assert all(
        ",ok," in line for shard in plan.shards for line in plan.part_path(shard, ".part").read_text().splitlines()
    )
    assert once.exists()


@pytest.mark.parametrize("code", ["os.kill(os.getpid(), 9)", "raise RuntimeError('strange')"])
def test_workers_that_die_between_images(
    plan: Plan, crew: WorkerPool, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """No image is blamed, and trying for ever would not help."""
    program = f"import os, sys\nfor line in sys.stdin:\n    os.write(1, b'.' * 30)\n    {code}"
    monkeypatch.setattr(pool_module, "_PROGRAM", program)
    with pytest.raises(DigitsError, match=r"a worker process (was killed by signal 9|failed \(1\)), the last of 4"):
        run_workers(plan, crew)
    assert plan.pending_shards() == [0, 1, 2, 3]
    assert not list(plan.path.glob("parts/*.blame"))


def test_a_damaged_blame_is_forgotten(plan: Plan) -> None:
    """It is found again."""
    plan.record_failure(1, 2, "crashed")
    plan.record_failure(1, 0, "timeout")
    assert plan.failed_images(1) == {0: "timeout", 2: "crashed"}
    plan.part_path(1, ".blame").write_text("{}")
    assert plan.failed_images(1) == {}
    assert plan.failed_images(0) == {}


def test_shards_of_others_are_waited_for(plan: Plan, crew: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A living process has one: it is not taken away, and done when that process is."""
    with plan.claim(2) as mine:
        assert mine
        assert run_worker(plan) == 3
        assert plan.pending_shards() == [2]
        monkeypatch.setattr(
            "digits.prediction.pool.time.sleep", lambda _: plan.part_path(2, ".json").write_text("by another")
        )
        run_workers(plan, crew)


def test_a_shard_that_is_done_just_before_it_is_locked(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not done again."""

    @contextmanager
    def locked_late(path: Path, *, wait: bool) -> Iterator[Lock]:
        plan.part_path(0, ".json").write_text("by another")
        with locked(path, wait=wait) as lock:
            yield lock

    monkeypatch.setattr("digits.prediction.plan.locked", locked_late)
    with plan.claim(0) as mine:
        assert not mine


def test_no_worker_outlives_an_interrupt(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends them all, those at work and those that wait."""
    started = count_starts(monkeypatch)
    monkeypatch.setattr(pool_module, "IMAGES_PER_PROCESS", 1)

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pool_module._Job, "_listen", interrupt)
    with WorkerPool(3) as crew:
        crew.prepare(plan.source, plan.model)
        with pytest.raises(KeyboardInterrupt):
            run_workers(plan, crew)
    assert [worker._process.poll() for worker in started] == [-signal.SIGKILL] * 3


def test_a_crew_that_is_dismissed_meanwhile(plan: Plan, crew: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another thread: its workers are killed, and whoever waits for them is told to stop, without a warning."""
    monkeypatch.setattr(pool_module, "_PROGRAM", "import time; time.sleep(60)")
    errors: list[str] = []

    def work() -> None:
        try:
            run_workers(plan, crew)
        except StoreError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    while not crew._acquired:
        time.sleep(0.01)
    crew.close()
    thread.join(20)
    assert errors == ["the prediction was stopped; the same command goes on from what is finished"]
    assert plan.pending_shards() == [0, 1, 2, 3]


def test_a_plan_that_is_gone_is_no_work(plan: Plan, crew: WorkerPool) -> None:
    """Another run has carried it out: nothing to do, here and in a worker."""
    worker = hired(crew)
    plan.path.rename(plan.path.with_name("elsewhere"))
    run_workers(plan, crew)
    assert run_worker(plan) == 0
    worker.begin(plan, 0)
    assert worker.collect_exit() == (0, None, "")
    crew.discard(worker)


def test_a_plan_that_is_carried_out_while_we_are_at_it(
    plan: Plan, crew: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker finds nothing; neither do we."""
    gone = plan.path.with_name("gone")
    program = f"import os, sys; sys.stdin.readline(); os.rename({str(plan.path)!r}, {str(gone)!r})"
    monkeypatch.setattr(pool_module, "_PROGRAM", program)
    run_workers(plan, crew)


def test_a_worker_loads_little() -> None:
    """It starts in a third of a second, and memory is needed once a worker."""
    heavy = "{'pydantic', 'pandas', 'pyarrow', 'prefect', 'keras', 'tensorflow', 'scipy', 'rich'}"
    program = f"import sys, digits.prediction.worker; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"[]\n"


@pytest.fixture
def mark() -> Iterator[BinaryIO]:
    """What a worker marks its image in."""
    with open_position_file() as file:
        yield file


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, mark: BinaryIO) -> Callable[..., int]:
    """Give a function that has this process be a worker with some requests, but no limits to its memory."""
    monkeypatch.setattr("digits.prediction.limits.ImageLimits.limit_memory", lambda _: None)

    def ask(*requests: tuple[Path, int]) -> int:
        asked = [{"plan": str(path), "shard": shard} for path, shard in requests]
        lines = b"".join(json.dumps(request).encode() + b"\n" for request in asked)
        monkeypatch.setattr("digits.prediction.worker.sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
        return main([str(mark.fileno())])

    return ask


@pytest.fixture(autouse=True)
def ignored_interrupts() -> Iterator[None]:
    """Put the handler of Ctrl-C back that a worker replaces."""
    handler: Callable[..., object] | int | None = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def test_a_worker_process(
    plan: Plan, asked: Callable[..., int], mark: BinaryIO, capfd: pytest.CaptureFixture[str]
) -> None:
    """A byte an image to its parent, a word a shard; Ctrl-C is not for it."""
    with plan.claim(2):
        assert asked((plan.path, 1), (plan.path, 2), (plan.path, 3)) == 0
    assert plan.pending_shards() == [0, 2]
    assert capfd.readouterr().out == "...\n-...\n"
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert read_position(mark) is None
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert asked((plan.path.with_name("gone"), 0)) == 0


def test_a_worker_stops_when_its_parent_is_gone(
    plan: Plan, asked: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads the pipe any more."""

    def broken(*_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("digits.prediction.worker._tell_parent", broken)
    assert asked((plan.path, 0)) == 0
    assert plan.pending_shards() == [0, 1, 2, 3]


def test_a_worker_says_why_it_fails(plan: Plan, asked: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    """In a sentence, with the error's code."""
    plan.source.rename(plan.source.with_name("moved"))
    assert asked((plan.path, 0)) == StoreError.exit_code
    assert "the prediction stopped (No such file or directory)" in capfd.readouterr().err
