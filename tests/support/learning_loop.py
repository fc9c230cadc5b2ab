"""The whole circle: predict, review, train, decide, promote, predict again and be better; refuse sabotage; roll back.

Half of some pictures, by their hash, are predicted and reviewed: a script presses the keys of the page in a real
browser, each picture's true digit. With what was labelled another model is trained, which the gate has to promote; the
other half, which nobody has labelled, is predicted by both. Then that other half is made a dataset with its labels
shuffled, and trained on besides, which the gate has to refuse, and the promotion is taken back: the table must be the
first one again.
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
from tests.support.review_session import Scans, served

MADE = 800
SLANT = 0.9
"""Of the pictures that are made: columns by which a row is shifted against the next."""

RESAMPLES = 10_000
LEVEL = 0.95
PATIENCE = 60
Right = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Writing:
    """Pictures in two folders of equal size, and what they show, by the SHA-256 of the files."""

    asked: Path
    held_back: Path
    truth: Mapping[str, str]


@dataclass(frozen=True)
class Circle:
    """What became of it.

    Args:
        before: whether each picture that was held back is predicted right by the first model, (N,).
        after: the same of the second.
        labelled: pictures that were reviewed.
        learned: the outcome of the training on what was labelled, as `digits train --json` prints it.
        sabotaged: that of the training on shuffled labels.
        rolled_back: the first champion's table came back, byte for byte.
    """

    before: Right
    after: Right
    labelled: int
    learned: Mapping[str, Any]
    sabotaged: Mapping[str, Any]
    rolled_back: bool

    @property
    def gain(self) -> tuple[float, float, float]:
        """Give how much more is right, and the interval of it: by the percentiles of a paired bootstrap."""
        difference = self.after.astype(float) - self.before
        draws = np.random.default_rng(0).integers(0, len(difference), (RESAMPLES, len(difference)))
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(difference[draws].mean(axis=1), (tail, 1 - tail))
        return float(difference.mean()), float(low), float(high)


def divide(pictures: Sequence[tuple[Path, str]], place: Path) -> Writing:
    """Put labelled pictures into two folders, every other one by hash; of the same content there is one."""
    contents = {hashlib.sha256(path.read_bytes()).hexdigest(): (path, label) for path, label in pictures}
    for number, (sha256, (path, _)) in enumerate(sorted(contents.items())):
        target = place / ("asked", "held back")[number % 2] / f"{sha256[:16]}{path.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return Writing(place / "asked", place / "held back", {sha256: label for sha256, (_, label) in contents.items()})


def labelled_pictures(data: Path) -> list[tuple[Path, str]]:
    """Find the pictures in folders that are named by what they show."""
    return [(path, path.parent.name) for path in sorted(data.glob("[0-9]/*"))]


def make_pictures(place: Path) -> list[tuple[Path, str]]:
    """Draw digits of MNIST's sample as somebody with another slant writes them, dark on white paper."""
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


def go_round(
    writing: Writing, place: Path, environment: Mapping[str, str], *, dataset: str, options: Sequence[str]
) -> Circle:
    """Go round once in an artifact root of its own.

    Args:
        writing: the pictures.
        place: an empty directory.
        environment: with a Prefect API.
        dataset: what the first model is trained on.
        options: more of `digits train`.
    """
    root = place / "artifacts"

    def digits(*arguments: str | Path) -> Any:
        command = [DIGITS, *map(str, arguments), "--artifacts", str(root), "--json"]
        done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return json.loads(done.stdout)

    digits("train", "--dataset", dataset, *options)
    asked, first, second, third = (place / f"{name}.csv" for name in ("asked", "before", "after", "again"))
    digits("predict", writing.asked, "--out", asked, "--max-error", ".01")
    digits("predict", writing.held_back, "--out", first)
    with browser.chromium(place / "profile") as started:
        labelled = review(started, Scans(asked, root, writing.truth))
    learned = digits("train", "--dataset", dataset, "--dataset", "reviewed", *options)
    digits("predict", writing.held_back, "--out", second)
    spoiled = shuffled(writing, place / "spoiled")
    more = ("--dataset", "reviewed", "--dataset", spoiled, "--config", _much(place))
    sabotaged = digits("train", "--dataset", dataset, *more, *options)
    digits("rollback")
    digits("predict", writing.held_back, "--out", third)
    return Circle(
        right(first, writing.truth),
        right(second, writing.truth),
        labelled,
        learned,
        sabotaged,
        rolled_back=third.read_bytes() == first.read_bytes(),
    )


def _much(place: Path) -> Path:
    """Have as much sabotage as there may be."""
    path = place / "much.toml"
    path.write_text("[arrays]\nown_share = 0.9\n")
    return path


def shuffled(writing: Writing, place: Path) -> Path:
    """Make a folder of labelled images whose labels are those of others; of those that the review has not seen."""
    paths = sorted(writing.held_back.iterdir())
    labels = [writing.truth[hashlib.sha256(path.read_bytes()).hexdigest()] for path in paths]
    random.Random(0).shuffle(labels)  # noqa: S311
    for path, label in zip(paths, labels, strict=True):
        target = place / label / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return place


def review(started: Any, scans: Scans) -> int:
    """Press the key of what each image shows until none is left; give their number."""
    with served(scans, "--sample", "100000") as (_, address):
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
    WebDriverWait(started, PATIENCE, 0.02).until(lambda it: it.execute_script("return ready || place >= total"))
    found: dict[str, Any] | None = started.execute_script("return place < total ? item(place) : null")
    return found


def right(table: Path, truth: Mapping[str, str]) -> Right:
    """Tell which rows of a table are right, in their order; a row without a prediction is wrong."""
    with table.open(newline="", encoding="utf-8") as file:
        return np.array([row["prediction"] == truth[row["sha256"]] for row in csv.DictReader(file)])
