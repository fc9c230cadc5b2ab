"""Eight processes at once at one artifact root: what comes of it is what some order of single runs would give.

python -m tests.faults.concurrency                      # 200 rounds, 20 of them with training
python -m tests.faults.concurrency --seed 3 --only 17   # a round again, with the same draws

A round is a pairing of two operations, four processes each: train, promote, roll back, predict a folder into the same
table, the same with a promotion in between, and the janitor, who finds something to remove.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

from digits import api
from digits.errors import DigitsError, PlanGoneError, RegistryError
from digits.maintenance.retention import RetentionConfig, sweep_store, with_ancestors
from digits.outputs.summary import picture_path, summary_path
from digits.pipeline.config import TrainingRun
from digits.prediction import publish, service
from digits.prediction.config import PredictionConfig
from digits.prediction.plan import PLAN_FILE
from digits.prediction.pool import WorkerPool, run_workers
from digits.settings import parse
from digits.store.artifacts import ArtifactRef, Recipe, Store
from digits.store.files import find_temporary_files
from digits.store.records import Record, read_record
from digits.store.registry import Promotion, Registry, champion_stack
from tests.support.networks import make_store, small_network, tiny_network
from tests.support.pictures import write_images
from tests.support.processes import Forked

OTHERS = ("promote", "rollback", "predict", "predict+promote", "janitor")
TRAINING_PAIRS = [("train", other) for other in ("train", *OTHERS)]
OTHER_PAIRS = list(combinations_with_replacement(OTHERS, 2))
EACH_TENTH = 10
"""A round of so many trains."""
COPIES = 4
IMAGES = 30
DELAY = 0.05
"""Seconds that a process waits at most after all are let go."""
LONG_AGO = 60 * 24 * 3600
TRAINERS = ("h5py", "keras", "tensorflow", "digits.training.networks", "digits.pipeline.steps", "digits.training.fit")
TRAINING: dict[str, Any] = {
    "datasets": ("mnist-sample",),
    "model": {"architecture": "mlp", "hidden": (16,)},
    "training": {"epochs": 1, "batch_size": 500, "printed": 0, "written": 0},
}
EXPECTED = {"promote": "is already the champion", "rollback": "to roll back to"}
"""What a refusal of the registry says."""


def pairing(number: int) -> tuple[str, str]:
    """Give the operations of a round."""
    tenth, rest = divmod(number, EACH_TENTH)
    if rest == 0:
        return TRAINING_PAIRS[tenth % len(TRAINING_PAIRS)]
    return OTHER_PAIRS[(number - tenth - 1) % len(OTHER_PAIRS)]


@dataclass(frozen=True)
class Place:
    """Where a round is: the artifact root, the pictures, the tables, and what each process tells."""

    path: Path

    @property
    def store(self) -> Store:
        """The artifact root."""
        return Store(self.path / "store")

    @property
    def table(self) -> Path:
        """The table that every prediction writes."""
        return self.path / "out" / "table.csv"

    @property
    def images(self) -> Path:
        """The pictures."""
        return self.path / "images"


# The operations, each in a process of its own


def _window(store: Store, first: int) -> list[int]:
    return [first, len(Registry(store).promotions())]


def _changed(place: Place, action: str, change: Callable[[], Promotion]) -> Record:
    first = len(Registry(place.store).promotions())
    try:
        entry: int | None = change().number
    except RegistryError as error:
        if EXPECTED[action] not in str(error):
            raise
        entry = None
    return {"action": action, "entry": entry, "window": _window(place.store, first)}


def _promote(place: Place, draws: random.Random) -> Record:
    number = draws.choice((1, 2))
    change = _changed(place, "promote", lambda: Registry(place.store).promote(number, reasons=["a round"]))
    return {"changes": [{**change, "version": number}]}


def _rollback(place: Place, _: random.Random) -> Record:
    return {"changes": [_changed(place, "rollback", lambda: Registry(place.store).roll_back())]}


def _predict(place: Place, _: random.Random) -> Record:
    first = len(Registry(place.store).promotions())
    options = PredictionConfig(processes=1)
    summary = api.predict(place.images, out=place.table, options=options, artifacts=place.store.root)
    return {"predicted": summary.model_version, "images": summary.images, "window": _window(place.store, first)}


def _predict_and_promote(place: Place, draws: random.Random) -> Record:
    options, before = PredictionConfig(processes=1), draws.choice((True, False))
    changes = [_promote(place, draws)] if before else []
    first = len(Registry(place.store).promotions())
    summary = None
    with WorkerPool(options.processes) as crew:
        while summary is None:
            plan = service.plan_predictions(
                place.store, place.images, model="champion", out=place.table, options=options
            )
            window = _window(place.store, first)
            changes += [] if changes else [_promote(place, draws)]
            run_workers(plan, crew)
            with suppress(PlanGoneError):
                summary = publish.merge_predictions(plan, crew)
    made = [change for one in changes for change in one["changes"]]
    return {"predicted": summary.model_version, "images": summary.images, "window": window, "changes": made}


def _janitor(place: Place, _: random.Random) -> Record:
    return {"removed": [one.path for one in sweep_store(place.store, RetentionConfig())]}


def _train(place: Place, draws: random.Random) -> Record:
    from digits.pipeline import steps

    run = parse(TrainingRun, TRAINING, source="concurrency").resolved()
    how = run.training.model_copy(update={"seed": draws.choice((0, 0, 1))})
    fitted: list[int] = []
    store = place.store
    sources = [steps.download_dataset(store, name) for name in run.datasets]
    arrays = steps.prepare_arrays(store, sources, run.arrays)
    network = steps.build_network(store, arrays, run.model, seed=how.seed)
    model = steps.train_network(store, network, arrays, how, before_epoch=lambda _: fitted.append(1))
    return {"trained": [model.kind, model.digest], "seed": how.seed, "fitted": len(fitted)}


OPERATIONS: dict[str, Callable[[Place, random.Random], Record]] = {
    "train": _train,
    "promote": _promote,
    "rollback": _rollback,
    "predict": _predict,
    "predict+promote": _predict_and_promote,
    "janitor": _janitor,
}


# The place


def prepare(place: Place, *, training: bool) -> dict[int, bytes]:
    """Make a store of two versions that were champions in turn, and pictures; give each version's table."""
    make_store(place.store.root, tiny_network(), name="tiny")
    make_store(place.store.root, small_network(), name="small")
    for number in (1, 2):
        Registry(place.store).promote(number, reasons=["to be rolled back to"])
    write_images(place.images, IMAGES)
    place.table.parent.mkdir()
    for number in (1, 2):
        _in_copy(partial(_table_of, place, number))
    if training:
        _in_copy(partial(_arrays, place))
    tables = {number: _reference(place, number).read_bytes() for number in (1, 2)}
    for number in tables:
        shutil.rmtree(_reference(place, number).parent)
    return tables


