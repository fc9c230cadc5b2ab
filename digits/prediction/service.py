"""Prediction with a registered model: the registry and the artifact store on one side, the engine on the other."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

from digits.errors import StoreError, UsageError, os_errors_as
from digits.images.file_list import STANDARD_INPUT
from digits.model.onnx_model import ModelFiles
from digits.outputs.summary import PredictionSummary
from digits.outputs.table import TableFile
from digits.outputs.table_diff import shadow_path, write_differences
from digits.prediction import planning
from digits.prediction.config import PredictionConfig
from digits.prediction.plan import Plan
from digits.prediction.pool import WorkerPool
from digits.store.artifacts import Store
from digits.store.records import digest_of
from digits.store.registry import Registry

_single_worker = WorkerPool(1)
_current_pool: ContextVar[WorkerPool] = ContextVar("worker pool", default=_single_worker)


def open_model(store: Store, name: str) -> ModelFiles:
    """Find the model that `champion` or a version's number stands for, verified.

    Raises:
        RegistryError: there is no such version, or no champion.
        StoreError: its files are missing or damaged.
    """
    version = Registry(store).resolve(name)
    return ModelFiles.load(store.open(version.artifact("onnx")).path, version=version.number)


def current_pool() -> WorkerPool:
    """Return the worker pool of the enclosing `worker_pool`, or a pool of one worker that the process keeps."""
    return _current_pool.get()


@contextmanager
def worker_pool(store: Store, source: Path, *, model: str, processes: int | None) -> Iterator[WorkerPool]:
    """Start a worker pool for a folder, whose workers load the model at once; inside another `worker_pool`, use its.

    Args:
        store: artifact store with the model.
        source: folder to be predicted.
        model: `champion` or the number of a version.
        processes: number of workers; None: one per usable CPU.

    Raises:
        RegistryError: if there is no such model.
        StoreError: if its files are missing or damaged, or no process can be started.
    """
    if (pool := current_pool()) is not _single_worker:
        yield pool
        return
    with WorkerPool(processes) as pool:
        pool.prepare(source, open_model(store, model))
        token = _current_pool.set(pool)
        try:
            yield pool
        finally:
            _current_pool.reset(token)


def default_table(store: Store, source: Path) -> Path:
    """Say where the table of a folder goes when nobody said: the same place for the same folder."""
    source = source.absolute()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.name).strip("-.") or "images"
    return store.predictions / f"{name[:60]}-{digest_of(ascii(str(source)))[:8]}" / "predictions.csv"


@contextmanager
def inbox_lock(store: Store, folder: Path) -> Iterator[bool]:
    """Be the only run at an inbox while the context lasts, and tell whether that is so; make the folder if it is not.

    Raises:
        UsageError: the folder is not there and can't be made.
    """
    with os_errors_as(UsageError, folder, "could not be made", "the inbox must be a folder"):
        folder.mkdir(parents=True, exist_ok=True)
    with store.try_lock(f"inbox-{digest_of(ascii(str(folder.absolute())))[:32]}") as free:
        yield free


def plan_predictions(store: Store, source: Path, *, model: str, out: Path | None, options: PredictionConfig) -> Plan:
    """List a folder and plan its prediction; see `digits.prediction.planning.plan_predictions`."""
    return planning.plan_predictions(
        source,
        model=open_model(store, model),
        options=options,
        out=out or default_table(store, source),
        work=store.workspace(store.plans),
    )


def plan_shadow(store: Store, source: Path, *, shadow: str, out: Path, options: PredictionConfig) -> Plan:
    """Plan the prediction of a folder with another version, into a table of its own that nobody keeps.

    Args:
        store: where models are.
        source: the folder.
        shadow: a version's number, or `challenger`.
        out: the champion's table.
        options: how the champion predicts.

    Raises:
        UsageError: the list of files was read from the standard input, which can't be read twice.
        RegistryError: there is no such version.
    """
    if options.files_from == STANDARD_INPUT:
        raise UsageError("files_from: to predict with two versions, give the list of files as a file")
    alone = {"incremental": False, "verify": False, "replace_version": None}
    table = store.temporary / f"shadow-{digest_of(ascii(str(out.absolute())))[:32]}" / "predictions.jsonl"
    return plan_predictions(store, source, model=shadow, out=table, options=options.model_copy(update=alone))


def compare_tables(summary: PredictionSummary, other: PredictionSummary) -> PredictionSummary:
    """Write where the tables of two versions differ, beside the first one; drop the second; give the first's summary.

    Raises:
        StoreError: the disk is full, or can't be written to.
    """
    place = shadow_path(summary.out)
    with os_errors_as(StoreError, place, "the differences could not be written", "run again"):
        differing = write_differences(TableFile.open(summary.out), TableFile.open(other.out), place)
    shutil.rmtree(other.out.parent, ignore_errors=True)
    return replace(summary, shadow={"version": other.model_version, "differing": differing, "table": str(place)})
