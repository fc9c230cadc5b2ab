"""Backups of an artifact root in which models are trained and promoted and an inbox is predicted."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import digits
from digits.errors import RegistryError
from digits.maintenance import integrity
from digits.maintenance.backup import back_up
from digits.maintenance.restore import restore
from digits.outputs.table import read_table
from digits.pipeline import training
from digits.pipeline.champion import Outcome
from digits.pipeline.config import TrainingRun
from digits.prediction import service
from digits.store.artifacts import Store
from digits.store.registry import Registry, champion_stack
from tests.support.small_fits import samples, small_head

BACKUPS = 3
OPTIONS = digits.PredictionConfig(processes=1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with an .npz file of digits to train on, and a folder of digits to predict."""
    place = tmp_path_factory.mktemp("backup")
    train, test = samples()
    np.savez(place / "x.npz", x_train=train.pixels, y_train=train.labels, x_test=test.pixels, y_test=test.labels)
    (place / "scans").mkdir()
    for number, pixels in enumerate(test.pixels):
        Image.fromarray(pixels).save(place / "scans" / f"{number:03}.png")
    return place


def train(place: Path, root: Path, seed: int) -> Outcome:
    """Train a small model, and make it the champion."""
    run = TrainingRun(
        datasets=(str(place / "x.npz"),),
        model=digits.ModelConfig(architecture="mlp", hidden=(32,), dropout=0),
        training=digits.TrainingConfig(epochs=2, batch_size=16, learning_rate=0.005, seed=seed),
        promotion=digits.PromotionPolicy(min_accuracy=0.01),
    )
    outcome = training.train(Store(root), run)
    with suppress(RegistryError):
        Registry(Store(root)).promote(outcome.version, reasons=["a test"])
    return outcome


@contextmanager
def repeated(work: Callable[[int], object]) -> Iterator[threading.Event]:
    """Repeat some work with the numbers 0, 1, 2, ... in a thread; yield an event that is set after the first time."""
    done, stop = threading.Event(), threading.Event()

    def run() -> None:
        for number in count():
            work(number)
            done.set()
            if stop.is_set():
                return

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


def test_a_backup_during_trainings_and_predictions_restores_champion_predictions_and_rollback(
    place: Path, tmp_path: Path
) -> None:
    """Under other paths, with everything intact, and without predicting the images of the inbox again."""
    store = Store(tmp_path / "artifacts")

    def predict(number: int) -> None:
        scan = place / "scans" / f"{number % 100:03}.png"
        shutil.copy2(scan, store.inbox / f"{number:06}.png")
        options = OPTIONS.model_copy(update={"incremental": True})
        service.predict_folder(store, store.inbox, options=options)

    with small_head(), ExitStack() as stack:
        for seed in (1, 2):
            train(place, store.root, seed)
        store.inbox.mkdir()
        trained = stack.enter_context(repeated(lambda number: train(place, store.root, 3 + number)))
        predicted = stack.enter_context(repeated(predict))
        assert trained.wait(300)
        assert predicted.wait(300)
        archives = [back_up(store, tmp_path / f"{n}.tar.zst", tables=True).path for n in range(BACKUPS)]
    for archive in archives:
        new = Store(tmp_path / "elsewhere" / archive.name)
        found = restore(archive, new)
        check_champion(place, store, new, found.about["champion"])
        check_inbox(store, new)


def check_champion(place: Path, store: Store, new: Store, champion: int) -> None:
    """Check that champion, predictions and rollback are those of the time of the backup."""
    assert integrity.verify(new).damaged == []
    assert Registry(new).resolve("champion") == Registry(store).version(champion)
    first = service.predict_folder(store, place / "scans", model=str(champion), options=OPTIONS)
    second = service.predict_folder(new, place / "scans", options=OPTIONS)
    assert second.out.read_bytes() == first.out.read_bytes()
    assert second.model_version == champion
    *_, former, _ = champion_stack(Registry(new).promotions())
    assert Registry(new).roll_back().version == former
    assert service.predict_folder(new, place / "scans", options=OPTIONS).model_version == former
    Registry(new).promote(champion, reasons=["the test continues"])


def check_inbox(store: Store, new: Store) -> None:
    """Check that the restored table and ledger match, once the images are where they were."""
    table = service.default_table(new, new.inbox)
    rows = list(read_table(table))
    new.inbox.mkdir()
    for row in rows:
        shutil.copy2(store.inbox / row["path"], new.inbox)
    versions = {row["model_version"] for row in rows}
    plan = service.plan_predictions(
        new,
        new.inbox,
        model=str(versions.pop()),
        out=None,
        options=OPTIONS.model_copy(update={"incremental": True}),
    )
    assert not versions
    assert (plan.images, plan.rows, plan.out) == (0, len(rows), table)
