"""Determinism of training and prediction: the same work in two new processes that share nothing, compared by hash.

python -m benchmarks determinism                    # two to three minutes on two cores
python -m benchmarks determinism --epochs 4
python -m benchmarks determinism --no-processors    # only the two processes that must agree

Each process trains `compact` on the bundled sample of MNIST with all that its preset has: augmentation, dropout, weight
averaging, synthetic digits. It then exports, evaluates, reports, and predicts the test images from files into tables in
all three formats. The first two processes differ in home, working directory, artifact root, folder, umask, time zone,
language, hash seed, modification times and number of workers. All their results must have the same bytes, and their
artifacts the same digests. Further processes use fewer instructions of the processor, as older processors do. How far
their results differ is printed, and is not a failure.
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

from digits.outputs.summary import picture_path
from digits.pipeline import steps
from digits.pipeline.config import TrainingRun
from digits.pipeline.training import write_test_images
from digits.prediction import service
from digits.prediction.config import PredictionConfig
from digits.settings import parse
from digits.store.artifacts import Store
from digits.store.records import digest_of
from digits.store.registry import Registry
from tests.support.server import untracked

RUN_KEYS = ("source", "out", "seconds", "images_per_second", "trend")
"""Keys of a summary that differ from run to run: paths and times. The trend has the times of runs."""

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
"""Environment variables by which the libraries use fewer instructions. ONNX Runtime has none, so its share of a
difference is not measured."""


@dataclass(frozen=True)
class Result:
    """Result of one process.

    Args:
        hashes: SHA-256 of each file and value, by name.
        y_prob: probabilities of the test images, (N, classes).
        accuracy: test accuracy.
    """

    hashes: dict[str, str]
    y_prob: npt.NDArray[np.float32]
    accuracy: float


def run_process(
    place: Path, environment: Mapping[str, str], *, epochs: int, processes: int, umask: int = 0o022
) -> Result:
    """Train and predict in a new process with its own home directory and artifact root, both below `place`."""
    home = place / environment.get("HOME", "home")
    home.mkdir(parents=True)
    options = [str(place), "--epochs", str(epochs), "--processes", str(processes)]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.determinism", "--child", *options]
    variables = {**untracked(home), **environment, "HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, cwd=home, env=variables, capture_output=True, text=True, check=False, umask=umask)
    if done.returncode != 0:
        sys.exit(f"the process in {place} ended with exit code {done.returncode}: {done.stderr[-2000:]}")
    output = json.loads(done.stdout.splitlines()[-1])
    return Result(output["hashes"], np.load(place / "y_prob.npy"), output["accuracy"])


def train_and_predict(place: Path, *, epochs: int, processes: int) -> dict[str, Any]:
    """Train and predict below a directory; return the hashes of all results, and the test accuracy."""
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
    Registry(store).promote(version.number, reasons=["determinism benchmark"])
    folder = write_test_images(store, version.number, place / f"folder-{processes}")
    hashes = {"weights": version.weights_sha256}
    for ref in (arrays, network, model, exported, evaluation, report):
        hashes[f"{ref.kind}: digest"] = ref.digest
        files: Mapping[str, Any] = store.open(ref).manifest["files"]
        hashes |= {
            f"{ref.kind}: {name}": entry["sha256"] for name, entry in files.items() if not name.endswith(".keras")
        }
    for form in FORMATS:
        out = place / f"{form}-table.{form}"
        options = PredictionConfig(probabilities=True, top_k=3, max_error=0.05, processes=processes)
        summary = service.predict_folder(store, folder, out=out, options=options).as_record()
        hashes[f"prediction: {form}"] = _hash(out.read_bytes())
        hashes[f"prediction: picture ({form})"] = _hash(picture_path(out).read_bytes())
        hashes[f"prediction: summary ({form})"] = digest_of(
            {key: summary[key] for key in summary.keys() - set(RUN_KEYS)}
        )
    shutil.copy(store.open(evaluation).file("y_prob.npy"), place / "y_prob.npy")
    return {"hashes": hashes, "accuracy": version.facts.accuracy}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def find_differences(first: Result, second: Result) -> list[str]:
    """Return the names of the files and values that differ."""
    return sorted(name for name in first.hashes | second.hashes if first.hashes.get(name) != second.hashes.get(name))


def describe_difference(first: Result, other: Result) -> str:
    """Describe how far the results of another processor differ."""
    largest = float(np.abs(first.y_prob - other.y_prob).max())
    changed = int((first.y_prob.argmax(axis=1) != other.y_prob.argmax(axis=1)).sum())
    weights = "same weights" if first.hashes["weights"] == other.hashes["weights"] else "different weights"
    return (
        f"{weights}; {changed} of {len(first.y_prob):,} test images get another class; the largest difference of a "
        f"probability is {largest:.2g}; accuracy {other.accuracy:.2%} instead of {first.accuracy:.2%}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Print what is identical and what differs; return 1 if anything differs between the first two processes."""
    options = _options(arguments)
    if options.child:
        print(json.dumps(train_and_predict(options.child, epochs=options.epochs, processes=options.processes)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        first = run_process(base / "1", FIRST, epochs=options.epochs, processes=1)
        second = run_process(base / "a longer name", SECOND, epochs=options.epochs, processes=2, umask=0o077)
        differences = find_differences(first, second)
        total = len(first.hashes)
        print(f"{total - len(differences)} of {total} files and values are identical, byte for byte", flush=True)
        for difference in differences:
            print(f"different: {difference}")
        for label, environment in OTHER_PROCESSORS.items() if options.processors else ():
            other = run_process(base / label, {**FIRST, **environment}, epochs=options.epochs, processes=2)
            print(f"{label}: {describe_difference(first, other)}", flush=True)
    return int(bool(differences))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train and predict twice in separate processes, and compare the results."
    )
    parser.add_argument("--epochs", type=int, default=2, help="number of epochs (default: 2)")
    parser.add_argument(
        "--processors",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also measure with fewer processor instructions",
    )
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=1, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
