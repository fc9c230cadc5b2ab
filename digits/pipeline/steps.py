"""The steps of training, each a function over the artifact store: references in, a reference out.

A step whose recipe is in the store is found there; otherwise it is computed and stored. The Prefect tasks are calls of
these functions.
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
    SIDES,
    Finding,
    Indices,
    LabelledArrays,
    held_out,
    join,
    mixed,
    split_validation,
    without_repeats,
)
from digits.data.checks import check_arrays, require_sound
from digits.data.config import ArraysConfig
from digits.data.labels import Labelled, LabelLog
from digits.errors import ModelError
from digits.images.formats import Mode
from digits.model import calibration, drift
from digits.pipeline import recipes
from digits.pipeline.config import TrainingRun
from digits.progress import SILENT, Progress
from digits.store.artifacts import Artifact, ArtifactRef, Recipe, Store
from digits.store.files import write_file
from digits.store.records import Record
from digits.store.registry import ModelFacts, ModelVersion, Registry
from digits.training.config import ModelConfig, TrainingConfig

if TYPE_CHECKING:
    from digits.model.onnx_model import Predictor
    from digits.outputs.model_report import ModelReport
    from digits.training.fit import History
from digits.pipeline.lineage import Lineage, dataset_names, load_samples, model_facts, read_json, trace_lineage

MAX_EXPORT_DIFFERENCE = 1e-4
"""Largest difference between a probability of the ONNX model and of the Keras model; float32 sums differ by 1e-6."""
logger = logging.getLogger(__name__)
NOVELTY_FILE = "novelty.npy"
"""Of an evaluation, where the model can tell how novel an image is."""
DATASET_FILES = ("train_pixels", "train_labels", "test_pixels", "test_labels")


def download_dataset(
    store: Store, source: str, *, normalize: Mode = "auto", progress: Progress = SILENT
) -> ArtifactRef:
    """Have a named or local dataset in the store, verified by content and with its images in the network's form.

    Raises:
        DownloadError: every route to it failed.
        UsageError: there is no such source.
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
        files = {side: data.files(side) if data.is_own else () for side in SIDES}
        _write_json(directory / "dataset.json", {**about, "findings": findings, "files": files})

    identity = datasets.identify(source, reviewed=reviewed)
    return store.produce(recipes.dataset(source, identity, normalize), write)


def _reviewed(store: Store, source: str) -> Labelled | None:
    """Give the labels that people have given here, where the dataset is made of them."""
    return LabelLog(store.labels).labelled() if source == datasets.REVIEWED else None


def drop_empty_reviewed(store: Store, run: TrainingRun) -> TrainingRun:
    """Leave `reviewed` out of several datasets while nothing is labelled: a schedule may name it from the first."""
    others = tuple(name for name in run.datasets if name != datasets.REVIEWED)
    if others in ((), run.datasets) or LabelLog(store.labels).labelled().labels:
        return run
    logger.info("%s: no image has been labelled yet; training without it", datasets.REVIEWED)
    return run.model_copy(update={"datasets": others})


def identify(store: Store, source: str) -> Record:
    """Give what changes when the content of a dataset does; see `digits.data.datasets.identify`."""
    return datasets.identify(source, reviewed=_reviewed(store, source))


def prepare_arrays(store: Store, sources: Sequence[ArtifactRef], config: ArraysConfig) -> ArtifactRef:
    """Join datasets, check them, split off validation, mix, and store memory-mappable arrays.

    The arrays are `pixels`, (N, height, width) uint8, and `labels`, (N,) uint8, of `train`, `validation`, `test`; which
    test images came from which dataset is kept, by the datasets' names.
    Images that were labelled here are listed with their labels in `labels.csv`, and repeated in `train` alone.

    Raises:
        DataError: the check found something past the limits of the configuration.
    """

    def write(directory: Path) -> None:
        opened = [store.open(source) for source in sources]
        joined = without_repeats([_labelled_arrays(source) for source in opened])
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
        train = mixed(train, is_own[train], share=config.own_share)
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
            "test_sets": [asdict(one) for one in held_out(joined, dataset_names(opened))],
            "own": {"images": sum(map(len, own.values())), "rows": int(is_own[train].sum())},
        }
        _write_json(directory / "arrays.json", about)

    return store.produce(recipes.arrays(sources, config), write)


