"""The steps of training, each a function over the artifact store: references in, a reference out.

A step whose recipe is in the store is found there; otherwise it is computed and stored. The Prefect tasks are calls of
these functions.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from digits import calibration, datasets, drift
from digits.arrays import LabelledArrays, check_arrays, join, require_sound, split_validation
from digits.config import ArraysConfig, Mode, ModelConfig, PromotionPolicy, TrainingConfig
from digits.errors import ModelError
from digits.progress import SILENT, Progress
from digits.promotion import Candidate, Decision, decide_promotion
from digits.records import digest_of, write_file
from digits.registry import ModelVersion, Registry
from digits.store import Artifact, ArtifactRef, Recipe, Store, code_version

if TYPE_CHECKING:
    from digits.inference import Predictor
    from digits.reports import ModelReport

MAX_EXPORT_DIFFERENCE = 1e-4
"""Largest difference between a probability of the ONNX model and of the Keras model; float32 sums differ by 1e-6."""
DATASET_FILES = ("train_pixels", "train_labels", "test_pixels", "test_labels")


def download_dataset(
    store: Store, source: str, *, normalize: Mode = "auto", progress: Progress = SILENT
) -> ArtifactRef:
    """Have a named or local dataset in the store, verified by content and with its images in the network's form.

    Raises:
        DownloadError: every route to it failed.
        UsageError: there is no such source.
    """

    def write(directory: Path) -> None:
        data = datasets.load(source, downloads=store.root / "downloads", normalize=normalize, progress=progress)
        for name in DATASET_FILES:
            np.save(directory / f"{name}.npy", getattr(data, name), allow_pickle=False)
        about = {"class_names": data.class_names, "attribution": datasets.attribution(source)}
        _write_json(directory / "dataset.json", about)

    identity = {**datasets.identify(source), "normalize": normalize}
    return store.produce(Recipe("dataset", identity, code=code_version("digits.datasets")), write)


def prepare_arrays(store: Store, sources: Sequence[ArtifactRef], config: ArraysConfig) -> ArtifactRef:
    """Join datasets, check them, split off validation, and store memory-mappable arrays.

    The arrays are `pixels`, (N, height, width) uint8, and `labels`, (N,) uint8, of `train`, `validation`, `test`.

    Raises:
        DataError: the check found something past the limits of the configuration.
    """

    def write(directory: Path) -> None:
        data = join([_labelled_arrays(store.open(source)) for source in sources])
        findings = check_arrays(data, config)
        require_sound(findings)
        train, validation = split_validation(
            data.train_labels, fraction=config.validation_fraction or 0, seed=config.split_seed
        )
        parts = {
            "train": (data.train_pixels[train], data.train_labels[train]),
            "validation": (data.train_pixels[validation], data.train_labels[validation]),
            "test": (data.test_pixels, data.test_labels),
        }
        for name, (pixels, labels) in parts.items():
            np.save(directory / f"{name}_pixels.npy", pixels, allow_pickle=False)
            np.save(directory / f"{name}_labels.npy", labels, allow_pickle=False)
        about = {"class_names": data.class_names, "findings": [asdict(finding) for finding in findings]}
        _write_json(directory / "arrays.json", about)

    recipe = Recipe("arrays", config.model_dump(), tuple(sources), code_version("digits.arrays"))
    return store.produce(recipe, write)


def build_network(store: Store, arrays: ArtifactRef, config: ModelConfig, *, seed: int) -> ArtifactRef:
    """Build an untrained network that fits the arrays, with its summary."""
    from digits import models

    def write(directory: Path) -> None:
        opened = store.open(arrays)
        shape = np.load(opened.file("test_pixels.npy"), mmap_mode="r").shape[1:]
        classes = len(read_json(opened.file("arrays.json"))["class_names"])
        network = models.build(config, input_shape=shape, classes=classes, seed=seed)
        models.save(network, directory / "network.keras")
        write_file(directory / "summary.txt", models.summary(network).encode())

    recipe = Recipe(
        "network", {**config.model_dump(mode="json"), "seed": seed}, (arrays,), code_version("digits.models")
    )
    return store.produce(recipe, write)


def train_network(
    store: Store, network: ArtifactRef, arrays: ArtifactRef, config: TrainingConfig, *, progress: Progress = SILENT
) -> ArtifactRef:
    """Fit a network to the training arrays; a run that was killed goes on from its last finished epoch."""
    from digits import models, training

    recipe = Recipe("model", config.model_dump(mode="json"), (network, arrays), code_version("digits.training"))
    checkpoint = store.root / "work" / f"train-{recipe.ref.digest}.npz"

    def write(directory: Path) -> None:
        opened = store.open(arrays)
        model = models.load(store.open(network).file("network.keras"))
        history = training.fit(
            model,
            _samples(opened, "train"),
            _samples(opened, "validation"),
            config,
            checkpoint=checkpoint,
            class_names=read_json(opened.file("arrays.json"))["class_names"],
            progress=progress,
        )
        models.save(model, directory / "model.keras")
        _write_json(directory / "model.json", {"history": history, "weights_sha256": models.weights_digest(model)})

    reference = store.produce(recipe, write)
    checkpoint.unlink(missing_ok=True)
    return reference


def average_models(
    store: Store, members: Sequence[ArtifactRef], arrays: ArtifactRef, config: TrainingConfig
) -> ArtifactRef:
    """Average the probabilities of fitted networks in one model; a single one is given back itself.

    Its history is the mean of the members', but for the last epoch's validation, which is the average's own.
    """
    from digits import models, training

    if len(members) == 1:
        return members[0]

    def write(directory: Path) -> None:
        opened = [store.open(member) for member in members]
        model = models.average([models.load(member.file("model.keras")) for member in opened])
        histories = [read_json(member.file("model.json"))["history"] for member in opened]
        history = [training.mean_of(epochs) for epochs in zip(*histories, strict=True)]
        history[-1] |= training.measure(model, _samples(store.open(arrays), "validation"))
        models.save(model, directory / "model.keras")
        _write_json(directory / "model.json", {"history": history, "weights_sha256": models.weights_digest(model)})

    recipe = Recipe("model", config.model_dump(mode="json"), (*members, arrays), code_version("digits.training"))
    return store.produce(recipe, write)


def export_model(store: Store, model: ArtifactRef, arrays: ArtifactRef) -> ArtifactRef:
    """Export a model to ONNX with what makes it honest, fitted on validation images; see `calibration` and `novelty`.

    It is checked on the whole test set that the network says what Keras says.

    Raises:
        ModelError: another class for any test image, or a probability further off than `MAX_EXPORT_DIFFERENCE`.
    """
    from digits import models, normalization, novelty
    from digits.inference import ONNX_FILE, load_predictor

    def write(directory: Path) -> None:
        opened, trained = store.open(arrays), store.open(model)
        network = models.load(trained.file("model.keras"))
        models.export_onnx(network, directory / "model.onnx")
        test = _samples(opened, "test").pixels
        spec = {
            "class_names": read_json(opened.file("arrays.json"))["class_names"],
            "input_shape": list(test.shape[1:]),
            "normalization": {**normalization.SPEC, "mode": opened.config["normalize"]},
            "weights_sha256": read_json(trained.file("model.json"))["weights_sha256"],
        }
        _write_json(directory / "spec.json", spec)
        predictor = load_predictor(directory)
        expected = network.predict(test[..., np.newaxis].astype(np.float32), batch_size=500, verbose=0)
        check_export(expected, predictor.predict(test))
        validation = _samples(opened, "validation")
        measured = _calibration(predictor.predict(validation.pixels), validation.labels)
        spec |= {"calibration": measured}
        _write_json(directory / "spec.json", spec)
        train = _samples(opened, "train")
        seed = trained.config["seed"]
        novelty.add_novelty(directory / ONNX_FILE, train.pixels, validation.pixels, spec["class_names"], seed=seed)
        named = all(datasets.is_named(store.open(parent).config["source"]) for parent in opened.parents)
        reference = _reference(load_predictor(directory), test, files_are_known=named)
        _write_json(directory / "spec.json", {**spec, "reference": reference})

    code = code_version("digits.models", "digits.inference", "digits.novelty", "digits.calibration", "digits.drift")
    recipe = Recipe("onnx", {}, (model, arrays), code)
    return store.produce(recipe, write)


def _calibration(y_prob: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Fit what a spec keeps of validation: the temperature, and what each confidence threshold would do."""
    temperature = calibration.fit_temperature(y_prob, labels)
    prob = calibration.calibrated(y_prob, temperature)
    steps = calibration.risk_steps(prob.max(axis=1), prob.argmax(axis=1) == labels)
    return {"temperature": temperature, "steps": steps}


