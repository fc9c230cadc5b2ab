"""Where labelled images come from: published datasets, the sample in this package, local files and folders."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from digits.arrays import MAX_CLASSES, LabelledArrays, check_structure, require_sound
from digits.config import Mode, PredictionConfig
from digits.downloads import PUBLISHED, Published, fetch
from digits.errors import DataError, DigitsError, UsageError
from digits.idx import IDX_FILES, bounded_read, find_idx_file, parse_idx, read_idx_files, read_npz
from digits.progress import SILENT, Progress
from digits.records import Record, digest_of, hash_file

Read = TypeVar("Read")
Bytes = npt.NDArray[np.uint8]

SAMPLE = "mnist-sample"
SAMPLE_FILE = Path(__file__).parent / "sample" / "mnist-sample.npz"
SAMPLE_SHA256 = "156d280be850308c2d115b80e5f3639a9f142687d67c250cd1b7c6c97044fb6f"
TEST_SHARE = 0.2
"""Of a folder of labelled images."""
ACCEPTED = (
    "mnist, fashion-mnist, mnist-sample, an .npz file with x_train, y_train, x_test and y_test, a folder with the four "
    "IDX files, or a folder of labelled images (<root>/<class>/*.png)"
)
_LISTED = 5
_DECODING = PredictionConfig()


def identify(source: str, *, published: Mapping[str, Published] = PUBLISHED) -> Record:
    """Say what a source is, without the network: JSON values that change when its content does.

    A published dataset is known by the hashes of its files; local files are read and hashed. No path is in it, but
    those of labelled images relative to their folder are hashed.

    Raises:
        UsageError: there is no such source.
        DataError: a local one can't be read.
    """
    if source in published:
        return {"source": source, "sha256": dict(published[source].sha256)}
    if source == SAMPLE:
        return {"source": source, "sha256": SAMPLE_SHA256}
    kind, path = _classify(source)
    return {"source": kind, "sha256": _reading(path, _IDENTIFIERS[kind])}


def is_named(source: str) -> bool:
    """Tell whether a source is known by name: its images are files of 28x28 pixels, light on black."""
    return source in PUBLISHED or source == SAMPLE


def load(
    source: str,
    *,
    downloads: Path,
    normalize: Mode = "auto",
    progress: Progress = SILENT,
    published: Mapping[str, Published] = PUBLISHED,
) -> LabelledArrays:
    """Have a dataset: (N, height, width) uint8 images and (N,) uint8 labels, for training and for testing.

    Args:
        source: a name or a path.
        downloads: where finished downloads are kept, a folder a dataset; made when it is needed.
        normalize: how every image is brought into the network's form, as prediction will bring it; `auto` leaves
            MNIST's own images as they are.
        progress: told of downloads, and of the reading of many images.
        published: the datasets that are known by name.

    Raises:
        DownloadError: every route to a published dataset failed.
        UsageError: there is no such source.
        DataError: a local one can't be read, or is no dataset.
    """
    if source in published:
        return _in_form(fetch(published[source], downloads=downloads, progress=progress), normalize)
    if source == SAMPLE:
        return _in_form(_load_sample(), normalize)
    kind, path = _classify(source)
    if kind == "images":
        return _reading(path, partial(_load_image_folder, mode=normalize, progress=progress))
    return _in_form(_reading(path, _load_npz if kind == "npz" else _load_idx_folder), normalize)


def _in_form(data: LabelledArrays, mode: Mode) -> LabelledArrays:
    if mode == "none":
        return data
    from digits.normalization import normalize

    train, test = (
        np.stack([normalize(image, mode) for image in pixels]) for pixels in (data.train_pixels, data.test_pixels)
    )
    return replace(data, train_pixels=train, test_pixels=test)


def attribution(source: str, *, published: Mapping[str, Published] = PUBLISHED) -> str:
    """Give a source's authors and licence, as one line."""
    if source in published:
        return published[source].attribution
    if source == SAMPLE:
        return f"A selection from {PUBLISHED['mnist'].attribution}"
    return "Local data; what may be done with it is for its owner to say"


def _classify(source: str) -> tuple[str, Path]:
    path = Path(os.path.expanduser(source))  # noqa: PTH111 - that of Path fails for the home of an unknown user
    kind = _reading(path, lambda path: next(_kinds(path), None))
    if kind is None or not source:
        raise UsageError(f"{source or 'an empty name'}: no such dataset; accepted are {ACCEPTED}")
    return kind, path


def _kinds(path: Path) -> Iterator[str]:
    if path.is_file() and path.suffix.lower() == ".npz":
        yield "npz"
    if path.is_dir() and any(find_idx_file(path, name) for name in IDX_FILES):
        yield "idx"
    if path.is_dir() and any(entry.is_dir() and not entry.name.startswith(".") for entry in path.iterdir()):
        yield "images"


def _reading(path: Path, read: Callable[[Path], Read]) -> Read:
    """Read a local source; an error names it."""
    try:
        return read(path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error}); check that it is there and who may read it") from error


_IDENTIFIERS: Mapping[str, Callable[[Path], Any]] = {
    "npz": hash_file,
    "idx": lambda folder: {n: hashlib.sha256(content).hexdigest() for n, content in read_idx_files(folder).items()},
    "images": lambda root: digest_of([[file.relative, hash_file(file.path)] for file in _list_images(root)]),
}


