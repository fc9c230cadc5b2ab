"""Configuration: bounds, names, presets, files, and the artifact root."""

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
    NAME_VARIABLE,
    REMOVED,
    RENAMED,
    artifact_root,
    check_deployed_paths,
    find_project,
    load_toml,
    merge_settings,
    parse,
    paths_among,
    root_name,
)
from digits.training.config import Architecture, AugmentationConfig, ModelConfig, TrainingConfig

ARCHITECTURES = get_args(Architecture)
CLASSES = [ModelConfig, TrainingConfig, ArraysConfig, AugmentationConfig, PromotionPolicy, PredictionConfig]


def run_of(architecture: str, **training: Any) -> TrainingRun:
    """Return a run with this architecture and these training settings."""
    return parse(TrainingRun, {"model": {"architecture": architecture}, "training": training}, source="test")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_resolved_run_has_no_setting_that_is_none(architecture: str) -> None:
    """Every None is filled with a value within the bounds."""
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
    "given",
    [
        {},
        {"training": {"learning_rate": 0.5, "augmentation": {"zoom": 0.1}}, "model": {"hidden": (8, 8, 8, 8)}},
        {"training": {"members": 2}, "arrays": {"validation_fraction": 0.3}, "promotion": {"promote": False}},
    ],
)
def test_differences_written_to_a_file_describe_the_same_run(
    preset: Preset, architecture: str | None, given: dict[str, Any], tmp_path: Path
) -> None:
    """For each preset and architecture."""
    written = merge_settings(
        {"preset": preset, "datasets": ["a", 'b " \\']},
        merge_settings(given, {"model": {"architecture": architecture}}),
    )
    run = parse(TrainingRun, written, source="test").resolved()
    file = tmp_path / "run.toml"
    file.write_text(tomli_w.dumps(run.differences()), "utf-8")
    assert parse(TrainingRun, load_toml(file), source="file").resolved() == run


