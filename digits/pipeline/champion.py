"""Two models on the same test sets: what the decision on a promotion is made from, and the examples of what changed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from digits.data.arrays import HeldOut
from digits.errors import ModelError, StoreError, UsageError
from digits.images.types import Labels
from digits.model.calibration import DECIMALS, Step, threshold_for
from digits.model.metrics import calibration_error, reliability
from digits.model.onnx_model import Answers, ModelFiles
from digits.outputs.model_report import changed_picture
from digits.outputs.run_reports import decision_markdown
from digits.pipeline import recipes
from digits.pipeline.config import PromotionPolicy, TrainingRun
from digits.pipeline.lineage import load_samples, read_json, test_sets_of
from digits.pipeline.promotion import Candidate, SetResult, decide_promotion, refuse
from digits.pipeline.steps import NOVELTY_FILE, evaluate_model, identify
from digits.store.artifacts import Artifact, ArtifactRef, Store
from digits.store.decisions import ChangedImage, Decision
from digits.store.records import Record
from digits.store.registry import ModelFacts, ModelVersion, RecordedDecision, Registry

_MULTIPLYING = ("Conv", "Gemm", "MatMul")
"""ONNX operators whose second input is the weights."""
EXAMPLES = 12
"""Of either kind: right to wrong, wrong to right."""


def measure_test_sets(
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


def find_changed_images(
    challenger: Answers, champion: Answers, labels: Labels, sets: Sequence[HeldOut], class_names: Sequence[str]
) -> list[ChangedImage]:
    """Give examples of images that changed from right to wrong, then from wrong to right, the surest mistakes first."""
    ours, theirs = Said.by(challenger), Said.by(champion)
    lost = (ours.classes != labels) & (theirs.classes == labels)
    gained = (ours.classes == labels) & (theirs.classes != labels)
    chosen = [*_surest(lost, ours.confidence), *_surest(gained, theirs.confidence)]
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


def _surest(chosen: npt.NDArray[np.bool_], confidence: npt.NDArray[np.float32]) -> list[int]:
    numbers = np.flatnonzero(chosen)
    order = np.argsort(-confidence[numbers], kind="stable")[:EXAMPLES]
    return [int(number) for number in numbers[order]]


def count_operations(onnx_file: Path) -> int:
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


Decided = tuple[Decision, Sequence[ChangedImage]]
"""A decision, and examples of images that changed their answer."""


@dataclass(frozen=True)
class Outcome:
    """What became of a training run; `decision` is the number of the decision on its model, if one was made."""

    version: int
    champion: int | None
    facts: ModelFacts
    report: Path
    reasons: tuple[str, ...]
    new: bool = False
    promoted: bool = False
    decision: int | None = None

    def as_record(self) -> Record:
        """Return the outcome as values for programs."""
        return {**vars(self), "facts": self.facts.as_record()}


def find_unchanged_run(store: Store, run: TrainingRun) -> Outcome | None:
    """Tell, in a second or so and without TensorFlow, that a run would change nothing.

    That is so when data, configuration and code are those of a run whose model was decided on, and the files of that
    version are whole.

    Args:
        store: where everything is.
        run: resolved.

    Raises:
        UsageError: there is no such dataset.
        DataError: a local one can't be read.
    """
    registry = Registry(store)
    prepared = recipes.arrays_of_run(run, partial(identify, store))
    known = registry.find_decision(recipes.digest_of_run(prepared, run), _as_record(run.promotion))
    if known is None:
        return None
    version = registry.version(known.version)
    if not all(store.has_valid(version.artifact(kind)) for kind in version.artifacts):
        return None
    return _outcome(
        registry,
        version,
        reasons=(f"Nothing changed: data, configuration and code are those of version {version.number}.",),
    )


def promote_model(store: Store, version: ModelVersion, arrays: ArtifactRef, run: TrainingRun, *, new: bool) -> Outcome:
    """Decide whether a version becomes champion, and have it be; one that was decided on stays what it is.

    Args:
        store: where everything is.
        version: the run's.
        arrays: that it was made from, with the test sets.
        run: resolved.
        new: whether the run has registered the version.
    """
    registry, policy, known = Registry(store), _as_record(run.promotion), dict[int | None, Decided]()

    def decide(champion: ModelVersion | None) -> Decided:
        number = champion.number if champion else None
        if number not in known:
            known[number] = _decide(store, version, champion, arrays, run.promotion)
        return known[number]

    settled = registry.is_decided(version.number, policy)
    if not settled:
        decide(registry.champion())  # not only under the registry's lock, since it takes seconds
    same = Decision(False, (f"Nothing changed: this model is version {version.number} already.",)), ()
    recipe = recipes.digest_of_run(arrays, run)
    made = registry.record_decision(
        version.number, (lambda _: same) if settled else decide, recipe=recipe, policy=policy
    )
    return _outcome(
        registry,
        version,
        reasons=made.decision.reasons,
        new=new,
        promoted=made.decision.promote,
        decision=None if settled else made.number,
    )


def _as_record(policy: PromotionPolicy) -> Record:
    return policy.model_dump(mode="json")


def _outcome(registry: Registry, version: ModelVersion, **became: Any) -> Outcome:
    champion = registry.champion()
    return Outcome(
        version=version.number,
        champion=champion.number if champion else None,
        facts=version.facts,
        report=registry.artifact_path(version.artifact("report")) / "report.html",
        **became,
    )


class _Contender(NamedTuple):
    """A version, and what it says of all test images."""

    version: ModelVersion
    model: ModelFiles
    answers: Answers

    def candidate(self, arrays: Artifact, policy: PromotionPolicy) -> Candidate:
        """Give what the decision needs to know of it."""
        results = measure_test_sets(
            self.answers,
            load_samples(arrays, "test").labels,
            test_sets_of(arrays),
            steps=self.model.risk_steps,
            target_error=policy.target_error,
        )
        onnx = self.model.onnx
        return Candidate(self.version.number, results, count_operations(onnx), onnx.stat().st_size)


def _decide(
    store: Store, version: ModelVersion, champion: ModelVersion | None, arrays: ArtifactRef, policy: PromotionPolicy
) -> Decided:
    opened = store.open(arrays)
    ours = _contender(store, version, arrays)
    if champion is None:
        return decide_promotion(ours.candidate(opened, policy), None, policy), ()
    if lacking := sorted({*_test_sets(champion)} - {one.name for one in test_sets_of(opened)}):
        return _refused(version, champion, f"was tested on {', '.join(lacking)} too; train on the same datasets"), ()
    try:
        theirs = _contender(store, champion, arrays)
    except (StoreError, ModelError) as error:
        return _refused(version, champion, f"can't be measured on the same test sets: {error}"), ()
    test, names = load_samples(opened, "test"), read_json(opened.file("arrays.json"))["class_names"]
    examples = find_changed_images(ours.answers, theirs.answers, test.labels, test_sets_of(opened), names)
    return decide_promotion(ours.candidate(opened, policy), theirs.candidate(opened, policy), policy), examples


def _test_sets(version: ModelVersion) -> Iterable[str]:
    """Give the names of what a version was tested on; one of before that was recorded, on what it was trained from."""
    return version.facts.test_sets or version.facts.datasets


def _refused(version: ModelVersion, champion: ModelVersion, why: str) -> Decision:
    way = f"`digits promote {version.number}` promotes it whatever that says"
    return refuse(version.number, f"the champion, version {champion.number}, {why}; {way}.")


def _contender(store: Store, version: ModelVersion, arrays: ArtifactRef) -> _Contender:
    exported = version.artifact("onnx")
    evaluation = store.open(evaluate_model(store, exported, arrays))
    probabilities = np.load(evaluation.file("y_prob.npy"), allow_pickle=False)
    novelty = evaluation.path / NOVELTY_FILE
    answers = Answers(probabilities, np.load(novelty, allow_pickle=False) if novelty.exists() else None)
    model = ModelFiles.load(store.open(exported).path, version=version.number)
    return _Contender(version, model, answers)


def report_with_decision(store: Store, outcome: Outcome) -> str:
    """Give the markdown of a version's report, headed by what was decided on it."""
    version = Registry(store).version(outcome.version)
    report = store.open(version.artifact("report")).file("report.md").read_text("utf-8")
    verdict = "promoted to champion" if outcome.promoted else "not promoted"
    return "\n\n".join([f"**Version {outcome.version}: {verdict}.** {' '.join(outcome.reasons)}", report])


def load_decision(store: Store, number: int) -> RecordedDecision:
    """Give one of the decisions of a registry."""
    return Registry(store).decisions()[number - 1]


def render_decision(store: Store, made: RecordedDecision, arrays: ArtifactRef) -> str:
    """Give a decision as markdown: its reasons, its tables, and a picture of images that changed their answer.

    Args:
        store: where everything is.
        made: the decision.
        arrays: that it was made on.
    """
    picture = changed_picture(made.examples, load_samples(store.open(arrays), "test").pixels)
    return decision_markdown(
        made.decision, version=made.version, champion=made.champion, policy=made.policy, picture=picture
    )
