"""Worker processes: how many, what is told of them, and what becomes of those that fail."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from making import MakePictures

from digits import workers
from digits.config import PredictionConfig
from digits.errors import DigitsError, StoreError
from digits.inference import ModelFiles
from digits.planning import plan_predictions
from digits.plans import Plan
from digits.shards import main, run_worker
from digits.workers import run_workers, usable_cpus

CPUS = len(os.sched_getaffinity(0))


class Steps:
    """Progress that is only counted."""

    def __init__(self) -> None:
        self.total = 0
        self.done: list[int] = []
        self.closed = False

    def start(self, label: str, total: int) -> "Steps":
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
def spawning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have even the smallest plan carried out by other processes."""
    monkeypatch.setattr(workers, "IN_PROCESS", 0)


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


@pytest.mark.usefixtures("spawning")
def test_processes_do_the_shards_and_tell_how_far_they_are(plan: Plan) -> None:
    """Every image is told of once."""
    steps = Steps()
    run_workers(plan, processes=2, progress=steps)
    assert plan.waiting() == []
    assert (steps.total, sum(steps.done), steps.closed) == (12, 12, True)


def test_a_small_plan_needs_no_process(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting one would take longer than the work."""
    monkeypatch.setattr(workers, "_spawn", None)
    steps = Steps()
    run_workers(plan, progress=steps)
    assert plan.waiting() == []
    assert sum(steps.done) == 12


@pytest.mark.usefixtures("spawning")
def test_a_worker_that_fails_is_an_error_in_its_own_words(plan: Plan, model: ModelFiles, tmp_path: Path) -> None:
    """The model vanished after the plan was made."""
    object.__setattr__(plan, "model", ModelFiles(**{**vars(model), "onnx": tmp_path / "gone" / "model.onnx"}))
    plan.write()
    steps = Steps()
    with pytest.raises(DigitsError, match=r"a worker process failed \(6\): .*gone: expected an exported model"):
        run_workers(plan, processes=1, progress=steps)
    assert steps.closed


def scripted(monkeypatch: pytest.MonkeyPatch, *programs: str) -> None:
    """Have workers run other programs, one after the other."""
    texts: Iterator[str] = iter(programs)
    real = workers._spawn

    def spawn(plan: Plan, start: int) -> object:
        monkeypatch.setattr(workers, "_PROGRAM", next(texts))
        return real(plan, start)

    monkeypatch.setattr(workers, "_spawn", spawn)


KILLED = "import os; os.write(1, b'.' * 30); os.kill(os.getpid(), 9)"


@pytest.mark.usefixtures("spawning")
def test_workers_that_are_killed_before_they_get_anywhere(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying for ever would not help."""
    scripted(monkeypatch, KILLED)
    with pytest.raises(DigitsError, match="a worker process was killed by signal 9"):
        run_workers(plan, processes=1)


@pytest.mark.usefixtures("spawning")
def test_a_killed_workers_shards_are_done_by_another(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As long as any gets on; and no image is told of twice."""
    scripted(monkeypatch, f"import sys; sys.path.append(sys.argv[1])\n{FIRST_SHARD}\n{KILLED}", workers._PROGRAM)
    steps = Steps()
    run_workers(plan, processes=1, progress=steps)
    assert plan.waiting() == []
    assert sum(steps.done) == 12
    assert "signal 9: ; its shard is tried again" in caplog.text


FIRST_SHARD = """
import pathlib
from digits import plans, shards
plan = plans.Plan.open(pathlib.Path(sys.argv[2]))
plans.Plan.shards = property(lambda self: range(1))
shards.run_worker(plan)
"""


def test_shards_of_others_are_waited_for(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A living process has one: it is not taken away, and done when that process is."""
    with plan.claim(2) as mine:
        assert mine
        assert run_worker(plan) == 3
        assert plan.waiting() == [2]
        monkeypatch.setattr("digits.workers.time.sleep", lambda _: plan.part(2, ".json").write_text("by another"))
        run_workers(plan)


def test_a_shard_that_is_done_just_before_it_is_locked(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not done again."""

    def lock(_: int) -> bool:
        plan.part(0, ".json").write_text("by another")
        return True

    monkeypatch.setattr("digits.plans._try_lock", lock)
    with plan.claim(0) as mine:
        assert not mine


@pytest.mark.usefixtures("spawning")
def test_no_worker_outlives_an_interrupt(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends them all."""
    scripted(monkeypatch, "import time; time.sleep(60)", "import time; time.sleep(60)")
    spawned: list[int] = []

    def interrupt(started: list[workers._Spawned], _: object) -> None:
        spawned.extend(worker.process.pid for worker in started)
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "_listen", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_workers(plan, processes=2)
    assert len(spawned) == 2
    for pid in spawned:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_plan_that_is_gone_is_no_work(plan: Plan) -> None:
    """Another run has carried it out: nothing to do, here and in a worker."""
    plan.path.rename(plan.path.with_name("elsewhere"))
    run_workers(plan)
    assert run_worker(plan) == 0


def test_a_worker_loads_little() -> None:
    """It starts in a third of a second, and memory is needed once a worker."""
    heavy = "{'pydantic', 'pandas', 'pyarrow', 'prefect', 'keras', 'tensorflow', 'scipy', 'rich'}"
    program = f"import sys, digits.shards; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"[]\n"


@pytest.fixture
def ignored_interrupts() -> Iterator[None]:
    """Put the handler of Ctrl-C back that a worker replaces."""
    handler: Callable[..., object] | int | None = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("ignored_interrupts")
def test_a_worker_process(plan: Plan, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A byte an image to its parent; Ctrl-C is not for it."""
    assert main([str(plan.path), "1"]) == 0
    assert plan.waiting() == []
    assert capfd.readouterr().out == "." * 12
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert main([str(plan.path.with_name("gone")), "0"]) == 0


@pytest.mark.usefixtures("ignored_interrupts")
def test_a_worker_stops_when_its_parent_is_gone(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads the pipe any more."""

    def broken(*_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("digits.shards._tell_parent", broken)
    assert main([str(plan.path), "0"]) == 0
    assert plan.waiting() == [0, 1, 2, 3]


@pytest.mark.usefixtures("ignored_interrupts")
def test_a_worker_says_why_it_fails(plan: Plan, capfd: pytest.CaptureFixture[str]) -> None:
    """In a sentence, with the error's code."""
    plan.source.rename(plan.source.with_name("moved"))
    assert main([str(plan.path), "0"]) == StoreError.exit_code
    assert "the prediction stopped (No such file or directory)" in capfd.readouterr().err
