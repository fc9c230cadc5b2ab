"""Concurrency campaign: eight processes at one artifact root must have the result of some sequence of single runs.

python -m tests.faults.concurrency                      # 200 rounds, 20 of them with training
python -m tests.faults.concurrency --seed 3 --only 17   # repeat one round with the same draws

A round pairs two operations, four processes each: train, promote, roll back, predict a folder into one table, the same
with a promotion in between, and clean up with the janitor, which finds obsolete files.

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

from digits.errors import DigitsError, PlanGoneError, RegistryError
from digits.maintenance.retention import RetentionConfig, sweep_store, with_ancestors
from digits.outputs.summary import picture_path, report_path, summary_path
from digits.pipeline.config import TrainingRun
from digits.prediction import publish, service
from digits.prediction.baselines import record_path
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
TRAINING_INTERVAL = 10
"""One round in this many trains."""
COPIES = 4
IMAGES = 30
MAX_DELAY = 0.05
"""Maximum seconds that a process waits after the common start."""
LONG_AGO = 60 * 24 * 3600
TRAINERS = ("h5py", "keras", "tensorflow", "digits.training.networks", "digits.pipeline.steps", "digits.training.fit")
TRAINING: dict[str, Any] = {
    "datasets": ("mnist-sample",),
    "model": {"architecture": "mlp", "hidden": (16,)},
    "training": {"epochs": 1, "batch_size": 500, "printed": 0, "written": 0},
}
EXPECTED = {"promote": "is already the champion", "rollback": "to roll back to"}
"""Text in the registry's expected errors, by action."""


def pairing(number: int) -> tuple[str, str]:
    """Return the two operations of a round."""
    tenth, rest = divmod(number, TRAINING_INTERVAL)
    if rest == 0:
        return TRAINING_PAIRS[tenth % len(TRAINING_PAIRS)]
    return OTHER_PAIRS[(number - tenth - 1) % len(OTHER_PAIRS)]


@dataclass(frozen=True)
class Place:
    """Files of a round: artifact root, images, table, and outcomes of the processes."""

    path: Path

    @property
    def store(self) -> Store:
        """Artifact root."""
        return Store(self.path / "store")

    @property
    def table(self) -> Path:
        """Table that every prediction writes."""
        return self.path / "out" / "table.csv"

    @property
    def images(self) -> Path:
        """Folder of images."""
        return self.path / "images"


# The operations, each in a process of its own


def _window(store: Store, first: int) -> list[int]:
    return [first, len(Registry(store).promotions())]


def _change_champion(place: Place, action: str, change: Callable[[], Promotion]) -> Record:
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
    change = _change_champion(place, "promote", lambda: Registry(place.store).promote(number, reasons=["a round"]))
    return {"changes": [{**change, "version": number}]}


def _rollback(place: Place, _: random.Random) -> Record:
    return {"changes": [_change_champion(place, "rollback", lambda: Registry(place.store).roll_back())]}


def _predict(place: Place, _: random.Random) -> Record:
    first = len(Registry(place.store).promotions())
    options = PredictionConfig(processes=1)
    summary = service.predict_folder(place.store, place.images, out=place.table, options=options)
    return {"predicted": summary.model_version, "images": summary.images, "window": _window(place.store, first)}


def _predict_and_promote(place: Place, draws: random.Random) -> Record:
    options, before = PredictionConfig(processes=1), draws.choice((True, False))
    changes = [_promote(place, draws)] if before else []
    first = len(Registry(place.store).promotions())
    summary = None
    with WorkerPool(options.processes) as pool:
        while summary is None:
            plan = service.plan_predictions(
                place.store, place.images, model="champion", out=place.table, options=options
            )
            window = _window(place.store, first)
            changes += [] if changes else [_promote(place, draws)]
            run_workers(plan, pool)
            with suppress(PlanGoneError):
                summary = publish.merge_predictions(plan, pool)
    made = [change for one in changes for change in one["changes"]]
    return {"predicted": summary.model_version, "images": summary.images, "window": window, "changes": made}


def _janitor(place: Place, _: random.Random) -> Record:
    return {"removed": [one.path for one in sweep_store(place.store, RetentionConfig())]}