def _reference(predictor: "Predictor", test: npt.NDArray[np.uint8], *, files_are_known: bool) -> drift.Reference:
    """Count what the test images are like, to compare folders with; of what files they were, arrays of MNIST tell."""
    answers = predictor.answer(test)
    values = drift.measure(test, answers.probabilities, answers.novelty)
    if files_are_known:
        count = len(test)
        size, levels = max(test.shape[1:]), test.max(axis=(1, 2))
        values = {**values, **drift.measure_files(np.full(count, size), np.zeros(count), levels)}
    return drift.fit_reference(values, classes=answers.probabilities.shape[1])


def check_export(expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> None:
    """Compare probabilities, (N, classes) each.

    Raises:
        ModelError: they differ by more than an export may.
    """
    others = int((expected.argmax(axis=1) != found.argmax(axis=1)).sum())
    difference = float(np.abs(expected - found).max())
    if others or not difference <= MAX_EXPORT_DIFFERENCE:
        raise ModelError(
            f"the ONNX export differs from the Keras model: {others} test images get another class, probabilities "
            f"are up to {difference:.1e} off, at most {MAX_EXPORT_DIFFERENCE:.0e} is accepted; the model was not "
            "registered"
        )


def evaluate_model(store: Store, exported: ArtifactRef, arrays: ArtifactRef) -> ArtifactRef:
    """Measure the exported model, which is what prediction runs, on the test images."""
    from digits.evaluation import evaluate
    from digits.inference import load_predictor

    def write(directory: Path) -> None:
        opened = store.open(arrays)
        test = _samples(opened, "test")
        y_prob, novelties = load_predictor(store.open(exported).path).answer(test.pixels)
        class_names = read_json(opened.file("arrays.json"))["class_names"]
        evaluation = evaluate(test.labels, y_prob, class_names=class_names, novelty=novelties)
        _write_json(directory / "evaluation.json", evaluation.as_record())
        np.save(directory / "y_prob.npy", y_prob, allow_pickle=False)

    recipe = Recipe("evaluation", {}, (exported, arrays), code_version("digits.evaluation", "digits.inference"))
    return store.produce(recipe, write)


def read_json(path: Path) -> Any:
    """Read a JSON file of an artifact that was opened, so verified."""
    return json.loads(path.read_text("utf-8"))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1), "utf-8")


