"""A trained network on ONNX Runtime: no Keras, no TensorFlow, and the same answers however images are grouped."""

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
from digits.model.safety import check_onnx_file
from digits.store.files import hash_file
from digits.store.records import digest_of

if TYPE_CHECKING:  # a worker process must not load pydantic
    from digits.images.formats import Mode

Probabilities = npt.NDArray[np.float32]

ONNX_FILE = "model.onnx"
SPEC_FILE = "spec.json"
BATCH = 64
"""Images a pass of the network: always this many, so that no image's result depends on its neighbours' number."""


@dataclass(frozen=True)
class OnnxModel:
    """An exported model on disk, and what is needed to use it.

    Args:
        onnx: input (N, height, width, 1) float32 in 0..255, output (N, classes) probabilities.
        class_names: one a column of the output.
        input_shape: height and width in pixels.
        version: the registry's number.
        digest: of the network and its spec.
        normalization: the recipe it was trained with, as in `digits.images.normalize.SPEC`.
        calibration: `temperature` and `steps`, as `digits.model.calibration` has them; empty where nothing was measured.
        reference: what its test images are like, as `digits.model.drift` has it; empty where nothing was measured.
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
        """Read a directory with `model.onnx` and `spec.json`.

        Raises:
            ModelError: one of them is missing, or the spec does not say what it must.
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
                f"{directory}: expected an exported model ({ONNX_FILE} and {SPEC_FILE}), but {error!r}; "
                "register the model again"
            ) from error

    def resolve_mode(self, asked: "Mode") -> "Mode":
        """Say how its images are normalised: `auto` means the form that its own were brought into."""
        return self.normalization.get("mode", asked) if asked == "auto" else asked

    @property
    def temperature(self) -> float:
        """What its probabilities are calibrated with; 1 changes nothing."""
        return float(self.calibration.get("temperature", 1))

    @property
    def risk_steps(self) -> tuple[RiskStep, ...]:
        """What each confidence threshold did to its validation images."""
        return tuple(RiskStep(*step) for step in self.calibration.get("steps", ()))

    @property
    def directory(self) -> Path:
        """Where the files are."""
        return self.onnx.parent


class ModelOutput(NamedTuple):
    """What a model says of N images.

    Args:
        probabilities: (N, classes) float32, calibrated.
        novelty: (N,) float32, above 0 where it takes an image for none of its classes; None where it can't tell.
    """

    probabilities: Probabilities
    novelty: npt.NDArray[np.float32] | None


class Predictor:
    """A model that is loaded and ready; one thread, as there is one process a CPU.

    Raises:
        ModelError: ONNX Runtime can't load it, or its shapes are not those of its spec.
    """

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        self._session = _open_session(model)
        self._input = self._session.get_inputs()[0].name
        self._batch = np.zeros((BATCH, *model.input_shape, 1), np.float32)
        found = self._run().probabilities.shape
        if found != (BATCH, len(model.class_names)):
            raise ModelError(
                f"{model.onnx}: it gives {found[1:]} values an image, but {len(model.class_names)} classes are named"
            )

    def predict(self, pixels: Pixels) -> Probabilities:
        """Give the probability of each class: (N, height, width) uint8 -> (N, classes) float32."""
        return self.predict_with_novelty(pixels).probabilities

    def predict_with_novelty(self, pixels: Pixels) -> ModelOutput:
        """Give probabilities and novelty of (N, height, width) uint8."""
        if pixels.shape[1:] != self.model.input_shape:
            raise ModelError(
                f"{self.model.onnx}: it takes images of {self.model.input_shape}, found {pixels.shape[1:]}"
            )
        parts = list(self._batches(pixels)) or [self._cut(self._run(), 0)]
        if len(parts) == 1:
            return parts[0]
        novelty = [part.novelty for part in parts if part.novelty is not None]
        return ModelOutput(
            np.concatenate([part.probabilities for part in parts]), np.concatenate(novelty) if novelty else None
        )

    def _batches(self, pixels: Pixels) -> Iterator[ModelOutput]:
        for start in range(0, len(pixels), BATCH):
            batch = pixels[start : start + BATCH]
            self._batch[: len(batch), :, :, 0] = batch
            self._batch[len(batch) :] = 0
            yield self._cut(self._run(), len(batch))

    @staticmethod
    def _cut(answers: ModelOutput, count: int) -> ModelOutput:
        novelty = answers.novelty
        return ModelOutput(answers.probabilities[:count], None if novelty is None else novelty[:count])

    def _run(self) -> ModelOutput:
        """Pass the batch through; the temperature is applied to all of it, so that no row depends on its place."""
        try:
            probabilities, *more = self._session.run(None, {self._input: self._batch})
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ModelError(f"{self.model.onnx}: the network can't be run: {error}") from error
        return ModelOutput(apply_temperature(probabilities, self.model.temperature), more[0].ravel() if more else None)


def load_predictor(directory: Path) -> Predictor:
    """Load an exported model that has no version yet.

    Raises:
        ModelError: it is missing or can't be used.
    """
    return Predictor(OnnxModel.load(directory, version=0))


def load_runtime() -> Any:
    """Import ONNX Runtime: 0.1 s."""
    import onnxruntime

    return onnxruntime


def _open_session(model: OnnxModel) -> Any:
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
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except ModelError:
        raise
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise ModelError(f"{model.onnx}: ONNX Runtime can't load it: {error}") from error