def test_differences_leave_out_what_the_preset_supplies() -> None:
    """Or the architecture, if it is not the preset's."""
    assert TrainingRun(preset="quick").resolved().differences() == {"datasets": ["mnist"], "preset": "quick"}
    run = run_of("mlp", epochs=3).resolved()
    assert run.differences() == {
        "datasets": ["mnist"],
        "preset": "default",
        "model": {"architecture": "mlp"},
        "training": {"epochs": 3},
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_settings_override_the_preset(architecture: str) -> None:
    """Also values that count as false, such as 0."""
    run = run_of(architecture, epochs=1, weight_decay=0.0, augment=False, weight_average=0.0).resolved()
    training = run.training
    assert (training.epochs, training.weight_decay, training.augment, training.weight_average) == (1, 0, False, 0)


def test_architectures_have_their_documented_defaults() -> None:
    """Those of `mlp` and `cnn`."""
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
def test_a_preset_resolves_to_its_architecture_with_its_changes(preset: Preset) -> None:
    """The rest is as if the architecture had been set."""
    run = TrainingRun(preset=preset).resolved()
    architecture, changes = PRESETS[preset]
    assert run.model.architecture == architecture
    by_hand = run_of(architecture).resolved()
    assert run.training == by_hand.training.model_copy(update=dict(changes))
    assert (run.model, run.arrays, run.resolved()) == (by_hand.model, by_hand.arrays, run)


def test_members_differ_in_their_seeds_only() -> None:
    """Each is trained as it would be alone."""
    run = TrainingRun(preset="best", training=TrainingConfig(seed=7)).resolved()
    assert [how.seed for how in run.members()] == [7, 8, 9]
    assert {how.model_copy(update={"seed": 7}) for how in run.members()} == {
        run.training.model_copy(update={"members": 1})
    }
    assert TrainingRun().resolved().members() == [TrainingRun().resolved().training]


def test_the_default_preset_is_compact() -> None:
    """It does not have to be named."""
    assert TrainingRun() == TrainingRun(preset="default")
    assert TrainingRun().resolved().model.architecture == "compact"


def test_an_architecture_overrides_the_preset() -> None:
    """It brings its own training settings; other settings override both."""
    values = {"preset": "quick", "model": {"architecture": "mlp"}, "training": {"epochs": 2}}
    run = parse(TrainingRun, values, source="test").resolved()
    assert (run.model.hidden, run.training.optimizer, run.training.epochs) == ((128,), "adam", 2)


def test_the_quick_preset_has_small_affine_changes_only() -> None:
    """A given augmentation replaces them."""
    quick = TrainingRun(preset="quick").resolved().training.augmentation
    assert quick is not None
    assert (quick.stroke, quick.blur, quick.contrast, quick.lines) == (0, 0, 0, 0)
    given = TrainingRun(preset="quick", training=TrainingConfig(augmentation=AugmentationConfig(blur=1))).resolved()
    assert given.training.augmentation == AugmentationConfig(blur=1)


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
def test_a_value_out_of_bounds_is_an_error_that_names_the_setting(part: str, name: str, value: object) -> None:
    """The message has the source, the setting and the value."""
    with pytest.raises(UsageError) as caught:
        parse(TrainingRun, {part: {name: value}}, source="night.toml")
    assert str(caught.value).startswith(f"night.toml: {part}.{name}")
    assert repr(value).strip("[]") in str(caught.value)


@pytest.mark.parametrize("found", ["CANARY", {"password": "CANARY"}])
def test_an_unknown_name_is_an_error_without_its_value(found: object) -> None:
    """The value may be a secret in the wrong file."""
    with pytest.raises(UsageError, match=r"^night.toml: training.tokens: ") as caught:
        parse(TrainingRun, {"training": {"tokens": found}}, source="night.toml")
    assert "CANARY" not in str(caught.value)


def test_an_error_lists_all_faults() -> None:
    """In one message per file."""
    with pytest.raises(
        UsageError, match=r"x: top_k: .*; .*shard_size: .*; jobs: there is no such setting; check its name"
    ):
        parse(PredictionConfig, {"top_k": 0, "shard_size": 0, "jobs": 3}, source="x")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"recipe": "quick"}, "recipe: this setting was renamed to preset"),
        ({"promotion": {"max_chance": 0.1}}, "promotion.max_chance: this setting was renamed to significance_level"),
        ({"promotion": {"max_slowdown": 2}}, "max_slowdown: this setting was removed; use max_operations, which"),
    ],
)
def test_an_old_name_is_an_error_that_states_the_new_one(values: dict[str, Any], sentence: str) -> None:
    """So a configuration file of an earlier version is easy to update."""
    with pytest.raises(UsageError) as caught:
        parse(TrainingRun, values, source="night.toml")
    assert sentence in str(caught.value)


@pytest.mark.parametrize("old", [*RENAMED, *REMOVED])
def test_no_old_name_is_a_setting(old: str) -> None:
    """Each old name leads to an existing setting."""
    settings = {*TrainingRun.model_fields, *PromotionPolicy.model_fields}
    assert old not in settings
    assert settings & set(re.findall(r"\w+", RENAMED.get(old, REMOVED.get(old, ""))))


def test_the_old_name_of_random_weights_is_read() -> None:
    """As in the record of a study."""
    assert parse(TrainingConfig, {"start": "anew"}, source="a.toml") == TrainingConfig(start="random")
    with pytest.raises(UsageError, match="input should be 'random' or 'champion', found 'new'"):
        parse(TrainingConfig, {"start": "new"}, source="a.toml")


def test_settings_are_immutable() -> None:
    """A run ends with the settings that it was started with."""
    with pytest.raises(ValidationError, match="frozen"):
        TrainingRun().training.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_setting_is_described(kind: type[BaseModel]) -> None:
    """The descriptions are the help of options and the text of the form in the Prefect UI."""
    plain = [name for name, field in kind.model_fields.items() if not isinstance(field.default, BaseModel)]
    assert [name for name in plain if not kind.model_fields[name].description] == []


