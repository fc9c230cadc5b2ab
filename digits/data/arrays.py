"""Labelled arrays: join datasets, drop duplicates, oversample own images and split off the validation set.

The functions compute on arrays; they read and write no files.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt

from digits.errors import DataError
from digits.images.types import Labels, Pixels

Indices = npt.NDArray[np.intp]

MAX_CLASSES = 256
"""Number of values of a uint8 label."""
_ARRAYS = ("train_pixels", "train_labels", "test_pixels", "test_labels")
PIXEL_AXES = 3
"""Number of axes of an array of images: image, row and column."""
SPLITS = ("test", "train")
"""The two splits of a dataset. Of equal images, `drop_duplicates` prefers those in the first split."""
LABELS_FILE = "labels.csv"
"""Name of the file in an `arrays` artifact that lists your own labelled images, with label and split."""
MAX_REPEATS = 50
"""Largest number of copies of one of your own training images. With more, the network memorizes the image."""
_LISTED = 5
"""Largest number of files that a message lists."""
MISSING_DIGITS = "missing-digits"
"""Name of the check for digits that are no class."""
SYSTEM_FILES, UNREAD_FILES = "system-files", "unread-files"
"""Names of the checks for files in a folder that are left out."""
_WARNINGS = (MISSING_DIGITS, SYSTEM_FILES, UNREAD_FILES, "further-pages")
"""Names of the checks whose findings are warnings."""


@dataclass(frozen=True)
class NamedTestSet:
    """Position and hash of the test images of one dataset, among the test images of several joined datasets.

    Args:
        name: name of the dataset.
        start: index of its first image among all test images.
        stop: index after its last image.
        sha256: SHA-256 of its class names, test images and test labels.
    """

    name: str
    start: int
    stop: int
    sha256: str

    @property
    def images(self) -> slice:
        """The indices of its images, as a slice."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Finding:
    """Result of one check of a dataset.

    Args:
        check: name of the check.
        message: result as a sentence, without the full stop.
        value: measured number, which is compared with the limit.
        limit: largest allowed value; None if the check has no limit.
        fatal: whether the dataset must not be used for training.
    """

    check: str
    message: str
    value: float
    limit: float | None
    fatal: bool

    @property
    def sentence(self) -> str:
        """Message as a sentence; one that users must not overlook begins with `Warning: `."""
        return f"Warning: {self.message}." if self.is_warning else self.message

    @property
    def is_warning(self) -> bool:
        """Whether the finding is shown at the end of a training, not only in the report."""
        return self.check in _WARNINGS


@dataclass(frozen=True, eq=False)
class LabelledArrays:
    """Dataset of labelled training and test images, in memory or memory-mapped.

    Args:
        train_pixels: (N, height, width) uint8.
        train_labels: (N,) uint8, indices into `class_names`.
        test_pixels: (M, height, width) uint8.
        test_labels: (M,) uint8, indices into `class_names`.
        class_names: name of each class, in the order of the labels.
        train_files: SHA-256 of the file of each training image, or "" for an image of a published dataset. Empty if
            the dataset has no images that you labelled yourself.
        test_files: the same for the test images.
        findings: findings from reading the dataset.
    """

    train_pixels: Pixels
    train_labels: Labels
    test_pixels: Pixels
    test_labels: Labels
    class_names: tuple[str, ...]
    train_files: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    def pixels(self, split: str) -> Pixels:
        """Return the images of a split, `train` or `test`: (N, height, width) uint8."""
        return self.train_pixels if split == "train" else self.test_pixels

    def labels(self, split: str) -> Labels:
        """Return the labels of a split: (N,) uint8."""
        return self.train_labels if split == "train" else self.test_labels

    def files(self, split: str) -> tuple[str, ...]:
        """Return the SHA-256 of the file of each image of a split, or "" for an image of a published dataset."""
        return (self.train_files if split == "train" else self.test_files) or ("",) * len(self.labels(split))

    @property
    def is_own(self) -> bool:
        """Whether the dataset has images that you labelled yourself."""
        return bool(self.train_files or self.test_files)


def join(parts: Sequence[LabelledArrays]) -> LabelledArrays:
    """Concatenate the training images of datasets, and likewise their test images.

    The result has the classes of the dataset with the most classes; other datasets may lack some of them.

    Raises:
        DataError: if there is no dataset, or if class names or image sizes differ.
    """
    if not parts:
        raise DataError("no dataset was given; name at least one")
    if len(parts) == 1:
        return parts[0]
    names = max((part.class_names for part in parts), key=len)
    for other in parts:
        _require_joinable(parts[0], other, names)
    parts = [_renumber_labels(part, names) for part in parts]
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    return LabelledArrays(
        **arrays,
        class_names=names,
        train_files=_join_files(parts, "train"),
        test_files=_join_files(parts, "test"),
        findings=tuple(finding for part in parts for finding in part.findings),
    )


