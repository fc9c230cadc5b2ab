"""What timm's `inference.py` does, for a small residual network at 32x32: a folder to a CSV, with its own loader.

Run by the interpreter of an environment that has timm: it imports nothing of Digits.

python benchmarks/timm_inference.py FOLDER        # prints the images a second
"""

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
MOST_OPERATORS = 50
_MISSING = re.compile(r"operator torchvision::(\w+) does not exist")
_OPERATORS = operators.Library("torchvision", "FRAGMENT")


def declare_missing_operators() -> None:
    """Let a torchvision be imported whose compiled part does not load beside this torch, as CUDA's beside a CPU's.

    It names each operator that it misses in turn; the network and the loader use none of them.
    """
    for _ in range(MOST_OPERATORS):
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            missing = _MISSING.search(str(error))
            if missing is None:
                raise
            _OPERATORS.define(f"{missing[1]}(Tensor x) -> Tensor")
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]


def main(folder: str) -> None:
    """Predict the folder; the clock runs from the making of the loader to the closed table."""
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
            chances, classes = network(pixels).softmax(-1).max(-1)
            for index, chance in zip(classes.tolist(), chances.tolist(), strict=True):
                writer.writerow([names.pop(0), index, chance])
    print(len(dataset) / (time.perf_counter() - started))


if __name__ == "__main__":
    main(*sys.argv[1:])
