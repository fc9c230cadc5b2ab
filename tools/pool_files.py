"""Deployments for other work pools: `deploy/prefect.docker.yaml` and `deploy/prefect.kubernetes.yaml`.

python -m tools.pool_files                  # after a change of the deployments in prefect.yaml

The two files have their own definitions at the top. All from the line `deployments:` on is copied from prefect.yaml.
"""

from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
SOURCE = HERE / "prefect.yaml"
FILES = (HERE / "deploy" / "prefect.docker.yaml", HERE / "deploy" / "prefect.kubernetes.yaml")
_START = "\ndeployments:\n"


def with_deployments(text: str, source: str) -> str:
    """Return a declaration with the deployments of another one."""
    return text.partition(_START)[0] + _START + source.partition(_START)[2]


def main() -> None:
    """Write the files."""
    source = SOURCE.read_text("utf-8")
    for file in FILES:
        file.write_text(with_deployments(file.read_text("utf-8"), source), "utf-8")


if __name__ == "__main__":
    main()
