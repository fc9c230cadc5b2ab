"""Screenshots of the Prefect UI in the documentation: form, run, summary of a folder, report of a model.

python -m tools.screenshots                 # two minutes; needs Debian's chromium and chromium-driver

A separate system is started, a model trained, and a folder predicted by the form.
"""

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from digits.server.password import read_password
from digits.server.services import client_environment
from tests.support import browser
from tests.support.command import DIGITS
from tests.support.pictures import write_images
from tests.support.server import free_port, untracked

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
IMAGES = 1_204


def main() -> None:
    """Run a system, take the screenshots, and stop the system."""
    parser = argparse.ArgumentParser(description="Take the screenshots of the documentation.")
    parser.add_argument("--out", type=Path, default=PICTURES, help="directory to write to (default: docs/pictures)")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        port = free_port()
        environment = {**untracked(place / "home"), "HOME": name, "DIGITS_ARTIFACTS": str(place / "artifacts")}
        (place / "scans").mkdir()
        write_images(place / "scans" / "2026-11", IMAGES)
        try:
            _digits(environment, "up", "--port", str(port))
            password = read_password(place / "artifacts" / "system") or ""
            os.environ.update(environment, **client_environment(f"http://127.0.0.1:{port}/api", {}, password))
            with browser.chromium(place / "profile") as started:
                browser.log_in(started, f"http://127.0.0.1:{port}", password)
                _save_screenshots(started, f"http://127.0.0.1:{port}", place / "scans" / "2026-11", out)
        finally:
            _digits(environment, "down")


def _digits(environment: dict[str, str], *arguments: str) -> None:
    subprocess.run([DIGITS, *arguments], env=environment, check=True, capture_output=True)


def _save_screenshots(started: Any, ui: str, folder: Path, out: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.deployments import run_deployment

    trained: Any = run_deployment(
        "train/nightly", parameters={"datasets": ["mnist-sample"], "preset": "quick"}, timeout=600
    )
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("predict/folder")
        browser.submit_folder(started, ui, str(deployment.id), folder, out / "ui-form.png")
        run = _wait_for_run(client, deployment.id)
        browser.show(started, f"{ui}/runs/flow-run/{run}", "Completed")
        time.sleep(3)  # until the task graph is drawn
        started.save_screenshot(str(out / "ui-run.png"))
        for kind, chosen, text in (("predictions", run, "Least certain"), ("model-report", trained.id, "Version 1")):
            artifact = _find_artifact(client, kind, chosen)
            browser.show(started, f"{ui}/artifacts/artifact/{artifact}", text)
            browser.wait_for_picture(started)
            started.set_window_size(1400, 2200)
            started.save_screenshot(str(out / f"ui-{kind.removeprefix('model-')}.png"))
            started.set_window_size(1400, 1200)
    print(f"saved ui-form.png, ui-run.png, ui-predictions.png and ui-report.png in {out}", flush=True)


def _wait_for_run(client: Any, deployment: Any) -> Any:
    from prefect.client.schemas.filters import FlowRunFilter

    chosen = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment]}})
    while True:
        for run in client.read_flow_runs(flow_run_filter=chosen):
            if run.state.is_final():
                return run.id
        time.sleep(0.5)


def _find_artifact(client: Any, kind: str, run: Any) -> Any:
    from prefect.client.schemas.filters import ArtifactFilter

    chosen = ArtifactFilter.model_validate({"key": {"like_": f"{kind}-"}, "flow_run_id": {"any_": [run]}})
    (artifact,) = client.read_artifacts(artifact_filter=chosen)
    return artifact.id


if __name__ == "__main__":
    main()
