"""The Prefect steps of batch prediction: plan, shards, table."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from digits import predictions, serving
from digits.config import PredictionConfig
from digits.plans import Plan
from digits.summaries import PredictionSummary
from tasks.edge import open_store, progress


@task(name="plan", task_run_name="plan {folder.name}", cache_policy=NO_CACHE)
def plan_predictions(folder: Path, model: str, out: Path | None, options: PredictionConfig, root: Path | None) -> Plan:
    """List the folder once, and cut the listing into shards."""
    return serving.plan(open_store(root), folder, model=model, out=out, options=options)


@task(name="predict", task_run_name="predict {plan.images} images", cache_policy=NO_CACHE)
def predict_shards(plan: Plan, processes: int | None) -> None:
    """Make the part file of every shard that has none yet, in worker processes."""
    with predictions.Crew() as crew:
        predictions.run_workers(plan, crew, processes=processes, progress=progress.get())


@task(name="merge", task_run_name="write the table", cache_policy=NO_CACHE)
def merge_predictions(plan: Plan) -> PredictionSummary:
    """Verify the parts and publish the table."""
    return predictions.merge(plan)
