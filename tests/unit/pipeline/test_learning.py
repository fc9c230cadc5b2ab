"""Training data from your own labels: split, repeated, and listed."""

import csv
import hashlib
import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from digits.data.config import ArraysConfig
from digits.data.labels import LabelLog, Undo
from digits.errors import DataError
from digits.pipeline.config import TrainingRun
from digits.pipeline.lineage import Lineage, own_facts
from digits.pipeline.steps import download_dataset, drop_empty_reviewed, own_headline, prepare_arrays
from digits.settings import parse
from digits.store.artifacts import Artifact, ArtifactRef, Store
from digits.store.registry import ModelFacts
from tests.support.labels import ANSWER
from tests.support.tiny_model import draw

pytestmark = pytest.mark.usefixtures("without_sync")

CONFIG = ArraysConfig(validation_fraction=0.2, own_share=0.25)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Store with a label log of 80 drawn digits, one image that is no digit, and one that was skipped."""
    store = Store(tmp_path / "artifacts")
    for number in range(80):
        label_image(store, draw(number), str(number % 10))
    label_image(store, draw(1000), "not-a-digit")
    label_image(store, draw(1001), "skip")
    return store


def label_image(store: Store, pixels: np.ndarray, label: str) -> str:
    """Label an image and return its SHA-256."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    sha256 = hashlib.sha256(content.getvalue()).hexdigest()
    log = LabelLog(store.labels)
    log.save_image(sha256, content.getvalue())
    log.append([replace(ANSWER, id=f"{sha256} {label}", sha256=sha256, label=label)])
    return sha256


def prepared(store: Store, *sources: str) -> Artifact:
    """Return the arrays made from datasets."""
    references: list[ArtifactRef] = [download_dataset(store, source) for source in sources]
    return store.open(prepare_arrays(store, references, CONFIG))


def array(arrays: Artifact, name: str) -> np.ndarray:
    """Load one of the arrays."""
    return np.asarray(np.load(arrays.file(f"{name}.npy")))


def labels_in(arrays: Artifact) -> dict[str, dict[str, str]]:
    """Return the rows of labels.csv by SHA-256."""
    with arrays.file("labels.csv").open(encoding="utf-8", newline="") as file:
        return {row["sha256"]: row for row in csv.DictReader(file)}


def test_a_single_label_can_be_in_any_part(tmp_path: Path) -> None:
    """Its hash decides whether it is a training, validation or test image."""
    sides = set()
    for number in range(20):
        store = Store(tmp_path / str(number))
        sha256 = label_image(store, draw(number), str(number % 10))
        listed = labels_in(prepared(store, "mnist-sample", "reviewed"))
        assert list(listed) == [sha256]
        sides.add(listed[sha256]["part"])
        if len(sides) == 3:
            return
    pytest.fail(f"all are for {sides}")


def test_reviewed_is_left_out_while_nothing_is_labelled(store: Store, tmp_path: Path) -> None:
    """If it is the only dataset, the download is an error."""
    run = parse(TrainingRun, {"datasets": ("mnist-sample", "reviewed")}, source="test").resolved()
    alone = run.model_copy(update={"datasets": ("reviewed",)})
    empty = Store(tmp_path / "empty")
    assert drop_empty_reviewed(empty, run).datasets == ("mnist-sample",)
    assert drop_empty_reviewed(empty, alone) == alone
    assert drop_empty_reviewed(store, run) == run
    label_image(empty, draw(1), "not-a-digit")
    assert drop_empty_reviewed(empty, run).datasets == ("mnist-sample",)
    with pytest.raises(DataError, match="no image has been labelled as a digit"):
        download_dataset(empty, "reviewed")


def test_reviewed_images_make_the_stated_share_of_the_training_images(store: Store) -> None:
    """They are repeated in the training images only, and no image is in two parts."""
    arrays = prepared(store, "mnist-sample", "reviewed")
    listed = labels_in(arrays)
    assert len(listed) == 80
    parts = Counter(row["part"] for row in listed.values())
    counts = {part: Counter(image.tobytes() for image in array(arrays, f"{part}_pixels")) for part in parts}
    drawn = {draw(number).tobytes() for number in range(80)}
    for part, number in parts.items():
        assert len(drawn & counts[part].keys()) == number
        assert all(counts[part][image] == 1 for image in drawn & counts[part].keys()) == (part != "train")
    rows = sum(counts["train"][image] for image in drawn)
    assert rows / len(array(arrays, "train_pixels")) == pytest.approx(0.25, abs=1e-3)
    assert not counts["train"].keys() & (counts["validation"].keys() | counts["test"].keys()) & drawn
    assert json.loads(arrays.file("arrays.json").read_text())["own"] == {"images": 80, "rows": rows}


