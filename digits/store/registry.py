"""Model registry: numbered model versions, and append-only logs of promotions and promotion decisions.

    <root>/registry/versions/000001.json     one sealed record per version: its artifacts by digest, its metrics
    <root>/registry/promotions/000001.json   one sealed record per change of champion; the newest one is in effect
    <root>/registry/decisions/000001.json    one sealed record per decision whether to promote a version

Records are never overwritten, so the logs are an audit trail.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from math import isnan, nan
from pathlib import Path
from typing import Any, Literal, Self

from digits.errors import CorruptArtifactError, RegistryError
from digits.store.artifacts import ArtifactRef, Store, reading, writing
from digits.store.author import UNKNOWN, Author, this_author
from digits.store.decisions import ChangedImage, Decision
from digits.store.records import Record, create_record, digest_of, read_record

CHAMPION, CHALLENGER = "champion", "challenger"
"""Names of the version that prediction uses, and of the newest version if it is not the champion."""
MAX_VERSION_DIGITS = 9
"""Largest number of digits of a version's number; a longer number would not fit into a file name."""


@dataclass(frozen=True, eq=False)
class ModelFacts:
    """Facts about a model version, for display. A fact that was not recorded is empty, 0 or NaN.

    Args:
        datasets: names of the training datasets.
        architecture: name of the network.
        epochs: number of training epochs.
        train_images: number of training images, counting each repetition.
        test_images: number of test images.
        test_set: digest of the test images and labels.
        test_sets: accuracy by name of the test set.
        validation_accuracy: accuracy on the validation images after the last epoch.
        accuracy: accuracy on all test images.
        loss: cross-entropy on all test images.
        ece: expected calibration error on all test images.
        rejected_share: share of the test images that the model rejects as no digit.
        own_images: number of training images that come from the users' own labels.
        own_share: share of the training images, counting each repetition, that come from the users' own labels.
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
        """Return the recorded facts as JSON values."""
        record = {**vars(self), "datasets": list(self.datasets)}
        return {name: value for name, value in record.items() if _is_recorded(value)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Return the facts that a record of `as_record` holds; facts unknown to this version of Digits are ignored."""
        known = {one.name: record[one.name] for one in fields(cls) if one.name in record}
        return cls(**{**known, "datasets": tuple(record.get("datasets", ()))})


def _is_recorded(value: object) -> bool:
    return not isnan(value) if isinstance(value, float) else bool(value)


@dataclass(frozen=True)
class ModelVersion:
    """Registered model.

    Args:
        number: number of the version: 1, 2, 3, ...
        artifacts: digests of its artifacts by kind: `model`, `onnx`, `arrays`, `evaluation`, `report`.
        weights_sha256: hash of its weights, which identifies it, because no weights are registered twice.
        facts: facts for display.
        created_at: time of registration, ISO 8601 in UTC.
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
        """Return the version that a record of `as_record` holds."""
        return cls(**{**record, "facts": ModelFacts.from_record(record["facts"])})

    def artifact(self, kind: str) -> ArtifactRef:
        """Return the reference to its artifact of a kind."""
        return ArtifactRef(kind, self.artifacts[kind])


@dataclass(frozen=True)
class Promotion:
    """Change of champion.

    Args:
        number: number of the entry in the log: 1, 2, 3, ...
        action: kind of change.
        version: number of the version that became champion.
        reasons: reasons for the change, one sentence each.
        created_at: time of the change, ISO 8601 in UTC.
        by: author of the change.
    """

    number: int
    action: Literal["promote", "rollback"]
    version: int
    reasons: tuple[str, ...] = field(default=())
    created_at: str = ""
    by: Author = UNKNOWN

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Return the change that a record of `as_record` holds; earlier versions of Digits recorded no author."""
        return cls(**{**record, "reasons": tuple(record["reasons"]), "by": Author(**record.get("by", {}))})

    def as_record(self) -> Record:
        """Return the change as JSON values."""
        return {**vars(self), "reasons": list(self.reasons), "by": dict(vars(self.by))}


