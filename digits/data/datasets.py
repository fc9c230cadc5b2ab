"""Dataset sources: published datasets, the bundled sample, local files and folders, and reviewed images."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from digits.data.arrays import (
    MAX_CLASSES,
    SYSTEM_FILES,
    UNREAD_FILES,
    Finding,
    LabelledArrays,
    report_conflicts,
    report_repeats,
)
from digits.data.checks import LAYOUTS, check_structure, require_sound
from digits.data.downloads import PUBLISHED, PublishedDataset, fetch
from digits.data.idx import IDX_FILES, find_idx_file, parse_idx, read_bounded, read_idx_files, read_npz
from digits.data.labels import DIGITS, LabelSnapshot, file_and_page, image_id
from digits.errors import DataError, DigitsError, UsageError, os_errors_as
from digits.images.formats import (
    DEFAULT_MAX_BYTES,
    DEFAULT_MAX_PIXELS,
    EXTENSIONS,
    OTHER_EXTENSIONS,
    Mode,
    extra_of,
    formats_to_read,
    reason_of,
)
from digits.images.patterns import is_system_file
from digits.images.types import Labels, Pixels
from digits.progress import SILENT, Progress, shown
from digits.status import FORMULA_STARTS
from digits.store.files import hash_file
from digits.store.records import Record, digest_of
from digits.wording import choose, count

Read = TypeVar("Read")

REVIEWED = "reviewed"
"""Name of the dataset of images that were labelled by `digits review`."""
SAMPLE = "mnist-sample"
"""Name of the bundled sample of MNIST."""
SAMPLE_FILE = Path(__file__).parent / "sample" / "mnist-sample.npz"
SAMPLE_SHA256 = "156d280be850308c2d115b80e5f3639a9f142687d67c250cd1b7c6c97044fb6f"
TEST_SHARE = 0.2
"""Share of your own labelled images that become test images."""
ACCEPTED = (
    "mnist, fashion-mnist, mnist-sample, reviewed (the labels saved by `digits review`), an .npz file with "
    "x_train, y_train, x_test and y_test, a folder with the four IDX files, or a folder of labelled images "
    "(<root>/<class>/*.png)"
)
"""Accepted sources of a dataset, for messages."""
_LABEL_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".xlsx")
"""Extensions of files in which other programs keep the labels of images."""
_SPLIT_NAMES = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"})
"""Names of folders that separate training and test images; they are no classes."""
_LISTED = 5
"""Largest number of files or names that a message lists."""


def identify(
    source: str, *, published: Mapping[str, PublishedDataset] = PUBLISHED, reviewed: LabelSnapshot | None = None
) -> Record:
    """Return JSON values that identify the content of a dataset, without network access.

    A published dataset is identified by the known hashes of its files. Local files are read and hashed. The location of
    local files does not matter, but the paths of labelled images relative to their folder do.

    Args:
        source: name or path of the dataset.
        published: published datasets by name.
        reviewed: labels that the name `reviewed` refers to; None if there are none.

    Raises:
        UsageError: if there is no such dataset.
        DataError: if a local file cannot be read.
    """
    if source == REVIEWED and reviewed:
        return {"source": REVIEWED, "sha256": reviewed.digest}
    if source in published:
        return {"source": source, "sha256": dict(published[source].sha256)}
    if source == SAMPLE:
        return {"source": source, "sha256": SAMPLE_SHA256}
    kind, path = _classify(source)
    return {"source": kind, "sha256": _read_local(path, _IDENTIFIERS[kind])}


def is_named(source: str) -> bool:
    """Return whether a dataset is a published one or the bundled sample: 28x28 pixels, light ink on black."""
    return source in PUBLISHED or source == SAMPLE


def load(  # noqa: PLR0913 - the source, the tables that resolve its name, and how to read it
    source: str,
    *,
    downloads: Path,
    normalize: Mode = "auto",
    progress: Progress = SILENT,
    published: Mapping[str, PublishedDataset] = PUBLISHED,
    reviewed: LabelSnapshot | None = None,
) -> LabelledArrays:
    """Load a dataset: (N, height, width) uint8 images and (N,) uint8 labels, for training and for testing.

    Args:
        source: name or path of the dataset.
        downloads: directory of finished downloads, with one folder per dataset; created when needed.
        normalize: normalization of the images, as in predictions; `auto` does not change images in MNIST's form.
        progress: receiver of the progress of downloads and of the decoding of images.
        published: published datasets by name.
        reviewed: labels that the name `reviewed` refers to; None if there are none.

    Raises:
        DownloadError: if every route to a published dataset failed.
        UsageError: if there is no such dataset.
        DataError: if a local dataset cannot be read or is invalid.
    """
    if source in published:
        return _normalize_arrays(fetch(published[source], downloads=downloads, progress=progress), normalize, progress)
    if source == SAMPLE:
        return _normalize_arrays(_load_sample(), normalize, progress)
    if source == REVIEWED and reviewed:
        return _load_reviewed(reviewed, mode=normalize, progress=progress)
    kind, path = _classify(source)
    if kind == "images":
        return _read_local(path, partial(_load_image_folder, mode=normalize, progress=progress))
    return _normalize_arrays(_read_local(path, _load_npz if kind == "npz" else _load_idx_folder), normalize, progress)


def _normalize_arrays(data: LabelledArrays, mode: Mode, progress: Progress) -> LabelledArrays:
    if mode == "none":
        return data
    from digits.images.normalize import normalize

    with shown(progress, "normalize"):
        train, test = (
            np.stack([normalize(image, mode) for image in pixels]) for pixels in (data.train_pixels, data.test_pixels)
        )
    return replace(data, train_pixels=train, test_pixels=test)


def attribution(source: str, *, published: Mapping[str, PublishedDataset] = PUBLISHED) -> str:
    """Return authors and licence of a dataset, as one line."""
    if source in published:
        return published[source].attribution
    if source == SAMPLE:
        return f"A selection from {PUBLISHED['mnist'].attribution}"
    return "Local data; its owner decides how it may be used"


def _classify(source: str) -> tuple[str, Path]:
    path = Path(os.path.expanduser(source))  # noqa: PTH111 - Path.expanduser fails for the home of an unknown user
    kind = _read_local(path, lambda path: next(_kinds(path), None))
    if kind is None or not source:
        raise UsageError(f"{source or 'an empty name'}: no such dataset; accepted are {ACCEPTED}")
    return kind, path


def _kinds(path: Path) -> Iterator[str]:
    if path.is_file() and path.suffix.lower() == ".npz":
        yield "npz"
    if path.is_dir() and any(find_idx_file(path, name) for name in IDX_FILES):
        yield "idx"
    if path.is_dir() and (_class_folders(path) or _direct_images(path)):
        yield "images"


def _read_local(path: Path, read: Callable[[Path], Read]) -> Read:
    """Return what a function reads from a local path, and name the path in its errors."""
    with os_errors_as(DataError, path, "could not be read", "check that it exists and that you may read it"):
        try:
            return read(path)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error


_IDENTIFIERS: Mapping[str, Callable[[Path], Any]] = {
    "npz": hash_file,
    "idx": lambda folder: {n: hashlib.sha256(content).hexdigest() for n, content in read_idx_files(folder).items()},
    "images": lambda root: digest_of([[file.relative, hash_file(file.path)] for file in list_images(root)]),
}


def _load_idx_folder(folder: Path) -> LabelledArrays:
    payloads = read_idx_files(folder)
    train, train_labels, test, test_labels = (parse_idx(name, payloads[name]) for name in IDX_FILES)
    return _require_structure(
        LabelledArrays(train, train_labels, test, test_labels, _class_numbers(train_labels, test_labels))
    )


def _load_npz(path: Path) -> LabelledArrays:
    train, train_labels, test, test_labels = read_npz(path)
    return _require_structure(
        LabelledArrays(train, train_labels, test, test_labels, _class_numbers(train_labels, test_labels))
    )


def _class_numbers(*labels: Labels) -> tuple[str, ...]:
    highest = max((int(part.max()) for part in labels if part.size), default=-1)
    return tuple(map(str, range(highest + 1)))


def _require_structure(data: LabelledArrays) -> LabelledArrays:
    require_sound([check_structure(data)])
    return data


def _load_sample() -> LabelledArrays:
    if not SAMPLE_FILE.is_file() or hash_file(SAMPLE_FILE) != SAMPLE_SHA256:
        raise DataError(f"{SAMPLE_FILE.name}: the bundled sample is missing or damaged; install Digits again")
    return _load_npz(SAMPLE_FILE)


# Your own labelled images


@dataclass(frozen=True)
class LabelledFile:
    """Image file, the name of its class, and the page that is the image if the file has several."""

    class_name: str
    path: Path
    page: int | None = None

    @property
    def relative(self) -> str:
        """Path within the dataset: class and file name."""
        return f"{self.class_name}/{self.path.name}"


class _DecodedFile(NamedTuple):
    """Decoded image.

    Args:
        sha256: SHA-256 of the file.
        fingerprint: hash of the decoded pixels.
        pixels: normalized pixels, uint8.
        more_frames: whether the file has further pages or frames, which are no images of the dataset.
    """

    sha256: str
    fingerprint: bytes
    pixels: Pixels
    more_frames: bool


def _load_image_folder(root: Path, *, mode: Mode, progress: Progress) -> LabelledArrays:
    files = list_images(root)
    class_names = _class_names(files)
    left_out = [*_report_system_files(list_system_files(root)), *_report_unread(_list_unread(root))]
    decoded = _decode_files(files, mode, progress)
    conflicts = [group for group in _group_equal(decoded) if len({files[index].class_name for index in group}) > 1]
    if conflicts:
        listed = _list_some(" equals ".join(files[index].relative for index in group[:_LISTED]) for group in conflicts)
        images = count(len(conflicts), "image has", "images have")
        raise DataError(f"{images} copies with other labels: {listed}; keep one copy of each")
    data = _split(files, decoded, class_names)
    further = _report_further_pages(files, decoded)
    return replace(data, findings=(*left_out, *further, *data.findings))


def _report_system_files(names: Sequence[str]) -> list[Finding]:
    message = f"left out {count(len(names), 'system file or folder', 'system files or folders')}: {_list_some(names)}"
    return [Finding(SYSTEM_FILES, message, float(len(names)), None, fatal=False)] if names else []


def _report_unread(names: Sequence[str]) -> list[Finding]:
    """Return a finding about images that only an extra reads."""
    extras = sorted({str(extra_of(reason_of(os.fsencode(name)))) for name in names})
    images = count(len(names), "image that needs", "images that need")
    message = f"left out {images} digits[{','.join(extras)}]: {_list_some(names)}"
    return [Finding(UNREAD_FILES, message, float(len(names)), None, fatal=False)] if names else []


def _report_further_pages(files: Sequence[LabelledFile], decoded: Sequence[_DecodedFile]) -> list[Finding]:
    names = [file.relative for file, one in zip(files, decoded, strict=True) if one.more_frames]
    message = f"read only the first page or frame of {count(len(names), 'file')}: {_list_some(names)}"
    return [Finding("further-pages", message, float(len(names)), None, fatal=False)] if names else []


def _load_reviewed(reviewed: LabelSnapshot, *, mode: Mode, progress: Progress) -> LabelledArrays:
    """Load the reviewed images with their labels."""
    images = [(*file_and_page(image), label) for image, label in reviewed.labels.items()]
    files = [LabelledFile(label, reviewed.images / sha256, page) for sha256, page, label in images]
    if not files:
        raise DataError(f"{REVIEWED}: no image has been labelled as a digit yet; label some with `digits review TABLE`")
    decoded = _decode_files(files, mode, progress)
    wrong = [file.path.name for file, one in zip(files, decoded, strict=True) if file.path.name != one.sha256]
    if wrong:
        damaged = count(len(wrong), "image was damaged after it was", "images were damaged after they were")
        them = choose(len(wrong), "it", "them")
        raise DataError(f"{REVIEWED}: {damaged} saved: {_list_some(wrong)}; restore {them} from a backup")
    data = _split(files, decoded, DIGITS)
    return replace(data, findings=(*_review_findings(reviewed), *data.findings))


def _review_findings(reviewed: LabelSnapshot) -> list[Finding]:
    counts = {
        "changed-labels": (reviewed.changed, "images were labelled again with another label; the last label counts"),
        "not-digits": (reviewed.not_digits, "images were labelled as no digit and are not used for training"),
        "skipped": (reviewed.skipped, "images were skipped in the review and are not used for training"),
    }
    return [
        Finding(check, f"{count:,} {words}", float(count), None, fatal=False)
        for check, (count, words) in counts.items()
        if count
    ]


def _split(
    files: Sequence[LabelledFile], decoded: Sequence[_DecodedFile], class_names: tuple[str, ...]
) -> LabelledArrays:
    """Split images into training and test images, without duplicates and without images whose labels conflict.

    Images are duplicates if their normalized pixels are equal. One image of each group of duplicates is kept; it
    becomes a test image if any image of the group would become one.
    """
    accepted: list[list[int]] = []
    conflicts: list[str] = []
    for group in _group_equal(decoded):
        if len({files[index].class_name for index in group}) == 1:
            accepted.append(group)
        else:
            conflicts += [image_id(decoded[index].sha256, files[index].page) for index in group]
    firsts = [group[0] for group in accepted]
    everything = np.stack([one.pixels for one in decoded])
    names = [image_id(decoded[index].sha256, files[index].page) for index in firsts]
    labels = np.array([class_names.index(files[index].class_name) for index in firsts], np.uint8)
    is_test = [any(_is_test_image(decoded[index].fingerprint) for index in group) for group in accepted]
    test, train = (np.flatnonzero(np.array(is_test, bool) == value) for value in (True, False))
    pixels = everything[firsts]
    return LabelledArrays(
        pixels[train],
        labels[train],
        pixels[test],
        labels[test],
        class_names,
        train_files=tuple(names[row] for row in train),
        test_files=tuple(names[row] for row in test),
        findings=(
            *report_conflicts(conflicts, "that equal an image with another label"),
            *report_repeats(sum(len(group) - 1 for group in accepted), "that equal another image"),
        ),
    )


def _group_equal(decoded: Sequence[_DecodedFile]) -> list[list[int]]:
    """Return the indices of the images, grouped by equal normalized pixels."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index, one in enumerate(decoded):
        groups[one.pixels.tobytes()].append(index)
    return list(groups.values())