def _reference(place: Place, number: int) -> Path:
    return place.path / f"single-{number}" / "table.csv"


def _table_of(place: Place, number: int) -> None:
    out = _reference(place, number)
    out.parent.mkdir()
    options = PredictionConfig(processes=1)
    api.predict(place.images, out=out, model=str(number), options=options, artifacts=place.store.root)


def _arrays(place: Place) -> None:
    from digits.pipeline import steps

    run = parse(TrainingRun, TRAINING, source="concurrency").resolved()
    sources = [steps.download_dataset(place.store, name) for name in run.datasets]
    steps.prepare_arrays(place.store, sources, run.arrays)


def _in_copy(work: Callable[[], object]) -> None:
    def ended() -> int:
        work()
        return 0

    if status := Forked(ended).wait():
        raise RuntimeError(f"a place could not be prepared: the copy ended with {status}")


def plant(store: Store) -> list[Path]:
    """Put there what the janitor is for, and make all that is there old; give what must go."""

    def write(directory: Path) -> None:
        (directory / "content").write_text("nobody uses it")

    made = store.path(store.produce(Recipe("report", {"nobody": "uses it"}), write))
    plan = store.workspace(store.plans) / ("0" * 64)
    (plan / "parts").mkdir(parents=True)
    (plan / PLAN_FILE).write_text("{}")
    draft = store.temporary / "0123456789abcdef"
    (draft / "half").mkdir(parents=True)
    files = (
        store.registry / "promotions" / ".000009.json.0123456789abcdef.tmp",
        store.work / f"train-{'0' * 64}.npz",
    )
    for file in files:
        file.write_bytes(b"half")
    for path in (store.root, *store.root.rglob("*")):
        os.utime(path, (time.time() - LONG_AGO,) * 2)
    return [made, plan, draft, *files]


