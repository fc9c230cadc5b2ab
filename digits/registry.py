"""The model registry: numbered versions, and an append-only log that says which of them is the champion.

    <root>/registry/versions/000001.json     one sealed record a version: its artifacts by digest, its metrics
    <root>/registry/promotions/000001.json   one sealed record a change of champion; the newest one counts

Records are created exclusively and never overwritten, so the log is the audit trail.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from digits.errors import CorruptArtifactError, RegistryError
from digits.promotion import Decision
from digits.records import Record, create_record, read_record
from digits.store import ArtifactRef, Store, reading, writing

CHAMPION = "champion"
MAX_DIGITS = 9
"""Of a version's number: more can be no version, and no file name."""


@dataclass(frozen=True)
class ModelVersion:
    """A registered model.

    Args:
        number: 1, 2, 3, ...
        artifacts: its artifacts by kind: `model`, `onnx`, `arrays`, `evaluation`, `report`.
        weights_sha256: hash of its weights; a model with the same ones is the same version.
        facts: what people read: datasets, architecture, epochs, metrics.
        created_at: ISO 8601, UTC.
    """

    number: int
    artifacts: Mapping[str, str]
    weights_sha256: str
    facts: Mapping[str, Any]
    created_at: str = ""

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


def champions(log: Sequence[Promotion]) -> list[int]:
    """Give the stack of champions, the present one last: a promotion pushes, a rollback pops."""
    stack: list[int] = []
    for entry in log:
        if entry.action == "promote":
            stack.append(entry.version)
        elif stack:
            stack.pop()
    return stack


class Registry:
    """The model versions and promotions of an artifact store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._versions = store.root / "registry" / "versions"
        self._promotions = store.root / "registry" / "promotions"

    def versions(self) -> list[ModelVersion]:
        """Give every version, oldest first."""
        return [ModelVersion(**record) for record in self._numbered(self._versions)]

    def promotions(self) -> list[Promotion]:
        """Give every change of champion, oldest first."""
        records = self._numbered(self._promotions)
        return [Promotion(**{**record, "reasons": tuple(record["reasons"])}) for record in records]

    def champion(self) -> ModelVersion | None:
        """Give the version that batch prediction uses, if there is one."""
        stack = champions(self.promotions())
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
            return ModelVersion(**read_record(path))

    def place(self, reference: ArtifactRef) -> Path:
        """Give the directory of an artifact of a version."""
        return self._store.path(reference)

    def resolve(self, name: str) -> ModelVersion:
        """Give the version that `champion` or a number stands for.

        Raises:
            RegistryError: there is no such version, or no champion yet.
        """
        if name != CHAMPION:
            return self.version(_number(name))
        champion = self.champion()
        if champion is None:
            raise RegistryError(
                f"there is no champion in {self._store.root}; run `digits train`, or `digits promote N`, "
                "or point --artifacts at the store that has one"
            )
        return champion

    def register(
        self, *, artifacts: Mapping[str, str], weights_sha256: str, facts: Mapping[str, Any]
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
            version = ModelVersion(number, dict(artifacts), weights_sha256, dict(facts), _now())
            self._append(self._versions, number, vars(version))
        return version, True

    def promote(self, number: int, *, reasons: Sequence[str]) -> Promotion:
        """Make a version the champion.

        Raises:
            RegistryError: there is no such version, or it is the champion already.
        """
        with self._store.lock("registry"):
            log = self.promotions()
            if champions(log)[-1:] == [self.version(number).number]:
                raise RegistryError(f"version {number} is the champion already; nothing was changed")
            return self._log(log, "promote", number, reasons)

    def consider(self, number: int, decide: Callable[[ModelVersion | None], Decision]) -> Decision:
        """Let a pure function of the present champion decide on a version, and promote it if it says so.

        No other process can change the champion between the decision and the promotion.
        """
        with self._store.lock("registry"):
            decision = decide(self.champion())
            if decision.promote:
                self._log(self.promotions(), "promote", self.version(number).number, decision.reasons)
        return decision

    def rollback(self) -> Promotion:
        """Make the champion before the present one the champion again.

        Raises:
            RegistryError: there was none before.
        """
        with self._store.lock("registry"):
            log = self.promotions()
            stack = champions(log)
            if len(stack) < 2:  # noqa: PLR2004 - the present one and the one before
                raise RegistryError(
                    f"there is no champion before the present one ({stack[-1] if stack else 'none'}) to roll back to; "
                    "`digits promote N` takes any version"
                )
            return self._log(log, "rollback", stack[-2], [f"rolled back from version {stack[-1]}"])

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
    if not name.isascii() or not name.isdigit() or len(name) > MAX_DIGITS:
        raise RegistryError(f"a model is `champion` or a version's number, found {name!r}; `digits models` lists them")
    return int(name)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _path(directory: Path, number: int) -> Path:
    return directory / f"{number:06}.json"
