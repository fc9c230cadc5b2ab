"""Python API: predictions of folders, paths and images in memory, in scripts, threads and event loops."""

import asyncio
import logging
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import digits
from digits.model.onnx_model import Predictor
from digits.prediction.service import open_model
from digits.store.artifacts import Store
from digits.store.registry import Registry
from tests.support.networks import tiny_store
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
