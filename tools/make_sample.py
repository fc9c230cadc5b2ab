"""Sample of MNIST that is part of the package: `digits/data/sample/mnist-sample.npz`.

python -m tools.make_sample [--downloads FOLDER]

The sample has one training image in ten and one test image in ten of each class, drawn at random with a fixed seed and
kept in their order. The archive has no timestamps: the same MNIST and the same zlib give the same bytes. The command
prints the hash that `digits/data/datasets.py` must contain.
"""

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from digits.data.arrays import LabelledArrays
from digits.data.datasets import SAMPLE_FILE, load
from digits.data.idx import NPZ_KEYS
from digits.images.types import Labels, Pixels
from digits.store.files import hash_file

SEED = 0
SIZES = {"train": 6_000, "test": 1_000}
FIRST_DATE = (1980, 1, 1, 0, 0, 0)
"""Earliest date that a zip archive can store."""


def choose(data: LabelledArrays) -> dict[str, Pixels]:
    """Draw the sample: x_train (6000, 28, 28), y_train (6000,), x_test (1000, 28, 28), y_test (1000,), all uint8."""
    generator = np.random.default_rng(SEED)
    train = draw(data.train_labels, SIZES["train"], generator)
    test = draw(data.test_labels, SIZES["test"], generator)
    arrays = (data.train_pixels[train], data.train_labels[train], data.test_pixels[test], data.test_labels[test])
    return dict(zip(NPZ_KEYS, arrays, strict=True))


def draw(labels: Labels, size: int, generator: np.random.Generator) -> npt.NDArray[np.intp]:
    """Draw indices such that each class keeps its share of the labels; return them in ascending order."""
    counts = quotas(np.bincount(labels), size)
    chosen = [generator.permutation(np.flatnonzero(labels == label))[:count] for label, count in enumerate(counts)]
    return np.sort(np.concatenate(chosen))


def quotas(counts: npt.NDArray[np.intp], size: int) -> list[int]:
    """Distribute a size among classes in proportion to their counts, by the largest remainder method."""
    exact = counts * size / counts.sum()
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind="stable")[: size - shares.sum()]] += 1
    return [int(share) for share in shares]


def write_npz(path: Path, arrays: dict[str, Pixels]) -> None:
    """Write a compressed `.npz` file whose bytes depend only on the arrays."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", FIRST_DATE)
            archive.writestr(entry, content.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)


def main() -> None:
    """Write the sample, and print its size and its hash."""
    parser = argparse.ArgumentParser(description="Write the sample of MNIST that is part of the package.")
    parser.add_argument(
        "--downloads", type=Path, default=Path("artifacts/downloads"), help="directory with the downloaded MNIST"
    )
    parser.add_argument("--out", type=Path, default=SAMPLE_FILE, help="file to write (default: the bundled sample)")
    options = parser.parse_args()
    write_npz(options.out, choose(load("mnist", downloads=options.downloads)))
    print(f"{options.out}: {options.out.stat().st_size:,} bytes, SHA-256 {hash_file(options.out)}")


if __name__ == "__main__":
    main()