def _labelled_arrays(artifact: Artifact) -> LabelledArrays:
    arrays = {name: np.load(artifact.file(f"{name}.npy"), mmap_mode="r", allow_pickle=False) for name in DATASET_FILES}
    names = tuple(read_json(artifact.file("dataset.json"))["class_names"])
    return LabelledArrays(**arrays, class_names=names)


def _samples(arrays: Artifact, part: str) -> Any:
    from digits.training import Samples

    pixels, labels = (
        np.load(arrays.file(f"{part}_{name}.npy"), mmap_mode="r", allow_pickle=False) for name in ("pixels", "labels")
    )
    return Samples(pixels, labels)


@dataclass(frozen=True)
class Lineage:
    """The artifacts behind an evaluation, each verified."""

    evaluation: Artifact
    onnx: Artifact
    model: Artifact
    network: Artifact
    arrays: Artifact
    datasets: tuple[Artifact, ...]

    def artifacts(self) -> dict[str, str]:
        """Give the digest of each kind, as a registry record keeps them."""
        parts = (self.evaluation, self.onnx, self.model, self.network, self.arrays)
        return {part.ref.kind: part.ref.digest for part in parts}

    @property
    def sources(self) -> list[str]:
        """The names of the datasets."""
        return [str(dataset.config["source"]) for dataset in self.datasets]

    @property
    def test_set(self) -> str:
        """The digest of the test images and labels: evaluations that share it can be compared."""
        files = self.arrays.manifest["files"]
        return digest_of([files[f"test_{part}.npy"]["sha256"] for part in ("pixels", "labels")])


def trace(store: Store, evaluation: ArtifactRef) -> Lineage:
    """Follow an evaluation back to its datasets."""
    measured = store.open(evaluation)
    onnx, arrays = (store.open(parent) for parent in measured.parents)
    model = store.open(onnx.parents[0])
    first = model.parents[0]
    network = store.open(store.open(first).parents[0] if first.kind == "model" else first)
    return Lineage(measured, onnx, model, network, arrays, tuple(store.open(parent) for parent in arrays.parents))


def facts_of(lineage: Lineage) -> dict[str, Any]:
    """Give what people want to know of a model version."""
    evaluation = read_json(lineage.evaluation.file("evaluation.json"))
    history = read_json(lineage.model.file("model.json"))["history"]
    return {
        "datasets": lineage.sources,
        "architecture": lineage.network.config["architecture"],
        "epochs": len(history),
        "train_images": len(_samples(lineage.arrays, "train")),
        "test_images": evaluation["count"],
        "test_set": lineage.test_set,
        "validation_accuracy": history[-1]["validation_accuracy"],
        **{name: evaluation[name] for name in ("accuracy", "loss", "ece", "rejected_share")},
    }


