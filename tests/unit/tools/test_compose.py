"""Tests of the Compose file: its variables, images, limits and settings."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from digits.server.server_settings import DEFAULT_SETTINGS, REQUIRED_SETTINGS

HERE = Path(__file__).resolve().parents[3]
TEXT = (HERE / "deploy" / "compose.yaml").read_text()
SERVICES: dict[str, Any] = yaml.safe_load(TEXT)["services"]


def test_the_example_of_the_environment_has_every_variable_and_no_other() -> None:
    used = set(re.findall(r"\$\{(\w+)", TEXT))
    example = (HERE / "deploy" / ".env.example").read_text()
    assert used == set(re.findall(r"^(\w+)=", example, re.MULTILINE))


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_limits_a_health_check_and_time_to_stop(service: str) -> None:
    settings = SERVICES[service]
    assert {"memory", "cpus"} <= settings["deploy"]["resources"]["limits"].keys()
    assert settings["healthcheck"]["test"]
    assert settings["stop_grace_period"]


def test_the_server_does_not_start_without_passwords_and_has_the_settings_of_digits_up() -> None:
    environment = SERVICES["server"]["environment"]
    assert environment["PREFECT_SERVER_API_AUTH_STRING"].startswith("${AUTH:?")
    assert SERVICES["database"]["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")
    assert {**REQUIRED_SETTINGS, **DEFAULT_SETTINGS}.items() <= environment.items()
    assert SERVICES["server"]["ports"] == ["127.0.0.1:4200:4200"]


def test_the_password_of_the_database_is_in_no_address() -> None:
    """Characters such as `@` and `/` would end it there."""
    assert "PREFECT_SERVER_DATABASE_CONNECTION_URL" not in TEXT
    assert SERVICES["server"]["environment"]["PREFECT_SERVER_DATABASE_PASSWORD"] == "${POSTGRES_PASSWORD}"  # noqa: S105 - a variable


def test_the_database_has_an_image_by_digest_and_the_others_a_target_of_the_dockerfile() -> None:
    assert re.search(r"@sha256:[0-9a-f]{64}$", SERVICES["database"]["image"])
    dockerfile = (HERE / "deploy" / "Dockerfile").read_text()
    for service in ("server", "worker"):
        target = SERVICES[service]["build"]["target"]
        assert f"FROM base AS {target}\n" in dockerfile
        assert SERVICES[service]["image"].partition("-")[2].endswith(f"-{target}:0.1.0")


def test_only_volumes_and_temporary_directories_are_writable() -> None:
    for service in ("server", "worker"):
        assert SERVICES[service]["read_only"] is True
        assert "/tmp" in SERVICES[service]["tmpfs"]  # noqa: S108 - inside the container
    images = [volume for volume in SERVICES["worker"]["volumes"] if volume.startswith("${IMAGES")]
    assert images[0].endswith(":/images:ro")