def _is_test_image(fingerprint: bytes) -> bool:
    """Return whether an image is a test image.

    This depends on the hash of its decoded pixels only. So an image stays in its split if other images are added, if it
    is saved in another lossless format, or if another normalization is used.
    """
    return int.from_bytes(fingerprint[:8], "big") < TEST_SHARE * 2**64


def list_images(root: Path) -> list[LabelledFile]:
    """Return the image files in the folders of a dataset, each with its class, sorted by class and name.

    Hidden folders and system files are left out.

    Raises:
        DataError: if there are no folders of classes, or a folder contains no images.
    """
    folders = _class_folders(root)
    files = [LabelledFile(folder.name, path) for folder in folders for path in _direct_images(folder)]
    empty = [folder for folder in folders if folder.name not in {file.class_name for file in files}]
    if empty or {folder.name.lower() for folder in folders} <= _SPLIT_NAMES:
        raise DataError(f"{_describe_layout(root, empty)}; {LAYOUTS}")
    return files


def list_system_files(root: Path) -> list[str]:
    """Return the system files that `list_images` leaves out, sorted; a folder of such files is one of them."""
    found = [path for folder in (root, *_class_folders(root)) for path in folder.iterdir() if _is_system_file(path)]
    return sorted(path.relative_to(root).as_posix() for path in found)


