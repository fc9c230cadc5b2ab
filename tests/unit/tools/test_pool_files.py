"""Tests of the deployments for work pools of type process, docker and kubernetes, without a server."""

import json
import lzma
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from prefect.utilities.templating import apply_values

from tools import pool_files

HERE = Path(__file__).resolve().parents[3]
DATA = HERE / "tests" / "data"
FILES = {
    "process": HERE / "prefect.yaml",
    "docker": HERE / "deploy" / "prefect.docker.yaml",
    "kubernetes": HERE / "deploy" / "prefect.kubernetes.yaml",
}
BASE_TEMPLATES: dict[str, Any] = json.loads(lzma.decompress((DATA / "work-pools.json.xz").read_bytes()))
"""Base job templates of prefect-docker 0.7.4 and prefect-kubernetes 0.8.0."""
OURS: dict[str, Any] = json.loads((HERE / "deploy" / "kubernetes-pool.json").read_text())
JOB_SCHEMA: dict[str, Any] = json.loads(lzma.decompress((DATA / "kubernetes-job.json.xz").read_bytes()))
"""Schema of a Kubernetes 1.34 job that allows no unknown field."""
CONTAINERS = ("docker", "kubernetes")


def deployments(pool: str) -> dict[str, Any]:
    """Return the deployments of a file, by name."""
    return {one["name"]: one for one in yaml.safe_load(FILES[pool].read_text())["deployments"]}


def job_variables(pool: str, name: str) -> dict[str, Any]:
    """Return the job variables of a deployment."""
    return dict(deployments(pool)[name]["work_pool"]["job_variables"])


CASES = [(pool, name) for pool in CONTAINERS for name in deployments(pool)]


@pytest.mark.parametrize("pool", CONTAINERS)
def test_the_files_differ_from_prefect_yaml_in_pool_and_code_alone(pool: str) -> None:
    for name, declared in deployments("process").items():
        other = deployments(pool)[name]
        changed = {key for key in declared | other if declared.get(key) != other.get(key)}
        assert changed == {"work_pool", "pull"}
    text = FILES[pool].read_text()
    assert pool_files.with_deployments(text, FILES["process"].read_text()) == text, "run python -m tools.pool_files"


def test_a_changed_deployment_is_copied() -> None:
    assert (
        pool_files.with_deployments("a\ndeployments:\n- old\n", "b\ndeployments:\n- new\n")
        == "a\ndeployments:\n- new\n"
    )


@pytest.mark.parametrize(("pool", "name"), CASES)
def test_job_variables_match_the_base_job_template(pool: str, name: str) -> None:
    schema = (OURS if pool == "kubernetes" else BASE_TEMPLATES[pool])["variables"]
    jsonschema.validate(job_variables(pool, name), {**schema, "additionalProperties": False})


def test_our_kubernetes_template_keeps_the_variables_of_prefects() -> None:
    """Prefect's variables, their types and defaults, with two volumes besides."""
    theirs = BASE_TEMPLATES["kubernetes"]["variables"]["properties"]
    ours = OURS["variables"]["properties"]
    assert ours.keys() - theirs.keys() == {"artifacts_claim", "images_claim"}
    for name, known in theirs.items():
        kept = {key: value for key, value in ours[name].items() if key not in {"title", "description"}}
        assert kept == known


def render_job(variables: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of a job as the Kubernetes worker fills it in."""
    defaults = {name: field["default"] for name, field in OURS["variables"]["properties"].items() if "default" in field}
    given = {"name": "train-nightly", "command": "prefect flow-run execute", "labels": {"prefect.io/version": "3"}}
    manifest: dict[str, Any] = apply_values(
        OURS["job_configuration"]["job_manifest"], {**defaults, **given, **variables}, remove_notset=True
    )
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": name, "value": value} for name, value in container["env"].items()]
    container["args"] = container["args"].split()
    return without_nothing(manifest)


def without_nothing(value: Any) -> Any:
    """Return a structure without None, which means that a field is not set."""
    if isinstance(value, dict):
        return {key: without_nothing(one) for key, one in value.items() if one is not None}
    return [without_nothing(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", deployments("kubernetes"))
def test_the_rendered_kubernetes_job_matches_its_schema(name: str) -> None:
    variables = job_variables("kubernetes", name)
    job = render_job(variables)
    jsonschema.validate(job, JOB_SCHEMA)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["image"] == variables["image"]
    assert {"name": "DIGITS_ARTIFACTS", "value": "/artifacts"} in container["env"]
    assert {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}["artifacts"] == "/artifacts"


def test_the_schema_finds_a_field_in_the_wrong_place() -> None:
    job = render_job(job_variables("kubernetes", "folder"))
    job["spec"]["template"]["spec"]["completions"] = 1
    with pytest.raises(jsonschema.ValidationError, match="completions"):
        jsonschema.validate(job, JOB_SCHEMA)


@pytest.mark.parametrize("pool", CONTAINERS)
def test_runs_find_code_and_artifacts_in_the_image(pool: str) -> None:
    """The directory of the code and the user's number are those of the Dockerfile."""
    dockerfile = (HERE / "deploy" / "Dockerfile").read_text()
    for declared in deployments(pool).values():
        (step,) = declared["pull"]
        (settings,) = step.values()
        assert f"WORKDIR {settings['directory']}\n" in dockerfile
        assert f"DIGITS_ARTIFACTS={declared['work_pool']['job_variables']['env']['DIGITS_ARTIFACTS']} " in dockerfile
    pod = OURS["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert f"--uid {pod['securityContext']['runAsUser']} " in dockerfile


@pytest.mark.parametrize("pool", CONTAINERS)
def test_only_the_training_uses_the_image_with_tensorflow(pool: str) -> None:
    images = {name: job_variables(pool, name)["image"] for name in deployments(pool)}
    assert {name for name, image in images.items() if "digits-train:" in image} == {"nightly"}
    assert all("digits-predict:" in image for name, image in images.items() if name != "nightly")