# A round


class Bench:
    """A prepared place, of which each round has a copy."""

    def __init__(self, folder: Path, *, training: bool) -> None:
        _import_all(training=training)
        self._fresh, self._place = folder / "fresh", Place(folder / "place")
        self._place.path.mkdir(parents=True)
        self._tables = prepare(self._place, training=training)
        self._place.path.rename(self._fresh)

    def round(self, number: int, seed: int) -> list[str]:
        """Let eight processes loose; give what no order of single runs explains."""
        shutil.rmtree(self._place.path, ignore_errors=True)
        shutil.copytree(self._fresh, self._place.path)
        planted = plant(self._place.store)
        names = pairing(number) * COPIES
        told = self._at_once(names, [random.Random(f"{seed}/{number}/{one}") for one in range(len(names))])  # noqa: S311
        failed = [f"{name} failed: {one['failed']}" for name, one in zip(names, told, strict=True) if "failed" in one]
        return failed or list(_wrong(self._place, names, told, self._tables, planted))

    def _at_once(self, names: Sequence[str], draws: Sequence[random.Random]) -> list[Record]:
        gate, release = os.pipe()
        places = [self._place.path / f"told-{number}.json" for number in range(len(names))]

        def work(name: str, draw: random.Random, told: Path) -> int:
            os.close(release)
            os.read(gate, 1)
            time.sleep(draw.random() * DELAY)
            told.write_text(json.dumps(_told(name, self._place, draw)))
            return 0

        processes = [
            Forked(lambda name=name, draw=draw, told=told: work(name, draw, told))  # type: ignore[misc]
            for name, draw, told in zip(names, draws, places, strict=True)
        ]
        os.close(release)
        statuses = [process.wait() for process in processes]
        os.close(gate)
        return [
            json.loads(place.read_text()) if not status else {"failed": f"it ended with {status}"}
            for place, status in zip(places, statuses, strict=True)
        ]


def _told(name: str, place: Place, draws: random.Random) -> Record:
    try:
        return OPERATIONS[name](place, draws)
    except DigitsError as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    except Exception:  # noqa: BLE001 - whatever it is, it is what the round has found
        return {"failed": traceback.format_exc()[-1500:]}


def _import_all(*, training: bool) -> None:
    """Import here what each process would."""
    for name in ("onnxruntime", *(TRAINERS if training else ())):
        import_module(name)


# What is asked of the outcome


def _wrong(
    place: Place, names: Sequence[str], told: Sequence[Record], tables: dict[int, bytes], planted: Sequence[Path]
) -> Iterator[str]:
    try:
        log = Registry(place.store).promotions()
        service.open_model(place.store, "champion")
    except DigitsError as error:
        yield f"the champion can't be opened: {error}"
        return
    before = 4
    yield from _wrong_log(log, before, [change for one in told for change in one.get("changes", ())])
    yield from _wrong_tables(place, [one for one in told if "predicted" in one], log, tables)
    yield from _wrong_trainings(place.store, [one for one in told if "trained" in one])
    yield from _wrong_removals(place.store, names, told, planted)
    yield from _left(place, planted)


def _champion_at(log: Sequence[Promotion], window: Sequence[int]) -> Iterator[list[int]]:
    return (champion_stack(log[:length]) for length in range(window[0], window[1] + 1))


def _wrong_log(log: Sequence[Promotion], before: int, changes: Sequence[Record]) -> Iterator[str]:
    if [entry.number for entry in log] != list(range(1, len(log) + 1)):
        yield f"the log's numbers are {[entry.number for entry in log]}"
    made = sorted(change["entry"] for change in changes if change["entry"])
    if made != list(range(before + 1, len(log) + 1)):
        yield f"the entries {made} were reported, but the log has {before + 1} to {len(log)}"
        return
    for number in made:
        stack = champion_stack(log[: number - 1])
        entry = log[number - 1]
        right = entry.version != stack[-1] if entry.action == "promote" else stack[-2:-1] == [entry.version]
        if not right:
            yield f"entry {number} is {entry.action} {entry.version} after the champions {stack}"
    for change in changes:
        yield from _wrong_change(log, change)


