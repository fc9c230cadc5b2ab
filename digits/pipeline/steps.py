"""Training steps: functions that take and return references to artifacts of the store.

A step returns the artifact of its recipe if the store has it; otherwise it computes and stores the artifact. Prefect
tasks call the steps.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from digits.data import datasets
from digits.data.arrays import (
    LABELS_FILE,
    SPLITS,
    Finding,
    Indices,
    LabelledArrays,
    drop_duplicates,
    join,
    locate_test_sets,
    oversample_own,
    split_validation,
)
from digits.data.checks import check_arrays, require_sound
from digits.data.config import ArraysConfig
from digits.data.labels import LabelLog, LabelSnapshot
from digits.errors import ModelError
from digits.images.formats import Mode
from digits.images.types import Labels, Pixels
from digits.model import calibration, drift
from digits.pipeline import recipes
from digits.pipeline.config import TrainingRun
from digits.pipeline.lineage import (
    Lineage,
    dataset_names,
    findings_of,
    load_samples,
    model_facts,
    read_json,
    trace_lineage,
)
from digits.progress import SILENT, Bar, Progress, shown
from digits.store.artifacts import Artifact, ArtifactRef, Recipe, Store
from digits.store.files import write_file
from digits.store.records import Record
from digits.store.registry import ModelFacts, ModelVersion, Registry
from digits.training.config import ModelConfig, TrainingConfig

if TYPE_CHECKING:
    from digits.model.metrics import Evaluation
    from digits.model.onnx_model import ModelOutput, Predictor
    from digits.outputs.model_report import ModelReport
    from digits.training.fit import History, Samples
    from digits.training.novelty import FitImages

MAX_EXPORT_DIFFERENCE = 1e-4
"""Largest allowed difference between a probability of the ONNX model and of the Keras model. Another order of float32
additions already causes differences of 1e-6."""
EXPORT_STEPS = 6
"""Steps of an export that its bar counts: conversion, comparison, and four of the out-of-distribution score."""
FULL_FIT_EPOCHS = 15
"""Epochs of a training from which on the out-of-distribution score is fitted to all images."""
logger = logging.getLogger(__name__)
NOVELTY_FILE = "novelty.npy"
"""File of an evaluation with the out-of-distribution score of each test image, if the model computes scores."""
DATASET_FILES = ("train_pixels", "train_labels", "test_pixels", "test_labels")


def download_dataset(
    store: Store, source: str, *, normalize: Mode = "auto", progress: Progress = SILENT
) -> ArtifactRef:
    """Download or read a dataset, verify and normalize it, and store it.

    Raises:
        DownloadError: if the dataset could not be downloaded from any of its routes.
        UsageError: if there is no such dataset.
    """
    reviewed = _reviewed(store, source)

    def write(directory: Path) -> None:
        data = datasets.load(
            source, downloads=store.downloads, normalize=normalize, progress=progress, reviewed=reviewed
        )
        for name in DATASET_FILES:
            np.save(directory / f"{name}.npy", getattr(data, name), allow_pickle=False)
        about = {"class_names": data.class_names, "attribution": datasets.attribution(source)}
        findings = [asdict(finding) for finding in data.findings]
        files = {side: data.files(side) if data.is_own else () for side in SPLITS}
        _write_json(directory / "dataset.json", {**about, "findings": findings, "files": files})

    identity = datasets.identify(source, reviewed=reviewed)
    return store.produce(recipes.dataset(source, identity, normalize), write)


def _reviewed(store: Store, source: str) -> LabelSnapshot | None:
    """Return the labels of the label log if the dataset is `reviewed`, else None."""
    return LabelLog(store.labels).snapshot() if source == datasets.REVIEWED else None


def drop_empty_reviewed(store: Store, run: TrainingRun) -> TrainingRun:
    """Return the run without the dataset `reviewed` if there are no labels yet and the run has other datasets."""
    others = tuple(name for name in run.datasets if name != datasets.REVIEWED)
    if others in ((), run.datasets) or LabelLog(store.labels).snapshot().labels:
        return run
    logger.info("%s: no image has been labelled yet; training without it", datasets.REVIEWED)
    return run.model_copy(update={"datasets": others})


def identify(store: Store, source: str) -> Record:
    """Return a record that changes if the content of a dataset changes; see `digits.data.datasets.identify`."""
    return datasets.identify(source, reviewed=_reviewed(store, source))


def prepare_arrays(
    store: Store, sources: Sequence[ArtifactRef], config: ArraysConfig, *, progress: Progress = SILENT
) -> ArtifactRef:
    """Join datasets, check them, split off validation images, and store memory-mappable arrays.

    For each of `train`, `validation` and `test` there are `pixels`, (N, height, width) uint8, and `labels`, (N,) uint8.
    The test images of each dataset are recorded as a test set with the dataset's name. The file `labels.csv` lists your
    own labelled images with their labels and parts. In `train`, they are repeated until they have the share
    `own_share`.

    Raises:
        DataError: if the datasets violate a limit of the configuration.
    """

    def write(directory: Path) -> None:
        opened = [store.open(source) for source in sources]
        joined = drop_duplicates([load_dataset(source) for source in opened])
        data = join(joined)
        findings = [*check_arrays(data, config), *data.findings]
        require_sound(findings)
        train, validation = split_validation(
            data.train_labels, fraction=config.validation_fraction or 0, seed=config.split_seed
        )
        own = _own_parts(
            data, {"train": train, "validation": validation, "test": np.arange(len(data.test_labels), dtype=np.intp)}
        )
        if own:
            _write_labels(directory / LABELS_FILE, own)
        is_own = np.array([bool(file) for file in data.files("train")], bool)
        train = oversample_own(train, is_own[train], share=config.own_share)
        parts = {
            "train": (data.train_pixels[train], data.train_labels[train]),
            "validation": (data.train_pixels[validation], data.train_labels[validation]),
            "test": (data.test_pixels, data.test_labels),
        }
        for name, (pixels, labels) in parts.items():
            np.save(directory / f"{name}_pixels.npy", pixels, allow_pickle=False)
            np.save(directory / f"{name}_labels.npy", labels, allow_pickle=False)
        about = {
            "class_names": data.class_names,
            "findings": [asdict(finding) for finding in findings],
            "test_sets": [asdict(one) for one in locate_test_sets(joined, dataset_names(opened))],
            "own": {"images": sum(map(len, own.values())), "rows": int(is_own[train].sum())},
        }
        _write_json(directory / "arrays.json", about)

    return store.produce(recipes.arrays(sources, config), _shown(progress, "preprocess", write))


def _own_parts(data: LabelledArrays, rows: Mapping[str, Indices]) -> dict[str, list[tuple[str, str]]]:
    """Return file and label of each of your own labelled images, by part; empty if there are none."""
    if not data.is_own:
        return {}
    found = {}
    for part, chosen in rows.items():
        side = "test" if part == "test" else "train"
        files, labels = data.files(side), data.labels(side)
        found[part] = [(files[row], data.class_names[labels[row]]) for row in chosen if files[row]]
    return found


def _write_labels(path: Path, own: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    lines = [f"{file},{label},{part}\n" for part, images in own.items() for file, label in images]
    path.write_text("sha256,label,part\n" + "".join(lines), "utf-8")


def starting_point(store: Store, config: TrainingConfig) -> ArtifactRef | None:
    """Return the model whose weights are the initial weights of a training; None for random weights.

    If the training should start from the champion but there is none, log a warning and return None.
    """
    if config.start == "random":
        return None
    champion = Registry(store).champion()
    if champion is None:
        logger.warning("there is no champion to start from; training from scratch")
        return None
    logger.info("the training starts from the champion, version %d", champion.number)
    return champion.artifact("model")


def build_network(  # noqa: PLR0913 - the arrays, the settings, and the receiver of progress
    store: Store,
    arrays: ArtifactRef,
    config: ModelConfig,
    *,
    seed: int,
    parent: ArtifactRef | None = None,
    progress: Progress = SILENT,
) -> ArtifactRef:
    """Build a network for the arrays, untrained or with the weights of `parent`, and store it with its summary.

    Raises:
        ModelError: if `parent` has another architecture or other sizes.
    """

    def write(directory: Path) -> None:
        from digits.training import networks

        opened = store.open(arrays)
        shape = np.load(opened.file("test_pixels.npy"), mmap_mode="r").shape[1:]
        classes = len(read_json(opened.file("arrays.json"))["class_names"])
        network = networks.build(config, input_shape=shape, classes=classes, seed=seed)
        if parent:
            networks.copy_fitted_weights(network, networks.load(store.open(parent).file("model.keras")))
        networks.save(network, directory / "network.keras")
        write_file(directory / "summary.txt", networks.summary(network).encode())

    recipe = recipes.network(arrays, config, seed=seed, parent=parent)
    return store.produce(recipe, _shown(progress, "build", write))


def train_network(  # noqa: PLR0913 - network, data, settings and callbacks
    store: Store,
    network: ArtifactRef,
    arrays: ArtifactRef,
    config: TrainingConfig,
    *,
    progress: Progress = SILENT,
    before_epoch: Callable[["History"], None] | None = None,
) -> ArtifactRef:
    """Train a network on the training arrays; resume an interrupted training after its last finished epoch.

    Raises:
        ModelError: if the training diverged.
        Exception: any exception raised by `before_epoch`, which ends the training; see `digits.training.fit.fit`.
    """
    from digits.training import fit, networks

    recipe = recipes.model(network, arrays, config)
    checkpoint = checkpoint_path(store, recipe)

    def write(directory: Path) -> None:
        opened = store.open(arrays)
        model = networks.load(store.open(network).file("network.keras"))
        history = fit.fit(
            model,
            load_samples(opened, "train"),
            load_samples(opened, "validation"),
            config,
            checkpoint=checkpoint,
            class_names=read_json(opened.file("arrays.json"))["class_names"],
            progress=progress,
            before_epoch=before_epoch,
        )
        networks.save(model, directory / "model.keras")
        _write_json(directory / "model.json", {"history": history, "weights_sha256": networks.weights_digest(model)})

    reference = store.produce(recipe, write)
    checkpoint.unlink(missing_ok=True)
    return reference


def checkpoint_path(store: Store, recipe: Recipe) -> Path:
    """Return the path of the checkpoint from which an interrupted training of a recipe resumes."""
    return store.work / f"train-{recipe.ref.digest}.npz"


def average_models(
    store: Store, members: Sequence[ArtifactRef], arrays: ArtifactRef, config: TrainingConfig
) -> ArtifactRef:
    """Return a model that averages the probabilities of trained networks; a single network is returned as it is.

    Its history is the mean of the histories of the networks. Only the validation metrics of the last epoch are those of
    the average model itself.
    """
    from digits.training import fit, networks

    if len(members) == 1:
        return members[0]

    def write(directory: Path) -> None:
        opened = [store.open(member) for member in members]
        model = networks.average([networks.load(member.file("model.keras")) for member in opened])
        histories = [read_json(member.file("model.json"))["history"] for member in opened]
        history = [fit.mean_metrics(epochs) for epochs in zip(*histories, strict=True)]
        history[-1] |= fit.measure_validation(model, load_samples(store.open(arrays), "validation"))
        networks.save(model, directory / "model.keras")
        _write_json(directory / "model.json", {"history": history, "weights_sha256": networks.weights_digest(model)})

    return store.produce(recipes.average(members, arrays, config), write)


def export_model(store: Store, model: ArtifactRef, arrays: ArtifactRef, *, progress: Progress = SILENT) -> ArtifactRef:
    """Export a model to ONNX, with a calibration and a novelty head fitted on the validation images.

    The exported network is compared with the Keras model on all test images, before a student is put in front of it.
    See `digits.model.calibration`, `digits.training.novelty` and `digits.training.cascade`.

    Raises:
        ModelError: if the class of any test image differs, or a probability differs by more than
            `MAX_EXPORT_DIFFERENCE`.
    """

    def write(directory: Path) -> None:
        with shown(progress, "export", EXPORT_STEPS) as bar:
            images = _write_export(store.open(model), store.open(arrays), directory, bar)
        _add_student(store.open(model), store.open(arrays), directory, images, progress)
        _write_reference(store, store.open(arrays), directory)

    return store.produce(recipes.onnx(model, arrays), write)


def fit_share(epochs: int) -> float:
    """Return the share of images to fit the out-of-distribution score to: a quick training gets a quick export."""
    return min(1.0, epochs / FULL_FIT_EPOCHS)


def _write_export(trained: Artifact, arrays: Artifact, directory: Path, bar: Bar) -> "FitImages | None":
    """Export the trained network with its calibration and score; return the images to which the score was fitted."""
    from digits.images.normalize import SPEC
    from digits.model.onnx_model import ONNX_FILE, load_predictor
    from digits.training import export, networks, novelty

    network = networks.load(trained.file("model.keras"))
    export.export_onnx(network, directory / ONNX_FILE)
    bar.advance(note="comparing predictions")
    test = load_samples(arrays, "test").pixels
    spec = {
        "class_names": read_json(arrays.file("arrays.json"))["class_names"],
        "input_shape": list(test.shape[1:]),
        "normalization": {**SPEC, "mode": arrays.config["normalize"]},
        "weights_sha256": read_json(trained.file("model.json"))["weights_sha256"],
    }
    _write_json(directory / "spec.json", spec)
    predictor = load_predictor(directory)
    expected = network.predict(test[..., np.newaxis].astype(np.float32), batch_size=500, verbose=0)
    check_export(expected, predictor.predict(test))
    validation = load_samples(arrays, "validation")
    _calibrate(directory, validation)
    train, seed = load_samples(arrays, "train").pixels, trained.config["seed"]
    share = fit_share(trained.config["epochs"])
    return novelty.add_novelty_output(
        directory / ONNX_FILE, train, validation.pixels, spec["class_names"], share=share, seed=seed, bar=bar
    )


def _add_student(
    trained: Artifact, arrays: Artifact, directory: Path, images: "FitImages | None", progress: Progress
) -> None:
    """Put a student in front of an exported network, if the settings of its training say so; calibrate both again."""
    from digits.model.onnx_model import ONNX_FILE, load_predictor
    from digits.training import cascade, distillation, fit

    config = TrainingConfig.model_validate(trained.config)
    train, validation = (load_samples(arrays, part) for part in ("train", "validation"))
    if not config.student_epochs or min(train.shape) < distillation.MIN_SIDE:
        return
    teacher = load_predictor(directory)
    names = teacher.model.class_names
    samples = fit.add_synthetic_digits(train, config, names)
    student = distillation.distil(teacher.predict, samples, config, classes=len(names), progress=progress)
    share = cascade.add_student(
        directory / ONNX_FILE,
        student,
        validation.pixels,
        images,
        temperature=teacher.model.temperature,
        seed=config.seed,
    )
    logger.info("the student answers %.1f %% of the validation images", 100 * share)
    _calibrate(directory, validation, student=share)


def _calibrate(directory: Path, validation: "Samples", **facts: Any) -> None:
    """Fit the calibration of an exported model on the validation images, and add it to its spec."""
    from digits.model.onnx_model import SPEC_FILE, load_predictor

    spec = {**read_json(directory / SPEC_FILE), **facts}
    spec.pop("calibration", None)
    _write_json(directory / SPEC_FILE, spec)
    measured = _calibration(load_predictor(directory).predict(validation.pixels), validation.labels)
    _write_json(directory / SPEC_FILE, {**spec, "calibration": measured})


def _write_reference(store: Store, arrays: Artifact, directory: Path) -> None:
    from digits.model.onnx_model import SPEC_FILE, load_predictor

    named = all(datasets.is_named(store.open(parent).config["source"]) for parent in arrays.parents)
    reference = _reference(load_predictor(directory), load_samples(arrays, "test").pixels, files_are_known=named)
    _write_json(directory / SPEC_FILE, {**read_json(directory / SPEC_FILE), "reference": reference})


def _calibration(y_prob: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Return the calibration, temperature and risk steps, fitted on the validation images."""
    temperature = calibration.fit_temperature(y_prob, labels)
    prob = calibration.apply_temperature(y_prob, temperature)
    steps = calibration.risk_steps(prob.max(axis=1), prob.argmax(axis=1) == labels)
    return {"temperature": temperature, "steps": steps}


