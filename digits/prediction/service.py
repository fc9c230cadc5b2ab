"""Service: prediction with models of the registry; plans, default tables and locks are below the artifact root."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

from digits.errors import RegistryError, StoreError, UsageError, os_errors_as
from digits.images.file_list import STANDARD_INPUT
from digits.model.onnx_model import OnnxModel
from digits.outputs.summary import PredictionSummary
from digits.outputs.table import TableFile
from digits.outputs.table_diff import shadow_path, write_differences
from digits.prediction import planning, publish
from digits.prediction.config import PredictionConfig
from digits.prediction.incremental import ledger_directory
from digits.prediction.own_files import OwnFiles, announce, lock_publication, require_own_files
from digits.prediction.plan import Plan
from digits.prediction.pool import WorkerPool, run_workers
from digits.progress import SILENT, Progress
from digits.store.artifacts import Store
from digits.store.files import hash_file, replacing
from digits.store.records import digest_of
from digits.store.registry import Registry

BUILT_IN = "builtin"
"""Name that is reserved for a model that comes with Digits."""
_single_worker = WorkerPool(1)
_current_pool: ContextVar[WorkerPool] = ContextVar("worker pool", default=_single_worker)


def open_model(store: Store, name: str | Path | OnnxModel) -> OnnxModel:
    """Load and verify an exported model.

    Args:
        store: artifact store.
        name: `champion`, `challenger` or the number of a version; the path of a folder with an exported model, which
            becomes version 0; or a loaded model, which is returned.

    Raises:
        RegistryError: if there is no such version, or no champion.
        StoreError: if its files are missing or damaged.
        ModelError: if a folder has no exported model.
    """
    if isinstance(name, OnnxModel):
        return name
    if isinstance(name, Path) or os.sep in name:
        return OnnxModel.load(Path(name).expanduser().absolute(), version=0)
    if name == BUILT_IN:
        raise RegistryError(
            "found `builtin`, but this version of Digits comes without a built-in model; train one with `digits train`"
        )
    version = Registry(store).resolve(name)
    return OnnxModel.load(store.open(version.artifact("onnx")).path, version=version.number)


def current_pool() -> WorkerPool:
    """Return the worker pool of the enclosing `worker_pool`; outside of one, the process's own pool of one worker."""
    return _current_pool.get()


