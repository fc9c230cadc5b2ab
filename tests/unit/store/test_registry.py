"""Model registry: versions, promotions, decisions, rollbacks, damage and concurrency."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digits.errors import CorruptArtifactError, RegistryError, StoreError
from digits.store.artifacts import ArtifactRef, Store
from digits.store.author import this_author
from digits.store.decisions import ChangedImage, Check, Decision, SetRow
from digits.store.registry import ModelFacts, ModelVersion, Promotion, RecordedDecision, Registry, champion_stack
from tests.support import faults

pytestmark = pytest.mark.usefixtures("without_sync")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Return an empty registry."""
    return Registry(Store(tmp_path / "artifacts"))


def register(registry: Registry, weights: str) -> ModelVersion:
    """Register a model with a weights hash, and return its version."""
    version, _ = registry.register(
        artifacts={"model": "ab" * 32}, weights_sha256=weights, facts=ModelFacts(accuracy=0.99)
    )
    return version


def with_versions(registry: Registry, count: int) -> Registry:
    """Register a number of models, and return the registry."""
    for number in range(count):
        register(registry, f"weights {number}")
    return registry


def record_decision(
    registry: Registry, number: int, decide: Callable[[ModelVersion | None], Decision]
) -> RecordedDecision:
    """Record a decision without examples."""
    return registry.record_decision(number, lambda champion: (decide(champion), ()), recipe="recipe", policy={})


def champion_number(registry: Registry) -> int | None:
    """Return the champion's number, None without a champion."""
    champion = registry.champion()
    return champion.number if champion else None


# Versions


def test_versions_are_numbered_from_one(registry: Registry) -> None:
    """Each version has the facts and artifacts that it was registered with."""
    with_versions(registry, 3)
    assert [version.number for version in registry.versions()] == [1, 2, 3]
    second = registry.version(2)
    assert second == registry.versions()[1]
    assert (second.weights_sha256, second.facts) == ("weights 1", ModelFacts(accuracy=0.99))
    assert second.artifact("model") == ArtifactRef("model", "ab" * 32)
    assert second.created_at.endswith("+00:00")


def test_the_same_weights_keep_their_number(registry: Registry) -> None:
    """A training that results in the same model registers no version."""
    with_versions(registry, 2)
    again, new = registry.register(artifacts={}, weights_sha256="weights 0", facts=ModelFacts())
    assert (again.number, new) == (1, False)
    assert len(registry.versions()) == 2


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"architecture": "mlp"},
        {"datasets": ["mnist", "scans"], "test_sets": {"mnist": 0.0}, "accuracy": 0.0, "epochs": 3, "own_images": 4},
    ],
)
def test_only_known_facts_are_recorded(record: dict[str, object]) -> None:
    """A record by an earlier version of Digits has fewer facts; a measure of 0 is known."""
    assert ModelFacts.from_record(record).as_record() == record


def test_unknown_facts_in_a_record_are_ignored() -> None:
    """A record by a later version of Digits can be read."""
    assert ModelFacts.from_record({"epochs": 3, "kilometres": 7}) == ModelFacts(epochs=3)


def test_the_registry_returns_the_directory_of_an_artifact(registry: Registry, tmp_path: Path) -> None:
    """It is the directory in the artifact store."""
    reference = register(registry, "w").artifact("model")
    assert registry.artifact_path(reference) == tmp_path / "artifacts" / "model" / reference.digest


def test_a_missing_version_is_an_error_that_lists_the_existing_ones(registry: Registry) -> None:
    """Without any version, the message says so."""
    with pytest.raises(RegistryError, match=r"no model version 1 in .*versions: none"):
        registry.version(1)
    with_versions(registry, 2)
    with pytest.raises(RegistryError, match=r"no model version 7 in .*versions: \[1, 2\]"):
        registry.resolve("7")


@pytest.mark.parametrize("name", ["champ", "", "-1", "1.0", "²", "1" * 400, "../../1"])
def test_an_invalid_model_name_is_refused(registry: Registry, name: str) -> None:
    """Valid names are `champion`, `challenger` and a version's number."""
    with pytest.raises(RegistryError, match="expected `champion`, `challenger` or a version's number, found"):
        registry.resolve(name)


