"""Checks: findings about a dataset, and the refusal of one that must not be trained on."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from digits.data.arrays import MAX_CLASSES, PIXEL_AXES, Finding, LabelledArrays, as_rows, fingerprints
from digits.errors import DataError
from digits.images.types import Labels, Pixels

if TYPE_CHECKING:  # else the settings' help texts would be part of the code version of every dataset
    from digits.data.config import ArraysConfig


def check_arrays(data: LabelledArrays, config: "ArraysConfig") -> list[Finding]:
    """Check a dataset before it is trained on: one finding a check, fatal or not.

    When shapes, dtypes or labels are wrong, that is the only finding: the other checks presuppose them.
    """
    structure = check_structure(data)
    if structure.fatal:
        return [structure]
    return [structure, _check_balance(data, config), *_check_duplicates(data, config), _check_blank(data, config)]


def check_structure(data: LabelledArrays) -> Finding:
    """Check the shapes and dtypes of a dataset's arrays, and that every label stands for a class."""
    faults = [*_structure_faults(data)]
    sizes = " by ".join(map(str, data.train_pixels.shape[1:]))
    sound = f"{len(data.train_labels):,} training and {len(data.test_labels):,} test images of {sizes} pixels"
    return Finding("structure", "; ".join(faults) or sound, float(len(faults)), None, bool(faults))


def _structure_faults(data: LabelledArrays) -> Iterator[str]:
    if not 1 < len(data.class_names) <= MAX_CLASSES:
        yield f"there are {len(data.class_names)} classes, expected 2 to {MAX_CLASSES}"
    if len(set(data.class_names)) != len(data.class_names):
        yield "two classes have the same name"
    if data.train_pixels.shape[1:] != data.test_pixels.shape[1:]:
        yield f"training images are {data.train_pixels.shape[1:]}, test images {data.test_pixels.shape[1:]}"
    yield from _part_faults("train", data.train_pixels, data.train_labels, len(data.class_names))
    yield from _part_faults("test", data.test_pixels, data.test_labels, len(data.class_names))


def _part_faults(name: str, pixels: Pixels, labels: Labels, classes: int) -> Iterator[str]:
    if not len(pixels):
        yield f"there are no {name} images; add some"
    elif pixels.ndim != PIXEL_AXES or 0 in pixels.shape or pixels.dtype != np.uint8:
        yield f"{name} pixels are {pixels.shape} {pixels.dtype}, expected (N, height, width) uint8"
    if labels.shape != pixels.shape[:1] or labels.dtype != np.uint8:
        yield f"{name} labels are {labels.shape} {labels.dtype}, expected {pixels.shape[:1]} uint8"
    elif outside := int(np.count_nonzero(labels >= classes)):
        yield f"{outside} {name} labels stand for no class: the highest is {labels.max()}, of {classes} classes"


def _check_balance(data: LabelledArrays, config: "ArraysConfig") -> Finding:
    counts = np.bincount(data.train_labels, minlength=len(data.class_names))
    smallest, largest = int(counts.argmin()), int(counts.argmax())
    ratio = float(counts[largest] / max(counts[smallest], 1))
    message = (
        f"the largest class, {data.class_names[largest]}, has {counts[largest]:,} training images and the smallest, "
        f"{data.class_names[smallest]}, has {counts[smallest]:,}: {ratio:.2f} times as many"
    )
    fatal = not counts[smallest] or ratio > config.max_imbalance
    return Finding("balance", message, ratio, config.max_imbalance, fatal)


def _check_duplicates(data: LabelledArrays, config: "ArraysConfig") -> list[Finding]:
    train, test = fingerprints(data.train_pixels), fingerprints(data.test_pixels)
    distinct = set(train)
    shared = sum(fingerprint in distinct for fingerprint in test)
    repeated = len(train) - len(distinct)
    return [
        _share(
            "duplicates-across",
            f"{shared:,} of {len(test):,} test images are training images too, byte for byte",
            shared / len(test),
            config.max_duplicates,
        ),
        _share(
            "duplicates-in-training",
            f"{repeated:,} of {len(train):,} training images repeat an earlier one, byte for byte",
            repeated / len(train),
            None,
        ),
    ]


def _check_blank(data: LabelledArrays, config: "ArraysConfig") -> Finding:
    blank = sum(int(_is_blank(pixels).sum()) for pixels in (data.train_pixels, data.test_pixels))
    total = len(data.train_pixels) + len(data.test_pixels)
    return _share("blank", f"{blank:,} of {total:,} images are of one colour", blank / total, config.max_blank)


def _is_blank(pixels: Pixels) -> npt.NDArray[np.bool_]:
    rows = as_rows(pixels)
    blank: npt.NDArray[np.bool_] = rows.min(axis=1) == rows.max(axis=1)
    return blank


def _share(check: str, message: str, value: float, limit: float | None) -> Finding:
    return Finding(check, f"{message} ({value:.2%})", value, limit, limit is not None and value > limit)


_REMEDIES = {
    "structure": "repair the dataset",
    "balance": "add images to the smallest class, or raise `max_imbalance` of the arrays' settings",
    "duplicates-across": "take them out of one of the two, or raise `max_duplicates` of the arrays' settings",
    "blank": "take them out, or raise `max_blank` of the arrays' settings",
}


def require_sound(findings: Iterable[Finding]) -> None:
    """Refuse a dataset with a fatal finding.

    Raises:
        DataError: names each fatal finding, its limit, and what to do.
    """
    faults = [f"  - {_explain(finding)}" for finding in findings if finding.fatal]
    if faults:
        raise DataError("\n".join(["the dataset must not be trained on:", *faults]))


def _explain(finding: Finding) -> str:
    limit = "" if finding.limit is None else f"; the limit is {finding.limit:g}"
    return f"{finding.message}{limit}; {_REMEDIES[finding.check]}"
