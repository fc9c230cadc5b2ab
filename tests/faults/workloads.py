"""The commands that are disturbed: how the place is prepared for each, how it is run, what it has committed."""

import io
import json
import logging
import os
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from digits.errors import DigitsError
from digits.outputs.summary import summary_path
from digits.prediction.plan import Plan
from digits.store.artifacts import Store
from digits.store.records import read_record
from digits.training.fit import read_checkpoint
from digits.training.networks import arrays_digest
from tests.support.networks import make_store, small_network, tiny_network
from tests.support.pictures import write_images

IMAGES = 400
DAY = 24 * 3600
TRAINING: dict[str, Any] = {
    "datasets": ("mnist-sample",),
    "model": {"architecture": "compact", "hidden": (4, 4, 8, 8), "dropout": 0.1},
    "training": {"epochs": 3, "batch_size": 500, "members": 2, "augment": True, "printed": 0, "written": 0},
}
"""A small network with everything that a resumed run must put back: cosine schedule, moving average, dropout."""


@dataclass(frozen=True)
class Place:
    """Where a command runs: the artifact root, the folder of its output, and what it reads."""

    path: Path

    @property
    def store(self) -> Path:
        """The artifact root."""
        return self.path / "store"

    @property
    def out(self) -> Path:
        """Where it writes tables."""
        return self.path / "out"

    @property
    def table(self) -> Path:
        """The table of a prediction."""
        return self.out / "table.csv"

    @property
    def images(self) -> Path:
        """The pictures, which nobody writes."""
        return self.path / "images"


def nothing(_: Place) -> None:
    """Prepare nothing more, or know of nothing that was committed."""


@dataclass(frozen=True)
class Workload:
    """A command of ours.

    Args:
        run: does it in this process, and gives the exit code.
        prepare: changes a place, with a store of two models and some pictures, before the first run.
        committed: gives what is finished of an interrupted run, None where that can't be told.
        taken_over: gives as much from a finished run and what it said on standard error.
        once: a second run after a finished one does something else.
        heavy: takes seconds.
    """

    run: Callable[[Place], int]
    prepare: Callable[[Place], None] = nothing
    committed: Callable[[Place], int | None] = field(default=nothing)
    taken_over: Callable[[Place, str], int] = field(default=lambda _place, _said: 0)
    once: bool = False
    heavy: bool = False


def console(*command: str) -> Callable[[Place], int]:
    """Give what runs a console command; `{store}`, `{out}`, `{table}` and `{images}` in it stand for the place's."""

    def run(place: Place) -> int:
        from digits.cli import main

        names = {name: str(getattr(place, name)) for name in ("store", "out", "table", "images")}
        sys.argv = ["digits", *(part.format(**names) for part in command), "--artifacts", str(place.store)]
        try:
            main.main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


def base(place: Place) -> None:
    """Make a store whose second version is the champion, and pictures."""
    make_store(place.store, tiny_network(), name="tiny")
    make_store(place.store, small_network(), name="small")
    write_images(place.images, IMAGES)
    for path in place.images.iterdir():  # so old that their times are to be trusted
        os.utime(path, (time.time() - DAY,) * 2)
    place.out.mkdir()