def test_a_number_or_champion_resolves_to_a_version(registry: Registry) -> None:
    """The champion need not be the first version."""
    with_versions(registry, 2).promote(2, reasons=["better"])
    assert registry.resolve("1").number == 1
    assert registry.resolve("champion").number == 2


def test_the_error_without_a_champion_names_the_root_and_a_remedy(registry: Registry) -> None:
    """The root may be the wrong one."""
    assert registry.champion() is None
    with pytest.raises(RegistryError, match=r"no champion in .*artifacts; run `digits train`"):
        registry.resolve("champion")


# Promotions


def test_promotions_and_rollbacks_are_appended_to_the_log(registry: Registry) -> None:
    """No entry is overwritten."""
    with_versions(registry, 2)
    registry.promote(1, reasons=["first"])
    registry.promote(2, reasons=["better", "by far"])
    entry = registry.roll_back()
    assert champion_number(registry) == 1
    assert [(e.number, e.action, e.version, e.reasons) for e in registry.promotions()] == [
        (1, "promote", 1, ("first",)),
        (2, "promote", 2, ("better", "by far")),
        (3, "rollback", 1, ("rolled back from version 2",)),
    ]
    assert entry == registry.promotions()[-1]


def test_promotions_record_their_author(registry: Registry) -> None:
    """The record holds user, machine and flow run. Records of earlier versions have no author."""
    with_versions(registry, 1)
    entry = registry.promote(1, reasons=["first"])
    assert registry.promotions()[0].by == entry.by == this_author()
    record = entry.as_record()
    assert record["by"] == {"user": entry.by.user, "host": entry.by.host, "run": ""}
    del record["by"]
    assert str(Promotion.from_record(record).by) == ""


def test_a_rollback_without_a_former_champion_is_an_error(registry: Registry) -> None:
    """The champion and the log stay as they are."""
    with pytest.raises(RegistryError, match=r"before the current one \(none\)"):
        registry.roll_back()
    with_versions(registry, 1).promote(1, reasons=[])
    with pytest.raises(RegistryError, match=r"before the current one \(1\)"):
        registry.roll_back()
    assert champion_number(registry) == 1
    assert len(registry.promotions()) == 1


def test_the_champion_is_not_promoted_again(registry: Registry) -> None:
    """A rollback of a second promotion would lead to the same version."""
    with_versions(registry, 1).promote(1, reasons=[])
    with pytest.raises(RegistryError, match="already the champion; nothing was changed"):
        registry.promote(1, reasons=[])
    assert len(registry.promotions()) == 1


def test_a_missing_version_cannot_be_promoted(registry: Registry) -> None:
    """Neither directly nor by a decision."""
    with pytest.raises(RegistryError, match="no model version 1"):
        registry.promote(1, reasons=[])
    with pytest.raises(RegistryError, match="no model version 1"):
        record_decision(registry, 1, lambda _: Decision(True, ()))
    assert registry.promotions() == []


def test_a_version_is_promoted_if_so_decided(registry: Registry) -> None:
    """The decision is made with the current champion; its reasons are those of the promotion."""
    with_versions(registry, 2)
    seen: list[ModelVersion | None] = []

    def decide(champion: ModelVersion | None) -> Decision:
        seen.append(champion)
        return Decision(champion is None, ("because",))

    assert record_decision(registry, 1, decide).decision.promote
    assert not record_decision(registry, 2, decide).decision.promote
    assert [version and version.number for version in seen] == [None, 1]
    assert [entry.reasons for entry in registry.promotions()] == [("because",)]
    assert champion_number(registry) == 1


def test_no_other_promotion_happens_between_a_decision_and_its_promotion(registry: Registry) -> None:
    """Another process that promotes waits until the decision is recorded."""
    with_versions(registry, 2)

    def decide(champion: ModelVersion | None) -> Decision:
        with pytest.raises(faults.StillWaitingError), faults.at_most(0.1):
            Registry(Store(registry.artifact_path(ArtifactRef("model", "x")).parent.parent)).promote(2, reasons=[])
        return Decision(True, ())

    record_decision(registry, 1, decide)
    assert champion_number(registry) == 1