def _train(place: Place, draws: random.Random) -> Record:
    from digits.pipeline import steps

    run = parse(TrainingRun, TRAINING, source="concurrency").resolved()
    config = run.training.model_copy(update={"seed": draws.choice((0, 0, 1))})
    fitted: list[int] = []
    store = place.store
    sources = [steps.download_dataset(store, name) for name in run.datasets]
    arrays = steps.prepare_arrays(store, sources, run.arrays)
    network = steps.build_network(store, arrays, run.model, seed=config.seed)
    model = steps.train_network(store, network, arrays, config, before_epoch=lambda _: fitted.append(1))
    return {"trained": [model.kind, model.digest], "seed": config.seed, "fitted": len(fitted)}


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
    """Make a store with two versions that were champions in turn, and images. Return each version's expected table."""
    make_store(place.store.root, tiny_network(), name="tiny")
    make_store(place.store.root, small_network(), name="small")
    for number in (1, 2):
        Registry(place.store).promote(number, reasons=["to be rolled back to"])
    write_images(place.images, IMAGES)
    place.table.parent.mkdir()
    for number in (1, 2):
        _run_in_copy(partial(_predict_alone, place, number))
    if training:
        _run_in_copy(partial(_prepare_arrays, place))
    tables = {number: _reference(place, number).read_bytes() for number in (1, 2)}
    for number in tables:
        shutil.rmtree(_reference(place, number).parent)
    return tables


def _reference(place: Place, number: int) -> Path:
    return place.path / f"single-{number}" / "table.csv"


def _predict_alone(place: Place, number: int) -> None:
    out = _reference(place, number)
    out.parent.mkdir()
    options = PredictionConfig(processes=1)
    service.predict_folder(place.store, place.images, out=out, model=str(number), options=options)


def _prepare_arrays(place: Place) -> None:
    from digits.pipeline import steps

    run = parse(TrainingRun, TRAINING, source="concurrency").resolved()
    sources = [steps.download_dataset(place.store, name) for name in run.datasets]
    steps.prepare_arrays(place.store, sources, run.arrays)


def _run_in_copy(work: Callable[[], object]) -> None:
    def ended() -> int:
        work()
        return 0

    if status := Forked(ended).wait():
        raise RuntimeError(f"the place could not be prepared: the process exited with {status}")


def add_obsolete_files(store: Store) -> list[Path]:
    """Add files that the janitor must remove, and make everything old. Return the paths to be removed."""

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
    """A prepared place, copied for each round."""

    def __init__(self, folder: Path, *, training: bool) -> None:
        _import_all(training=training)
        self._fresh, self._place = folder / "fresh", Place(folder / "place")
        self._place.path.mkdir(parents=True)
        self._tables = prepare(self._place, training=training)
        self._place.path.rename(self._fresh)

    def round(self, number: int, seed: int) -> list[str]:
        """Run eight processes at once. Return every result that no sequence of single runs explains."""
        shutil.rmtree(self._place.path, ignore_errors=True)
        shutil.copytree(self._fresh, self._place.path)
        obsolete = add_obsolete_files(self._place.store)
        names = pairing(number) * COPIES
        draws = [random.Random(f"{seed}/{number}/{one}") for one in range(len(names))]  # noqa: S311
        outcomes = self._run_at_once(names, draws)
        failed = [
            f"{name} failed: {one['failed']}" for name, one in zip(names, outcomes, strict=True) if "failed" in one
        ]
        return failed or list(_find_faults(self._place, names, outcomes, self._tables, obsolete))

    def _run_at_once(self, names: Sequence[str], draws: Sequence[random.Random]) -> list[Record]:
        gate, release = os.pipe()
        places = [self._place.path / f"outcome-{number}.json" for number in range(len(names))]

        def work(name: str, draw: random.Random, outcome: Path) -> int:
            os.close(release)
            os.read(gate, 1)
            time.sleep(draw.random() * MAX_DELAY)
            outcome.write_text(json.dumps(_run_operation(name, self._place, draw)))
            return 0

        processes = [
            Forked(lambda name=name, draw=draw, outcome=outcome: work(name, draw, outcome))  # type: ignore[misc]
            for name, draw, outcome in zip(names, draws, places, strict=True)
        ]
        os.close(release)
        statuses = [process.wait() for process in processes]
        os.close(gate)
        return [
            json.loads(place.read_text()) if not status else {"failed": f"it exited with {status}"}
            for place, status in zip(places, statuses, strict=True)
        ]


def _run_operation(name: str, place: Place, draws: random.Random) -> Record:
    try:
        return OPERATIONS[name](place, draws)
    except DigitsError as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    except Exception:  # noqa: BLE001 - any error is a finding of the round
        return {"failed": traceback.format_exc()[-1500:]}


def _import_all(*, training: bool) -> None:
    """Import what each process needs, before they are forked."""
    for name in ("onnxruntime", *(TRAINERS if training else ())):
        import_module(name)


# Checks of the outcome


