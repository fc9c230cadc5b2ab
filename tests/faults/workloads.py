"""Workloads of the fault campaigns: for each command, its preparation, the run, and what it has committed."""

import io
import json
import logging
import os
import re
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
"""A small network with all the state that a resumed run must restore: cosine schedule, moving average, dropout."""


@dataclass(frozen=True)
class Place:
    """Directories of a command: artifact root, output and images."""

    path: Path

    @property
    def store(self) -> Path:
        """Artifact root."""
        return self.path / "store"

    @property
    def out(self) -> Path:
        """Directory of the tables."""
        return self.path / "out"

    @property
    def table(self) -> Path:
        """Table of a prediction."""
        return self.out / "table.csv"

    @property
    def images(self) -> Path:
        """Folder of images, which no command writes to."""
        return self.path / "images"


def do_nothing(_: Place) -> None:
    """Prepare nothing, or return None as the number of committed items."""


@dataclass(frozen=True)
class Workload:
    """A command to disturb.

    Args:
        run: runs the command in this process and returns its exit code.
        prepare: changes a place, which has a store of two models and images, before the first run.
        committed: counts what an interrupted run has committed; None if that is unknown.
        reused: counts what a finished run has reused, from its place and its standard error.
        once: whether a second run after a finished one does something else.
        heavy: whether the command imports TensorFlow.
    """

    run: Callable[[Place], int]
    prepare: Callable[[Place], None] = do_nothing
    committed: Callable[[Place], int | None] = field(default=do_nothing)
    reused: Callable[[Place, str], int] = field(default=lambda _place, _output: 0)
    once: bool = False
    heavy: bool = False


def console(*command: str) -> Callable[[Place], int]:
    """Return a function that runs a digits command. `{store}`, `{out}`, `{table}` and `{images}` stand for paths."""

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
    """Make a store whose second version is the champion, and a folder of images."""
    make_store(place.store, tiny_network(), name="tiny")
    make_store(place.store, small_network(), name="small")
    write_images(place.images, IMAGES)
    for path in place.images.iterdir():  # old enough for an incremental run to trust their times
        os.utime(path, (time.time() - DAY,) * 2)
    place.out.mkdir()


def _predict_half(place: Place) -> None:
    """Predict half of the images into the table."""
    late = sorted(place.images.iterdir())[IMAGES // 2 :]
    aside = place.path / "aside"
    aside.mkdir()
    for path in late:
        path.rename(aside / path.name)
    _run_in_copy(lambda: console(*PREDICT, "--incremental")(place))
    for path in late:
        (aside / path.name).rename(path)
    aside.rmdir()


def _run_in_copy(work: Callable[[], int]) -> None:
    from tests.support.processes import Forked

    if status := Forked(work).wait():
        raise RuntimeError(f"the place could not be prepared: the command exited with {status}")


def _committed_images(place: Place) -> int | None:
    work = place.store / "work" / "predictions"
    path = next((path for path in work.glob("*") if (path / "parts").is_dir() and path.name[:4] != "tmp-"), None)
    if path is None:
        return None
    plan = Plan.open(path)
    return sum(len(plan.entries(int(commit.stem))) for commit in (path / "parts").glob("[0-9]*.json"))


def _reused_images(place: Place, _output: str) -> int:
    return int(read_record(summary_path(place.table))["reused"])


def _train(place: Place) -> int:
    """Run the library's training steps, as the flow's tasks do."""
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
            steps.train_network(store, steps.build_network(store, arrays, run.model, seed=config.seed), arrays, config)
            for config in run.members()
        ]
        steps.average_models(store, members, arrays, run.training)
    except DigitsError as error:
        sys.stderr.write(f"digits: {error}\n")
        return error.exit_code
    return 0


def _prepare_arrays(place: Place) -> None:
    """Prepare the data, so that only the training is disturbed."""

    def prepare() -> int:
        from digits.pipeline import steps
        from digits.pipeline.config import TrainingRun
        from digits.settings import parse

        run = parse(TrainingRun, TRAINING, source="faults").resolved()
        sources = [steps.download_dataset(Store(place.store), name) for name in run.datasets]
        steps.prepare_arrays(Store(place.store), sources, run.arrays)
        return 0

    _run_in_copy(prepare)


def _committed_epochs(place: Place) -> int | None:
    """Count the epochs in the checkpoint of the member that is being trained."""
    for path in (place.store / "work").glob("train-*.npz"):
        return len(read_checkpoint(path)[0])
    return None


def _resumed_epochs(_place: Place, output: str) -> int:
    resumed = [line for line in output.splitlines() if line.startswith("resumed after epoch ")]
    return int(resumed[0].split()[-1]) if resumed else 0


def _sweep(place: Place) -> int:
    from digits.maintenance.retention import RetentionConfig, sweep_store

    try:
        sweep_store(Store(place.store), RetentionConfig())
    except DigitsError as error:
        sys.stderr.write(f"digits: {error}\n")
        return error.exit_code
    return 0


def _add_unused_files(place: Place) -> None:
    """Add a temporary directory and a checkpoint that are old enough to be removed."""
    made = shutil.copytree(next((place.store / "onnx").iterdir()), place.store / "tmp" / "0123456789abcdef")
    for path in (made, *made.iterdir()):
        os.utime(path, (time.time() - 60 * DAY,) * 2)
    work = place.store / "work"
    work.mkdir(exist_ok=True)
    (work / "train-old.npz").write_bytes(b"x")
    os.utime(work / "train-old.npz", (time.time() - 60 * DAY,) * 2)


PREDICT = ("predict", "{images}", "--out", "{table}", "--json")
WORKLOADS: Mapping[str, Workload] = {
    "predict": Workload(console(*PREDICT), committed=_committed_images, reused=_reused_images),
    "incremental": Workload(console(*PREDICT, "--incremental"), prepare=_predict_half),
    "promote": Workload(console("promote", "1"), once=True),
    "rollback": Workload(console("rollback"), once=True),
    "clean": Workload(_sweep, prepare=_add_unused_files),
    "train": Workload(_train, prepare=_prepare_arrays, committed=_committed_epochs, reused=_resumed_epochs, heavy=True),
}


RUN_KEYS = (
    "created_at", "seconds", "images_per_second", "reused", "unchanged", "sha256_of_record", "started", "plan",
)  # fmt: skip


_FACTS_OF_RUN = re.compile(
    rb"(images per second</dt><dd>|<th scope=\"row\">(?:seconds|images per second|rows [a-z ]+)</th><td>)[^<]*"
)
"""What the report of a prediction says of the run: its rate, its duration, and the rows that it did not predict."""


def comparable_content(content: bytes, name: str) -> Any:
    """Return the content of a file that two runs have in common.

    It is JSON or the report of a prediction without times, or the weights of a network.
    """
    if name.endswith(".keras"):
        return _weights(content)
    if name.endswith(".report.html"):
        return _FACTS_OF_RUN.sub(rb"\1", content)
    if not name.endswith(".json"):
        return content
    try:
        value = json.loads(content)
        if name.endswith(".summary.json"):
            value.pop("files", None)  # it has the hashes of the old and the new table until the new one is in place
        return _without_times(value)
    except ValueError:
        return content


def _weights(content: bytes) -> bytes | str:
    """Return the digest of the weights in a Keras file, which also contains a date; for a damaged file, its bytes."""
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
        kept = {key: part for key, part in value.items() if key not in RUN_KEYS and not key.endswith(".keras")}
        return {key: _without_times(part) for key, part in kept.items()}
    return [_without_times(part) for part in value] if isinstance(value, list) else value
