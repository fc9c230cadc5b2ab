"""Labelled images as arrays: joined, split, checked before anything is trained on them, and hashed.

Everything here is computed from arrays; nothing is read or written.
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
"""As many as labels of one byte can tell apart."""
_ARRAYS = ("train_pixels", "train_labels", "test_pixels", "test_labels")
PIXEL_AXES = 3
SPLITS = ("test", "train")
LABELS_FILE = "labels.csv"
"""Where stored arrays list the images that were labelled here, with label and part."""
MOST_REPEATS = 50
"""Of a training image that was labelled here: more would be learned by heart."""
_LISTED = 5


@dataclass(frozen=True)
class NamedTestSet:
    """The test images of one of several datasets that were joined: those from `start` up to `stop`.

    Args:
        name: of the dataset.
        start: the first one's index among all test images.
        stop: the index after the last one's.
        sha256: of the images and labels.
    """

    name: str
    start: int
    stop: int
    sha256: str

    @property
    def images(self) -> slice:
        """Where its images are."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Finding:
    """What one check of a dataset found.

    Args:
        check: a word for the check.
        message: what was found, as a sentence without its full stop.
        value: the number that was compared.
        limit: the largest value that may be trained on; None where there is no such setting.
        fatal: whether the dataset must not be trained on.
    """

    check: str
    message: str
    value: float
    limit: float | None
    fatal: bool


@dataclass(frozen=True, eq=False)
class LabelledArrays:
    """A dataset in memory, or memory-mapped.

    Args:
        train_pixels: (N, height, width) uint8.
        train_labels: (N,) uint8, indices into `class_names`.
        test_pixels: (M, height, width) uint8.
        test_labels: (M,) uint8.
        class_names: what each label stands for.
        train_files: the SHA-256 of the file of each training image that was labelled here, "" for one of a published
            dataset; empty where all are.
        test_files: likewise.
        findings: what was found while it was read.
    """

    train_pixels: Pixels
    train_labels: Labels
    test_pixels: Pixels
    test_labels: Labels
    class_names: tuple[str, ...]
    train_files: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    def pixels(self, side: str) -> Pixels:
        """Give the images of a side, `train` or `test`."""
        return self.train_pixels if side == "train" else self.test_pixels

    def labels(self, side: str) -> Labels:
        """Give the labels of a side."""
        return self.train_labels if side == "train" else self.test_labels

    def files(self, side: str) -> tuple[str, ...]:
        """Give the files of a side, "" for each image of a published dataset."""
        return (self.train_files if side == "train" else self.test_files) or ("",) * len(self.labels(side))

    @property
    def is_own(self) -> bool:
        """Whether its images were labelled here, one by one."""
        return bool(self.train_files or self.test_files)


def join(parts: Sequence[LabelledArrays]) -> LabelledArrays:
    """Put datasets behind one another, training images to training images and test images to test images.

    The classes are those of the dataset with most of them; the others may lack some.

    Raises:
        DataError: there are none, or their class names or the sizes of their images differ.
    """
    if not parts:
        raise DataError("no dataset was given; name at least one")
    if len(parts) == 1:
        return parts[0]
    names = max((part.class_names for part in parts), key=len)
    for other in parts:
        _require_joinable(parts[0], other, names)
    parts = [_relabelled(part, names) for part in parts]
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    return LabelledArrays(
        **arrays,
        class_names=names,
        train_files=_files(parts, "train"),
        test_files=_files(parts, "test"),
        findings=tuple(finding for part in parts for finding in part.findings),
    )


def locate_test_sets(parts: Sequence[LabelledArrays], names: Sequence[str]) -> list[NamedTestSet]:
    """Say which of the joined test images belong to which dataset; one without test images is no test set."""
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
            f"datasets can't be joined: the classes are {names} and {other.class_names}; train on one of them"
        )
    pairs = {
        "training": (first.train_pixels.shape[1:], other.train_pixels.shape[1:]),
        "test": (first.test_pixels.shape[1:], other.test_pixels.shape[1:]),
    }
    for what, (expected, found) in pairs.items():
        if expected != found:
            raise DataError(
                f"datasets can't be joined: the sizes of the {what} images are {expected} and {found}; train on one of "
                "them"
            )


def _relabelled(data: LabelledArrays, names: tuple[str, ...]) -> LabelledArrays:
    if data.class_names == names:
        return data
    numbers = np.array([names.index(name) for name in data.class_names], np.uint8)
    train, test = numbers[data.train_labels], numbers[data.test_labels]
    return replace(data, train_labels=train, test_labels=test, class_names=names)


def _files(parts: Sequence[LabelledArrays], side: str) -> tuple[str, ...]:
    return tuple(file for part in parts for file in part.files(side)) if any(part.is_own for part in parts) else ()


