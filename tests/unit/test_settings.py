"""Configuration: bounds, names, presets, files, and where artifacts live."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from digits.data.config import ArraysConfig
from digits.errors import UsageError
from digits.pipeline.config import NETWORKS, PRESETS, Preset, PromotionPolicy, TrainingRun
from digits.prediction.config import PredictionConfig
from digits.settings import (
    ARTIFACTS_VARIABLE,
    REMOVED,
    RENAMED,
    artifact_root,
    find_project,
    load_toml,
    merge_settings,
    parse,
)
from digits.training.config import Architecture, AugmentationConfig, ModelConfig, TrainingConfig

ARCHITECTURES = get_args(Architecture)
CLASSES = [ModelConfig, TrainingConfig, ArraysConfig, AugmentationConfig, PromotionPolicy, PredictionConfig]


def run_of(architecture: str, **training: Any) -> TrainingRun:
    """Give a run that says nothing but its architecture, and what is said of its training."""
    return parse(TrainingRun, {"model": {"architecture": architecture}, "training": training}, source="test")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_resolved_run_leaves_nothing_open(architecture: str) -> None:
    """Every None is filled from the preset, with values that are in bounds themselves."""
    run = run_of(architecture).resolved()
    values = run.model_dump()
    assert not [
        name for part in ("model", "training", "arrays") for name, value in values[part].items() if value is None
    ]
    assert TrainingRun.model_validate(values) == run
    assert run.resolved() == run


@pytest.mark.parametrize("preset", get_args(Preset))
@pytest.mark.parametrize("architecture", [None, *ARCHITECTURES])
@pytest.mark.parametrize(
    "said",
    [
        {},
        {"training": {"learning_rate": 0.5, "augmentation": {"zoom": 0.1}}, "model": {"hidden": (8, 8, 8, 8)}},
        {"training": {"members": 2}, "arrays": {"validation_fraction": 0.3}, "promotion": {"promote": False}},
    ],
)
def test_what_differs_from_the_preset_says_it_all(
    preset: Preset, architecture: str | None, said: dict[str, Any], tmp_path: Path
) -> None:
    """Written to a file and read again, it means the same run."""
    written = merge_settings(
        {"preset": preset, "datasets": ["a", 'b " \\']}, merge_settings(said, {"model": {"architecture": architecture}})
    )
    run = parse(TrainingRun, written, source="test").resolved()
    file = tmp_path / "run.toml"
    file.write_text(tomli_w.dumps(run.differences()), "utf-8")
    assert parse(TrainingRun, load_toml(file), source="file").resolved() == run


def test_what_the_preset_has_is_not_said() -> None:
    """A file shows what is special about a run."""
    assert TrainingRun(preset="quick").resolved().differences() == {"datasets": ["mnist"], "preset": "quick"}
    run = run_of("mlp", epochs=3).resolved()
    assert run.differences() == {
        "datasets": ["mnist"],
        "preset": "default",
        "model": {"architecture": "mlp"},
        "training": {"epochs": 3},
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_said_goes_before_the_preset(architecture: str) -> None:
    """A preset fills gaps only, also against values that count as false."""
    run = run_of(architecture, epochs=1, weight_decay=0.0, augment=False, weight_average=0.0).resolved()
    training = run.training
    assert (training.epochs, training.weight_decay, training.augment, training.weight_average) == (1, 0, False, 0)


def test_the_presets_are_those_of_the_tutorial_and_of_the_convolutional_network() -> None:
    """The defaults that results are promised with."""
    mlp, cnn = run_of("mlp").resolved(), run_of("cnn").resolved()
    assert (mlp.model.hidden, mlp.model.dropout, mlp.arrays.validation_fraction) == ((128,), 0.5, 0.2)
    assert (mlp.training.optimizer, mlp.training.augment) == ("adam", False)
    assert (cnn.model.hidden, cnn.training.optimizer, cnn.training.schedule) == (
        (24, 48, 64, 96, 128),
        "adamw",
        "cosine",
    )
    assert set(NETWORKS) == set(ARCHITECTURES)


@pytest.mark.parametrize("preset", get_args(Preset))
def test_a_preset_has_the_network_and_the_training_that_is_recommended_for_it(preset: Preset) -> None:
    """As if its network had been chosen by hand, but for what the preset says; nothing stays open."""
    run = TrainingRun(preset=preset).resolved()
    architecture, changes = PRESETS[preset]
    assert run.model.architecture == architecture
    by_hand = run_of(architecture).resolved()
    assert run.training == by_hand.training.model_copy(update=dict(changes))
    assert (run.model, run.arrays, run.resolved()) == (by_hand.model, by_hand.arrays, run)


def test_members_have_seeds_of_their_own() -> None:
    """And nothing else: each is trained as it would be alone."""
    run = TrainingRun(preset="best", training=TrainingConfig(seed=7)).resolved()
    assert [how.seed for how in run.members()] == [7, 8, 9]
    assert {how.model_copy(update={"seed": 7}) for how in run.members()} == {
        run.training.model_copy(update={"members": 1})
    }
    assert TrainingRun().resolved().members() == [TrainingRun().resolved().training]


def test_the_recommended_preset_is_compact() -> None:
    """And nobody needs to name it."""
    assert TrainingRun() == TrainingRun(preset="default")
    assert TrainingRun().resolved().model.architecture == "compact"


def test_a_network_that_is_chosen_goes_before_the_preset() -> None:
    """With its own training, not with the preset's; and what is said goes before both."""
    values = {"preset": "quick", "model": {"architecture": "mlp"}, "training": {"epochs": 2}}
    run = parse(TrainingRun, values, source="test").resolved()
    assert (run.model.hidden, run.training.optimizer, run.training.epochs) == ((128,), "adam", 2)