def test_options_override_a_file_unless_they_are_none() -> None:
    """The values of the file are not modified."""
    written = {"datasets": ["mnist"], "training": {"epochs": 3, "seed": 1}}
    options = {
        "datasets": None,
        "training": {"epochs": 5, "seed": None},
        "model": {"architecture": "mlp", "hidden": None},
    }
    expected = {"datasets": ["mnist"], "training": {"epochs": 5, "seed": 1}, "model": {"architecture": "mlp"}}
    assert merge_settings(written, options) == expected
    assert written["training"] == {"epochs": 3, "seed": 1}


def test_a_false_or_zero_option_overrides_a_file() -> None:
    """Such as `--no-augment` and `--seed 0`."""
    assert merge_settings({"a": True, "b": 3}, {"a": False, "b": 0}) == {"a": False, "b": 0}


def test_a_value_in_place_of_a_table_is_an_error() -> None:
    """The options do not hide `training = 3` in a file."""
    merged = merge_settings({"training": 3}, {"training": {"epochs": 2}})
    with pytest.raises(UsageError, match=r"training: .*found 3"):
        parse(TrainingRun, merged, source="x")


@settings(max_examples=50)
@given(st.dictionaries(st.text(max_size=2), st.integers() | st.dictionaries(st.text(max_size=2), st.integers())))
def test_options_without_values_change_nothing(base: dict[str, Any]) -> None:
    """Nor do no options at all."""
    silent = {name: dict.fromkeys(value) if isinstance(value, dict) else None for name, value in base.items()}
    assert merge_settings(base, {}) == merge_settings(base, silent) == base
    assert merge_settings(base, base) == base


def test_a_toml_file_becomes_a_run(tmp_path: Path) -> None:
    """With one table per section of settings."""
    path = tmp_path / "night.toml"
    path.write_text(
        'datasets = ["mnist", "scans"]\n[model]\narchitecture = "mlp"\nhidden = [64]\n[training]\nepochs = 2\n'
    )
    run = parse(TrainingRun, load_toml(path), source=str(path))
    assert (run.datasets, run.model.hidden, run.training.epochs) == (("mnist", "scans"), (64,), 2)


@pytest.mark.parametrize(
    "content", [None, b"epochs = ", b"\xff\xfe", b"a = " + b"[" * 5000 + b"]" * 5000, b"a = " + b"9" * 200_000]
)
def test_a_file_that_cannot_be_read_is_an_error_with_its_path(tmp_path: Path, content: bytes | None) -> None:
    """If it does not exist, is not TOML, is not text, or exceeds the limits of Python's parser."""
    path = tmp_path / "night.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=f"{path}: not a readable TOML file"):
        load_toml(path)


# Artifact root and project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project, change into a folder of it, and return its path."""
    (tmp_path / "prefect.yaml").write_text("name: digits\n")
    (tmp_path / "scans" / "today").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "scans" / "today")
    monkeypatch.delenv(ARTIFACTS_VARIABLE, raising=False)
    return tmp_path


def test_the_option_overrides_the_environment_which_overrides_the_project(project: Path) -> None:
    """An empty environment variable counts as not set."""
    environment = {ARTIFACTS_VARIABLE: "/from/environment"}
    assert artifact_root(Path("/from/option"), environment=environment) == Path("/from/option")
    assert artifact_root(environment=environment) == Path("/from/environment")
    assert artifact_root(environment={}) == project / "artifacts"
    assert artifact_root(environment={ARTIFACTS_VARIABLE: ""}) == project / "artifacts"


