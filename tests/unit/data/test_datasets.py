"""Tests of dataset sources: their names, their identity, and what is loaded from them."""

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
from digits.data.checks import check_digits, check_structure
from digits.data.datasets import attribution, identify, load
from digits.data.downloads import FolderRoute, PublishedDataset
from digits.data.idx import IDX_FILES, NPZ_KEYS, TRAIN_LABELS, encode_idx
from digits.data.labels import LabelSnapshot
from digits.errors import DataError, DownloadError, UsageError
from digits.images.normalize import normalize
from tests.support.tiny_model import draw

GENERATOR = np.random.default_rng(0)


def make_arrays(*, train=6, test=4):
    """Return x_train, y_train, x_test, y_test: 5 by 5 pixels, labels 0 to 2."""
    pixels = GENERATOR.integers(0, 256, (train + test, 5, 5), np.uint8)
    labels = (np.arange(train + test) % 3).astype(np.uint8)
    return pixels[:train], labels[:train], pixels[train:], labels[train:]


def write_npz(path, arrays=None):
    """Write an `.npz` file, and return its arrays."""
    arrays = arrays or make_arrays()
    np.savez(path, **dict(zip(NPZ_KEYS, arrays, strict=True)))
    return arrays


def write_idx(folder, arrays=None):
    """Write the four IDX files, and return their arrays."""
    folder.mkdir(exist_ok=True)
    arrays = arrays or make_arrays()
    for name, array in zip(IDX_FILES, arrays, strict=True):
        (folder / name).write_bytes(encode_idx(array))
    return arrays


