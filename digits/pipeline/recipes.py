"""Recipes: identity of the artifact of each training step, known before the step runs.

A recipe has the settings, the parents and the code version of an artifact. Its digest is the name of the artifact.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from digits.data.config import ArraysConfig
from digits.images.formats import Mode
from digits.pipeline.config import TrainingRun
from digits.store.artifacts import ArtifactRef, Recipe
from digits.store.code_version import code_version
from digits.store.records import Record
from digits.training.config import ModelConfig, TrainingConfig

STEP_MODULES: Mapping[str, tuple[str, ...]] = {
    "dataset": ("digits.data.datasets",),
    "arrays": ("digits.data.arrays", "digits.data.checks", "digits.data.config"),
    "network": ("digits.training.networks",),
    "model": ("digits.training.fit",),
    "onnx": (
        "digits.training.networks",
        "digits.training.export",
        "digits.model.onnx_model",
        "digits.training.novelty",
        "digits.training.cascade",
        "digits.training.distillation",
        "digits.model.calibration",
        "digits.model.drift",
    ),
    "evaluation": ("digits.model.metrics", "digits.model.onnx_model"),
    "report": ("digits.outputs.model_report",),
}
"""Modules whose code determines each kind of artifact, in the order of the steps. The module of a step's settings is
among them, so a changed default or description leads to a new artifact of that step."""
KINDS = tuple(STEP_MODULES)


def code_of(kind: str) -> str:
    """Return the code version of a kind of artifact; that of reports ignores the versions of numeric libraries."""
    return code_version(*STEP_MODULES[kind], **({"libraries": ()} if kind == "report" else {}))


def unique_names(words: Iterable[str]) -> list[str]:
    """Return the words as distinct names; repeated ones get a number: `scans`, `scans-2`."""
    names, seen = [], Counter[str]()
    for name in words:
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names


def dataset(source: str, identity: Record, normalize: Mode) -> Recipe:
    """Return the recipe of a dataset.

    Args:
        source: name or path of the dataset; its last part is recorded as the name.
        identity: record that changes if the content of the dataset changes.
        normalize: normalization mode.
    """
    named = {**identity, "name": Path(source).absolute().name, "normalize": normalize}
    return Recipe("dataset", named, code=code_of("dataset"))


def arrays(sources: Sequence[ArtifactRef], config: ArraysConfig) -> Recipe:
    """Return the recipe of the arrays made from datasets."""
    return Recipe("arrays", config.model_dump(mode="json"), tuple(sources), code_of("arrays"))


def network(prepared: ArtifactRef, config: ModelConfig, *, seed: int, parent: ArtifactRef | None = None) -> Recipe:
    """Return the recipe of an untrained network, or of one with the weights of the trained model `parent`."""
    parents = (prepared, parent) if parent else (prepared,)
    settings = {**config.model_dump(mode="json"), "seed": seed}
    return Recipe("network", settings, parents, code_of("network"))


def model(network: ArtifactRef, prepared: ArtifactRef, config: TrainingConfig) -> Recipe:
    """Return the recipe of a trained model."""
    return Recipe("model", config.model_dump(mode="json"), (network, prepared), code_of("model"))


def average(members: Sequence[ArtifactRef], prepared: ArtifactRef, config: TrainingConfig) -> Recipe:
    """Return the recipe of the average of trained models."""
    return Recipe("model", config.model_dump(mode="json"), (*members, prepared), code_of("model"))


def onnx(fitted: ArtifactRef, prepared: ArtifactRef) -> Recipe:
    """Return the recipe of an exported model."""
    return Recipe("onnx", {}, (fitted, prepared), code_of("onnx"))


def evaluation(exported: ArtifactRef, prepared: ArtifactRef) -> Recipe:
    """Return the recipe of the evaluation of an exported model on the test images."""
    return Recipe("evaluation", {}, (exported, prepared), code_of("evaluation"))


def report(evaluated: ArtifactRef) -> Recipe:
    """Return the recipe of the report of an evaluated model."""
    return Recipe("report", {}, (evaluated,), code_of("report"))


def arrays_of_run(run: TrainingRun, identify: Callable[[str], Record]) -> ArtifactRef:
    """Return a reference to the arrays that a run would train on, without making them.

    Args:
        run: resolved training run.
        identify: function that returns a record which changes if the content of a dataset changes.
    """
    sources = [dataset(source, identify(source), run.arrays.normalize).ref for source in run.datasets]
    return arrays(sources, run.arrays).ref


def digest_of_run(prepared: ArtifactRef, run: TrainingRun) -> str:
    """Return the digest of a resolved run's data, configuration and code, without the promotion policy.

    For a run that starts from the champion's weights, the digest does not depend on which version is the champion.
    Otherwise each promotion would be a reason to train again on the same data.
    """
    networks = [network(prepared, run.model, seed=member.seed).ref for member in run.members()]
    fitted = [model(one, prepared, how).ref for one, how in zip(networks, run.members(), strict=True)]
    whole = fitted[0] if len(fitted) == 1 else average(fitted, prepared, run.training).ref
    return evaluation(onnx(whole, prepared).ref, prepared).ref.digest