def test_the_quick_preset_changes_images_little() -> None:
    """Strokes and levels stay; augmentation that is said goes before it."""
    quick = TrainingRun(preset="quick").resolved().training.augmentation
    assert quick is not None
    assert (quick.stroke, quick.blur, quick.contrast, quick.lines) == (0, 0, 0, 0)
    said = TrainingRun(preset="quick", training=TrainingConfig(augmentation=AugmentationConfig(blur=1))).resolved()
    assert said.training.augmentation == AugmentationConfig(blur=1)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("training", "epochs", 0),
        ("training", "epochs", 1001),
        ("training", "batch_size", 0),
        ("training", "learning_rate", 0),
        ("training", "learning_rate", float("nan")),
        ("training", "label_smoothing", 1.0),
        ("training", "optimizer", "lion"),
        ("training", "seed", -1),
        ("training", "epochs", "many"),
        ("model", "architecture", "resnet"),
        ("model", "hidden", []),
        ("model", "hidden", [0]),
        ("model", "hidden", [1] * 9),
        ("model", "dropout", 1.0),
        ("arrays", "validation_fraction", 0),
        ("arrays", "validation_fraction", 0.6),
        ("arrays", "max_imbalance", float("inf")),
        ("promotion", "min_accuracy", -0.1),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(part: str, name: str, value: object) -> None:
    """The message says where, what was wrong and what was found."""
    with pytest.raises(UsageError) as caught:
        parse(TrainingRun, {part: {name: value}}, source="night.toml")
    assert str(caught.value).startswith(f"night.toml: {part}.{name}")
    assert repr(value).strip("[]") in str(caught.value)


@pytest.mark.parametrize("found", ["CANARY", {"password": "CANARY"}])
def test_an_unknown_name_is_refused_without_its_value(found: object) -> None:
    """It may be a secret that was put into the wrong file."""
    with pytest.raises(UsageError, match=r"^night.toml: training.tokens: ") as caught:
        parse(TrainingRun, {"training": {"tokens": found}}, source="night.toml")
    assert "CANARY" not in str(caught.value)