def write_images(root, *, classes=("0", "1"), each=15, seed=0, size=28):
    """Write distinct images into one folder per class: black, with a bright block of noise in the middle."""
    generator = np.random.default_rng(seed)
    for class_name in classes:
        (root / class_name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            pixels = np.zeros((size, size), np.uint8)
            pixels[4:-4, 4:-4] = generator.integers(100, 256, (size - 8, size - 8))
            Image.fromarray(pixels).save(root / class_name / f"{seed}-{number}.png")
    return root


def same(data, arrays):
    """Return whether a dataset has these arrays."""
    found = (data.train_pixels, data.train_labels, data.test_pixels, data.test_labels)
    return all(np.array_equal(*pair) for pair in zip(found, arrays, strict=True))


def message_of(call, *args, error=DataError, **kwargs):
    """Return the message of the error that a call raises."""
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    return str(caught.value)


class TestNames:
    """Tests of the names and paths of datasets."""

    @pytest.mark.parametrize("source", ["", "mnits", "no/such/folder", "~nobody-of-this-name/x", "a\0b"])
    def test_an_unknown_source_is_an_error_that_lists_the_accepted_sources(self, source, tmp_path):
        """`identify` and `load` raise the same error."""
        for call in (identify, lambda source: load(source, downloads=tmp_path)):
            message = message_of(call, source, error=UsageError)
            for accepted in ("mnist,", "fashion-mnist", "mnist-sample", ".npz", "IDX", "<root>/<class>/*.png"):
                assert accepted in message

    def test_an_empty_folder_or_a_text_file_is_no_dataset(self, tmp_path):
        """Hidden folders do not count as classes."""
        (tmp_path / "a.txt").write_text("")
        (tmp_path / ".hidden").mkdir()
        for path in (tmp_path, tmp_path / "a.txt"):
            assert "no such dataset" in message_of(identify, str(path), error=UsageError)

    def test_a_tilde_stands_for_the_home_directory(self, tmp_path, monkeypatch):
        """Configuration files and forms have no shell that expands it."""
        monkeypatch.setenv("HOME", str(tmp_path))
        write_npz(tmp_path / "a.npz")
        assert identify("~/a.npz") == identify(str(tmp_path / "a.npz"))

    def test_published_datasets_are_identified_by_the_hashes_of_their_files(self):
        """This needs no network."""
        identity = identify("mnist")
        assert identity["source"] == "mnist"
        assert identity["sha256"][TRAIN_LABELS].startswith("65a50cbbf4e9")
        assert identify("fashion-mnist")["sha256"] != identity["sha256"]

    def test_published_datasets_are_fetched_by_their_routes(self, tmp_path):
        """Downloads are kept in a folder with the name of the dataset."""
        arrays = write_idx(tmp_path / "tiny")
        hashes = {name: hashlib.sha256((tmp_path / "tiny" / name).read_bytes()).hexdigest() for name in IDX_FILES}
        table = {"tiny": PublishedDataset("tiny", hashes, ("a", "b", "c"), "nobody's", (FolderRoute("kept"),))}
        assert same(load("tiny", downloads=tmp_path, normalize="none", published=table), arrays)
        assert identify("tiny", published=table) == {"source": "tiny", "sha256": hashes}
        assert attribution("tiny", published=table) == "nobody's"
        with pytest.raises(DownloadError):
            load("tiny", downloads=tmp_path / "elsewhere", published=table)

    def test_every_source_has_an_attribution(self):
        """The sample's attribution names MNIST's authors and licence."""
        for source in ("mnist", "mnist-sample"):
            assert "Yann LeCun and Corinna Cortes, CC BY-SA 3.0" in attribution(source)
        assert "Zalando" in attribution("fashion-mnist")
        assert "owner" in attribution("some/folder")

    def test_the_identity_does_not_depend_on_the_location(self, tmp_path):
        """It is part of the digest of artifacts, and contains no absolute path."""
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
    """Tests of the bundled sample."""

    def test_the_sample_is_small_and_stratified(self, tmp_path):
        """It has 6,000 training and 1,000 test images, and the class shares of MNIST."""
        data = load("mnist-sample", downloads=tmp_path)
        assert data.train_pixels.shape == (6000, 28, 28)
        assert data.test_pixels.shape == (1000, 28, 28)
        assert data.class_names == tuple("0123456789")
        assert not check_structure(data).fatal
        assert np.bincount(data.train_labels).tolist() == [592, 674, 596, 613, 584, 542, 592, 627, 585, 595]
        assert np.bincount(data.test_labels).tolist() == [98, 114, 103, 101, 98, 89, 96, 103, 97, 101]
        assert datasets.SAMPLE_FILE.stat().st_size < 1.5e6
        assert list(tmp_path.iterdir()) == []

    def test_the_sample_is_identified_by_the_hash_of_its_file(self):
        """The hash in the code is the hash of the bundled file."""
        found = hashlib.sha256(datasets.SAMPLE_FILE.read_bytes()).hexdigest()
        assert identify("mnist-sample") == {"source": "mnist-sample", "sha256": found}

    def test_a_readme_beside_the_sample_names_authors_and_licence(self):
        """The licence requires the attribution."""
        text = (datasets.SAMPLE_FILE.parent / "README.md").read_text("utf-8")
        for words in ("Yann LeCun", "Corinna Cortes", "Attribution-ShareAlike 3.0", "tools/make_sample.py"):
            assert words in text

    @pytest.mark.parametrize("content", [None, b"damaged"])
    def test_a_missing_or_damaged_sample_is_an_error(self, tmp_path, monkeypatch, content):
        """The file must have the known hash."""
        monkeypatch.setattr(datasets, "SAMPLE_FILE", tmp_path / "sample.npz")
        if content is not None:
            (tmp_path / "sample.npz").write_bytes(content)
        assert "missing or damaged; install Digits again" in message_of(load, "mnist-sample", downloads=tmp_path)


class TestNpz:
    """Tests of a local `.npz` file."""

    def test_the_arrays_are_loaded_with_numbers_as_class_names(self, tmp_path):
        """The names are the labels from 0 to the highest."""
        arrays = write_npz(tmp_path / "a.NPZ.npz")
        data = load(str(tmp_path / "a.NPZ.npz"), downloads=tmp_path, normalize="none")
        assert same(data, arrays)
        assert data.class_names == ("0", "1", "2")

    def test_the_images_are_normalized_as_in_predictions(self, tmp_path):
        """Images that do not have MNIST's form are converted."""
        arrays = write_npz(tmp_path / "a.npz")
        data = load(str(tmp_path / "a.npz"), downloads=tmp_path)
        assert np.array_equal(data.test_pixels, [normalize(image) for image in arrays[2]])
        assert not same(data, arrays)

    def test_the_identity_depends_on_the_content(self, tmp_path):
        """A changed file with the same name has another identity."""
        write_npz(tmp_path / "a.npz", make_arrays())
        before = identify(str(tmp_path / "a.npz"))
        write_npz(tmp_path / "a.npz", make_arrays())
        assert identify(str(tmp_path / "a.npz")) != before

    def test_errors_name_the_file(self, tmp_path):
        """This holds for other files and for arrays that do not match."""
        path = tmp_path / "a.npz"
        path.write_bytes(b"nonsense")
        assert message_of(load, str(path), downloads=tmp_path).startswith(f"{path}: not an .npz file")
        x_train, y_train, x_test, y_test = make_arrays()
        write_npz(path, (x_train, y_train[1:], x_test, y_test))
        message = message_of(load, str(path), downloads=tmp_path)
        assert message.startswith(f"{path}: the dataset cannot be used for training:")
        assert "train labels are (5,) uint8, expected (6,) uint8" in message

    def test_empty_arrays_are_refused(self, tmp_path):
        """They have no classes."""
        empty = (np.zeros((0, 5, 5), np.uint8), np.zeros(0, np.uint8)) * 2
        write_npz(tmp_path / "a.npz", empty)
        assert "there are 0 classes" in message_of(load, str(tmp_path / "a.npz"), downloads=tmp_path)


class TestIdxFolder:
    """Tests of a local folder of IDX files."""

    def test_the_files_are_loaded_with_numbers_as_class_names(self, tmp_path):
        """The names are the labels from 0 to the highest."""
        arrays = write_idx(tmp_path / "idx")
        data = load(str(tmp_path / "idx"), downloads=tmp_path, normalize="none")
        assert same(data, arrays)
        assert data.class_names == ("0", "1", "2")

    def test_a_missing_file_is_named(self, tmp_path):
        """A folder with one IDX file is recognized as such a dataset."""
        write_idx(tmp_path / "idx")
        (tmp_path / "idx" / TRAIN_LABELS).unlink()
        for call in (identify, lambda source: load(source, downloads=tmp_path)):
            assert f"no {TRAIN_LABELS}" in message_of(call, str(tmp_path / "idx"))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
    def test_a_file_without_read_permission_is_an_error(self, tmp_path):
        """The message has a remedy."""
        write_idx(tmp_path / "idx")
        (tmp_path / "idx" / TRAIN_LABELS).chmod(0)
        assert "check that it exists and that you may read it" in message_of(identify, str(tmp_path / "idx"))

    def test_an_io_error_is_reported_with_its_reason(self, tmp_path, monkeypatch):
        """The test also works for root, who may read any file."""
        write_idx(tmp_path / "idx")

        def fail(folder):
            raise OSError(5, "Input/output error", str(folder))

        monkeypatch.setattr(datasets, "read_idx_files", fail)
        assert "Input/output error" in message_of(load, str(tmp_path / "idx"), downloads=tmp_path)


class TestImageFolder:
    """Tests of a folder of labelled images."""

    def test_the_images_are_labelled_by_folder_and_split(self, tmp_path):
        """About a fifth of the images become test images."""
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

    def test_an_image_stays_in_its_split_when_others_are_added(self, tmp_path):
        """A test image never becomes a training image."""
        root = write_images(tmp_path / "images", each=40)
        before = load(str(root), downloads=tmp_path)
        data = load(str(write_images(root, classes=("0", "1", "2"), each=20, seed=1)), downloads=tmp_path)
        for part in ("train_pixels", "test_pixels"):
            old, new = ({image.tobytes() for image in getattr(each, part)} for each in (before, data))
            assert old < new

    def test_copies_of_an_image_in_other_formats_are_dropped(self, tmp_path):
        """The split depends on the decoded pixels, so that no copy of a test image is used for training."""
        root = write_images(tmp_path / "images", each=30)
        for path in sorted(root.glob("*/*.png")):
            Image.open(path).save(path.with_suffix(".bmp"))
        data = load(str(root), downloads=tmp_path)
        train, test = ({image.tobytes() for image in part} for part in (data.train_pixels, data.test_pixels))
        assert not train & test
        assert len(data.train_labels) + len(data.test_labels) == len(train) + len(test) == 60
        assert [finding.message for finding in data.findings] == [
            "dropped 60 of your own images that equal another image"
        ]

    def test_only_image_files_directly_in_a_class_folder_count(self, tmp_path):
        """Other files, hidden folders and subfolders are ignored. Extensions may be in upper case."""
        root = write_images(tmp_path / "images", each=15)
        count = len(identify_files(root))
        (root / "0" / "notes.txt").write_text("")
        (root / "readme.md").write_text("")
        (root / ".cache").mkdir()
        (root / "0" / "deeper.png").mkdir()
        (root / "0" / "0-0.png").rename(root / "0" / "0-0.PNG")
        assert len(identify_files(root)) == count == 30

    def test_the_identity_depends_on_contents_names_and_labels(self, tmp_path):
        """A changed, renamed or moved image, or a renamed class, changes the identity. Other files do not."""
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

    def test_equal_images_with_different_labels_are_refused(self, tmp_path):
        """The message lists the first five, whatever their format."""
        root = write_images(tmp_path / "images")
        for number in range(7):
            Image.open(root / "0" / f"0-{number}.png").save(root / "1" / f"copy-{number}.bmp")
        message = message_of(load, str(root), downloads=tmp_path)
        assert "7 images have copies with other labels: 0/0-" in message
        assert ".png equals 1/copy-" in message
        assert "and 2 more" in message

    def test_unreadable_images_are_refused(self, tmp_path):
        """The message lists the first five with their reasons, and a remedy."""
        root = write_images(tmp_path / "images")
        for number in range(6):
            (root / "1" / f"broken-{number}.png").write_bytes(b"no image" if number else b"")
        message = message_of(load, str(root), downloads=tmp_path)
        assert "6 of 36 images cannot be read: 1/broken-0.png (the file is empty), 1/broken-1.png (" in message
        assert message.endswith("and 1 more; repair or remove them")

    def test_file_names_that_are_not_printable_are_escaped_in_messages(self, tmp_path):
        """Any terminal can print the message."""
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
            (
                "=1+1",
                "images: =1+1 cannot be class names, which must be printable, not begin with =, +, - or @, and have",
            ),
            ("a\nb", r"images: 'a\nb' cannot"),
            ("@x", "images: @x cannot"),
            ("\uff1dx", "images: \uff1dx cannot"),
            ("a;=x", "images: a;=x cannot"),
        ],
    )
    def test_class_names_that_a_spreadsheet_would_take_for_formulas_are_refused(self, tmp_path, name, message):
        """Class names become cells of tables; names that are not printable are refused, too."""
        root = write_images(tmp_path / "images", classes=("0", name), each=1)
        assert message in message_of(load, str(root), downloads=tmp_path)

    def test_a_folder_of_folders_of_classes_is_refused(self, tmp_path):
        """`train/0/*.png` must not become a class with the name train."""
        root = write_images(tmp_path / "images" / "train").parent
        for call in (identify, lambda source: load(source, downloads=tmp_path)):
            message = message_of(call, str(root))
            assert "images: found folders in train instead of images; expected FOLDER/<class>/IMAGE with" in message

    @pytest.mark.parametrize("names", [("train", "test"), ("Train",), ("test", "validation")])
    def test_folders_of_training_and_test_images_are_no_classes(self, tmp_path, names):
        """Their images have no labels in this layout; a table of labels is often beside them."""
        root = write_images(tmp_path / "images", classes=names, each=2)
        for call in (identify, lambda source: load(source, downloads=tmp_path)):
            message = message_of(call, str(root))
            assert f"images: found only {', '.join(sorted(names))} as classes; expected FOLDER" in message
        write_images(root, classes=("0",), each=2)
        assert identify(str(root))["source"] == "images"

    def test_images_beside_a_table_of_labels_are_refused(self, tmp_path):
        """The message names the table and the layouts that are read."""
        root = write_images(tmp_path / "images", each=2) / "0"
        for table, found in (
            (None, "the folder; expected"),
            ("labels.csv", "the folder beside labels.csv, which is not"),
        ):
            if table:
                (root / table).write_text("0-0.png,7\n")
            for call in (identify, lambda source: load(source, downloads=tmp_path)):
                message = message_of(call, str(root))
                assert f"0: found 2 images directly in {found}" in message
                assert "FOLDER/<class>/IMAGE" in message

    def test_a_folder_without_images_is_refused_unless_it_is_a_system_folder(self, tmp_path):
        """A misspelled or empty class must not vanish in silence."""
        root = write_images(tmp_path / "images", each=2)
        (root / "2").mkdir()
        assert "found no images directly in 2; expected FOLDER" in message_of(identify, str(root))
        (root / "2").rename(root / "@eaDir")
        assert identify(str(root))["source"] == "images"

    def test_system_files_are_left_out_and_reported(self, tmp_path):
        """They change neither the identity of the dataset nor its images."""
        root = write_images(tmp_path / "images")
        before, data = identify(str(root)), load(str(root), downloads=tmp_path)
        for folder in ("__MACOSX/0", "0/@eaDir"):
            (root / folder).mkdir(parents=True)
            Image.fromarray(draw(1)).save(root / folder / "a.png")
        (root / "0" / "._0-0.png").write_bytes(b"\0\5\x16\7")
        (root / "1" / "Thumbs.db").write_bytes(b"")
        again = load(str(root), downloads=tmp_path)
        assert identify(str(root)) == before
        assert np.array_equal(again.train_pixels, data.train_pixels)
        (finding,) = again.findings
        assert finding.message == ("left out 4 system files or folders: 0/._0-0.png, 0/@eaDir, 1/Thumbs.db, __MACOSX")
        assert finding.is_warning
        assert not finding.fatal

    def test_only_the_first_page_or_frame_is_read_and_that_is_reported(self, tmp_path):
        """A file with further pages is the same image as one with the first page alone."""
        root = write_images(tmp_path / "images")
        pages = [Image.fromarray(draw(seed)) for seed in (1, 2, 3)]
        pages[0].save(root / "0" / "a.tif")
        data = load(str(root), downloads=tmp_path)
        for name in ("a.tif", "b.gif"):
            pages[0].save(root / "0" / name, save_all=True, append_images=pages[1:])
        again = load(str(root), downloads=tmp_path)
        assert np.array_equal(again.train_pixels, data.train_pixels)
        assert np.array_equal(again.test_pixels, data.test_pixels)
        (finding, *repeats) = again.findings
        assert finding.message == "read only the first page or frame of 2 files: 0/a.tif, 0/b.gif"
        assert finding.is_warning
        assert [repeat.fatal for repeat in repeats] == [False]

    def test_images_that_need_an_extra_are_reported(self, tmp_path, monkeypatch):
        """They are left out, and the extra is named."""
        root = write_images(tmp_path / "images")
        identity = identify(str(root))
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        for name in ("0/a.heic", "1/b.AVIF", "1/notes.txt", "0/._c.heic"):
            (root / name).write_bytes(b"")
        findings = {finding.check: finding for finding in load(str(root), downloads=tmp_path).findings}
        message = "left out 2 images that need digits[heif]: 0/a.heic, 1/b.AVIF"
        assert findings["unread-files"].message == message
        assert findings["unread-files"].is_warning
        assert identify(str(root)) == identity

    def test_images_of_an_installed_extra_are_read(self, tmp_path, monkeypatch):
        """AVIF is read by Pillow itself."""
        root = write_images(tmp_path / "images")
        Image.open(root / "0" / "0-0.png").convert("RGB").save(root / "0" / "a.avif")
        monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
        data = load(str(root), downloads=tmp_path)
        assert len(data.train_labels) + len(data.test_labels) == 31
        assert data.findings == ()

    def test_ten_is_a_class_beside_zero(self, tmp_path):
        """Classes with numbers as names have the order of the numbers."""
        root = write_images(tmp_path / "images", classes=("10", "9", "0"), each=20)
        data = load(str(root), downloads=tmp_path)
        assert data.class_names == ("0", "9", "10")
        assert set(data.train_labels) == {0, 1, 2}
        assert not check_structure(data).fatal

    def test_a_folder_with_one_class_is_loaded_but_fails_the_check(self, tmp_path):
        """It can be combined with other datasets."""
        root = write_images(tmp_path / "images", classes=("7",))
        data = load(str(root), downloads=tmp_path)
        assert data.class_names == ("7",)
        message = check_structure(data).message
        assert "there is one class, 7; expected FOLDER/<class>/IMAGE with at least" in message

    def test_too_many_classes_are_refused(self, tmp_path, monkeypatch):
        """Labels are uint8."""
        monkeypatch.setattr(datasets, "MAX_CLASSES", 2)
        root = write_images(tmp_path / "images", classes=("0", "1", "2"), each=1)
        assert "there are 3 classes (0, 1, 2), expected at most 2" in message_of(load, str(root), downloads=tmp_path)

    @pytest.mark.parametrize(("share", "split"), [(0.0, "test"), (1.0, "train")])
    def test_a_folder_with_an_empty_split_is_loaded_but_fails_the_check(self, tmp_path, monkeypatch, share, split):
        """A few images can be combined with other datasets."""
        monkeypatch.setattr(datasets, "TEST_SHARE", share)
        data = load(str(write_images(tmp_path / "images", each=2)), downloads=tmp_path)
        assert (len(data.train_labels), len(data.test_labels)) == ((4, 0) if share == 0 else (0, 4))
        assert check_structure(data).message == f"there are no {split} images; add some"

    def test_a_file_that_exceeds_the_limit_is_unreadable(self, tmp_path, monkeypatch):
        """The default limit is that of predictions."""
        monkeypatch.setattr(datasets, "DEFAULT_MAX_BYTES", 10)
        root = write_images(tmp_path / "images", each=1)
        assert "the content exceeds the limit of 10 bytes" in message_of(load, str(root), downloads=tmp_path)

    def test_progress_advances_with_each_image(self, tmp_path):
        """There is one step per image, and the bar is closed at the end."""
        events = []

        class Recorder:
            def start(self, label, total, *, part=(0, 1)):
                events.append(total)
                return self

            def advance(self, steps=1, note=""):
                events.append(steps)

            def close(self, note=""):
                events.append("closed")

        load(str(write_images(tmp_path / "images", each=12)), downloads=tmp_path, progress=Recorder())
        assert events == [24, *[1] * 24, "closed"]


