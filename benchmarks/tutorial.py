"""Prediction loop of the tutorials: `model.predict` for each image in turn.

python -m benchmarks.tutorial FOLDER ARTIFACTS    # prints the images per second

`python -m benchmarks prediction` runs this module.
"""

import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from digits.training import networks
from tests.support.networks import champion_keras

IMAGES = 200


def main() -> None:
    """Predict images into a table; loading the model and its first call are not timed."""
    parser = argparse.ArgumentParser(description="Measure the prediction loop of the tutorials.")
    parser.add_argument("folder", type=Path, help=f"folder of images of 28x28 pixels, of which {IMAGES} are used")
    parser.add_argument("artifacts", type=Path, help="artifact root with a champion")
    options = parser.parse_args()
    network = networks.load(champion_keras(options.artifacts))
    paths = sorted(options.folder.iterdir())[:IMAGES]
    network.predict(np.zeros((1, 28, 28, 1), np.float32), verbose=0)
    with tempfile.TemporaryFile("w+", newline="") as table:
        writer = csv.writer(table)
        started = time.perf_counter()
        for path in paths:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("L"), np.float32)
            y_prob = network.predict(pixels.reshape(1, 28, 28, 1), verbose=0)
            writer.writerow([path.name, int(y_prob.argmax()), float(y_prob.max())])
        print(len(paths) / (time.perf_counter() - started))


if __name__ == "__main__":
    main()
