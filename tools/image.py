"""Image build without a container engine: the steps of deploy/Dockerfile in copies of a Debian root directory.

    debootstrap --variant=minbase bookworm /tmp/debian
    python -m tools.image /tmp/debian predict --out /tmp/image      # as root, on Linux; needs rsync

The base image is replaced by the Debian root, with Debian's Python and the setuptools that the base image contains.
Each stage is a directory under `--out`. At the end the size of the environment is printed.

It knows the instructions that deploy/Dockerfile uses. ENTRYPOINT, CMD and HEALTHCHECK are printed, not run.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
DOCKERFILE = HERE / "deploy" / "Dockerfile"
_BASE = (
    "apt-get update -qq && apt-get install -y -qq --no-install-recommends python3 python3-pip python3-venv "
    "ca-certificates netbase tzdata > /dev/null && ln -sf python3 /usr/bin/python "
    "&& python -m pip install -q --break-system-packages setuptools==79.0.1 wheel==0.46.3"
)


@dataclass(frozen=True)
class Step:
    """Instruction of a Dockerfile.

    Args:
        name: instruction in capitals, such as `RUN`.
        text: what follows it.
    """

    name: str
    text: str


@dataclass
class Stage:
    """Stage of a Dockerfile: its base, its steps, and the settings that they have changed so far.

    Args:
        base: name of the stage or image that it starts from.
        steps: its instructions, without FROM.
    """

    base: str
    steps: list[Step] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    directory: str = "/"
    user: str = "0:0"


def parse_dockerfile(text: str) -> dict[str, Stage]:
    """Return the stages of a Dockerfile by name, in order."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    current = Stage("")
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            base, _, label = rest.partition(" AS ")
            current = stages[label.strip()] = Stage(_expand(base.strip(), arguments))
        elif name == "ARG":
            variable, _, value = rest.partition("=")
            arguments[variable] = value
        else:
            current.steps.append(Step(name, rest.strip()))
    return stages


def needed_stages(stages: Mapping[str, Stage], target: str) -> list[str]:
    """Return the names of the stages that a target is built from, in the order of the Dockerfile."""
    needed, waiting = set[str](), [target]
    while waiting:
        name = waiting.pop()
        if name in stages and name not in needed:
            needed.add(name)
            copied = (re.match(r"--from=(\S+)", step.text) for step in stages[name].steps)
            waiting += [stages[name].base, *(found[1] for found in copied if found)]
    return [name for name in stages if name in needed]


def _expand(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda found: values.get(found[1], ""), text)


