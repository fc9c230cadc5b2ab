"""Corruption campaign: single flipped bits in files of every kind must be found before the file is used.

python -m tests.faults.corruption
python -m tests.faults.corruption --flips 500 --repairs 5 --seed 7

The store comes from a training on `mnist-sample`, an interrupted prediction and an incremental one with its ledger.
Each flip is undone after the check. Then bits are flipped in artifacts and in the registry and repaired: an artifact is
computed again, and in a record the bit is restored.

"""

import argparse
import hashlib
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from digits.errors import DigitsError
from digits.maintenance import integrity, repair
from digits.maintenance.integrity import StoredItem
from digits.pipeline import steps
from digits.pipeline.config import TrainingRun
from digits.prediction import service
from digits.prediction.config import PredictionConfig
from digits.prediction.worker import run_worker
from digits.settings import parse
from digits.store.artifacts import Store
from digits.store.registry import Registry
from tests.support.pictures import write_images


@dataclass(frozen=True)
class Target:
    """A file and the check that each reader makes before using it."""

    kind: str
    path: Path
    check: Callable[[], None]


def make_store(root: Path, folder: Path) -> Store:
    """Train the smallest network, leave a prediction incomplete, and predict incrementally."""
    store = Store(root)
    model = {"architecture": "mlp", "hidden": (16,)}
    run = parse(TrainingRun, {"model": model, "training": {"epochs": 1, "augment": False}}, source="").resolved()
    dataset = steps.download_dataset(store, "mnist-sample")
    arrays = steps.prepare_arrays(store, [dataset], run.arrays)
    network = steps.build_network(store, arrays, run.model, seed=1)
    trained = steps.train_network(store, network, arrays, run.training)
    evaluation = steps.evaluate_model(store, steps.export_model(store, trained, arrays), arrays)
    report = steps.report_model(store, evaluation)
    version, _ = steps.register_model(store, evaluation, report)
    Registry(store).promote(version.number, reasons=["to be damaged"])
    write_images(folder, 60)
    options = PredictionConfig(processes=1, incremental=True)
    service.predict_folder(Store(root), folder, out=root / "predictions" / "known.csv", options=options)
    plan = service.plan_predictions(store, folder, model="champion", out=None, options=PredictionConfig(shard_size=20))
    run_worker(plan)
    return store


def targets(store: Store) -> list[Target]:
    """Return each file with the check of the item to which it belongs."""
    found = []
    for item in integrity.list_items(store):
        found += [Target(_kind(item, path), path, item.check) for path in _files(item)]
    return found


def _kind(item: StoredItem, path: Path) -> str:
    return "manifest" if path.name == "manifest.json" else item.kind


def _files(item: StoredItem) -> list[Path]:
    if item.ref:
        return [path for path in item.path.rglob("*") if path.is_file()]
    if item.kind == "plan":
        return [item.path / "plan.json", item.path / "listing"]
    if item.kind == "part":
        return [item.path, item.path.with_suffix(".part")]
    return [] if item.path.is_dir() else [item.path]


@contextmanager
def flipped(path: Path, draws: random.Random) -> Iterator[None]:
    """Flip one bit of a file while the context lasts."""
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    path.write_bytes(damaged)
    try:
        yield
    finally:
        path.write_bytes(content)


def flip(found: list[Target], count: int, seed: int) -> tuple[Counter[str], Counter[str]]:
    """Flip bits, equally often in each kind of file. Return the number of flips and of undetected flips per kind."""
    draws = random.Random(seed)  # noqa: S311
    kinds = sorted({target.kind for target in found})
    flips, undetected = Counter[str](), Counter[str]()
    for number in range(count):
        kind = kinds[number % len(kinds)]
        target = draws.choice([one for one in found if one.kind == kind])
        with flipped(target.path, draws):
            flips[kind] += 1
            undetected[kind] += _is_accepted(target.check)
    return flips, undetected


def _is_accepted(check: Callable[[], None]) -> bool:
    try:
        check()
    except DigitsError:
        return False
    return True


def repair_flips(store: Store, count: int, seed: int) -> list[str]:
    """Flip a bit in artifacts and registry files and repair each. Return the files that were not restored."""
    draws = random.Random(seed)  # noqa: S311
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("digits").addHandler(handler)
    items = [item for item in integrity.list_items(store) if item.ref or (item.path.is_file() and not item.regenerable)]
    items = [item for item in items if item.kind != "summary"]
    bad = []
    for number in range(count):
        item = items[number % len(items)]
        path = draws.choice(sorted(item.path.iterdir())) if item.ref else item.path
        before, logged[:] = _content(store, item), []
        damaged = bytearray(path.read_bytes())
        damaged[draws.randrange(len(damaged))] ^= 1 << draws.randrange(8)
        path.write_bytes(damaged)
        done = repair.repair(store)
        if len(done.repaired) != 1 or done.left or not logged or _content(store, item) != before:
            bad.append(str(path.relative_to(store.root)))
    return bad


def _content(store: Store, item: StoredItem) -> str:
    """Return what must be restored: the digest of an artifact, or a record's text.

    Of a Keras file, which contains a date, only the weights count.
    """
    from digits.training import networks

    if item.ref is None:
        return item.path.read_text()
    artifact = store.open(item.ref)
    digest = hashlib.sha256()
    for name in sorted(artifact.manifest["files"]):
        path = artifact.file(name)
        digest.update(
            networks.weights_digest(networks.load(path)).encode() if path.suffix == ".keras" else path.read_bytes()
        )
    return digest.hexdigest()


def main() -> int:
    """Run the measurement. Return 1 if damage was undetected or not repaired."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=10_000)
    parser.add_argument("--repairs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        store = make_store(Path(name) / "artifacts", Path(name) / "scans")
        started = time.perf_counter()
        flips, undetected = flip(targets(store), chosen.flips, chosen.seed)
        print(f"{'kind':<12}{'flips':>8}{'detected':>10}{'undetected':>8}")
        for kind, count in flips.items():
            print(f"{kind:<12}{count:>8,}{count - undetected[kind]:>10,}{undetected[kind]:>8}")
        seconds = time.perf_counter() - started
        print(f"{flips.total():,} flips, {undetected.total()} undetected, {seconds:.0f} s", flush=True)
        started = time.perf_counter()
        bad = repair_flips(store, chosen.repairs, chosen.seed)
        good = chosen.repairs - len(bad)
        print(f"{good} of {chosen.repairs} restored exactly, in {time.perf_counter() - started:.0f} s")
        print("\n".join(f"not repaired: {path}" for path in bad))
    return int(undetected.total() > 0 or bool(bad))


if __name__ == "__main__":
    sys.exit(main())
