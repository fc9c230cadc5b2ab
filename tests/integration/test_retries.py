"""Retries of tasks: only where the network may recover and nobody waits at a terminal."""

from typing import Any

import pytest
from prefect.states import Failed

from digits.errors import DataError, DownloadError
from tasks.training import download_dataset


@pytest.mark.parametrize(
    ("error", "deployment", "again"),
    [
        (DownloadError("no route"), "0d9b5a34-6b7c-4f6e-8a3f-3d7d6f0f6f11", True),
        (DownloadError("no route"), None, False),
        (DataError("blank images"), "0d9b5a34-6b7c-4f6e-8a3f-3d7d6f0f6f11", False),
    ],
)
def test_only_a_download_of_a_deployment_is_retried(
    monkeypatch: pytest.MonkeyPatch, error: Exception, deployment: str | None, again: bool
) -> None:
    if deployment:
        monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", deployment)
    decide: Any = download_dataset.retry_condition_fn
    assert decide(download_dataset, None, Failed(data=error)) is again
