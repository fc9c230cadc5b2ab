"""Another version beside the champion: where they differ, and nothing else."""

import csv
from pathlib import Path
from typing import Any

import pytest

from digits.errors import RegistryError, UsageError
from digits.outputs.table import FIXED_COLUMNS, TableFile, format_of
from digits.outputs.table_diff import pairs, shadow_path, write_differences
from digits.prediction import service
from digits.prediction.config import PredictionConfig
from digits.store.artifacts import Recipe, Store
from digits.store.registry import ModelFacts, Registry
from tests.support.networks import make_store, tiny_network
from tests.support.tiny_model import MakePictures, write_model

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store with a champion, version 1, and version 2 with other weights."""
    store = Store(make_store(tmp_path / "artifacts", tiny_network(), name="one"))
    Registry(store).register(
        artifacts=_exported(store, tmp_path), weights_sha256="two", facts=ModelFacts(architecture="two")
    )
    return store


def _exported(store: Store, place: Path) -> dict[str, str]:
    """Put a model with random weights into the store."""
    source = write_model(place / "two", seed=1)

    def write(directory: Path) -> None:
        for file in source.iterdir():
            (directory / file.name).write_bytes(file.read_bytes())

    made = store.produce(Recipe("onnx", {"test": "two"}), write)
    return {made.kind: made.digest}


def shadowed(store: Store, folder: Path, out: Path, shadow: str, **options: Any) -> Any:
    """Predict with the champion, and with a shadow."""
    settings = PredictionConfig(**options)
    summary = service.predict_folder(store, folder, out=out, options=settings)
    return service.predict_shadow(store, folder, summary, shadow=shadow, options=settings)


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_the_shadow_table_has_one_row_per_image_on_which_two_versions_differ(
    store: Store, tmp_path: Path, make_pictures: MakePictures, ending: str
) -> None:
    folder, out = make_pictures(tmp_path / "in", 30), tmp_path / f"t{ending}"
    (folder / "broken.png").write_bytes(b"no picture")
    summary = shadowed(store, folder, out, "challenger")
    tables = []
    for model in ("1", "2"):
        service.predict_folder(store, folder, model=model, out=tmp_path / "alone.jsonl")
        tables.append({row["path"]: row for row in TableFile.open(tmp_path / "alone.jsonl").rows()})
    assert {row["path"]: row for row in TableFile.open(out).rows()} == tables[0]
    with shadow_path(out).open(newline="") as file:
        found = list(csv.DictReader(file))
    differing = [path for path, row in tables[0].items() if row["prediction"] != tables[1][path]["prediction"]]
    assert 0 < len(differing) < 31
    assert [row["path"] for row in found] == differing
    assert summary.shadow == {"version": 2, "differing": len(differing), "table": str(shadow_path(out))}
    for row in found:
        champion, other = (table[row["path"]] for table in tables)
        assert (row["prediction"], row["shadow_prediction"]) == (champion["prediction"], other["prediction"])
        assert float(row["shadow_confidence"]) == other["confidence"]
        assert (row["model_version"], row["shadow_version"]) == ("1", "2")
    assert list(store.temporary.iterdir()) == []


def test_a_shadow_version_that_agrees_gives_no_rows(store: Store, tmp_path: Path, make_pictures: MakePictures) -> None:
    folder = make_pictures(tmp_path / "in", 3)
    for _ in range(2):
        summary = shadowed(store, folder, folder / "t.csv", "1", all_files=True)
        assert summary.shadow["differing"] == 0
        assert summary.images == 3
    assert shadow_path(folder / "t.csv").read_text().count("\n") == 1


def test_an_unknown_shadow_version_is_a_registry_error(
    store: Store, tmp_path: Path, make_pictures: MakePictures
) -> None:
    with pytest.raises(RegistryError, match="no model version 7"):
        shadowed(store, make_pictures(tmp_path / "in", 1), tmp_path / "t.csv", "7")


def test_a_file_list_from_standard_input_is_refused_with_a_shadow_version(store: Store, tmp_path: Path) -> None:
    options = PredictionConfig(files_from=Path("-"))
    with pytest.raises(UsageError, match="files_from: found standard input"):
        service.plan_shadow(store, tmp_path, shadow="2", out=tmp_path / "t.csv", options=options)


def test_rows_with_the_same_prediction_and_another_status_differ(tmp_path: Path) -> None:
    tables = []
    for name, statuses in (("one", ("ok", "ok", "ok")), ("two", ("ok", "uncertain", "not-a-digit"))):
        rows = [(f"{n}.png", "7", 0.5 + n / 10, status, *[None] * 5, 1) for n, status in enumerate(statuses)]
        path = tmp_path / f"{name}.jsonl"
        path.write_bytes(format_of(path).encode(rows, FIXED_COLUMNS))
        tables.append(TableFile.open(path))
    with (tmp_path / "d.csv").open("wb") as written:
        assert write_differences(*tables, written) == 2
    with (tmp_path / "d.csv").open(newline="") as file:
        found = [(row["path"], row["status"], row["shadow_status"]) for row in csv.DictReader(file)]
    assert found == [("1.png", "ok", "uncertain"), ("2.png", "ok", "not-a-digit")]


def test_images_that_only_one_table_has_are_left_out() -> None:
    first = [{"path": name} for name in "abdef"]
    second = [{"path": name} for name in "acdeg"]
    found = [(row["path"], other["path"]) for row, other in pairs(first, second)]
    assert found == [("a", "a"), ("d", "d"), ("e", "e")]


def test_pages_are_compared_with_the_same_page() -> None:
    first = [{"path": "a", "page": page} for page in (1, 2, 3)]
    second = [{"path": "a", "page": page} for page in (2, 3, 4)]
    found = [(row["page"], other["page"]) for row, other in pairs(first, second)]
    assert found == [(2, 2), (3, 3)]