def _reference(predictor: "Predictor", test: npt.NDArray[np.uint8], *, files_are_known: bool) -> drift.Reference:
    """Return the distribution of the features of the test images, against which drift is measured.

    Features of the image files (size, contrast) are included only if `files_are_known`: for published datasets, whose
    files all have the form of the test images.
    """
    answers = predictor.predict_with_novelty(test)
    values = drift.measure_images(test, answers.probabilities, answers.novelty)
    if files_are_known:
        count = len(test)
        size, levels = max(test.shape[1:]), test.max(axis=(1, 2))
        values = {**values, **drift.measure_files(np.full(count, size), np.zeros(count), levels)}
    return drift.fit_reference(values, classes=answers.probabilities.shape[1])


def check_export(expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> None:
    """Check that the predictions of an export are those of the Keras model.

    Args:
        expected: (N, classes) probabilities of the Keras model.
        found: (N, classes) probabilities of the export.

    Raises:
        ModelError: if the class of any image differs, or a probability differs by more than `MAX_EXPORT_DIFFERENCE`.
    """
    others = int((expected.argmax(axis=1) != found.argmax(axis=1)).sum())
    difference = float(np.abs(expected - found).max())
    if others or not difference <= MAX_EXPORT_DIFFERENCE:
        raise ModelError(
            f"the ONNX export differs from the Keras model: {others} test images get another class, and probabilities "
            f"differ by up to {difference:.1e}; expected no other class and at most {MAX_EXPORT_DIFFERENCE:.0e}. The "
            "model was not registered; check the installed versions of TensorFlow and ONNX Runtime"
        )


def evaluate_model(
    store: Store, exported: ArtifactRef, arrays: ArtifactRef, *, progress: Progress = SILENT
) -> ArtifactRef:
    """Evaluate an exported model on the test images; predictions use the exported model, too.

    Raises:
        ModelError: if the model has other classes, or takes images of another size.
    """
    from digits.model.onnx_model import load_predictor

    def write(directory: Path) -> None:
        opened = store.open(arrays)
        test, class_names = load_samples(opened, "test"), tuple(read_json(opened.file("arrays.json"))["class_names"])
        predictor = load_predictor(store.open(exported).path)
        evaluation, output = measure_model(predictor, test.pixels, test.labels, class_names=class_names)
        _write_json(directory / "evaluation.json", evaluation.as_record())
        np.save(directory / "y_prob.npy", output.probabilities, allow_pickle=False)
        if output.novelty is not None:
            np.save(directory / NOVELTY_FILE, output.novelty, allow_pickle=False)

    return store.produce(recipes.evaluation(exported, arrays), _shown(progress, "evaluate", write))


def measure_model(
    predictor: "Predictor", pixels: Pixels, labels: Labels, *, class_names: tuple[str, ...]
) -> tuple["Evaluation", "ModelOutput"]:
    """Return the metrics of a model on labelled images, and its output for them.

    Args:
        predictor: model to evaluate.
        pixels: (N, height, width) uint8 images in the form of the network's input.
        labels: (N,) uint8 class ids.
        class_names: names of the classes.

    Raises:
        ModelError: if the model has other classes, or takes images of another size.
    """
    from digits.model.metrics import evaluate

    if predictor.model.class_names != class_names:
        raise ModelError(
            f"the model has the classes {', '.join(predictor.model.class_names)}, but the test images have the classes "
            f"{', '.join(class_names)}; evaluate it on a dataset with its classes"
        )
    output = predictor.predict_with_novelty(pixels)
    return evaluate(labels, output.probabilities, class_names=class_names, novelty=output.novelty), output


def _shown(progress: Progress, label: str, write: Callable[[Path], None]) -> Callable[[Path], None]:
    """Return the function that writes an artifact with a progress bar, which is not shown if the artifact exists."""

    def write_shown(directory: Path) -> None:
        with shown(progress, label):
            write(directory)

    return write_shown


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1), "utf-8")