@dataclass(frozen=True)
class Builder:
    """Builder of stages in directories.

    Args:
        debian: Debian root that stands for the base image.
        out: directory of the stages.
        binds: paths of this machine that the steps see, such as a mirror of packages.
    """

    debian: Path
    out: Path
    binds: tuple[Path, ...]

    def build(self, stages: Mapping[str, Stage], target: str) -> Path:
        """Build a target and all that it needs; return its root directory."""
        base = self.out / "base-image"
        if not base.is_dir():
            self._copy(self.debian, base)
            run_in(base, ["sh", "-c", _BASE], Stage(""), self.binds)
        for name in needed_stages(stages, target):
            stage = stages[name]
            parent = stages.get(stage.base)
            if parent:
                stage.environment.update(parent.environment)
                stage.directory, stage.user = parent.directory, parent.user
            self._copy(self.out / (stage.base if parent else "base-image"), self.out / name)
            for step in stage.steps:
                print(f"{name}: {step.name} {' '.join(step.text.split())[:110]}", flush=True)
                self._apply(self.out / name, stage, step)
        return self.out / target

    def _apply(self, root: Path, stage: Stage, step: Step) -> None:
        if step.name == "RUN":
            run_in(root, ["sh", "-c", step.text], stage, self.binds)
        elif step.name == "COPY":
            self._copy_files(root, stage, step.text.split())
        elif step.name == "ENV":
            values = {"PATH": "/usr/local/bin:/usr/bin:/bin", **stage.environment}
            pairs = (pair.partition("=") for pair in step.text.split())
            stage.environment.update({name: _expand(value, values) for name, _, value in pairs})
        elif step.name == "WORKDIR":
            stage.directory = step.text
            (root / step.text.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif step.name == "USER":
            stage.user = step.text

    def _copy_files(self, root: Path, stage: Stage, words: Sequence[str]) -> None:
        source = self.out / words[0].removeprefix("--from=") if words[0].startswith("--from=") else None
        *files, to = words[1:] if source else words
        target = root / os.path.join(stage.directory, to).lstrip("/")  # noqa: PTH118 - an absolute part replaces it
        for file in files:
            if source:
                self._copy(source / file.lstrip("/"), target)
            elif (HERE / file).is_dir():
                ignored = ["--exclude=__pycache__", "--exclude=.env", "--exclude=/.*", "--exclude=/artifacts"]
                _call(["rsync", "-a", "--chown=0:0", *ignored, f"{HERE / file}/", f"{target}/"])
            else:
                _call(["rsync", "-a", "--chown=0:0", str(HERE / file), f"{target}/" if to.endswith("/") else target])

    def _copy(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        _call(["rsync", "-a", "--delete", f"{source}/", f"{target}/"])


def run_in(root: Path, command: Sequence[str], stage: Stage, binds: Sequence[Path] = ()) -> None:
    """Run a command in a root directory, with /proc, /dev and some paths of this machine mounted in its own namespace.

    Raises:
        CalledProcessError: if it fails.
    """
    mounts = [f"mount -t proc proc {root}/proc", f"mount --rbind /dev {root}/dev"]
    for path in (Path("/etc/resolv.conf"), *binds):
        inside = root / str(path).lstrip("/")
        make = f"mkdir -p {inside}" if path.is_dir() else f"mkdir -p {inside.parent} && touch {inside}"
        mounts += [make, f"mount --rbind {path} {inside}"]
    variables = " ".join(f"{name}={value}" for name, value in stage.environment.items())
    kept = " ".join(f"{name}={os.environ[name]}" for name in os.environ if name.startswith(("PIP_", "SSL_CERT")))
    search = "" if "PATH" in stage.environment else "PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
    with tempfile.NamedTemporaryFile("w", suffix=".sh", dir=root / "tmp") as script:
        script.write(f'cd "{stage.directory}" && exec "$@"\n')
        script.flush()
        Path(script.name).chmod(0o755)
        clean = f"env -i {kept} {search} {variables} sh /tmp/{Path(script.name).name}"
        enter = f"exec chroot --userspec={stage.user} {root} {clean}"
        shell = " && ".join([*mounts, f'{enter} "$@"'])
        _call(["unshare", "--mount", "sh", "-c", shell, "sh", *command])


def _call(command: Sequence[object]) -> None:
    subprocess.run([str(word) for word in command], check=True)


def size_of(directory: Path) -> int:
    """Return the bytes of the files below a directory."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if not path.is_dir())


def main() -> None:
    """Build a target, and print the size of its environment and its settings."""
    parser = argparse.ArgumentParser(description="Run the steps of deploy/Dockerfile in a Debian root.")
    parser.add_argument("debian", type=Path, help="root directory made by debootstrap")
    parser.add_argument("target", choices=("predict", "train"), help="target of the Dockerfile")
    parser.add_argument("--out", type=Path, required=True, help="directory for the stages")
    parser.add_argument("--bind", type=Path, action="append", default=[], help="path of this machine for all steps")
    given = parser.parse_args()
    stages = parse_dockerfile(DOCKERFILE.read_text())
    root = Builder(given.debian.absolute(), given.out.absolute(), tuple(given.bind)).build(stages, given.target)
    stage = stages[given.target]
    print(f"environment /opt/venv: {size_of(root / 'opt' / 'venv') / 1e6:,.0f} MB")
    print(json.dumps({"user": stage.user, "directory": stage.directory, "environment": stage.environment}))


if __name__ == "__main__":
    main()
