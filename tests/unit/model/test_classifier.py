"""Loaded models: scikit-learn's methods, and the answers of the table."""

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import digits
from digits.errors import UsageError
from digits.images.types import Pixels
from digits.model.classifier import Model
from digits.model.onnx_model import BATCH, OnnxModel, Predictor
from tests.support.networks import tiny_store
from tests.support.tiny_model import add_novelty_output, draw, write_model

COUNT = BATCH + 6


@pytest.fixture
def flagging(tmp_path: Path) -> Path:
    """Model that rejects bright images, and whose predictions are uncertain below 0.36."""
    directory = write_model(tmp_path / "model")
    add_novelty_output(directory, above=2.43, temperature=1.0, steps=[[0.36, 100, 1, 0.04]])
    return directory


@pytest.fixture(scope="module")
def images() -> Pixels:
    return np.stack([draw(number) for number in range(COUNT)])


def test_probabilities_and_classes_are_those_of_the_network(model: OnnxModel, images: Pixels) -> None:
    """In more than one batch, in the order of the images."""
    loaded = Model(model)
    expected = Predictor(model).predict(images)
    assert loaded.classes_.tolist() == list(model.class_names)
    found = loaded.predict_proba(images)
    assert (found.dtype, found.shape) == (np.float32, (COUNT, 10))
    assert np.array_equal(found, expected)
    classes = loaded.predict(images)
    assert classes.tolist() == [str(index) for index in expected.argmax(axis=1)]
    assert classes.dtype.kind == "U"
    assert loaded.predict([]).shape == (0,)
    assert repr(loaded).startswith("Model(version=3, classes=['0', '1'")


def test_the_score_is_the_accuracy(model: OnnxModel, images: Pixels) -> None:
    """Labels may be names or numbers."""
    loaded = Model(model)
    labels = loaded.predict(images)
    labels[:7] = [str((int(label) + 1) % 10) for label in labels[:7]]
    expected = pytest.approx((COUNT - 7) / COUNT)
    for given in (labels, labels.astype(int), labels.astype(float), labels.tolist(), labels[:, np.newaxis]):
        assert loaded.score(images, given) == expected


@pytest.mark.parametrize(("count", "found"), [(3, "found 3 labels for 1 images"), (0, "found 0 labels for 1 images")])
def test_another_number_of_labels_is_one_sentence(model: OnnxModel, images: Pixels, count: int, found: str) -> None:
    with pytest.raises(UsageError, match=rf"score\(\): {found}, expected one for each; several images in one array"):
        Model(model).score(images[0], labels=[1] * count)


def test_the_answers_are_those_of_the_table(flagging: Path, images: Pixels, tmp_path: Path) -> None:
    """Class, probability and status of every kind of image: uncertain, rejected, damaged, of another size."""
    scans = tmp_path / "scans"
    scans.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(scans / f"{number:03}.png")
    (scans / "x.png").write_bytes(b"no image")
    Image.fromarray(255 - np.kron(images[5], np.ones((4, 4), np.uint8))).save(scans / "y.jpg")
    Image.new("L", (50, 50), 255).save(scans / "z.tif", save_all=True, append_images=[Image.new("L", (9, 9))])
    root = tiny_store(tmp_path / "artifacts")
    options = {"model": flagging, "max_error": 0.05, "pages": "first", "processes": 1, "progress": False}
    rows = digits.predict(scans, artifacts=root, as_records=True, **options)
    answers = digits.load_model(flagging, max_error=0.05, artifacts=root)(sorted(scans.iterdir()))
    expected = [{"label": row["prediction"], "score": row["confidence"], "status": row["status"]} for row in rows]
    assert answers == expected
    assert {answer["status"] for answer in answers} == {"ok", "uncertain", "not-a-digit", "not-an-image"}
    assert answers[-3:][0] == {"label": None, "score": None, "status": "not-an-image"}


def test_an_image_that_cannot_be_read_is_named(model: OnnxModel, images: Pixels, tmp_path: Path) -> None:
    """A matrix has no place for it."""
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=f"image {BATCH + 1}: not-an-image: .*; leave it out, or call the model"):
        Model(model).predict([*images[: BATCH + 1], tmp_path / "x.png"])
    with pytest.raises(UsageError, match=r"no\.png: could not be read"):
        Model(model)(tmp_path / "no.png")


def test_a_model_predicts_in_several_threads(model: OnnxModel, images: Pixels) -> None:
    loaded, found = Model(model), dict[int, bool]()
    expected = loaded.predict_proba(images)

    def predict(number: int) -> None:
        found[number] = all(np.array_equal(loaded.predict_proba(images[:9]), expected[:9]) for _ in range(20))

    threads = [threading.Thread(target=predict, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), True)
