"""Where labelled images come from: published datasets, the sample in this package, local files and folders."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from digits.data.arrays import MAX_CLASSES, Finding, LabelledArrays, report_conflicts, report_repeats
from digits.data.checks import check_structure, require_sound
from digits.data.downloads import PUBLISHED, PublishedDataset, fetch
from digits.data.idx import IDX_FILES, find_idx_file, parse_idx, read_bounded, read_idx_files, read_npz
from digits.data.labels import DIGITS, LabelSnapshot
from digits.errors import DataError, DigitsError, UsageError, os_errors_as
from digits.images.formats import DEFAULT_MAX_BYTES, DEFAULT_MAX_PIXELS, Mode
from digits.images.types import Labels, Pixels
from digits.progress import SILENT, Progress
from digits.store.files import hash_file
from digits.store.records import Record, digest_of

Read = TypeVar("Read")

REVIEWED = "reviewed"
SAMPLE = "mnist-sample"
SAMPLE_FILE = Path(__file__).parent / "sample" / "mnist-sample.npz"
SAMPLE_SHA256 = "156d280be850308c2d115b80e5f3639a9f142687d67c250cd1b7c6c97044fb6f"
TEST_SHARE = 0.2
"""Of images that were labelled here, one by one."""
ACCEPTED = (
    "mnist, fashion-mnist, mnist-sample, reviewed (the labels that `digits review` has kept), an .npz file with "
    "x_train, y_train, x_test and y_test, a folder with the four IDX files, or a folder of labelled images "
    "(<root>/<class>/*.png)"
)
_LISTED = 5


def identify(
    source: str, *, published: Mapping[str, PublishedDataset] = PUBLISHED, reviewed: LabelSnapshot | None = None
) -> Record:
    """Say what a source is, without the network: JSON values that change when its content does.

    A published dataset is known by the hashes of its files; local files are read and hashed. No path is in it, but
    those of labelled images relative to their folder are hashed.

    Args:
        source: a name or a path.
        published: the datasets that are known by name.
        reviewed: what `reviewed` stands for.

    Raises:
        UsageError: there is no such source.
        DataError: a local one can't be read.
    """
    if source == REVIEWED and reviewed:
        return {"source": REVIEWED, "sha256": reviewed.digest}
    if source in published:
        return {"source": source, "sha256": dict(published[source].sha256)}
    if source == SAMPLE:
        return {"source": source, "sha256": SAMPLE_SHA256}
    kind, path = _classify(source)
    return {"source": kind, "sha256": _reading(path, _IDENTIFIERS[kind])}


def is_named(source: str) -> bool:
    """Tell whether a source is known by name: its images are files of 28x28 pixels, light on black."""
    return source in PUBLISHED or source == SAMPLE


def load(  # noqa: PLR0913 - what, from where, how
    source: str,
    *,
    downloads: Path,
    normalize: Mode = "auto",
    progress: Progress = SILENT,
    published: Mapping[str, PublishedDataset] = PUBLISHED,
    reviewed: LabelSnapshot | None = None,
) -> LabelledArrays:
    """Have a dataset: (N, height, width) uint8 images and (N,) uint8 labels, for training and for testing.

    Args:
        source: a name or a path.
        downloads: where finished downloads are kept, a folder a dataset; made when it is needed.
        normalize: how every image is brought into the network's form, as prediction will bring it; `auto` leaves
            MNIST's own images as they are.
        progress: told of downloads, and of the reading of many images.
        published: the datasets that are known by name.
        reviewed: what `reviewed` stands for.

    Raises:
        DownloadError: every route to a published dataset failed.
        UsageError: there is no such source.
        DataError: a local one can't be read, or is no dataset.
    """
    if source in published:
        return _in_form(fetch(published[source], downloads=downloads, progress=progress), normalize)
    if source == SAMPLE:
        return _in_form(_load_sample(), normalize)
    if source == REVIEWED and reviewed:
        return _load_reviewed(reviewed, mode=normalize, progress=progress)
    kind, path = _classify(source)
    if kind == "images":
        return _reading(path, partial(_load_image_folder, mode=normalize, progress=progress))
    return _in_form(_reading(path, _load_npz if kind == "npz" else _load_idx_folder), normalize)


def _in_form(data: LabelledArrays, mode: Mode) -> LabelledArrays:
    if mode == "none":
        return data
    from digits.images.normalize import normalize

    train, test = (
        np.stack([normalize(image, mode) for image in pixels]) for pixels in (data.train_pixels, data.test_pixels)
    )
    return replace(data, train_pixels=train, test_pixels=test)


def attribution(source: str, *, published: Mapping[str, PublishedDataset] = PUBLISHED) -> str:
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
    with os_errors_as(DataError, path, "could not be read", "check that it is there and who may read it"):
        try:
            return read(path)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error


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


def _numbered(*labels: Labels) -> tuple[str, ...]:
    highest = max((int(part.max()) for part in labels if part.size), default=-1)
    return tuple(map(str, range(highest + 1)))


def _sound(data: LabelledArrays) -> LabelledArrays:
    require_sound([check_structure(data)])
    return data


def _load_sample() -> LabelledArrays:
    if not SAMPLE_FILE.is_file() or hash_file(SAMPLE_FILE) != SAMPLE_SHA256:
        raise DataError(f"{SAMPLE_FILE.name}: the sample in this installation is missing or damaged; install it again")
    return _load_npz(SAMPLE_FILE)


# Images that were labelled here


@dataclass(frozen=True)
class _Labelled:
    """A file and its class."""

    class_name: str
    path: Path

    @property
    def relative(self) -> str:
        return f"{self.class_name}/{self.path.name}"


class _Seen(NamedTuple):
    """What became of a file: the SHA-256 of its bytes and of its picture, and what the network sees, uint8."""

    sha256: str
    picture: bytes
    pixels: Pixels


def _load_image_folder(root: Path, *, mode: Mode, progress: Progress) -> LabelledArrays:
    files = _list_images(root)
    class_names = _class_names(files)
    seen = _see_all(files, mode, progress)
    conflicts = [group for group in _same(seen) if len({files[number].class_name for number in group}) > 1]
    if conflicts:
        listed = _some(" = ".join(files[number].relative for number in group[:_LISTED]) for group in conflicts)
        raise DataError(f"{len(conflicts)} images are there under several labels: {listed}; keep the right one of each")
    return _split(files, seen, class_names)


def _load_reviewed(reviewed: LabelSnapshot, *, mode: Mode, progress: Progress) -> LabelledArrays:
    """Read the images that `digits review` has kept with their labels."""
    files = [_Labelled(label, reviewed.images / sha256) for sha256, label in reviewed.labels.items()]
    if not files:
        raise DataError(f"{REVIEWED}: no image has been labelled as a digit yet; `digits review TABLE` does that")
    seen = _see_all(files, mode, progress)
    wrong = [file.path.name for file, one in zip(files, seen, strict=True) if file.path.name != one.sha256]
    if wrong:
        raise DataError(
            f"{REVIEWED}: {len(wrong)} images were damaged after they were kept: {_some(wrong)}; restore them"
        )
    data = _split(files, seen, DIGITS)
    return replace(data, findings=(*_counts(reviewed), *data.findings))


def _counts(reviewed: LabelSnapshot) -> list[Finding]:
    told = {
        "changed-labels": (reviewed.changed, "images were labelled again with another label, of which the last counts"),
        "not-digits": (reviewed.not_digits, "images were labelled as no digit, and are not trained on"),
        "skipped": (reviewed.skipped, "images were skipped in the review, and are not trained on"),
    }
    return [
        Finding(check, f"{count:,} {words}", float(count), None, fatal=False)
        for check, (count, words) in told.items()
        if count
    ]


def _split(files: Sequence[_Labelled], seen: Sequence[_Seen], class_names: tuple[str, ...]) -> LabelledArrays:
    """Take each image once, as the network sees it, and put it on its side; those with several labels are left out.

    An image is tested on if any file that looks the same to the network falls there.
    """
    taken: list[list[int]] = []
    disputed: list[str] = []
    for group in _same(seen):
        if len({files[number].class_name for number in group}) == 1:
            taken.append(group)
        else:
            disputed += [seen[number].sha256 for number in group]
    firsts = [group[0] for group in taken]
    everything = np.stack([one.pixels for one in seen])
    names = [seen[number].sha256 for number in firsts]
    labels = np.array([class_names.index(files[number].class_name) for number in firsts], np.uint8)
    tested = [any(_falls_into_test(seen[number].picture) for number in group) for group in taken]
    test, train = (np.flatnonzero(np.array(tested, bool) == side) for side in (True, False))
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
            *report_conflicts(disputed, "look the same as others with another label"),
            *report_repeats(sum(len(group) - 1 for group in taken), "look the same as others"),
        ),
    )


def _same(seen: Sequence[_Seen]) -> list[list[int]]:
    """Group the numbers of images that look the same to the network."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for number, one in enumerate(seen):
        groups[one.pixels.tobytes()].append(number)
    return list(groups.values())