def _own_parts(data: LabelledArrays, rows: Mapping[str, Indices]) -> dict[str, list[tuple[str, str]]]:
    """Give file and label of the images that were labelled here, by part; nothing where none was."""
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
    """Give the fitted model that a training goes on from; None for one that begins anew.

    Where there is no champion to go on from, that is logged, and the training begins anew.
    """
    if config.start == "anew":
        return None
    champion = Registry(store).champion()
    if champion is None:
        logger.warning("there is no champion to start from: the training begins anew")
        return None
    logger.info("the training starts from the champion, version %d", champion.number)
    return champion.artifact("model")


def build_network(
    store: Store, arrays: ArtifactRef, config: ModelConfig, *, seed: int, parent: ArtifactRef | None = None
) -> ArtifactRef:
    """Build a network that fits the arrays, with its summary: untrained, or with the weights of a fitted one.

    Raises:
        ModelError: the fitted one is another network.
    """
    from digits.training import networks

    def write(directory: Path) -> None:
        opened = store.open(arrays)
        shape = np.load(opened.file("test_pixels.npy"), mmap_mode="r").shape[1:]
        classes = len(read_json(opened.file("arrays.json"))["class_names"])
        network = networks.build(config, input_shape=shape, classes=classes, seed=seed)
        if parent:
            networks.take_weights(network, networks.load(store.open(parent).file("model.keras")))
        networks.save(network, directory / "network.keras")
        write_file(directory / "summary.txt", networks.summary(network).encode())

    return store.produce(recipes.network(arrays, config, seed=seed, parent=parent), write)


