"""The loop of the tutorials: `model.predict` for each image in turn.

python -m benchmarks.tutorial FOLDER ARTIFACTS    # prints the images a second
"""

import csv
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from digits.training import networks
from tests.support.networks import champion_keras

IMAGES = 200


def main(folder: str, artifacts: str) -> None:
    """Predict a sample of the folder into a table; the model was loaded, and called once, before the clock starts."""
    network = networks.load(champion_keras(Path(artifacts)))
    paths = sorted(Path(folder).iterdir())[:IMAGES]
    network.predict(np.zeros((1, 28, 28, 1), np.float32), verbose=0)
    with tempfile.TemporaryFile("w+", newline="") as table:
        writer = csv.writer(table)
        started = time.perf_counter()
        for path in paths:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("L"), np.float32)
            chances = network.predict(pixels.reshape(1, 28, 28, 1), verbose=0)
            writer.writerow([path.name, int(chances.argmax()), float(chances.max())])
        print(len(paths) / (time.perf_counter() - started))


if __name__ == "__main__":
    main(*sys.argv[1:])