def _falls_into_test(fingerprint: bytes) -> bool:
    """Decide by the picture itself, so that it stays where it is whatever is added, and whatever file holds it.

    The fingerprint is that of the decoded picture: neither another format nor another normalisation moves it.
    """
    return int.from_bytes(fingerprint[:8], "big") < TEST_SHARE * 2**64


def _list_images(root: Path) -> list[_Labelled]:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = [_Labelled(folder.name, path) for folder in folders for path in _images_in(folder)]
    empty = {folder.name for folder in folders} - {file.class_name for file in files}
    if empty:
        raise DataError(f"no images directly in {_some(sorted(empty))}; each folder must be a class, with its images")
    return files


def _images_in(folder: Path) -> list[Path]:
    from digits.images.formats import EXTENSIONS

    return sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS and path.is_file())


def _class_names(files: Iterable[_Labelled]) -> tuple[str, ...]:
    names = sorted({file.class_name for file in files}, key=_numbers_first)
    faults = [name for name in names if not name.isprintable() or name[0] in "=+-@"]
    if faults:
        raise DataError(f"{_some(faults)} can't be written into a table as class names; rename them")
    if len(names) > MAX_CLASSES:
        raise DataError(f"there are {len(names)} classes ({_some(names)}), expected up to {MAX_CLASSES} folders")
    return tuple(names)