def drop_duplicates(parts: Sequence[LabelledArrays]) -> list[LabelledArrays]:
    """Leave out of datasets that were labelled here what another dataset has too, as the same normalised pixels.

    Published datasets stay as they are, so that measures on their test images can be compared. An image with different
    labels in two datasets is left out of those that were labelled here. One with the same label stays in one dataset:
    a published one before ours, then the first one; and on one side, that of the test images where it is on both.

    Returns:
        The datasets, with a finding where something was left out.
    """
    if len(parts) == 1 or not any(part.is_own for part in parts):
        return list(parts)
    prints = {(number, side): fingerprints(part.pixels(side)) for number, part in enumerate(parts) for side in SPLITS}
    names: dict[bytes, set[str]] = defaultdict(set)
    for (number, side), found in prints.items():
        for one, label in zip(found, parts[number].labels(side).tolist(), strict=True):
            names[one].add(parts[number].class_names[label])
    kept, taken = dict[tuple[int, str], list[bool]](), set[bytes]()
    for number, side in sorted(prints, key=lambda at: (parts[at[0]].is_own, SPLITS.index(at[1]), at[0])):
        found = prints[number, side]
        is_own = parts[number].is_own
        kept[number, side] = [not is_own or (one not in taken and len(names[one]) == 1) for one in found]
        taken.update(found)
    conflicts = {one for one, labels in names.items() if len(labels) > 1}
    return [
        _with(
            part,
            {side: kept[number, side] for side in SPLITS},
            {side: prints[number, side] for side in SPLITS},
            conflicts,
        )
        for number, part in enumerate(parts)
    ]


def _with(
    part: LabelledArrays, kept: Mapping[str, list[bool]], prints: Mapping[str, list[bytes]], conflicts: set[bytes]
) -> LabelledArrays:
    """Take the kept rows of a dataset, and say what became of the others."""
    if all(map(all, kept.values())):
        return part
    train, test = (np.array(kept[side], bool) for side in ("train", "test"))
    out = [
        (file, one in conflicts)
        for side in SPLITS
        for file, one, stays in zip(part.files(side), prints[side], kept[side], strict=True)
        if not stays
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
            *report_conflicts([file for file, conflict in out if conflict], "another dataset labels differently"),
            *report_repeats(sum(not conflict for _, conflict in out), "another dataset has"),
        ),
    )


def report_conflicts(files: Sequence[str], what: str) -> list[Finding]:
    """Report images that were labelled here and left out since there are several labels for them."""
    if not files:
        return []
    listed = ", ".join(sorted(file[:12] for file in files)[:_LISTED]) + (", ..." if len(files) > _LISTED else "")
    message = f"{len(files):,} images labelled here are left out, which {what}: SHA-256 {listed}"
    return [Finding("conflicting-labels", message, float(len(files)), None, fatal=False)]


def report_repeats(count: int, what: str) -> list[Finding]:
    """Report images that were labelled here and left out since they are there once more."""
    message = f"{count:,} images labelled here are left out, which {what} too"
    return [Finding("repeated-labels", message, float(count), None, fatal=False)] if count else []


def oversample_own(rows: Indices, is_own: npt.NDArray[np.bool_], *, share: float) -> Indices:
    """Repeat the training images that were labelled here until they make a share of all.

    Args:
        rows: of the training images.
        is_own: (N,) whether each of those was labelled here.
        share: to reach; each image is repeated at most `MOST_REPEATS` times, and none is left out.

    Returns:
        The rows of published datasets in their order, then the others, again and again.
    """
    own, others = rows[is_own], rows[~is_own]
    if not len(own) or not len(others):
        return rows
    wanted = round(share / (1 - share) * len(others))
    return np.concatenate([others, np.resize(own, min(max(wanted, len(own)), MOST_REPEATS * len(own)))])


def split_validation(labels: Labels, *, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Split off a validation set, the same share of every class, drawn at random.

    Args:
        labels: (N,) uint8.
        fraction: share to hold back, above 0 and below 1; at least one image of each class goes to either side.
        seed: the same seed and labels give the same split.

    Returns:
        Indices of the training images and of the validation images, each ascending, intp.

    Raises:
        DataError: there are no images, or a class has only one.
    """
    if not len(labels):
        raise DataError("there are no training images to split; check the dataset")
    generator = np.random.default_rng(seed)
    held_back = [_hold_back(labels, label, fraction, generator) for label in np.unique(labels)]
    in_validation = np.zeros(len(labels), bool)
    in_validation[np.concatenate(held_back)] = True
    return np.flatnonzero(~in_validation), np.flatnonzero(in_validation)


def _hold_back(labels: Labels, label: np.uint8, fraction: float, generator: np.random.Generator) -> Indices:
    members = np.flatnonzero(labels == label)
    if len(members) == 1:
        raise DataError(f"class {label} has one training image, but a split needs two; add images, or leave it out")
    size = min(max(1, round(fraction * len(members))), len(members) - 1)
    return generator.permutation(members)[:size]


def fingerprints(pixels: Pixels) -> list[bytes]:
    rows = np.ascontiguousarray(as_rows(pixels))
    return [hashlib.blake2b(row, digest_size=16).digest() for row in rows]


def as_rows(pixels: Pixels) -> Pixels:
    """Give each image as one row, also of no images."""
    return pixels.reshape(len(pixels), math.prod(pixels.shape[1:]))


def _digest_of(data: LabelledArrays, names: Iterable[str]) -> str:
    """Return the SHA-256 of the class names, and of the name, shape, dtype and bytes of some of the arrays."""
    digest = hashlib.sha256(_header(list(data.class_names)))
    for name in names:
        array = getattr(data, name)
        digest.update(_header([name, array.dtype.str, list(array.shape)]))
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _header(values: list[Any]) -> bytes:
    return json.dumps(values).encode("ascii") + b"\n"