def locate_test_sets(parts: Sequence[LabelledArrays], names: Sequence[str]) -> list[NamedTestSet]:
    """Return the position of each dataset's test images among the joined ones, without datasets that have none."""
    sets, start = [], 0
    for name, part in zip(names, parts, strict=True):
        stop = start + len(part.test_labels)
        if stop > start:
            sets.append(NamedTestSet(name, start, stop, _digest_of(part, ("test_pixels", "test_labels"))))
        start = stop
    return sets


def _require_joinable(first: LabelledArrays, other: LabelledArrays, names: tuple[str, ...]) -> None:
    if not set(other.class_names) <= set(names):
        raise DataError(
            f"datasets cannot be joined: the classes are {names} and {other.class_names}; train on one of the datasets"
        )
    pairs = {
        "training": (first.train_pixels.shape[1:], other.train_pixels.shape[1:]),
        "test": (first.test_pixels.shape[1:], other.test_pixels.shape[1:]),
    }
    for what, (expected, found) in pairs.items():
        if expected != found:
            raise DataError(
                f"datasets cannot be joined: the sizes of the {what} images are {expected} and {found}; train on one "
                "of the datasets"
            )


def _renumber_labels(data: LabelledArrays, names: tuple[str, ...]) -> LabelledArrays:
    if data.class_names == names:
        return data
    numbers = np.array([names.index(name) for name in data.class_names], np.uint8)
    train, test = numbers[data.train_labels], numbers[data.test_labels]
    return replace(data, train_labels=train, test_labels=test, class_names=names)


def _join_files(parts: Sequence[LabelledArrays], split: str) -> tuple[str, ...]:
    return tuple(file for part in parts for file in part.files(split)) if any(part.is_own for part in parts) else ()


def drop_duplicates(parts: Sequence[LabelledArrays]) -> list[LabelledArrays]:
    """Drop your own images whose normalized pixels equal those of an image in another dataset.

    Published datasets are not changed, so that measures on their test images stay comparable. If datasets disagree on
    the label of an image, it is dropped from all of your own datasets. If they agree, your own datasets keep it only if
    no published dataset has it. Of several such copies, test images precede training images, and earlier datasets
    precede later ones; the first copy is kept.

    Returns:
        The datasets, each with a finding if images were dropped from it.
    """
    if len(parts) == 1 or not any(part.is_own for part in parts):
        return list(parts)
    prints = {
        (number, split): fingerprints(part.pixels(split)) for number, part in enumerate(parts) for split in SPLITS
    }
    names: dict[bytes, set[str]] = defaultdict(set)
    for (number, split), found in prints.items():
        for one, label in zip(found, parts[number].labels(split).tolist(), strict=True):
            names[one].add(parts[number].class_names[label])
    kept, seen = dict[tuple[int, str], list[bool]](), set[bytes]()
    for number, split in sorted(prints, key=lambda at: (parts[at[0]].is_own, SPLITS.index(at[1]), at[0])):
        found = prints[number, split]
        is_own = parts[number].is_own
        kept[number, split] = [not is_own or (one not in seen and len(names[one]) == 1) for one in found]
        seen.update(found)
    conflicts = {one for one, labels in names.items() if len(labels) > 1}
    return [
        _keep_rows(
            part,
            {split: kept[number, split] for split in SPLITS},
            {split: prints[number, split] for split in SPLITS},
            conflicts,
        )
        for number, part in enumerate(parts)
    ]


def _keep_rows(
    part: LabelledArrays, kept: Mapping[str, list[bool]], prints: Mapping[str, list[bytes]], conflicts: set[bytes]
) -> LabelledArrays:
    """Return a dataset without its dropped images, with findings about these.

    `kept` and `prints` have, for each split, whether each image is kept and its fingerprint. `conflicts` are the
    fingerprints of images on whose label datasets disagree.
    """
    if all(map(all, kept.values())):
        return part
    train, test = (np.array(kept[split], bool) for split in ("train", "test"))
    dropped = [
        (file, one in conflicts)
        for split in SPLITS
        for file, one, is_kept in zip(part.files(split), prints[split], kept[split], strict=True)
        if not is_kept
    ]
    return replace(
        part,
        train_pixels=part.train_pixels[train],
        train_labels=part.train_labels[train],
        test_pixels=part.test_pixels[test],
        test_labels=part.test_labels[test],
        train_files=tuple(compress(part.train_files, train)),
        test_files=tuple(compress(part.test_files, test)),
        findings=(
            *part.findings,
            *report_conflicts(
                [file for file, conflict in dropped if conflict], "that another dataset labels differently"
            ),
            *report_repeats(sum(not conflict for _, conflict in dropped), "that another dataset also contains"),
        ),
    )


