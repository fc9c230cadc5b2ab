"""Sources of labelled images: what they are called, what identifies them, and what is read."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from digits.data import datasets
from digits.data.checks import check_structure
from digits.data.datasets import attribution, identify, load
from digits.data.downloads import FolderRoute, PublishedDataset
from digits.data.idx import IDX_FILES, NPZ_KEYS, TRAIN_LABELS, to_idx
from digits.data.labels import LabelSnapshot
from digits.errors import DataError, DownloadError, UsageError
from digits.images.normalize import normalize
from tests.support.tiny_model import draw

GENERATOR = np.random.default_rng(0)


def make_arrays(*, train=6, test=4):
    """Give x_train, y_train, x_test, y_test: 5 by 5 pixels, labels 0 to 2."""
    pixels = GENERATOR.integers(0, 256, (train + test, 5, 5), np.uint8)
    labels = (np.arange(train + test) % 3).astype(np.uint8)
    return pixels[:train], labels[:train], pixels[train:], labels[train:]


def write_npz(path, arrays=None):
    """Write an `.npz` file, and give its arrays."""
    arrays = arrays or make_arrays()
    np.savez(path, **dict(zip(NPZ_KEYS, arrays, strict=True)))
    return arrays


def write_idx(folder, arrays=None):
    """Write the four IDX files, and give their arrays."""
    folder.mkdir(exist_ok=True)
    arrays = arrays or make_arrays()
    for name, array in zip(IDX_FILES, arrays, strict=True):
        (folder / name).write_bytes(to_idx(array))
    return arrays


def write_images(root, *, classes=("0", "1"), each=15, seed=0, size=28):
    """Write distinct images into a folder a class: dark ground, a bright block of noise in the middle."""
    generator = np.random.default_rng(seed)
    for class_name in classes:
        (root / class_name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            pixels = np.zeros((size, size), np.uint8)
            pixels[4:-4, 4:-4] = generator.integers(100, 256, (size - 8, size - 8))
            Image.fromarray(pixels).save(root / class_name / f"{seed}-{number}.png")
    return root


def same(data, arrays):
    """Tell whether a dataset has these arrays."""
    found = (data.train_pixels, data.train_labels, data.test_pixels, data.test_labels)
    return all(np.array_equal(*pair) for pair in zip(found, arrays, strict=True))


def message_of(call, *args, error=DataError, **kwargs):
    """Give the message of the error that a call raises."""
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    return str(caught.value)


class TestNames:
    """Which source a word means."""

    @pytest.mark.parametrize("source", ["", "mnits", "no/such/folder", "~nobody-of-this-name/x", "a\0b"])
    def test_an_unknown_one_is_an_error_that_lists_the_accepted(self, source, tmp_path):
        """Both for what it is and for having it."""
        for call in (identify, lambda source: load(source, downloads=tmp_path)):
            message = message_of(call, source, error=UsageError)
            for accepted in ("mnist,", "fashion-mnist", "mnist-sample", ".npz", "IDX", "<root>/<class>/*.png"):
                assert accepted in message

    def test_a_folder_or_file_of_another_kind_is_unknown(self, tmp_path):
        """Neither an empty folder nor a text is a dataset."""
        (tmp_path / "a.txt").write_text("")
        (tmp_path / ".hidden").mkdir()
        for path in (tmp_path, tmp_path / "a.txt"):
            assert "no such dataset" in message_of(identify, str(path), error=UsageError)

    def test_the_home_folder_may_be_abbreviated(self, tmp_path, monkeypatch):
        """As configurations and forms have no shell."""
        monkeypatch.setenv("HOME", str(tmp_path))
        write_npz(tmp_path / "a.npz")
        assert identify("~/a.npz") == identify(str(tmp_path / "a.npz"))

    def test_published_ones_are_identified_by_the_hashes_of_their_files(self):
        """Without the network."""
        identity = identify("mnist")
        assert identity["source"] == "mnist"
        assert identity["sha256"][TRAIN_LABELS].startswith("65a50cbbf4e9")
        assert identify("fashion-mnist")["sha256"] != identity["sha256"]

    def test_published_ones_are_fetched(self, tmp_path):
        """By their routes, into a folder of their name."""
        arrays = write_idx(tmp_path / "tiny")
        hashes = {name: hashlib.sha256((tmp_path / "tiny" / name).read_bytes()).hexdigest() for name in IDX_FILES}
        table = {"tiny": PublishedDataset("tiny", hashes, ("a", "b", "c"), "nobody's", (FolderRoute("kept"),))}
        assert same(load("tiny", downloads=tmp_path, normalize="none", published=table), arrays)
        assert identify("tiny", published=table) == {"source": "tiny", "sha256": hashes}
        assert attribution("tiny", published=table) == "nobody's"
        with pytest.raises(DownloadError):
            load("tiny", downloads=tmp_path / "elsewhere", published=table)

    def test_every_source_has_an_attribution(self):
        """MNIST's authors and licence are named for the sample too."""
        for source in ("mnist", "mnist-sample"):
            assert "Yann LeCun and Corinna Cortes, CC BY-SA 3.0" in attribution(source)
        assert "Zalando" in attribution("fashion-mnist")
        assert "owner" in attribution("some/folder")

    def test_an_identity_is_json_without_a_path(self, tmp_path):
        """It is hashed into the names of artifacts: the same content elsewhere is the same."""
        identities = []
        for place in (tmp_path / "here", tmp_path / "there"):
            place.mkdir()
            np.savez(place / "a.npz", **{key: np.zeros(1) for key in NPZ_KEYS})
            write_idx(place / "idx", tuple(np.ones((2,) * axes, np.uint8) for axes in (3, 1, 3, 1)))
            write_images(place / "images")
            identities.append([identify(str(place / name)) for name in ("a.npz", "idx", "images")])
        assert identities[0] == identities[1]
        assert str(tmp_path) not in json.dumps(identities)
        assert [identity["source"] for identity in identities[0]] == ["npz", "idx", "images"]


