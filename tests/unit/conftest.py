"""What the tests of prediction share: a tiny network as ONNX, and folders of pictures."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from digits.model.onnx_model import OnnxModel
from digits.prediction import publish
from digits.prediction.plan import Plan
from digits.prediction.pool import WorkerPool
from digits.prediction.worker import run_worker
from tests.support.tiny_model import MakePictures, draw, write_model


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model; tests that change it take a copy."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(model_directory: Path) -> OnnxModel:
    """The same, as version 3."""
    return OnnxModel.load(model_directory, version=3)


@pytest.fixture
def make_pictures() -> MakePictures:
    """Give a function that fills a folder with pictures."""

    def make(folder: Path, count: int) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(draw(number)).save(folder / f"{number:04d}.png")
        return folder

    return make


@pytest.fixture
def world_readable() -> Iterator[Path]:
    """A directory that other users can reach, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have predictions made without worker processes, which take longer to start than a few images to predict."""

    def run_workers(plan: Plan, *_: object, **__: object) -> None:
        while plan.exists() and plan.pending_shards():
            run_worker(plan)

    monkeypatch.setattr(publish, "run_workers", run_workers)
    monkeypatch.setattr(WorkerPool, "prepare", lambda *_: None)
