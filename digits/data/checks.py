"""Dataset checks: structure, class balance, duplicates and blank images. A fatal finding is an error."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from digits.data.arrays import (
    MAX_CLASSES,
    MISSING_DIGITS,
    PIXEL_AXES,
    Finding,
    LabelledArrays,
    fingerprints,
    flatten_images,
)
from digits.data.labels import DIGITS
from digits.errors import DataError
from digits.images.types import Labels, Pixels
from digits.wording import choose, count

if TYPE_CHECKING:  # otherwise the help texts of the settings would be part of the code version of every dataset
    from digits.data.config import ArraysConfig

LAYOUTS = (
    "expected FOLDER/<class>/IMAGE with at least two classes, the four IDX files, or an .npz file; Digits separates "
    "training and test images itself, so put both into the folders of their classes"
)
"""Layouts of a local dataset, for messages."""


def check_arrays(data: LabelledArrays, config: "ArraysConfig") -> list[Finding]:
    """Check a dataset before training, and return one finding per check, fatal or not.

    If shapes, dtypes or labels are invalid, only the check `structure` is made, because the others need a valid
    structure.
    """
    structure = check_structure(data)
    if structure.fatal:
        return [structure]
    return [
        structure,
        *check_digits(data.class_names),
        _check_balance(data, config),
        *_check_duplicates(data, config),
        _check_blank(data, config),
    ]


def check_digits(class_names: Sequence[str]) -> list[Finding]:
    """Return a warning if some of the digits 0 to 9 are classes and others are not; nothing for any other classes."""
    lacking = [name for name in DIGITS if name not in class_names]
    if not lacking or len(lacking) == len(DIGITS):
        return []
    names = f"the digit {lacking[0]}" if len(lacking) == 1 else f"the digits {', '.join(lacking)}"
    message = (
        f"no class for {names}: the model takes every image of {'it' if len(lacking) == 1 else 'them'} for another"
    )
    return [Finding(MISSING_DIGITS, message, float(len(lacking)), None, fatal=False)]


def check_structure(data: LabelledArrays) -> Finding:
    """Check the shapes and dtypes of a dataset's arrays, and that every label is the index of a class."""
    faults = [*_structure_faults(data)]
    sizes = " by ".join(map(str, data.train_pixels.shape[1:]))
    valid = f"{len(data.train_labels):,} training and {count(len(data.test_labels), 'test image')} of {sizes} pixels"
    return Finding("structure", "; ".join(faults) or valid, float(len(faults)), None, bool(faults))


def _structure_faults(data: LabelledArrays) -> Iterator[str]:
    if len(data.class_names) == 1:
        yield f"there is one class, {data.class_names[0]}; {LAYOUTS}"
    elif not 1 < len(data.class_names) <= MAX_CLASSES:
        yield f"there are {len(data.class_names)} classes, expected 2 to {MAX_CLASSES}"
    if len(set(data.class_names)) != len(data.class_names):
        yield "two classes have the same name"
    if data.train_pixels.shape[1:] != data.test_pixels.shape[1:]:
        yield f"training images are {data.train_pixels.shape[1:]}, test images {data.test_pixels.shape[1:]}"
    yield from _split_faults("train", data.train_pixels, data.train_labels, len(data.class_names))
    yield from _split_faults("test", data.test_pixels, data.test_labels, len(data.class_names))


def _split_faults(name: str, pixels: Pixels, labels: Labels, classes: int) -> Iterator[str]:
    if not len(pixels):
        yield f"there are no {name} images; add some"
    elif pixels.ndim != PIXEL_AXES or 0 in pixels.shape or pixels.dtype != np.uint8:
        yield f"{name} pixels are {pixels.shape} {pixels.dtype}, expected (N, height, width) uint8"
    if labels.shape != pixels.shape[:1] or labels.dtype != np.uint8:
        yield f"{name} labels are {labels.shape} {labels.dtype}, expected {pixels.shape[:1]} uint8"
    elif outside := int(np.count_nonzero(labels >= classes)):
        wrong = count(outside, f"{name} label has", f"{name} labels have")
        yield f"{wrong} no class: the highest label is {labels.max()}, of {classes} classes"


def _check_balance(data: LabelledArrays, config: "ArraysConfig") -> Finding:
    counts = np.bincount(data.train_labels, minlength=len(data.class_names))
    smallest, largest = int(counts.argmin()), int(counts.argmax())
    ratio = float(counts[largest] / max(counts[smallest], 1))
    message = (
        f"the largest class, {data.class_names[largest]}, has {count(counts[largest], 'training image')} and the "
        f"smallest, {data.class_names[smallest]}, has {counts[smallest]:,}: {ratio:.2f} times as many"
    )
    fatal = not counts[smallest] or ratio > config.max_imbalance
    return Finding("balance", message, ratio, config.max_imbalance, fatal)


def _check_duplicates(data: LabelledArrays, config: "ArraysConfig") -> list[Finding]:
    train, test = fingerprints(data.train_pixels), fingerprints(data.test_pixels)
    distinct = set(train)
    shared = sum(fingerprint in distinct for fingerprint in test)
    repeated = len(train) - len(distinct)
    return [
        _share_finding(
            "duplicates-across",
            f"{_share(shared, len(test), 'test image')} identical to a training image",
            shared / len(test),
            config.max_duplicates,
        ),
        _share_finding(
            "duplicates-in-training",
            f"{_share(repeated, len(train), 'training image')} identical to an earlier one",
            repeated / len(train),
            None,
        ),
    ]


def _share(number: int, total: int, noun: str) -> str:
    """Return the start of a sentence: `1 of 20 images is`, `2 of 20 images are`."""
    return f"{number:,} of {count(total, noun)} {choose(number, 'is', 'are')}"


def _check_blank(data: LabelledArrays, config: "ArraysConfig") -> Finding:
    blank = sum(int(_is_blank(pixels).sum()) for pixels in (data.train_pixels, data.test_pixels))
    total = len(data.train_pixels) + len(data.test_pixels)
    return _share_finding(
        "blank",
        f"{_share(blank, total, 'image')} blank",
        blank / total,
        config.max_blank,
    )


def _is_blank(pixels: Pixels) -> npt.NDArray[np.bool_]:
    rows = flatten_images(pixels)
    blank: npt.NDArray[np.bool_] = rows.min(axis=1) == rows.max(axis=1)
    return blank


def _share_finding(check: str, message: str, value: float, limit: float | None) -> Finding:
    return Finding(check, f"{message} ({value:.2%})", value, limit, limit is not None and value > limit)


_REMEDIES = {
    "structure": "correct the dataset",
    "balance": "add images to the smallest class, or raise `max_imbalance` in the section `arrays` of the settings",
    "duplicates-across": "remove the duplicates, or raise `max_duplicates` in the section `arrays` of the settings",
    "blank": "remove the blank images, or raise `max_blank` in the section `arrays` of the settings",
}
"""Remedy for a fatal finding of each check."""


def require_sound(findings: Iterable[Finding]) -> None:
    """Raise an error if any finding is fatal.

    Raises:
        DataError: if a finding is fatal; the message lists the fatal findings with their limits and remedies.
    """
    faults = [f"  - {_explain(finding)}" for finding in findings if finding.fatal]
    if faults:
        raise DataError("\n".join(["the dataset cannot be used for training:", *faults]))


def _explain(finding: Finding) -> str:
    limit = "" if finding.limit is None else f"; the limit is {finding.limit:g}"
    return f"{finding.message}{limit}; {_REMEDIES[finding.check]}"