@dataclass(frozen=True)
class RecordedDecision:
    """Promotion decision in the registry's log.

    Args:
        number: number of the entry in the log: 1, 2, 3, ...
        version: number of the version that was decided on.
        champion: number of the champion that it was compared with; None if there was no champion.
        recipe: digest of the training's data, configuration and code; see `digits.pipeline.recipes.digest_of_run`.
        policy: promotion policy as JSON values.
        decision: verdict, reasons and measurements.
        examples: test images on which the two versions differ.
        created_at: time of the decision, ISO 8601 in UTC.
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
        """Return the entry as JSON values."""
        examples = [asdict(example) for example in self.examples]
        return {**vars(self), "decision": self.decision.as_record(), "examples": examples}

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Return the entry that a record of `as_record` holds."""
        examples = tuple(ChangedImage(**example) for example in record["examples"])
        return cls(**{**record, "decision": Decision.from_record(record["decision"]), "examples": examples})


def champion_stack(log: Sequence[Promotion]) -> list[int]:
    """Return the stack of champions, the current one last.

    A promotion adds its version to the stack. A rollback removes the current champion, and those before it up to the
    version that becomes champion again.

    Args:
        log: all changes of champion, oldest first.
    """
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
    """Registry of the model versions and promotions in an artifact store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._versions = store.registry / "versions"
        self._promotions = store.registry / "promotions"
        self._decisions = store.registry / "decisions"

    def versions(self) -> list[ModelVersion]:
        """Return all versions, oldest first."""
        return [ModelVersion.from_record(record) for record in self._numbered(self._versions)]

    def promotions(self) -> list[Promotion]:
        """Return all changes of champion, oldest first."""
        return [Promotion.from_record(record) for record in self._numbered(self._promotions)]

    def decisions(self) -> list[RecordedDecision]:
        """Return all promotion decisions, oldest first."""
        return [RecordedDecision.from_record(record) for record in self._numbered(self._decisions)]

    def find_decision(self, recipe: str, policy: Mapping[str, Any]) -> RecordedDecision | None:
        """Return the newest decision on a training run with this recipe, under this policy, or None."""
        same = [one for one in self.decisions() if (one.recipe, one.policy) == (recipe, policy)]
        return same[-1] if same else None

    def is_decided(self, number: int, policy: Mapping[str, Any]) -> bool:
        """Return whether a version has been decided on under this policy, or has been champion."""
        was_champion = any(entry.version == number for entry in self.promotions())
        return was_champion or any(one.version == number and one.policy == policy for one in self.decisions())

    def champion(self) -> ModelVersion | None:
        """Return the champion, the version that prediction uses; None if no version was ever promoted."""
        stack = champion_stack(self.promotions())
        return self.version(stack[-1]) if stack else None

    def version(self, number: int) -> ModelVersion:
        """Return the version with a number.

        Raises:
            RegistryError: if there is no such version.
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
        """Return the directory of an artifact of a version."""
        return self._store.path(reference)

    def resolve(self, name: str) -> ModelVersion:
        """Return the version that a name stands for.

        Args:
            name: `champion`, a version's number, or `challenger`: the newest version, if it is not the champion.

        Raises:
            RegistryError: if there is no such version, or the name is none of these.
        """
        if name == CHALLENGER:
            return self._challenger()
        if name != CHAMPION:
            return self.version(_number(name))
        champion = self.champion()
        if champion is None:
            raise RegistryError(
                f"there is no champion in {self._store.root}; run `digits train` or `digits promote N`, "
                "or name an artifact root that has one with --artifacts"
            )
        return champion

    def _challenger(self) -> ModelVersion:
        versions, champion = self.versions(), self.champion()
        if not versions or (champion and champion.number == versions[-1].number):
            raise RegistryError(
                f"there is no challenger in {self._store.root}: no version is newer than the champion; "
                "name a version by its number, `digits models` lists them"
            )
        return versions[-1]

    def register(
        self, *, artifacts: Mapping[str, str], weights_sha256: str, facts: ModelFacts
    ) -> tuple[ModelVersion, bool]:
        """Register a model under the next number, unless a version has the same weights.

        Args:
            artifacts: digests of the model's artifacts by kind.
            weights_sha256: hash of its weights.
            facts: facts for display.

        Returns:
            The new version and True, or the existing version with the same weights and False.

        Raises:
            RegistryError: if another process wrote a version with the same number.
            StoreError: if the store cannot be read or written.
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

        Args:
            number: number of the version.
            reasons: reasons to record.

        Raises:
            RegistryError: if there is no such version, or it is already the champion.
        """
        with self._store.lock("registry"):
            log = self.promotions()
            if champion_stack(log)[-1:] == [self.version(number).number]:
                raise RegistryError(f"version {number} is already the champion; nothing was changed")
            return self._log(log, "promote", number, reasons)

    def record_decision(
        self,
        number: int,
        decide: Callable[[ModelVersion | None], tuple[Decision, Sequence[ChangedImage]]],
        *,
        recipe: str,
        policy: Mapping[str, Any],
    ) -> RecordedDecision:
        """Decide whether to promote a version, record the decision, and promote the version if so decided.

        The registry is locked, so that the champion does not change between the decision and the promotion.

        Args:
            number: number of the version to decide on.
            decide: function from the current champion, None if there is none, to the decision and to examples of test
                images on which the two versions differ.
            recipe: digest of the training's data, configuration and code.
            policy: promotion policy as JSON values.

        Raises:
            RegistryError: if there is no such version.
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

    def roll_back(self, version: int | None = None, *, reason: str = "") -> Promotion:
        """Make a former champion the champion again.

        Args:
            version: number of the former champion; None for the one before the current champion.
            reason: reason to record, in the user's words.

        Raises:
            RegistryError: if there is no former champion, or the version is not a former champion.
        """
        with self._store.lock("registry"):
            log = self.promotions()
            *former, current = champion_stack(log) or [0]
            if not former:
                raise RegistryError(
                    f"there is no champion before the current one ({current or 'none'}) to roll back to; "
                    "`digits promote N` promotes any version"
                )
            if version not in (None, *former):
                raise RegistryError(
                    f"version {version} is none of the champions before version {current}, which are "
                    f"{', '.join(map(str, former))}; `digits promote N` promotes any version"
                )
            reasons = [f"rolled back from version {current}", *([reason] if reason else [])]
            return self._log(log, "rollback", version or former[-1], reasons)

    def _log(
        self, log: Sequence[Promotion], action: Literal["promote", "rollback"], version: int, reasons: Sequence[str]
    ) -> Promotion:
        entry = Promotion(len(log) + 1, action, version, tuple(reasons), _now(), this_author())
        self._append(self._promotions, entry.number, entry.as_record())
        return entry

    def _append(self, directory: Path, number: int, record: Mapping[str, Any]) -> None:
        with writing(self._store.root):
            created = create_record(_path(directory, number), record)
        if not created:
            raise RegistryError(f"{_path(directory, number)} was written by another process; run the command again")

    def _numbered(self, directory: Path) -> list[Record]:
        """Return the records 1, 2, 3, ... of a directory. A missing number is an error, because a record was lost."""
        with reading(self._store.root):
            count = sum(1 for _ in directory.glob("[0-9]*.json"))
            missing = [number for number in range(1, count + 1) if not _path(directory, number).is_file()]
            if missing:
                raise CorruptArtifactError(f"{_path(directory, missing[0])} is missing; restore it from a backup")
            return [read_record(_path(directory, number)) for number in range(1, count + 1)]


def _number(name: str) -> int:
    if not name.isascii() or not name.isdigit() or len(name) > MAX_VERSION_DIGITS:
        raise RegistryError(
            f"expected `champion`, `challenger` or a version's number, found {name!r}; `digits models` lists versions"
        )
    return int(name)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _path(directory: Path, number: int) -> Path:
    return directory / f"{number:06}.json"
