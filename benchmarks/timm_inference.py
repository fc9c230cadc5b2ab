"""Prediction by timm, as its `inference.py` does it: a folder to a CSV file, with timm's loader and a small network.

python benchmarks/timm_inference.py FOLDER        # prints the images per second

`python -m benchmarks prediction --timm` runs this file with the interpreter of an environment that has timm. It
therefore imports nothing of Digits. The network is `test_resnet`, a small residual network, at 32x32 pixels.
"""

import argparse
import csv
import importlib
import re
import sys
import tempfile
import time

import torch  # type: ignore[import-not-found]
from torch import library as operators

NETWORK = "test_resnet"
BATCH = 256
WORKERS = 2
MAX_OPERATORS = 50
_MISSING = re.compile(r"operator torchvision::(\w+) does not exist")
_OPERATORS = operators.Library("torchvision", "FRAGMENT")


def declare_missing_operators() -> None:
    """Make torchvision importable although its compiled part does not fit this torch, as CUDA's beside a CPU's.

    The import fails at one missing operator at a time. The network and the loader use none of them.
    """
    for _ in range(MAX_OPERATORS):
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            missing = _MISSING.search(str(error))
            if missing is None:
                raise
            _OPERATORS.define(f"{missing[1]}(Tensor x) -> Tensor")
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]


def main() -> None:
    """Predict the folder; the time runs from the creation of the loader to the end of the table."""
    parser = argparse.ArgumentParser(description="Measure timm's prediction of a folder.")
    parser.add_argument("folder", help="folder of images")
    folder = parser.parse_args().folder
    declare_missing_operators()
    timm, data = importlib.import_module("timm"), importlib.import_module("timm.data")
    network = timm.create_model(NETWORK, num_classes=10).eval()
    started = time.perf_counter()
    dataset = data.create_dataset("", root=folder, class_map="")
    loader = data.create_loader(
        dataset, input_size=(3, 32, 32), batch_size=BATCH, use_prefetcher=False, num_workers=WORKERS, crop_pct=1.0
    )
    names = dataset.filenames(basename=True)
    with tempfile.TemporaryFile("w+", newline="") as table, torch.inference_mode():
        writer = csv.writer(table)
        for pixels, _ in loader:
            confidences, classes = network(pixels).softmax(-1).max(-1)
            for index, confidence in zip(classes.tolist(), confidences.tolist(), strict=True):
                writer.writerow([names.pop(0), index, confidence])
    print(len(dataset) / (time.perf_counter() - started))


if __name__ == "__main__":
    main()