def _predicted_before(place: Place) -> None:
    """Have half of the pictures in a table already."""
    late = sorted(place.images.iterdir())[IMAGES // 2 :]
    aside = place.path / "aside"
    aside.mkdir()
    for path in late:
        path.rename(aside / path.name)
    _in_copy(lambda: console(*PREDICT, "--incremental")(place))
    for path in late:
        (aside / path.name).rename(path)
    aside.rmdir()


def _in_copy(work: Callable[[], int]) -> None:
    from tests.support.processes import Forked

    if status := Forked(work).wait():
        raise RuntimeError(f"a place could not be prepared: the command ended with {status}")


def _committed_images(place: Place) -> int | None:
    work = place.store / "work" / "predictions"
    path = next((path for path in work.glob("*") if (path / "parts").is_dir() and path.name[:4] != "tmp-"), None)
    if path is None:
        return None
    plan = Plan.open(path)
    return sum(len(plan.entries(int(seal.stem))) for seal in (path / "parts").glob("[0-9]*.json"))


def _reused_images(place: Place, _said: str) -> int:
    return int(read_record(summary_path(place.table))["reused"])


def _train(place: Place) -> int:
    """Go through the library's stages, as the flow's tasks do, which are thin calls of them."""
    from digits.pipeline import steps
    from digits.pipeline.config import TrainingRun
    from digits.settings import parse

    logging.basicConfig(format="%(message)s")
    logging.getLogger("digits").setLevel(logging.INFO)
    run = parse(TrainingRun, TRAINING, source="faults").resolved()
    store = Store(place.store)
    try:
        sources = [steps.download_dataset(store, name) for name in run.datasets]
        arrays = steps.prepare_arrays(store, sources, run.arrays)
        members = [
            steps.train_network(store, steps.build_network(store, arrays, run.model, seed=how.seed), arrays, how)
            for how in run.members()
        ]
        steps.average_models(store, members, arrays, run.training)
    except DigitsError as error:
        sys.stderr.write(f"digits: {error}\n")
        return error.exit_code
    return 0


def _has_arrays(place: Place) -> None:
    """Have the data ready, so that what is disturbed is the training."""

    def prepare() -> int:
        from digits.pipeline import steps
        from digits.pipeline.config import TrainingRun
        from digits.settings import parse

        run = parse(TrainingRun, TRAINING, source="faults").resolved()
        sources = [steps.download_dataset(Store(place.store), name) for name in run.datasets]
        steps.prepare_arrays(Store(place.store), sources, run.arrays)
        return 0

    _in_copy(prepare)


def _committed_epochs(place: Place) -> int | None:
    """Count the epochs in the checkpoint of the member that is being fitted."""
    for path in (place.store / "work").glob("train-*.npz"):
        return len(read_checkpoint(path)[0])
    return None


def _resumed_epochs(_place: Place, said: str) -> int:
    resumed = [line for line in said.splitlines() if line.startswith("resumed after epoch ")]
    return int(resumed[0].split()[-1]) if resumed else 0


def _sweep(place: Place) -> int:
    from digits.maintenance.retention import RetentionConfig, sweep_store

    try:
        sweep_store(Store(place.store), RetentionConfig())
    except DigitsError as error:
        sys.stderr.write(f"digits: {error}\n")
        return error.exit_code
    return 0


def _long_unused(place: Place) -> None:
    """Have an artifact and a temporary directory that may go."""
    made = shutil.copytree(next((place.store / "onnx").iterdir()), place.store / "tmp" / "0123456789abcdef")
    for path in (made, *made.iterdir()):
        os.utime(path, (time.time() - 60 * DAY,) * 2)
    work = place.store / "work"
    work.mkdir(exist_ok=True)
    (work / "train-old.npz").write_bytes(b"x")
    os.utime(work / "train-old.npz", (time.time() - 60 * DAY,) * 2)


PREDICT = ("predict", "{images}", "--out", "{table}", "--json")
WORKLOADS: Mapping[str, Workload] = {
    "predict": Workload(console(*PREDICT), committed=_committed_images, taken_over=_reused_images),
    "incremental": Workload(console(*PREDICT, "--incremental"), prepare=_predicted_before),
    "promote": Workload(console("promote", "1"), once=True),
    "rollback": Workload(console("rollback"), once=True),
    "clean": Workload(_sweep, prepare=_long_unused),
    "train": Workload(_train, prepare=_has_arrays, committed=_committed_epochs, taken_over=_resumed_epochs, heavy=True),
}


OF_THE_RUN = (
    "created_at", "seconds", "images_per_second", "reused", "unchanged", "sha256_of_record", "started", "plan",
)  # fmt: skip


def lasting(content: bytes, name: str) -> Any:
    """Give what two runs have in common of a file: all but times in JSON, and of a network its weights."""
    if name.endswith(".keras"):
        return _weights(content)
    if not name.endswith(".json"):
        return content
    try:
        return _without_times(json.loads(content))
    except ValueError:
        return content


def _weights(content: bytes) -> bytes | str:
    """Give the digest of the weights in a file of Keras's, which says besides when it was saved; a torn one: itself."""
    import h5py

    try:
        with (
            zipfile.ZipFile(io.BytesIO(content)) as file,
            h5py.File(io.BytesIO(file.read("model.weights.h5"))) as saved,
        ):
            values: dict[str, Any] = {}
            saved.visititems(lambda name, item: values.update({name: item[()]}) if hasattr(item, "dtype") else None)
            return f"{sorted(values)} {arrays_digest(values[name] for name in sorted(values))}"
    except (zipfile.BadZipFile, KeyError, OSError):
        return content


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: part for key, part in value.items() if key not in OF_THE_RUN and not key.endswith(".keras")}
        return {key: _without_times(part) for key, part in kept.items()}
    return [_without_times(part) for part in value] if isinstance(value, list) else value