def _load_idx_folder(folder: Path) -> LabelledArrays:
    payloads = read_idx_files(folder)
    train, train_labels, test, test_labels = (parse_idx(name, payloads[name]) for name in IDX_FILES)
    return _sound(LabelledArrays(train, train_labels, test, test_labels, _numbered(train_labels, test_labels)))


def _load_npz(path: Path) -> LabelledArrays:
    train, train_labels, test, test_labels = read_npz(path)
    return _sound(LabelledArrays(train, train_labels, test, test_labels, _numbered(train_labels, test_labels)))


def _numbered(*labels: Bytes) -> tuple[str, ...]:
    highest = max((int(part.max()) for part in labels if part.size), default=-1)
    return tuple(map(str, range(highest + 1)))


def _sound(data: LabelledArrays) -> LabelledArrays:
    require_sound([check_structure(data)])
    return data


def _load_sample() -> LabelledArrays:
    if not SAMPLE_FILE.is_file() or hash_file(SAMPLE_FILE) != SAMPLE_SHA256:
        raise DataError(f"{SAMPLE_FILE.name}: the sample in this installation is missing or damaged; install it again")
    return _load_npz(SAMPLE_FILE)


# Folders of labelled images


@dataclass(frozen=True)
class _Labelled:
    """One file of a folder of labelled images."""

    class_name: str
    path: Path

    @property
    def relative(self) -> str:
        return f"{self.class_name}/{self.path.name}"


def _load_image_folder(root: Path, *, mode: Mode, progress: Progress) -> LabelledArrays:
    files = _list_images(root)
    class_names = _class_names(files)
    pixels = _decode_all(files, mode, progress)
    prints = [hashlib.sha256(image.tobytes()).digest() for image in pixels]
    _require_no_conflicts(files, prints)
    labels = np.array([class_names.index(file.class_name) for file in files], np.uint8)
    in_test = np.array([_falls_into_test(fingerprint) for fingerprint in prints])
    if in_test.all() or not in_test.any():
        raise DataError(f"{len(files)} images are too few: none falls into the {_side(in_test)} images; add some")
    return LabelledArrays(pixels[~in_test], labels[~in_test], pixels[in_test], labels[in_test], class_names)


def _side(in_test: npt.NDArray[np.bool_]) -> str:
    return "training" if in_test.all() else "test"


def _falls_into_test(fingerprint: bytes) -> bool:
    """Decide by an image's own content, so that it stays where it is whatever is added around it."""
    return int.from_bytes(fingerprint[:8], "big") < TEST_SHARE * 2**64


def _list_images(root: Path) -> list[_Labelled]:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = [_Labelled(folder.name, path) for folder in folders for path in _images_in(folder)]
    empty = {folder.name for folder in folders} - {file.class_name for file in files}
    if empty:
        raise DataError(f"no images directly in {_some(sorted(empty))}; each folder must be a class, with its images")
    return files


def _images_in(folder: Path) -> list[Path]:
    from digits.images import EXTENSIONS

    return sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS and path.is_file())


def _class_names(files: Iterable[_Labelled]) -> tuple[str, ...]:
    names = sorted({file.class_name for file in files}, key=_numbers_first)
    faults = [name for name in names if not name.isprintable() or name[0] in "=+-@"]
    if faults:
        raise DataError(f"{_some(faults)} can't be written into a table as class names; rename them")
    if not 1 < len(names) <= MAX_CLASSES:
        raise DataError(f"there are {len(names)} classes ({_some(names)}), expected 2 to {MAX_CLASSES} folders")
    return tuple(names)


def _numbers_first(name: str) -> tuple[bool, int, str]:
    is_number = name.isascii() and name.isdigit()
    return (not is_number, int(name) if is_number else 0, name)


def _decode_all(files: Sequence[_Labelled], mode: Mode, progress: Progress) -> Bytes:
    bar = progress.start("images", len(files))
    decoded, faults = [], []
    for file in files:
        try:
            decoded.append(_decode_one(file.path, mode))
        except (DigitsError, OSError) as error:
            faults.append(f"{file.relative} ({error})")
        bar.advance()
    bar.close()
    if faults:
        raise DataError(
            f"{len(faults)} of {len(files)} images can't be read: {_some(faults)}; repair them or take them out"
        )
    return np.stack(decoded)


def _decode_one(path: Path, mode: Mode) -> Bytes:
    """Give an image as the network sees it: (28, 28) uint8."""
    from digits.images import LEAST_SIDE, decode
    from digits.normalization import normalize

    with path.open("rb") as file:
        content = bounded_read(file, _DECODING.max_bytes)
    picture = decode(content, max_pixels=_DECODING.max_pixels, least_side=LEAST_SIDE)
    return normalize(picture.pixels, mode)


def _require_no_conflicts(files: Sequence[_Labelled], prints: Sequence[bytes]) -> None:
    same: dict[bytes, list[_Labelled]] = defaultdict(list)
    for file, fingerprint in zip(files, prints, strict=True):
        same[fingerprint].append(file)
    conflicts = [group for group in same.values() if len({file.class_name for file in group}) > 1]
    if conflicts:
        listed = _some(" = ".join(file.relative for file in group[:_LISTED]) for group in conflicts)
        raise DataError(f"{len(conflicts)} images are there under several labels: {listed}; keep the right one of each")


def _some(words: Iterable[str]) -> str:
    known = [word if word.isprintable() else ascii(word) for word in words]
    rest = len(known) - _LISTED
    return ", ".join(known[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
