"""Python API: predictions of folders, paths and images in memory, in scripts, threads and event loops."""

import ast
import asyncio
import io
import json
import logging
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import digits
from digits.model.baseline import Run
from digits.model.onnx_model import Predictor
from digits.outputs.summary import summary_path
from digits.prediction.baselines import record_run
from digits.prediction.service import open_model
from digits.store.artifacts import Store
from digits.store.records import write_record
from digits.store.registry import Registry
from tests.support.networks import tiny_store
from tests.support.summaries import EMPTY
from tests.support.tiny_model import MakePictures, draw

HERE = Path(__file__).resolve().parents[2]
IMAGES = 5


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_store(tmp_path_factory.mktemp("api") / "artifacts")


@pytest.fixture(autouse=True)
def artifacts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGITS_ARTIFACTS", str(root))


@pytest.fixture
def scans(tmp_path: Path, make_pictures: MakePictures) -> Path:
    return make_pictures(tmp_path / "scans", IMAGES)


@pytest.fixture
def quick(in_this_process: None) -> None:
    """Predict without worker processes."""


def expected(root: Path, *numbers: int) -> list[str]:
    """Return the classes that the network predicts for drawn images."""
    probabilities = Predictor(open_model(Store(root), "1")).predict(np.stack([draw(number) for number in numbers]))
    return [str(index) for index in probabilities.argmax(axis=1)]


