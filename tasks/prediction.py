"""Tasks of prediction: plan, predict groups of shards, and publish the table."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from queue import SimpleQueue

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture

from digits import run_log
from digits.outputs.summary import PredictionSummary
from digits.prediction import publish, service
from digits.prediction.config import PredictionConfig
from digits.prediction.plan import Plan, remove_plan
from digits.prediction.pool import run_workers
from digits.store.registry import CHAMPION, Registry
from digits.wording import count
from tasks.edge import emit, library_log, log_lines, log_to_run, open_store, progress_for


@contextmanager
def worker_pool(folder: Path, model: str, processes: int | None, root: Path | None) -> Iterator[None]:
    """Start the worker pool of a flow, whose workers load the model while the folder is listed.

    Args:
        folder: folder to be predicted.
        model: `champion` or the number of a version.
        processes: number of workers; None for one per usable CPU.
        root: artifact root.
    """
    with service.worker_pool(open_store(root), folder, model=model, processes=processes):
        yield


@contextmanager
def inbox_lock(folder: Path, root: Path | None) -> Iterator[bool]:
    """Lock an inbox, and create the default one if it is missing; yield False if another run holds the lock.

    The kernel releases the lock of a run that was killed.
    """
    with service.inbox_lock(open_store(root), folder) as held:
        yield held


@task(name="plan", task_run_name="plan {folder.name}", cache_policy=NO_CACHE)
def plan_predictions(folder: Path, model: str, out: Path | None, options: PredictionConfig, root: Path | None) -> Plan:
    """List the folder once, and cut the listing into shards."""
    plan = service.plan_predictions(open_store(root), folder, model=model, out=out, options=options)
    log_lines([run_log.plan_line(plan)])
    return plan


@task(name="plan shadow", task_run_name="plan {folder.name} with model {shadow}", cache_policy=NO_CACHE)
def plan_shadow(folder: Path, shadow: str, out: Path, options: PredictionConfig, root: Path | None) -> Plan:
    """Plan the prediction of the folder with a second model version."""
    return service.plan_shadow(open_store(root), folder, shadow=shadow, out=out, options=options)


@task(name="compare", task_run_name="compare the tables of two versions", cache_policy=NO_CACHE)
def compare_tables(
    summary: PredictionSummary, other: PredictionSummary, options: PredictionConfig, root: Path | None
) -> PredictionSummary:
    """Write the rows on which the tables of two versions differ, and remove the table of the second version."""
    log_to_run()
    return service.compare_tables(open_store(root), summary, other, force=options.force)


def require_shadow(folder: Path, shadow: str, out: Path | None, options: PredictionConfig, root: Path | None) -> None:
    """Check that a second model version can be compared, before anything is predicted."""
    service.require_shadow(open_store(root), folder, shadow=shadow, out=out, options=options)


def lacks_champion(model: str, root: Path | None) -> bool:
    """Return whether a run needs a champion, and no model version was promoted yet."""
    return model == CHAMPION and Registry(open_store(root)).champion() is None


def log_summary(summary: PredictionSummary) -> None:
    """Write the result of a prediction to the log of the run; images that could not be read are a warning."""
    log_lines(run_log.prediction_lines(summary))
    if failures := run_log.failure_line(summary):
        library_log.warning("%s", failures)


def name_run(name: str) -> None:
    """Rename the flow run."""
    context = FlowRunContext.get()
    if context and context.flow_run:
        with get_client(sync_client=True) as client:
            client.update_flow_run(context.flow_run.id, name=name)


def discard_plan(plan: Plan) -> str:
    """Remove the plan of an inbox without new images, and emit an event; return the final message of the run."""
    sentence = f"nothing is new in {plan.source}: its {count(plan.rows, 'image is', 'images are')} in {plan.out}"
    remove_plan(plan.path)
    emit("digits.inbox.empty", f"digits.inbox.{plan.source.name}", str(plan.source), table=str(plan.out))
    return sentence


def group_name() -> str:
    """Return the name of a task run with its shards, counted from 1: `predict shards 3-4 of 32`."""
    from prefect.runtime import task_run

    shards: range = task_run.parameters["shards"]
    count = task_run.parameters["plan"].shards.stop
    first, last = shards.start + 1, shards.stop
    return f"predict shard {last} of {count}" if first == last else f"predict shards {first}-{last} of {count}"


@task(
    name="predict",
    task_run_name=group_name,
    cache_policy=NO_CACHE,
)
def predict_group(plan: Plan, shards: range) -> int:
    """Predict consecutive shards in worker processes, and commit their part files; return the number of images."""
    log_to_run()
    run_workers(plan, service.current_pool(), shards=shards)
    return sum(map(plan.images_in, shards))


def predict_shards(plan: Plan, root: Path | None) -> float:
    """Predict all shards of a plan, with one task per group of shards; return the start time in seconds (Unix time).

    Shards that are already committed are skipped. There is always one submitted task more than there are workers, so
    that no worker waits for Prefect.
    """
    started, workers = time.time(), service.current_pool().size
    log_lines([run_log.workers_line(plan, workers)])
    ended = SimpleQueue[PrefectFuture[int]]()
    groups = iter(plan.groups(workers))
    bar = progress_for("prediction-progress", root).start("Predicting", plan.images)
    try:
        running = _submit(plan, islice(groups, workers + 1), ended)
        while running:
            bar.advance(ended.get().result())
            running += _submit(plan, islice(groups, 1), ended) - 1
    finally:
        bar.close()
    return started


def _submit(plan: Plan, groups: Iterable[range], ended: SimpleQueue[PrefectFuture[int]]) -> int:
    """Submit one task per group; return the number of tasks. Each task is put on the queue when it has ended."""
    futures = [predict_group.submit(plan, group) for group in groups]
    for future in futures:
        future.add_done_callback(ended.put)
    return len(futures)


@task(name="merge", task_run_name="write the table", cache_policy=NO_CACHE)
def merge_predictions(plan: Plan, started: float) -> PredictionSummary:
    """Verify the part files and publish the table; shards that began before `started` count as reused."""
    log_to_run()
    return publish.merge_predictions(plan, service.current_pool(), started=started)
