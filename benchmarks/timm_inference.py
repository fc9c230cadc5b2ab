"""What timm's `inference.py` does, for a small residual network at 32x32: a folder to a CSV, with its own loader.

Run by the interpreter of an environment that has timm: it imports nothing of Digits.

python benchmarks/timm_inference.py FOLDER        # prints the images a second
"""

import csv
import sys
import tempfile
import time

import timm  # type: ignore[import-not-found]
import torch  # type: ignore[import-not-found]
from timm.data import create_dataset, create_loader  # type: ignore[import-not-found]

NETWORK = "test_resnet"
BATCH = 256
WORKERS = 2


def main(folder: str) -> None:
    """Predict the folder; the clock runs from the making of the loader to the closed table."""
    network = timm.create_model(NETWORK, num_classes=10).eval()
    started = time.perf_counter()
    dataset = create_dataset("", root=folder, class_map="")
    loader = create_loader(
        dataset, input_size=(3, 32, 32), batch_size=BATCH, use_prefetcher=False, num_workers=WORKERS, crop_pct=1.0
    )
    names = dataset.filenames(basename=True)
    with tempfile.TemporaryFile("w+", newline="") as table, torch.inference_mode():
        writer = csv.writer(table)
        for pixels, _ in loader:
            chances, classes = network(pixels).softmax(-1).max(-1)
            for index, chance in zip(classes.tolist(), chances.tolist(), strict=True):
                writer.writerow([names.pop(0), index, chance])
    print(len(dataset) / (time.perf_counter() - started))


if __name__ == "__main__":
    main(*sys.argv[1:])