def train_network(  # noqa: PLR0913 - what is fitted to what, how, and who watches
    store: Store,
    network: ArtifactRef,
    arrays: ArtifactRef,
    config: TrainingConfig,
    *,
    progress: Progress = SILENT,
    before_epoch: Callable[["History"], None] | None = None,
) -> ArtifactRef:
    """Fit a network to the training arrays; a run that was killed goes on from its last finished epoch.

    Raises:
        ModelError: the training diverged.
        Exception: what `before_epoch` raises, as `training.fit` has it.
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
    """Give the file from which the fit of a recipe goes on."""
    return store.work / f"train-{recipe.ref.digest}.npz"


def average_models(
    store: Store, members: Sequence[ArtifactRef], arrays: ArtifactRef, config: TrainingConfig
) -> ArtifactRef:
    """Average the probabilities of fitted networks in one model; a single one is given back itself.

    Its history is the mean of the members', but for the last epoch's validation, which is the average's own.
    """
    from digits.training import fit, networks

    if len(members) == 1:
        return members[0]

    def write(directory: Path) -> None:
        opened = [store.open(member) for member in members]
        model = networks.average([networks.load(member.file("model.keras")) for member in opened])
        histories = [read_json(member.file("model.json"))["history"] for member in opened]
        history = [fit.mean_of(epochs) for epochs in zip(*histories, strict=True)]
        history[-1] |= fit.measure(model, load_samples(store.open(arrays), "validation"))
        networks.save(model, directory / "model.keras")
        _write_json(directory / "model.json", {"history": history, "weights_sha256": networks.weights_digest(model)})

    return store.produce(recipes.average(members, arrays, config), write)


def export_model(store: Store, model: ArtifactRef, arrays: ArtifactRef) -> ArtifactRef:
    """Export a model to ONNX with what makes it honest, fitted on validation images; see `calibration` and `novelty`.

    It is checked on the whole test set that the network says what Keras says.

    Raises:
        ModelError: another class for any test image, or a probability further off than `MAX_EXPORT_DIFFERENCE`.
    """
    from digits.images import normalize as normalize_module
    from digits.model.onnx_model import ONNX_FILE, load_predictor
    from digits.training import export, networks, novelty

    def write(directory: Path) -> None:
        opened, trained = store.open(arrays), store.open(model)
        network = networks.load(trained.file("model.keras"))
        export.export_onnx(network, directory / "model.onnx")
        test = load_samples(opened, "test").pixels
        spec = {
            "class_names": read_json(opened.file("arrays.json"))["class_names"],
            "input_shape": list(test.shape[1:]),
            "normalization": {**normalize_module.SPEC, "mode": opened.config["normalize"]},
            "weights_sha256": read_json(trained.file("model.json"))["weights_sha256"],
        }
        _write_json(directory / "spec.json", spec)
        predictor = load_predictor(directory)
        expected = network.predict(test[..., np.newaxis].astype(np.float32), batch_size=500, verbose=0)
        check_export(expected, predictor.predict(test))
        validation = load_samples(opened, "validation")
        measured = _calibration(predictor.predict(validation.pixels), validation.labels)
        spec |= {"calibration": measured}
        _write_json(directory / "spec.json", spec)
        train = load_samples(opened, "train")
        seed = trained.config["seed"]
        novelty.add_novelty(directory / ONNX_FILE, train.pixels, validation.pixels, spec["class_names"], seed=seed)
        named = all(datasets.is_named(store.open(parent).config["source"]) for parent in opened.parents)
        reference = _reference(load_predictor(directory), test, files_are_known=named)
        _write_json(directory / "spec.json", {**spec, "reference": reference})

    return store.produce(recipes.onnx(model, arrays), write)


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
    """Measure the exported model, which is what prediction runs, on the test images.

    Raises:
        ModelError: it has other classes, or takes images of another size.
    """
    from digits.model.metrics import evaluate
    from digits.model.onnx_model import load_predictor

    def write(directory: Path) -> None:
        opened = store.open(arrays)
        test, class_names = load_samples(opened, "test"), tuple(read_json(opened.file("arrays.json"))["class_names"])
        predictor = load_predictor(store.open(exported).path)
        if predictor.model.class_names != class_names:
            raise ModelError(f"its classes are {predictor.model.class_names}, those of the test images {class_names}")
        y_prob, novelties = predictor.answer(test.pixels)
        evaluation = evaluate(test.labels, y_prob, class_names=class_names, novelty=novelties)
        _write_json(directory / "evaluation.json", evaluation.as_record())
        np.save(directory / "y_prob.npy", y_prob, allow_pickle=False)
        if novelties is not None:
            np.save(directory / NOVELTY_FILE, novelties, allow_pickle=False)

    return store.produce(recipes.evaluation(exported, arrays), write)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1), "utf-8")


def _labelled_arrays(artifact: Artifact) -> LabelledArrays:
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
    """Give the evaluated model a version number; the same weights keep the number they have.

    Returns:
        The version, and whether it is new.
    """
    lineage = trace_lineage(store, evaluation)
    return Registry(store).register(
        artifacts={**lineage.artifacts(), report.kind: report.digest},
        weights_sha256=read_json(lineage.model.file("model.json"))["weights_sha256"],
        facts=model_facts(lineage),
    )


def report_model(store: Store, evaluation: ArtifactRef) -> ArtifactRef:
    """Draw and write the report of an evaluated model, as a web page and as markdown."""
    from digits.outputs import model_report

    def write(directory: Path) -> None:
        report = _model_report(trace_lineage(store, evaluation))
        write_file(directory / "report.html", model_report.as_html(report).encode())
        write_file(directory / "report.md", model_report.as_markdown(report).encode())

    return store.produce(recipes.report(evaluation), write)


def _model_report(lineage: Lineage) -> "ModelReport":
    from digits.model.metrics import Evaluation, overfitting
    from digits.outputs.model_report import ModelReport, model_pictures

    evaluation = Evaluation.from_record(read_json(lineage.evaluation.file("evaluation.json")))
    history = read_json(lineage.model.file("model.json"))["history"]
    train, validation, test = (load_samples(lineage.arrays, part) for part in ("train", "validation", "test"))
    facts = model_facts(lineage)
    check = overfitting(facts.validation_accuracy, evaluation.accuracy, len(validation), len(test))
    findings = [finding["message"] for finding in read_json(lineage.arrays.file("arrays.json"))["findings"]]
    return ModelReport(
        title=f"{facts.architecture} trained on {' + '.join(facts.datasets)}",
        facts=_headline(facts),
        network=lineage.network.file("summary.txt").read_text("utf-8"),
        evaluation=evaluation,
        history=history,
        config={"model": lineage.network.config, "training": lineage.model.config, "arrays": lineage.arrays.config},
        lineage={**lineage.artifacts(), "dataset": [dataset.ref.digest for dataset in lineage.datasets]},
        findings=[check.sentence, *findings, *_attributions(lineage)],
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
    if not facts.own_images:
        return {}
    repeated = f"{facts.own_share:.1%} of the training images, by being repeated"
    return {"Labelled here": f"{facts.own_images:,} images; {repeated}"}


def _attributions(lineage: Lineage) -> list[str]:
    return [read_json(dataset.file("dataset.json"))["attribution"] for dataset in lineage.datasets]
