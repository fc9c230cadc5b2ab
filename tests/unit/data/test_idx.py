"""IDX and NPZ files."""

import gzip
import io
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from digits.data.idx import (
    IDX_FILES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    decompress,
    parse_idx,
    read_bounded,
    read_idx_files,
    read_npz,
    to_idx,
)
from digits.errors import DataError

IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.array([1, 0], np.uint8)


def write_folder(folder, *, suffix="", spelling="-idx"):
    """Write the four files, and give their content by standard name."""
    payloads = {name: to_idx(IMAGES if "images" in name else LABELS) for name in IDX_FILES}
    for name, content in payloads.items():
        packed = gzip.compress(content) if suffix else content
        (folder / f"{name.replace('-idx', spelling)}{suffix}").write_bytes(packed)
    return payloads


class TestIdx:
    """The format itself."""

    @given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, min_side=0, max_side=5)))
    def test_images_come_back(self, images):
        """What was written is read."""
        np.testing.assert_array_equal(parse_idx(TRAIN_IMAGES, to_idx(images)), images)

    @given(hnp.arrays(np.uint8, st.integers(0, 9)))
    def test_labels_come_back(self, labels):
        """What was written is read."""
        np.testing.assert_array_equal(parse_idx(TRAIN_LABELS, to_idx(labels)), labels)

    def test_has_the_bytes_of_the_format(self):
        """Two zeros, the type, the number of axes, big-endian lengths, the values."""
        assert to_idx(LABELS) == b"\0\0\x08\x01\0\0\0\x02\x01\0"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "not an IDX file of bytes with 3 axes; it begins with $"),
            (b"\0\0\x08\x03\0\0", "not an IDX file"),
            (b"\0\0\x09\x03" + to_idx(IMAGES)[4:], "it begins with 00 00 09 03"),
            (to_idx(LABELS), "it begins with 00 00 08 01"),
            (to_idx(IMAGES)[:-1], r"\(2, 3, 4\) values make 40 bytes, found 39"),
            (to_idx(IMAGES) + b"\0", "found 41"),
            (b"\0\0\x08\x03" + b"\xff" * 12, "found 16"),
            (b"\0\0\x08\x03\x80\0\0\0\x80\0\0\0\0\0\0\x04", "make 18,446,744,073,709,551,632 bytes, found 16"),
        ],
    )
    def test_refuses_what_is_not_one(self, content, message):
        """Other files, cut files, files with more behind, and lengths that overflow any integer."""
        with pytest.raises(DataError, match=message):
            parse_idx(TRAIN_IMAGES, content)


class TestReadIdxFiles:
    """A folder of them."""

    @pytest.mark.parametrize("suffix", ["", ".gz"])
    @pytest.mark.parametrize("spelling", ["-idx", ".idx"])
    def test_reads_every_usual_name(self, tmp_path, suffix, spelling):
        """Packed or not, with a dash or a dot."""
        payloads = write_folder(tmp_path, suffix=suffix, spelling=spelling)
        assert read_idx_files(tmp_path) == payloads

    def test_names_the_missing(self, tmp_path):
        """Those, and only those."""
        write_folder(tmp_path)
        (tmp_path / TRAIN_LABELS).unlink()
        with pytest.raises(DataError, match=f"there is no {TRAIN_LABELS} in "):
            read_idx_files(tmp_path)
        with pytest.raises(DataError, match="there is no IDX file in "):
            read_idx_files(tmp_path / "absent")

    @pytest.mark.parametrize(
        "damage", [lambda packed: packed[:-9], lambda packed: b"x" + packed, lambda _: b"\x1f\x8b"]
    )
    def test_names_the_damaged(self, tmp_path, damage):
        """A cut or changed `.gz` is named."""
        write_folder(tmp_path, suffix=".gz")
        path = tmp_path / f"{TEST_LABELS}.gz"
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(DataError, match=path.name):
            read_idx_files(tmp_path)

    def test_stops_at_the_limit(self, tmp_path):
        """A file that unpacks to more is not read to its end."""
        write_folder(tmp_path, suffix=".gz")
        with pytest.raises(DataError, match="more than 39 bytes"):
            read_idx_files(tmp_path, limit=39)
        assert read_idx_files(tmp_path, limit=40)


class TestUnpacked:
    """Gzip in memory."""

    def test_unpacks_and_leaves_the_rest_alone(self):
        """What somebody on the way has unpacked is fine too."""
        assert decompress(gzip.compress(b"abc"), 3) == b"abc"
        assert decompress(b"abc", 3) == b"abc"

    def test_stops_at_the_limit(self):
        """A bomb goes off in vain."""
        with pytest.raises(DataError, match="more than 1,000 bytes"):
            decompress(gzip.compress(bytes(10**6)), 1000)

    def test_reads_no_more_than_it_needs_to_know(self):
        """A bomb is not unpacked to its end before it is found too long."""
        asked = []

        class Endless(io.BytesIO):
            def read(self, size=-1):
                asked.append(size)
                return bytes(size)

        with pytest.raises(DataError, match="more than 9 bytes"):
            read_bounded(Endless(), 9)
        assert asked == [10]


class TestReadNpz:
    """NPZ files."""

    def save(self, folder, **changes):
        """Save a sound file, or one with changes; None leaves an array out."""
        arrays = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS, **changes}
        np.savez_compressed(folder / "a.npz", **{key: array for key, array in arrays.items() if array is not None})
        return folder / "a.npz"

    def test_reads_the_four_arrays(self, tmp_path):
        """In order, as uint8, other arrays left alone."""
        path = self.save(tmp_path, y_train=LABELS.astype(np.int64), other=np.zeros(3))
        arrays = read_npz(path)
        for found, expected in zip(arrays, (IMAGES, LABELS, IMAGES, LABELS), strict=True):
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == np.uint8

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"y_test": None}, "y_test not in it, only x_test, x_train, y_train"),
            ({"x_train": IMAGES / 255}, "x_train is float64, expected integers from 0 to 255"),
            ({"y_train": np.array([-1, 0])}, "y_train is int64, expected integers"),
            ({"y_train": np.array([256, 0])}, "y_train is int64, expected integers"),
            ({"y_train": np.array(["1", "0"])}, "y_train is <U1, expected integers"),
            ({"y_train": np.array([1, None])}, "Object arrays cannot be loaded"),
        ],
    )
    def test_says_what_is_wrong(self, tmp_path, changes, message):
        """Arrays that are missing, or hold something else; objects are never unpickled."""
        with pytest.raises(DataError, match=message):
            read_npz(self.save(tmp_path, **changes))

    @pytest.mark.parametrize("content", [b"", b"PK", pickle.dumps({}), b"\x93NUMPY"])
    def test_refuses_other_files(self, tmp_path, content):
        """What is no zip archive is not opened; a pickle least of all."""
        path = tmp_path / "a.npz"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"not an \.npz file"):
            read_npz(path)

    def test_refuses_a_damaged_archive(self, tmp_path):
        """Flipped bits in an array are found by the archive's checksum."""
        path = self.save(tmp_path)
        content = bytearray(path.read_bytes())
        content[80] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"not a readable \.npz file"):
            read_npz(path)

    def test_refuses_members_that_are_no_arrays(self, tmp_path):
        """A zip archive of other files under the right names."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("x_train", b"hello")
            archive.writestr("y_train.npy", b"hello")
        (tmp_path / "a.npz").write_bytes(buffer.getvalue())
        with pytest.raises(DataError):
            read_npz(tmp_path / "a.npz")