def load_dataset(artifact: Artifact) -> LabelledArrays:
    """Return the content of a dataset artifact, memory-mapped."""
    arrays = {name: np.load(artifact.file(f"{name}.npy"), mmap_mode="r", allow_pickle=False) for name in DATASET_FILES}
    about = read_json(artifact.file("dataset.json"))
    return LabelledArrays(
        **arrays,
        class_names=tuple(about["class_names"]),
        train_files=tuple(about["files"]["train"]),
        test_files=tuple(about["files"]["test"]),
        findings=tuple(Finding(**finding) for finding in about["findings"]),
    )


def register_model(store: Store, evaluation: ArtifactRef, report: ArtifactRef) -> tuple[ModelVersion, bool]:
    """Register an evaluated model as a model version; if a version has the same weights, that version is returned.

    Returns:
        The version, and whether it is new.
    """
    lineage = trace_lineage(store, evaluation)
    return Registry(store).register(
        artifacts={**lineage.artifacts(), report.kind: report.digest},
        weights_sha256=read_json(lineage.model.file("model.json"))["weights_sha256"],
        facts=model_facts(lineage),
    )


def report_model(store: Store, evaluation: ArtifactRef, *, progress: Progress = SILENT) -> ArtifactRef:
    """Write the report of an evaluated model as a web page and as markdown, and the history of its training as CSV."""
    from digits.outputs import model_report

    def write(directory: Path) -> None:
        report = _model_report(trace_lineage(store, evaluation))
        write_file(directory / "report.html", model_report.as_html(report).encode())
        write_file(directory / "report.md", model_report.as_markdown(report).encode())
        write_file(directory / "history.csv", model_report.history_csv(report.history).encode())

    return store.produce(recipes.report(evaluation), _shown(progress, "report", write))