# Decisions


def test_a_decision_is_recorded_with_its_inputs(registry: Registry) -> None:
    """These are the version, the champion, the recipe, the policy, the measurements and the examples."""
    with_versions(registry, 2).promote(1, reasons=["first"])
    decision = Decision(
        False, ("worse",), (SetRow("mnist", 9, 0.5, 0.7, 1, 3, 0.9),), (Check("size", "2", "1", "1", False),)
    )
    changed = ChangedImage("mnist", 7, "7", "7", "1", 0.9, 0.8)
    made = registry.record_decision(2, lambda _: (decision, [changed]), recipe="r", policy={"promote": True})
    (found,) = registry.decisions()
    assert found == made
    assert (found.number, found.version, found.champion, found.recipe) == (1, 2, 1, "r")
    assert (found.policy, found.decision, found.examples) == ({"promote": True}, decision, (changed,))
    assert found.created_at.endswith("+00:00")


def test_the_newest_decision_is_found_by_recipe_and_policy(registry: Registry) -> None:
    """No decision is found for another recipe or another policy."""
    with_versions(registry, 2)
    for version in (1, 2):
        registry.record_decision(version, lambda _: (Decision(False, ()), ()), recipe="r", policy={"a": 1})
    found = registry.find_decision("r", {"a": 1})
    assert found is not None
    assert found.version == 2
    assert registry.find_decision("r", {"a": 2}) is None
    assert registry.find_decision("s", {"a": 1}) is None


def test_a_version_is_decided_by_a_decision_under_the_policy_or_by_having_been_champion(registry: Registry) -> None:
    """A refused version is not decided under another policy; a former champion is under any."""
    with_versions(registry, 3)
    assert not registry.is_decided(1, {"a": 1})
    registry.record_decision(1, lambda _: (Decision(False, ()), ()), recipe="r", policy={"a": 1})
    assert registry.is_decided(1, {"a": 1})
    assert not registry.is_decided(1, {"a": 2})
    registry.promote(2, reasons=[])
    registry.promote(3, reasons=[])
    registry.roll_back()
    assert registry.is_decided(3, {"a": 2})


def test_a_version_is_decided_on_or_not_whenever_the_process_is_killed(tmp_path: Path) -> None:
    """After a SIGKILL before any system call, there is no decision to promote without the promotion."""
    for at in range(1, 60):
        registry = two_versions(tmp_path / str(at))
        work = lambda registry=registry: record_decision(registry, 2, lambda _: Decision(True, ("better",)))  # noqa: E731
        with faults.fault(tmp_path, at, faults.die):
            status = faults.wait(faults.in_child(work))
        decided = len(registry.decisions())
        assert champion_number(registry) in ([2] if decided else [1, 2])
        assert registry.is_decided(2, {}) is (champion_number(registry) == 2)
        if status == 0:
            break
    assert (status, decided) == (0, 1)


def test_the_challenger_is_the_newest_version(registry: Registry) -> None:
    """There is no challenger if the newest version is the champion or there is no version."""
    for _ in range(2):
        with pytest.raises(RegistryError, match="no version is newer than the champion"):
            registry.resolve("challenger")
        with_versions(registry, 1)
        if champion_number(registry) is None:
            registry.promote(1, reasons=[])
    register(registry, "another")
    assert registry.resolve("challenger").number == 2


# Rolling back


def test_a_rollback_to_a_version_undoes_all_promotions_since(registry: Registry) -> None:
    """After a rollback to the first champion, there is no former champion."""
    with_versions(registry, 3)
    for number in (1, 2, 3):
        registry.promote(number, reasons=[])
    entry = registry.roll_back(1, reason="the scanner was changed")
    assert entry.reasons == ("rolled back from version 3", "the scanner was changed")
    assert champion_number(registry) == 1
    with pytest.raises(RegistryError, match=r"before the current one \(1\)"):
        registry.roll_back()