@contextmanager
def worker_pool(store: Store, source: Path, *, model: str, processes: int | None) -> Iterator[WorkerPool]:
    """Yield a worker pool for a folder, whose workers load the model at once.

    Inside another `worker_pool`, the pool of that one is used.

    Args:
        store: artifact store with the model.
        source: folder to be predicted.
        model: `champion` or the number of a version.
        processes: number of workers; None for one per usable CPU.

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
    """Return the default path of a folder's table, below the artifact root; it depends only on the folder's path."""
    source = source.absolute()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.name).strip("-.") or "images"
    return store.predictions / f"{name[:60]}-{digest_of(ascii(str(source)))[:8]}" / "predictions.csv"


def predict_folder(  # noqa: PLR0913 - input, output, model and options
    store: Store,
    source: Path,
    *,
    out: Path | None = None,
    model: str | Path | OnnxModel = "champion",
    options: PredictionConfig = PredictionConfig(),  # noqa: B008 - immutable
    progress: Progress = SILENT,
) -> PredictionSummary:
    """Predict every image of a folder into a table, with one row per image; an interrupted prediction is resumed.

    See `digits.prediction.publish.predict_folder`.

    Args:
        store: artifact store with the model.
        source: folder, archive or single image.
        out: path of the table; None for `default_table`.
        model: model, as in `open_model`.
        options: prediction settings.
        progress: receiver of the progress, in images.

    Raises:
        UsageError: if the folder cannot be read, the format of the table is unknown, or without `force` a file that
            Digits did not write or that was changed would be overwritten.
        RegistryError: if there is no such model version.
        StoreError: if the disk is full or not writable; run the prediction again to resume it.
    """
    return publish.predict_folder(
        source,
        model=open_model(store, model),
        options=options,
        out=out or default_table(store, source),
        work=store.workspace(store.plans),
        progress=progress,
    )


def predict_shadow(  # noqa: PLR0913 - input, models and options
    store: Store,
    source: Path,
    summary: PredictionSummary,
    *,
    shadow: str,
    options: PredictionConfig = PredictionConfig(),  # noqa: B008 - immutable
    progress: Progress = SILENT,
) -> PredictionSummary:
    """Predict a folder with a second model version, and write the rows in which it differs; see `compare_tables`.

    Args:
        store: artifact store with the models.
        source: folder, archive or single image.
        summary: summary of the prediction with the first version.
        shadow: number of the second version, or `challenger`.
        options: prediction settings.
        progress: receiver of the progress, in images.

    Returns:
        The summary with the result of the comparison.
    """
    with WorkerPool(options.processes) as pool:
        plan = plan_shadow(store, source, shadow=shadow, out=summary.out, options=options)
        run_workers(plan, pool, progress=progress)
        return compare_tables(store, summary, publish.merge_predictions(plan, pool), force=options.force)


@contextmanager
def inbox_lock(store: Store, folder: Path) -> Iterator[bool]:
    """Lock an inbox while the context lasts, and yield whether it was free; create the default inbox if it is missing.

    Raises:
        UsageError: if another inbox is missing, as a folder that is not mounted, or the default one cannot be created.
    """
    with store.try_lock(f"inbox-{digest_of(ascii(str(folder.absolute())))[:32]}") as free:
        if folder.absolute() == store.inbox.absolute():
            with os_errors_as(UsageError, folder, "could not be created", "choose another folder as inbox"):
                folder.mkdir(parents=True, exist_ok=True)
        elif not folder.is_dir():
            raise UsageError(f"{folder}: found no such folder, expected the inbox; mount or create it, or name another")
        yield free


@contextmanager
def temporary_table(store: Store, source: Path, ending: str) -> Iterator[Path]:
    """Yield the path of a table that is removed at the end, with the files beside it.

    The path is the same for each run of a folder, so that an interrupted run is resumed; only a run beside another one
    has a path of its own.

    Args:
        store: artifact store.
        source: folder, archive or single image.
        ending: extension of the table.
    """
    name = f"table-{digest_of(ascii(str(source.absolute())))[:32]}"
    with store.try_lock(name) as free:
        place = store.temporary / (name if free else f"{name}-{secrets.token_hex(8)}")
        try:
            yield place / f"predictions{ending}"
        finally:
            shutil.rmtree(place, ignore_errors=True)


def plan_predictions(store: Store, source: Path, *, model: str, out: Path | None, options: PredictionConfig) -> Plan:
    """Plan the prediction of a folder with a registered model; see `digits.prediction.planning.plan_predictions`."""
    return planning.plan_predictions(
        source,
        model=open_model(store, model),
        options=options,
        out=out or default_table(store, source),
        work=store.workspace(store.plans),
    )


def require_shadow(store: Store, source: Path, *, shadow: str, out: Path | None, options: PredictionConfig) -> None:
    """Check that a second version can be compared, before the first one predicts; see `plan_shadow`.

    Raises:
        UsageError: if the table of differences would overwrite a file that Digits did not write, without `force`.
        RegistryError: if there is no such version.
        StoreError: if its files are missing or damaged.
    """
    open_model(store, shadow)
    table = (out or default_table(store, source)).absolute()
    if not options.force:
        with lock_publication(table, store.workspace(store.plans)):
            require_own_files(_own_files(store, Path(os.path.realpath(source)), table), [shadow_path(table)])


def _own_files(store: Store, source: Path, out: Path) -> OwnFiles:
    return OwnFiles(out, ledger_directory(store.plans, source, out))


def plan_shadow(store: Store, source: Path, *, shadow: str, out: Path, options: PredictionConfig) -> Plan:
    """Plan the prediction of a folder with another version, into a temporary table.

    Args:
        store: artifact store.
        source: folder, archive or single image.
        shadow: number of the version, or `challenger`.
        out: path of the champion's table.
        options: options of the champion's prediction.

    Raises:
        UsageError: if the list of files comes from standard input, which cannot be read twice.
        RegistryError: if there is no such version.
    """
    if options.files_from == STANDARD_INPUT:
        raise UsageError(
            "files_from: found standard input, which cannot be read for two model versions; name a file instead"
        )
    changes = {
        "incremental": False,
        "verify": False,
        "replace_version": None,
        "csv_dialect": "standard",
        "report": False,
    }
    table = store.temporary / f"shadow-{digest_of(ascii(str(out.absolute())))[:32]}" / "predictions.jsonl"
    return plan_predictions(store, source, model=shadow, out=table, options=options.model_copy(update=changes))


def compare_tables(
    store: Store, summary: PredictionSummary, other: PredictionSummary, *, force: bool = False
) -> PredictionSummary:
    """Write the differences between the tables of two versions next to the first table, and remove the second.

    Args:
        store: artifact store.
        summary: summary of the champion's table.
        other: summary of the other version's temporary table.
        force: whether the differences may overwrite a file that Digits did not write.

    Returns:
        The champion's summary, with the number of differing images in `shadow`.

    Raises:
        UsageError: if a file that Digits did not write is in the place of the differences.
        StoreError: if the disk is full or not writable.
    """
    place = shadow_path(summary.out)
    with (
        os_errors_as(StoreError, place, "the differences could not be written", "fix that and run again"),
        lock_publication(summary.out, store.workspace(store.plans)),
        replacing(place) as file,
    ):
        differing = write_differences(TableFile.open(summary.out), TableFile.open(other.out), file)
        file.flush()
        files = _own_files(store, summary.source, summary.out)
        if not force:
            require_own_files(files, [place])
        announce(files, {place.name: hash_file(Path(file.name))}, summary.as_record())
    shutil.rmtree(other.out.parent, ignore_errors=True)
    return replace(summary, shadow={"version": other.model_version, "differing": differing, "table": str(place)})
