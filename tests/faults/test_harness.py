"""Fault campaigns: a few rounds pass, and injected defects are found."""

import ast
import io
import os
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

from digits.store.artifacts import Store
from digits.store.registry import ModelFacts, Registry
from tests.faults.shim import ERRORS, Shim, environment
from tests.faults.workloads import comparable_content
from tests.support.campaigns import measure
from tests.support.networks import tiny_store

faults = partial(measure, "tests.faults")
pytestmark = pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="needs a C compiler")

IN_PLACE = """
import os, pathlib

def link(source, target):
    with open(target, "wb") as file:
        content = pathlib.Path(source).read_bytes()
        file.write(content[: len(content) // 2])
        file.flush()
        file.write(content[len(content) // 2 :])

os.link = link
"""
"""Defect: a record that is written in place, in two writes."""

LITTER = """
import secrets
from digits.store import registry

real = registry.create_record
def create_record(path, record):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"tmp-{secrets.token_hex(4)}").write_bytes(b"x")
    created = real(path, record)
    for left in path.parent.glob("tmp-*"):
        left.unlink()
    return created

registry.create_record = create_record
"""
"""Defect: a temporary file that is not removed after a fault."""

TRACEBACKS = """
import contextlib
from digits.store import registry

registry.writing = lambda root: contextlib.nullcontext()
"""
"""Defect: write errors that end in a traceback instead of a message."""


@pytest.mark.campaign
@pytest.mark.parametrize("name", ["promote", "predict"])
def test_a_command_survives_failing_calls(name: str) -> None:
    result = faults("--workload", name, "--fault", "call", "--sample", "2", "--seed", "3")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"| {name} | call | 8 | 8 | 0 |" in result.stdout


@pytest.mark.campaign
def test_a_record_that_is_written_in_place_is_found(tmp_path: Path) -> None:
    result = faults("--workload", "promote", "--fault", "call", "--sample", "7", broken_by=(tmp_path, IN_PLACE))
    assert result.returncode == 1, result.stdout + result.stderr
    assert "has neither its old nor its new content" in result.stdout


@pytest.mark.campaign
def test_a_file_that_the_janitor_does_not_remove_is_found(tmp_path: Path) -> None:
    result = faults("--workload", "promote", "--fault", "call", "--sample", "8", broken_by=(tmp_path, LITTER))
    assert result.returncode == 1, result.stdout + result.stderr
    assert "is left over" in result.stdout


@pytest.mark.campaign
def test_a_traceback_is_found(tmp_path: Path) -> None:
    result = faults("--workload", "promote", "--fault", "call", "--sample", "8", broken_by=(tmp_path, TRACEBACKS))
    assert result.returncode == 1, result.stdout + result.stderr
    assert "exit status 1 at a call to" in result.stdout


def _keras(value: float, date: str) -> bytes:
    weights, whole = io.BytesIO(), io.BytesIO()
    with h5py.File(weights, "w") as file:
        file["layers/dense/vars/0"] = np.full(3, value, np.float32)
    with zipfile.ZipFile(whole, "w") as packed:
        packed.writestr("metadata.json", date)
        packed.writestr("model.weights.h5", weights.getvalue())
    return whole.getvalue()


def test_networks_are_compared_by_their_weights() -> None:
    kept = comparable_content(_keras(1, "today"), "model.keras")
    assert comparable_content(_keras(1, "tomorrow"), "model.keras") == kept
    assert comparable_content(_keras(np.nextafter(np.float32(1), np.float32(2)), "today"), "model.keras") != kept
    assert comparable_content(_keras(1, "today")[:-9], "model.keras") != kept


WRITER = """
import os, sys
root = sys.argv[1]
seen = []
def attempt(what):
    try:
        what()
        seen.append("done")
    except OSError as error:
        seen.append(error.errno)
file = open(f"{root}/a", "wb", buffering=0)
attempt(lambda: file.write(b"1"))
attempt(lambda: os.fsync(file.fileno()))
attempt(file.close)
attempt(lambda: os.rename(f"{root}/a", f"{root}/b"))
attempt(lambda: os.link(f"{root}/b", f"{root}/c"))
attempt(lambda: os.mkdir(f"{root}/d"))
attempt(lambda: os.unlink(f"{root}/b"))
print(seen)
"""


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("for_good", [False, True])
def test_only_the_nth_call_of_another_process_fails(tmp_path: Path, error: str, *, for_good: bool) -> None:
    code, kinds = ERRORS[error], ["write", "fsync", "close", "rename", "link", "mkdir", "unlink"]
    variables = environment(tmp_path)
    shim = Shim(Path(variables["FAULTS_CONTROL"]))
    for number, kind in enumerate(kinds, 2):  # the first one opens
        root = tmp_path / f"root-{number}"
        root.mkdir()
        with shim.armed(root, at=number, error=error, for_good=for_good):
            command = [sys.executable, "-c", WRITER, str(root)]
            ended = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True)
        seen = ast.literal_eval(ended.stdout)
        assert seen[: number - 2] == ["done"] * (number - 2)
        assert seen[number - 2] == code
        if for_good:
            assert set(seen[number - 2 :]) == {code}
        assert shim.seen().kind == kind


CALLS = "openat,open,creat,write,pwrite64,writev,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,mkdir"


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_shim_counts_the_calls_that_strace_reports(tmp_path: Path) -> None:
    variables = environment(tmp_path)
    shim, root, trace = Shim(Path(variables["FAULTS_CONTROL"])), tmp_path / "root", tmp_path / "trace"
    tiny_store(root)
    Registry(Store(root)).promote(_register_second(root), reasons=["a test"])
    command = [str(Path(sys.executable).with_name("digits")), "rollback", "--artifacts", str(root)]
    strace = [
        "strace",
        "-f",
        "-y",
        "-qq",
        "-o",
        str(trace),
        "-e",
        f"trace={CALLS},close,ftruncate,mkdirat,unlinkat,rmdir",
    ]
    with shim.armed(root, error="ENOSPC"):
        preload = [f"-E{name}={value}" for name, value in variables.items()]
        subprocess.run([*strace, *preload, *command], check=True, capture_output=True)
    assert shim.seen().calls == sum(_counts(line, str(root)) for line in trace.read_text().splitlines())


def _register_second(root: Path) -> int:
    store = Store(root)
    version, _ = Registry(store).register(artifacts={}, weights_sha256="another", facts=ModelFacts())
    return version.number


def _counts(line: str, root: str) -> bool:
    """Return whether a traced call writes below the root. Closing counts for files that could have been written."""
    call = line.split(maxsplit=1)[1]
    if root not in call or "resumed>" in call:
        return False
    if call.startswith("open"):
        return "O_WRONLY" in call or "O_RDWR" in call or "O_CREAT" in call
    return not call.startswith("close(") or ".tmp>" in call or "/locks/" in call