def test_a_folder_is_predicted_in_worker_processes(scans: Path, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With the progress on standard error, which can be switched off."""
    (scans / "note.png").write_bytes(b"no image")
    df = digits.predict(scans)
    assert df.path.tolist() == [*(f"{number:04}.png" for number in range(IMAGES)), "note.png"]
    assert df.prediction[:IMAGES].tolist() == expected(root, *range(IMAGES))
    assert df.prediction.isna().tolist() == df.confidence.isna().tolist() == [False] * IMAGES + [True]
    assert df.status.value_counts().to_dict() == {"ok": IMAGES, "not-an-image": 1} == df.attrs["summary"]["statuses"]
    assert Path(df.attrs["summary"]["out"]).is_relative_to(root)
    shown = capfd.readouterr()
    assert (shown.out, "Predicting" in shown.err) == ("", True)
    digits.predict(str(scans), progress=False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("quick")
def test_options_are_those_of_the_command(scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    df = digits.predict(scans, out=out, top_k=2, probabilities=True, include=["0001.png"], model=1)
    assert (df.path.tolist(), {"top2", "p9"} <= set(df.columns)) == (["0001.png"], True)
    pd.testing.assert_frame_equal(df, digits.read_table(out))
    records = digits.predict(scans, as_records=True, exclude=["0001.png"])
    assert [row["path"] for row in records] == ["0000.png", "0002.png", "0003.png", "0004.png"]
    assert (records[0]["width"], records[0]["error"]) == (28, None)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_erorr": 0.1}, r"predict\(\): found the option max_erorr, expected one of all_files, .*, max_error, .*"),
        ({"max_error": 2}, r"predict\(\): max_error: input should be less than 1, found 2"),
        ({"top_k": "many", "pages": "last"}, r"predict\(\): pages: .*; top_k: .*|predict\(\): top_k: .*; pages: .*"),
        ({"model": "builtin"}, "found `builtin`, but this version of Digits comes without a built-in model"),
        ({"model": 7}, "7"),
        ({"model": Path("nowhere")}, "nowhere: expected an exported model"),
        ({"out": "t.doc"}, "t.doc"),
    ],
)
def test_a_wrong_option_is_one_sentence(scans: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(digits.DigitsError, match=sentence) as caught:
        digits.predict(scans, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("quick")
def test_an_exported_model_predicts_as_version_0(scans: Path, root: Path, tmp_path: Path) -> None:
    """It is in a folder of its own. The path may be a string."""
    onnx = Store(root).open(Registry(Store(root)).version(1).artifact("onnx")).path
    shutil.copytree(onnx, tmp_path / "mine")
    first = digits.predict(scans, model=tmp_path / "mine")
    second = digits.predict(scans, model=str(tmp_path / "mine"))
    assert first.model_version.unique().tolist() == second.model_version.unique().tolist() == [0]
    assert first.prediction.tolist() == second.prediction.tolist() == expected(root, *range(IMAGES))


@pytest.mark.usefixtures("quick")
def test_paths_are_predicted_in_their_order(scans: Path, root: Path, tmp_path: Path) -> None:
    """From several folders, under any name. A file that is missing has a row, and one that is named twice has one."""
    (tmp_path / "more %").mkdir()
    Image.fromarray(draw(9)).save(tmp_path / "more %" / "scan.dat", "PNG")
    paths = [tmp_path / "more %" / "scan.dat", scans / "0003.png", scans / "no.png", str(scans / "0001.png")]
    df = digits.predict([*paths, paths[0]])
    assert df.path.tolist() == ["more %25/scan.dat", "scans/0003.png", "scans/no.png", "scans/0001.png"]
    assert df.prediction.dropna().tolist() == expected(root, 9, 3, 1)
    assert df.status.tolist() == ["ok", "ok", "vanished", "ok"]
    assert df.attrs["summary"]["images"] == 4
    assert digits.predict(pd.Series(paths[:2]), as_records=True)[0]["path"] == "more %25/scan.dat"
    one, other = (Path(digits.predict([path]).attrs["summary"]["out"]) for path in paths[:2])
    assert one != other


@pytest.mark.usefixtures("quick")
def test_images_in_memory_are_predicted_in_their_order(root: Path) -> None:
    """They leave no table behind, unless one is named."""
    before = sorted(root.rglob("*.csv"))
    images = [draw(number) for number in range(12)]
    df = digits.predict(images)
    assert df.prediction.tolist() == expected(root, *range(12))
    assert df.path.tolist() == [f"{number:02}.png" for number in range(12)]
    assert digits.predict(np.stack(images)).prediction.tolist() == df.prediction.tolist()
    assert digits.predict(Image.fromarray(images[3])).prediction.tolist() == expected(root, 3)
    assert digits.predict(images[3].astype(float), as_records=True)[0]["path"] == "0.tif"
    assert sorted(root.rglob("*.csv")) == before
    digits.predict(images[:1], out=root.parent / "t.csv")
    assert digits.read_table(root.parent / "t.csv").path.tolist() == ["0.png"]


@pytest.mark.usefixtures("quick")
def test_files_without_a_row_are_named_in_a_warning(
    scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If the caller has named them, or if there is no other file."""
    (scans / "link.png").symlink_to("0000.png")
    assert len(digits.predict([scans / "link.png", scans / "0001.png"])) == 1
    assert "1 link was not followed" in caplog.messages
    (tmp_path / "empty").mkdir()
    empty = digits.predict(tmp_path / "empty")
    assert (len(empty), str(empty.confidence.dtype)) == (0, "float64")
    assert "0 images; there are no files" in caplog.messages
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


@pytest.mark.parametrize("source", [[], ["a.png", draw(1)]])
def test_a_source_without_images_or_with_both_kinds_is_one_sentence(source: object) -> None:
    with pytest.raises(digits.DigitsError, match=r"predict\(\): found (no image|paths and images in one list)"):
        digits.predict(source)


def test_a_script_is_not_imported_again_by_the_workers(scans: Path, root: Path, tmp_path: Path) -> None:
    """Even if nothing guards its statements. Its folder may hold modules with the names of others."""
    script = tmp_path / "script.py"
    (tmp_path / "random.py").write_text("raise SystemExit('imported by mistake')\n")
    script.write_text(
        f"print('started')\nimport sys\nsys.path.pop(0)\nimport digits\n"
        f"print(len(digits.predict({str(scans)!r}, processes=2, shard_size=1)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        env={"PYTHONPATH": str(HERE), "DIGITS_ARTIFACTS": str(root), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"started\n{IMAGES}\n", done.stderr


def test_predictions_run_in_threads_and_under_an_event_loop(scans: Path) -> None:
    """As in a notebook, whose event loop runs already."""

    async def cell() -> int:
        return len(digits.predict(scans, progress=False))

    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(len(digits.predict([scans / "0000.png"], progress=False))))
    thread.start()
    assert asyncio.run(cell()) == IMAGES
    thread.join()
    assert found == [1]


def test_an_inspection_is_a_picture_in_a_notebook(scans: Path, root: Path, tmp_path: Path) -> None:
    """A file and the same image in memory give the same one. It is written only where `out` says."""
    before = sorted(root.rglob("*.png"))
    found = digits.inspect(scans / "0001.png")
    assert found.best.name == expected(root, 1)[0]
    assert sorted(root.rglob("*.png")) == before
    picture = found._repr_png_()
    assert Image.open(io.BytesIO(picture)).format == "PNG"
    assert digits.inspect(draw(1), out=tmp_path / "i.png")._repr_png_() == picture
    assert (tmp_path / "i.png").read_bytes() == picture
    (tmp_path / "i.png").write_bytes(b"edited")
    with pytest.raises(digits.DigitsError, match="was changed after Digits wrote it"):
        digits.inspect(draw(1), out=tmp_path / "i.png")
    digits.inspect(draw(1), out=tmp_path / "i.png", force=True)
    assert (tmp_path / "i.png").read_bytes() == picture


def test_an_image_that_cannot_be_inspected_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(digits.DigitsError, match=r"a\.png: not-an-image: "):
        digits.inspect(tmp_path / "a.png")
    with pytest.raises(digits.DigitsError, match="image: expected a page from 1 to 1, found 2"):
        digits.inspect(draw(1), page=2)


@pytest.mark.usefixtures("quick")
def test_labels_of_a_frame_are_saved_and_read_back(scans: Path, tmp_path: Path) -> None:
    """Any row may have one, and again after another model was trained. A label that is known is not saved twice."""
    root = tiny_store(tmp_path / "artifacts")
    assert digits.read_labels(artifacts=root).empty
    df = digits.predict(scans, artifacts=root)
    df.loc[[0, 3], "label"] = ["7", "not-a-digit"]
    assert digits.add_labels(df, artifacts=root) == (2, 0)
    assert digits.add_labels(df, artifacts=root) == (0, 2)
    labels = digits.read_labels(artifacts=root)
    assert labels.label.tolist() == ["7", "not-a-digit"]
    assert labels.sha256.tolist() == df.sha256[[0, 3]].tolist()
    assert labels.prediction.tolist() == df.prediction[[0, 3]].tolist()
    kinds = labels.dtypes.astype(str)
    assert (kinds.label, kinds.page, kinds.confidence, kinds.table) == ("category", "Int64", "float64", "string")
    assert labels.when.dt.tz is not None
    other = digits.predict(scans, out=tmp_path / "other.csv", model=export(root, tmp_path / "mine"), artifacts=root)
    rows = [{"sha256": other.sha256[0], "label": 8}, {"sha256": other.sha256[1], "label": None}]
    assert digits.add_labels(rows, table=tmp_path / "other.csv", artifacts=root) == (1, 0)
    assert sorted(digits.read_labels(artifacts=root).label) == ["8", "not-a-digit"]
    df["label"] = [None, 12.0, None, None, None]
    with pytest.raises(digits.DigitsError, match=r"labels: nothing was imported: row 1: '12\.0' is not a label"):
        digits.add_labels(df, artifacts=root)


def export(root: Path, folder: Path) -> Path:
    """Copy the exported model of version 1."""
    return Path(shutil.copytree(Store(root).open(Registry(Store(root)).version(1).artifact("onnx")).path, folder))


def test_labels_without_a_table_or_a_column_are_one_sentence(scans: Path) -> None:
    with pytest.raises(digits.DigitsError, match=r"add_labels\(\): the rows do not say which table they are from"):
        digits.add_labels([{"sha256": "0", "label": 1}])
    df = digits.predict(scans, progress=False)
    with pytest.raises(digits.DigitsError, match=r"add_labels\(\): found no column `label`"):
        digits.add_labels(df)


def test_the_drift_of_a_table_is_a_frame(tmp_path: Path) -> None:
    """It has a shift only for a feature that was compared."""
    out, reference = tmp_path / "t.csv", {"ink": {"edges": [0], "counts": [500, 500]}}
    drift = None
    for number, counts in enumerate(([1_000, 1_000], [100, 0])):
        run = Run("m", {"ink": [0]}, ({"ink": counts},))
        drift = record_run(out, run, plan=str(number), reference=reference)
        if number == 0:
            assert digits.read_drift(out).psi.isna().all()
    write_record(summary_path(out), replace(EMPTY, drift=drift).as_record())
    found = digits.read_drift(out)
    assert found.dtypes.astype(str).to_dict() == {
        "feature": "string",
        "baseline": "Int64",
        "psi": "float64",
        "p": "float64",
        "drifted": "bool",
    }
    assert found[["feature", "baseline", "drifted"]].to_numpy().tolist() == [["amount of ink", 2_000, True]]
    assert found.psi[0] > 0.25
    assert found.attrs["alarm"] is True
    assert found.attrs["baseline"] == "2,000 images, the first ones of the table"
    with pytest.raises(digits.DigitsError, match="found no measured images"):
        digits.read_drift(tmp_path / "no.csv")


def test_a_model_is_evaluated_on_a_folder_of_labelled_images(root: Path, tmp_path: Path) -> None:
    """All images of the folder count. It may lack classes of the model, but not have others."""
    for number in range(40):
        label = expected(root, number)[0] if number % 4 else "7"
        (tmp_path / "mine" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(number)).save(tmp_path / "mine" / label / f"{number}.png")
    paths = sorted((tmp_path / "mine").rglob("*.png"))
    model = digits.load_model(1)
    evaluation = digits.evaluate(model, tmp_path / "mine", progress=False)
    assert (evaluation.count, len(evaluation.class_names)) == (40, 10)
    assert evaluation.accuracy == pytest.approx(model.score(paths, [path.parent.name for path in paths]))
    (tmp_path / "mine" / "7").rename(tmp_path / "mine" / "seven")
    with pytest.raises(
        digits.DigitsError, match="but the dataset has also seven; evaluate it on images of its classes"
    ):
        digits.evaluate("champion", tmp_path / "mine", progress=False)


def test_a_model_is_exported_into_a_folder(root: Path, scans: Path, tmp_path: Path) -> None:
    """It predicts from there. Files of somebody else stay."""
    folder = digits.export_model("champion", tmp_path / "new" / "mine")
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "spec.json"]
    found = digits.load_model(folder)
    assert (found.version, found.predict(scans / "0001.png").tolist()) == (0, expected(root, 1))
    assert digits.export_model(1, folder) == folder
    (folder / "model.onnx").write_bytes(b"edited")
    with pytest.raises(digits.DigitsError, match=r"model\.onnx was changed after Digits wrote it"):
        digits.export_model(1, folder)
    digits.export_model(1, folder, force=True)
    assert digits.load_model(folder).exported.digest == found.exported.digest