def test_each_image_has_its_label(store: Store) -> None:
    """In labels.csv and in the arrays."""
    arrays = prepared(store, "mnist-sample", "reviewed")
    drawn = {draw(number).tobytes(): number % 10 for number in range(80)}
    for part in ("train", "validation", "test"):
        pixels, labels = array(arrays, f"{part}_pixels"), array(arrays, f"{part}_labels")
        found = [
            (drawn[image.tobytes()], label)
            for image, label in zip(pixels, labels, strict=True)
            if image.tobytes() in drawn
        ]
        assert found
        assert all(expected == label for expected, label in found)
    kept = store.labels / "images"
    for sha256, row in labels_in(arrays).items():
        assert drawn[np.asarray(Image.open(kept / sha256)).tobytes()] == int(row["label"])


def test_findings_count_the_images_that_were_left_out(store: Store) -> None:
    """Skipped images, images that are no digit, changed labels, and labels that contradict or repeat MNIST."""
    published = np.load(store.open(download_dataset(store, "mnist-sample")).file("test_pixels.npy"))
    label_image(store, draw(3), "9")
    label = int(np.load(store.open(download_dataset(store, "mnist-sample")).file("test_labels.npy"))[0])
    same = label_image(store, published[0], str(label))
    other = label_image(store, published[1], "9")
    arrays = prepared(store, "mnist-sample", "reviewed")
    findings = {finding["check"]: finding for finding in json.loads(arrays.file("arrays.json").read_text())["findings"]}
    assert {name: findings[name]["value"] for name in findings if "duplicates" not in name and "label" in name} == {
        "changed-labels": 1,
        "conflicting-labels": 1,
        "repeated-labels": 1,
    }
    assert findings["not-digits"]["value"] == findings["skipped"]["value"] == 1
    assert other[:12] in findings["conflicting-labels"]["message"]
    assert not {same, other} & labels_in(arrays).keys()
    assert np.array_equal(array(arrays, "test_pixels")[: len(published)], published)


def test_another_label_makes_new_arrays_and_an_undo_reuses_the_old_ones(store: Store) -> None:
    """Arrays without your own labels have no labels.csv."""
    first = prepared(store, "mnist-sample", "reviewed")
    sha256 = label_image(store, draw(500), "4")
    more = prepared(store, "mnist-sample", "reviewed")
    assert first.ref != more.ref
    assert labels_in(more).keys() - labels_in(first).keys() == {sha256}
    log = LabelLog(store.labels)
    log.append([Undo("undo", "now", f"{sha256} 4")])
    assert prepared(store, "mnist-sample", "reviewed").ref == first.ref
    plain = prepared(store, "mnist-sample")
    assert "labels.csv" not in plain.manifest["files"]
    assert json.loads(plain.file("arrays.json").read_text())["own"] == {"images": 0, "rows": 0}


def test_facts_have_the_number_and_share_of_your_own_labels(store: Store) -> None:
    """The share includes repetitions; without own labels there is no such fact."""
    found = []
    for sources in (["mnist-sample", "reviewed"], ["mnist-sample"]):
        arrays = prepared(store, *sources)
        found.append(own_facts(Lineage(arrays, arrays, arrays, arrays, arrays, ())))
    assert found == [{"own_images": 80, "own_share": 0.25}, {}]
    assert own_headline(ModelFacts(**found[0])) == {
        "Your own labelled images": "80 images, 25.0% of the training images, repetitions included",
    }
    assert own_headline(ModelFacts(**found[1])) == {}


def test_a_labelled_folder_is_treated_like_reviewed(store: Store, tmp_path: Path) -> None:
    """Images that are in both count once."""
    for number in range(60, 100):
        (tmp_path / "mine" / str(number % 10)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(number)).save(tmp_path / "mine" / str(number % 10) / f"{number}.png")
    arrays = prepared(store, "mnist-sample", "reviewed", str(tmp_path / "mine"))
    assert len(labels_in(arrays)) == 100
    findings = [finding["message"] for finding in json.loads(arrays.file("arrays.json").read_text())["findings"]]
    assert "dropped 20 of your own images that another dataset also contains" in findings
