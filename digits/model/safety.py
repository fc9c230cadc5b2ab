"""A look through a model's file before Keras or ONNX Runtime parse it, which lets in what our own networks have.

A hash tells that a file is the one that was written, not who wrote it; and `safe_mode` has been bypassed many times
(CVE-2025-1550, -8747, -9905, -9906, -12058, -12060, CVE-2026-1462). So nothing rests on it: of a `.keras` archive the
members, every class that its configuration names, and every link and dataset of its HDF5 file must be on the short
lists here, and an ONNX file may neither refer to other files nor use operators that are not ONNX's own.
"""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from digits.errors import ModelError

MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}
"""What Keras 3 writes, in that form: stored, neither compressed nor encrypted."""

CLASSES = {
    ("keras", "DTypePolicy"),
    ("keras", "Sequential"),
    ("keras.src.models.functional", "Functional"),
    (None, "__keras_tensor__"),
    *(("keras.initializers", name) for name in ("GlorotUniform", "Ones", "Zeros")),
    *(
        ("keras.layers", name)
        for name in (
            "Activation",
            "Average",
            "BatchNormalization",
            "Conv2D",
            "Cropping2D",
            "Dense",
            "Dropout",
            "Flatten",
            "InputLayer",
            "MaxPooling2D",
            "Rescaling",
        )
    ),
}
"""Module and name of each class that a configuration of ours names; `digits.models` builds with no others."""

_NAMES_ITSELF = {"Functional"}
_CONTIGUOUS_KINDS = "biuf"


@dataclass(frozen=True)
class _Message:
    """A kind of protobuf message: the messages in its fields, and fields that it has in no file of ours, by number."""

    inner: dict[int, "_Message"] = field(default_factory=dict)
    forbidden: Mapping[int, str] = field(default_factory=dict)


_TENSOR = _Message(forbidden={13: "data in another file", 14: "data in another file"})
_SPARSE = _Message({1: _TENSOR, 2: _TENSOR})
_NODE = _Message(forbidden={7: "an operator of another domain"})
_GRAPH = _Message({1: _NODE, 5: _TENSOR, 15: _SPARSE})
_NODE.inner[5] = _Message({5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE})
_MODEL = _Message({7: _GRAPH}, {20: "a training graph", 25: "functions of its own"})
"""The numbers are those of onnx.proto (ONNX 1.23)."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_DEEPEST = 16
_LONGEST_VARINT = 10


def check_keras_file(content: bytes, *, name: str) -> None:
    """See that the bytes of a `.keras` file have nothing in them but a network as `digits.models` builds them.

    Raises:
        ModelError: something else is in there; the message names it.
    """
    with _refusing(name, "a .keras file"):
        config, weights = _members(content)
        network = json.loads(config)
        network.pop("compile_config", None)  # what is loaded without compiling is loaded without this
        for found in _classes(network):
            if found not in CLASSES:
                raise ModelError(f"the class {found[1]!r} of {found[0]!r}")
        _require_plain_arrays(weights)


def check_onnx_file(content: bytes, *, name: str) -> None:
    """See that the bytes of an ONNX file refer to no other files, and hold none but ONNX's own operators.

    Raises:
        ModelError: they do, or are no ONNX file; the message says which.
    """
    with _refusing(name, "an ONNX file"):
        _look_into(memoryview(content), _MODEL)


@contextmanager
def _refusing(name: str, kind: str) -> Iterator[None]:
    """Say of every fault which file it is in, what was expected, and what to do."""
    try:
        yield
    except Exception as error:  # zipfile, json and h5py raise a dozen kinds on damage
        found = str(error) if isinstance(error, ModelError) else f"none ({error})"
        raise ModelError(
            f"{name}: expected {kind} that Digits wrote, found {found}; nothing of it was loaded; train again, or "
            "restore it from a backup"
        ) from error


def _members(content: bytes) -> tuple[bytes, bytes]:
    """Give configuration and weights of an archive with the members that it must have, and no others."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = archive.infolist()
        names = sorted(info.filename for info in infos)
        if names != sorted(MEMBERS):
            raise ModelError(f"the members {', '.join(names)[:200] or 'none'}")
        for info in infos:
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size > len(content):
                raise ModelError(f"{info.filename} compressed or encrypted")
        return archive.read("config.json"), archive.read("model.weights.h5")


def _classes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Give module and name of every class, function or module that a configuration names, however deep."""
    if isinstance(value, Mapping):
        if value.keys() & {"class_name", "module", "registered_name"}:
            yield value.get("module"), _class_of(value)
        if value.get("compile_config"):
            raise ModelError("a network within that is to be compiled")
        for inner in value.values():
            yield from _classes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _classes(inner)


def _class_of(value: Mapping[str, Any]) -> Any:
    """Give the name of a class, or, where it is registered under another one, that."""
    registered = value.get("registered_name")
    return value.get("class_name") if registered is None or registered in _NAMES_ITSELF else registered


def _require_plain_arrays(content: bytes) -> None:
    """See that an HDF5 file has groups and contiguous arrays of numbers in it, and leads nowhere else."""
    import h5py

    with h5py.File(io.BytesIO(content), "r") as file:
        seen: set[Any] = set()
        waiting = [file]
        while waiting:
            group = waiting.pop()
            for key in group:
                if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                    raise ModelError(f"the link {key!r}, which leads elsewhere")
                inner = group[key]
                place = h5py.h5o.get_info(inner.id).addr
                if place in seen:
                    raise ModelError(f"{key!r} twice")
                seen.add(place)
                if isinstance(inner, h5py.Group):
                    waiting.append(inner)
                elif not _is_plain(inner):
                    raise ModelError(f"{key!r}, which is no plain array of numbers")


def _is_plain(dataset: Any) -> bool:
    """Tell whether a dataset is an array of numbers that are all in the file."""
    if dataset.external or dataset.is_virtual or dataset.chunks is not None:
        return False
    return dataset.dtype.kind in _CONTIGUOUS_KINDS and dataset.id.get_storage_size() == dataset.nbytes


def _look_into(content: memoryview, message: _Message, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise ModelError("graphs in graphs in graphs")
    for number, value in _fields(content):
        if number in message.forbidden and value:
            raise ModelError(message.forbidden[number])
        if number in message.inner and isinstance(value, memoryview):
            _look_into(value, message.inner[number], depth + 1)


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Give number and value of each field of a protobuf message: an integer, or the bytes of anything longer."""
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        kind = tag & 7
        if kind == _VARINT:
            value, place = _varint(content, place)
            yield tag >> 3, value
            continue
        length, place = _length(content, place, kind)
        if place + length > len(content):
            raise ModelError("its end missing")
        yield tag >> 3, content[place : place + length]
        place += length


def _length(content: memoryview, place: int, kind: int) -> tuple[int, int]:
    """Give how many bytes a field's value has, and where it begins."""
    if kind == _LENGTH:
        return _varint(content, place)
    if kind not in (_FIXED32, _FIXED64):
        raise ModelError("no ONNX")
    return (4 if kind == _FIXED32 else 8), place


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    """Give the integer that begins at a place, and where the next thing begins."""
    value = 0
    for count, byte in enumerate(content[place : place + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, place + count + 1
    raise ModelError("no ONNX")
