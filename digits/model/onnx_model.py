"""Exported model: loading and prediction with ONNX Runtime, without Keras and TensorFlow.

The output for an image does not depend on the images that are predicted with it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from digits.errors import ModelError
from digits.images.types import Pixels
from digits.model.calibration import RiskStep, apply_temperature
from digits.model.drift import Reference
from digits.model.preparation import prepare_network
from digits.model.safety import check_onnx_file
from digits.store.files import hash_file
from digits.store.records import digest_of

if TYPE_CHECKING:  # a worker process must not load pydantic
    from digits.images.formats import Mode

Probabilities = npt.NDArray[np.float32]

ONNX_FILE = "model.onnx"
SPEC_FILE = "spec.json"
"""File with the facts about a model that its predictions need, such as class names, input shape and calibration."""
BATCH = 64
"""Images per run of the network. Smaller batches are padded, so that no output depends on the number of images."""


@dataclass(frozen=True)
class OnnxModel:
    """Exported model on disk with its spec.

    Args:
        onnx: ONNX file; its input is (N, height, width, 1) float32 in 0..255, its output (N, classes) probabilities.
        class_names: names of the classes, one per column of the output.
        input_shape: height and width of the input in pixels.
        version: number of the model version in the registry; 0 for a model that is not registered.
        digest: SHA-256 of the network and its spec.
        normalization: normalization of the training images, as in `digits.images.normalize.SPEC`.
        calibration: `temperature` and `steps` of `digits.model.calibration`; empty if they were not measured.
        reference: features of the test images, see `digits.model.drift`; empty if they were not measured.
    """

    onnx: Path
    class_names: tuple[str, ...]
    input_shape: tuple[int, int]
    version: int
    digest: str
    normalization: Mapping[str, Any] = field(default_factory=dict, compare=False)
    calibration: Mapping[str, Any] = field(default_factory=dict, compare=False)
    reference: Reference = field(default_factory=dict, compare=False)

    @classmethod
    def load(cls, directory: Path, *, version: int) -> Self:
        """Load a model from a directory with `model.onnx` and `spec.json`.

        Args:
            directory: directory of the exported model.
            version: number of the model version in the registry.

        Raises:
            ModelError: if a file is missing, or if the spec is incomplete or invalid.
        """
        onnx, spec_file = directory / ONNX_FILE, directory / SPEC_FILE
        try:
            spec = json.loads(spec_file.read_bytes())
            height, width = (int(side) for side in spec["input_shape"])
            return cls(
                onnx=onnx,
                class_names=tuple(map(str, spec["class_names"])),
                input_shape=(height, width),
                version=version,
                digest=digest_of({"onnx": hash_file(onnx), "spec": spec}),
                normalization=dict(spec["normalization"]),
                calibration=dict(spec.get("calibration", {})),
                reference=dict(spec.get("reference", {})),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{directory}: expected an exported model ({ONNX_FILE} and {SPEC_FILE}), found {error!r}; "
                "register the model again"
            ) from error

    def resolve_mode(self, requested: "Mode") -> "Mode":
        """Return the normalization mode to use; `auto` stands for the mode of the training images."""
        return self.normalization.get("mode", requested) if requested == "auto" else requested

    @property
    def temperature(self) -> float:
        """Temperature by which the probabilities are calibrated; 1 leaves them as they are."""
        return float(self.calibration.get("temperature", 1))

    @property
    def risk_steps(self) -> tuple[RiskStep, ...]:
        """Effect of each confidence threshold on the validation images; empty if it was not measured."""
        return tuple(RiskStep(*step) for step in self.calibration.get("steps", ()))

    @property
    def directory(self) -> Path:
        """Directory of the exported model."""
        return self.onnx.parent


class ModelOutput(NamedTuple):
    """Output of a model for N images.

    Args:
        probabilities: (N, classes) float32, calibrated.
        novelty: (N,) float32, out-of-distribution scores, above 0 for rejected images; None if the model has no such
            output.
    """

    probabilities: Probabilities
    novelty: npt.NDArray[np.float32] | None


class Predictor:
    """Model loaded into ONNX Runtime. It uses one thread, because predictions run one process per CPU core.

    Args:
        model: exported model.

    Raises:
        ModelError: if ONNX Runtime cannot load the model, or if its shapes do not match its spec.
    """

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        self._session, self._scale = _open_session(model)
        self._input = self._session.get_inputs()[0].name
        self._batch = np.zeros((BATCH, *model.input_shape, 1), np.float32)
        found = self._run().probabilities.shape
        if found != (BATCH, len(model.class_names)):
            raise ModelError(
                f"{model.onnx}: expected {len(model.class_names)} probabilities per image, one per class in the spec, "
                f"found an output of shape {found}; register the model again"
            )

    def predict(self, pixels: Pixels) -> Probabilities:
        """Return the calibrated probability of each class: (N, height, width) uint8 -> (N, classes) float32."""
        return self.predict_with_novelty(pixels).probabilities

    def predict_with_novelty(self, pixels: Pixels) -> ModelOutput:
        """Return probabilities and out-of-distribution scores of (N, height, width) uint8 images.

        Raises:
            ModelError: if the images do not have the input shape of the model, or if the network cannot be run.
        """
        if pixels.shape[1:] != self.model.input_shape:
            raise ModelError(
                f"{self.model.onnx}: expected images of shape {self.model.input_shape}, found {pixels.shape[1:]}; "
                "normalize them to that shape"
            )
        parts = list(self._batches(pixels)) or [self._truncate(self._run(), 0)]
        if len(parts) == 1:
            return parts[0]
        novelty = [part.novelty for part in parts if part.novelty is not None]
        return ModelOutput(
            np.concatenate([part.probabilities for part in parts]), np.concatenate(novelty) if novelty else None
        )

    def _batches(self, pixels: Pixels) -> Iterator[ModelOutput]:
        for start in range(0, len(pixels), BATCH):
            batch = pixels[start : start + BATCH]
            np.multiply(batch, self._scale, out=self._batch[: len(batch), :, :, 0])
            self._batch[len(batch) :] = 0
            yield self._truncate(self._run(), len(batch))

    @staticmethod
    def _truncate(output: ModelOutput, count: int) -> ModelOutput:
        novelty = output.novelty
        return ModelOutput(output.probabilities[:count], None if novelty is None else novelty[:count])

    def _run(self) -> ModelOutput:
        """Run the network on the padded batch, and calibrate all rows, so that no row depends on its position."""
        try:
            probabilities, *more = self._session.run(None, {self._input: self._batch})
        except Exception as error:  # the errors of ONNX Runtime have no common base class
            raise ModelError(f"{self.model.onnx}: the network cannot be run: {error}") from error
        return ModelOutput(apply_temperature(probabilities, self.model.temperature), more[0].ravel() if more else None)


def load_predictor(directory: Path) -> Predictor:
    """Load an exported model that is not registered.

    Raises:
        ModelError: if the model is missing or invalid.
    """
    return Predictor(OnnxModel.load(directory, version=0))


def load_runtime() -> Any:
    """Import ONNX Runtime, which takes 0.1 s, and return the module."""
    import onnxruntime

    return onnxruntime


def _open_session(model: OnnxModel) -> tuple[Any, np.float32]:
    """Return the loaded network, and the factor by which its input is multiplied first."""
    onnxruntime = load_runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 4
    try:
        content = model.onnx.read_bytes()
        check_onnx_file(content, name=str(model.onnx))
        network, scale = prepare_network(content)
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"]), scale
    except ModelError:
        raise
    except Exception as error:  # the errors of ONNX Runtime have no common base class
        raise ModelError(f"{model.onnx}: ONNX Runtime cannot load the model: {error}") from error