def test_all_faults_are_told_at_once() -> None:
    """One message for a file, not one a try."""
    with pytest.raises(UsageError, match=r"x: top_k: .*; .*shard_size: .*; jobs: extra inputs are not permitted"):
        parse(PredictionConfig, {"top_k": 0, "shard_size": 0, "jobs": 3}, source="x")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"recipe": "quick"}, "recipe: this setting was renamed to preset"),
        ({"promotion": {"max_chance": 0.1}}, "promotion.max_chance: this setting was renamed to significance_level"),
        ({"promotion": {"max_slowdown": 2}}, "max_slowdown: this setting was removed; use max_operations, which"),
    ],
)
def test_an_old_name_is_refused_with_what_to_use_instead(values: dict[str, Any], sentence: str) -> None:
    """So a configuration file of an earlier version is easy to bring up to date."""
    with pytest.raises(UsageError) as caught:
        parse(TrainingRun, values, source="night.toml")
    assert sentence in str(caught.value)


@pytest.mark.parametrize("old", [*RENAMED, *REMOVED])
def test_no_old_name_is_a_setting(old: str) -> None:
    """And each old name leads to a setting that is there."""
    settings = {*TrainingRun.model_fields, *PromotionPolicy.model_fields}
    assert old not in settings
    assert settings & set(re.findall(r"\w+", RENAMED.get(old, REMOVED.get(old, ""))))


def test_settings_do_not_change() -> None:
    """What a run was started with is what it was run with."""
    with pytest.raises(ValidationError, match="frozen"):
        TrainingRun().training.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_setting_is_described(kind: type[BaseModel]) -> None:
    """The form in the Prefect UI and the guide show these sentences."""
    plain = [name for name, field in kind.model_fields.items() if not isinstance(field.default, BaseModel)]
    assert [name for name in plain if not kind.model_fields[name].description] == []


def test_options_lie_over_a_file_and_none_means_unsaid() -> None:
    """Only what was given on the command line replaces what the file says; the file itself stays as it was."""
    written = {"datasets": ["mnist"], "training": {"epochs": 3, "seed": 1}}
    options = {
        "datasets": None,
        "training": {"epochs": 5, "seed": None},
        "model": {"architecture": "mlp", "hidden": None},
    }
    expected = {"datasets": ["mnist"], "training": {"epochs": 5, "seed": 1}, "model": {"architecture": "mlp"}}
    assert merge_settings(written, options) == expected
    assert written["training"] == {"epochs": 3, "seed": 1}


def test_a_false_or_zero_option_is_said() -> None:
    """`--no-augment` and `--seed 0` are not taken for silence."""
    assert merge_settings({"a": True, "b": 3}, {"a": False, "b": 0}) == {"a": False, "b": 0}


def test_a_file_that_writes_a_value_for_a_table_is_told_so() -> None:
    """`training = 3` is reported as it was written, not lost under the options."""
    merged = merge_settings({"training": 3}, {"training": {"epochs": 2}})
    with pytest.raises(UsageError, match=r"training: .*found 3"):
        parse(TrainingRun, merged, source="x")


@settings(max_examples=50)
@given(st.dictionaries(st.text(max_size=2), st.integers() | st.dictionaries(st.text(max_size=2), st.integers())))
def test_nothing_said_changes_nothing(base: dict[str, Any]) -> None:
    """No options, or options without values, leave the file's values alone."""
    silent = {name: dict.fromkeys(value) if isinstance(value, dict) else None for name, value in base.items()}
    assert merge_settings(base, {}) == merge_settings(base, silent) == base
    assert merge_settings(base, base) == base


def test_a_toml_file_becomes_a_run(tmp_path: Path) -> None:
    """The names in the file are those of the settings, a table a part."""
    path = tmp_path / "night.toml"
    path.write_text(
        'datasets = ["mnist", "scans"]\n[model]\narchitecture = "mlp"\nhidden = [64]\n[training]\nepochs = 2\n'
    )
    run = parse(TrainingRun, load_toml(path), source=str(path))
    assert (run.datasets, run.model.hidden, run.training.epochs) == (("mnist", "scans"), (64,), 2)