class TestSample:
    """The sample that ships with the package."""

    def test_is_small_stratified_and_real(self, tmp_path):
        """6,000 + 1,000 images, each class with the share that it has in MNIST."""
        data = load("mnist-sample", downloads=tmp_path)
        assert data.train_pixels.shape == (6000, 28, 28)
        assert data.test_pixels.shape == (1000, 28, 28)
        assert data.class_names == tuple("0123456789")
        assert not check_structure(data).fatal
        assert np.bincount(data.train_labels).tolist() == [592, 674, 596, 613, 584, 542, 592, 627, 585, 595]
        assert np.bincount(data.test_labels).tolist() == [98, 114, 103, 101, 98, 89, 96, 103, 97, 101]
        assert datasets.SAMPLE_FILE.stat().st_size < 1.5e6
        assert list(tmp_path.iterdir()) == []

    def test_is_identified_by_its_hash(self):
        """That of the file itself."""
        found = hashlib.sha256(datasets.SAMPLE_FILE.read_bytes()).hexdigest()
        assert identify("mnist-sample") == {"source": "mnist-sample", "sha256": found}

    def test_says_whose_it_is(self):
        """Beside the file, as its licence asks."""
        text = (datasets.SAMPLE_FILE.parent / "README.md").read_text("utf-8")
        for words in ("Yann LeCun", "Corinna Cortes", "Attribution-ShareAlike 3.0", "tools/make_sample.py"):
            assert words in text

    @pytest.mark.parametrize("content", [None, b"damaged"])
    def test_a_damaged_installation_is_found(self, tmp_path, monkeypatch, content):
        """The sample is missing, or is not the one that was shipped."""
        monkeypatch.setattr(datasets, "SAMPLE_FILE", tmp_path / "sample.npz")
        if content is not None:
            (tmp_path / "sample.npz").write_bytes(content)
        assert "missing or damaged; install it again" in message_of(load, "mnist-sample", downloads=tmp_path)


