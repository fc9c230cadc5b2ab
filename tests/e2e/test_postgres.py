"""Tests of the system with a real PostgreSQL database and a password."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.canaries import contents_below
from tests.support.running_system import RunningSystem
from tests.support.server import free_port

pytestmark = pytest.mark.postgres

PASSWORD = "operator:a secret of the tests"  # noqa: S105 - of a server that runs for a minute


def find_program(name: str) -> str:
    """Return the path of a PostgreSQL program, which Debian keeps off the PATH."""
    places = [shutil.which(name), *map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}")))]
    found = [place for place in places if place]
    if not found:
        pytest.skip(f"there is no {name} here (Debian: postgresql)")
    return found[-1]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start PostgreSQL on a free port; yield its address in Prefect's form."""
    place, port = tmp_path_factory.mktemp("postgres"), free_port()
    account = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    for directory in (place, *place.parents[:2]):
        directory.chmod(0o755)
    os.chown(place, account.pw_uid, account.pw_gid)
    as_user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
    data = place / "data"
    subprocess.run(
        [find_program("initdb"), "-D", data, "-A", "trust", "-U", "prefect", "--no-sync"],
        check=True,
        capture_output=True,
        cwd=place,
        **as_user,
    )
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={place} -c fsync=off"
    control = [find_program("pg_ctl"), "-D", str(data), "-w", "-t", "300"]
    start = [*control, "-l", str(place / "log"), "-o", options, "start"]
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL, cwd=place, **as_user)
    yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, cwd=place, **as_user)


@pytest.fixture(scope="module")
def system(own_root: Path, database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    """Start a system with this database; yield it."""
    home = tmp_path_factory.mktemp("home")
    secrets = (("PREFECT_SERVER_DATABASE_CONNECTION_URL", database), ("PREFECT_SERVER_API_AUTH_STRING", PASSWORD))
    running = RunningSystem(own_root, home / "state", home, free_port(), secrets)
    try:
        running.up()
        yield running
    finally:
        running.down()


def test_a_prediction_uses_postgres_and_writes_no_password(system: RunningSystem, folder: Path, tmp_path: Path) -> None:
    assert "PostgreSQL" in system.status()["server"]
    out = tmp_path / "table.csv"
    assert system.digits("predict", str(folder), "--out", str(out), "--deploy", "--json")["state"] == "Completed"
    assert out.is_file()
    assert not (system.state / "prefect" / "prefect.db").exists()
    given = Path(f"/proc/{system.process('worker')}/environ").read_bytes()
    assert b"PREFECT_SERVER_" not in given, "a run must not receive the database's password"
    written = dict(contents_below(system.state))
    assert written
    assert not [path for path, content in written.items() if b"a secret of the tests" in content]


def test_commands_without_the_password_name_the_variable_to_set(system: RunningSystem, folder: Path) -> None:
    stranger = RunningSystem(system.root, system.state, system.home, system.port)
    for arguments in (("up",), ("predict", str(folder), "--deploy")):
        assert "PREFECT_API_AUTH_STRING" in stranger.digits(*arguments, code=7)
    assert any("password" in sentence for sentence in stranger.status()["attention"])