@pytest.mark.parametrize("number", [3, 4, 99])
def test_a_rollback_leads_to_former_champions_only(registry: Registry, number: int) -> None:
    """It does not lead to the current champion or to a version that never was champion."""
    with_versions(registry, 4)
    for champion in (1, 2, 3):
        registry.promote(champion, reasons=[])
    with pytest.raises(RegistryError, match=f"version {number} is none of the champions before version 3, .* 1, 2;"):
        registry.roll_back(number)
    assert champion_number(registry) == 3


ACTIONS = st.lists(st.integers(min_value=0, max_value=5), max_size=30)
"""Lists of actions: the number of a version to promote, or 0 to roll back."""


@settings(max_examples=100)
@given(ACTIONS)
def test_promotions_push_and_rollbacks_pop(actions: list[int]) -> None:
    """Rollbacks undo as many promotions, the newest first."""
    log: list[Promotion] = []
    model: list[int] = []
    for number, action in enumerate(actions, start=1):
        if action:
            model = [*model, action]
            log.append(Promotion(number, "promote", action))
        elif model:
            model = model[:-1]
            log.append(Promotion(number, "rollback", model[-1] if model else 0))
        assert champion_stack(log) == model


@settings(max_examples=25, deadline=None)
@given(actions=st.lists(st.integers(min_value=0, max_value=3), max_size=8))
def test_the_registry_and_its_log_agree(tmp_path_factory: pytest.TempPathFactory, actions: list[int]) -> None:
    """Each entry of the log names the champion after it, for any sequence of actions."""
    registry = with_versions(Registry(Store(tmp_path_factory.mktemp("root"))), 3)
    for action in actions:
        try:
            entry = registry.promote(action, reasons=[]) if action else registry.roll_back()
        except RegistryError:
            continue
        assert entry.version == champion_number(registry) == champion_stack(registry.promotions())[-1]


def test_a_rollback_at_the_beginning_of_a_log_has_no_effect() -> None:
    """Such a log can be read."""
    assert champion_stack([Promotion(1, "rollback", 3), Promotion(2, "promote", 4)]) == [4]


# Damage


@pytest.mark.parametrize("name", ["versions/000001.json", "promotions/000001.json"])
def test_a_flipped_bit_in_a_record_is_an_error_that_names_it(registry: Registry, tmp_path: Path, name: str) -> None:
    """The champion is not taken from a damaged record."""
    with_versions(registry, 1).promote(1, reasons=[])
    path = tmp_path / "artifacts" / "registry" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptArtifactError, match=name):
        registry.champion()


def test_a_missing_record_is_detected(registry: Registry, tmp_path: Path) -> None:
    """A gap in the numbers is an error, also when a model is registered."""
    with_versions(registry, 3)
    (tmp_path / "artifacts" / "registry" / "versions" / "000002.json").unlink()
    for use in (registry.versions, lambda: register(registry, "new weights")):
        with pytest.raises(CorruptArtifactError, match=r"000002\.json is missing; restore it from a backup"):
            use()


def test_temporary_files_beside_the_records_are_ignored(registry: Registry, tmp_path: Path) -> None:
    """A killed writer leaves such a file."""
    with_versions(registry, 1)
    (tmp_path / "artifacts" / "registry" / "versions" / ".000002.json.0123456789abcdef.tmp").write_text("{")
    assert register(registry, "next").number == 2


# Kills and disks


def two_versions(root: Path) -> Registry:
    """Return a registry in which the first of two versions is the champion."""
    registry = with_versions(Registry(Store(root)), 2)
    registry.promote(1, reasons=["first"])
    return registry


def test_a_promotion_happens_or_does_not_whenever_its_process_is_killed(tmp_path: Path) -> None:
    """After a SIGKILL before any system call, the champion is the old one or the new one, and the lock is free."""
    seen = []
    for at in range(1, 40):
        registry = two_versions(tmp_path / str(at))
        with faults.fault(tmp_path, at, faults.die):
            status = faults.wait(faults.in_child(lambda registry=registry: registry.promote(2, reasons=["better"])))
        seen.append(champion_number(registry))
        with faults.at_most(10):
            _promote_and_roll_back(registry)
        if status == 0:
            break
    assert status == 0
    assert seen == sorted(seen), "old up to some call, new after it"
    assert set(seen) == {1, 2}