class TestNpz:
    """A local `.npz` file."""

    def test_is_read(self, tmp_path):
        """Its classes are numbered."""
        arrays = write_npz(tmp_path / "a.NPZ.npz")
        data = load(str(tmp_path / "a.NPZ.npz"), downloads=tmp_path, normalize="none")
        assert same(data, arrays)
        assert data.class_names == ("0", "1", "2")

    def test_is_brought_into_form(self, tmp_path):
        """Training sees what prediction would make of the same pictures; an array in MNIST's form stays as it is."""
        arrays = write_npz(tmp_path / "a.npz")
        data = load(str(tmp_path / "a.npz"), downloads=tmp_path)
        assert np.array_equal(data.test_pixels, [normalize(image) for image in arrays[2]])
        assert not same(data, arrays)

    def test_another_content_is_another_identity(self, tmp_path):
        """Whatever its name."""
        write_npz(tmp_path / "a.npz", make_arrays())
        before = identify(str(tmp_path / "a.npz"))
        write_npz(tmp_path / "a.npz", make_arrays())
        assert identify(str(tmp_path / "a.npz")) != before

    def test_faults_name_the_file(self, tmp_path):
        """Whatever is wrong with it."""
        path = tmp_path / "a.npz"
        path.write_bytes(b"nonsense")
        assert message_of(load, str(path), downloads=tmp_path).startswith(f"{path}: not an .npz file")
        x_train, y_train, x_test, y_test = make_arrays()
        write_npz(path, (x_train, y_train[1:], x_test, y_test))
        message = message_of(load, str(path), downloads=tmp_path)
        assert message.startswith(f"{path}: the dataset must not be trained on:")
        assert "train labels are (5,) uint8, expected (6,) uint8" in message

    def test_empty_arrays_are_refused(self, tmp_path):
        """There are no classes in them."""
        empty = (np.zeros((0, 5, 5), np.uint8), np.zeros(0, np.uint8)) * 2
        write_npz(tmp_path / "a.npz", empty)
        assert "there are 0 classes" in message_of(load, str(tmp_path / "a.npz"), downloads=tmp_path)


class TestIdxFolder:
    """A local folder of IDX files."""

    def test_is_read(self, tmp_path):
        """Its classes are numbered."""
        arrays = write_idx(tmp_path / "idx")
        data = load(str(tmp_path / "idx"), downloads=tmp_path, normalize="none")
        assert same(data, arrays)
        assert data.class_names == ("0", "1", "2")

    def test_a_missing_file_is_named(self, tmp_path):
        """One of them is enough to know what the folder is meant to be."""
        write_idx(tmp_path / "idx")
        (tmp_path / "idx" / TRAIN_LABELS).unlink()
        for call in (identify, lambda source: load(source, downloads=tmp_path)):
            assert f"no {TRAIN_LABELS}" in message_of(call, str(tmp_path / "idx"))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
    def test_one_that_may_not_be_read_is_an_error(self, tmp_path):
        """It says which, and what to do."""
        write_idx(tmp_path / "idx")
        (tmp_path / "idx" / TRAIN_LABELS).chmod(0)
        assert "check that it is there and who may read it" in message_of(identify, str(tmp_path / "idx"))

    def test_an_error_of_the_disk_names_the_source(self, tmp_path, monkeypatch):
        """Any user, any I/O error."""
        write_idx(tmp_path / "idx")

        def fail(folder):
            raise OSError(5, "Input/output error", str(folder))

        monkeypatch.setattr(datasets, "read_idx_files", fail)
        assert "Input/output error" in message_of(load, str(tmp_path / "idx"), downloads=tmp_path)


