"""Champion: comparison of a model version with the champion on the same test sets, and the decision to promote it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from digits.data.arrays import NamedTestSet
from digits.errors import ModelError, StoreError, UsageError
from digits.images.types import Labels
from digits.model.calibration import DECIMALS, RiskStep, threshold_for
from digits.model.metrics import calibration_error, reliability_bins
from digits.model.onnx_model import ModelOutput, OnnxModel
from digits.outputs.model_report import changed_picture
from digits.outputs.run_reports import decision_markdown
from digits.pipeline import recipes
from digits.pipeline.config import PromotionPolicy, TrainingRun
from digits.pipeline.lineage import findings_of, load_samples, read_json, test_sets_of
from digits.pipeline.promotion import Candidate, SetResult, decide_promotion, refuse
from digits.pipeline.steps import NOVELTY_FILE, evaluate_model, identify
from digits.store.artifacts import Artifact, ArtifactRef, Store
from digits.store.decisions import ChangedImage, Decision
from digits.store.records import Record
from digits.store.registry import ModelFacts, ModelVersion, RecordedDecision, Registry

_MULTIPLYING = ("Conv", "Gemm", "MatMul")
"""ONNX operators whose second input is the weights."""
EXAMPLES = 12
"""Largest number of examples of either kind: images that only the champion, or only the challenger, gets right."""


def measure_test_sets(
    output: ModelOutput,
    labels: Labels,
    sets: Iterable[NamedTestSet],
    *,
    steps: Sequence[RiskStep],
    target_error: float,
) -> dict[str, SetResult]:
    """Return the results of a model on each test set, by the name of the set.

    Args:
        output: output of the model for all N test images.
        labels: (N,) class ids of all test images.
        sets: test sets, each a range of the test images.
        steps: risk steps of the model's calibration; see `digits.model.calibration`.
        target_error: error rate at which the coverage is measured. The coverage is the share of the images that a
            prediction with this `max_error` does not flag, or 0 if the calibration cannot support the error rate.
    """
    confidence = output.probabilities.max(axis=1).astype(np.float64)
    right = output.probabilities.argmax(axis=1) == labels
    answered = confidence.round(DECIMALS) >= _threshold(steps, target_error)
    if output.novelty is not None:
        answered &= output.novelty <= 0
    return {
        one.name: SetResult(
            digest=one.sha256,
            right=right[one.images],
            ece=calibration_error(reliability_bins(confidence[one.images], right[one.images])),
            coverage=float(answered[one.images].mean()),
        )
        for one in sets
    }


def _threshold(steps: Sequence[RiskStep], target_error: float) -> float:
    try:
        return threshold_for(steps, target_error)
    except UsageError:
        return float("inf")


class _Predictions(NamedTuple):
    """Predicted classes of N images: class ids and their probabilities, (N,) each."""

    classes: npt.NDArray[np.intp]
    confidence: npt.NDArray[np.float32]

    @classmethod
    def from_output(cls, output: ModelOutput) -> "_Predictions":
        """Return the most likely class of each image and its probability."""
        return cls(output.probabilities.argmax(axis=1), output.probabilities.max(axis=1))


def find_changed_images(
    challenger: ModelOutput,
    champion: ModelOutput,
    labels: Labels,
    sets: Sequence[NamedTestSet],
    class_names: Sequence[str],
) -> list[ChangedImage]:
    """Return images that only the champion predicts correctly, then images that only the challenger does.

    At most `EXAMPLES` of each are returned, those with the most confident wrong prediction first.
    """
    ours, theirs = _Predictions.from_output(challenger), _Predictions.from_output(champion)
    lost = (ours.classes != labels) & (theirs.classes == labels)
    gained = (ours.classes == labels) & (theirs.classes != labels)
    chosen = [*_most_confident(lost, ours.confidence), *_most_confident(gained, theirs.confidence)]
    return [
        ChangedImage(
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


def _most_confident(chosen: npt.NDArray[np.bool_], confidence: npt.NDArray[np.float32]) -> list[int]:
    numbers = np.flatnonzero(chosen)
    order = np.argsort(-confidence[numbers], kind="stable")[:EXAMPLES]
    return [int(number) for number in numbers[order]]


def count_operations(onnx_file: Path) -> int:
    """Return the number of multiplications per image in the convolutions and matrix products of a network."""
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
    """Return the number of weights times the number of positions at which each is used."""
    return prod(weights) * prod(output[2:] if kind == "Conv" else output[:-1])


DecisionWithExamples = tuple[Decision, Sequence[ChangedImage]]
"""Decision, and examples of images that only one of the two models predicts correctly."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of a training run.

    Args:
        version: number of the model version.
        champion: number of the version that is champion after the run; None if there is none.
        facts: metrics and other facts of the model version.
        report: path of the report as a web page.
        reasons: reasons for the decision, as sentences.
        new: whether the run registered the version.
        promoted: whether the run made the version the champion.
        decision: number of the promotion decision that the run recorded; None if it recorded none.
        warnings: findings about the dataset that users must not overlook, as sentences.
    """

    version: int
    champion: int | None
    facts: ModelFacts
    report: Path
    reasons: tuple[str, ...]
    new: bool = False
    promoted: bool = False
    decision: int | None = None
    warnings: tuple[str, ...] = ()

    def as_record(self) -> Record:
        """Return the outcome as a record, with the facts as JSON values."""
        return {**vars(self), "facts": self.facts.as_record()}


def find_unchanged_run(store: Store, run: TrainingRun) -> Outcome | None:
    """Return the outcome of an earlier run that this run would only repeat, or None if there is none.

    A run would repeat an earlier one if data, configuration and code are the same, a decision was made on the model of
    the earlier run, and the files of that model version are intact. The check takes about a second and does not load
    TensorFlow.

    Args:
        store: artifact store.
        run: resolved training run.

    Raises:
        UsageError: if a dataset does not exist.
        DataError: if a local dataset cannot be read.
    """
    registry = Registry(store)
    prepared = recipes.arrays_of_run(run, partial(identify, store))
    known = registry.find_decision(recipes.digest_of_run(prepared, run), _as_record(run.promotion))
    if known is None:
        return None
    version = registry.version(known.version)
    if not all(store.reuse(version.artifact(kind)) for kind in version.artifacts):
        return None
    return _outcome(
        registry,
        version,
        prepared,
        reasons=(f"Nothing changed: data, configuration and code are those of version {version.number}.",),
    )


def promote_model(store: Store, version: ModelVersion, arrays: ArtifactRef, run: TrainingRun, *, new: bool) -> Outcome:
    """Promote a version if it beats the champion, and record the decision.

    If a decision on the version with the same policy is recorded, nothing is done.

    Args:
        store: artifact store.
        version: model version of the run.
        arrays: arrays that the model was trained from, with the test sets.
        run: resolved training run.
        new: whether the run registered the version.
    """
    registry, policy, known = Registry(store), _as_record(run.promotion), dict[int | None, DecisionWithExamples]()

    def decide(champion: ModelVersion | None) -> DecisionWithExamples:
        number = champion.number if champion else None
        if number not in known:
            known[number] = _decide(store, version, champion, arrays, run.promotion)
        return known[number]

    was_decided = registry.is_decided(version.number, policy)
    if not was_decided:
        decide(registry.champion())  # takes seconds, so it is done before the registry is locked
    unchanged = Decision(False, (f"Nothing changed: this model is version {version.number} already.",)), ()
    recipe = recipes.digest_of_run(arrays, run)
    made = registry.record_decision(
        version.number, (lambda _: unchanged) if was_decided else decide, recipe=recipe, policy=policy
    )
    return _outcome(
        registry,
        version,
        arrays,
        reasons=made.decision.reasons,
        new=new,
        promoted=made.decision.promote,
        decision=None if was_decided else made.number,
    )


def _as_record(policy: PromotionPolicy) -> Record:
    return policy.model_dump(mode="json")


def _outcome(registry: Registry, version: ModelVersion, arrays: ArtifactRef, **values: Any) -> Outcome:
    champion = registry.champion()
    findings = findings_of(registry.artifact_path(arrays))
    return Outcome(
        version=version.number,
        champion=champion.number if champion else None,
        facts=version.facts,
        report=registry.artifact_path(version.artifact("report")) / "report.html",
        warnings=tuple(finding.message for finding in findings if finding.is_warning),
        **values,
    )


class _Contender(NamedTuple):
    """Model version with its output for all test images."""

    version: ModelVersion
    model: OnnxModel
    output: ModelOutput

    def candidate(self, arrays: Artifact, policy: PromotionPolicy) -> Candidate:
        """Return the measurements that the decision is based on."""
        results = measure_test_sets(
            self.output,
            load_samples(arrays, "test").labels,
            test_sets_of(arrays),
            steps=self.model.risk_steps,
            target_error=policy.target_error,
        )
        onnx = self.model.onnx
        return Candidate(self.version.number, results, count_operations(onnx), onnx.stat().st_size)


def _decide(
    store: Store, version: ModelVersion, champion: ModelVersion | None, arrays: ArtifactRef, policy: PromotionPolicy
) -> DecisionWithExamples:
    opened = store.open(arrays)
    ours = _contender(store, version, arrays)
    if champion is None:
        return decide_promotion(ours.candidate(opened, policy), None, policy), ()
    if lacking := sorted({*_test_sets(champion)} - {one.name for one in test_sets_of(opened)}):
        return _refused(version, champion, f"was also tested on {', '.join(lacking)}; train on the same datasets"), ()
    try:
        theirs = _contender(store, champion, arrays)
    except (StoreError, ModelError) as error:
        return _refused(version, champion, f"cannot be evaluated on the same test sets: {error}"), ()
    test, names = load_samples(opened, "test"), read_json(opened.file("arrays.json"))["class_names"]
    examples = find_changed_images(ours.output, theirs.output, test.labels, test_sets_of(opened), names)
    return decide_promotion(ours.candidate(opened, policy), theirs.candidate(opened, policy), policy), examples


def _test_sets(version: ModelVersion) -> Iterable[str]:
    """Return the names of a version's test sets; for versions without that record, the names of its datasets."""
    return version.facts.test_sets or version.facts.datasets