def _find_faults(
    place: Place, names: Sequence[str], outcomes: Sequence[Record], tables: dict[int, bytes], obsolete: Sequence[Path]
) -> Iterator[str]:
    try:
        log = Registry(place.store).promotions()
        service.open_model(place.store, "champion")
    except DigitsError as error:
        yield f"the champion cannot be opened: {error}"
        return
    before = 4
    yield from _log_faults(log, before, [change for one in outcomes for change in one.get("changes", ())])
    yield from _table_faults(place, [one for one in outcomes if "predicted" in one], log, tables)
    yield from _training_faults(place.store, [one for one in outcomes if "trained" in one])
    yield from _removal_faults(place.store, names, outcomes, obsolete)
    yield from _leftover_faults(place, obsolete)


def _champion_stacks(log: Sequence[Promotion], window: Sequence[int]) -> Iterator[list[int]]:
    return (champion_stack(log[:length]) for length in range(window[0], window[1] + 1))


def _log_faults(log: Sequence[Promotion], before: int, changes: Sequence[Record]) -> Iterator[str]:
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
        yield from _change_faults(log, change)


def _change_faults(log: Sequence[Promotion], change: Record) -> Iterator[str]:
    first, last = change["window"]
    if change["entry"]:
        entry = log[change["entry"] - 1]
        if not first < entry.number <= last or entry.action != change["action"]:
            yield f"{change} is not the entry {entry}"
        return
    stacks = list(_champion_stacks(log, (first, last)))
    wanted = change.get("version")
    if not any(stack[-1] == wanted if wanted else len(stack) < 2 for stack in stacks):
        yield f"{change} was refused, but the champions were {stacks}"


def _table_faults(
    place: Place, predicted: Sequence[Record], log: Sequence[Promotion], tables: dict[int, bytes]
) -> Iterator[str]:
    for one in predicted:
        if one["images"] != IMAGES or one["predicted"] not in [s[-1] for s in _champion_stacks(log, one["window"])]:
            yield f"{one} does not have a champion of its time, or {IMAGES} images"
    if not predicted:
        return
    summary = read_record(summary_path(place.table))
    version = summary["model_version"]
    if version not in {one["predicted"] for one in predicted}:
        yield f"the summary is of version {version}, which no process used"
    table = place.table.read_bytes()
    if table != tables[version]:
        whose = [number for number, content in tables.items() if content == table]
        yield f"the summary is of version {version}, the table of {whose or 'none'}"
    known = {place.table, *(path(place.table) for path in (summary_path, picture_path, report_path, record_path))}
    yield from (f"{path} is left over" for path in place.table.parent.iterdir() if path not in known)


def _training_faults(store: Store, trained: Sequence[Record]) -> Iterator[str]:
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
                yield f"a trained model, or one of its parents, cannot be opened: {error}"


def _removal_faults(
    store: Store, names: Sequence[str], outcomes: Sequence[Record], obsolete: Sequence[Path]
) -> Iterator[str]:
    removed = Counter(path for one in outcomes for path in one.get("removed", ()))
    yield from (f"{path} was removed {times} times" for path, times in removed.items() if times > 1)
    if "janitor" in names:
        yield from (f"the janitor did not remove {path}" for path in obsolete if path.exists())
    for version in Registry(store).versions():
        for kind in version.artifacts:
            store.open(version.artifact(kind))


def _leftover_faults(place: Place, obsolete: Sequence[Path]) -> Iterator[str]:
    store = place.store
    found = [
        *store.temporary.glob("*"),
        *store.work.glob("*.npz"),
        *find_temporary_files(store.root),
        *find_temporary_files(place.path),
    ]
    plans = [path for path in store.plans.glob("*") if path.is_dir()]
    yield from (f"{path} is left over" for path in [*found, *plans] if path not in obsolete)
    for path in store.locks.glob("*"):
        with store.try_lock(path.name) as free:
            if not free:
                yield f"{path} is held"


# All rounds


def main(arguments: list[str] | None = None) -> int:
    """Run the rounds and print a table by pairing. Return 1 if a round failed."""
    options = _options(arguments)
    numbers = options.only or range(options.rounds)
    rounds, failed = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    with tempfile.TemporaryDirectory() as name:
        for training in (False, True):
            chosen = [number for number in numbers if ("train" in pairing(number)) is training]
            bench = Bench(Path(name) / str(training), training=training) if chosen else None
            for number in chosen:
                faults = bench.round(number, options.seed) if bench else []
                rounds[pairing(number)] += 1
                failed[pairing(number)] += bool(faults)
                for line in faults:
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
    parser.add_argument("--seed", type=int, default=0, help="random seed of the draws")
    parser.add_argument("--only", type=int, action="append", metavar="N", help="run only this round; repeatable")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
