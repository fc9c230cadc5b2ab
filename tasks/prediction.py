"""The Prefect steps of batch prediction: plan, groups of shards, table."""

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

from digits.outputs.summary import PredictionSummary
from digits.prediction import publish, service
from digits.prediction.config import PredictionConfig
from digits.prediction.plan import Plan, remove_plan
from digits.prediction.pool import run_workers
from tasks.edge import library_log, log_to_run, open_store, progress_for, tell


@contextmanager
def workers(folder: Path, model: str, processes: int | None, root: Path | None) -> Iterator[None]:
    """Start the worker processes of a flow, which load the model while the folder is listed.

    Args:
        folder: folder to be predicted.
        model: `champion` or the number of a version.
        processes: number of processes; None: one per usable CPU.
        root: artifact root.
    """
    with service.worker_pool(open_store(root), folder, model=model, processes=processes):
        yield


@contextmanager
def inbox_lock(folder: Path, root: Path | None) -> Iterator[bool]:
    """Have an inbox for oneself, if nobody else is at it, and tell whether that is so; make it if there is none.

    The kernel ends the turn of a run that was killed.
    """
    store = open_store(root)
    with service.inbox_lock(store, folder) as ours:
        yield ours


@task(name="plan", task_run_name="plan {folder.name}", cache_policy=NO_CACHE)
def plan_predictions(folder: Path, model: str, out: Path | None, options: PredictionConfig, root: Path | None) -> Plan:
    """List the folder once, and cut the listing into shards."""
    return service.plan_predictions(open_store(root), folder, model=model, out=out, options=options)


@task(name="plan shadow", task_run_name="plan {folder.name} with model {shadow}", cache_policy=NO_CACHE)
def plan_shadow(folder: Path, shadow: str, out: Path, options: PredictionConfig, root: Path | None) -> Plan:
    """Plan the prediction with another version too."""
    return service.plan_shadow(open_store(root), folder, shadow=shadow, out=out, options=options)


@task(name="compare", task_run_name="compare the tables of two versions", cache_policy=NO_CACHE)
def compare_tables(summary: PredictionSummary, other: PredictionSummary) -> PredictionSummary:
    """Write where another version's table differs, and drop that table."""
    log_to_run()
    return service.compare_tables(summary, other)


def require_version(name: str, root: Path | None) -> None:
    """See that a version is there before anything is predicted with another one."""
    service.open_model(open_store(root), name)


def name_run(name: str) -> None:
    """Give the flow run a better name, now that more is known."""
    context = FlowRunContext.get()
    if context and context.flow_run:
        with get_client(sync_client=True) as client:
            client.update_flow_run(context.flow_run.id, name=name)


def leave_as_it_is(plan: Plan) -> str:
    """Tell that an inbox has nothing new, and drop the plan that found so; give the sentence."""
    sentence = f"nothing is new in {plan.source}: its {plan.rows:,} images are in {plan.out}"
    library_log.info("%s", sentence)
    remove_plan(plan.path)
    tell("digits.inbox.empty", f"digits.inbox.{plan.source.name}", str(plan.source), table=str(plan.out))
    return sentence


def group_name() -> str:
    """Name a task after its shards, counted from 1: `predict shards 3-4 of 32`."""
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
    """Make the part files of neighbouring shards in a worker process; give the number of images."""
    log_to_run()
    run_workers(plan, service.current_pool(), shards=shards)
    return sum(map(plan.images_in, shards))


def predict_shards(plan: Plan) -> float:
    """Have the flow's task runner make all part files, a task a group of shards, with the workers that there are.

    One task more than there are workers is under way, so that none of these waits for Prefect.

    Args:
        plan: what is committed is not done again.

    Returns:
        When it began, as seconds since the epoch.
    """
    started, most = time.time(), service.current_pool().size
    ended = SimpleQueue[PrefectFuture[int]]()
    groups = iter(plan.groups(most))
    bar = progress_for("prediction-progress").start("Predicting", plan.images)
    try:
        running = _submit(plan, islice(groups, most + 1), ended)
        while running:
            bar.advance(ended.get().result())
            running += _submit(plan, islice(groups, 1), ended) - 1
    finally:
        bar.close()
    return started


def _submit(plan: Plan, groups: Iterable[range], ended: SimpleQueue[PrefectFuture[int]]) -> int:
    """Begin a task for each group, which comes to the queue when it has ended; give their number."""
    futures = [predict_group.submit(plan, group) for group in groups]
    for future in futures:
        future.add_done_callback(ended.put)
    return len(futures)


@task(name="merge", task_run_name="write the table", cache_policy=NO_CACHE)
def merge_predictions(plan: Plan, started: float) -> PredictionSummary:
    """Verify the parts and publish the table; what was done before `started` counts as taken over."""
    log_to_run()
    return publish.merge_predictions(plan, service.current_pool(), started=started)
