"""What a model file may hold, looked at before Keras or ONNX Runtime parses it: all else is refused.

The hashes of a manifest find damage; they are no signature, and who can write to the artifact root can forge them. So a
file is read as data first, and only the few forms that our own `save` and `export` write are let through: no code, no
class but those of our networks, no name or link that leads to another file, no content that grows when it is read.
"""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from digits.errors import ModelError

MAX_MODEL_BYTES = 2**30
MAX_CONFIG_BYTES = 2**24
MAX_DEPTH = 64
CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
ACTIVATIONS = frozenset({"linear", "relu", "sigmoid", "softmax", "tanh"})
_LAYERS = (
    "Activation Average BatchNormalization Conv2D Cropping2D Dense Dropout Flatten InputLayer MaxPooling2D Rescaling"
)
CLASSES = frozenset(
    {
        ("keras", "DTypePolicy"),
        ("keras", "Functional"),
        ("keras", "Sequential"),
        ("keras.models", "Functional"),
        ("keras.models", "Sequential"),
        ("keras.src.models.functional", "Functional"),
        ("keras.initializers", "GlorotUniform"),
        ("keras.initializers", "Ones"),
        ("keras.initializers", "Zeros"),
        (None, "__keras_tensor__"),
        *(("keras.layers", name) for name in _LAYERS.split()),
    }
)
"""Module and class of all that our builders use."""
ONNX_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})

_LENGTH, _VARINT, _FIXED = 2, 0, {1: 8, 5: 4}
_MODEL: Mapping[int, str] = {7: "graph", 8: "opset", 20: "training", 25: "function"}
_PARTS: Mapping[str, Mapping[int, str]] = {
    "model": _MODEL,
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute", 7: "domain"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external", 14: "location"},
    "opset": {1: "domain"},
}
"""Of each message of ONNX, the fields that are looked at; weights and names are skipped."""


def vet_keras(path: Path) -> None:
    """Refuse a `.keras` file that holds anything but a network of our own layers.

    Raises:
        ModelError: what it holds that it must not; it can't be read as what it should be.
    """
    try:
        content = _read(path)
        config, weights = _members(content)
        _vet_config(json.loads(config))
        _vet_weights(weights)
    except ModelError as error:
        raise _refused(path, str(error)) from error
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
        RecursionError,
        zipfile.BadZipFile,
    ) as error:
        raise _refused(path, f"it can't be read ({str(error) or type(error).__name__})") from error


def vet_onnx(path: Path) -> bytes:
    """Give the content of an ONNX file that needs no other file and no operator but ONNX' own.

    Raises:
        ModelError: it refers to external data, has functions or foreign operators, or is no ONNX file.
    """
    try:
        content = _read(path)
        _vet_message(memoryview(content), "model", depth=0)
    except ModelError as error:
        raise _refused(path, str(error)) from error
    except (OSError, ValueError, IndexError) as error:
        raise _refused(path, f"it can't be read ({str(error) or type(error).__name__})") from error
    return content


def _refused(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"{path.name} is not a model that Digits loads: {reason}; only files that `digits train` wrote are loaded, "
        "so train or register the model again"
    )


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_MODEL_BYTES + 1)
    if len(content) > MAX_MODEL_BYTES:
        raise ModelError(f"it has more than {MAX_MODEL_BYTES:,} bytes")
    return content