def _list_unread(root: Path) -> list[str]:
    """Return the images in the folders of classes that are not read, because an extra is not installed, sorted."""
    read = {file.path for file in list_images(root)}
    found = (path for folder in _class_folders(root) for path in folder.iterdir() if path not in read)
    names = (path.relative_to(root).as_posix() for path in found if not _is_system_file(path))
    return sorted(name for name in names if extra_of(reason_of(os.fsencode(name))))


def _describe_layout(root: Path, empty: Sequence[Path]) -> str:
    """Return what was found in a folder that is no dataset, or some of whose folders contain no images."""
    folders = _class_folders(root)
    tables = [path.name for path in sorted(root.iterdir()) if path.suffix.lower() in _LABEL_TABLES]
    if not folders:
        beside = f" beside {_list_some(tables)}, which is not read as a list of labels" if tables else ""
        return f"found {count(len(_direct_images(root)), 'image')} directly in the folder{beside}"
    nested = [folder for folder in empty if _class_folders(folder)]
    if nested:
        return f"found folders in {_list_some(folder.name for folder in nested)} instead of images"
    if empty:
        return f"found no images directly in {_list_some(folder.name for folder in empty)}"
    return f"found only {_list_some(folder.name for folder in folders)} as classes"


def _class_folders(root: Path) -> list[Path]:
    return sorted(
        path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".") and not _is_system_file(path)
    )


