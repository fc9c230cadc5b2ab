"""Two models on the same test sets: what the decision on a promotion is made from, and the examples of what changed."""

from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from digits.arrays import HeldOut
from digits.calibration import DECIMALS, Step, threshold_for
from digits.decisions import Changed
from digits.errors import UsageError
from digits.evaluation import calibration_error, reliability
from digits.inference import Answers
from digits.promotion import SetResult

Labels = npt.NDArray[np.uint8]

_MULTIPLYING = ("Conv", "Gemm", "MatMul")
"""ONNX operators whose second input is the weights."""
EXAMPLES = 12
"""Of either kind: right to wrong, wrong to right."""


def results_of(
    answers: Answers, labels: Labels, sets: Iterable[HeldOut], *, steps: Sequence[Step], target_error: float
) -> dict[str, SetResult]:
    """Measure a model on each test set.

    Args:
        answers: for all test images.
        labels: (N,) of all test images.
        sets: which of them belong together.
        steps: of the model's calibration.
        target_error: as `max_error` of a prediction; a model that can't promise it answers nothing.
    """
    confidence = answers.probabilities.max(axis=1).astype(np.float64)
    right = answers.probabilities.argmax(axis=1) == labels
    answered = confidence.round(DECIMALS) >= _threshold(steps, target_error)
    if answers.novelty is not None:
        answered &= answers.novelty <= 0
    return {
        one.name: SetResult(
            digest=one.sha256,
            right=right[one.images],
            ece=calibration_error(reliability(confidence[one.images], right[one.images])),
            coverage=float(answered[one.images].mean()),
        )
        for one in sets
    }


def _threshold(steps: Sequence[Step], target_error: float) -> float:
    try:
        return threshold_for(steps, target_error)
    except UsageError:
        return float("inf")


class Said(NamedTuple):
    """What a model says of N images: class ids and their probabilities, (N,) each."""

    classes: npt.NDArray[np.intp]
    confidence: npt.NDArray[np.float32]

    @classmethod
    def by(cls, answers: Answers) -> "Said":
        """Read a model's answers."""
        return cls(answers.probabilities.argmax(axis=1), answers.probabilities.max(axis=1))


def changed_answers(
    challenger: Answers, champion: Answers, labels: Labels, sets: Sequence[HeldOut], class_names: Sequence[str]
) -> list[Changed]:
    """Give examples of images that changed from right to wrong, then from wrong to right, the surest mistakes first."""
    ours, theirs = Said.by(challenger), Said.by(champion)
    lost = (ours.classes != labels) & (theirs.classes == labels)
    gained = (ours.classes == labels) & (theirs.classes != labels)
    chosen = [*_surest(lost, ours.confidence), *_surest(gained, theirs.confidence)]
    return [
        Changed(
            test_set=next(one.name for one in sets if one.start <= index < one.stop),
            index=index,
            true=class_names[labels[index]],
            champion=class_names[theirs.classes[index]],
            challenger=class_names[ours.classes[index]],
            champion_confidence=round(float(theirs.confidence[index]), DECIMALS),
            challenger_confidence=round(float(ours.confidence[index]), DECIMALS),
        )
        for index in chosen
    ]


def _surest(chosen: npt.NDArray[np.bool_], confidence: npt.NDArray[np.float32]) -> list[int]:
    numbers = np.flatnonzero(chosen)
    order = np.argsort(-confidence[numbers], kind="stable")[:EXAMPLES]
    return [int(number) for number in numbers[order]]


def operations_of(onnx_file: Path) -> int:
    """Return the number of multiplications that a network takes per image in its convolutions and matrix products."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(onnx_file)).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = [dimension.dim_value or 1 for dimension in value.type.tensor_type.shape.dim]
    return sum(
        _operations(node.op_type, shapes[node.input[1]], shapes[node.output[0]])
        for node in graph.node
        if node.op_type in _MULTIPLYING
    )


def _operations(kind: str, weights: Sequence[int], output: Sequence[int]) -> int:
    """Return how often each weight is used, times their number."""
    return prod(weights) * prod(output[2:] if kind == "Conv" else output[:-1])