def test_a_format_that_a_model_does_not_have_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        digits.DigitsError, match=r"export_model\(\): found the format 'tflite', expected one of onnx, k"
    ):
        digits.export_model(1, tmp_path / "x", "tflite")  # type: ignore[arg-type]
    with pytest.raises(digits.DigitsError, match="version 1 has no Keras model; export it as onnx"):
        digits.export_model(1, tmp_path / "x", "keras")
    assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("quick")
def test_the_notebook_of_the_documentation_runs(
    tmp_path: Path, make_pictures: MakePictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cell by cell, as Jupyter runs it: the last expression of a cell is shown."""
    monkeypatch.setenv("DIGITS_ARTIFACTS", str(tiny_store(tmp_path / "artifacts")))
    monkeypatch.chdir(tmp_path)
    make_pictures(tmp_path / "scans", 8)
    (tmp_path / "scans" / "note.png").write_bytes(b"no image")
    notebook = json.loads((HERE / "docs" / "scans-to-table.ipynb").read_text("utf-8"))
    values: dict[str, Any] = {}
    shown = [run_cell("".join(cell["source"]), values) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    assert [type(one).__name__ for one in shown] == [
        "DataFrame",
        "Series",
        "Inspection",
        "ImportCounts",
        "DataFrame",
        "NoneType",
    ]
    corrected = pd.read_csv(tmp_path / "corrected.csv", dtype="string")
    least = values["df"].confidence.idxmin()
    assert corrected.digit[least] == "7"
    pd.testing.assert_series_equal(
        corrected.digit.drop(least), values["df"].prediction.drop(least).astype("string"), check_names=False
    )


def run_cell(source: str, values: dict[str, Any]) -> Any:
    """Run a cell, and return the value of its last line if that is an expression."""
    *before, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        exec(source, values)  # noqa: S102 - the code of the documentation
        return None
    exec(compile(ast.Module(before, []), "cell", "exec"), values)  # noqa: S102
    return eval(compile(ast.Expression(last.value), "cell", "eval"), values)  # noqa: S307
