"""Tests of IDX and NPZ files."""

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
    encode_idx,
    parse_idx,
    read_bounded,
    read_idx_files,
    read_npz,
)
from digits.errors import DataError

IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.array([1, 0], np.uint8)


def write_folder(folder, *, suffix="", spelling="-idx"):
    """Write the four files, and return their content by standard name."""
    payloads = {name: encode_idx(IMAGES if "images" in name else LABELS) for name in IDX_FILES}
    for name, content in payloads.items():
        packed = gzip.compress(content) if suffix else content
        (folder / f"{name.replace('-idx', spelling)}{suffix}").write_bytes(packed)
    return payloads


class TestIdx:
    """Tests of `encode_idx` and `parse_idx`."""

    @given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, min_side=0, max_side=5)))
    def test_images_survive_a_round_trip(self, images):
        """Any number and size of images works, also 0."""
        np.testing.assert_array_equal(parse_idx(TRAIN_IMAGES, encode_idx(images)), images)

    @given(hnp.arrays(np.uint8, st.integers(0, 9)))
    def test_labels_survive_a_round_trip(self, labels):
        """Any number of labels works, also 0."""
        np.testing.assert_array_equal(parse_idx(TRAIN_LABELS, encode_idx(labels)), labels)

    def test_encoded_labels_have_the_bytes_of_the_format(self):
        """The format: two zero bytes, the type, the number of axes, big-endian lengths, the values."""
        assert encode_idx(LABELS) == b"\0\0\x08\x01\0\0\0\x02\x01\0"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "expected an IDX file of unsigned bytes with 3 axes, found a file that begins with $"),
            (b"\0\0\x08\x03\0\0", "expected an IDX file"),
            (b"\0\0\x09\x03" + encode_idx(IMAGES)[4:], "found a file that begins with 00 00 09 03"),
            (encode_idx(LABELS), "found a file that begins with 00 00 08 01"),
            (encode_idx(IMAGES)[:-1], r"expected 40 bytes for the shape \(2, 3, 4\), found 39"),
            (encode_idx(IMAGES) + b"\0", "found 41"),
            (b"\0\0\x08\x03" + b"\xff" * 12, "found 16"),
            (b"\0\0\x08\x03\x80\0\0\0\x80\0\0\0\0\0\0\x04", "expected 18,446,744,073,709,551,632 bytes .*, found 16"),
        ],
    )
    def test_other_content_is_refused(self, content, message):
        """Other files, truncated files, trailing bytes, and lengths whose product overflows 64 bits."""
        with pytest.raises(DataError, match=message):
            parse_idx(TRAIN_IMAGES, content)


class TestReadIdxFiles:
    """Tests of `read_idx_files`."""

    @pytest.mark.parametrize("suffix", ["", ".gz"])
    @pytest.mark.parametrize("spelling", ["-idx", ".idx"])
    def test_every_common_spelling_of_the_names_is_read(self, tmp_path, suffix, spelling):
        """Files may be compressed, and names may have a dash or a dot."""
        payloads = write_folder(tmp_path, suffix=suffix, spelling=spelling)
        assert read_idx_files(tmp_path) == payloads

    def test_missing_files_are_named(self, tmp_path):
        """If all are missing, the message does not list them."""
        write_folder(tmp_path)
        (tmp_path / TRAIN_LABELS).unlink()
        with pytest.raises(DataError, match=f"there is no {TRAIN_LABELS} in "):
            read_idx_files(tmp_path)
        with pytest.raises(DataError, match="there is no IDX file in "):
            read_idx_files(tmp_path / "absent")

    @pytest.mark.parametrize(
        "damage", [lambda packed: packed[:-9], lambda packed: b"x" + packed, lambda _: b"\x1f\x8b"]
    )
    def test_a_damaged_file_is_named(self, tmp_path, damage):
        """The `.gz` file is truncated, or has changed."""
        write_folder(tmp_path, suffix=".gz")
        path = tmp_path / f"{TEST_LABELS}.gz"
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(DataError, match=path.name):
            read_idx_files(tmp_path)

    def test_a_file_that_exceeds_the_limit_is_refused(self, tmp_path):
        """The limit applies to the decompressed content."""
        write_folder(tmp_path, suffix=".gz")
        with pytest.raises(DataError, match="the content exceeds the limit of 39 bytes"):
            read_idx_files(tmp_path, limit=39)
        assert read_idx_files(tmp_path, limit=40)


