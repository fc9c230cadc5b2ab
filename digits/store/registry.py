"""The model registry: numbered versions, and an append-only log that says which of them is the champion.

    <root>/registry/versions/000001.json     one sealed record a version: its artifacts by digest, its metrics
    <root>/registry/promotions/000001.json   one sealed record a change of champion; the newest one counts
    <root>/registry/decisions/000001.json    one sealed record a decision whether a version becomes champion

Records are created exclusively and never overwritten, so the log is the audit trail.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from math import isnan, nan
from pathlib import Path
from typing import Any, Literal, Self

from digits.errors import CorruptArtifactError, RegistryError
from digits.store.artifacts import ArtifactRef, Store, reading, writing
from digits.store.decisions import ChangedImage, Decision
from digits.store.records import Record, create_record, digest_of, read_record

CHAMPION, CHALLENGER = "champion", "challenger"
MAX_VERSION_DIGITS = 9
"""Of a version's number: more can be no version, and no file name."""


@dataclass(frozen=True, eq=False)
class ModelFacts:
    """Facts on a model version that people read; what was not recorded is empty, a measure NaN.

    Args:
        datasets: names of the datasets that it was trained on.
        architecture: name of its network.
        epochs: number of epochs that it was trained for.
        train_images: number of training images, repeated ones counted as often as they were repeated.
        test_images: number of test images.
        test_set: digest of the test images and labels.
        test_sets: accuracy by name of the test set.
        validation_accuracy: accuracy on the validation images after the last epoch.
        accuracy: accuracy on all test images.
        loss: cross-entropy on them.
        ece: expected calibration error on them.
        rejected_share: share of them that is rejected.
        own_images: number of training images that were labelled here.
        own_share: share that these have of the training images, by being repeated.
    """

    datasets: tuple[str, ...] = ()
    architecture: str = ""
    epochs: int = 0
    train_images: int = 0
    test_images: int = 0
    test_set: str = ""
    test_sets: Mapping[str, float] = field(default_factory=dict)
    validation_accuracy: float = nan
    accuracy: float = nan
    loss: float = nan
    ece: float = nan
    rejected_share: float = nan
    own_images: int = 0
    own_share: float = nan

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelFacts) and self.as_record() == other.as_record()

    def __hash__(self) -> int:
        return hash(digest_of(self.as_record()))

    def as_record(self) -> Record:
        """Return what was recorded as JSON values."""
        record = {**vars(self), "datasets": list(self.datasets)}
        return {name: value for name, value in record.items() if _is_recorded(value)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read what `as_record` returned, in this version or another one."""
        known = {one.name: record[one.name] for one in fields(cls) if one.name in record}
        return cls(**{**known, "datasets": tuple(record.get("datasets", ()))})


def _is_recorded(value: object) -> bool:
    return not isnan(value) if isinstance(value, float) else bool(value)


@dataclass(frozen=True)
class ModelVersion:
    """A registered model.

    Args:
        number: 1, 2, 3, ...
        artifacts: its artifacts by kind: `model`, `onnx`, `arrays`, `evaluation`, `report`.
        weights_sha256: hash of its weights; a model with the same ones is the same version.
        facts: what people read of it.
        created_at: ISO 8601, UTC.
    """

    number: int
    artifacts: Mapping[str, str]
    weights_sha256: str
    facts: ModelFacts
    created_at: str = ""

    def as_record(self) -> Record:
        """Return the version as JSON values."""
        return {**vars(self), "facts": self.facts.as_record()}

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Read what `as_record` returned."""
        return cls(**{**record, "facts": ModelFacts.from_record(record["facts"])})

    def artifact(self, kind: str) -> ArtifactRef:
        """Give the reference of one of its artifacts."""
        return ArtifactRef(kind, self.artifacts[kind])


@dataclass(frozen=True)
class Promotion:
    """One change of champion."""

    number: int
    action: Literal["promote", "rollback"]
    version: int
    reasons: tuple[str, ...] = field(default=())
    created_at: str = ""


@dataclass(frozen=True)
class RecordedDecision:
    """A decision on a version, as it was made.

    Args:
        number: 1, 2, 3, ...
        version: that was decided on.
        champion: the version that it was compared with; None when there was none.
        recipe: names data, configuration and code of the training; see `digits.pipeline.recipes.digest_of_run`.
        policy: what was asked of the version.
        decision: verdict, reasons and figures.
        examples: images that changed their answer.
        created_at: ISO 8601, UTC.
    """

    number: int
    version: int
    champion: int | None
    recipe: str
    policy: Mapping[str, Any]
    decision: Decision
    examples: tuple[ChangedImage, ...] = ()
    created_at: str = ""

    def as_record(self) -> Record:
        """Return the decision as JSON values."""
        examples = [asdict(example) for example in self.examples]
        return {**vars(self), "decision": self.decision.as_record(), "examples": examples}

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Read what `as_record` returned."""
        examples = tuple(ChangedImage(**example) for example in record["examples"])
        return cls(**{**record, "decision": Decision.from_record(record["decision"]), "examples": examples})


def champion_stack(log: Sequence[Promotion]) -> list[int]:
    """Give the stack of champions, the present one last: a promotion pushes, a rollback pops down to its version."""
    stack: list[int] = []
    for entry in log:
        if entry.action == "promote":
            stack.append(entry.version)
            continue
        del stack[-1:]
        while stack and stack[-1] != entry.version:
            stack.pop()
    return stack


class Registry:
    """The model versions and promotions of an artifact store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._versions = store.registry / "versions"
        self._promotions = store.registry / "promotions"
        self._decisions = store.registry / "decisions"

    def versions(self) -> list[ModelVersion]:
        """Give every version, oldest first."""
        return [ModelVersion.from_record(record) for record in self._numbered(self._versions)]

    def promotions(self) -> list[Promotion]:
        """Give every change of champion, oldest first."""
        records = self._numbered(self._promotions)
        return [Promotion(**{**record, "reasons": tuple(record["reasons"])}) for record in records]

    def decisions(self) -> list[RecordedDecision]:
        """Give every decision, oldest first."""
        return [RecordedDecision.from_record(record) for record in self._numbered(self._decisions)]

    def find_decision(self, recipe: str, policy: Mapping[str, Any]) -> RecordedDecision | None:
        """Give the last decision on what a training of this recipe had made, under this policy."""
        same = [one for one in self.decisions() if (one.recipe, one.policy) == (recipe, policy)]
        return same[-1] if same else None

    def is_decided(self, number: int, policy: Mapping[str, Any]) -> bool:
        """Tell whether a version need not be decided on: it was under this policy, or has been champion."""
        was_champion = any(entry.version == number for entry in self.promotions())
        return was_champion or any(one.version == number and one.policy == policy for one in self.decisions())

    def champion(self) -> ModelVersion | None:
        """Give the version that batch prediction uses, if there is one."""
        stack = champion_stack(self.promotions())
        return self.version(stack[-1]) if stack else None

    def version(self, number: int) -> ModelVersion:
        """Give one version.

        Raises:
            RegistryError: there is none of that number.
        """
        path = _path(self._versions, number)
        if not path.is_file():
            known = [version.number for version in self.versions()]
            raise RegistryError(
                f"there is no model version {number} in {self._store.root}; versions: {known or 'none'}; "
                "`digits models` lists them, `digits train` makes one"
            )
        with reading(self._store.root):
            return ModelVersion.from_record(read_record(path))

    def artifact_path(self, reference: ArtifactRef) -> Path:
        """Give the directory of an artifact of a version."""
        return self._store.path(reference)

    def resolve(self, name: str) -> ModelVersion:
        """Give the version that `champion`, `challenger` or a number stands for; a challenger is the newest version.

        Raises:
            RegistryError: there is no such version, no champion yet, or no version newer than the champion.
        """
        if name == CHALLENGER:
            return self._challenger()
        if name != CHAMPION:
            return self.version(_number(name))
        champion = self.champion()
        if champion is None:
            raise RegistryError(
                f"there is no champion in {self._store.root}; run `digits train`, or `digits promote N`, "
                "or point --artifacts at the store that has one"
            )
        return champion

    def _challenger(self) -> ModelVersion:
        versions, champion = self.versions(), self.champion()
        if not versions or (champion and champion.number == versions[-1].number):
            raise RegistryError(
                f"there is no challenger in {self._store.root}: no version is newer than the champion; "
                "`digits models` lists the versions, of which any can be named by its number"
            )
        return versions[-1]

    def register(
        self, *, artifacts: Mapping[str, str], weights_sha256: str, facts: ModelFacts
    ) -> tuple[ModelVersion, bool]:
        """Number a model; one with the same weights keeps the number it has.

        Returns:
            The version, and whether it is new.
        """
        with self._store.lock("registry"):
            versions = self.versions()
            known = next((version for version in versions if version.weights_sha256 == weights_sha256), None)
            if known is not None:
                return known, False
            number = len(versions) + 1
            version = ModelVersion(number, dict(artifacts), weights_sha256, facts, _now())
            self._append(self._versions, number, version.as_record())
        return version, True

    def promote(self, number: int, *, reasons: Sequence[str]) -> Promotion:
        """Make a version the champion.

        Raises:
            RegistryError: there is no such version, or it is the champion already.
        """
        with self._store.lock("registry"):
            log = self.promotions()
            if champion_stack(log)[-1:] == [self.version(number).number]:
                raise RegistryError(f"version {number} is the champion already; nothing was changed")
            return self._log(log, "promote", number, reasons)

    def record_decision(
        self,
        number: int,
        decide: Callable[[ModelVersion | None], tuple[Decision, Sequence[ChangedImage]]],
        *,
        recipe: str,
        policy: Mapping[str, Any],
    ) -> RecordedDecision:
        """Let a function of the present champion decide on a version, promote it if it says so, and record that.

        No other process can change the champion between the decision and the promotion.

        Args:
            number: of the version.
            decide: gives the decision, and examples of images that changed their answer.
            recipe: of the training.
            policy: that it decides by.
        """
        with self._store.lock("registry"):
            champion = self.champion()
            decision, examples = decide(champion)
            if decision.promote:
                self._log(self.promotions(), "promote", self.version(number).number, decision.reasons)
            entry = RecordedDecision(
                number=len(self.decisions()) + 1,
                version=self.version(number).number,
                champion=champion.number if champion else None,
                recipe=recipe,
                policy=policy,
                decision=decision,
                examples=tuple(examples),
                created_at=_now(),
            )
            self._append(self._decisions, entry.number, entry.as_record())
        return entry

    def rollback(self, version: int | None = None, *, reason: str = "") -> Promotion:
        """Make a former champion the champion again.

        Args:
            version: which; None: the one before the present one.
            reason: why, in the user's words.

        Raises:
            RegistryError: there was none before, or this version was not among them.
        """
        with self._store.lock("registry"):
            log = self.promotions()
            *former, present = champion_stack(log) or [0]
            if not former:
                raise RegistryError(
                    f"there is no champion before the present one ({present or 'none'}) to roll back to; "
                    "`digits promote N` takes any version"
                )
            if version not in (None, *former):
                raise RegistryError(
                    f"version {version} is none of the champions before version {present}, which are "
                    f"{', '.join(map(str, former))}; `digits promote N` takes any version"
                )
            why = [f"rolled back from version {present}", *([reason] if reason else [])]
            return self._log(log, "rollback", version or former[-1], why)

    def _log(
        self, log: Sequence[Promotion], action: Literal["promote", "rollback"], version: int, reasons: Sequence[str]
    ) -> Promotion:
        entry = Promotion(len(log) + 1, action, version, tuple(reasons), _now())
        self._append(self._promotions, entry.number, {**vars(entry), "reasons": list(reasons)})
        return entry

    def _append(self, directory: Path, number: int, record: Mapping[str, Any]) -> None:
        with writing(self._store.root):
            created = create_record(_path(directory, number), record)
        if not created:
            raise RegistryError(f"{_path(directory, number)} was taken by another process; run the command again")

    def _numbered(self, directory: Path) -> list[Record]:
        """Read the records 1, 2, 3, ... of a directory; a gap means that one was lost."""
        with reading(self._store.root):
            count = sum(1 for _ in directory.glob("[0-9]*.json"))
            missing = [number for number in range(1, count + 1) if not _path(directory, number).is_file()]
            if missing:
                raise CorruptArtifactError(f"{_path(directory, missing[0])} is missing; restore it from a backup")
            return [read_record(_path(directory, number)) for number in range(1, count + 1)]


def _number(name: str) -> int:
    if not name.isascii() or not name.isdigit() or len(name) > MAX_VERSION_DIGITS:
        raise RegistryError(
            f"a model is `champion`, `challenger` or a version's number, found {name!r}; `digits models` lists them"
        )
    return int(name)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _path(directory: Path, number: int) -> Path:
    return directory / f"{number:06}.json"
