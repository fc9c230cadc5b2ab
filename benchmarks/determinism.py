"""The same training and prediction twice, in fresh processes that have nothing else in common: what is the same?

python -m benchmarks determinism            # two to three minutes on two cores
python -m benchmarks determinism --epochs 4

A life trains `compact` on the sample of MNIST that comes with Digits, with all that its preset has (augmentation,
dropout, weight average, made digits), exports, evaluates, reports, and predicts the test images from files into tables
of all three formats. The first two lives differ in home, working directory, artifact root, folder, umask, time zone,
language, hash seed, the files' times and the number of worker processes; all that they make must have the same bytes,
and the artifacts the same names. The others are kept from some of the processor's instructions, as older ones are: how
far off they are is printed, and fails nothing.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from digits.api import predict, write_test_images
from digits.outputs.summary import picture_path
from digits.pipeline import steps
from digits.pipeline.config import TrainingRun
from digits.prediction.config import PredictionConfig
from digits.settings import parse
from digits.store.artifacts import Store
from digits.store.records import digest_of
from digits.store.registry import Registry
from tests.support.server import untracked

OF_THE_RUN = ("source", "out", "seconds", "images_per_second", "trend")
"""What a summary says of its own run; the trend has the times of runs."""

FORMATS = ("csv", "parquet", "jsonl")
FIRST = {"HOME": "first", "PYTHONHASHSEED": "1", "TZ": "UTC", "LANG": "C"}
SECOND = {"HOME": "second", "PYTHONHASHSEED": "2", "TZ": "Asia/Kolkata", "LANG": "C.UTF-8"}
OTHER_PROCESSORS: Mapping[str, Mapping[str, str]] = {
    "no AVX-512": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL",
    },
    "no oneDNN": {"TF_ENABLE_ONEDNN_OPTS": "0"},
}
"""What the libraries can be told; ONNX Runtime can't be, so its part of a difference is not in it."""


@dataclass(frozen=True)
class Life:
    """What a process made: the hash of each thing, and the test images' probabilities."""

    made: dict[str, str]
    probabilities: npt.NDArray[np.float32]
    right: float


def live(place: Path, environment: Mapping[str, str], *, epochs: int, processes: int, umask: int = 0o022) -> Life:
    """Be a fresh process in a place of its own."""
    home = place / environment.get("HOME", "home")
    home.mkdir(parents=True)
    options = [str(place), "--epochs", str(epochs), "--processes", str(processes)]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.determinism", "--be", *options]
    given = {**untracked(home), **environment, "HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, cwd=home, env=given, capture_output=True, text=True, check=False, umask=umask)
    if done.returncode != 0:
        sys.exit(f"the life in {place} ended with {done.returncode}: {done.stderr[-2000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    return Life(told["made"], np.load(place / "y_prob.npy"), told["accuracy"])


def be(place: Path, *, epochs: int, processes: int) -> dict[str, Any]:
    """Train and predict in a place; give the hashes of what was made."""
    store = Store(place / "artifacts")
    settings = {"datasets": ("mnist-sample",), "training": {"epochs": epochs}}
    run = parse(TrainingRun, settings, source="determinism").resolved()
    arrays = steps.prepare_arrays(store, [steps.download_dataset(store, "mnist-sample")], run.arrays)
    network = steps.build_network(store, arrays, run.model, seed=run.training.seed)
    model = steps.train_network(store, network, arrays, run.training)
    exported = steps.export_model(store, model, arrays)
    evaluation = steps.evaluate_model(store, exported, arrays)
    report = steps.report_model(store, evaluation)
    version, _ = steps.register_model(store, evaluation, report)
    Registry(store).promote(version.number, reasons=["to be measured"])
    folder = write_test_images(version.number, place / f"folder-{processes}", artifacts=store.root)
    made = {"weights": version.weights_sha256}
    for ref in (arrays, network, model, exported, evaluation, report):
        made[f"{ref.kind}: name"] = ref.digest
        files: Mapping[str, Any] = store.open(ref).manifest["files"]
        made |= {f"{ref.kind}: {name}": entry["sha256"] for name, entry in files.items() if name.count(".keras") == 0}
    for form in FORMATS:
        out = place / f"{form}-table.{form}"
        options = PredictionConfig(probabilities=True, top_k=3, max_error=0.05, processes=processes)
        told = predict(folder, out=out, options=options, artifacts=store.root).as_record()
        made[f"prediction: {form}"] = _hash(out.read_bytes())
        made[f"prediction: picture ({form})"] = _hash(picture_path(out).read_bytes())
        made[f"prediction: summary ({form})"] = digest_of({key: told[key] for key in told.keys() - set(OF_THE_RUN)})
    shutil.copy(store.open(evaluation).file("y_prob.npy"), place / "y_prob.npy")
    return {"made": made, "accuracy": version.facts.accuracy}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def compared(first: Life, second: Life) -> list[str]:
    """Name what is not the same."""
    return sorted(name for name in first.made | second.made if first.made.get(name) != second.made.get(name))


def distance(first: Life, other: Life) -> str:
    """Say how far off another processor's answers are."""
    off = float(np.abs(first.probabilities - other.probabilities).max())
    others = int((first.probabilities.argmax(axis=1) != other.probabilities.argmax(axis=1)).sum())
    same = "the same weights" if first.made["weights"] == other.made["weights"] else "other weights"
    return (
        f"{same}; {others} of {len(first.probabilities):,} test images get another class, probabilities are up to "
        f"{off:.2g} off, the accuracy is {other.right:.2%} beside {first.right:.2%}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Print what is the same and what is not; 1 when the first two lives differ."""
    options = _options(arguments)
    if options.be:
        print(json.dumps(be(options.be, epochs=options.epochs, processes=options.processes)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        first = live(base / "1", FIRST, epochs=options.epochs, processes=1)
        second = live(base / "a longer name", SECOND, epochs=options.epochs, processes=2, umask=0o077)
        faults = compared(first, second)
        print(f"{len(first.made) - len(faults)} of {len(first.made)} things are the same, byte for byte", flush=True)
        for fault in faults:
            print(f"not the same: {fault}")
        for label, environment in OTHER_PROCESSORS.items() if options.processors else ():
            other = live(base / label, {**FIRST, **environment}, epochs=options.epochs, processes=2)
            print(f"{label}: {distance(first, other)}", flush=True)
    return int(bool(faults))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train and predict twice, and compare.")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--processors", action=argparse.BooleanOptionalAction, default=True, help="try other ones too")
    parser.add_argument("--be", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=1, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
