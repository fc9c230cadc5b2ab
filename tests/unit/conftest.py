"""Fixtures of the unit tests: a tiny network as ONNX, and folders of images."""

import os
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
from tests.support import faults
from tests.support.tiny_model import MakePictures, draw, write_model


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of an exported model. Tests that change it use a copy."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(model_directory: Path) -> OnnxModel:
    """Return the exported model as version 3."""
    return OnnxModel.load(model_directory, version=3)


@pytest.fixture
def make_pictures() -> MakePictures:
    """Return a function that fills a folder with images."""

    def make(folder: Path, count: int) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(draw(number)).save(folder / f"{number:04d}.png")
        return folder

    return make


@pytest.fixture
def without_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync, to save time."""
    monkeypatch.setattr(os, "fsync", faults.no_sync)


@pytest.fixture
def world_readable() -> Iterator[Path]:
    """Yield a directory that other users can reach, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predict without worker processes, which take longer to start than to predict a few images."""

    def run_workers(plan: Plan, *_: object, **__: object) -> None:
        while plan.exists() and plan.pending_shards():
            run_worker(plan)

    monkeypatch.setattr(publish, "run_workers", run_workers)
    monkeypatch.setattr(WorkerPool, "prepare", lambda *_: None)