def _members(content: bytes) -> tuple[bytes, bytes]:
    """Give the configuration and the weights in a `.keras` file."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        names = sorted(member.filename for member in members)
        if names != [CONFIG, METADATA, WEIGHTS]:
            raise ModelError(f"its members should be {CONFIG}, {METADATA} and {WEIGHTS}, found {names[:9]}")
        for member in members:
            _vet_member(member)
        return archive.read(CONFIG), archive.read(WEIGHTS)


def _vet_member(member: zipfile.ZipInfo) -> None:
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
        raise ModelError(f"{member.filename} is compressed, {member.compress_size:,} bytes for {member.file_size:,}")
    if member.flag_bits & 1:
        raise ModelError(f"{member.filename} is encrypted")
    if member.filename != WEIGHTS and member.file_size > MAX_CONFIG_BYTES:
        raise ModelError(f"{member.filename} has {member.file_size:,} bytes, at most {MAX_CONFIG_BYTES:,} are read")


def _vet_config(config: Any) -> None:
    """Look at all that is built; how the whole was compiled for training is not, as it is loaded uncompiled."""
    config = {name: value for name, value in config.items() if name != "compile_config"}
    for module, name, registered in _classes(config, depth=0):
        if (module, name) not in CLASSES or registered not in {None, name}:
            raise ModelError(f"the class {module}.{name} (registered as {registered}) is none of our networks'")


def _classes(value: Any, *, depth: int) -> Iterator[tuple[Any, Any, Any]]:
    """Give module, class and registered name of every object in a configuration."""
    if depth > MAX_DEPTH:
        raise ModelError("its configuration is nested too deeply")
    if isinstance(value, dict):
        if {"class_name", "module", "registered_name"} & value.keys():
            yield value.get("module"), value.get("class_name"), value.get("registered_name")
        if value.get("compile_config"):
            raise ModelError("a part of it would be compiled")
        _vet_activation(value)
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _classes(part, depth=depth + 1)


def _vet_activation(value: Mapping[str, Any]) -> None:
    found = value.get("activation", "linear")
    if not isinstance(found, str) or found not in ACTIVATIONS:
        raise ModelError(f"the activation {found!r} is none of our networks'")


def _vet_weights(content: bytes) -> None:
    """Refuse HDF5 content with links, with data in other files, or that is larger when read than it is."""
    import h5py

    with h5py.File(io.BytesIO(content), "r") as file:
        waiting, seen = [file["/"]], 0
        while waiting:
            group = waiting.pop()
            for name in group:
                seen += 1
                if seen > len(content) or not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise ModelError(f"its weights hold a link, {name}")
                if isinstance(group[name], h5py.Group):
                    waiting.append(group[name])
                else:
                    _vet_dataset(name, group[name], len(content), h5py)


def _vet_dataset(name: str, dataset: Any, limit: int, h5py: Any) -> None:
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiu":
        raise ModelError(f"its weights hold something else than numbers, {name}")
    if dataset.external or dataset.is_virtual:
        raise ModelError(f"its weights {name} are in another file")
    if dataset.chunks is not None or dataset.nbytes > limit:
        raise ModelError(f"its weights {name} would take {dataset.nbytes:,} bytes, the file has {limit:,}")


def _vet_message(message: memoryview, kind: str, *, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ModelError("its graph is nested too deeply")
    for number, value in _fields(message):
        part = _PARTS[kind].get(number)
        if part in {"external", "location"} and value != 0:
            raise ModelError("its weights are in another file (external data)")
        if part in {"function", "training"}:
            raise ModelError(f"it has a {part} of its own")
        if part == "domain" and (not isinstance(value, memoryview) or bytes(value).decode() not in ONNX_DOMAINS):
            raise ModelError(f"it needs foreign operators, {_shown(value)}")
        if part is not None and part in _PARTS:
            if not isinstance(value, memoryview):
                raise ModelError(f"its {part} is a number")
            _vet_message(value, part, depth=depth + 1)


def _shown(value: int | memoryview) -> str:
    return repr(value if isinstance(value, int) else bytes(value[:60]))


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Read a protobuf message: numbers of fields, and numbers or bytes.

    Raises:
        ValueError: it is none.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind, value = key & 7, 0
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        size, at = _varint(message, at) if kind == _LENGTH else (_FIXED.get(kind, len(message) + 1), at)
        if size > len(message) - at:
            raise ValueError("cut short, or no ONNX file")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:  # noqa: PLR2004 - the last byte has no high bit
            return value, at
        if shift > 63:  # noqa: PLR2004 - more than 64 bits
            raise ValueError("no ONNX file")
