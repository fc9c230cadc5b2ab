"""Tests of malicious model files in the store: they are refused before Keras or ONNX Runtime load them.

Some have a payload that would write or read a file, the canary. The tests also show that these payloads work.
"""

import io
import json
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from digits.errors import ModelError
from digits.model.onnx_model import OnnxModel, Predictor
from digits.model.safety import check_keras_file, check_onnx_file
from digits.pipeline import steps
from digits.pipeline.config import TrainingRun
from digits.store.artifacts import ArtifactRef, Recipe, Store
from digits.training import networks
from digits.training.config import ModelConfig

SHAPE = (28, 28)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the members of a network's `.keras` file as Digits writes it."""
    path = tmp_path_factory.mktemp("whole") / "model.keras"
    run = TrainingRun().resolved()
    networks.save(networks.build(run.model, input_shape=SHAPE, classes=10, seed=1), path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(members: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive of members in the format of Keras."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def with_layer(whole: dict[str, bytes], layer: dict[str, Any]) -> bytes:
    """Return the file of the network with its last layer replaced."""
    config = json.loads(whole["config.json"])
    config["config"]["layers"][-1].update(layer)
    return archive_of({**whole, "config.json": json.dumps(config).encode()})


def with_weights(whole: dict[str, bytes], change: Callable[[h5py.File], None]) -> bytes:
    """Return the file of the network with a changed HDF5 file."""
    file = io.BytesIO(whole["model.weights.h5"])
    with h5py.File(file, "r+") as opened:
        change(opened)
    return archive_of({**whole, "model.weights.h5": file.getvalue()})


def link_elsewhere(file: h5py.File) -> None:
    """Add a link to another file."""
    file["layers/secret"] = h5py.ExternalLink("/etc/passwd", "/")


def link_softly(file: h5py.File) -> None:
    """Add a link by name to another group."""
    file["layers/other"] = h5py.SoftLink("/layers")


def link_in_a_circle(file: h5py.File) -> None:
    """Add a group that contains itself."""
    file["layers/again"] = file["layers"]


def store_elsewhere(file: h5py.File) -> None:
    """Add an array whose values are in another file."""
    file.create_dataset("layers/outside", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def store_virtually(file: h5py.File) -> None:
    """Add an array that consists of parts of other files."""
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    file.create_virtual_dataset("layers/virtual", layout)


def store_a_bomb(file: h5py.File) -> None:
    """Add an array of 4 TB that is compressed to a few bytes."""
    file.create_dataset("layers/bomb", (2**40,), "f4", chunks=(2**20,), compression="gzip")


LAYERS: dict[str, dict[str, Any]] = {
    "a function of os": {
        "module": "keras.layers", "class_name": "Dense",
        "config": {"units": 10, "activation": {"module": "os", "class_name": "function", "config": "system",
                                               "registered_name": "system"}},
    },
    "a SavedModel": {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "saved"}},
    "a TorchModuleWrapper": {"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {"module": "gA"}},
    "a class of another package": {"module": "subprocess", "class_name": "Popen", "config": {"args": ["true"]}},
    "a custom object": {"module": None, "class_name": "Mine", "registered_name": "theirs>Mine", "config": {}},
    "an array in the configuration": {
        "module": "keras.layers", "class_name": "Rescaling",
        "config": {"scale": {"class_name": "__numpy__", "config": {"value": [1], "dtype": "float32"}}},
    },
    "a lambda": {"module": "keras.layers", "class_name": "Lambda",
                 "config": {"function": {"class_name": "__lambda__", "config": {"code": "4wA="}}}},
    "a network within that is compiled": {
        "module": "keras", "class_name": "Sequential", "config": {"layers": []},
        "compile_config": {"loss": {"module": "os", "class_name": "function", "config": "system"}},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_classes_that_digits_does_not_use_are_refused(whole: dict[str, bytes], name: str) -> None:
    with pytest.raises(ModelError, match=r"x\.keras: expected a \.keras file written by Digits, found .*; train again"):
        check_keras_file(with_layer(whole, LAYERS[name]), name="x.keras")


@pytest.mark.parametrize(
    "change", [link_elsewhere, link_softly, link_in_a_circle, store_elsewhere, store_virtually, store_a_bomb]
)
def test_links_and_arrays_that_are_not_plain_are_refused(
    whole: dict[str, bytes], change: Callable[[h5py.File], None]
) -> None:
    """They lead to other files, form a cycle, or exhaust the memory."""
    with pytest.raises(ModelError, match=r"expected a \.keras file written by Digits"):
        check_keras_file(with_weights(whole, change), name="x.keras")


@pytest.mark.parametrize("name", ["../../canary", "/canary", "assets/x.txt"])
def test_archives_with_other_members_are_refused(whole: dict[str, bytes], name: str, tmp_path: Path) -> None:
    """Extracting such a member might write outside the directory."""
    with pytest.raises(ModelError, match="found the members"):
        check_keras_file(archive_of({**whole, name: b"canary"}), name="x.keras")
    assert not (tmp_path.parent.parent / "canary").exists()


def test_an_archive_with_a_repeated_member_is_refused(whole: dict[str, bytes]) -> None:
    """One of them would be checked, and the other loaded."""
    file = io.BytesIO(archive_of(whole))
    with zipfile.ZipFile(file, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("config.json", "{}")
    with pytest.raises(ModelError, match="found the members"):
        check_keras_file(file.getvalue(), name="x.keras")


def test_a_decompression_bomb_is_refused(whole: dict[str, bytes]) -> None:
    """Compressed members are not decompressed."""
    bomb = archive_of({**whole, "config.json": b" " * 2**26}, compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 2**20
    with pytest.raises(ModelError, match="compressed or encrypted"):
        check_keras_file(bomb, name="x.keras")


def test_a_member_that_claims_to_be_larger_than_the_file_is_refused(whole: dict[str, bytes]) -> None:
    content = archive_of(whole).replace(len(whole["config.json"]).to_bytes(4, "little"), (2**31).to_bytes(4, "little"))
    with pytest.raises(ModelError, match=r"expected a \.keras file"):
        check_keras_file(content, name="x.keras")


def test_a_file_of_keras_2_is_refused(tmp_path: Path) -> None:
    """Keras loads it without `safe_mode`."""
    path = tmp_path / "model.keras"
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = "{}"
    with pytest.raises(ModelError, match="found damaged or other content"):
        networks.load(path)


def sum_of(*tensors: TensorProto, domain: str = "", **more: Any) -> onnx.ModelProto:
    """Return a model that multiplies the flattened images by the weights, with ten outputs."""
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["y"], domain=domain),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", *SHAPE, 1])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(nodes, "g", [images], [answer], list(tensors))
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("theirs", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)


def weights() -> TensorProto:
    """Return weights stored in the file, as Digits writes them."""
    return helper.make_tensor("weights", TensorProto.FLOAT, (784, 10), np.zeros(7840, np.float32).tobytes(), raw=True)


def weights_elsewhere(location: str) -> TensorProto:
    """Return weights stored in another file."""
    tensor = TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[784, 10])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def in_a_subgraph() -> onnx.ModelProto:
    """Return a model whose conditional branch has weights in another file."""
    model = sum_of(weights())
    branch = helper.make_graph([], "b", [], [], [weights_elsewhere("canary.bin")])
    model.graph.node.append(helper.make_node("If", ["flat"], ["z"], then_branch=branch, else_branch=branch))
    return model


def with_a_function() -> onnx.ModelProto:
    """Return a model that defines its own operator."""
    function = helper.make_function("theirs", "F", ["x"], ["y"], [], [helper.make_opsetid("", 15)])
    return sum_of(weights(), functions=[function])


GRAPHS: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "data elsewhere": (lambda: sum_of(weights_elsewhere("canary.bin")), "data in another file"),
    "data at an absolute path": (lambda: sum_of(weights_elsewhere("/etc/passwd")), "data in another file"),
    "data above": (lambda: sum_of(weights_elsewhere("../canary.bin")), "data in another file"),
    "data elsewhere in a branch": (in_a_subgraph, "data in another file"),
    "an operator of theirs": (lambda: sum_of(weights(), domain="theirs"), "an operator of another domain"),
    "a function of theirs": (with_a_function, "functions of its own"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_with_external_data_or_custom_operators_are_refused(name: str) -> None:
    make, found = GRAPHS[name]
    with pytest.raises(ModelError, match=f"expected an ONNX file written by Digits, found {found}"):
        check_onnx_file(make().SerializeToString(), name="x.onnx")


@pytest.mark.parametrize("content", [b"no network", b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x05x", b"\x3b", b"\xff" * 11])
def test_content_that_is_no_onnx_is_refused(content: bytes) -> None:
    """The content is truncated, of another type, or an endless integer."""
    with pytest.raises(ModelError, match="expected an ONNX file written by Digits"):
        check_onnx_file(content, name="x.onnx")


def exported(directory: Path, model: onnx.ModelProto) -> Path:
    """Write a model in the format of `export_model`, without calibration."""
    directory.mkdir(parents=True, exist_ok=True)
    spec = {"class_names": list("0123456789"), "input_shape": SHAPE, "normalization": {}}
    (directory / "spec.json").write_text(json.dumps(spec))
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    np.full((784, 10), 0.5, np.float32).tofile(directory / "canary.bin")
    return directory


def test_a_model_with_external_data_is_refused_before_the_data_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime would read the other file: the output of the network depends on the values of the canary."""
    directory = exported(tmp_path / "model", sum_of(weights_elsewhere("canary.bin")))
    monkeypatch.chdir(directory)
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"images": np.ones((1, *SHAPE, 1), np.float32)})
    assert answer[0, 0] == pytest.approx(392)
    with pytest.raises(ModelError, match="data in another file"):
        Predictor(OnnxModel.load(directory, version=1))


def test_a_model_with_code_is_refused_before_the_code_runs(whole: dict[str, bytes], tmp_path: Path) -> None:
    """Without `safe_mode`, Keras would run the Lambda layer, which writes the canary.

    The artifact has valid hashes, like one that was forged by somebody with write access to the store.
    """
    keras = networks.load_keras()
    canary = tmp_path / "canary"
    write = eval(f"lambda x: (__import__('pathlib').Path({str(canary)!r}).write_text('sung'), x)[1]")  # noqa: S307 - Keras can serialize the function only if it refers to no names of the test
    network = keras.Sequential([keras.Input((1,)), keras.layers.Lambda(write, output_shape=(1,))])
    network.save(tmp_path / "evil.keras")
    canary.unlink(missing_ok=True)

    store = Store(tmp_path / "store")
    run = TrainingRun().resolved()
    forged = store.produce(
        Recipe("network", {}), lambda place: shutil.copy(tmp_path / "evil.keras", place / "network.keras")
    )
    arrays = store.produce(Recipe("arrays", {}), lambda place: (place / "x").touch())
    with pytest.raises(ModelError, match=r"the class 'Lambda' of 'keras\.layers'"):
        steps.train_network(store, ArtifactRef("network", forged.digest), arrays, run.training)
    assert not canary.exists()

    keras.saving.load_model(tmp_path / "evil.keras", safe_mode=False)(np.zeros((1, 1), np.float32))
    assert canary.read_text() == "sung"


@pytest.mark.parametrize("architecture", ["cnn", "compact", "cropped", "mlp", "mlp-2"])
def test_networks_of_every_architecture_are_loaded(tmp_path: Path, architecture: Any) -> None:
    """A compiled network is loaded, too, although its file contains the settings of the compilation."""
    run = TrainingRun(model=ModelConfig(architecture=architecture)).resolved()
    network = networks.build(run.model, input_shape=SHAPE, classes=10, seed=1)
    network.compile("adam", "categorical_crossentropy")
    networks.save(network, tmp_path / "model.keras")
    assert networks.weights_digest(networks.load(tmp_path / "model.keras")) == networks.weights_digest(network)
