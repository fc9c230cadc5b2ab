"""Safety checks of model files: anything that Digits does not write is rejected before Keras or ONNX Runtime load it.

A hash shows that a file has not changed, but not who wrote it. Keras' `safe_mode` has been bypassed many times
(CVE-2025-1550, -8747, -9905, -9906, -12058, -12060, CVE-2026-1462), so Digits does not rely on it. In a `.keras`
archive, only the members, classes, links and arrays of Digits' own networks are allowed. An ONNX file must not refer to
other files, and must use standard ONNX operators only.
"""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from digits.errors import ModelError
from digits.model.protobuf import fields

ALLOWED_MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}
"""Members of a `.keras` archive. Keras 3 neither compresses nor encrypts them."""

ALLOWED_CLASSES = {
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
"""Module and name of each class in the configurations of Digits' networks, see `digits.training.networks`."""

_NAMES_ITSELF = {"Functional"}
"""Registered names of classes of Keras itself, which are their class names."""
_CONTIGUOUS_KINDS = "biuf"
"""NumPy kinds of the arrays in a file of weights: booleans, integers and floats."""


@dataclass(frozen=True)
class _Message:
    """Type of protobuf messages.

    Args:
        inner: type of each field that contains messages, by field number.
        forbidden: description of each field that Digits never writes, by field number.
    """

    inner: dict[int, "_Message"] = field(default_factory=dict)
    forbidden: Mapping[int, str] = field(default_factory=dict)


_TENSOR = _Message(forbidden={13: "data in another file", 14: "data in another file"})
_SPARSE = _Message({1: _TENSOR, 2: _TENSOR})
_NODE = _Message(forbidden={7: "an operator of another domain"})
_GRAPH = _Message({1: _NODE, 5: _TENSOR, 15: _SPARSE})
_NODE.inner[5] = _Message({5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE})
_MODEL = _Message({7: _GRAPH}, {20: "a training graph", 25: "functions of its own"})
"""Message type of an ONNX file. The field numbers are those of onnx.proto (ONNX 1.23)."""

_MAX_DEPTH = 16
"""Largest depth of nested messages."""


def check_keras_file(content: bytes, *, name: str) -> None:
    """Check that a `.keras` file contains a network of `digits.training.networks` and nothing else.

    Args:
        content: content of the file.
        name: name of the file, for messages.

    Raises:
        ModelError: if the file contains anything else; the message names it.
    """
    with _model_errors(name, "a .keras file"):
        config, weights = _read_members(content)
        network = json.loads(config)
        network.pop("compile_config", None)  # not used, because models are loaded with compile=False
        for found in _classes(network):
            if found not in ALLOWED_CLASSES:
                raise ModelError(f"the class {found[1]!r} of {found[0]!r}")
        _require_plain_arrays(weights)


def check_onnx_file(content: bytes, *, name: str) -> None:
    """Check that an ONNX file refers to no other files, and uses standard ONNX operators only.

    Args:
        content: content of the file.
        name: name of the file, for messages.

    Raises:
        ModelError: if the check fails, or if the content is not an ONNX file.
    """
    with _model_errors(name, "an ONNX file"):
        _check_message(memoryview(content), _MODEL)


@contextmanager
def _model_errors(name: str, kind: str) -> Iterator[None]:
    """Convert every error to a `ModelError` with the file name, the expected kind of file, and the remedy."""
    try:
        yield
    except Exception as error:  # zipfile, json and h5py raise many types of errors for damaged files
        found = str(error) if isinstance(error, ModelError) else f"damaged or other content ({error})"
        raise ModelError(
            f"{name}: expected {kind} written by Digits, found {found}; the file was not loaded; train again, or "
            "restore it from a backup"
        ) from error


def _read_members(content: bytes) -> tuple[bytes, bytes]:
    """Return configuration and weights of an archive that has exactly the allowed members."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = archive.infolist()
        names = sorted(info.filename for info in infos)
        if names != sorted(ALLOWED_MEMBERS):
            raise ModelError(f"the members {', '.join(names)[:200] or 'none'}")
        for info in infos:
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size > len(content):
                raise ModelError(f"the member {info.filename}, compressed or encrypted")
        return archive.read("config.json"), archive.read("model.weights.h5")


def _classes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield module and name of every class, function or module that a configuration names, at any depth."""
    if isinstance(value, Mapping):
        if value.keys() & {"class_name", "module", "registered_name"}:
            yield value.get("module"), _class_name(value)
        if value.get("compile_config"):
            raise ModelError("a nested network with a compile configuration")
        for inner in value.values():
            yield from _classes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _classes(inner)


def _class_name(value: Mapping[str, Any]) -> Any:
    """Return the name under which a class is registered with Keras, otherwise its own name."""
    registered = value.get("registered_name")
    return value.get("class_name") if registered is None or registered in _NAMES_ITSELF else registered


def _require_plain_arrays(content: bytes) -> None:
    """Check that an HDF5 file contains only groups, contiguous arrays of numbers, and no links to other places."""
    import h5py

    with h5py.File(io.BytesIO(content), "r") as file:
        seen: set[Any] = set()
        pending = [file]
        while pending:
            group = pending.pop()
            for key in group:
                if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                    raise ModelError(f"the soft or external link {key!r}")
                inner = group[key]
                address = h5py.h5o.get_info(inner.id).addr
                if address in seen:
                    raise ModelError(f"several links to the object {key!r}")
                seen.add(address)
                if isinstance(inner, h5py.Group):
                    pending.append(inner)
                elif not _is_plain(inner):
                    raise ModelError(f"{key!r}, which is not a contiguous array of numbers")


def _is_plain(dataset: Any) -> bool:
    """Return whether a dataset is an array of numbers that is stored completely and contiguously in the file."""
    if dataset.external or dataset.is_virtual or dataset.chunks is not None:
        return False
    return dataset.dtype.kind in _CONTIGUOUS_KINDS and dataset.id.get_storage_size() == dataset.nbytes


def _check_message(content: memoryview, message: _Message, depth: int = 0) -> None:
    if depth > _MAX_DEPTH:
        raise ModelError(f"messages nested deeper than {_MAX_DEPTH} levels")
    for number, value in fields(content):
        if number in message.forbidden and value:
            raise ModelError(message.forbidden[number])
        if number in message.inner and isinstance(value, memoryview):
            _check_message(value, message.inner[number], depth + 1)