class TestImageFolder:
    """A folder of labelled images."""

    def test_is_read_and_split(self, tmp_path):
        """A fifth of the images are for testing; each has the label of its folder."""
        root = write_images(tmp_path / "images", classes=("b", "10", "9"), each=100)
        data = load(str(root), downloads=tmp_path)
        assert data.class_names == ("9", "10", "b")
        assert data.train_pixels.shape[1:] == data.test_pixels.shape[1:] == (28, 28)
        assert len(data.train_labels) + len(data.test_labels) == 300
        assert 35 <= len(data.test_labels) <= 85
        by_content = {
            pixels.tobytes(): label for pixels, label in zip(data.train_pixels, data.train_labels, strict=True)
        }
        for number in range(100):
            pixels = np.asarray(Image.open(root / "10" / f"0-{number}.png"))
            assert by_content.get(pixels.tobytes(), 1) == 1

    def test_an_image_stays_on_its_side_when_others_are_added(self, tmp_path):
        """Nothing that was tested on is trained on later."""
        root = write_images(tmp_path / "images", each=40)
        before = load(str(root), downloads=tmp_path)
        data = load(str(write_images(root, classes=("0", "1", "2"), each=20, seed=1)), downloads=tmp_path)
        for part in ("train_pixels", "test_pixels"):
            old, new = ({image.tobytes() for image in getattr(each, part)} for each in (before, data))
            assert old < new

    def test_the_same_picture_in_another_format_falls_on_the_same_side(self, tmp_path):
        """It is the pixels that decide, so that no test image is trained on in disguise; one of the two is taken."""
        root = write_images(tmp_path / "images", each=30)
        for path in sorted(root.glob("*/*.png")):
            Image.open(path).save(path.with_suffix(".bmp"))
        data = load(str(root), downloads=tmp_path)
        train, test = ({image.tobytes() for image in part} for part in (data.train_pixels, data.test_pixels))
        assert not train & test
        assert len(data.train_labels) + len(data.test_labels) == len(train) + len(test) == 60
        assert [finding.message for finding in data.findings] == [
            "60 images labelled here are left out, which look the same as others too"
        ]

    def test_takes_images_alone(self, tmp_path):
        """Other files, hidden folders and what lies in deeper folders are passed over; case does not count."""
        root = write_images(tmp_path / "images", each=15)
        count = len(identify_files(root))
        (root / "0" / "notes.txt").write_text("")
        (root / "readme.md").write_text("")
        (root / ".cache").mkdir()
        (root / "0" / "deeper.png").mkdir()
        (root / "0" / "0-0.png").rename(root / "0" / "0-0.PNG")
        assert len(identify_files(root)) == count == 30

    def test_the_identity_is_that_of_contents_and_labels(self, tmp_path):
        """A changed, renamed, moved or added image makes another dataset; another file does not."""
        root = write_images(tmp_path / "images", each=3)
        identities = [identify(str(root))]
        (root / "0" / "0-0.png").rename(root / "0" / "renamed.png")
        identities.append(identify(str(root)))
        (root / "0" / "renamed.png").rename(root / "1" / "renamed.png")
        identities.append(identify(str(root)))
        (root / "1" / "renamed.png").write_bytes(b"changed")
        identities.append(identify(str(root)))
        assert len({identity["sha256"] for identity in identities}) == 4
        (root / "0" / "notes.txt").write_text("")
        assert identify(str(root)) == identities[-1]
        (root / "1").rename(root / "7")
        assert identify(str(root)) != identities[-1]

    def test_two_labels_for_one_picture_are_refused(self, tmp_path):
        """Some of them are listed, whatever their format."""
        root = write_images(tmp_path / "images")
        for number in range(7):
            Image.open(root / "0" / f"0-{number}.png").save(root / "1" / f"copy-{number}.bmp")
        message = message_of(load, str(root), downloads=tmp_path)
        assert "7 images are there under several labels: 0/0-" in message
        assert ".png = 1/copy-" in message
        assert "and 2 more" in message

    def test_unreadable_images_are_refused(self, tmp_path):
        """A few are listed, with their reasons, and what to do."""
        root = write_images(tmp_path / "images")
        for number in range(6):
            (root / "1" / f"broken-{number}.png").write_bytes(b"no image" if number else b"")
        message = message_of(load, str(root), downloads=tmp_path)
        assert "6 of 36 images can't be read: 1/broken-0.png (the file is empty), 1/broken-1.png (" in message
        assert message.endswith("and 1 more; repair them or take them out")

    def test_names_that_can_t_be_shown_are_escaped(self, tmp_path):
        """A message is text that any terminal can print."""
        root = write_images(tmp_path / "images")
        with open(os.fsencode(root / "0") + b"/new\nline-\xff.png", "wb"):  # noqa: PTH123 - the name is not UTF-8
            pass
        message = message_of(load, str(root), downloads=tmp_path)
        assert r"new\nline-\udcff.png" in message
        assert message.encode("utf-8")
        assert identify(str(root))

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("=1+1", "images: =1+1 can't be written into a table as class names; rename them"),
            ("a\nb", r"images: 'a\nb' can't"),
            ("@x", "images: @x can't"),
        ],
    )
    def test_class_names_must_fit_a_table(self, tmp_path, name, message):
        """They become cells of predictions.csv."""
        root = write_images(tmp_path / "images", classes=("0", name), each=1)
        assert message in message_of(load, str(root), downloads=tmp_path)

    def test_a_folder_of_folders_is_refused(self, tmp_path):
        """`train/0/*.png` must not become a class called train."""
        root = write_images(tmp_path / "images" / "train").parent
        for call in (identify, lambda source: load(source, downloads=tmp_path)):
            assert "no images directly in train; each folder must be a class" in message_of(call, str(root))

    def test_one_class_is_too_few_alone(self, tmp_path):
        """There is nothing to tell apart; beside other datasets it is welcome."""
        root = write_images(tmp_path / "images", classes=("7",))
        data = load(str(root), downloads=tmp_path)
        assert data.class_names == ("7",)
        assert "there are 1 classes, expected 2 to 256" in check_structure(data).message

    def test_too_many_classes_are_refused(self, tmp_path, monkeypatch):
        """A label is a byte."""
        monkeypatch.setattr(datasets, "MAX_CLASSES", 2)
        root = write_images(tmp_path / "images", classes=("0", "1", "2"), each=1)
        assert "there are 3 classes (0, 1, 2), expected up to 2" in message_of(load, str(root), downloads=tmp_path)

    @pytest.mark.parametrize(("share", "side"), [(0.0, "test"), (1.0, "train")])
    def test_one_side_may_be_empty(self, tmp_path, monkeypatch, share, side):
        """A few images can be mixed with others; the check before training refuses them alone."""
        monkeypatch.setattr(datasets, "TEST_SHARE", share)
        data = load(str(write_images(tmp_path / "images", each=2)), downloads=tmp_path)
        assert (len(data.train_labels), len(data.test_labels)) == ((4, 0) if share == 0 else (0, 4))
        assert check_structure(data).message == f"there are no {side} images; add some"

    def test_a_file_over_the_limit_is_unreadable(self, tmp_path, monkeypatch):
        """The limit is that of prediction."""
        monkeypatch.setattr(datasets, "_DECODING", datasets._DECODING.model_copy(update={"max_bytes": 10}))
        root = write_images(tmp_path / "images", each=1)
        assert "there are more than 10 bytes in it" in message_of(load, str(root), downloads=tmp_path)

    def test_progress_is_told_of_each_image(self, tmp_path):
        """So many steps as there are images, then the end."""
        told = []

        class Listener:
            def start(self, label, total, *, part=(0, 1)):
                told.append(total)
                return self

            def advance(self, steps=1, note=""):
                told.append(steps)

            def close(self, note=""):
                told.append("closed")

        load(str(write_images(tmp_path / "images", each=12)), downloads=tmp_path, progress=Listener())
        assert told == [24, *[1] * 24, "closed"]


