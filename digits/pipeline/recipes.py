"""What each step of training makes its artifact from: the recipes, which can be told before anything is computed."""

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
        "digits.model.calibration",
        "digits.model.drift",
    ),
    "evaluation": ("digits.model.metrics", "digits.model.onnx_model"),
    "report": ("digits.outputs.model_report",),
}
"""The modules that make each kind of artifact, in the order in which they are made from each other."""
KINDS = tuple(STEP_MODULES)


def code_of(kind: str) -> str:
    """Give the version of the code that makes a kind of artifact; numbers in a report come from elsewhere."""
    return code_version(*STEP_MODULES[kind], **({"libraries": ()} if kind == "report" else {}))


def unique_names(words: Iterable[str]) -> list[str]:
    """Have each of several names be another one: `scans`, `scans-2`."""
    names, seen = [], Counter[str]()
    for name in words:
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names


def dataset(source: str, identity: Record, normalize: Mode) -> Recipe:
    """Of a named or local dataset, whose `identity` changes when its content does; people's name for it is kept."""
    named = {**identity, "name": Path(source).absolute().name, "normalize": normalize}
    return Recipe("dataset", named, code=code_of("dataset"))


def arrays(sources: Sequence[ArtifactRef], config: ArraysConfig) -> Recipe:
    """Of datasets that are joined, checked and split."""
    return Recipe("arrays", config.model_dump(mode="json"), tuple(sources), code_of("arrays"))


def network(prepared: ArtifactRef, config: ModelConfig, *, seed: int, parent: ArtifactRef | None = None) -> Recipe:
    """Of an untrained network, or one with the weights of a fitted `parent`."""
    parents = (prepared, parent) if parent else (prepared,)
    settings = {**config.model_dump(mode="json"), "seed": seed}
    return Recipe("network", settings, parents, code_of("network"))


def model(network: ArtifactRef, prepared: ArtifactRef, config: TrainingConfig) -> Recipe:
    """Of a network that is fitted."""
    return Recipe("model", config.model_dump(mode="json"), (network, prepared), code_of("model"))


def average(members: Sequence[ArtifactRef], prepared: ArtifactRef, config: TrainingConfig) -> Recipe:
    """Of fitted networks that are averaged."""
    return Recipe("model", config.model_dump(mode="json"), (*members, prepared), code_of("model"))


def onnx(fitted: ArtifactRef, prepared: ArtifactRef) -> Recipe:
    """Of an exported model."""
    return Recipe("onnx", {}, (fitted, prepared), code_of("onnx"))


def evaluation(exported: ArtifactRef, prepared: ArtifactRef) -> Recipe:
    """Of what an exported model does on test images."""
    return Recipe("evaluation", {}, (exported, prepared), code_of("evaluation"))


def report(evaluated: ArtifactRef) -> Recipe:
    """Of the report of an evaluated model."""
    return Recipe("report", {}, (evaluated,), code_of("report"))


def arrays_of_run(run: TrainingRun, identify: Callable[[str], Record]) -> ArtifactRef:
    """Tell which arrays a run would be made from, without making them.

    Args:
        run: resolved.
        identify: gives what changes when the content of a dataset does.
    """
    sources = [dataset(source, identify(source), run.arrays.normalize).ref for source in run.datasets]
    return arrays(sources, run.arrays).ref


def digest_of_run(prepared: ArtifactRef, run: TrainingRun) -> str:
    """Name what a run is about: data, configuration and code, but not the policy of promotion; of a resolved run.

    A run that starts from the champion has the same name whoever that is: or else each promotion would be a reason to
    train once more on the same data.
    """
    networks = [network(prepared, run.model, seed=member.seed).ref for member in run.members()]
    fitted = [model(one, prepared, how).ref for one, how in zip(networks, run.members(), strict=True)]
    whole = fitted[0] if len(fitted) == 1 else average(fitted, prepared, run.training).ref
    return evaluation(onnx(whole, prepared).ref, prepared).ref.digest