class TestReviewed:
    """Tests of the reviewed images with their labels."""

    def test_the_reviewed_images_are_loaded_with_label_and_hash(self, tmp_path):
        """The classes are always the ten digits."""
        labels = keep_images(tmp_path, count=60)
        data = load("reviewed", downloads=tmp_path, reviewed=LabelSnapshot(tmp_path, labels))
        assert data.class_names == tuple("0123456789")
        assert len(data.train_labels) + len(data.test_labels) == 60
        assert data.is_own
        for split in ("train", "test"):
            for file, label, pixels in zip(data.files(split), data.labels(split), data.pixels(split), strict=True):
                assert labels[file] == str(label)
                assert np.array_equal(pixels, np.asarray(Image.open(tmp_path / file)))

    def test_the_identity_depends_on_the_labels_only(self, tmp_path):
        """Neither the order of the labels nor the counts of other answers change it."""
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
    def test_an_image_never_moves_to_the_other_split(self, first, more):
        """Neither later labels nor the normalization mode move it."""
        with tempfile.TemporaryDirectory() as name:
            place = Path(name)
            labels = keep_images(place, count=40)
            every = list(labels)
            splits = []
            for chosen, mode in ((first, "auto"), (first | more, "auto"), (first | more, "mnist")):
                reviewed = LabelSnapshot(place, {every[number]: labels[every[number]] for number in sorted(chosen)})
                data = load("reviewed", downloads=place, normalize=mode, reviewed=reviewed)
                splits.append({file: split for split in ("train", "test") for file in data.files(split)})
            assert splits[1] == splits[2]
            assert splits[0] == {file: splits[1][file] for file in splits[0]}

    def test_a_folder_puts_an_image_into_the_same_split(self, tmp_path):
        """So the two datasets can be joined."""
        labels = keep_images(tmp_path / "kept", count=40)
        for file, label in labels.items():
            (tmp_path / "images" / label).mkdir(parents=True, exist_ok=True)
            Image.open(tmp_path / "kept" / file).save(tmp_path / "images" / label / f"{file[:9]}.bmp")
        ours = load("reviewed", downloads=tmp_path, reviewed=LabelSnapshot(tmp_path / "kept", labels))
        theirs = load(str(tmp_path / "images"), downloads=tmp_path)
        for split in ("train", "test"):
            assert {image.tobytes() for image in ours.pixels(split)} == {
                image.tobytes() for image in theirs.pixels(split)
            }

    def test_equal_images_with_different_labels_are_dropped_and_reported(self, tmp_path):
        """The images are in two files; for one file, the last label counts."""
        labels = keep_images(tmp_path, count=30)
        one = next(iter(labels))
        content = io.BytesIO()
        Image.open(tmp_path / one).save(content, "BMP")
        other = hashlib.sha256(content.getvalue()).hexdigest()
        (tmp_path / other).write_bytes(content.getvalue())
        data = load("reviewed", downloads=tmp_path, reviewed=LabelSnapshot(tmp_path, {**labels, other: "9"}))
        assert not {one, other} & {*data.train_files, *data.test_files}
        (finding,) = data.findings
        assert finding.message.startswith("dropped 2 of your own images that equal an image with another label")
        assert one[:12] in finding.message

    def test_answers_that_are_not_used_for_training_are_reported(self, tmp_path):
        """These are images without a digit, skipped images, and replaced labels."""
        reviewed = LabelSnapshot(tmp_path, keep_images(tmp_path, count=9), not_digits=3, skipped=2, changed=1)
        findings = load("reviewed", downloads=tmp_path, reviewed=reviewed).findings
        assert [(finding.check, finding.value) for finding in findings] == [
            ("changed-labels", 1),
            ("not-digits", 3),
            ("skipped", 2),
        ]
        assert not any(finding.fatal for finding in findings)

    def test_loading_without_labels_is_an_error_with_a_remedy(self, tmp_path):
        """Without a label log, the name `reviewed` is unknown."""
        reviewed = LabelSnapshot(tmp_path, {}, not_digits=4)
        message = message_of(load, "reviewed", downloads=tmp_path, reviewed=reviewed)
        assert "label some with `digits review TABLE`" in message
        assert "no such dataset" in message_of(load, "reviewed", downloads=tmp_path, error=UsageError)

    def test_a_damaged_or_missing_image_is_an_error(self, tmp_path):
        """The name of an image file is its hash."""
        labels = keep_images(tmp_path, count=4)
        first, second, *_ = labels
        reviewed = LabelSnapshot(tmp_path, labels)
        (tmp_path / first).write_bytes((tmp_path / second).read_bytes())
        message = message_of(load, "reviewed", downloads=tmp_path, reviewed=reviewed)
        assert "1 image was damaged after it was saved" in message
        (tmp_path / first).unlink()
        assert f"1 of 4 images cannot be read: {labels[first]}/{first}" in message_of(
            load, "reviewed", downloads=tmp_path, reviewed=reviewed
        )


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("012356789", "no class for the digit 4: the model takes every image of it for another"),
        ("01", "no class for the digits 2, 3, 4, 5, 6, 7, 8, 9: the model takes every image of them for another"),
        ("0123456789", None),
        ("0123456789ABC", None),
        ("ABC", None),
        (["cat", "10"], None),
        (["0", "1", "2", "3", "4", "5", "6", "7", "8", "10"], "no class for the digit 9: the model takes every image"),
    ],
)
def test_a_missing_digit_is_a_warning_that_names_it(classes, message):
    """Classes that are no digits are not affected."""
    found = check_digits(classes)
    assert [finding.message.startswith(message) for finding in found] == ([True] if message else [])
    assert all(finding.is_warning and not finding.fatal and finding.value for finding in found)
    assert all(finding.sentence == f"Warning: {finding.message}." for finding in found)


def keep_images(place, *, count):
    """Write distinct images as a review saves them, and return their labels by hash."""
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
    """Return the image files of a folder."""
    return datasets.list_images(root)


def test_importing_the_module_imports_no_large_libraries():
    """Commands that list models or predict import this module, too."""
    heavy = ("pooch", "requests", "PIL", "pandas", "tensorflow", "prefect")
    code = f"import sys, digits.data.datasets; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