def test_a_promotion_happens_or_does_not_whichever_write_fails(tmp_path: Path) -> None:
    """If any system call finds the disk full, the promotion fails with an error or succeeds; the next one works."""
    failures = []
    for at in range(1, 40):
        registry = two_versions(tmp_path / str(at))
        with faults.fault(tmp_path, at, faults.no_space) as fault:
            failures.append(faults.failure_of(lambda registry=registry: registry.promote(2, reasons=["better"])))
        assert champion_number(registry) in ([1, 2] if failures[-1] else [2])
        _promote_and_roll_back(registry)
        if not fault.happened:
            break
    messages = [message for message in failures if message]
    assert not failures[-1]
    assert len(messages) > 5
    assert all("No space left on device" in message and str(tmp_path) in message for message in messages)


def _promote_and_roll_back(registry: Registry) -> None:
    if champion_number(registry) == 1:
        registry.promote(2, reasons=["again"])
    assert registry.roll_back().version == 1


def test_a_registration_that_fails_leaves_no_version(registry: Registry) -> None:
    """On a full disk, the error names the root, and the next registration gets the number."""
    with faults.full_disk(64), pytest.raises(StoreError, match="could not write to the artifact root"):
        register(registry, "w")
    assert registry.versions() == []
    assert register(registry, "w").number == 1


def test_a_registry_that_cannot_be_read_is_an_error_that_names_the_root(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With too many open files, for example, the registry is not taken for empty."""
    with_versions(registry, 1)

    def no_more_files(path: Path) -> bytes:
        raise OSError(24, "Too many open files", str(path))

    monkeypatch.setattr(Path, "read_bytes", no_more_files)
    for use in (registry.versions, lambda: registry.version(1)):
        with pytest.raises(StoreError, match=r"could not read from the artifact root \(Too many open files: "):
            use()


# Concurrency


def test_processes_that_register_models_get_different_numbers(registry: Registry) -> None:
    """Ten models from five processes get the numbers 1 to 10."""

    def register_two(process: int) -> None:
        for model in range(2):
            register(registry, f"{process} {model}")

    children = [faults.in_child(lambda process=process: register_two(process)) for process in range(5)]
    assert [faults.wait(child) for child in children] == [0] * 5
    assert [version.number for version in registry.versions()] == list(range(1, 11))
    assert len({version.weights_sha256 for version in registry.versions()}) == 10


def test_processes_that_register_the_same_weights_share_a_number(registry: Registry) -> None:
    """Several runs of the same training register one version."""
    children = [faults.in_child(lambda: register(registry, "same")) for _ in range(4)]
    assert [faults.wait(child) for child in children] == [0] * 4
    assert [version.number for version in registry.versions()] == [1]


def test_promotions_by_several_processes_are_all_logged(registry: Registry) -> None:
    """The version of the newest entry is the champion."""
    with_versions(registry, 4)
    children = [
        faults.in_child(lambda number=number: registry.promote(number, reasons=[str(number)])) for number in range(1, 5)
    ]
    assert [faults.wait(child) for child in children] == [0] * 4
    log = registry.promotions()
    assert sorted(entry.version for entry in log) == [1, 2, 3, 4]
    assert champion_number(registry) == log[-1].version


def test_a_record_of_another_process_is_not_overwritten(registry: Registry, tmp_path: Path) -> None:
    """Records are created exclusively, also on network file systems that do not support locks."""
    with_versions(registry, 1)
    directory = tmp_path / "artifacts" / "registry" / "versions"
    before = (directory / "000001.json").read_bytes()
    with pytest.raises(RegistryError, match=r"000001\.json was written by another process"):
        registry._append(directory, 1, {})
    assert (directory / "000001.json").read_bytes() == before