def _direct_images(folder: Path) -> list[Path]:
    others = (extension for kind in formats_to_read(()) for extension in OTHER_EXTENSIONS[kind])
    extensions = {*EXTENSIONS, *others}
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in extensions and path.is_file() and not _is_system_file(path)
    )


def _is_system_file(path: Path) -> bool:
    name = os.fsencode(path.name)
    return is_system_file(name) or is_system_file(name + b"/")


def _class_names(files: Iterable[LabelledFile]) -> tuple[str, ...]:
    names = sorted({file.class_name for file in files}, key=_number_first_key)
    faults = [name for name in names if not name.isprintable() or name.startswith(FORMULA_STARTS) or ";" in name]
    if faults:
        raise DataError(
            f"{_list_some(faults)} cannot be class names, which must be printable, not begin with =, +, - or @, "
            "and have no semicolon; rename these folders"
        )
    if len(names) > MAX_CLASSES:
        raise DataError(f"there are {len(names)} classes ({_list_some(names)}), expected at most {MAX_CLASSES} folders")
    return tuple(names)


def _number_first_key(name: str) -> tuple[bool, int, str]:
    is_number = name.isascii() and name.isdigit()
    return (not is_number, int(name) if is_number else 0, name)


def _decode_files(files: Sequence[LabelledFile], mode: Mode, progress: Progress) -> list[_DecodedFile]:
    bar = progress.start("images", len(files))
    decoded, faults = [], []
    for file in files:
        try:
            decoded.append(_decode_file(file, mode))
        except (DigitsError, OSError) as error:
            faults.append(f"{file.relative} ({error})")
        bar.advance()
    bar.close()
    if faults:
        raise DataError(
            f"{len(faults)} of {count(len(files), 'image')} cannot be read: {_list_some(faults)}; repair or remove them"
        )
    return decoded


def _decode_file(image: LabelledFile, mode: Mode) -> _DecodedFile:
    from digits.images.decode import MIN_SIDE, decode
    from digits.images.normalize import normalize
    from digits.images.pages import place_of

    path = image.path
    with path.open("rb") as file:
        content = read_bounded(file, DEFAULT_MAX_BYTES)
    suffix = path.suffix.lower()  # a reviewed image has none, and may be in any format
    others = tuple(kind for kind, extensions in OTHER_EXTENSIONS.items() if not suffix or suffix in extensions)
    place = place_of(content, image.page)
    picture = decode(content, max_pixels=DEFAULT_MAX_PIXELS, min_side=MIN_SIDE, others=others, place=place)
    fingerprint = hashlib.sha256(repr(picture.pixels.shape).encode() + picture.pixels.tobytes()).digest()
    sha256, pixels = hashlib.sha256(content).hexdigest(), normalize(picture.pixels, mode)
    return _DecodedFile(sha256, fingerprint, pixels, picture.more_frames)


def _list_some(words: Iterable[str]) -> str:
    known = [word if word.isprintable() else ascii(word) for word in words]
    rest = len(known) - _LISTED
    return ", ".join(known[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
