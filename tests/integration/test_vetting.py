"""Models from elsewhere: refused before Keras or ONNX Runtime parses them, and a canary is never written."""

import io
import json
import marshal
import zipfile
from base64 import b64encode
from pathlib import Path
from typing import Any

import fitting
import h5py
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from digits import models
from digits.backend import load_keras
from digits.errors import ModelError
from digits.inference import load_predictor
from digits.vetting import vet_onnx

CONFIG, WEIGHTS = "config.json", "model.weights.h5"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The members of a model of ours."""
    path = tmp_path_factory.mktemp("sound") / "model.keras"
    models.save(fitting.build(fitting.run_of("mlp-2")), path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a `.keras` file."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def with_layer(sound: dict[str, bytes], **layer: Any) -> dict[str, bytes]:
    """Give the members with the second layer replaced."""
    config = json.loads(sound[CONFIG])
    config["config"]["layers"][1] |= layer
    return {**sound, CONFIG: json.dumps(config).encode()}


def lambda_that_writes(canary: Path) -> dict[str, Any]:
    """A Lambda layer whose marshalled code writes a file."""
    code = compile(f"lambda x: (open({str(canary)!r}, 'w').close(), x)[1]", "x", "eval").co_consts[0]
    function = {
        "class_name": "__lambda__",
        "config": {"code": b64encode(marshal.dumps(code)).decode(), "defaults": None, "closure": None},
    }
    return {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "rescaling", "function": function}}


def weights(write: Any) -> bytes:
    """Give an HDF5 file that a function fills."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        write(file)
    return content.getvalue()


LAYERS: list[dict[str, Any]] = [
    {"class_name": "TFSMLayer", "config": {"filepath": "/tmp/model"}},  # noqa: S108 - never read
    {"class_name": "TorchModuleWrapper", "module": "keras.layers"},
    {"class_name": "function", "module": "os", "config": "system", "registered_name": "function"},
    {"class_name": "Dense", "module": "my.layers"},
    {"registered_name": "mine>Rescaling"},
    {"config": {"activation": {"module": "builtins", "class_name": "function", "config": "exec"}}},
    {"compile_config": {"loss": "mse"}},
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_class_that_is_not_ours_is_refused(sound: dict[str, bytes], tmp_path: Path, layer: dict[str, Any]) -> None:
    """Layers that run code, functions of modules, custom objects."""
    with pytest.raises(ModelError, match="not a model that Digits loads"):
        models.load(packed(tmp_path / "model.keras", with_layer(sound, **layer)))


def test_code_in_a_model_is_refused_that_keras_would_run(sound: dict[str, bytes], tmp_path: Path) -> None:
    """The payload is real: without the check, and without Keras' safe mode, it writes the canary."""
    canary = tmp_path / "canary"
    path = packed(tmp_path / "model.keras", with_layer(sound, **lambda_that_writes(canary)))
    with pytest.raises(ModelError, match=r"Lambda.*none of our networks'"):
        models.load(path)
    assert not canary.exists()
    load_keras().saving.load_model(path, compile=False, safe_mode=False)
    assert canary.exists()


@pytest.mark.parametrize("name", ["../../canary", "/canary", "assets/x", CONFIG])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_are_not_ours_are_refused(sound: dict[str, bytes], tmp_path: Path, name: str) -> None:
    """Names that lead out, and one that is there twice."""
    path = packed(tmp_path / "model.keras", sound)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"{}")
    with pytest.raises(ModelError, match="its members should be"):
        models.load(path)


def test_an_archive_that_grows_is_refused(sound: dict[str, bytes], tmp_path: Path) -> None:
    """A thousand to one."""
    members = {**sound, CONFIG: b" " * 10_000_000}
    with pytest.raises(ModelError, match="is compressed"):
        models.load(packed(tmp_path / "model.keras", members, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: file.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/")), "hold a link"),
        (lambda file: file.__setitem__("x", h5py.SoftLink("/")), "hold a link"),
        (lambda file: file.create_dataset("x", (4,), "u1", external=[("/etc/passwd", 0, 4)]), "in another file"),
        (lambda file: file.create_dataset("x", (2**40,), "u1", chunks=(2**20,)), "would take"),
    ],
)
def test_weights_that_lead_elsewhere_are_refused(
    sound: dict[str, bytes], tmp_path: Path, write: Any, message: str
) -> None:
    """Links, external storage, shapes that would fill the memory."""
    with pytest.raises(ModelError, match=message):
        models.load(packed(tmp_path / "model.keras", {**sound, WEIGHTS: weights(write)}))


def test_hdf5_is_refused(sound: dict[str, bytes], tmp_path: Path) -> None:
    """The format before `.keras`, for which Keras has no safe mode, whatever it is called."""
    for name in ("model.h5", "model.keras"):
        (tmp_path / name).write_bytes(sound[WEIGHTS])
        with pytest.raises(ModelError, match="not a model that Digits loads"):
            models.load(tmp_path / name)


def test_an_average_is_loaded(tmp_path: Path) -> None:
    """The networks in a network are ours."""
    networks = [fitting.build(fitting.run_of(name)) for name in ("cnn", "mlp-2")]
    models.save(models.average(networks), tmp_path / "model.keras")
    assert models.load(tmp_path / "model.keras").name == "average"


def network(tensor: onnx.TensorProto, *, domain: str = "") -> bytes:
    """An ONNX network that adds a constant."""
    shape = ["N", 4]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("images", "out")]
    node = helper.make_node("Add", ["images", "x"], ["out"], domain=domain)
    return bytes(
        helper.make_model(helper.make_graph([node], "g", values[:1], values[1:], [tensor])).SerializeToString()
    )


def outside(place: str) -> onnx.TensorProto:
    """A tensor whose values are in another file."""
    tensor = TensorProto(name="x", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=place)
    return tensor


@pytest.mark.parametrize("place", ["/etc/passwd", "../secret", "weights.bin"])
def test_onnx_with_external_data_is_refused(tmp_path: Path, place: str) -> None:
    """Wherever it is."""
    (tmp_path / "model.onnx").write_bytes(network(outside(place)))
    with pytest.raises(ModelError, match="external data"):
        vet_onnx(tmp_path / "model.onnx")


def test_a_forged_export_is_refused(tmp_path: Path) -> None:
    """By whoever predicts with it."""
    spec = {"class_names": ["0"], "input_shape": [2, 2], "normalization": {}}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    (tmp_path / "model.onnx").write_bytes(network(outside("secret")))
    with pytest.raises(ModelError, match="external data"):
        load_predictor(tmp_path)


def test_foreign_operators_are_refused_and_onnx_own_are_not(tmp_path: Path) -> None:
    """A domain is that of a library which would have to be loaded."""
    tensor = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "x")
    path = tmp_path / "model.onnx"
    path.write_bytes(network(tensor, domain="com.evil"))
    with pytest.raises(ModelError, match="foreign operators"):
        vet_onnx(path)
    path.write_bytes(network(tensor))
    assert vet_onnx(path) == path.read_bytes()