def register_model(store: Store, evaluation: ArtifactRef, report: ArtifactRef) -> tuple[ModelVersion, bool]:
    """Give the evaluated model a version number; the same weights keep the number they have.

    Returns:
        The version, and whether it is new.
    """
    lineage = trace(store, evaluation)
    return Registry(store).register(
        artifacts={**lineage.artifacts(), report.kind: report.digest},
        weights_sha256=read_json(lineage.model.file("model.json"))["weights_sha256"],
        facts=facts_of(lineage),
    )


@dataclass(frozen=True)
class Outcome:
    """What became of a training run."""

    version: int
    new: bool
    promoted: bool
    reasons: tuple[str, ...]
    champion: int | None
    facts: Mapping[str, Any]
    report: Path


def promote_model(store: Store, version: ModelVersion, *, new: bool, policy: PromotionPolicy) -> Outcome:
    """Make a new version the champion, if the policy says so; a known one was decided on when it was new."""
    registry = Registry(store)
    if new:
        decision = registry.consider(version.number, lambda champion: _decide(version, champion, policy))
    else:
        decision = Decision(False, (f"Nothing changed: this model is version {version.number} already.",))
    champion = registry.champion()
    return Outcome(
        version=version.number,
        new=new,
        promoted=decision.promote,
        reasons=decision.reasons,
        champion=champion.number if champion else None,
        facts=version.facts,
        report=store.path(version.artifact("report")) / "report.html",
    )


def _decide(version: ModelVersion, champion: ModelVersion | None, policy: PromotionPolicy) -> Decision:
    return decide_promotion(_candidate(version), _candidate(champion) if champion else None, policy)


def _candidate(version: ModelVersion) -> Candidate:
    facts = version.facts
    return Candidate(version.number, facts["accuracy"], facts["test_images"], facts["test_set"])


def report_model(store: Store, evaluation: ArtifactRef) -> ArtifactRef:
    """Draw and write the report of an evaluated model, as a web page and as markdown."""
    from digits import reports

    def write(directory: Path) -> None:
        report = _model_report(trace(store, evaluation))
        write_file(directory / "report.html", reports.as_html(report).encode())
        write_file(directory / "report.md", reports.as_markdown(report).encode())

    recipe = Recipe("report", {}, (evaluation,), code_version("digits.reports", libraries=()))
    return store.produce(recipe, write)


def _model_report(lineage: Lineage) -> "ModelReport":
    from digits.evaluation import Evaluation, overfitting
    from digits.reports import ModelReport, model_pictures

    evaluation = Evaluation.from_record(read_json(lineage.evaluation.file("evaluation.json")))
    history = read_json(lineage.model.file("model.json"))["history"]
    train, validation, test = (_samples(lineage.arrays, part) for part in ("train", "validation", "test"))
    facts = facts_of(lineage)
    check = overfitting(facts["validation_accuracy"], evaluation.accuracy, len(validation), len(test))
    findings = [finding["message"] for finding in read_json(lineage.arrays.file("arrays.json"))["findings"]]
    return ModelReport(
        title=f"{facts['architecture']} trained on {' + '.join(facts['datasets'])}",
        facts=_headline(facts),
        network=lineage.network.file("summary.txt").read_text("utf-8"),
        evaluation=evaluation,
        history=history,
        config={"model": lineage.network.config, "training": lineage.model.config, "arrays": lineage.arrays.config},
        lineage={**lineage.artifacts(), "dataset": [dataset.ref.digest for dataset in lineage.datasets]},
        findings=[check.sentence, *findings, *_attributions(lineage)],
        pictures=model_pictures(evaluation, history, train=(train.pixels, train.labels), test_pixels=test.pixels),
    )


def _headline(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Datasets": " + ".join(facts["datasets"]),
        "Network": facts["architecture"],
        "Epochs": facts["epochs"],
        "Training images": f"{facts['train_images']:,}",
    }


def _attributions(lineage: Lineage) -> list[str]:
    return [read_json(dataset.file("dataset.json"))["attribution"] for dataset in lineage.datasets]


def decided_report(store: Store, outcome: Outcome) -> str:
    """Give the markdown of a version's report, headed by what was decided on it."""
    version = Registry(store).version(outcome.version)
    report = store.open(version.artifact("report")).file("report.md").read_text("utf-8")
    verdict = "promoted to champion" if outcome.promoted else "not promoted"
    return "\n\n".join([f"**Version {outcome.version}: {verdict}.** {' '.join(outcome.reasons)}", report])