def _refused(version: ModelVersion, champion: ModelVersion, why: str) -> Decision:
    remedy = f"`digits promote {version.number}` promotes it anyway"
    return refuse(version.number, f"the champion, version {champion.number}, {why}. {remedy}.")


def _contender(store: Store, version: ModelVersion, arrays: ArtifactRef) -> _Contender:
    exported = version.artifact("onnx")
    evaluation = store.open(evaluate_model(store, exported, arrays))
    probabilities = np.load(evaluation.file("y_prob.npy"), allow_pickle=False)
    novelty = evaluation.path / NOVELTY_FILE
    output = ModelOutput(probabilities, np.load(novelty, allow_pickle=False) if novelty.exists() else None)
    model = OnnxModel.load(store.open(exported).path, version=version.number)
    return _Contender(version, model, output)


def report_with_decision(store: Store, outcome: Outcome) -> str:
    """Return a version's report as markdown, headed by the decision on the version."""
    version = Registry(store).version(outcome.version)
    report = store.open(version.artifact("report")).file("report.md").read_text("utf-8")
    verdict = "promoted to champion" if outcome.promoted else "not promoted"
    return "\n\n".join([f"**Version {outcome.version}: {verdict}.** {' '.join(outcome.reasons)}", report])


def load_decision(store: Store, number: int) -> RecordedDecision:
    """Return a recorded decision by its number, counted from 1."""
    return Registry(store).decisions()[number - 1]


def render_decision(store: Store, made: RecordedDecision, arrays: ArtifactRef) -> str:
    """Return a decision as markdown: reasons, tables, and a picture of the examples.

    Args:
        store: artifact store.
        made: recorded decision.
        arrays: arrays with the test images on which the models were compared.
    """
    picture = changed_picture(made.examples, load_samples(store.open(arrays), "test").pixels)
    return decision_markdown(
        made.decision, version=made.version, champion=made.champion, policy=made.policy, picture=picture
    )