def _wrong_change(log: Sequence[Promotion], change: Record) -> Iterator[str]:
    first, last = change["window"]
    if change["entry"]:
        entry = log[change["entry"] - 1]
        if not first < entry.number <= last or entry.action != change["action"]:
            yield f"{change} is not the entry {entry}"
        return
    stacks = list(_champion_at(log, (first, last)))
    wanted = change.get("version")
    if not any(stack[-1] == wanted if wanted else len(stack) < 2 for stack in stacks):
        yield f"{change} was refused, but the champions were {stacks}"


def _wrong_tables(
    place: Place, predicted: Sequence[Record], log: Sequence[Promotion], tables: dict[int, bytes]
) -> Iterator[str]:
    for one in predicted:
        if one["images"] != IMAGES or one["predicted"] not in [s[-1] for s in _champion_at(log, one["window"])]:
            yield f"{one} is not of a champion of its time, or not of {IMAGES} images"
    if not predicted:
        return
    summary = read_record(summary_path(place.table))
    version = summary["model_version"]
    if version not in {one["predicted"] for one in predicted}:
        yield f"the summary is of version {version}, with which nobody predicted"
    table = place.table.read_bytes()
    if table != tables[version]:
        whose = [number for number, content in tables.items() if content == table]
        yield f"the summary is of version {version}, the table of {whose or 'none'}"
    known = {place.table, summary_path(place.table), picture_path(place.table)}
    yield from (f"{path} is left" for path in place.table.parent.iterdir() if path not in known)


def _wrong_trainings(store: Store, trained: Sequence[Record]) -> Iterator[str]:
    for seed in sorted({one["seed"] for one in trained}):
        same = [one for one in trained if one["seed"] == seed]
        models = {tuple(one["trained"]) for one in same}
        if len(models) != 1 or sum(one["fitted"] for one in same) != 1:
            yield f"seed {seed} was trained {sum(one['fitted'] for one in same)} times into {len(models)} models"
    for one in trained:
        for ref in with_ancestors(store, [ArtifactRef(*one["trained"])]):
            try:
                store.open(ref)
            except DigitsError as error:
                yield f"a trained model, or what it was made from, can't be opened: {error}"


def _wrong_removals(
    store: Store, names: Sequence[str], told: Sequence[Record], planted: Sequence[Path]
) -> Iterator[str]:
    removed = Counter(path for one in told for path in one.get("removed", ()))
    yield from (f"{path} was removed {times} times" for path, times in removed.items() if times > 1)
    if "janitor" in names:
        yield from (f"the janitor has not removed {path}" for path in planted if path.exists())
    for version in Registry(store).versions():
        for kind in version.artifacts:
            store.open(version.artifact(kind))


def _left(place: Place, planted: Sequence[Path]) -> Iterator[str]:
    store = place.store
    found = [
        *store.temporary.glob("*"),
        *store.work.glob("*.npz"),
        *find_temporary_files(store.root),
        *find_temporary_files(place.path),
    ]
    plans = [path for path in store.plans.glob("*") if path.is_dir()]
    yield from (f"{path} is left" for path in [*found, *plans] if path not in planted)
    for path in store.locks.glob("*"):
        with store.try_lock(path.name) as free:
            if not free:
                yield f"{path} is held"


# All of them


def main(arguments: list[str] | None = None) -> int:
    """Print a table by pairing; 1 when a round failed."""
    options = _options(arguments)
    numbers = options.only or range(options.rounds)
    rounds, failed = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    with tempfile.TemporaryDirectory() as name:
        for training in (False, True):
            ours = [number for number in numbers if ("train" in pairing(number)) is training]
            bench = Bench(Path(name) / str(training), training=training) if ours else None
            for number in ours:
                wrong = bench.round(number, options.seed) if bench else []
                rounds[pairing(number)] += 1
                failed[pairing(number)] += bool(wrong)
                for line in wrong:
                    print(
                        f"--seed {options.seed} --only {number} ({' and '.join(pairing(number))}): {line}", flush=True
                    )
                print(f"round {number} of {options.rounds}", file=sys.stderr)
    print("| pairing | rounds | failed |\n|---|---|---|")
    for pair, count in rounds.items():
        print(f"| {' and '.join(pair)} | {count} | {failed[pair]} |")
    print(f"| all | {rounds.total()} | {failed.total()} |")
    return int(failed.total() > 0)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run pairings of operations at once at one artifact root.")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same draws")
    parser.add_argument("--only", type=int, action="append", metavar="N", help="a round to run again; repeatable")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