class TestDecompress:
    """Tests of `decompress` and `read_bounded`."""

    def test_gzip_data_is_decompressed_and_other_data_returned(self):
        """A server or proxy may have decompressed a file."""
        assert decompress(gzip.compress(b"abc"), 3) == b"abc"
        assert decompress(b"abc", 3) == b"abc"

    def test_data_that_exceeds_the_limit_is_refused(self):
        """A decompression bomb does not fill the memory."""
        with pytest.raises(DataError, match="exceeds the limit of 1,000 bytes"):
            decompress(gzip.compress(bytes(10**6)), 1000)

    def test_at_most_one_byte_more_than_the_limit_is_read(self):
        """An endless file does not block the reader."""
        sizes = []

        class Endless(io.BytesIO):
            def read(self, size=-1):
                sizes.append(size)
                return bytes(size)

        with pytest.raises(DataError, match="exceeds the limit of 9 bytes"):
            read_bounded(Endless(), 9)
        assert sizes == [10]


class TestReadNpz:
    """Tests of `read_npz`."""

    def save(self, folder, **changes):
        """Write a valid file, or one with changed arrays; None omits an array."""
        arrays = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS, **changes}
        np.savez_compressed(folder / "a.npz", **{key: array for key, array in arrays.items() if array is not None})
        return folder / "a.npz"

    def test_the_four_arrays_are_read_as_uint8(self, tmp_path):
        """Other arrays are ignored."""
        path = self.save(tmp_path, y_train=LABELS.astype(np.int64), other=np.zeros(3))
        arrays = read_npz(path)
        for found, expected in zip(arrays, (IMAGES, LABELS, IMAGES, LABELS), strict=True):
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == np.uint8

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"y_test": None}, "missing arrays: y_test; found x_test, x_train, y_train"),
            ({"x_train": IMAGES / 255}, "x_train is float64, expected integers from 0 to 255"),
            ({"y_train": np.array([-1, 0])}, "y_train is int64, expected integers"),
            ({"y_train": np.array([256, 0])}, "y_train is int64, expected integers"),
            ({"y_train": np.array(["1", "0"])}, "y_train is <U1, expected integers"),
            ({"y_train": np.array([1, None])}, "Object arrays cannot be loaded"),
        ],
    )
    def test_missing_and_invalid_arrays_are_refused(self, tmp_path, changes, message):
        """Objects are never unpickled."""
        with pytest.raises(DataError, match=message):
            read_npz(self.save(tmp_path, **changes))

    @pytest.mark.parametrize("content", [b"", b"PK", pickle.dumps({}), b"\x93NUMPY"])
    def test_files_that_are_no_zip_archive_are_refused(self, tmp_path, content):
        """They are not opened, so that no pickle is loaded."""
        path = tmp_path / "a.npz"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"not an \.npz file"):
            read_npz(path)

    def test_a_damaged_archive_is_refused(self, tmp_path):
        """The checksum of the archive reveals changed bytes of an array."""
        path = self.save(tmp_path)
        content = bytearray(path.read_bytes())
        content[80] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"not a readable \.npz file"):
            read_npz(path)

    def test_an_archive_of_other_files_is_refused(self, tmp_path):
        """The members have the names of the arrays."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("x_train", b"hello")
            archive.writestr("y_train.npy", b"hello")
        (tmp_path / "a.npz").write_bytes(buffer.getvalue())
        with pytest.raises(DataError):
            read_npz(tmp_path / "a.npz")