@pytest.mark.parametrize("content", [None, b"epochs = ", b"\xff\xfe"])
def test_a_file_that_can_not_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    """Absent, not TOML, not text: one message with the path."""
    path = tmp_path / "night.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=f"{path}: not a readable TOML file"):
        load_toml(path)


# Where artifacts live


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a folder in it, where one is."""
    (tmp_path / "prefect.yaml").write_text("name: digits\n")
    (tmp_path / "scans" / "today").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "scans" / "today")
    monkeypatch.delenv(ARTIFACTS_VARIABLE, raising=False)
    return tmp_path


def test_the_option_goes_before_the_environment_before_the_project(project: Path) -> None:
    """The order that the architecture names."""
    environment = {ARTIFACTS_VARIABLE: "/from/environment"}
    assert artifact_root(Path("/from/option"), environment=environment) == Path("/from/option")
    assert artifact_root(environment=environment) == Path("/from/environment")
    assert artifact_root(environment={}) == project / "artifacts"
    assert artifact_root(environment={ARTIFACTS_VARIABLE: ""}) == project / "artifacts"


def test_the_environment_of_the_process_counts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the shell exported is found without being handed over."""
    assert artifact_root() == project / "artifacts"
    monkeypatch.setenv(ARTIFACTS_VARIABLE, str(project / "elsewhere"))
    assert artifact_root() == project / "elsewhere"


def test_the_nearest_project_is_meant(project: Path) -> None:
    """A project inside a project has artifacts of its own."""
    (project / "scans" / "prefect.yaml").write_text("name: digits\n")
    assert artifact_root(environment={}) == project / "scans" / "artifacts"


@pytest.mark.parametrize(
    "text",
    [
        "name: digits\n",
        "# deployments\nname: digits  # ours\nprefect-version: 3\n",
        "prefect-version: 3\r\nname: 'digits'\r\n",
        'name: "digits"',
    ],
)
def test_a_prefect_yaml_named_digits_marks_the_project(tmp_path: Path, text: str) -> None:
    (tmp_path / "prefect.yaml").write_bytes(text.encode())
    (tmp_path / "scans").mkdir()
    assert find_project(tmp_path / "scans") == tmp_path


@pytest.mark.parametrize(
    "text", ["", "name: other\n", "name: digits-of-others\n", "name: digits#1\n", "build:\n  name: digits\n", "name:\n"]
)
def test_a_prefect_yaml_of_another_name_is_passed_over(project: Path, text: str) -> None:
    (project / "scans" / "prefect.yaml").write_text(text)
    assert find_project() == project
    (project / "prefect.yaml").write_text(text)
    assert find_project() is None
    assert artifact_root(environment={}) == project / "scans" / "today" / "artifacts"


@pytest.mark.parametrize("other", ["name: other\n", None])
def test_a_tool_table_in_pyproject_marks_the_project(project: Path, other: str | None) -> None:
    """Also beside a prefect.yaml of another name, and below another project."""
    if other:
        (project / "scans" / "prefect.yaml").write_text(other)
    (project / "scans" / "pyproject.toml").write_text("[tool.digits]\n")
    assert find_project() == project / "scans"


@pytest.mark.parametrize("content", [b"[tool.other]\n", b"tool = 3\n", b"[tool.digits", b"\xff\xfe", b""])
def test_a_pyproject_that_does_not_mention_digits_is_passed_over(project: Path, content: bytes) -> None:
    (project / "scans" / "pyproject.toml").write_bytes(content)
    assert find_project() == project


def test_without_a_project_artifacts_lie_here(project: Path) -> None:
    """No project above: the current directory."""
    (project / "prefect.yaml").unlink()
    assert artifact_root(environment={}) == project / "scans" / "today" / "artifacts"


def test_a_root_is_absolute_and_knows_the_home(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative root stays the same when somebody changes the directory; `~` is the home."""
    monkeypatch.setenv("HOME", "/home/anna")
    assert artifact_root(Path("mine"), environment={}) == project / "scans" / "today" / "mine"
    assert artifact_root(environment={ARTIFACTS_VARIABLE: "~/mine"}) == Path("/home/anna/mine")
