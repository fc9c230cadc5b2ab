"""Time to fit the out-of-distribution score, most of an export, and what it then rejects.

python -m benchmarks export                       # the champion's network
python -m benchmarks export --against FOLDER      # compared with another checkout of Digits, such as an older one
python -m benchmarks export --data FOLDER --others FOLDER     # sets of images, as for the benchmark `sets`

The champion's network is exported without the score. Then a new process per checkout and round adds it, and the
checkouts take turns. The shares of rejected images are the means of all seeds, one seed per round. The files of two
fits with the first seed are compared, too. Needs a champion in the artifact root, and its training arrays. The exit
code is 1 if the two files differ, or if a share differs by more than `LIMIT` from that of the other checkout.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.calibration import FASHION, FONTS, make_non_digits
from benchmarks.normalization import HERE, OTHER, ROOT
from benchmarks.sets import predict, read_others, read_set
from digits.images.types import Pixels
from digits.model.onnx_model import ONNX_FILE, OnnxModel, Predictor
from digits.pipeline.lineage import load_samples
from digits.settings import artifact_root
from digits.store.artifacts import Artifact, Store
from digits.store.registry import Registry

LIMIT = 0.003
"""Largest difference of the share of rejected images of a set."""
FIRST_SEED = 42
_FIT = """
import sys, time
from pathlib import Path
import numpy as np
from digits.training.novelty import add_novelty_output
onnx, arrays, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
pixels = [np.load(arrays / f"{part}_pixels.npy", mmap_mode="r") for part in ("train", "validation")]
wall, cpu = time.perf_counter(), time.process_time()
add_novelty_output(onnx, *pixels, tuple("0123456789"), seed=seed)
print(f"{time.perf_counter() - wall:.1f} {time.process_time() - cpu:.1f}")
"""
"""Program that adds the score to an ONNX file; it works with older checkouts, too."""


def main(arguments: list[str] | None = None) -> int:
    """Print the times and the shares; return 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description="Measure the fit of the out-of-distribution score.")
    parser.add_argument("--against", type=Path, help="another checkout of Digits to compare with")
    parser.add_argument("--rounds", type=int, default=1, help="number of rounds, each with its own seed (default: 1)")
    parser.add_argument("--data", type=Path, help="folder of labelled sets: <set>/<digit>/*")
    parser.add_argument("--others", type=Path, help="folder of sets of images without a digit: <set>/<kind>/*")
    parser.add_argument("--fashion", type=Path, default=FASHION, help="test images of Fashion-MNIST as gzipped IDX")
    parser.add_argument("--fonts", type=Path, default=FONTS, help="folder of fonts to render letters in")
    options = parser.parse_args(arguments)
    store = Store(artifact_root())
    version = Registry(store).resolve("champion")
    arrays = store.open(version.artifact("arrays"))
    checkouts = {HERE: ROOT} | ({OTHER: options.against} if options.against else {})
    with tempfile.TemporaryDirectory() as folder:
        plain = _export(store.open(version.artifact("model")), store.open(version.artifact("onnx")), Path(folder))
        seeds = range(FIRST_SEED, FIRST_SEED + options.rounds)
        fitted = {(seed, name): _fit(plain, arrays, checkouts[name], seed) for seed in seeds for name in checkouts}
        again = _fit(plain, arrays, ROOT, FIRST_SEED)
        differs = (again / ONNX_FILE).read_bytes() != (fitted[FIRST_SEED, HERE] / ONNX_FILE).read_bytes()
        print(f"two fits with one seed: {'DIFFERENT files' if differs else 'the same bytes'}")
        predictors = {
            name: [Predictor(OnnxModel.load(fitted[seed, name], version=0)) for seed in seeds] for name in checkouts
        }
        missed = [_print_shares(name, images, predictors) for name, images in _sets(options, arrays)]
    return int(differs or any(missed))


def _export(model: Artifact, exported: Artifact, folder: Path) -> Path:
    """Export a network without the score, and return the folder with the files of its model."""
    from digits.training import export, networks

    plain = folder / "plain"
    plain.mkdir()
    export.export_onnx(networks.load(model.file("model.keras")), plain / ONNX_FILE)
    shutil.copy(exported.file("spec.json"), plain)
    return plain


def _fit(plain: Path, arrays: Artifact, checkout: Path, seed: int) -> Path:
    """Add the score with the code of a checkout in a new process, print the time, and return the folder."""
    folder = Path(tempfile.mkdtemp(dir=plain.parent))
    shutil.copytree(plain, folder, dirs_exist_ok=True)
    command = [sys.executable, "-P", "-c", _FIT, str(folder / ONNX_FILE), str(arrays.path), str(seed)]
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve())}
    found = subprocess.run(command, env=environment, cwd=checkout, stdout=subprocess.PIPE, text=True, check=True)
    wall, cpu = found.stdout.split()
    print(f"{checkout}, seed {seed}: {wall} s, {cpu} CPU-s", flush=True)
    return folder


def _sets(options: argparse.Namespace, arrays: Artifact) -> Iterator[tuple[str, Sequence[Pixels]]]:
    """Yield the name of each set with its images: digits, then images without a digit."""
    test = load_samples(arrays, "test").pixels
    yield "test images", list(test)
    for directory in sorted(options.data.iterdir()) if options.data else ():
        if directory.is_dir():
            yield directory.name, [pixels for _, pixels in read_set(directory)]
    yield from make_non_digits(options, test)
    yield from read_others(options.others)


def _print_shares(name: str, images: Sequence[Pixels], predictors: Mapping[str, Sequence[Predictor]]) -> bool:
    """Print the share of rejected images by checkout; return whether it differs too much."""
    shares = {
        checkout: float(np.mean([predict(predictor, images).rejected for predictor in those]))
        for checkout, those in predictors.items()
    }
    missed = OTHER in shares and abs(shares[HERE] - shares[OTHER]) > LIMIT
    figures = "".join(f"{share:10.2%}" for share in shares.values())
    print(f"{name:<38}{len(images):>7} images, rejected{figures}{'  DIFFERS' if missed else ''}", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main())