def _numbers_first(name: str) -> tuple[bool, int, str]:
    is_number = name.isascii() and name.isdigit()
    return (not is_number, int(name) if is_number else 0, name)


def _see_all(files: Sequence[_Labelled], mode: Mode, progress: Progress) -> list[_Seen]:
    bar = progress.start("images", len(files))
    seen, faults = [], []
    for file in files:
        try:
            seen.append(_see(file.path, mode))
        except (DigitsError, OSError) as error:
            faults.append(f"{file.relative} ({error})")
        bar.advance()
    bar.close()
    if faults:
        raise DataError(
            f"{len(faults)} of {len(files)} images can't be read: {_some(faults)}; repair them or take them out"
        )
    return seen


def _see(path: Path, mode: Mode) -> _Seen:
    from digits.images.decode import MIN_SIDE, decode
    from digits.images.formats import OTHER_EXTENSIONS
    from digits.images.normalize import normalize

    with path.open("rb") as file:
        content = read_bounded(file, DEFAULT_MAX_BYTES)
    others = () if path.suffix else tuple(OTHER_EXTENSIONS)  # what was reviewed may be of any format, and has no name
    picture = decode(content, max_pixels=DEFAULT_MAX_PIXELS, min_side=MIN_SIDE, others=others).pixels
    fingerprint = hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).digest()
    return _Seen(hashlib.sha256(content).hexdigest(), fingerprint, normalize(picture, mode))


def _some(words: Iterable[str]) -> str:
    known = [word if word.isprintable() else ascii(word) for word in words]
    rest = len(known) - _LISTED
    return ", ".join(known[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
