"""Learning loop: predict, review, train, promote and predict again; then refuse shuffled labels and roll back.

Images are divided by hash into two halves. The first half is predicted and reviewed: a script presses the key of each
image's true digit in a real browser. A model is trained with these labels and must be promoted. The second half, which
nobody has labelled, is predicted with both models. Then the second half with shuffled labels is used for a training,
which must not be promoted. After a rollback, the second half must have its first table again.
"""

import csv
import hashlib
import json
import random
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from digits.data import datasets
from tests.support import browser
from tests.support.command import DIGITS
from tests.support.review_session import Scans, serve_review

MADE = 800
SLANT = 0.9
"""Slant of the images that are drawn: columns by which each row is shifted against the next."""

RESAMPLES = 10_000
LEVEL = 0.95
TIMEOUT = 120
Correct = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LabelledHalves:
    """Images in two folders of equal size, and their true labels by the SHA-256 of the files."""

    reviewed: Path
    held_back: Path
    truth: Mapping[str, str]


@dataclass(frozen=True)
class LearningLoop:
    """Results of the loop.

    Args:
        before: whether the first model predicts each image of the second half correctly, (N,).
        after: the same for the second model.
        labelled: number of reviewed images.
        learned: outcome of the training on the reviewed images, as `digits train --json` prints it.
        sabotaged: outcome of the training on shuffled labels.
        rolled_back: whether the rollback restored the first table, byte for byte.
    """

    before: Correct
    after: Correct
    labelled: int
    learned: Mapping[str, Any]
    sabotaged: Mapping[str, Any]
    rolled_back: bool

    @property
    def gain(self) -> tuple[float, float, float]:
        """Return the gain in accuracy and the percentile interval of a paired bootstrap: gain, low, high."""
        difference = self.after.astype(float) - self.before
        draws = np.random.default_rng(0).integers(0, len(difference), (RESAMPLES, len(difference)))
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(difference[draws].mean(axis=1), (tail, 1 - tail))
        return float(difference.mean()), float(low), float(high)


def split_by_hash(pictures: Sequence[tuple[Path, str]], place: Path) -> LabelledHalves:
    """Copy labelled images into two folders, alternately in the order of their hashes. Duplicates are dropped."""
    contents = {hashlib.sha256(path.read_bytes()).hexdigest(): (path, label) for path, label in pictures}
    for number, (sha256, (path, _)) in enumerate(sorted(contents.items())):
        target = place / ("reviewed", "held back")[number % 2] / f"{sha256[:16]}{path.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return LabelledHalves(
        place / "reviewed", place / "held back", {sha256: label for sha256, (_, label) in contents.items()}
    )


def find_labelled_pictures(data: Path) -> list[tuple[Path, str]]:
    """Find the images in folders named after their labels."""
    return [(path, path.parent.name) for path in sorted(data.glob("[0-9]/*"))]


def draw_slanted_digits(place: Path) -> list[tuple[Path, str]]:
    """Draw digits of MNIST's sample with a slant, dark on white paper."""
    place.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as downloads:
        data = datasets.load("mnist-sample", downloads=Path(downloads))
    made = []
    for number, (pixels, label) in enumerate(zip(data.train_pixels[:MADE], data.train_labels[:MADE], strict=True)):
        side = len(pixels)
        leaning = Image.fromarray(255 - pixels).transform(
            (side, side), Image.Transform.AFFINE, (1, -SLANT, SLANT * side / 2, 0, 1, 0), fillcolor=255,
            resample=Image.Resampling.BICUBIC,
        )  # fmt: skip
        path = place / f"{number:04}.png"
        leaning.save(path)
        made.append((path, data.class_names[label]))
    return made


def run_learning_loop(
    writing: LabelledHalves, place: Path, environment: Mapping[str, str], *, dataset: str, options: Sequence[str]
) -> LearningLoop:
    """Run the loop once, in a new artifact root.

    Args:
        writing: images and their labels.
        place: an empty directory.
        environment: environment variables of the commands, with a Prefect API.
        dataset: dataset of the first model.
        options: further options of `digits train`.
    """
    root = place / "artifacts"

    def digits(*arguments: str | Path) -> Any:
        command = [DIGITS, *map(str, arguments), "--artifacts", str(root), "--json"]
        done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return json.loads(done.stdout)

    digits("train", "--dataset", dataset, *options)
    reviewed, first, second, third = (place / f"{name}.csv" for name in ("reviewed", "before", "after", "again"))
    digits("predict", writing.reviewed, "--out", reviewed, "--max-error", ".01")
    digits("predict", writing.held_back, "--out", first)
    with browser.chromium(place / "profile") as started:
        labelled = review(started, Scans(reviewed, root, writing.truth))
    learned = digits("train", "--dataset", dataset, "--dataset", "reviewed", *options)
    digits("predict", writing.held_back, "--out", second)
    spoiled = shuffle_labels(writing, place / "spoiled")
    spoiled_options = ("--dataset", "reviewed", "--dataset", spoiled, "--config", _write_config(place))
    sabotaged = digits("train", "--dataset", dataset, *spoiled_options, *options)
    digits("rollback")
    digits("predict", writing.held_back, "--out", third)
    return LearningLoop(
        find_correct(first, writing.truth),
        find_correct(second, writing.truth),
        labelled,
        learned,
        sabotaged,
        rolled_back=third.read_bytes() == first.read_bytes(),
    )


def _write_config(place: Path) -> Path:
    """Write a configuration with the largest share of own images, so that the shuffled labels have most effect."""
    path = place / "own_share.toml"
    path.write_text("[arrays]\nown_share = 0.9\n")
    return path


def shuffle_labels(writing: LabelledHalves, place: Path) -> Path:
    """Make a dataset of the images that were not reviewed, with shuffled labels."""
    paths = sorted(writing.held_back.iterdir())
    labels = [writing.truth[hashlib.sha256(path.read_bytes()).hexdigest()] for path in paths]
    random.Random(0).shuffle(labels)  # noqa: S311
    for path, label in zip(paths, labels, strict=True):
        target = place / label / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return place


def review(started: Any, scans: Scans) -> int:
    """Press the key of each image's true digit until none is left. Return the number of images."""
    with serve_review(scans, "--sample", "100000") as (_, address):
        browser.show(started, address, "answered")
        keys = started.find_element(By.TAG_NAME, "body")
        labelled = 0
        while image := _next(started):
            keys.send_keys(scans.truth[image["sha256"]])
            labelled += 1
        browser.wait_for_text(started, "No images left to label")
        browser.wait_for_text(started, "all saved")
    return labelled


def _next(started: Any) -> dict[str, Any] | None:
    WebDriverWait(started, TIMEOUT, 0.02).until(lambda it: it.execute_script("return ready || place >= total"))
    found: dict[str, Any] | None = started.execute_script("return place < total ? item(place) : null")
    return found


def find_correct(table: Path, truth: Mapping[str, str]) -> Correct:
    """Return whether each row of a table is correct, (N,) bool. A row without a prediction is not."""
    with table.open(newline="", encoding="utf-8") as file:
        return np.array([row["prediction"] == truth[row["sha256"]] for row in csv.DictReader(file)])