class TestReviewed:
    """The labels that a review has kept."""

    def test_is_read_from_the_kept_images(self, tmp_path):
        """Each with its last label, its hash told, digits whatever classes occur."""
        labels = keep_images(tmp_path, count=60)
        data = load("reviewed", downloads=tmp_path, reviewed=LabelSnapshot(tmp_path, labels))
        assert data.class_names == tuple("0123456789")
        assert len(data.train_labels) + len(data.test_labels) == 60
        assert data.is_own
        for side in ("train", "test"):
            for file, label, pixels in zip(data.files(side), data.labels(side), data.pixels(side), strict=True):
                assert labels[file] == str(label)
                assert np.array_equal(pixels, np.asarray(Image.open(tmp_path / file)))

    def test_the_identity_changes_exactly_with_the_labels(self, tmp_path):
        """Neither the order nor what is said of other images counts."""
        labels = keep_images(tmp_path, count=3)
        first, *others = labels
        same = LabelSnapshot(tmp_path / "elsewhere", dict(reversed(labels.items())), not_digits=3, skipped=1, changed=2)
        assert identify("reviewed", reviewed=LabelSnapshot(tmp_path, labels)) == identify("reviewed", reviewed=same)
        identities = [
            identify("reviewed", reviewed=LabelSnapshot(tmp_path, one))["sha256"]
            for one in (labels, {**labels, first: "9"}, {name: labels[name] for name in others})
        ]
        assert len(set(identities)) == 3

    @settings(max_examples=20, deadline=None)
    @given(st.sets(st.integers(0, 39), min_size=1), st.sets(st.integers(0, 39), min_size=1))
    def test_no_image_ever_changes_sides(self, first, more):
        """Whatever is labelled later, and whatever it is normalised with."""
        with tempfile.TemporaryDirectory() as name:
            place = Path(name)
            labels = keep_images(place, count=40)
            every = list(labels)
            sides = []
            for chosen, mode in ((first, "auto"), (first | more, "auto"), (first | more, "mnist")):
                reviewed = LabelSnapshot(place, {every[number]: labels[every[number]] for number in sorted(chosen)})
                data = load("reviewed", downloads=place, normalize=mode, reviewed=reviewed)
                sides.append({file: side for side in ("train", "test") for file in data.files(side)})
            assert sides[1] == sides[2]
            assert sides[0] == {file: sides[1][file] for file in sides[0]}

    def test_a_folder_puts_an_image_on_the_same_side(self, tmp_path):
        """So that the two can be joined."""
        labels = keep_images(tmp_path / "kept", count=40)
        for file, label in labels.items():
            (tmp_path / "images" / label).mkdir(parents=True, exist_ok=True)
            Image.open(tmp_path / "kept" / file).save(tmp_path / "images" / label / f"{file[:9]}.bmp")
        ours = load("reviewed", downloads=tmp_path, reviewed=LabelSnapshot(tmp_path / "kept", labels))
        theirs = load(str(tmp_path / "images"), downloads=tmp_path)
        for side in ("train", "test"):
            assert {image.tobytes() for image in ours.pixels(side)} == {
                image.tobytes() for image in theirs.pixels(side)
            }

    def test_the_same_picture_with_two_labels_is_left_out_and_reported(self, tmp_path):
        """In two files, since of one file the last label counts."""
        labels = keep_images(tmp_path, count=30)
        one = next(iter(labels))
        content = io.BytesIO()
        Image.open(tmp_path / one).save(content, "BMP")
        other = hashlib.sha256(content.getvalue()).hexdigest()
        (tmp_path / other).write_bytes(content.getvalue())
        data = load("reviewed", downloads=tmp_path, reviewed=LabelSnapshot(tmp_path, {**labels, other: "9"}))
        assert not {one, other} & {*data.train_files, *data.test_files}
        (finding,) = data.findings
        assert finding.message.startswith("2 images labelled here are left out, which look the same as others with")
        assert one[:12] in finding.message

    def test_what_is_not_trained_on_is_reported(self, tmp_path):
        """No digits, skipped ones, and labels that were replaced."""
        reviewed = LabelSnapshot(tmp_path, keep_images(tmp_path, count=9), not_digits=3, skipped=2, changed=1)
        findings = load("reviewed", downloads=tmp_path, reviewed=reviewed).findings
        assert [(finding.check, finding.value) for finding in findings] == [
            ("changed-labels", 1),
            ("not-digits", 3),
            ("skipped", 2),
        ]
        assert not any(finding.fatal for finding in findings)

    def test_nothing_labelled_is_an_error_that_says_what_to_do(self, tmp_path):
        """And so is the word where nobody could know what it stands for."""
        reviewed = LabelSnapshot(tmp_path, {}, not_digits=4)
        assert "`digits review TABLE` does that" in message_of(load, "reviewed", downloads=tmp_path, reviewed=reviewed)
        assert "no such dataset" in message_of(load, "reviewed", downloads=tmp_path, error=UsageError)

    def test_a_damaged_or_missing_image_is_found(self, tmp_path):
        """By its hash, which is its name."""
        labels = keep_images(tmp_path, count=4)
        first, second, *_ = labels
        reviewed = LabelSnapshot(tmp_path, labels)
        (tmp_path / first).write_bytes((tmp_path / second).read_bytes())
        message = message_of(load, "reviewed", downloads=tmp_path, reviewed=reviewed)
        assert "1 images were damaged after they were kept" in message
        (tmp_path / first).unlink()
        assert f"1 of 4 images can't be read: {labels[first]}/{first}" in message_of(
            load, "reviewed", downloads=tmp_path, reviewed=reviewed
        )


def keep_images(place, *, count):
    """Write distinct images as a review keeps them; give their labels by their hashes."""
    place.mkdir(parents=True, exist_ok=True)
    labels = {}
    for number in range(count):
        content = io.BytesIO()
        Image.fromarray(draw(number)).save(content, "PNG")
        name = hashlib.sha256(content.getvalue()).hexdigest()
        (place / name).write_bytes(content.getvalue())
        labels[name] = str(number % 7)
    return labels


def identify_files(root):
    """Give the images that make a folder's identity."""
    return datasets._list_images(root)


def test_importing_is_light():
    """Nothing heavy comes with the module: it is imported by commands that only list or predict."""
    heavy = ("pooch", "requests", "PIL", "pandas", "tensorflow", "prefect")
    code = f"import sys, digits.data.datasets; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