def test_the_environment_of_the_process_is_used(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless another environment is given."""
    assert artifact_root() == project / "artifacts"
    monkeypatch.setenv(ARTIFACTS_VARIABLE, str(project / "elsewhere"))
    assert artifact_root() == project / "elsewhere"


def test_the_nearest_project_is_used(project: Path) -> None:
    """A project inside a project has its own artifacts."""
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


@pytest.mark.parametrize(
    "content",
    [b"[tool.other]\n", b"tool = 3\n", b"[tool.digits", b"\xff\xfe", b"", b"a=" + b"[" * 5000, b"a=" + b"9" * 5000],
)
def test_a_pyproject_that_does_not_mention_digits_is_passed_over(project: Path, content: bytes) -> None:
    (project / "scans" / "pyproject.toml").write_bytes(content)
    assert find_project() == project


def test_outside_a_project_the_artifact_root_is_in_the_current_directory(project: Path) -> None:
    """No directory above is a project."""
    (project / "prefect.yaml").unlink()
    assert artifact_root(environment={}) == project / "scans" / "today" / "artifacts"


def test_an_artifact_root_is_absolute(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays the same when the current directory changes; `~` is the home directory."""
    monkeypatch.setenv("HOME", "/home/anna")
    assert artifact_root(Path("mine"), environment={}) == project / "scans" / "today" / "mine"
    assert artifact_root(environment={ARTIFACTS_VARIABLE: "~/mine"}) == Path("/home/anna/mine")


def test_the_name_of_an_artifact_root_is_that_of_its_directory_with_a_digest_of_its_path(tmp_path: Path) -> None:
    """Two directories with one name have different names; a link has the name of its target."""
    names = [root_name(tmp_path / place / "artifacts", environment={}) for place in ("a", "b")]
    assert all(re.fullmatch(r"artifacts-[0-9a-f]{4}", name) for name in names)
    assert names[0] != names[1]
    (tmp_path / "a" / "artifacts").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "artifacts")
    assert root_name(tmp_path / "link", environment={}) == names[0]


@pytest.mark.parametrize(
    ("directory", "beginning"),
    [("Scans of 2026", "scans-of-2026-"), ("__", ""), ("Größe", "gr-e-"), ("a" * 60, "a" * 40 + "-")],
)
def test_the_name_of_an_artifact_root_fits_into_the_key_of_a_prefect_artifact(directory: str, beginning: str) -> None:
    name = root_name(Path("/srv") / directory, environment={})
    assert re.fullmatch(rf"{beginning}[0-9a-f]{{4}}", name)


def test_a_variable_sets_the_name_of_the_artifact_root() -> None:
    """For roots on several machines whose paths are the same. A value without letters and digits is ignored."""
    root = Path("/data/artifacts")
    assert root_name(root, environment={NAME_VARIABLE: "Production (Berlin)"}) == "production-berlin"
    assert root_name(root, environment={NAME_VARIABLE: " - "}) == root_name(root, environment={})


def test_all_paths_among_the_parameters_of_a_run_are_found() -> None:
    """In settings too; a dataset with a slash is a path, one without is a name."""
    parameters = {
        "folder": Path("/scans"),
        "model": "champion",
        "options": PredictionConfig(files_from=Path("list.txt")),
        "datasets": ("mnist", "~/digits"),
        "artifacts": Path("~/root"),
    }
    assert dict(paths_among(parameters)) == {
        "folder": Path("/scans"),
        "options.files_from": Path("list.txt"),
        "datasets": Path.home() / "digits",
        "artifacts": Path.home() / "root",
    }


def test_a_relative_path_in_a_deployment_is_refused_with_the_directory_of_the_worker() -> None:
    """`-` would be the worker's standard input. Absolute paths are accepted."""
    worker = Path("/opt/digits")
    check_deployed_paths({"folder": Path("/scans"), "out": Path("/t.csv")}, worker)
    with pytest.raises(UsageError, match=r"^out: found the relative path a/t\.csv, .* directory, /opt/digits; give an"):
        check_deployed_paths({"folder": Path("/scans"), "out": Path("a/t.csv")}, worker)
    with pytest.raises(UsageError, match=r"^options\.files_from: found `-`, standard input, which a run of a depl"):
        check_deployed_paths({"options.files_from": Path("-")}, worker)