def _model_report(lineage: Lineage) -> "ModelReport":
    from digits.model.metrics import Evaluation, check_overfitting
    from digits.outputs.model_report import ModelReport, model_pictures

    evaluation = Evaluation.from_record(read_json(lineage.evaluation.file("evaluation.json")))
    history = read_json(lineage.model.file("model.json"))["history"]
    train, validation, test = (load_samples(lineage.arrays, part) for part in ("train", "validation", "test"))
    facts = model_facts(lineage)
    check = check_overfitting(facts.validation_accuracy, evaluation.accuracy, len(validation), len(test))
    findings = sorted(findings_of(lineage.arrays.path), key=lambda finding: not finding.is_warning)
    return ModelReport(
        title=f"{facts.architecture} trained on {' + '.join(facts.datasets)}",
        facts=_headline(facts),
        network=lineage.network.file("summary.txt").read_text("utf-8"),
        evaluation=evaluation,
        history=history,
        config={"model": lineage.network.config, "training": lineage.model.config, "arrays": lineage.arrays.config},
        lineage={**lineage.artifacts(), "dataset": [dataset.ref.digest for dataset in lineage.datasets]},
        findings=[check.sentence, *(finding.sentence for finding in findings), *_attributions(lineage)],
        pictures=model_pictures(evaluation, history, train=(train.pixels, train.labels), test_pixels=test.pixels),
    )


def _headline(facts: ModelFacts) -> dict[str, Any]:
    sets = facts.test_sets
    return {
        "Datasets": " + ".join(facts.datasets),
        "Network": facts.architecture,
        "Epochs": facts.epochs,
        "Training images": f"{facts.train_images:,}",
        **({f"Test accuracy on {name}": f"{share:.2%}" for name, share in sets.items()} if len(sets) > 1 else {}),
        **own_headline(facts),
    }


def own_headline(facts: ModelFacts) -> dict[str, Any]:
    """Return the entry of a report about your own labelled images; empty if there are none."""
    if not facts.own_images:
        return {}
    repeated = f"{facts.own_share:.1%} of the training images, repetitions included"
    return {"Your own labelled images": f"{facts.own_images:,} images, {repeated}"}


def _attributions(lineage: Lineage) -> list[str]:
    return [read_json(dataset.file("dataset.json"))["attribution"] for dataset in lineage.datasets]
