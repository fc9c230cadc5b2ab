"""Tests of the page beside a table: what each kind of run shows in it, and when it is written."""

import base64
import io
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from PIL import Image

from digits.cli.commands import app
from digits.cli.predict import read_options
from digits.model.onnx_model import OnnxModel
from digits.outputs.summary import PredictionSummary, report_path, summary_path
from digits.outputs.table import read_table
from digits.prediction.config import PredictionConfig, command_for
from digits.prediction.publish import predict_folder
from digits.prediction.worker import FLAGGED_KEPT, LEAST_CERTAIN_KEPT, THUMBNAIL
from digits.store.records import read_record
from tests.support.pages import Page
from tests.support.tiny_model import add_novelty_output, draw, write_model

pytestmark = pytest.mark.usefixtures("in_this_process")
HOSTILE = "<img src=x onerror=alert(1)>.png"
IMAGES = LEAST_CERTAIN_KEPT + 5


class Job:
    """Folder that is predicted into a table with a report; the model rejects dense images."""

    def __init__(self, root: Path) -> None:
        add_novelty_output(write_model(root / "model"), above=2.43, temperature=1.0, steps=[[0.36, 100, 1, 0.04]])
        self.root, self.folder, self.out = root, root / "in", root / "out" / "t.csv"
        self.model = OnnxModel.load(root / "model", version=1)
        self.folder.mkdir()

    def draw(self, name: str, seed: int, side: int = 28) -> None:
        """Draw an image, enlarged to a side."""
        Image.fromarray(draw(seed)).resize((side, side), Image.Resampling.NEAREST).save(self.folder / name)

    def run(self, source: Path | None = None, **options: Any) -> PredictionSummary:
        """Predict."""
        config = PredictionConfig(max_error=0.05, shard_size=8, **options)
        return predict_folder(
            source or self.folder, model=self.model, options=config, out=self.out, work=self.root / "work"
        )

    def page(self) -> Page:
        """Return the report."""
        return Page(report_path(self.out).read_text("utf-8"))

    def pictures(self) -> dict[str, list[Image.Image]]:
        """Return the pictures of the report by the names below them."""
        found: dict[str, list[Image.Image]] = {}
        for image in self.page().all("img"):
            content = base64.b64decode(str(image["src"]).partition(",")[2])
            found.setdefault(str(image["alt"]), []).append(Image.open(io.BytesIO(content)))
        return found


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Thirty images in several shards, of which some are flagged."""
    made = Job(tmp_path)
    for number in range(IMAGES):
        made.draw(f"{number:02}.png", number)
    return made


def test_a_report_shows_the_least_certain_and_the_first_flagged_images(job: Job) -> None:
    """Each as it is, or reduced; however many there are."""
    job.draw(HOSTILE, 0, side=400)
    summary = job.run()
    assert {"ok", "uncertain", "not-a-digit"} <= summary.statuses.keys()
    flagged = {status: [image.path for image in images] for status, images in summary.flagged.items()}
    rows = read_rows(job)
    for status, paths in flagged.items():
        assert paths == [path for path, found in rows if found == status][:FLAGGED_KEPT]
    page, shown = job.page(), job.pictures()
    assert sum(map(len, shown.values())) == LEAST_CERTAIN_KEPT + sum(map(len, flagged.values()))
    assert "no picture" not in page.texts
    name = summary.least_certain[0].path
    expected = np.asarray(Image.open(job.folder / name))
    if name != HOSTILE:
        assert np.array_equal(np.asarray(shown[name][0]), expected)
    sizes = {image.size for images in shown.values() for image in images}
    assert sizes <= {(28, 28), (THUMBNAIL, THUMBNAIL)}
    assert {"script", "iframe"}.isdisjoint(tag for tag, _ in page.elements)


def read_rows(job: Job) -> list[tuple[str, str]]:
    """Return path and status of each row."""
    return [(row["path"], row["status"]) for row in read_table(job.out)]


def test_a_large_image_has_a_small_thumbnail(tmp_path: Path) -> None:
    """Also with a hostile name; the single result is first."""
    job = Job(tmp_path)
    job.draw(HOSTILE, 1, side=700)
    summary = job.run(job.folder / HOSTILE)
    assert summary.single is not None
    (images,) = job.pictures().values()
    assert {image.size for image in images} == {(THUMBNAIL, THUMBNAIL)}
    assert [image["alt"] for image in job.page().all("img")] == [HOSTILE] * len(images)


def test_a_report_of_an_archive_and_of_pages_has_pictures(job: Job, tmp_path: Path) -> None:
    """They are not read again, so it does not matter where they are."""
    first, *others = [Image.fromarray(draw(seed)) for seed in range(3)]
    first.save(job.folder / "pages.tiff", save_all=True, append_images=others)
    job.run()
    plain = {name: len(images) for name, images in job.pictures().items()}
    job.run(Path(shutil.make_archive(str(tmp_path / "packed"), "gztar", job.folder)))
    assert {name: len(images) for name, images in job.pictures().items()} == plain


def test_an_incremental_run_shows_the_images_of_earlier_runs(job: Job) -> None:
    """The report is that of a complete run but for the facts about the run itself."""
    job.run(incremental=True)
    before = job.pictures()
    job.draw("30.png", 77)
    assert job.run(incremental=True).unchanged == IMAGES
    after = job.pictures()
    job.run()
    whole = job.pictures()
    assert after.keys() == whole.keys()
    assert before.keys() & after.keys()
    assert "no picture" not in job.page().texts


def test_a_report_is_removed_when_it_is_not_asked_for(job: Job) -> None:
    """The summary does not name it then."""
    job.run()
    assert report_path(job.out).name in read_record(summary_path(job.out))["files"]
    job.run(report=False)
    assert not report_path(job.out).exists()
    assert report_path(job.out).name not in read_record(summary_path(job.out))["files"]


def test_a_folder_without_images_has_a_report(tmp_path: Path) -> None:
    job = Job(tmp_path)
    (job.folder / "note.txt").write_text("mine")
    job.run()
    assert "1 other file is no image" in job.page().texts


def test_the_command_in_a_report_has_the_options_of_the_run(tmp_path: Path) -> None:
    """The command line reads them back. A command that is copied does not overwrite files of others."""
    given = {
        "recursive": False,
        "include": ("*.png", "a b"),
        "max_error": 0.01,
        "top_k": 3,
        "probabilities": True,
        "normalize": "mnist",
        "files_from": Path("/list"),
        "other_formats": ("TGA", "QOI"),
        "pages": "first",
        "max_pixels": 10,
        "report": False,
        "csv_dialect": "excel",
        "shard_size": 7,
        "force": True,
    }
    command = command_for(tmp_path / "my scans", Path("/t.csv"), 3, PredictionConfig(**given))
    words = command.split(" --", 1)[0]
    assert words == f"digits predict '{tmp_path}/my scans'"
    commands: Any = typer.main.get_command(app)
    context = commands.commands["predict"].make_context("predict", shlex.split(command)[2:])
    names = {"other_format": "other_formats"}
    values = {names.get(name, name): value for name, value in context.params.items()}
    known = {name: value or None for name, value in values.items() if name in PredictionConfig.model_fields}
    known |= {name: values[name] for name in ("recursive", "report")}
    assert read_options(None, **known) == PredictionConfig(**{**given, "shard_size": 2_000, "force": False})
    assert (values["out"], values["model"]) == (Path("/t.csv"), "3")