def report_conflicts(files: Sequence[str], what: str) -> list[Finding]:
    """Return a finding about your own images that were dropped because their labels disagree.

    Args:
        files: SHA-256 of the files of the dropped images; no finding is returned if there are none.
        what: relative clause that describes the images, such as "that another dataset labels differently".
    """
    if not files:
        return []
    listed = ", ".join(sorted(file[:12] for file in files)[:_LISTED]) + (", ..." if len(files) > _LISTED else "")
    message = f"dropped {len(files):,} of your own images {what}: SHA-256 {listed}"
    return [Finding("conflicting-labels", message, float(len(files)), None, fatal=False)]


def report_repeats(count: int, what: str) -> list[Finding]:
    """Return a finding about your own images that were dropped as duplicates.

    Args:
        count: number of dropped images; no finding is returned if it is 0.
        what: relative clause that describes the images, such as "that another dataset also contains".
    """
    message = f"dropped {count:,} of your own images {what}"
    return [Finding("repeated-labels", message, float(count), None, fatal=False)] if count else []


def oversample_own(rows: Indices, is_own: npt.NDArray[np.bool_], *, share: float) -> Indices:
    """Repeat your own training images until they make up a share of all training images.

    Args:
        rows: (N,) intp, indices of the training images.
        is_own: (N,) bool, whether you labelled each of them yourself.
        share: share of your own images among the returned indices, from 0 to below 1. It may be missed, because each of
            your own images occurs at least once and at most `MAX_REPEATS` times.

    Returns:
        Indices of the published images in their order, followed by those of your own images, repeated cyclically.
    """
    own, others = rows[is_own], rows[~is_own]
    if not len(own) or not len(others):
        return rows
    count = round(share / (1 - share) * len(others))
    return np.concatenate([others, np.resize(own, min(max(count, len(own)), MAX_REPEATS * len(own)))])


def split_validation(labels: Labels, *, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Split off a stratified validation set at random.

    Args:
        labels: (N,) uint8.
        fraction: share of each class to use for validation, between 0 and 1. Training and validation each get at least
            one image of each class.
        seed: random seed of the split.

    Returns:
        Indices of the training images and of the validation images, each ascending, intp.

    Raises:
        DataError: if there are no images, or if a class has only one image.
    """
    if not len(labels):
        raise DataError("there are no training images to split; check the dataset")
    generator = np.random.default_rng(seed)
    chosen = [_draw_validation(labels, label, fraction, generator) for label in np.unique(labels)]
    in_validation = np.zeros(len(labels), bool)
    in_validation[np.concatenate(chosen)] = True
    return np.flatnonzero(~in_validation), np.flatnonzero(in_validation)


def _draw_validation(labels: Labels, label: np.uint8, fraction: float, generator: np.random.Generator) -> Indices:
    members = np.flatnonzero(labels == label)
    if len(members) == 1:
        raise DataError(f"class {label} has one training image, but a split needs two; add images or remove the class")
    size = min(max(1, round(fraction * len(members))), len(members) - 1)
    return generator.permutation(members)[:size]


def fingerprints(pixels: Pixels) -> list[bytes]:
    """Return a 16-byte BLAKE2b hash of the pixels of each image."""
    rows = np.ascontiguousarray(flatten_images(pixels))
    return [hashlib.blake2b(row, digest_size=16).digest() for row in rows]


def flatten_images(pixels: Pixels) -> Pixels:
    """Reshape images to rows, also if there are none: (N, height, width) -> (N, height * width)."""
    return pixels.reshape(len(pixels), math.prod(pixels.shape[1:]))


def _digest_of(data: LabelledArrays, names: Iterable[str]) -> str:
    """Return the SHA-256 of the class names, and of the name, shape, dtype and bytes of the named arrays."""
    digest = hashlib.sha256(_header(list(data.class_names)))
    for name in names:
        array = getattr(data, name)
        digest.update(_header([name, array.dtype.str, list(array.shape)]))
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _header(values: list[Any]) -> bytes:
    return json.dumps(values).encode("ascii") + b"\n"
